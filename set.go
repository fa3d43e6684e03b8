package freshet

import (
	"context"
	"fmt"

	"github.com/freshetdev/freshet/internal/keys"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// Set stores a value that the caller knows to be current, with extra tags if any. It is a drop
// followed by a fill: loads that began before it can't overwrite it, and if another instance began
// a load after the drop, the value that it brings stays. Prefer Drop after a write: a value that was read
// before somebody else's write, and is set after that one's drop, is old.
//
// An error that matches ErrPending means that other instances don't know of it yet. After any error, and if the drop had to
// wait (PendingWait), the value is dropped and not stored: the next Get loads it.
func (c *Cache[K, V]) Set(ctx context.Context, k K, v V, tags ...string) error {
	if c.cfg.Plain && len(tags) > 0 {
		return fmt.Errorf("freshet: set %q: %w", c.name(k), ErrPlain)
	}
	for _, t := range tags {
		if err := keys.ValidTag(t); err != nil {
			return fmt.Errorf("freshet: set %q: %w", c.name(k), err)
		}
	}
	name := c.name(k)
	if len(name) > c.client.opts.MaxKey {
		return fmt.Errorf("freshet: set: %w: the key has %d bytes; want at most %d", ErrTooLarge, len(name), c.client.opts.MaxKey)
	}
	if c.client.scope(ctx) != nil {
		return c.Drop(ctx, k) // see Tx
	}
	began, created := c.client.clock.Exact(), c.client.store.Now()
	if late, err := c.client.drop(ctx, []string{name}, nil); err != nil || late {
		return err // delivered late: somebody else may have written and dropped it meanwhile
	}
	// Taken before the stamps are read: a new epoch in between keeps the entry out of L1.
	mark, trust := c.mark(name).Load(), c.client.mirror.Trust()
	// The value was read before: the sooner the read position, the more later drops count.
	p := c.begin(k, tags...)
	if p.mute {
		return fmt.Errorf("freshet: set %q: %w: more than %d tags", name, ErrTooLarge, c.cfg.MaxTags)
	}
	p.register(ctx)
	deps, err := p.done()
	if err != nil {
		return nil // dropped everywhere: the next Get loads it
	}
	claim := c.claim(ctx, store.ClaimRequest{Key: name}, &p)
	if claim.Outcome != store.Leased {
		return nil // a load that began after the drop brings a value at least as new
	}
	g := &grant{lease: claim.Lease, mark: mark, trust: trust}
	e := newEntry[K, V](k, name, trust)
	e.value, e.deps = v, deps
	e.began, e.seen, e.proven = began, c.client.clock.Exact(), began
	f := &fill[K, V]{e: e, l: &Load{key: name}, g: g, created: created}
	c.store(ctx, []*fill[K, V]{f})
	if !g.spent {
		c.release(g.lease)
	}
	switch f.refused {
	case observe.ReasonNone:
		c.finish(e)
		c.admit(e, mark)
	case observe.ReasonTooLarge, observe.ReasonManyTags:
		return fmt.Errorf("freshet: set %q: %w: %s", name, ErrTooLarge, f.refused)
	case observe.ReasonEncode:
		return fmt.Errorf("freshet: set %q: the codec %q refused the value", name, c.cfg.Codec.Name())
	}
	return nil
}

// Peek returns what the cache has for k, fresh or stale within its windows, and never loads. It
// reports false for negative entries too; Result.Reason tells more.
func (c *Cache[K, V]) Peek(ctx context.Context, k K) (Result[V], bool) {
	name := c.name(k)
	if scope := c.client.scope(ctx); scope != nil {
		e, r, ok := c.untouched(ctx, scope, k, name)
		if !ok {
			return Result[V]{Reason: r.Reason}, false
		}
		r, err := c.deliver(e, r)
		return r, err == nil
	}
	after, ok := c.client.reached(ctx)
	if !ok {
		return Result[V]{Reason: observe.ReasonBehind}, false
	}
	e, r, st, reason := c.lookL1(k, name, after)
	if st < stale || st == recheck {
		f, _ := c.readL2(ctx, k, name)
		e, st = f.e, f.state
		if after != nil && e != nil {
			st, f.reason = c.stateAfter(after, e, st, f.reason)
		}
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
