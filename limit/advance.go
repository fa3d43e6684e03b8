package limit

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// advances hold units that were taken from the store ahead of need, by policy and key.
//
// Who finds too few takes what it needs and some more; those that come meanwhile wait for it, and share its failure, since a store that is slow
// or away must not cost them one timeout after the other. How much more: at most Spec.Advance, and a tenth of what the store said is left; so
// batches shrink as the pool drains, and end when it has under ten units.
type advances struct {
	l    *Limiter
	most int // pools
	keep time.Duration
	seed maphash.Seed

	shards [16]advanceShard // by key

	mu      sync.Mutex    // taken before that of a shard, which is taken before that of a pool
	count   int           // of pools; guarded by mu
	closed  bool          // guarded by mu
	stop    chan struct{} // made with the first pool; guarded by mu
	stopped sync.WaitGroup
}

type advanceShard struct {
	mu    sync.RWMutex
	pools map[advanceKey]*advance // guarded by mu
}

type advanceKey struct {
	version uint64
	key     string
}

// An advance is the pool of one key.
type advance struct {
	policy *Policy
	key    string

	fetch    chan struct{} // holds one element while somebody asks the store for more
	failures atomic.Uint64 // grows with each failure; changed with fetch

	mu    sync.Mutex
	units int64         // guarded by mu
	last  Status        // the last answer of the store; guarded by mu
	began time.Duration // just before the store was asked for it; guarded by mu
	ends  time.Duration // the units end then, with their window; 0 for GCRA; guarded by mu
	reset uint64        // grows with each forget; guarded by mu
	used  bool          // since the last sweep; guarded by mu
	gone  bool          // it was swept; guarded by mu
	err   error         // the last failure; guarded by mu
}

func newAdvances(l *Limiter, most int, keep time.Duration) *advances {
	a := &advances{l: l, most: most, keep: keep, seed: maphash.MakeSeed()}
	for i := range a.shards {
		a.shards[i].pools = map[advanceKey]*advance{}
	}
	return a
}

func (a *advances) shard(key string) *advanceShard {
	return &a.shards[maphash.String(a.seed, key)%uint64(len(a.shards))]
}

// takes reports whether charges like c may use units taken ahead.
func (a *advances) takes(c *Charge) bool {
	// What is asked for ahead, and isn't there, would count for a penalty as a refused request.
	return a != nil && c.Policy.spec.Advance > 0 && !c.Shadow && c.Cost <= c.Policy.spec.Advance && c.Policy.rule.After == 0
}

func (a *advances) pool(c *Charge) *advance {
	k := advanceKey{c.Policy.version, c.Key}
	shard := a.shard(c.Key)
	shard.mu.RLock()
	p := shard.pools[k]
	shard.mu.RUnlock()
	if p != nil {
		return p
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.count >= a.most {
		return nil
	}
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if p = shard.pools[k]; p == nil {
		p = &advance{policy: c.Policy, key: c.Key, fetch: make(chan struct{}, 1)}
		shard.pools[k] = p
		a.count++
		if a.stop == nil {
			a.stop = make(chan struct{})
			a.stopped.Go(a.run)
		}
	}
	return p
}

// take decides c by units taken ahead, and takes more where they are too few.
func (a *advances) take(ctx context.Context, c *Charge) (Status, error) {
	p := a.pool(c)
	if p == nil {
		return a.l.askInTime(ctx, c)
	}
	failures := p.failures.Load()
	if s, ok := p.spend(c, a.l.now()); ok {
		return s, nil
	}
	caller := ctx
	ctx, cancel := a.l.deadline(ctx, 1)
	defer cancel()
	select {
	case p.fetch <- struct{}{}:
	case <-ctx.Done():
		return Status{}, fmt.Errorf("limit: decide by %q: %w", c.Policy.name, context.Cause(ctx))
	}
	defer func() { <-p.fetch }()
	if s, ok := p.spend(c, a.l.now()); ok {
		return s, nil
	}
	var s Status
	if a.l.remembered(c, &s) {
		return s, nil
	}
	if p.failures.Load() != failures {
		p.mu.Lock()
		defer p.mu.Unlock()
		return Status{}, p.err
	}
	if !a.l.enter() { // closed meanwhile: what is taken ahead now would be given back by nobody
		return a.l.askOne(ctx, c)
	}
	defer a.l.work.Done()
	s, err := a.more(ctx, p, c)
	if err != nil && a.l.callerGone(caller, err) == nil {
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		p.failures.Add(1)
	}
	return s, err
}

// spend takes the cost of c out of the pool, if it is there.
func (p *advance) spend(c *Charge, now time.Duration) (Status, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ends > 0 && now >= p.ends {
		p.units = 0
	}
	p.used = true
	if p.gone || p.units < max(c.Cost, 1) {
		return Status{}, false
	}
	p.units -= c.Cost

	s, rule, gone := p.last, &c.Policy.rule, now-p.began
	if rule.Kind == GCRA {
		debt := whole(max(s.ResetAfter-gone, 0))
		s = rule.ViewGCRA(debt.Microseconds(), 0).Status(c, false, s.At)
	} else {
		s.MoreAfter, s.ResetAfter = whole(max(s.MoreAfter-gone, 0)), whole(max(s.ResetAfter-gone, 0))
	}
	s.Cost, s.Remaining, s.Source = c.Cost, s.Remaining+p.units, FromAdvance
	s.Fits, s.Charged, s.RetryAfter = true, c.Cost > 0, 0
	return s, true
}

// more asks the store for the cost of c and for units ahead. The caller holds p.fetch, and has entered.
func (a *advances) more(ctx context.Context, p *advance, c *Charge) (Status, error) {
	p.mu.Lock()
	ahead := max(min(c.Policy.spec.Advance-p.units, (p.last.Remaining-c.Cost)/10), 0)
	reset := p.reset
	p.mu.Unlock()
	if c.Cost == 0 {
		ahead = 0
	}
	began := a.l.now()
	both := *c
	both.Cost += ahead
	s, err := a.l.askOne(ctx, &both)
	if err == nil && !s.Fits && ahead > 0 {
		// Not a second try: the first was refused, so it charged nothing.
		ahead, began = 0, a.l.now()
		s, err = a.l.askOne(ctx, c)
	}
	if err != nil {
		return Status{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.began = s, began
	if s.Charged && p.reset == reset {
		if p.gone && ahead > 0 {
			a.l.work.Go(func() { a.l.giveBack(p.policy, p.key, ahead, s.At) })
		} else {
			p.units += ahead
		}
		if c.Policy.rule.Kind == Fixed {
			p.ends = began + s.ResetAfter
		}
	}
	s.Cost, s.Remaining = c.Cost, s.Remaining+p.units
	return s, nil
}

// forget drops the units of a key that was reset: they are part of what was forgotten.
func (a *advances) forget(key string) {
	if a == nil {
		return
	}
	shard := a.shard(key)
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	for k, p := range shard.pools {
		if k.key == key {
			p.mu.Lock()
			p.units, p.last = 0, Status{}
			p.reset++
			p.mu.Unlock()
		}
	}
}

// run gives back what isn't used, until close.
func (a *advances) run() {
	tick := time.NewTicker(a.keep)
	defer tick.Stop()
	for {
		select {
		case <-a.stop:
			return
		case <-tick.C:
			a.sweep(false)
		}
	}
}

// sweep ends the pools that weren't used since the last sweep, or all.
func (a *advances) sweep(all bool) {
	for i := range a.shards {
		for _, p := range a.unused(&a.shards[i], all) {
			p.mu.Lock()
			units, at := p.units, p.last.At
			if p.ends > 0 && a.l.now() >= p.ends {
				units = 0
			}
			p.units = 0
			p.mu.Unlock()
			if units > 0 {
				a.l.giveBack(p.policy, p.key, units, at)
			}
		}
	}
}

func (a *advances) unused(shard *advanceShard, all bool) (pools []*advance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	shard.mu.Lock()
	defer shard.mu.Unlock()
	for k, p := range shard.pools {
		p.mu.Lock()
		if all || !p.used {
			p.gone = true
			pools = append(pools, p)
			delete(shard.pools, k)
			a.count--
		}
		p.used = false
		p.mu.Unlock()
	}
	return pools
}

// close gives everything back. No pool is made after it.
func (a *advances) close() {
	if a == nil {
		return
	}
	a.mu.Lock()
	a.closed = true
	if a.stop != nil {
		close(a.stop)
	}
	a.mu.Unlock()
	a.stopped.Wait()
	a.sweep(true)
}
