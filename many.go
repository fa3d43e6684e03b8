package freshet

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// GetMany returns the values of several keys: from L1, then from the shared level in one read, and
// what is missing by one LoadMany (or a Load each, side by side). A key that somebody else is loading is
// waited for, not loaded again. Keys that the source doesn't have are not in the map.
//
// If some keys fail, the map has the others, and the error joins one *LoadError for each failure.
func (c *Cache[K, V]) GetMany(ctx context.Context, ks []K) (map[K]V, error) {
	out := make(map[K]V, len(ks))
	if c.client.closed.Load() {
		return out, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return out, context.Cause(ctx)
	}
	if c.cfg.Load == nil && c.cfg.LoadMany == nil {
		return out, c.noLoader()
	}
	if scope := c.client.scope(ctx); scope != nil {
		return c.manyInTx(ctx, scope, ks)
	}
	after, ok := c.client.after(ctx)
	if !ok {
		if ctx.Err() != nil {
			return out, context.Cause(ctx)
		}
		return c.manyAlone(ctx, ks)
	}
	var errs []error
	take := func(k K, r Result[V], err error) {
		switch {
		case err == nil:
			out[k] = r.Value
		case !errors.Is(err, ErrNotFound):
			errs = append(errs, err)
		}
	}
	b := &batch[K, V]{c: c, after: after}
	defer b.abandon()
	for _, k := range ks {
		if _, ok := out[k]; ok || b.has(k) {
			continue
		}
		if e, ok := c.calm(ctx, k); ok {
			if c.verifier != nil {
				c.verify(ctx, e, observe.LevelL1, nil)
			}
			out[k] = e.value
			continue
		}
		name := c.name(k)
		mark := c.mark(name).Load()
		e, r, st, reason := c.lookL1(k, name, after)
		switch {
		case st == early || st == stale:
			c.refresh(ctx, e, nil, mark)
		case st == fresh && c.verifier != nil:
			c.verify(ctx, e, observe.LevelL1, nil)
		}
		if st >= stale && st != recheck {
			r, err := c.deliver(e, r)
			take(k, r, err)
			continue
		}
		if st == dead {
			e = nil
		}
		if paused(e, c.client.clock.Now()) {
			r, err := c.deliverPaused(e, r, reason)
			take(k, r, err)
			continue
		}
		if e, r, ok := b.want(k, name, e, mark, reason); ok {
			r, err := c.deliver(e, r)
			take(k, r, err)
		}
	}
	if len(b.wants) > 0 {
		b.run(ctx)
		b.seen = true
		soft, cancel := c.softly(ctx) // for all of them
		defer cancel()
		var again []K // who led their calls was canceled
		for _, w := range b.wants {
			o, err := c.wait(ctx, soft, w.call, after)
			switch {
			case err != nil:
				errs = append(errs, err)
			case o.again:
				again = append(again, w.k)
			case !w.lead && (o.private || !c.mayHave(w.call, o, w.arrived)), after != nil && !c.mayHaveAfter(after, o, w.arrived, w.lead):
				r, err := c.lookup(ctx, w.k, nil)
				take(w.k, r, err)
			default:
				if o.reason == observe.ReasonNone && o.level == observe.LevelSource {
					o.reason = w.reason
				}
				r, err := c.settle(w.call, o, !w.lead, after)
				take(w.k, r, err)
			}
		}
		if len(again) > 0 && ctx.Err() == nil {
			more, err := c.GetMany(ctx, again)
			maps.Copy(out, more)
			if joined, ok := err.(interface{ Unwrap() []error }); ok {
				errs = append(errs, joined.Unwrap()...)
			} else if err != nil {
				errs = append(errs, err)
			}
		}
		if ctx.Err() != nil {
			errs = []error{context.Cause(ctx)}
		}
	}
	return out, errors.Join(errs...)
}

// A batch is the part of a GetMany that L1 could not answer.
type batch[K comparable, V any] struct {
	c     *Cache[K, V]
	wants []*want[K, V]
	byKey map[K]*want[K, V]

	wanted atomic.Int32  // keys that somebody waits for, of those the batch loads
	cancel func()        // ends the load
	after  *mirror.Trust // who reads, if that one has a token
	silent error         // why the store is not to be asked any more
	seen   bool          // the calls it leads are under way, and those it joined are waited for
	all    preparation   // holds the cells of all tags
}

// A want is one key of a batch.
type want[K comparable, V any] struct {
	k       K
	call    *call[K, V]
	lead    bool
	arrived int64
	reason  observe.Reason
	found   found[K, V]
	grant   *grant
	tags    []string    // of the key, coarse ones included
	left    atomic.Bool // the batch is not to load it for anybody any more
	mark    uint32      // drops of the key seen before its lease was asked for
}

// abandon is what remains to be done if the user's code panicked: who joined asks for itself.
func (b *batch[K, V]) abandon() {
	if b.seen {
		return
	}
	for _, w := range b.wants {
		if w.lead {
			b.c.flights.Finish(w.call, outcome[K, V]{again: true})
		} else {
			w.call.Leave()
		}
	}
}

func (b *batch[K, V]) has(k K) bool { _, ok := b.byKey[k]; return ok }

// want joins the call of k, or leads it. If there is something to serve meanwhile, it is returned.
func (b *batch[K, V]) want(k K, name string, old *entry[K, V], mark uint32, reason observe.Reason) (e *entry[K, V], r Result[V], ok bool) {
	w := &want[K, V]{k: k, reason: reason}
	w.call, w.arrived, w.lead = b.c.join(name, b.after)
	if !w.lead {
		if e, r, ok = b.c.meanwhile(w.call, b.after); ok {
			w.call.Leave()
			return e, r, ok
		}
		b.c.promote(w.call)
	} else {
		b.c.keep(w.call, old, mark)
	}
	if b.byKey == nil {
		b.byKey = make(map[K]*want[K, V])
	}
	b.byKey[k] = w
	b.wants = append(b.wants, w)
	return nil, r, false
}

// run reads what this batch leads from the shared level, and sees to it that the rest is loaded.
func (b *batch[K, V]) run(ctx context.Context) {
	c := b.c
	led := slices.DeleteFunc(slices.Clone(b.wants), func(w *want[K, V]) bool { return !w.lead })
	if len(led) == 0 {
		return
	}
	missing := b.read(ctx, led)
	if len(missing) == 0 {
		return
	}
	if c.cfg.LoadMany == nil {
		for _, w := range missing {
			c.spawn(ctx, w.call, w.k, nil, w.found)
		}
		return
	}
	lctx, cancel := c.loadContext(ctx)
	b.wanted.Store(int32(len(missing)))
	b.cancel = cancel
	for _, w := range missing {
		w.call.Detach(func() { b.unwanted(w) })
	}
	if !c.client.background(func() {
		defer cancel()
		b.load(lctx, missing)
	}) {
		cancel()
		for _, w := range missing {
			c.flights.Finish(w.call, outcome[K, V]{err: ErrClosed})
		}
		return
	}
}

// unwanted ends the load of the batch once nobody wants any of its keys from it.
func (b *batch[K, V]) unwanted(w *want[K, V]) {
	if !w.left.Swap(true) && b.wanted.Add(-1) == 0 {
		b.cancel()
	}
}

// read reads the keys in one go, and returns those that must be loaded.
func (b *batch[K, V]) read(ctx context.Context, led []*want[K, V]) (missing []*want[K, V]) {
	c := b.c
	names := make([]string, 0, len(led))
	marks := make([]uint32, 0, len(led))
	asked := make([]*want[K, V], 0, len(led))
	for _, w := range led {
		switch {
		case len(w.call.Key) > c.client.opts.MaxKey:
			w.found.reason = observe.ReasonLongKey
		case c.client.outbox.concerns(w.call.Key, nil):
			w.found.reason = observe.ReasonPending
		}
		if w.found.reason != observe.ReasonNone {
			missing = append(missing, w)
			continue
		}
		names = append(names, w.call.Key)
		marks = append(marks, c.mark(w.call.Key).Load())
		asked = append(asked, w)
	}
	trust, sent := c.client.mirror.Trust(), c.client.clock.Now()
	values, err := c.client.store.Read(ctx, names, c.cfg.Plain)
	if err != nil && ctx.Err() != nil {
		for _, w := range led { // this caller is gone; those who joined it ask for themselves
			c.flights.Finish(w.call, outcome[K, V]{again: true, err: context.Cause(ctx)})
		}
		return nil
	}
	if err != nil {
		c.client.storeFailed("read", err)
		for _, w := range asked {
			w.found.reason = observe.ReasonStoreError
		}
		return append(missing, asked...)
	}
	told := c.resolveAll(ctx, values)
	for i, w := range asked {
		w.found = c.decode(ctx, w.k, w.call.Key, values[i], sent, marks[i], trust, told)
		told = told && (w.found.usable || w.found.reason == observe.ReasonPending)
		switch {
		case c.finishWith(ctx, w.call, w.found, nil):
		case ctx.Err() != nil && w.found.state == unproven: // as in lead
			c.flights.Finish(w.call, outcome[K, V]{again: true})
		default:
			missing = append(missing, w)
		}
	}
	return missing
}

// resolveAll learns the stamps of all tags in one request, so that decoding one by one asks for none. It reports
// false if the store doesn't tell them.
func (c *Cache[K, V]) resolveAll(ctx context.Context, values []store.Value) bool {
	if c.cfg.Plain || len(values) < 2 {
		return true
	}
	byPart := make(map[int]*store.Dep)
	for _, v := range values {
		var rec store.Record
		if v.Image == nil || store.DecodeInto(&rec, v.Image) != nil {
			continue
		}
		for _, d := range rec.Deps {
			all := byPart[d.Part]
			if all == nil {
				all = &store.Dep{Part: d.Part, Read: d.Read}
				byPart[d.Part] = all
			}
			all.Read = min(all.Read, d.Read)
			all.Tags = append(all.Tags, d.Tags...)
		}
	}
	var all []store.Dep
	for _, d := range byPart {
		slices.Sort(d.Tags)
		d.Tags = slices.Compact(d.Tags)
		all = append(all, *d)
	}
	_, err := c.client.mirror.Resolve(ctx, all, true)
	if unanswered(err) {
		c.client.storeFailed("register", err)
		return false
	}
	return true // and judged key by key
}

// load claims, loads and fills the missing keys: those it gets the lease of in one LoadMany, the others
// one by one when their holder is done.
func (b *batch[K, V]) load(ctx context.Context, missing []*want[K, V]) {
	c := b.c
	if err := c.down(missing[0].call.Key, false); err != nil {
		for _, w := range missing {
			b.giveUp(w, c.loadError(w.call.Key, unwrapped(err)))
		}
		return
	}
	if !c.guard(func() { b.all = b.begin(missing) }, callsOf(missing)...) {
		return
	}
	var mine []*want[K, V]
	if c.guard(func() { mine = b.claim(ctx, missing, &b.all) }, callsOf(missing)...) && len(mine) > 0 {
		c.guard(func() { b.loadClaimed(ctx, mine) }, callsOf(mine)...)
	}
	runtime.KeepAlive(b)
}

func callsOf[K comparable, V any](wants []*want[K, V]) []*call[K, V] {
	calls := make([]*call[K, V], len(wants))
	for i, w := range wants {
		calls[i] = w.call
	}
	return calls
}

// begin collects what the keys depend on, together: one request learns all stamps that aren't known.
func (b *batch[K, V]) begin(missing []*want[K, V]) preparation {
	c := b.c
	if c.cfg.Plain {
		return preparation{}
	}
	var all []string
	for _, w := range missing {
		w.tags = c.tagsOf(w.k)
		if len(w.tags) <= c.cfg.MaxTags { // with more it is not stored
			all = append(all, w.tags...)
		}
	}
	slices.Sort(all)
	return c.prepare(slices.Compact(all))
}

// loadClaimed loads keys in one LoadMany, and fills those that the batch has the lease of.
func (b *batch[K, V]) loadClaimed(ctx context.Context, mine []*want[K, V]) {
	c := b.c
	defer func() {
		for _, w := range mine {
			if w.grant != nil && !w.grant.spent {
				c.release(w.grant.lease)
			}
		}
	}()
	lctx, cancel := context.WithTimeoutCause(ctx, c.cfg.LoadTimeout, errLoadTimeout)
	defer cancel()
	a, err := c.enter(lctx, new(turn), mine[0].call.Key, false)
	if err != nil {
		for _, w := range mine {
			b.giveUp(w, c.loadError(w.call.Key, unwrapped(err)))
		}
		return
	}
	defer c.leave(&a)

	// As for a single load: the read positions come before the source is asked.
	loads := &BatchLoad[K]{loads: make(map[K]*Load, len(mine))}
	keys := make([]K, len(mine))
	deps := make([]mirror.Deps, len(mine))
	depsErr := make([]error, len(mine))
	for i, w := range mine {
		keys[i] = w.k
		loads.loads[w.k] = &Load{key: w.call.Key}
		if !c.cfg.Plain {
			p := c.prepare(w.tags)
			deps[i], depsErr[i] = p.done()
			depsErr[i] = cmp.Or(depsErr[i], b.silent)
		}
	}
	began, created := c.client.clock.Exact(), c.client.store.Now()
	for i, w := range mine {
		w.call.State.deps.Store(&deps[i])
		w.call.State.began.Store(began)
	}
	values, err := c.loadMany(lctx, keys, loads)
	c.judge(lctx, &a, err)
	// The first of the keys may be all that anybody still waits for: handing it over must not end the fills
	// of the others. The store bounds their time.
	ctx = context.WithoutCancel(ctx)
	took := c.client.clock.Exact() - began
	var fills []*fill[K, V]
	var filled []*want[K, V]
	for i, w := range mine {
		l := loads.loads[w.k]
		v, ok := values[w.k]
		kerr := err
		if err == nil && !ok {
			kerr = ErrNotFound
		} else if ok {
			kerr = nil
		}
		if kerr != nil && !errors.Is(kerr, ErrNotFound) {
			kerr = c.loadError(l.key, kerr)
		}
		c.loaded(l, took, kerr)
		if kerr != nil && !errors.Is(kerr, ErrNotFound) {
			b.giveUp(w, kerr)
			continue
		}
		e := newEntry[K, V](w.k, w.call.Key, mirror.Untrusted)
		e.value, e.negative, e.deps = v, kerr != nil, deps[i]
		e.began, e.seen, e.proven, e.cost = began, began, began, took/int64(len(mine))
		fills = append(fills, &fill[K, V]{e: e, l: l, g: w.grant, depsErr: depsErr[i], created: created})
		filled = append(filled, w)
	}
	c.store(ctx, fills)
	for i, w := range filled {
		c.flights.Finish(w.call, c.conclude(fills[i], w.mark, w.found.reason))
	}
}

// claim asks for all leases in one go, and hands those that are held by others to single calls.
func (b *batch[K, V]) claim(ctx context.Context, missing []*want[K, V], p *preparation) (mine []*want[K, V]) {
	c := b.c
	var reqs []store.ClaimRequest
	var asked []*want[K, V]
	trust := c.client.mirror.Trust()
	for _, w := range missing {
		w.mark = c.mark(w.call.Key).Load()
		if !w.found.usable {
			mine = append(mine, w)
			continue
		}
		w.grant = &grant{mark: w.mark, trust: trust}
		reqs = append(reqs, store.ClaimRequest{Key: w.call.Key, Seen: w.found.identity, ID: newID(), TTL: c.cfg.LeaseTime, Refresh: c.keeps(w.found), Plain: c.cfg.Plain})
		asked = append(asked, w)
	}
	if len(reqs) == 0 {
		return mine
	}
	claims := p.claim(ctx, c.client.store, reqs...)
	if unanswered(p.err) {
		b.silent = p.err
	}
	for i, claim := range claims {
		w := asked[i]
		switch claim.Outcome {
		case store.Leased:
			w.grant.lease = claim.Lease
			mine = append(mine, w)
		case store.Failed:
			c.client.claimFailed(reqs[i], claim.Err)
			w.grant = nil
			mine = append(mine, w)
		default:
			w.grant = nil
			w.found.usable = b.silent == nil
			b.unwanted(w) // the call goes its own way
			c.spawn(ctx, w.call, w.k, nil, w.found)
		}
	}
	return mine
}

func (b *batch[K, V]) giveUp(w *want[K, V], err error) {
	b.c.flights.Finish(w.call, outcome[K, V]{level: observe.LevelSource, reason: w.found.reason, err: err})
}

// loadMany calls LoadMany and contains its panics.
func (c *Cache[K, V]) loadMany(ctx context.Context, keys []K, l *BatchLoad[K]) (m map[K]V, err error) {
	returned := false
	defer func() {
		if !returned {
			err = c.panicked("", recover())
		}
	}()
	m, err = c.cfg.LoadMany(ctx, keys, l)
	returned = true
	return m, err
}
