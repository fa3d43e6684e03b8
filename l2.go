package freshet

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/freshetdev/freshet/codec"
	"github.com/freshetdev/freshet/internal/keys"
	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// maxUnpacked bounds what a compressed value may claim to be, if Config.MaxValue doesn't.
const maxUnpacked = 1 << 30

// found is what the shared level had for a key.
type found[K comparable, V any] struct {
	e        *entry[K, V] // nil unless it could be decoded
	state    state
	reason   observe.Reason // why it can't be served as fresh
	identity store.Identity // of what is there; empty: nothing
	usable   bool           // the shared level answers, and nothing pending forbids to use it
	mark     uint32         // drops of the key seen before it was read
}

// readL2 reads one key of the shared level. Its error is that of ctx or of the store; found
// is complete either way.
func (c *Cache[K, V]) readL2(ctx context.Context, k K, name string) (found[K, V], error) {
	if len(name) > c.client.opts.MaxKey {
		c.tellMiss(name, observe.LevelL2, observe.ReasonLongKey)
		return found[K, V]{reason: observe.ReasonLongKey}, nil
	}
	if c.client.outbox.concerns(name, nil) {
		c.tellMiss(name, observe.LevelL2, observe.ReasonPending)
		return found[K, V]{reason: observe.ReasonPending}, nil
	}
	mark, trust, sent := c.mark(name).Load(), c.client.mirror.Trust(), c.client.clock.Now()
	values, err := c.client.store.Read(ctx, []string{name}, c.cfg.Plain)
	if err != nil {
		if ctx.Err() == nil {
			c.client.storeFailed("read", err)
			c.tellMiss(name, observe.LevelL2, observe.ReasonStoreError)
		}
		return found[K, V]{reason: observe.ReasonStoreError}, err
	}
	return c.decode(ctx, k, name, values[0], sent, mark, trust, true), nil
}

// decode makes an entry of what a key held when it was read, and puts it into L1 if it can be
// served. sent, mark and trust were taken before the read. The store is asked for stamps only if ask is set.
func (c *Cache[K, V]) decode(ctx context.Context, k K, name string, v store.Value, sent int64, mark uint32, trust *mirror.Trust, ask bool) found[K, V] {
	f := found[K, V]{usable: true, mark: mark}
	var silent bool
	f.e, silent, f.reason = c.parse(ctx, k, name, v, sent, trust, ask)
	switch {
	case f.e == nil:
	case !c.client.outbox.empty() && c.client.outbox.concerns(name, tagsOfDeps(f.e.deps)):
		// What the store has is older than a drop that it doesn't know of.
		f.e, f.reason, f.usable = nil, observe.ReasonPending, false
	default:
		if c.client.mirror.Trust() != trust {
			f.e.trust = mirror.Untrusted // the link changed meanwhile: who knows what answered
		}
		now := c.client.clock.Now()
		var p proof
		p, silent = c.vouch(ctx, f.e, now, silent)
		f.state, f.reason = f.e.stateAt(now, p, c.cfg.EarlyRefresh, luck())
		f.usable = !silent
	}
	switch f.state {
	case fresh, early, recheck, stale:
		c.finish(f.e)
		c.admit(f.e, mark)
		if f.state == stale {
			c.client.stats.hitsStale.Add(1)
		} else {
			c.client.stats.hitsL2.Add(1)
		}
		if c.client.hooks.Hit != nil {
			r := c.result(f.e, observe.LevelL2, c.client.clock.Now())
			r.Stale = f.state == stale
			c.tellHit(f.e, r)
		}
	case expired:
		// For when the source fails: L1 remembers until when it isn't asked again.
		c.finish(f.e)
		c.admit(f.e, mark)
		fallthrough
	default:
		f.identity = store.IdentityOf(v.Image)
		c.tellMiss(name, observe.LevelL2, f.reason)
	}
	return f
}

// parse decodes a record, or the bare value of a plain key. silent says that the store did not tell the stamps.
func (c *Cache[K, V]) parse(ctx context.Context, k K, name string, v store.Value, sent int64, trust *mirror.Trust, ask bool) (e *entry[K, V], silent bool, reason observe.Reason) {
	if v.Image == nil {
		return nil, false, observe.ReasonAbsent
	}
	e = newEntry[K, V](k, name, trust)
	e.seen, e.proven, e.local = sent, mirror.Never, math.MaxInt64
	if c.cfg.Plain {
		e, reason = c.parsePlain(e, v, sent)
		return e, false, reason
	}
	rec := records.Get().(*store.Record)
	defer func() {
		rec.Payload = nil // a part of the image
		records.Put(rec)
	}()
	if err := store.DecodeInto(rec, v.Image); err != nil {
		switch {
		case errors.Is(err, store.ErrVersion):
			return nil, false, observe.ReasonVersion
		default:
			return nil, false, observe.ReasonCorrupt
		}
	}
	if reason := c.refuses(rec); reason != observe.ReasonNone {
		return nil, false, reason
	}
	now, clock := c.client.store.Now(), c.client.clock.Now()
	local := func(t time.Time) int64 { return clock + int64(t.Sub(now)) }
	e.id, e.negative, e.cost = rec.ID, rec.Kind == store.KindNegative, int64(rec.Cost)
	e.began, e.fresh, e.stale, e.failed = local(rec.Created), local(rec.Fresh), local(rec.Stale), local(rec.Error)
	e.weight = uint32(min(len(v.Image)+len(name), 1<<30))
	deps, err := c.client.mirror.Resolve(ctx, rec.Deps, ask)
	if err != nil && deps == nil {
		return nil, false, observe.ReasonCorrupt
	}
	e.deps, silent = deps, !ask || unanswered(err)
	if e.negative {
		return e, silent, observe.ReasonNone
	}
	if old, ok := c.inL1(k); ok && old.id == e.id && old.id != (store.ID{}) && !c.cfg.CheckMutation {
		e.value = old.value // the same record: no need to decode it again
		return e, silent, observe.ReasonNone
	}
	payload := rec.Payload
	if rec.Packed == store.PackS2 {
		switch payload, err = codec.Unpack(nil, payload, c.cfg.MaxValue); {
		case errors.Is(err, codec.ErrTooLarge):
			return nil, false, observe.ReasonTooLarge
		case err != nil:
			return nil, false, observe.ReasonCorrupt
		}
		e.weight = uint32(min(len(payload)+len(name), 1<<30)) // what it takes here, not there
	}
	e, reason = c.decodeValue(e, payload)
	return e, silent, reason
}

// records are for decoding: what is kept of one is copied out of it.
var records = sync.Pool{New: func() any { return new(store.Record) }}

// refuses says why a record can't hold a value of this cache.
func (c *Cache[K, V]) refuses(r *store.Record) observe.Reason {
	switch {
	case r.Kind == store.KindLease:
		return observe.ReasonAbsent
	case r.Schema != c.cfg.Schema:
		return observe.ReasonSchema
	case r.Kind == store.KindValue && r.Codec != c.cfg.Codec.Name():
		return observe.ReasonCodec
	}
	return observe.ReasonNone
}

func (c *Cache[K, V]) parsePlain(e *entry[K, V], v store.Value, sent int64) (*entry[K, V], observe.Reason) {
	// A bare value doesn't say when it was loaded. Its age counts from this read; its end is the key's.
	e.began = sent
	e.fresh = sent + int64(v.TTL)
	if v.TTL <= 0 {
		e.fresh = sent + int64(c.cfg.TTL)
	}
	e.stale, e.failed = e.fresh, e.fresh
	e.weight = uint32(min(len(v.Image)+len(e.name), 1<<30))
	return c.decodeValue(e, v.Image)
}

func (c *Cache[K, V]) decodeValue(e *entry[K, V], payload []byte) (_ *entry[K, V], reason observe.Reason) {
	if len(payload) > c.cfg.MaxValue {
		return nil, observe.ReasonTooLarge
	}
	defer func() {
		if recover() != nil { // a codec is the user's code
			reason = observe.ReasonCodec
		}
	}()
	var err error
	if into, ok := c.cfg.Codec.(codec.IntoDecoder[V]); ok {
		err = into.DecodeInto(&e.value, payload)
	} else {
		e.value, err = c.cfg.Codec.Decode(payload)
	}
	if err != nil {
		return nil, observe.ReasonCodec
	}
	if c.cfg.CheckMutation {
		if b, err := c.encode(e.value); err == nil {
			e.sum = xxhash.Sum64(b)
		}
	}
	return e, observe.ReasonNone
}

// vouch tells what vouches for an entry just read. If the mirror can't, the stamps are read from the
// store itself, unless it was silent a moment ago: that proves the entry for the time of the read.
func (c *Cache[K, V]) vouch(ctx context.Context, e *entry[K, V], now int64, silent bool) (_ proof, stillSilent bool) {
	p := c.client.prove(now, &e.checked, e.trust, e.proven, e.seen, e.deps, e.name)
	// The store knows of drops only. What the database had is known up to its certificate, and for what was loaded since.
	known := c.client.mirror.Certified()
	if !c.cfg.Plain { // of whose loads nothing is known
		known = max(known, e.began)
	}
	switch {
	case silent || p > proofUncertified, p == proofUncertified && now-known > int64(c.client.opts.StaleAtMost):
		return p, silent
	case len(e.deps) == 0:
		// Nothing but the key itself, and that was there when it was read.
		e.proven = min(e.seen, known)
		return c.client.prove(now, &e.checked, e.trust, e.proven, e.seen, e.deps, e.name), false
	}
	asked := c.client.clock.Now()
	verdict, err := c.client.mirror.Verify(ctx, e.deps, e.trust)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			c.client.storeFailed("register", err)
		}
		return proofNone, unanswered(err)
	case verdict == mirror.Dropped:
		return proofDropped, false
	case verdict == mirror.OldEpoch:
		return proofEpoch, false
	}
	// The key was there at seen, its tags were good at asked.
	e.proven = min(e.seen, asked, known)
	return c.client.prove(now, &e.checked, e.trust, e.proven, e.seen, e.deps, e.name), false
}

func (c *Cache[K, V]) inL1(k K) (*entry[K, V], bool) {
	if c.near == nil {
		return nil, false
	}
	e, ok := c.near.Peek(k)
	return e, ok && !e.negative
}

// tagsOf returns all tags that the entry of k depends on before it is loaded.
func (c *Cache[K, V]) tagsOf(k K) []string {
	if c.cfg.Tags == nil {
		return []string{c.coarse}
	}
	return withCoarse([]string{c.coarse}, c.cfg.Tags(k))
}

// withCoarse adds tags, and the coarse tag of each, to list.
func withCoarse(list, tags []string) []string {
	has := func(t string) bool { return slices.Contains(list, t) }
	if len(tags) > 50 {
		known := make(map[string]bool, 2*len(tags))
		for _, t := range list {
			known[t] = true
		}
		has = func(t string) bool {
			was := known[t]
			known[t] = true
			return was
		}
	}
	for _, t := range tags {
		if !has(t) {
			list = append(list, t)
		}
		if coarse := keys.Coarse(t); coarse != "" && !has(coarse) {
			list = append(list, coarse)
		}
	}
	return list
}

func tagsOfDeps(deps mirror.Deps) []string {
	var tags []string
	for _, d := range deps {
		for _, c := range d.Cells {
			tags = append(tags, c.Tag())
		}
	}
	return tags
}
