package freshet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// Reads through the context of a transaction that is open; see Tx for what holds for them.

func (c *Cache[K, V]) lookupInTx(ctx context.Context, scope *txScope, k K, name string, load loader[V]) (Result[V], error) {
	e, r, ok := c.untouched(ctx, scope, k, name)
	if ok {
		return c.deliver(e, r)
	}
	if ctx.Err() != nil {
		return Result[V]{}, context.Cause(ctx)
	}
	lctx, cancel := context.WithTimeoutCause(ctx, c.cfg.LoadTimeout, errLoadTimeout)
	defer cancel()
	l, began := &Load{key: name}, c.client.clock.Exact()
	v, err := c.load(lctx, k, l, load)
	return c.ofTx(ctx, l, v, began, r.Reason, err)
}

// untouched finds k in the cache if it is fresh there and the transaction has dropped nothing of it. Otherwise r.Reason
// says why not.
func (c *Cache[K, V]) untouched(ctx context.Context, scope *txScope, k K, name string) (e *entry[K, V], r Result[V], ok bool) {
	miss := func(reason observe.Reason) (*entry[K, V], Result[V], bool) {
		return nil, Result[V]{Level: observe.LevelSource, Reason: reason}, false
	}
	touched := func() (*entry[K, V], Result[V], bool) {
		c.tellMiss(name, observe.LevelL1, observe.ReasonTransaction)
		return miss(observe.ReasonTransaction)
	}
	tags, ok := c.knownTags(k, name)
	if !ok || scope.touches(name, tags) {
		return touched()
	}
	after, ok := c.client.reached(ctx)
	if !ok {
		c.tellMiss(name, observe.LevelL1, observe.ReasonBehind)
		return miss(observe.ReasonBehind)
	}
	reason := observe.ReasonAbsent
	if here, there := c.peekL1(k); there {
		// Late tags are known only from the entry.
		if scope.touches(name, tagsOfDeps(here.deps)) {
			return touched()
		}
		if c.client.clock.Now() < here.fresh { // else lookL1 would count a stale hit
			var st state
			e, r, st, reason = c.lookL1(k, name, after)
			if st == fresh || st == early {
				if e != here && scope.touches(name, tagsOfDeps(e.deps)) { // replaced meanwhile
					return touched()
				}
				return e, r, true
			}
		}
	}
	f, _ := c.readL2(ctx, k, name)
	if after != nil && f.e != nil {
		f.state, f.reason = c.stateAfter(after, f.e, f.state, f.reason)
	}
	switch {
	case f.state != fresh && f.state != early && f.state != recheck:
		if f.reason == observe.ReasonNone {
			f.reason = reason
		}
		return miss(f.reason)
	case scope.touches(name, tagsOfDeps(f.e.deps)):
		return touched()
	}
	return f.e, c.result(f.e, observe.LevelL2, c.client.clock.Now()), true
}

// peekL1 returns what L1 has for k, negative entries too.
func (c *Cache[K, V]) peekL1(k K) (*entry[K, V], bool) {
	if c.near == nil {
		return nil, false
	}
	return c.near.Peek(k)
}

// knownTags returns the tags that follow from the key. It reports false if Config.Tags panics.
func (c *Cache[K, V]) knownTags(k K, name string) (tags []string, ok bool) {
	if c.cfg.Plain {
		return nil, true
	}
	defer func() {
		if p := recover(); p != nil {
			_ = c.panicked(name, p)
		}
	}()
	return c.tagsOf(k), true
}

// ofTx is the result of a load in a transaction.
func (c *Cache[K, V]) ofTx(ctx context.Context, l *Load, v V, began int64, reason observe.Reason, err error) (Result[V], error) {
	now := c.client.clock.Exact()
	r := Result[V]{
		Level: observe.LevelSource, Reason: reason, Refused: observe.ReasonTransaction,
		Age: time.Duration(now - began), TTL: c.windows(l, false).fresh - time.Duration(now-began),
	}
	switch {
	case errors.Is(err, ErrNotModified):
		return r, c.loadError(l.key, fmt.Errorf("%w, but there is no previous value", err))
	case errors.Is(err, ErrNotFound):
		return r, ErrNotFound
	case err != nil && ctx.Err() != nil:
		return r, context.Cause(ctx)
	case err != nil:
		return r, c.loadError(l.key, err)
	}
	r.Value = v
	c.client.stats.fill(r.Refused)
	if h := c.client.hooks.Fill; h != nil {
		h(observe.Fill{Cache: c.cfg.Name, Key: l.key, Reason: r.Refused})
	}
	return r, nil
}

// manyInTx is GetMany in a transaction. Loads follow one another: a transaction is one conversation.
func (c *Cache[K, V]) manyInTx(ctx context.Context, scope *txScope, ks []K) (map[K]V, error) {
	out := make(map[K]V, len(ks))
	var errs []error
	take := func(k K, r Result[V], err error) {
		if err == nil {
			out[k] = r.Value
		} else if !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
	}
	asked := make(map[K]bool, len(ks))
	loads := make(map[K]*Load)
	reasons := make(map[K]observe.Reason)
	var missing []K
	for _, k := range ks {
		if asked[k] {
			continue
		}
		asked[k] = true
		name := c.name(k)
		if c.cfg.LoadMany == nil {
			r, err := c.lookupInTx(ctx, scope, k, name, nil)
			take(k, r, err)
		} else if e, r, ok := c.untouched(ctx, scope, k, name); ok {
			r, err := c.deliver(e, r)
			take(k, r, err)
		} else {
			missing = append(missing, k)
			loads[k], reasons[k] = &Load{key: name}, r.Reason
		}
	}
	if len(missing) > 0 && ctx.Err() == nil {
		lctx, cancel := context.WithTimeoutCause(ctx, c.cfg.LoadTimeout, errLoadTimeout)
		defer cancel()
		began := c.client.clock.Exact()
		values, err := c.loadMany(lctx, slices.Clone(missing), &BatchLoad[K]{loads: loads})
		took := c.client.clock.Exact() - began
		for _, k := range missing {
			v, ok := values[k]
			kerr := err
			if ok {
				kerr = nil
			} else if err == nil {
				kerr = ErrNotFound
			}
			c.loaded(loads[k], took, kerr)
			r, kerr := c.ofTx(ctx, loads[k], v, began, reasons[k], kerr)
			take(k, r, kerr)
		}
	}
	if ctx.Err() != nil {
		errs = []error{context.Cause(ctx)}
	}
	return out, errors.Join(errs...)
}
