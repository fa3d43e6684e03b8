package freshet

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/internal/near"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// An entry is one value with what is known of it, as L1 keeps it. All but the atomics is
// written before the entry is shared, and only read after. Times are on the client's clock.
type entry[K comparable, V any] struct {
	// What a calm hit reads, side by side and apart from the rest: with many entries each cache line
	// costs as much as the rest of the hit.
	near.Place[K]
	calm    int64 // a valid hit before this needs no further thought
	trust   *mirror.Trust
	checked atomic.Uint64 // the mirror's version at which it was found valid, or a mark below
	value   V

	*facts
}

// facts are what a hit needs only when it must think.
type facts struct {
	name     string // the string key
	id       store.ID
	negative bool
	weight   uint32

	began  int64 // start of the load; age counts from here
	seen   int64 // start of the load or of the read from the store by this instance: later local drops void it
	proven int64 // all drops before this were seen, whatever the mirror knows
	fresh  int64 // fresh until
	stale  int64 // may be served while it is refreshed until
	failed int64 // may be served when the source fails until
	local  int64 // may be used without asking the store again until
	cost   int64 // of the load

	pause atomic.Int64 // the source failed: serve it as stale until then
	later atomic.Int64 // another instance refreshes it, or it could not be stored: don't refresh it until then

	deps mirror.Deps
	sum  uint64 // of the encoded value, for CheckMutation
}

func newEntry[K comparable, V any](k K, name string, trust *mirror.Trust) *entry[K, V] {
	both := new(struct {
		entry entry[K, V]
		facts facts
	})
	e := &both.entry
	e.facts, e.trust = &both.facts, trust
	e.Key, e.name = k, name
	e.checked.Store(markUnchecked)
	return e
}

// Marks in entry.checked. The mirror's versions begin above them.
const (
	markVoid      = 0 // dropped; never comes back
	markUnchecked = 1 // not checked yet
)

// StringKey and Weight are for internal/near.
func (e *entry[K, V]) StringKey() string { return e.name }
func (e *entry[K, V]) Weight() uint32    { return e.weight }

func (e *entry[K, V]) void() { e.checked.Store(markVoid) }

// A state is what may be done with an entry.
type state uint8

// The states:
//
//	dead      never serve it
//	unproven  nothing vouches for it now: ask the store; serve it only if the source fails
//	expired   past its windows but for errors: serve it only if the source fails
//	stale     serve it, and load a new one
//	early     serve it, fresh, and load a new one: its end is near
//	recheck   fresh, but due to be read from the store again
//	fresh     serve it
const (
	dead state = iota
	unproven
	expired
	stale
	early
	recheck
	fresh
)

// stateAt tells the state of an entry whose proof is known. luck is a random number in (0, 1].
func (e *entry[K, V]) stateAt(now int64, proof proof, beta, luck float64) (state, observe.Reason) {
	switch {
	case proof == proofDropped:
		return dead, observe.ReasonDropped
	case proof == proofEpoch:
		return dead, observe.ReasonEpoch
	case now >= max(e.fresh, e.stale, e.failed):
		return dead, observe.ReasonExpired
	case proof == proofNone:
		return unproven, observe.ReasonUnproven
	case proof == proofUncertified:
		return unproven, observe.ReasonUncertified
	case now >= max(e.fresh, e.stale):
		return expired, observe.ReasonExpired
	case now >= e.fresh:
		return stale, observe.ReasonStale
	case now >= e.local:
		return recheck, observe.ReasonExpired
	case beta > 0 && float64(now)-float64(e.cost)*beta*math.Log(luck) >= float64(e.fresh):
		return early, observe.ReasonNone
	default:
		return fresh, observe.ReasonNone
	}
}

// calmUntil is the time from which a hit on a fresh entry must think: its end, the time
// from which an early refresh is more likely than one in 22,000, or its time in L1.
func (e *entry[K, V]) calmUntil(beta float64) int64 {
	return min(e.fresh-int64(10*beta*float64(e.cost)), e.local)
}

// A proof is what vouches for an entry.
type proof uint8

const (
	proofNone        proof = iota // nothing does now
	proofUncertified              // nothing does now, since it isn't known what the database has
	proofHeld                     // every drop older than StaleAtMost is known, and none concerns it
	proofDropped                  // a drop concerns it
	proofEpoch                    // history was lost since it was stored
)

// prove tells what vouches for e. It is the only place where trust is judged, but for the
// path of a hit (calm), which asks less and gives up sooner.
func (c *Client) prove(now int64, checked *atomic.Uint64, trust *mirror.Trust, proven, seen int64, deps mirror.Deps, name string) proof {
	mark := checked.Load()
	if mark == markVoid {
		return proofDropped
	}
	version := c.mirror.Version()                // before the cells are read: a drop after this is another version
	pending := c.outbox.blocks(name, deps, seen) // likewise: a drop that is delivered leaves the outbox once the cells know it
	verdict := c.mirror.Check(deps, seen)
	switch {
	case pending, verdict == mirror.Dropped:
		return proofDropped
	case verdict == mirror.OldEpoch:
		return proofEpoch
	}
	stale := int64(c.opts.StaleAtMost)
	if verdict == mirror.Valid && now-trust.AsOf() <= stale {
		if c.outbox.empty() {
			checked.CompareAndSwap(mark, version)
		}
		return proofHeld
	}
	if now-proven <= stale {
		return proofHeld
	}
	if now-c.mirror.Certified() > stale {
		return proofUncertified
	}
	return proofNone
}

// forever is what longer times are taken for, so that they can be added to others.
const forever = 100 * 365 * 24 * time.Hour

// jittered takes a random share of up to jitter away from d.
func jittered(d time.Duration, jitter float64) time.Duration {
	return d - time.Duration(float64(d)*jitter*rand.Float64())
}

// luck is a random number in (0, 1].
func luck() float64 { return 1 - rand.Float64() }
