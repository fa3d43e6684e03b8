// Package mirror tells one process which tags were dropped, and up to when it knows.
//
// A mirror follows the log of each partition of a store. It learns of drops in three ways: the
// store announces them, catching up reads them from the log, and probes tell it how far the log is.
// Announcements may be lost, repeated or late; every log entry names the one before it,
// so a gap shows. A mirror that can't close a gap vouches for nothing it held.
//
// What a mirror knows is one stamp per tag in use (a [Cell]), the epoch of each partition, and
// how recent that is (a [Trust]). An entry is valid while the epoch is the one it was
// loaded in and no cell is above the read position recorded before its load began.
package mirror

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/freshetdev/freshet/internal/clock"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// Never is the time of a proof that was never made.
const Never = math.MinInt64 / 2

// A Mirror follows the logs of one store. Create it with New, start it with Run.
type Mirror struct {
	store   store.Store
	clocked store.Clocked // the store; nil if it isn't
	clock   *clock.Clock
	opts    Options

	// version grows whenever something that was valid may have become invalid.
	// An entry that was found valid at a version is valid while the version lasts.
	version atomic.Uint64

	// trust vouches for what is read over the present link. A link that goes down
	// takes its trust along: it stays where it is, and a new one takes its place.
	trust atomic.Pointer[Trust]

	proof atomic.Int64 // the latest proof over any link

	sources   []atomic.Int64 // up to when all is known of each source
	reach     atomic.Pointer[reach]
	certified atomic.Int64 // the least of these
	followed  atomic.Bool  // the log was followed once, whatever of the sources
	fedBy     *Trust       // of the link over which the feeds were read; used by probe only

	measures measures

	server string      // the last link's; used by link only
	tracks atomic.Bool // the link tells of foreign writes
	up     atomic.Bool

	wake   chan struct{} // capacity 1: look at the logs now
	synced chan struct{} // closed when the logs were followed for the first time
	parts  []*partition
	inTurn bool // follow one partition after the other: for tests that say what happens when
}

// Options are what a mirror needs to know.
type Options struct {
	StaleAtMost time.Duration
	Probe       time.Duration // time between probes
	Timeout     time.Duration // of one round of probes
	Name        string        // of this instance

	// Sources are databases: nothing is trusted for longer than all of them are certified. The store must be a store.Marker.
	Sources []string

	// Keys is called with each dropped key, in log order, before the mirror
	// vouches for a time after the drop. It must not call the mirror.
	Keys func(keys []string)

	// Reset is called when drops of keys may have been missed: nothing that was in L1 before may be
	// served until it is read again. The mirror's own cells are void by then.
	Reset func()

	Hooks observe.Hooks
}

// Trust is the proof that goes with what was read over one link.
type Trust struct {
	asOf atomic.Int64
}

// dead is the asOf of a trust that ended: it never comes back.
// Differences to it don't overflow.
const dead = Never - 1

func (t *Trust) advance(to int64) {
	for {
		old := t.asOf.Load()
		if old == dead || old >= to || t.asOf.CompareAndSwap(old, to) {
			return
		}
	}
}

// AsOf is the time, on the mirror's clock, up to which every drop is known.
func (t *Trust) AsOf() int64 { return t.asOf.Load() }

// Untrusted is the trust of what was not read over any link.
var Untrusted = func() *Trust { t := new(Trust); t.asOf.Store(Never); return t }()

func newTrust() *Trust {
	t := new(Trust)
	t.asOf.Store(Never)
	return t
}

// A partition is the mirror of one log.
type partition struct {
	n     int
	epoch atomic.Uint64 // zero: not read yet

	catching sync.Mutex // held by the read that catches up for all

	feeds []feed // by source; used by probe only

	mu     sync.Mutex
	head   store.Head                    // last entry processed; guarded by mu
	cells  map[string]weak.Pointer[Cell] // guarded by mu
	recent recentDrops                   // guarded by mu
	ahead  []store.Head                  // entries after head that the store told of, by position; guarded by mu
	unsure bool                          // the server may be another than the one that had the log up to head; guarded by mu
	gap    bool                          // an announcement did not follow head; guarded by mu
	held   []store.LogEntry              // announced while there is a gap; guarded by mu
	heard  store.Pos                     // latest position of this epoch in any reply; guarded by mu

	// kept are the last cells made, so that the tags of entries that aren't in L1 need not be read from
	// the store again and again; guarded by mu.
	kept     [1 << 15]*Cell
	nextKept int

	told []func() // hooks to call once mu is released; guarded by mu
}

// New returns a mirror of s. It knows nothing until Run has read the logs.
func New(s store.Store, c *clock.Clock, o Options) *Mirror {
	m := &Mirror{store: s, clock: c, opts: o, wake: make(chan struct{}, 1), synced: make(chan struct{})}
	m.version.Store(firstVersion)
	m.trust.Store(newTrust())
	m.proof.Store(Never)
	for i := range s.Partitions() {
		m.parts = append(m.parts, &partition{n: i, cells: make(map[string]weak.Pointer[Cell]), feeds: make([]feed, len(o.Sources))})
	}
	m.clocked, _ = s.(store.Clocked)
	m.measures.sources = make([]observe.Recorder, len(o.Sources))
	m.measures.commits.Store(new(map[string]*observe.Recorder))
	m.sources = make([]atomic.Int64, len(o.Sources))
	for i := range m.sources {
		m.sources[i].Store(Never)
	}
	m.forgetFeeds()
	m.certify()
	return m
}

// firstVersion leaves small numbers to owners of entries, as marks for other states.
const firstVersion = 16

// Version returns the mirror's version, never below 16.
func (m *Mirror) Version() uint64 { return m.version.Load() }

// VersionOf gives direct access to the version for the path of a hit.
func (m *Mirror) VersionOf() *atomic.Uint64 { return &m.version }

// Trust returns the trust of the present link.
func (m *Mirror) Trust() *Trust { return m.trust.Load() }

// LastProof is the time of the latest proof that every drop was known, over whatever link. It is for people:
// what was read over a link is judged by the trust of that link.
func (m *Mirror) LastProof() int64 { return m.proof.Load() }

// Up reports whether the link is up, and whether it tells of foreign writes.
func (m *Mirror) Up() (up, tracks bool) { return m.up.Load(), m.tracks.Load() }

// Partition returns the partition of a tag or key.
func (m *Mirror) Partition(name string) int {
	return store.PartitionOf(name, len(m.parts))
}

// WaitSynced returns when every drop was known for the first time, whatever of the sources, or ctx is done.
func (m *Mirror) WaitSynced(ctx context.Context) {
	select {
	case <-m.synced:
	case <-ctx.Done():
	}
}

// Head returns the last log entry processed.
func (m *Mirror) Head(part int) store.Head {
	p := m.parts[part]
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.head
}

// Furthest returns the last log entry that the store told of.
func (m *Mirror) Furthest(part int) store.Head {
	p := m.parts[part]
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.furthestLocked()
}

// Watcher returns what the store must call.
func (m *Mirror) Watcher() store.Watcher {
	return store.Watcher{Logged: m.logged, Link: m.link, Changed: m.changed}
}

func (m *Mirror) link(l store.Link) {
	m.tracks.Store(l.Up && l.Tracks)
	if !l.Up {
		m.up.Store(false)
		// What was read so far stays provable up to the last proof; what is read
		// from now on needs the next one.
		m.trust.Store(newTrust())
		m.version.Add(1)
	} else {
		if l.Server == "" || l.Server != m.server {
			for _, p := range m.parts {
				p.mu.Lock()
				p.unsure = true
				p.mu.Unlock()
			}
		}
		m.server = l.Server
		m.up.Store(true) // last: Verify looks at both
		m.poke()
	}
	if h := m.opts.Hooks.Link; h != nil {
		h(observe.Link{Up: l.Up, Tracks: l.Tracks, Err: l.Err})
	}
}

// changed hears of foreign writes to keys that this instance has read.
func (m *Mirror) changed(keys []string) {
	if keys != nil {
		m.opts.Keys(keys)
		return
	}
	// Any key may have changed: nothing read so far is proven any more, now.
	if m.up.Load() {
		m.distrust()
		m.opts.Reset()
		m.poke()
	}
}

// distrust ends the trust of everything read so far.
func (m *Mirror) distrust() {
	m.trust.Swap(newTrust()).asOf.Store(dead)
	m.version.Add(1)
}

func (m *Mirror) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Poke makes the mirror look at the logs soon.
func (m *Mirror) Poke() { m.poke() }
