package freshet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
)

// A Token is a place in the changes of a database, such as the one that package replica reads after a commit: who reads with it
// sees everything up to there.
type Token interface {
	// Source is the database's name in Options.Sources.
	Source() string

	// Covered reports whether a position of that source, as its pump writes it into marks (cdc.Position), is at or after the token. What
	// it can't understand isn't.
	Covered(pos string) bool
}

// WithToken returns a context through which reads of this client's caches see every change up to the token, whatever other
// instances, the memory of this one and the shared level still have:
//
//	the pump has applied the changes up to the token, and this    → read as ever. An entry counts if no drop of these or other changes
//	instance knows the drops that this made                         concerns it; that it was true when its load began isn't enough
//	that isn't known now                                          → wait for it, Options.TokenWait
//	it isn't known then                                           → load, for this caller alone, and store nothing (reason "behind")
//
// That goes for keys that are not found, batches, [Cache.Peek] (which neither waits nor loads) and reads in a [Tx], too. Who joins a load takes
// what it brings only if it began later than the read, or if what is known of drops proves it. Stale values, while they are refreshed or because
// the source fails, are served on the same condition.
//
// Loads must read the primary, or a replica that is known to be far enough: package replica. What is promised for a value is no more than
// that of its tags: the rules of the pump must drop what the change touches.
//
// A context may carry several tokens, of one source or of several: all of them hold. The error says that Options.Sources lacks the token's source:
// then nothing would ever tell how far that is. A token from outside, such as a cookie, should be signed: one from the far future
// has its reader load everything.
func (c *Client) WithToken(ctx context.Context, t Token) (context.Context, error) {
	i := slices.Index(c.opts.Sources, t.Source())
	if i < 0 {
		return ctx, fmt.Errorf("freshet: the token is of source %q; Options.Sources are %q", t.Source(), c.opts.Sources)
	}
	c.token.Do(func() {
		c.scoped.Add(1)
		c.tokens.Store(true)
	})
	return context.WithValue(ctx, tokenKey{c}, &tokenScope{t, i, c.tokensOf(ctx)}), nil
}

// tokenKey is the key of a client's tokenScope in a context.
type tokenKey struct{ c *Client }

// A tokenScope is what a context carries: a token, and those of the contexts around it.
type tokenScope struct {
	Token
	source int // in Options.Sources
	outer  *tokenScope
}

// tokensOf returns the tokens of ctx. While the client has never seen one, it doesn't look.
func (c *Client) tokensOf(ctx context.Context) *tokenScope {
	if !c.tokens.Load() {
		return nil
	}
	s, _ := ctx.Value(tokenKey{c}).(*tokenScope)
	return s
}

// bound reports whether reads through ctx aren't as all others.
func (c *Client) bound(ctx context.Context) bool {
	return c.scope(ctx) != nil || c.tokensOf(ctx) != nil
}

// reached reports whether the changes up to the tokens of ctx are known to be applied. Entries that are valid contain them
// if they were read under the trust after: of the link over which that is known. It is nil if there are no tokens.
//
// Entries read over another link don't count. This one did not hear of
//
//	an entry is read over link A · A breaks · the change is dropped
//	the log is cut off · link B: the mark says that all is applied, the log doesn't say what was dropped
func (c *Client) reached(ctx context.Context) (after *mirror.Trust, ok bool) {
	for s := c.tokensOf(ctx); s != nil; s = s.outer {
		link, ok := c.mirror.Reached(s.source, s.Covered)
		if !ok || after != nil && link != after {
			return nil, false
		}
		after = link
	}
	return after, true
}

// Between two looks at the logs that readers with tokens ask for: seldom, if nothing came of a database for so long
// that its pump must be away. Each look asks the store for all logs and marks.
const (
	pokeEvery  = 2 * time.Millisecond
	pokeSeldom = 100 * time.Millisecond
	pumpAway   = time.Second
)

// pokePause is the time between two looks for the sake of the tokens of ctx.
func (c *Client) pokePause(ctx context.Context) time.Duration {
	for s := c.tokensOf(ctx); s != nil; s = s.outer {
		if c.clock.Exact()-c.mirror.SourceAsOf(s.source) > int64(pumpAway) {
			return pokeSeldom
		}
	}
	return pokeEvery
}

// after is reached, and waits for it.
func (c *Client) after(ctx context.Context) (*mirror.Trust, bool) {
	link, ok := c.reached(ctx)
	if ok || c.opts.TokenWait <= 0 {
		return link, ok
	}
	every := c.pokePause(ctx)
	end := time.NewTimer(c.opts.TokenWait)
	defer end.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, 4*time.Millisecond) {
		now := c.clock.Exact()
		if last := c.poked.Load(); now-last >= int64(every) && c.poked.CompareAndSwap(last, now) {
			c.mirror.Poke()
		}
		over := false
		select {
		case <-time.After(pause):
		case <-end.C:
			over = true
		case <-ctx.Done():
			over = true
		}
		if link, ok := c.reached(ctx); ok || over {
			return link, ok
		}
	}
}

// contains reports whether e has every change up to the reader's tokens: they were dropped before what is known over the link after,
// and no drop concerns e. That e was true when its load began, or when the store was asked, isn't enough.
func (c *Cache[K, V]) contains(e *entry[K, V], after *mirror.Trust) bool {
	return e.trust == after && c.client.mirror.Trust() == after && c.client.mirror.Check(e.deps, e.seen) == mirror.Valid &&
		c.client.prove(c.client.clock.Now(), &e.checked, e.trust, e.proven, e.seen, e.deps, e.name) == proofHeld
}

// stateAfter is what may be done with e, which is in state st, for a reader with tokens.
func (c *Cache[K, V]) stateAfter(after *mirror.Trust, e *entry[K, V], st state, reason observe.Reason) (state, observe.Reason) {
	if st != dead && !c.contains(e, after) {
		return dead, observe.ReasonBehind
	}
	return st, reason
}

// joinableAfter reports whether a reader with tokens, who comes now, may get something of a call that is under way. What
// comes of it is judged by mayHaveAfter.
func (c *Cache[K, V]) joinableAfter(call *call[K, V]) bool {
	began, deps := call.State.began.Load(), call.State.deps.Load()
	return began == 0 || deps == nil || c.client.mirror.Check(*deps, began) == mirror.Valid
}

// mayHaveAfter reports whether a reader with tokens, who joined a call at arrived or led it, may have its outcome.
func (c *Cache[K, V]) mayHaveAfter(after *mirror.Trust, o outcome[K, V], arrived int64, lead bool) bool {
	switch {
	case o.e == nil:
		return true
	case o.level == observe.LevelSource && (lead || o.e.began > arrived):
		return true // the source was asked after the reader had its tokens
	}
	return c.contains(o.e, after)
}

// manyAlone is GetMany for a reader with tokens when nothing that the cache has is known to be new enough.
func (c *Cache[K, V]) manyAlone(ctx context.Context, ks []K) (map[K]V, error) {
	out := make(map[K]V, len(ks))
	loads := make(map[K]*Load, len(ks))
	keys := make([]K, 0, len(ks))
	for _, k := range ks {
		if loads[k] == nil {
			name := c.name(k)
			loads[k], keys = &Load{key: name}, append(keys, k)
			c.tellMiss(name, observe.LevelL1, observe.ReasonBehind)
		}
	}
	var errs []error
	if c.cfg.LoadMany == nil {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, k := range keys {
			wg.Go(func() {
				r, err := c.alone(ctx, k, loads[k].key, nil, observe.ReasonBehind)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					out[k] = r.Value
				} else if !errors.Is(err, ErrNotFound) {
					errs = append(errs, err)
				}
			})
		}
		wg.Wait()
		if ctx.Err() != nil {
			return out, context.Cause(ctx)
		}
		return out, errors.Join(errs...)
	}
	if len(keys) == 0 {
		return out, nil
	}
	lctx, cancel := context.WithTimeoutCause(ctx, c.cfg.LoadTimeout, errLoadTimeout)
	defer cancel()
	defer context.AfterFunc(c.client.ctx, cancel)()
	a, err := c.enter(lctx, new(turn), loads[keys[0]].key, false)
	if err == nil {
		defer c.leave(&a)
		began := c.client.clock.Exact()
		var values map[K]V
		values, err = c.loadMany(lctx, slices.Clone(keys), &BatchLoad[K]{loads: loads})
		c.judge(lctx, &a, err)
		took := c.client.clock.Exact() - began
		for _, k := range keys {
			v, ok := values[k]
			kerr := err
			if ok {
				kerr = nil
				out[k] = v
			} else if err == nil {
				kerr = ErrNotFound
			}
			c.loaded(loads[k], took, kerr)
		}
	}
	switch {
	case ctx.Err() != nil:
		return out, context.Cause(ctx)
	case err == nil:
		return out, nil
	}
	for _, k := range keys {
		if _, ok := out[k]; !ok {
			errs = append(errs, c.loadError(loads[k].key, unwrapped(err)))
		}
	}
	return out, errors.Join(errs...)
}
