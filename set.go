package freshet

import (
	"context"
	"fmt"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// Set stores a value that the caller knows to be current, with extra tags if any. It is a drop
// followed by a fill: loads that began before it can't overwrite it, and if another instance began
// a load after the drop, the value that it brings stays. Prefer Drop after a write: a value that was read
// before somebody else's write, and is set after that one's drop, is old.
//
// An error that matches ErrPending means that other instances don't know of it yet.
func (c *Cache[K, V]) Set(ctx context.Context, k K, v V, tags ...string) error {
	if c.cfg.Plain && len(tags) > 0 {
		return fmt.Errorf("freshet: set %q: %w", c.name(k), ErrPlain)
	}
	began, created := c.client.clock.Exact(), c.client.store.Now()
	if err := c.Drop(ctx, k); err != nil {
		return err
	}
	name := c.name(k)
	// Taken before the stamps are read: a new epoch in between keeps the entry out of L1.
	mark, trust := c.mark(name).Load(), c.client.mirror.Trust()
	var deps mirror.Deps
	var err error
	if !c.cfg.Plain {
		if deps, err = c.client.mirror.Prepare(ctx, withCoarse(c.tagsOf(k), tags)); err != nil {
			c.client.storeFailed("register", err)
			return nil // dropped everywhere: the next Get loads it
		}
	}
	claim := c.claim(ctx, store.ClaimRequest{Key: name})
	if claim.Outcome != store.Leased {
		return nil // a load that began after the drop brings a value at least as new
	}
	g := &grant{lease: claim.Lease, mark: mark, trust: trust}
	e := &entry[K, V]{value: v, trust: trust, facts: &facts[K]{
		key: k, name: name, deps: deps, began: began, seen: c.client.clock.Exact(), proven: began,
	}}
	l := &Load{key: name}
	w := c.windows(l, false)
	e.fresh, e.stale, e.failed = began+int64(w.fresh), began+int64(w.stale), began+int64(w.failed)
	refused := c.store(ctx, e, l, g, nil, created, w)
	if !g.spent {
		c.release(g.lease)
	}
	if refused == observe.ReasonEncode {
		return fmt.Errorf("freshet: set %q: the codec %q refused the value", name, c.cfg.Codec.Name())
	}
	if refused == observe.ReasonNone {
		c.finish(e)
		c.admit(e, mark)
	}
	return nil
}

// Peek returns what the cache has for k, fresh or stale within its windows, and never loads. It
// reports false for negative entries too; Result.Reason tells more.
func (c *Cache[K, V]) Peek(ctx context.Context, k K) (Result[V], bool) {
	name := c.name(k)
	e, r, st, reason := c.lookL1(k, name)
	if st < stale || st == recheck {
		f, _ := c.readL2(ctx, k, name)
		e, st = f.e, f.state
		if st < stale {
			if f.reason != observe.ReasonAbsent || reason == observe.ReasonNone {
				reason = f.reason
			}
			return Result[V]{Reason: reason}, false
		}
		r = c.result(e, observe.LevelL2, c.client.clock.Now())
		r.Stale, r.Reason = st == stale, f.reason
	}
	r, err := c.deliver(e, r)
	return r, err == nil
}
