package freshet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"

	"github.com/cespare/xxhash/v2"
)

// An Explanation says what is known of one string key, and why the next read would or would
// not be a hit. It is made for people: see its String.
type Explanation struct {
	Key   string
	Cache string // the cache of this client that the key belongs to; empty: none

	L1 *L1Explanation // nil: not in this process
	L2 *L2Explanation // nil: not in the shared level

	// StaleFor is the time since this instance could last prove that it knows every drop;
	// negative: never. Trusted says that it is within StaleAtMost.
	StaleFor time.Duration
	Trusted  bool
	LinkUp   bool

	Pending  bool // a drop of the key has not reached the store yet
	LastDrop *DropExplanation
	LastMiss *MissExplanation
	StoreErr error // the store could not be asked
}

// L1Explanation is an entry in this process.
type L1Explanation struct {
	State    string // "fresh", "stale", "expired", "unproven" or "dead"
	Reason   observe.Reason
	Age      time.Duration
	TTL      time.Duration
	Tags     []TagExplanation
	Negative bool
}

// L2Explanation is what the shared level holds at the key.
type L2Explanation struct {
	Kind    string // "value", "negative", "lease", "plain" or "unreadable"
	Bytes   int
	ID      string
	Created time.Time
	Fresh   time.Time
	Stale   time.Time
	Error   time.Time
	Cost    time.Duration
	Codec   string
	Valid   bool
	Reason  observe.Reason // why it isn't valid
	Tags    []TagExplanation
}

// TagExplanation is a tag an entry depends on. The entry is valid while Stamp is at most Read.
type TagExplanation struct {
	Tag   string
	Read  store.Pos // the read position of the entry's load
	Stamp store.Pos // the tag's last drop is there or before; zero if unknown
	Known bool
}

// DropExplanation is the last drop of the key, or of one of its tags, that this instance knows of.
type DropExplanation struct {
	Name string // the key or tag
	By   string
	At   time.Time // by the store's clock

	// Committed is when the oldest of the changes was committed that a pump dropped there, by the database's clock; zero if it isn't
	// known, or wasn't a pump.
	Committed time.Time
}

// MissExplanation is the last miss of the key on this instance.
type MissExplanation struct {
	Level  observe.Level
	Reason observe.Reason
	Ago    time.Duration
}

// Explain tells what is known of a string key such as "user:123". It reads the shared level and changes nothing.
func (c *Client) Explain(ctx context.Context, key string) (Explanation, error) {
	if c.closed.Load() {
		return Explanation{}, ErrClosed
	}
	now := c.clock.Exact()
	x := Explanation{Key: key, StaleFor: -1, Pending: c.outbox.concerns(key, nil)}
	x.LinkUp, _ = c.mirror.Up()
	if asOf := c.mirror.LastProof(); asOf > mirror.Never {
		x.StaleFor = time.Duration(now - asOf)
	}
	x.Trusted = now-c.mirror.Trust().AsOf() <= int64(c.opts.StaleAtMost)
	var of anyCache
	for _, cache := range c.cacheList() {
		if cache.owns(key) {
			of, x.Cache, x.L1 = cache, cache.cacheName(), cache.explain(key, now)
		}
	}
	plain := of != nil && of.plain()
	values, err := c.store.Read(ctx, []string{key}, plain)
	if err != nil {
		x.StoreErr = err
	} else if values[0].Image != nil {
		x.L2 = c.explainL2(ctx, values[0].Image, of)
	}
	names := []string{key}
	for _, tags := range [][]TagExplanation{x.l1Tags(), x.l2Tags()} {
		for _, t := range tags {
			names = append(names, t.Tag)
		}
	}
	for _, n := range names {
		if e, ok := c.mirror.LastDrop(n); ok && (x.LastDrop == nil || x.LastDrop.At.Before(timeOf(e.Pos))) {
			x.LastDrop = &DropExplanation{Name: n, By: store.WhoDropped(e.By), At: timeOf(e.Pos)}
			if _, at, ok := store.PumpOf(e.By); ok {
				x.LastDrop.Committed = at
			}
		}
	}
	x.LastMiss = c.misses.find(key, now)
	return x, nil
}

func (x *Explanation) l1Tags() []TagExplanation {
	if x.L1 == nil {
		return nil
	}
	return x.L1.Tags
}

func (x *Explanation) l2Tags() []TagExplanation {
	if x.L2 == nil {
		return nil
	}
	return x.L2.Tags
}

// timeOf is the time of a log position: positions are the server's clock in microseconds unless drops came
// faster than that.
func timeOf(p store.Pos) time.Time { return time.UnixMicro(int64(p)) }

func (c *Client) explainL2(ctx context.Context, image []byte, of anyCache) *L2Explanation {
	x := &L2Explanation{Bytes: len(image)}
	if of != nil && of.plain() {
		x.Kind, x.Valid = "plain", true
		return x
	}
	r, err := store.DecodeRecord(image)
	if err != nil {
		x.Kind, x.Reason = "unreadable", observe.ReasonCorrupt
		if errors.Is(err, store.ErrVersion) {
			x.Reason = observe.ReasonVersion
		}
		return x
	}
	x.ID = fmt.Sprintf("%x", r.ID[:])
	switch r.Kind {
	case store.KindLease:
		x.Kind, x.Reason = "lease", observe.ReasonAbsent
		return x
	case store.KindNegative:
		x.Kind = "negative"
	default:
		x.Kind = "value"
	}
	x.Created, x.Fresh, x.Stale, x.Error, x.Cost, x.Codec = r.Created, r.Fresh, r.Stale, r.Error, r.Cost, r.Codec
	if of != nil {
		if x.Reason = of.refuses(r); x.Reason != observe.ReasonNone {
			return x
		}
	}
	deps, err := c.mirror.Resolve(ctx, r.Deps, true)
	if err != nil {
		x.Reason = observe.ReasonUnproven
	}
	x.Tags = explainTags(deps)
	switch c.mirror.Check(deps, c.clock.Exact()+1) {
	case mirror.Dropped:
		x.Reason = observe.ReasonDropped
	case mirror.OldEpoch:
		x.Reason = observe.ReasonEpoch
	case mirror.Valid:
		x.Valid = c.store.Now().Before(r.Fresh)
		if !x.Valid {
			x.Reason = observe.ReasonExpired
		}
	default:
		x.Reason = observe.ReasonUnproven
	}
	return x
}

func explainTags(deps mirror.Deps) []TagExplanation {
	var tags []TagExplanation
	for _, d := range deps {
		for _, cell := range d.Cells {
			t := TagExplanation{Tag: cell.Tag(), Read: d.Read}
			if stamp, _ := cell.Stamp(); stamp > d.Read {
				t.Stamp, t.Known = stamp, true
			} else if bound, ok := cell.Bound(); ok && bound <= d.Read {
				t.Stamp, t.Known = bound, true
			}
			tags = append(tags, t)
		}
	}
	return tags
}

func (c *Cache[K, V]) explain(key string, now int64) *L1Explanation {
	if c.near == nil {
		return nil
	}
	e, ok := c.near.ByString(key)
	if !ok {
		return nil
	}
	p := c.client.prove(now, &e.checked, e.trust, e.proven, e.seen, e.deps, e.name)
	st, reason := e.stateAt(now, p, 0, 1)
	return &L1Explanation{
		State: [...]string{"dead", "unproven", "expired", "stale", "fresh", "fresh", "fresh"}[st], Reason: reason,
		Age: time.Duration(now - e.began), TTL: time.Duration(e.fresh - now), Tags: explainTags(e.deps), Negative: e.negative,
	}
}

// String tells it in sentences, one a line.
func (x Explanation) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("%s (cache %q)", x.Key, x.Cache)
	if x.L1 == nil {
		line("  L1: not in this process")
	} else {
		line("  L1: %s%s, age %v, ttl %v", x.L1.State, because(x.L1.Reason), x.L1.Age.Round(time.Millisecond), x.L1.TTL.Round(time.Millisecond))
	}
	switch {
	case x.StoreErr != nil:
		line("  L2: %v", x.StoreErr)
	case x.L2 == nil:
		line("  L2: nothing at this key")
	case x.L2.Created.IsZero():
		line("  L2: %s, %d bytes%s", x.L2.Kind, x.L2.Bytes, because(x.L2.Reason))
	default:
		line("  L2: %s, %d bytes, loaded %s in %v, fresh until %s%s", x.L2.Kind, x.L2.Bytes,
			x.L2.Created.UTC().Format(time.RFC3339), x.L2.Cost, x.L2.Fresh.UTC().Format(time.RFC3339), because(x.L2.Reason))
	}
	tags := x.l1Tags()
	if tags == nil {
		tags = x.l2Tags()
	}
	for _, t := range tags {
		switch {
		case !t.Known:
			line("  tag %s: stamp unknown, load read at %s", t.Tag, when(t.Read))
		case t.Stamp > t.Read:
			line("  tag %s: dropped at %s, after the load read at %s", t.Tag, when(t.Stamp), when(t.Read))
		default:
			line("  tag %s: good, last drop at or before %s, load read at %s", t.Tag, when(t.Stamp), when(t.Read))
		}
	}
	switch {
	case x.StaleFor < 0:
		line("  trust: the log was not read yet")
	case x.Trusted:
		line("  trust: held, proven %v ago", x.StaleFor.Round(time.Millisecond))
	default:
		line("  trust: lost, proven %v ago", x.StaleFor.Round(time.Millisecond))
	}
	if x.Pending {
		line("  a drop of it has not reached the store yet")
	}
	if d := x.LastDrop; d != nil {
		line("  last drop: %s by %s at %s%s", d.Name, d.By, d.At.UTC().Format(time.RFC3339Nano), committedAt(d.Committed))
	}
	if m := x.LastMiss; m != nil {
		line("  last miss: %s, %s, %v ago", m.Level, m.Reason, m.Ago.Round(time.Millisecond))
	}
	return b.String()
}

// when writes a position as the time of the store that it usually is.
func when(p store.Pos) string {
	return time.UnixMicro(int64(min(p, math.MaxInt64))).UTC().Format("2006-01-02T15:04:05.000000Z")
}

func committedAt(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return ", committed at " + t.UTC().Format(time.RFC3339Nano)
}

func because(r observe.Reason) string {
	if r == observe.ReasonNone {
		return ""
	}
	return " (" + string(r) + ")"
}

// A missLog remembers the last miss of some keys, for Explain: the last one in each of its places.
type missLog struct {
	place [1024]atomic.Pointer[missRecord]
}

type missRecord struct {
	key    string
	level  observe.Level
	reason observe.Reason
	at     int64
}

func (m *missLog) add(key string, level observe.Level, reason observe.Reason, at int64) {
	m.at(key).Store(&missRecord{key, level, reason, at})
}

func (m *missLog) find(key string, now int64) *MissExplanation {
	r := m.at(key).Load()
	if r == nil || r.key != key {
		return nil
	}
	return &MissExplanation{Level: r.level, Reason: r.reason, Ago: time.Duration(now - r.at)}
}

func (m *missLog) at(key string) *atomic.Pointer[missRecord] {
	return &m.place[xxhash.Sum64String(key)%uint64(len(m.place))]
}
