package freshet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/flight"
	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// The miss path. One call per key is under way on an instance; whoever wants the key meanwhile
// joins it. Its leader
//
//	reads the shared level         readL2    a valid record ends the call
//	claims the key, registers tags claim     held: read again · busy: wait to be woken · failed: go on without
//	records the read position      done      before the source is asked, never after
//	asks the source                load
//	fills the key                  fill      only if it still holds the lease
//
// A drop at any time makes the lease void in the store, and the call forgotten here: those who waited get
// what was loaded, those who come later start anew.

type (
	call[K comparable, V any] = flight.Call[callState[K, V], outcome[K, V]]

	// callState is what those who join a call must know of it.
	callState[K comparable, V any] struct {
		poked   atomic.Bool                   // the key changed
		wake    atomic.Pointer[chan struct{}] // tells the one who waits for that; nil until then
		waiting atomic.Bool                   // for another instance's load; a drop wakes and does not end it
		began   atomic.Int64                  // when the source was asked; zero before
		deps    atomic.Pointer[mirror.Deps]
		old     atomic.Pointer[entry[K, V]] // to serve if the source fails

		background bool // nobody is meant to wait: old is served meanwhile. Written before the call is shared
		turn       turn // at the gate of loads
	}

	// An outcome is the result of a call, the same for all who waited.
	outcome[K comparable, V any] struct {
		e       *entry[K, V]
		level   observe.Level
		stale   bool
		stored  bool
		refused observe.Reason
		reason  observe.Reason // why the shared level had no fresh value
		err     error
		private bool // for the leader only
		unsure  bool // it depends on late tags of which nothing proves that they weren't dropped meanwhile
		again   bool // nothing came of it: ask again
	}
)

func (s *callState[K, V]) poke() {
	s.poked.Store(true)
	if wake := s.wake.Load(); wake != nil {
		select {
		case *wake <- struct{}{}:
		default:
		}
	}
}

// awaken returns a channel that gets something at each poke. A poke since the last time counts.
func (s *callState[K, V]) awaken() <-chan struct{} {
	wake := make(chan struct{}, 1)
	s.wake.Store(&wake)
	if s.poked.Swap(false) {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	return wake
}

// miss gets k from the shared level or the source. old is what L1 has, to serve if the source fails; mark was read
// before L1 was.
func (c *Cache[K, V]) miss(ctx context.Context, k K, name string, load loader[V], old *entry[K, V], mark uint32, reason observe.Reason, after *mirror.Trust) (Result[V], error) {
	for {
		call, arrived, lead := c.join(name, after)
		if lead {
			c.keep(call, old, mark)
			if done := c.lead(ctx, call, k, load); !done {
				var none Result[V]
				call.Leave()
				return none, context.Cause(ctx)
			}
		} else if e, r, ok := c.meanwhile(call, after); ok {
			call.Leave()
			return c.deliver(e, r)
		} else {
			c.promote(call)
		}
		soft, cancel := c.softly(ctx)
		o, err := c.wait(ctx, soft, call, after)
		cancel()
		switch {
		case err != nil:
			var none Result[V]
			return none, err
		case o.again:
			continue
		case !lead && o.private:
			return c.alone(ctx, k, name, load, observe.ReasonNoStore)
		case after != nil && !c.mayHaveAfter(after, o, arrived, lead):
			return c.alone(ctx, k, name, load, observe.ReasonBehind)
		case !lead && !c.mayHave(call, o, arrived):
			continue
		}
		if o.reason == observe.ReasonNone && reason != observe.ReasonNone && o.level == observe.LevelSource {
			o.reason = reason
		}
		return c.settle(call, o, !lead, after)
	}
}

// join joins the call of a key that is under way, if what it brings may be had, or leads a new one.
func (c *Cache[K, V]) join(name string, after *mirror.Trust) (call *call[K, V], arrived int64, lead bool) {
	call, lead = c.flights.Join(name, nil, func(call *flight.Call[callState[K, V], outcome[K, V]]) bool {
		arrived = c.client.clock.Exact()
		return c.joinable(call, arrived) && (after == nil || c.joinableAfter(call))
	})
	return call, arrived, lead
}

// meanwhile is what a call that runs in the background is to replace, while that may be served: who finds the
// call but not the value in L1 need not wait either.
func (c *Cache[K, V]) meanwhile(call *call[K, V], after *mirror.Trust) (e *entry[K, V], r Result[V], ok bool) {
	e = call.State.old.Load()
	if !call.State.background || e == nil || after != nil && !c.contains(e, after) {
		return nil, r, false
	}
	now := c.client.clock.Now()
	st, reason := e.stateAt(now, c.client.prove(now, &e.checked, e.trust, e.proven, e.seen, e.deps, e.name), 0, 1)
	r = c.result(e, observe.LevelL2, now)
	r.Stale, r.Reason = st == stale, reason
	switch st {
	case stale:
		c.client.stats.hitsStale.Add(1)
	case fresh:
		c.client.stats.hitsL2.Add(1)
	default:
		return nil, r, false
	}
	c.tellHit(e, r)
	return e, r, true
}

// promote tells a load in the background that somebody waits for it.
func (c *Cache[K, V]) promote(call *call[K, V]) {
	if call.State.background {
		c.loads.promote(&call.State.turn)
	}
}

// mayHave reports whether who joined a call at arrived may have its outcome. What joinable could not know then
// is a tag that only the answer named, and that a record was found valid before the
// joiner came, but handed over only after a drop.
func (c *Cache[K, V]) mayHave(call *call[K, V], o outcome[K, V], arrived int64) bool {
	switch {
	case o.e == nil:
		return true
	case o.unsure:
		return arrived < o.e.began
	case o.level == observe.LevelL2:
		v := c.client.mirror.Check(o.e.deps, o.e.seen)
		return v != mirror.Dropped && v != mirror.OldEpoch
	default:
		// The outbox first: a drop that is delivered leaves it once the cells know it.
		return c.knewOf(call, arrived) || !c.client.outbox.blocks(o.e.name, o.e.deps, o.e.seen) && c.client.mirror.Check(o.e.deps, o.e.seen) != mirror.Dropped
	}
}

// knewOf reports whether what the call was known to depend on when it was joined is all there is.
func (c *Cache[K, V]) knewOf(call *call[K, V], arrived int64) bool {
	o := call.Result()
	known := call.State.deps.Load()
	if known == nil || o.e == nil {
		return true
	}
	n, m := 0, 0
	for _, d := range *known {
		n += len(d.Cells)
	}
	for _, d := range o.e.deps {
		m += len(d.Cells)
	}
	return n == m
}

// settle turns the outcome of a call into what one caller gets.
func (c *Cache[K, V]) settle(call *call[K, V], o outcome[K, V], joined bool, after *mirror.Trust) (Result[V], error) {
	now := c.client.clock.Now()
	if o.err != nil {
		old := call.State.old.Load()
		// ErrSlow says that wait found old good a moment ago, and that the load isn't over.
		if old == nil || after != nil && !c.contains(old, after) || !errors.Is(o.err, ErrSlow) && !c.covers(old, o.err, now) {
			return Result[V]{Level: observe.LevelSource, Joined: joined, Reason: o.reason, Refused: cmp.Or(o.refused, shedReason(o.err))}, o.err
		}
		if !errors.Is(o.err, ErrSlow) {
			old.pause.Store(now + int64(c.cfg.Stale.RetryAfter))
		}
		level := observe.LevelL2
		if here, ok := c.inL1(old.Key); ok && here == old {
			level = observe.LevelL1
		}
		r := c.result(old, level, now)
		r.Stale, r.Reason, r.Err = true, o.reason, o.err
		c.client.stats.hitsStale.Add(1)
		c.tellHit(old, r)
		return c.deliver(old, r)
	}
	r := c.result(o.e, o.level, now)
	r.Joined, r.Stale, r.Stored, r.Refused, r.Reason = joined, o.stale, o.stored, o.refused, o.reason
	return c.deliver(o.e, r)
}

// covers reports whether old may be served although the source failed with err.
func (c *Cache[K, V]) covers(old *entry[K, V], err error, now int64) bool {
	if now >= old.failed || old.failed <= old.fresh || old.checked.Load() == markVoid || errors.Is(err, ErrNotFound) {
		return false
	}
	if c.client.prove(now, &old.checked, old.trust, old.proven, old.seen, old.deps, old.name) >= proofDropped {
		return false
	}
	// That the source was not asked is not for ErrorIs to judge.
	return errors.Is(err, ErrSlow) || shedReason(err) != observe.ReasonNone || c.cfg.Stale.ErrorIs(err)
}

// softly returns a context that ends with the soft timeout, if there is one.
func (c *Cache[K, V]) softly(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.cfg.SoftTimeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, c.cfg.SoftTimeout, ErrSlow)
}

// wait waits for a call as long as ctx lets it, and as long as soft does if there is an old value to serve.
func (c *Cache[K, V]) wait(ctx, soft context.Context, call *call[K, V], after *mirror.Trust) (outcome[K, V], error) {
	if c.cfg.SoftTimeout <= 0 {
		return call.Wait(ctx)
	}
	select {
	case <-call.Done():
		return call.Wait(ctx)
	case <-soft.Done():
	}
	if old := call.State.old.Load(); ctx.Err() == nil && old != nil && (after == nil || c.contains(old, after)) && c.covers(old, ErrSlow, c.client.clock.Now()) {
		// The place of this waiter is not given back, so that the load goes on without it.
		return outcome[K, V]{err: ErrSlow, reason: observe.ReasonStale}, nil
	}
	return call.Wait(ctx)
}

// joinable reports whether a caller who comes now may have the result of a call that is under way. A load
// that began before a drop is not, nor one that began longer ago than StaleAtMost if nothing
// proves that there was no drop since.
func (c *Cache[K, V]) joinable(call *call[K, V], now int64) bool {
	began := call.State.began.Load()
	deps := call.State.deps.Load()
	if began == 0 || deps == nil {
		return true // nothing was read yet, or it is another instance's load
	}
	if v := c.client.mirror.Check(*deps, began); v == mirror.Dropped || v == mirror.OldEpoch {
		return false
	}
	if now-began <= c.staleAtMost {
		return true
	}
	return now-c.client.mirror.Trust().AsOf() <= c.staleAtMost
}

// lead reads the shared level in the caller's goroutine, since a hit there is quick, and
// leaves the rest to one of its own. It reports false if ctx ended meanwhile.
func (c *Cache[K, V]) lead(ctx context.Context, call *call[K, V], k K, load loader[V]) bool {
	ended := false
	defer func() {
		if !ended { // a hook or a codec panicked: who joined asks for itself
			c.flights.Finish(call, outcome[K, V]{again: true})
		}
	}()
	done := c.ask(ctx, call, k, load)
	ended = true
	return done
}

func (c *Cache[K, V]) ask(ctx context.Context, call *call[K, V], k K, load loader[V]) bool {
	found, err := c.readL2(ctx, k, call.Key)
	if ctx.Err() != nil && (err != nil || found.state == unproven) {
		c.flights.Finish(call, outcome[K, V]{again: true}) // it may be for want of time that nothing is proven
		return false
	}
	if c.finishWith(ctx, call, found, load) {
		return true
	}
	c.spawn(ctx, call, k, load, found)
	return true
}

// spawn lets a call go on in a goroutine and on a context of its own.
func (c *Cache[K, V]) spawn(ctx context.Context, call *call[K, V], k K, load loader[V], found found[K, V]) {
	lctx, cancel := c.loadContext(ctx)
	call.Detach(cancel)
	if !c.client.background(func() {
		defer cancel()
		c.guard(func() { c.run(lctx, call, k, load, found) }, call)
	}) {
		cancel()
		c.flights.Finish(call, outcome[K, V]{err: ErrClosed})
	}
}

// loadContext is the context of a call: with the values of the caller who led it, and an end of its
// own. What asks the source gets LoadTimeout of it; waiting for another instance's load takes as long as that one's
// lease.
func (c *Cache[K, V]) loadContext(ctx context.Context) (context.Context, context.CancelFunc) {
	lctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(c.client.ctx, cancel)
	return lctx, func() { stop(); cancel() }
}

// finishWith ends a call with what was found in the shared level, if that may be served.
func (c *Cache[K, V]) finishWith(ctx context.Context, call *call[K, V], found found[K, V], load loader[V]) bool {
	switch found.state {
	case fresh, early, recheck:
		c.flights.Finish(call, outcome[K, V]{e: found.e, level: observe.LevelL2, reason: observe.ReasonNone})
	case stale:
		c.flights.Finish(call, outcome[K, V]{e: found.e, level: observe.LevelL2, stale: true, reason: observe.ReasonStale})
	default:
		if found.e != nil && found.state != dead {
			c.keep(call, found.e, found.mark)
		}
		return false
	}
	switch {
	case found.state == stale || found.state == early:
		c.refresh(ctx, found.e, load, found.mark)
	case c.verifier != nil:
		c.verify(ctx, found.e, observe.LevelL2, load)
	}
	return true
}

// keep keeps an entry that was found after mark was read, to be served if the source fails.
func (c *Cache[K, V]) keep(call *call[K, V], old *entry[K, V], mark uint32) {
	if old == nil {
		return
	}
	// forget raises the mark and then looks for the call: it finds old there, or the mark tells of it here.
	c.flights.With(call.Key, func() { c.keepLocked(&call.State, call.Key, old, mark) })
}

func (c *Cache[K, V]) keepLocked(s *callState[K, V], key string, old *entry[K, V], mark uint32) {
	if c.mark(key).Load() != mark {
		old.void()
	}
	s.old.Store(old)
}

// Pauses of those who wait for another instance's load and aren't told how it ends: by the
// time the message would have come, and where the store can't tell at all.
const (
	busyPoll  = 250 * time.Millisecond
	blindPoll = 20 * time.Millisecond
)

// run sees to it that the call ends, with a value from the shared level or from the source.
func (c *Cache[K, V]) run(ctx context.Context, call *call[K, V], k K, load loader[V], found found[K, V]) {
	reason := found.reason
	for {
		// Before the lease is taken, which others would wait for.
		if err := c.down(call.Key, false); err != nil {
			c.flights.Finish(call, outcome[K, V]{level: observe.LevelSource, err: err, reason: reason})
			return
		}
		p := c.begin(k)
		if !found.usable {
			c.flights.Finish(call, c.fetch(ctx, call, k, load, p, nil, reason))
			return
		}
		mark := c.mark(call.Key).Load()
		trust, asked := c.client.mirror.Trust(), c.client.clock.Exact()
		claim := c.claim(ctx, store.ClaimRequest{Key: call.Key, Seen: found.identity, Refresh: c.keeps(found)}, &p)
		switch claim.Outcome {
		case store.Gone:
			found.e.void()
			found.e, found.state, found.identity = nil, dead, ""
		case store.Leased:
			g := &grant{lease: claim.Lease, mark: mark, trust: trust}
			c.flights.Finish(call, c.fetch(ctx, call, k, load, p, g, reason))
			return
		case store.Held:
			found = c.decode(ctx, k, call.Key, store.Value{Image: claim.Image}, asked, mark, trust, !unanswered(p.err))
			if c.finishWith(ctx, call, found, load) {
				return
			}
		case store.Busy:
			if unanswered(p.err) {
				found.usable = false
				continue
			}
			call.State.waiting.Store(true)
			if c.flights.Find(call.Key) != call {
				// A change of the key (another's claim is one) made this call forgotten before it
				// began to wait. Nothing would wake it; whoever waits for it asks again.
				c.flights.Finish(call, outcome[K, V]{again: true})
				return
			}
			if !c.awaitOther(ctx, call, claim.Wait) {
				c.flights.Finish(call, outcome[K, V]{err: c.loadError(call.Key, context.Cause(ctx)), reason: reason})
				return
			}
			var err error
			found, err = c.readL2(ctx, k, call.Key)
			switch {
			case err == nil && c.finishWith(ctx, call, found, load):
				return
			case ctx.Err() != nil: // nobody wants it any more
				c.flights.Finish(call, outcome[K, V]{err: c.loadError(call.Key, context.Cause(ctx)), reason: reason})
				return
			}
		default:
			found.usable = false
		}
	}
}

// keeps reports whether what was found is to stay in the shared level until it is replaced, since it may be
// served if the source fails: on other instances, and on this one when it fails again.
func (c *Cache[K, V]) keeps(f found[K, V]) bool {
	return f.e != nil && f.state != dead && f.e.id != (store.ID{})
}

// awaitOther waits until the key changes, the other's lease ends, or it is time to look by oneself.
func (c *Cache[K, V]) awaitOther(ctx context.Context, call *call[K, V], lease time.Duration) bool {
	defer call.State.waiting.Store(false)
	poll := blindPoll
	if _, tracks := c.client.mirror.Up(); tracks {
		poll = busyPoll
	}
	// A little more than the lease, so that the store has seen it end; spread, so that not all take over at once.
	pause := min(lease+time.Millisecond, poll) + rand.N(5*time.Millisecond)
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-call.State.awaken():
		call.State.poked.Store(false) // what comes next reads the key
		return true
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// claim asks for a lease and, on the same way, for the stamps that p lacks.
func (c *Cache[K, V]) claim(ctx context.Context, r store.ClaimRequest, p *preparation) store.Claim {
	r.ID, r.TTL, r.Plain = newID(), c.cfg.LeaseTime, c.cfg.Plain
	claim := p.claim(ctx, c.client.store, r)[0]
	if claim.Outcome == store.Failed {
		c.client.claimFailed(r, claim.Err)
	}
	return claim
}

// alone asks the source for one caller, without lease, sharing or storing: the source said that
// its answers for this key are private, or nothing that the cache has is known to be new enough for this reader.
func (c *Cache[K, V]) alone(ctx context.Context, k K, name string, load loader[V], why observe.Reason) (Result[V], error) {
	lctx, cancel := context.WithTimeoutCause(ctx, c.cfg.LoadTimeout, errLoadTimeout)
	defer cancel()
	defer context.AfterFunc(c.client.ctx, cancel)()
	a, err := c.enter(lctx, new(turn), name, false)
	if err != nil {
		if ctx.Err() != nil {
			return Result[V]{}, context.Cause(ctx)
		}
		return Result[V]{Level: observe.LevelSource, Refused: shedReason(err)}, err
	}
	defer c.leave(&a)
	l := &Load{key: name}
	began := c.client.clock.Exact()
	v, err := c.load(lctx, k, l, load)
	c.judge(lctx, &a, err)
	if errors.Is(err, ErrNotModified) {
		err = c.loadError(name, fmt.Errorf("%w, but there is no previous value", err))
	}
	r := Result[V]{Level: observe.LevelSource, Reason: why, Refused: why, Age: time.Duration(c.client.clock.Exact() - began)}
	if err != nil {
		return r, err
	}
	r.Value = v
	return r, nil
}
