package freshet

import (
	"context"
	"time"

	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// refresh loads a new value in the background, on one instance of the fleet, while e is served.
// A refresh needs a lease as every load does. The lease doesn't take e's place: the fill goes through only
// if e is still there. mark was read before e was.
func (c *Cache[K, V]) refresh(ctx context.Context, e *entry[K, V], load loader[V], mark uint32) {
	if c.cfg.Plain || e.id == (store.ID{}) || c.client.clock.Now() < max(e.pause.Load(), e.later.Load()) {
		return // a bare value, or one that isn't in the shared level, has nothing to be leased by
	}
	if _, refused := c.source.refuses(c.client.clock.Now()); refused {
		return // the next hit asks again
	}
	call, lead := c.flights.Join(e.name, func(s *callState[K, V]) {
		s.background, s.turn.back = true, true
		c.keepLocked(s, e.name, e, mark)
	}, nil)
	if !lead {
		call.Leave()
		return
	}
	// The leader's place is never given up: the refresh goes on though nobody waits.
	lctx, cancel := c.loadContext(ctx)
	ok := c.client.background(func() {
		defer cancel()
		c.guard(func() { c.flights.Finish(call, c.refreshed(lctx, call, e, load)) }, call)
	})
	if !ok {
		cancel()
		c.flights.Finish(call, outcome[K, V]{err: ErrClosed})
	}
}

func (c *Cache[K, V]) refreshed(ctx context.Context, call *call[K, V], e *entry[K, V], load loader[V]) outcome[K, V] {
	again := outcome[K, V]{again: true} // whoever joined asks for itself
	if c.cfg.Plain || e.id == (store.ID{}) || c.client.outbox.concerns(e.name, tagsOfDeps(e.deps)) {
		return again
	}
	mark, trust, asked := c.mark(e.name).Load(), c.client.mirror.Trust(), c.client.clock.Exact()
	p := c.begin(e.Key)
	claim := c.claim(ctx, store.ClaimRequest{Key: e.name, Seen: store.Identity(e.id[:]), Refresh: true}, &p)
	var g *grant
	switch claim.Outcome {
	case store.Leased:
		g = &grant{lease: claim.Lease, mark: mark, trust: trust}
	case store.Held:
		// Another instance was quicker: take what it stored.
		c.decode(ctx, e.Key, e.name, store.Value{Image: claim.Image}, asked, mark, trust, true)
		return again
	case store.Failed:
		// Without the store no lease tells who refreshes: every instance does for itself, since
		// the value would end otherwise.
	case store.Busy, store.Gone:
		// Another instance is at it; try again soon, not at each hit. Gone: it was dropped.
		if claim.Outcome == store.Gone {
			e.void()
		}
		e.later.Store(c.client.clock.Now() + int64(min(claim.Wait+time.Millisecond, busyPoll)))
		return again
	}
	o := c.fetch(ctx, call, e.Key, load, p, g, observe.ReasonStale)
	if until := c.client.clock.Now() + int64(c.cfg.Stale.RetryAfter); o.err != nil {
		e.pause.Store(until)
	} else if !o.stored {
		e.later.Store(until)
	}
	return o
}
