package freshet

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
)

type loader[V any] = func(context.Context, *Load) (V, error)

// lookup is every read but the calm hit. L1 answers if it can; otherwise the caller leads or
// joins the call that asks the store and, if need be, the source (miss.go).
func (c *Cache[K, V]) lookup(ctx context.Context, k K, load loader[V]) (Result[V], error) {
	var none Result[V]
	if c.client.closed.Load() {
		return none, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return none, context.Cause(ctx)
	}
	if load == nil && c.cfg.Load == nil && c.cfg.LoadMany == nil {
		return none, c.noLoader()
	}
	name := c.name(k)
	if scope := c.client.scope(ctx); scope != nil {
		return c.lookupInTx(ctx, scope, k, name, load)
	}
	after, ok := c.client.after(ctx)
	if !ok {
		if ctx.Err() != nil {
			return none, context.Cause(ctx)
		}
		c.tellMiss(name, observe.LevelL1, observe.ReasonBehind)
		return c.alone(ctx, k, name, load, observe.ReasonBehind)
	}
	mark := c.mark(name).Load()
	e, r, st, reason := c.lookL1(k, name, after)
	switch st {
	case fresh:
		if c.verifier != nil {
			c.verify(ctx, e, observe.LevelL1, load)
		}
		return c.deliver(e, r)
	case early, stale:
		c.refresh(ctx, e, load, mark)
		return c.deliver(e, r)
	case dead:
		e = nil
	case expired, unproven, recheck:
		if paused(e, c.client.clock.Now()) {
			return c.deliverPaused(e, r, reason)
		}
	}
	return c.miss(ctx, k, name, load, e, mark, reason, after)
}

func (c *Cache[K, V]) noLoader() error {
	return fmt.Errorf("freshet: cache %q has no loader: give Config.Load or Config.LoadMany, or call GetFunc", c.cfg.Name)
}

// errPaused stands for the source's error while Stale.RetryAfter lasts.
var errPaused = errors.New("freshet: the source failed a moment ago")

// paused reports whether the source failed so recently that the old value is served without asking it.
func paused[K comparable, V any](e *entry[K, V], now int64) bool {
	return e != nil && e.failed > e.fresh && now < e.pause.Load() && now < e.failed
}

// deliverPaused hands the old value to a caller.
func (c *Cache[K, V]) deliverPaused(e *entry[K, V], r Result[V], reason observe.Reason) (Result[V], error) {
	r.Stale, r.Reason, r.Err = true, reason, errPaused
	c.client.stats.hitsStale.Add(1)
	c.tellHit(e, r)
	return c.deliver(e, r)
}

// lookL1 finds k in L1 and tells what may be done with it.
func (c *Cache[K, V]) lookL1(k K, name string, after *mirror.Trust) (e *entry[K, V], r Result[V], st state, reason observe.Reason) {
	if c.near == nil {
		return nil, r, dead, observe.ReasonAbsent
	}
	now := c.client.clock.Now()
	e, ok := c.near.Get(k, turnAt(now))
	if !ok {
		c.tellMiss(name, observe.LevelL1, observe.ReasonAbsent)
		return nil, r, dead, observe.ReasonAbsent
	}
	p := c.client.prove(now, &e.checked, e.trust, e.proven, e.seen, e.deps, name)
	st, reason = e.stateAt(now, p, c.cfg.EarlyRefresh, luck())
	if after != nil {
		st, reason = c.stateAfter(after, e, st, reason)
	}
	if st == fresh && c.cfg.CheckMutation && c.mutated(e) {
		c.near.Remove(k, e)
		return nil, r, dead, observe.ReasonCorrupt
	}
	r = c.result(e, observe.LevelL1, now)
	r.Reason = reason
	switch st {
	case fresh, early, stale:
		r.Stale = st == stale
		if r.Stale {
			c.client.stats.hitsStale.Add(1)
		} else {
			c.client.stats.hitsL1.add()
		}
		c.tellHit(e, r)
	default:
		c.tellMiss(name, observe.LevelL1, reason)
	}
	return e, r, st, reason
}

// result describes e.
func (c *Cache[K, V]) result(e *entry[K, V], level observe.Level, now int64) Result[V] {
	return Result[V]{Value: e.value, Level: level, Age: time.Duration(now - e.began), TTL: time.Duration(e.fresh - now)}
}

// deliver hands a result to a caller.
func (c *Cache[K, V]) deliver(e *entry[K, V], r Result[V]) (Result[V], error) {
	if e.negative {
		var none V
		r.Value = none
		return r, ErrNotFound
	}
	if c.cfg.Clone != nil {
		r.Value = c.cfg.Clone(e.value)
	}
	return r, nil
}

// mutated reports whether a caller changed the shared value.
func (c *Cache[K, V]) mutated(e *entry[K, V]) bool {
	if e.negative || e.sum == 0 {
		return false
	}
	b, err := c.encode(e.value)
	if err == nil && xxhash.Sum64(b) == e.sum {
		return false
	}
	c.client.stats.mutated.Add(1)
	if h := c.client.hooks.Mutated; h != nil {
		h(observe.Mutated{Cache: c.cfg.Name, Key: e.name})
	}
	return true
}

func (c *Cache[K, V]) encode(v V) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // a codec is the user's code
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	return c.cfg.Codec.Append(nil, v)
}

func (c *Cache[K, V]) tellHit(e *entry[K, V], r Result[V]) {
	if h := c.client.hooks.Hit; h != nil {
		h(observe.Hit{Cache: c.cfg.Name, Key: e.name, Level: r.Level, Age: r.Age, Stale: r.Stale, Negative: e.negative})
	}
}

func (c *Cache[K, V]) tellMiss(name string, level observe.Level, reason observe.Reason) {
	c.client.stats.miss(level, reason)
	if len(name) <= c.client.opts.MaxKey { // so that what is remembered has a bound
		c.client.misses.add(name, level, reason, c.client.clock.Now())
	}
	if h := c.client.hooks.Miss; h != nil {
		h(observe.Miss{Cache: c.cfg.Name, Key: name, Level: level, Reason: reason})
	}
}
