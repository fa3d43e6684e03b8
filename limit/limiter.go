package limit

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// MaxRequests is the largest number of requests of one decision.
const MaxRequests = 16

// ErrRequest is wrapped by errors that say what is wrong with a request: it is the caller's mistake, and was not decided.
var ErrRequest = errors.New("limit: bad request")

// A Limiter decides by policies over one store. It is safe for concurrent use.
type Limiter struct {
	store    Store
	quick    GCRATaker // the store, if it is one in this process
	opts     Options
	direct   bool // the store is in this process: no deadline, no breaker, nothing is remembered
	prompt   bool // it keeps deadlines
	start    time.Time
	breaker  *breaker
	refusals *refusals // nil: nothing is remembered
	advances *advances // nil: nothing is taken ahead
	counters *counters // apart: they are written all the time

	leases  atomic.Uint64 // numbers of leases
	process [8]byte       // random: the other half of their ids

	life   sync.RWMutex   // held for reading while work is begun
	closed atomic.Bool    // set under life
	work   sync.WaitGroup // calls of the store that nobody waits for any more, taking ahead, and giving back
}

// New makes a Limiter. It takes the store over: Close closes it.
func New(store Store, opts Options) (*Limiter, error) {
	if store == nil {
		return nil, errors.New("limit: the store is nil")
	}
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	traits := store.Traits()
	l := &Limiter{
		store: store, opts: opts, direct: traits.InProcess, prompt: traits.KeepsDeadline,
		counters: new(counters), start: time.Now(), breaker: newBreaker(opts.BreakAfter, opts.BreakFor),
	}
	if l.direct {
		l.quick, _ = store.(GCRATaker)
	}
	_, _ = rand.Read(l.process[:]) // it never fails
	if !l.direct && opts.RefusedKeys > 0 {
		l.refusals = newRefusals(opts.RefusedKeys, opts.RefusedFor)
	}
	if !l.direct && opts.AdvanceKeys > 0 {
		l.advances = newAdvances(l, opts.AdvanceKeys, opts.AdvanceFor)
	}
	return l, nil
}

// Allow takes one unit, and reports whether there was one. A bad request is refused.
func (l *Limiter) Allow(ctx context.Context, p *Policy, key string) bool {
	r := Request{Policy: p, Key: key}
	if l.quick != nil && l.opts.Hooks.Decided == nil { // nobody wants to know more than yes or no
		var c Charge
		if l.begin(ctx) != nil {
			return false
		}
		if exempt, err := l.charge(&r, &c); err != nil {
			return false
		} else if !exempt {
			if _, fits, ok := l.quick.TakeGCRA(c.Policy, c.Key, c.Cost); ok {
				l.counters.countFit(fits, c.Shadow)
				return fits || c.Shadow
			}
		}
	}
	var d Decision
	return l.decideOne(ctx, &r, &d) == nil && d.Allowed
}

// Decide takes the units of all requests, or none: a refused decision costs nothing. The error is ErrRequest, wrapped, ErrClosed, or that of a
// ctx that ended; the decision is then a refusal. A store that fails is no error: each policy's
// OnOutage decides, and the decision is Degraded.
//
// Requests whose keys share a slot of the store (see [Store].Slot) are decided as one. For others the slots are asked one after the other, in the order of the
// requests, and what was taken is given back when a later one refuses: so for the time of a
// round trip or two, others may be refused by units that are then given back, and if this process dies in between, they stay charged. Put
// the limit that refuses most often first.
//
// The requests must be of different limits: 1 to MaxRequests, no two of the same policy name, kind and key.
//
// In a store of this process a decision on one request makes no allocation, and one on up to four makes two.
func (l *Limiter) Decide(ctx context.Context, reqs ...Request) (d Decision, err error) {
	if len(reqs) != 1 {
		return l.decideAll(ctx, reqs)
	}
	err = l.decideOne(ctx, &reqs[0], &d)
	return d, err
}

// decideOne is Decide of one request. It is written so that a decision of a store in this process copies little and allocates nothing.
func (l *Limiter) decideOne(ctx context.Context, r *Request, d *Decision) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	var c Charge
	exempt, err := l.charge(r, &c)
	if err != nil {
		return err
	}
	if exempt {
		d.Status, d.Allowed = exempted(&c), true
		l.decided(d)
		return nil
	}
	if l.quick != nil {
		if debt, fits, ok := l.quick.TakeGCRA(c.Policy, c.Key, c.Cost); ok {
			c.Policy.rule.AnswerGCRA(&d.Status, &c, debt, fits, fits && c.Cost > 0)
			d.Allowed = fits || c.Shadow
			d.Shadowed = !fits && c.Shadow
			l.counters.countFit(fits, c.Shadow)
			if l.opts.Hooks.Decided != nil {
				l.opts.Hooks.Decided(*d)
			}
			return nil
		}
	}
	if c.Policy.rule.Kind == Concurrency && c.Cost > 0 {
		c.Lease = l.newLease()
	}
	if l.direct {
		d.Status, err = l.store.Take(ctx, c)
	} else {
		err = l.take(ctx, &c, &d.Status)
	}
	if err != nil {
		d.Status = Status{}
		l.abandon(&c, err)
		if gone := l.callerGone(ctx, err); gone != nil {
			return gone
		}
		d.Degraded, d.Err = true, err
		d.Status = l.outage(ctx, &c)
	}
	d.Allowed = d.Fits || d.Shadow
	d.Shadowed = !d.Fits && d.Shadow
	if d.Charged {
		d.Lease = c.Lease
	}
	l.decided(d)
	return nil
}

// begin checks what every operation checks first.
func (l *Limiter) begin(ctx context.Context) error {
	if l.closed.Load() {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("limit: %w", err)
	}
	return nil
}

// charge makes c what the store is asked for a request.
func (l *Limiter) charge(r *Request, c *Charge) (exempt bool, err error) {
	if r.Policy == nil {
		return false, fmt.Errorf("%w: the policy is nil, key %q", ErrRequest, r.Key)
	}
	c.Policy, c.Key, c.Cost = r.Policy, r.Key, r.Cost
	if !isStoreKey(r.Key) {
		c.Key = storeKey(r.Key)
	}
	switch {
	case c.Cost == 0:
		c.Cost = 1
	case c.Cost == Uncharged:
		c.Cost = 0
	case c.Cost < 0 || c.Cost > MaxUnits:
		return false, fmt.Errorf("%w: the cost is %d, policy %q, key %q; want 0 to %d, or Uncharged", ErrRequest, r.Cost, r.Policy.name, r.Key, int64(MaxUnits))
	}
	if l.opts.Override != nil {
		p := l.opts.Override(r.Policy, r.Key)
		if p == nil {
			return true, nil
		}
		c.Policy = p
	}
	c.Shadow = l.Shadows(c.Policy)
	if c.Policy.local != nil && l.opts.Local == nil {
		return false, fmt.Errorf("%w: policy %q says OutageLocal; want Options.Local", ErrRequest, c.Policy.name)
	}
	return false, nil
}

func exempted(c *Charge) Status {
	return Status{Policy: c.Policy, Key: c.Key, Cost: c.Cost, Fits: true, Source: FromExempt}
}

// Shadows reports whether p refuses nothing here: by its own Spec.Shadow, or by Options.Shadow. An override may say otherwise for a key.
func (l *Limiter) Shadows(p *Policy) bool { return l.opts.Shadow || p.spec.Shadow }

func (l *Limiter) newLease() (id ID) {
	copy(id[:8], l.process[:])
	binary.BigEndian.PutUint64(id[8:], l.leases.Add(1))
	return id
}

func (l *Limiter) now() time.Duration { return time.Since(l.start) }

// decided counts a decision and tells of it.
func (l *Limiter) decided(d *Decision) {
	l.counters.count(d)
	if l.opts.Hooks.Decided != nil {
		l.opts.Hooks.Decided(*d)
	}
}

// Peek says what Decide would, as far as the store knows, and changes nothing. It is no decision: it isn't counted, and
// an outage is an error.
func (l *Limiter) Peek(ctx context.Context, reqs ...Request) (Decision, error) {
	if err := l.begin(ctx); err != nil {
		return Decision{}, err
	}
	b, err := l.batch(reqs)
	if err != nil {
		return Decision{}, err
	}
	cctx, cancel := l.deadline(ctx, correctionTimeouts)
	defer cancel()
	for _, g := range b.groups() {
		err := l.call(cctx, "peek", g.charges[0].Policy, func(ctx context.Context) error {
			return l.store.Peek(ctx, g.charges, g.out)
		})
		if err != nil {
			return Decision{}, err
		}
		b.found(g)
	}
	return b.decision(), nil
}

// Stats are the counts.
func (l *Limiter) Stats() Stats {
	s := l.counters.sum()
	s.Opened, s.BreakerOpen = l.breaker.stats()
	return s
}

// Close gives back what was taken ahead of need, waits for what is under way, and closes the store. Operations
// after it fail with ErrClosed.
func (l *Limiter) Close() error {
	l.life.Lock()
	again := l.closed.Swap(true)
	l.life.Unlock()
	if again {
		return nil
	}
	l.work.Wait()
	l.advances.close()
	return l.store.Close()
}

// spawn runs f, and Close waits for it; false after Close.
func (l *Limiter) spawn(f func()) bool {
	if !l.enter() {
		return false
	}
	defer l.work.Done()
	l.work.Go(f)
	return true
}

// enter makes Close wait until l.work.Done is called; false after Close.
func (l *Limiter) enter() bool {
	l.life.RLock()
	defer l.life.RUnlock()
	if l.closed.Load() {
		return false
	}
	l.work.Add(1)
	return true
}
