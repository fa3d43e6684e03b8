package limit

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// refusals remembers which charges the store refused, until they might be admitted. A table of sets of a few places each: what is
// remembered last takes the place of what ends first, so the memory is bounded and nothing has to be swept.
//
// It is exact because the store's retry is a promise, as long as nothing is given back. What gives back through this Limiter calls
// forget, after it was done. This order must not leave a refusal behind:
//
//	A: asks the store: refused
//	B: resets the key, forgets it here
//	A: remembers the refusal
//
// So A notes the set's round before it asks, and forget changes it.
type refusals struct {
	seed maphash.Seed
	sets []refusedSet // a power of two
	most time.Duration
}

const refusedPlaces = 4

type refusedSet struct {
	places [refusedPlaces]atomic.Pointer[refusedCharge]
	round  atomic.Uint64 // grows with each forget; changed under mu

	mu sync.Mutex // held while places change
}

type refusedCharge struct {
	version uint64 // of the policy
	need    int64
	until   time.Duration // remembered until then
	began   time.Duration // just before the store was asked
	status  Status        // as of began or a little later
}

func newRefusals(keys int, most time.Duration) *refusals {
	n := 1
	for n*refusedPlaces < keys {
		n *= 2
	}
	return &refusals{seed: maphash.MakeSeed(), sets: make([]refusedSet, n), most: most}
}

func (r *refusals) set(key string) *refusedSet {
	return &r.sets[maphash.String(r.seed, key)&uint64(len(r.sets)-1)]
}

// remembers reports whether refusals of the policy hold until their retry.
func (r *refusals) remembers(c *Charge) bool {
	return r != nil && !c.Shadow && c.Policy.rule.Kind != Concurrency
}

// find answers c in s by its refusal, if it is remembered; else it leaves s alone.
func (r *refusals) find(set *refusedSet, c *Charge, now time.Duration, s *Status) bool {
	for i := range set.places {
		e := set.places[i].Load()
		if e == nil || e.version != c.Policy.version || now >= e.until || e.status.Key != c.Key || !e.tells(c) {
			continue
		}
		e.answer(c, now, s)
		return true
	}
	return false
}

// tells reports whether e says all of what the store would answer to c.
func (e *refusedCharge) tells(c *Charge) bool {
	switch cost := max(c.Cost, 1); {
	case cost < e.need:
		return false // it may fit
	case c.Policy.rule.Kind == Strict && !e.status.Blocked && cost > e.need:
		return cost > c.Policy.rule.Most() // else, when that would fit is known to the store alone
	}
	return true
}

// answer is what the store would say to c now, but for what was admitted meanwhile. Only Remaining of Strict and Fixed may be too low: it's that of
// then.
func (e *refusedCharge) answer(c *Charge, now time.Duration, s *Status) {
	rule, gone := &c.Policy.rule, now-e.began
	if rule.Kind == GCRA && !e.status.Blocked {
		rule.AnswerGCRA(s, c, whole(e.status.ResetAfter-gone).Microseconds(), false, false)
	} else {
		*s = e.status
		s.Cost = c.Cost
		s.RetryAfter, s.MoreAfter, s.ResetAfter = whole(s.RetryAfter-gone), whole(max(s.MoreAfter-gone, 0)), whole(max(s.ResetAfter-gone, 0))
		if max(c.Cost, 1) > rule.Most() {
			s.RetryAfter = NeverRetry
		}
	}
	s.Source = FromRefused
}

// whole rounds up to microseconds.
func whole(d time.Duration) time.Duration {
	return (d + time.Microsecond - 1) / time.Microsecond * time.Microsecond
}

// remember notes that the store refused c with status s. It was asked at began, in the given round.
func (r *refusals) remember(set *refusedSet, round uint64, c *Charge, s Status, began time.Duration) {
	if s.Fits || s.RetryAfter <= 0 || c.Policy.rule.After > 0 && !s.Blocked {
		return
	}
	e := &refusedCharge{
		version: c.Policy.version, need: max(c.Cost, 1), began: began, status: s,
		until: began + min(s.RetryAfter, r.most),
	}
	set.mu.Lock()
	defer set.mu.Unlock()
	if set.round.Load() != round {
		return
	}
	at := -1
	var ends time.Duration // of what is at that place
	for i := range set.places {
		switch old := set.places[i].Load(); {
		case old == nil:
			if at < 0 || ends > 0 {
				at, ends = i, 0
			}
		case old.version == e.version && old.status.Key == c.Key && (old.need == e.need || c.Policy.rule.Kind != Strict):
			set.places[i].Store(e)
			return
		case at < 0 || old.until < ends:
			at, ends = i, old.until
		}
	}
	set.places[at].Store(e)
}

// forget ends all refusals of a key, whatever the policy.
func (r *refusals) forget(key string) {
	if r == nil {
		return
	}
	set := r.set(key)
	set.mu.Lock()
	defer set.mu.Unlock()
	set.round.Add(1)
	for i := range set.places {
		if e := set.places[i].Load(); e != nil && e.status.Key == key {
			set.places[i].Store(nil)
		}
	}
}
