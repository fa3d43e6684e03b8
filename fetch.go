package freshet

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/freshetdev/freshet/codec"
	"github.com/freshetdev/freshet/internal/keys"
	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// A grant is the right to fill, with what was noted before it was asked for.
type grant struct {
	lease store.Lease
	mark  uint32        // drops of the key seen so far
	trust *mirror.Trust // of the link the lease was taken over
	spent bool          // filled or lost: there is nothing to give back
}

// fetch asks the source and stores what it brings, if g is not nil. It always returns something for the
// callers who wait.
func (c *Cache[K, V]) fetch(ctx context.Context, call *call[K, V], k K, load loader[V], p preparation, g *grant, reason observe.Reason) outcome[K, V] {
	o := outcome[K, V]{level: observe.LevelSource, reason: reason}
	defer func() {
		if g != nil && !g.spent {
			c.release(g.lease)
		}
	}()
	lctx, cancel := context.WithTimeoutCause(ctx, c.cfg.LoadTimeout, errLoadTimeout)
	defer cancel()
	a, err := c.enter(lctx, &call.State.turn, call.Key, call.State.background)
	if err != nil {
		o.err = err
		return o
	}
	defer c.leave(&a)

	l := &Load{key: call.Key, refresh: call.State.background}
	if old := call.State.old.Load(); old != nil && !old.negative {
		if p := c.client.prove(c.client.clock.Now(), &old.checked, old.trust, old.proven, old.seen, old.deps, old.name); p < proofDropped {
			l.prev = old.value
		}
	}
	mark := c.mark(call.Key).Load()
	if g != nil {
		mark = g.mark
	}
	// The read position is recorded before the source is asked. Recorded afterwards, a drop
	// during the load would count as seen by it, and the old value would stay for its whole TTL.
	deps, depsErr := p.done()
	began := c.client.clock.Exact()
	created := c.client.store.Now()
	call.State.deps.Store(&deps)
	call.State.began.Store(began)

	v, err := c.load(lctx, k, l, load)
	took := c.client.clock.Exact() - began
	c.judge(lctx, &a, err)
	switch {
	case errors.Is(err, ErrNotModified):
		prev, ok := l.prev.(V)
		if !ok {
			o.err = c.loadError(call.Key, fmt.Errorf("%w, but there is no previous value", err))
			return o
		}
		v = prev
	case err != nil && !errors.Is(err, ErrNotFound):
		o.err = err
		return o
	}
	e := newEntry[K, V](k, call.Key, mirror.Untrusted)
	e.value, e.negative, e.deps = v, errors.Is(err, ErrNotFound), deps
	e.began, e.seen, e.proven, e.cost = began, began, began, took
	fills := []*fill[K, V]{{e: e, l: l, g: g, depsErr: depsErr, created: created}}
	c.store(ctx, fills)
	return c.conclude(fills[0], mark, reason)
}

// conclude makes the outcome for those who wait of what a load brought, and puts it into L1.
func (c *Cache[K, V]) conclude(f *fill[K, V], mark uint32, reason observe.Reason) outcome[K, V] {
	e, l, g := f.e, f.l, f.g
	o := outcome[K, V]{e: e, level: observe.LevelSource, reason: reason, refused: f.refused}
	switch o.refused {
	case observe.ReasonLateTag, observe.ReasonNoStore, observe.ReasonLongKey, observe.ReasonManyTags, observe.ReasonBadTag:
		l.mu.Lock()
		o.unsure = len(l.tags) > 0
		l.mu.Unlock()
	}
	switch o.refused {
	case observe.ReasonNone:
		o.stored = true
		e.trust = g.trust
		c.finish(e)
		c.admit(e, mark)
		// The store tells other instances, not this one. If word of a drop came late, or twice, this load was
		// forgotten though it held the lease, and another call of this instance waits for that.
		if call := c.flights.Find(e.name); call != nil {
			call.State.poke()
		}
	case observe.ReasonNoLease, observe.ReasonStoreError, observe.ReasonPending:
		// Known true at its load's start: L1 may use it for StaleAtMost.
		c.finish(e)
		c.admit(e, mark)
	case observe.ReasonNoStore:
		o.private = l.noShare
	}
	return o
}

// windows are the times of an entry from the start of its load.
type windows struct{ fresh, stale, failed time.Duration }

func (w windows) end() time.Duration { return max(w.fresh, w.stale, w.failed) }

func (c *Cache[K, V]) windows(l *Load, negative bool) windows {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.cfg.Plain && negative {
		return windows{}
	}
	ttl, stale := jittered(c.cfg.TTL, c.cfg.Jitter), c.cfg.Stale
	if negative {
		ttl, stale = jittered(c.cfg.NegativeTTL, c.cfg.Jitter), Stale{}
	}
	if l.ttlSet {
		ttl = min(l.ttl, forever)
	}
	if l.stale != nil && !c.cfg.Plain {
		stale = *l.stale
	}
	if ttl <= 0 {
		return windows{}
	}
	return windows{fresh: ttl, stale: ttl + min(stale.WhileRevalidate, forever), failed: ttl + min(stale.IfError, forever)}
}

// A fill is an entry on its way to the shared level.
type fill[K comparable, V any] struct {
	e       *entry[K, V]
	l       *Load
	g       *grant // nil: without a lease it is not stored
	depsErr error  // why it must not be stored
	created time.Time

	image   []byte
	ttl     time.Duration
	refused observe.Reason // why it is not in the shared level
}

// store fills the shared level in one request, and notes which entries are there.
func (c *Cache[K, V]) store(ctx context.Context, fills []*fill[K, V]) {
	var reqs []store.FillRequest
	var sent []*fill[K, V]
	late := c.registerLate(ctx, fills)
	for _, f := range fills {
		if f.refused = c.encodeFill(f); f.refused == observe.ReasonNone {
			reqs = append(reqs, store.FillRequest{Lease: f.g.lease, Image: f.image, TTL: f.ttl})
			sent = append(sent, f)
		}
	}
	runtime.KeepAlive(late)
	if len(reqs) > 0 {
		var failed error
		for i, err := range c.client.store.Fill(ctx, reqs) {
			f := sent[i]
			f.g.spent = err == nil || errors.Is(err, store.ErrLeaseLost)
			switch {
			case errors.Is(err, store.ErrLeaseLost):
				f.refused = observe.ReasonLeaseLost
			case err != nil:
				f.refused, failed = observe.ReasonStoreError, err
			}
		}
		if failed != nil {
			c.client.storeFailed("fill", failed)
		}
	}
	for _, f := range fills {
		c.client.stats.fill(f.refused)
		if h := c.client.hooks.Fill; h != nil {
			h(observe.Fill{Cache: c.cfg.Name, Key: f.e.name, Stored: f.refused == observe.ReasonNone, Reason: f.refused, Bytes: len(f.image)})
		}
	}
}

// registerLate asks the store for the stamps of tags that only the answers named. If it doesn't tell them, it
// isn't asked to store either. What it returns holds the tags' cells.
func (c *Cache[K, V]) registerLate(ctx context.Context, fills []*fill[K, V]) (p preparation) {
	if c.cfg.Plain {
		return p
	}
	var late []string
	for _, f := range fills {
		if f.g != nil && f.depsErr == nil {
			f.l.mu.Lock()
			if len(f.l.tags) <= c.cfg.MaxTags && allValid(f.l.tags) { // otherwise it is not stored
				late = append(late, withCoarse(nil, f.l.tags)...)
			}
			f.l.mu.Unlock()
		}
	}
	if len(late) == 0 {
		return p
	}
	slices.Sort(late)
	p = c.prepare(slices.Compact(late))
	p.register(ctx)
	if unanswered(p.err) {
		for _, f := range fills {
			f.depsErr = cmp.Or(f.depsErr, p.err)
		}
	}
	return p
}

// encodeFill makes the image of an entry, or says why it must not be stored.
func (c *Cache[K, V]) encodeFill(f *fill[K, V]) (refused observe.Reason) {
	e := f.e
	w := c.windows(f.l, e.negative)
	e.fresh, e.stale, e.failed = e.began+int64(w.fresh), e.began+int64(w.stale), e.began+int64(w.failed)
	f.l.mu.Lock()
	noStore, late := f.l.noStore, f.l.tags
	f.l.mu.Unlock()
	switch {
	case noStore || w.fresh <= 0:
		return observe.ReasonNoStore
	case len(e.name) > c.client.opts.MaxKey:
		return observe.ReasonLongKey
	// Before cells are made of them.
	case len(late) > c.cfg.MaxTags:
		return observe.ReasonManyTags
	case !allValid(late):
		return observe.ReasonBadTag
	}
	if len(late) > 0 && !c.cfg.Plain {
		var ok bool
		if f.g != nil && f.depsErr == nil {
			e.deps, ok = c.client.mirror.Adopt(e.deps, withCoarse(nil, late))
		} else {
			// A drop by this instance is pending or in the log that the cells know. Those by others show within
			// StaleAtMost, and this value is served no longer.
			e.deps = c.client.mirror.AdoptLocally(e.deps, withCoarse(nil, late))
			ok = !c.client.outbox.blocks(e.name, e.deps, e.seen) && c.client.mirror.Check(e.deps, e.seen) != mirror.Dropped
		}
		if !ok {
			return observe.ReasonLateTag
		}
	}
	switch {
	case !validTags(e.deps):
		return observe.ReasonBadTag
	case countTags(e.deps) > c.cfg.MaxTags:
		return observe.ReasonManyTags
	}
	// Encoded also if it can't be stored: L1 keeps it for a while, and has its bounds.
	raw, err := c.raw(e)
	if err != nil {
		return observe.ReasonEncode
	}
	e.weight = uint32(min(len(raw)+len(e.name), 1<<30))
	if c.cfg.CheckMutation {
		e.sum = xxhash.Sum64(raw)
	}
	switch {
	case len(raw) > c.cfg.MaxValue:
		return observe.ReasonTooLarge
	case f.g == nil:
		return observe.ReasonNoLease
	case f.depsErr != nil:
		return observe.ReasonStoreError
	}
	f.image = c.image(e, raw, f.created, w)
	f.ttl = w.end() - time.Duration(c.client.clock.Exact()-e.began)
	if f.ttl <= 0 {
		return observe.ReasonNoStore
	}
	if c.client.outbox.blocks(e.name, e.deps, e.seen) || c.client.mirror.Check(e.deps, e.seen) == mirror.Dropped {
		return observe.ReasonLeaseLost
	}
	return observe.ReasonNone
}

func allValid(tags []string) bool {
	return !slices.ContainsFunc(tags, func(t string) bool { return keys.ValidTag(t) != nil })
}

func validTags(deps mirror.Deps) bool {
	for i := range deps {
		for _, c := range deps[i].Cells {
			if keys.ValidTag(c.Tag()) != nil {
				return false
			}
		}
	}
	return true
}

func countTags(deps mirror.Deps) (n int) {
	for i := range deps {
		n += len(deps[i].Cells)
	}
	return n
}

// raw encodes the value of e; a negative entry has none.
func (c *Cache[K, V]) raw(e *entry[K, V]) ([]byte, error) {
	if e.negative {
		return nil, nil
	}
	raw, err := c.encode(e.value)
	if err == nil && c.cfg.Plain && len(raw) == 0 {
		err = errors.New("freshet: an empty value can't be stored in a plain namespace")
	}
	return raw, err
}

// image makes of e, whose encoded value is raw, what the shared level keeps.
func (c *Cache[K, V]) image(e *entry[K, V], raw []byte, created time.Time, w windows) []byte {
	if c.cfg.Plain {
		return raw
	}
	e.id = newID()
	r := store.Record{
		Kind: store.KindValue, ID: e.id, Created: created,
		Fresh: created.Add(w.fresh), Stale: created.Add(w.stale), Error: created.Add(w.failed),
		Cost: time.Duration(e.cost), Schema: c.cfg.Schema, Codec: c.cfg.Codec.Name(),
		Deps: c.storedDeps(e.name, e.deps), Payload: raw,
	}
	if e.negative {
		r.Kind = store.KindNegative
	} else if c.cfg.CompressOver > 0 && len(raw) >= c.cfg.CompressOver {
		if packed, ok := codec.Pack(nil, raw, c.cfg.CompressOver-1); ok {
			r.Payload, r.Packed = packed, store.PackS2
		}
	}
	return store.AppendRecord(nil, &r)
}

// storedDeps are the dependencies as a record keeps them, coarse tags included. The partition of the key belongs to them: drops
// of the key are in its log, and where that lost some, the key may be back.
func (c *Cache[K, V]) storedDeps(name string, deps mirror.Deps) []store.Dep {
	own := c.client.mirror.Partition(name)
	var out []store.Dep
	for _, d := range deps {
		if len(d.Cells) == 0 && d.Part != own {
			continue
		}
		s := store.Dep{Part: d.Part, Epoch: d.Epoch, Read: d.Read}
		for _, cell := range d.Cells {
			s.Tags = append(s.Tags, cell.Tag())
		}
		out = append(out, s)
	}
	return out
}

// finish fills in what L1 needs.
func (c *Cache[K, V]) finish(e *entry[K, V]) {
	e.local = e.fresh
	limit := c.cfg.L1TTL
	if _, tracks := c.client.mirror.Up(); !tracks {
		limit = minPositive(limit, time.Duration(c.staleAtMost))
	}
	if limit > 0 {
		e.local = min(e.local, e.seen+int64(limit))
	}
	if c.cfg.Weigh != nil && !e.negative {
		c.weigh(e)
	}
	e.weight = max(e.weight, 1)
	e.calm = mirror.Never
	if !e.negative {
		e.calm = e.calmUntil(c.cfg.EarlyRefresh)
	}
}

func minPositive(a, b time.Duration) time.Duration {
	if a <= 0 {
		return b
	}
	return min(a, b)
}

// load calls the loader, contains its panics, and wraps its error.
func (c *Cache[K, V]) load(ctx context.Context, k K, l *Load, load loader[V]) (v V, err error) {
	began := c.client.clock.Exact()
	returned := false
	defer func() {
		if !returned {
			err = c.loadError(l.key, c.panicked(l.key, recover()))
		}
		c.loaded(l, c.client.clock.Exact()-began, err)
	}()
	switch {
	case load != nil:
		v, err = load(ctx, l)
	case c.cfg.Load != nil:
		v, err = c.cfg.Load(ctx, k, l)
	default:
		var m map[K]V
		m, err = c.cfg.LoadMany(ctx, []K{k}, &BatchLoad[K]{loads: map[K]*Load{k: l}})
		var ok bool
		if v, ok = m[k]; !ok && err == nil {
			err = ErrNotFound
		}
	}
	returned = true
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNotModified) {
		err = c.loadError(l.key, err)
	}
	return v, err
}

// weigh asks Config.Weigh; if that panics, the encoded size stands.
func (c *Cache[K, V]) weigh(e *entry[K, V]) {
	defer func() {
		if p := recover(); p != nil {
			_ = c.panicked(e.name, p)
		}
	}()
	e.weight = uint32(min(max(c.cfg.Weigh(e.value), 1), 1<<30))
}

// guard does work that ends calls, and ends them if it doesn't come to that: where Config.Tags or the codec
// panics or calls runtime.Goexit, those who wait must not wait for ever.
func (c *Cache[K, V]) guard(work func(), calls ...*call[K, V]) (ended bool) {
	defer func() {
		if ended {
			return
		}
		p := c.panicked(calls[0].Key, recover())
		for _, call := range calls {
			c.flights.Finish(call, outcome[K, V]{level: observe.LevelSource, err: c.loadError(call.Key, p)})
		}
	}()
	work()
	return true
}

// panicked makes an error of what recover returned: nil after runtime.Goexit.
func (c *Cache[K, V]) panicked(key string, value any) *PanicError {
	if value == nil {
		value = "runtime.Goexit"
	}
	p := &PanicError{Value: value, Stack: debug.Stack()}
	if h := c.client.hooks.Panic; h != nil {
		h(observe.Panic{Cache: c.cfg.Name, Key: key, Value: p.Value, Stack: p.Stack})
	}
	return p
}

// loaded counts and tells of a load that ended.
func (c *Cache[K, V]) loaded(l *Load, took int64, err error) {
	failed := err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNotModified)
	c.client.stats.load(took, l.refresh, failed)
	if h := c.client.hooks.Load; h != nil {
		if !failed {
			err = nil
		}
		h(observe.Load{Cache: c.cfg.Name, Key: l.key, Took: time.Duration(took), Refresh: l.refresh, Verify: l.verify, Err: err})
	}
}

func (c *Cache[K, V]) loadError(name string, err error) error {
	if _, ok := errors.AsType[*LoadError](err); ok {
		return err
	}
	return &LoadError{Cache: c.cfg.Name, Key: name, Err: err}
}

// release gives a lease back in the background: nobody should wait for it but Close, since a lease that
// is not given back makes the other instances wait for its end.
func (c *Cache[K, V]) release(l store.Lease) {
	free := func() {
		ctx, cancel := context.WithTimeout(context.Background(), c.client.opts.StoreBudget)
		defer cancel()
		if err := c.client.store.Release(ctx, l); err != nil {
			c.client.storeFailed("release", err)
			c.client.owe(l, c.cfg.LeaseTime)
		}
		// The store tells other instances, not this one: a call that began after a drop of
		// one of the key's tags may be waiting for this lease.
		if call := c.flights.Find(l.Key); call != nil {
			call.State.poke()
		}
	}
	if !c.client.background(free) {
		free()
	}
}

func newID() (id store.ID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}
