package overload

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ErrShed is wrapped by errors that say why a request was turned away. It was not sent; the
// caller may answer with something else, or 503.
var ErrShed = errors.New("overload: shed")

var (
	errFull      = fmt.Errorf("%w: the queue is full", ErrShed)
	errDisplaced = fmt.Errorf("%w: a higher priority took its place in the queue", ErrShed)
	errWaited    = fmt.Errorf("%w: no place in time", ErrShed)
)

// A Limiter admits as many requests at a time as the origin can work on. It has no background work, and is
// safe for concurrent use.
type Limiter struct {
	opts  Options
	epoch time.Time

	mu       sync.Mutex
	gradient gradient              // guarded by mu
	inFlight int                   // guarded by mu
	queued   int                   // guarded by mu; the sum of the lists' lengths
	waiting  [priorities]list.List // of *waiter, oldest first; guarded by mu. All are empty while a place is free
	counts   [priorities]Counts    // but for Queued; guarded by mu
}

// A waiter is a request in the queue.
//
//	state     event                       next       place
//	waiting   a place is free, its turn   admitted   taken for it
//	waiting   a higher priority needs it  displaced
//	waiting   MaxWait, or ctx ends        -          leaves the list
//	admitted  ctx ended meanwhile         -          given back, to the next
type waiter struct {
	settled chan struct{} // closed once; err is written before that, read only after
	err     error
}

// New makes a Limiter.
func New(opts Options) (*Limiter, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Limiter{opts: opts, epoch: time.Now(), gradient: newGradient(opts.Min, opts.Max, opts.Initial, opts.Samples, opts.Tolerance)}, nil
}

// Acquire takes a place among those in flight, and waits for one if need be.
//
//	release, err := l.Acquire(ctx, overload.Normal)
//	if err != nil { ... } // ErrShed, wrapped, or that of ctx: no place was taken
//	outcome := overload.Ignored
//	defer func() { release(outcome) }()
//
// release gives the place back, and says how the request ended; only its first call counts. The time
// from Acquire's return until then is the request's latency.
func (l *Limiter) Acquire(ctx context.Context, p Priority) (release func(Outcome), err error) {
	place, err := l.acquire(ctx, p)
	if err != nil {
		return nil, err
	}
	return place.release, nil
}

func (l *Limiter) acquire(ctx context.Context, p Priority) (*place, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rank := p.rank()
	l.mu.Lock()
	if l.inFlight < l.gradient.now() {
		l.admitLocked(rank)
		l.mu.Unlock()
		return l.place(), nil
	}
	displaced, ok := l.makeRoomLocked(rank)
	if !ok {
		l.counts[rank].Shed++
		l.mu.Unlock()
		l.tellShed(p, errFull)
		return nil, errFull
	}
	w := &waiter{settled: make(chan struct{})}
	at := l.waiting[rank].PushBack(w)
	l.queued++
	l.mu.Unlock()
	if displaced < rank {
		l.tellShed(Background+Priority(displaced), errDisplaced)
	}

	timer := time.NewTimer(l.opts.MaxWait)
	defer timer.Stop()
	var err error
	select {
	case <-w.settled:
	case <-timer.C:
		err = errWaited
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && l.leave(rank, at, err) {
		if errors.Is(err, errWaited) {
			l.tellShed(p, err)
		}
		return nil, err
	}
	// It was settled, perhaps while we looked away.
	<-w.settled
	switch {
	case w.err != nil:
		return nil, w.err
	case ctx.Err() != nil:
		l.giveBack(rank)
		return nil, ctx.Err()
	}
	return l.place(), nil
}

// admitLocked takes a place.
func (l *Limiter) admitLocked(rank int) {
	l.inFlight++
	l.counts[rank].Admitted++
}

// A place is one of those in flight.
type place struct {
	l     *Limiter
	begun atomic.Int64 // nanoseconds since l.epoch
	ended atomic.Bool
}

func (l *Limiter) place() *place {
	p := &place{l: l}
	p.begin()
	return p
}

// begin sets the clock to zero: only now has the origin all that it needs.
func (p *place) begin() { p.begun.Store(int64(time.Since(p.l.epoch))) }

func (p *place) release(o Outcome) {
	if p.ended.Swap(true) {
		return
	}
	l, now := p.l, time.Now()
	l.mu.Lock()
	from := l.gradient.now()
	l.gradient.end(now, now.Sub(l.epoch)-time.Duration(p.begun.Load()), o, l.inFlight)
	to := l.gradient.now()
	l.inFlight--
	l.admitWaitingLocked()
	l.mu.Unlock()
	if from != to && l.opts.Hooks.Limit != nil {
		l.opts.Hooks.Limit(from, to)
	}
}

// giveBack undoes an admission that nobody waited for any more.
func (l *Limiter) giveBack(rank int) {
	l.mu.Lock()
	l.counts[rank].Admitted--
	l.counts[rank].GaveUp++
	l.inFlight--
	l.admitWaitingLocked()
	l.mu.Unlock()
}

// admitWaitingLocked fills free places from the queue: the highest priority first, the oldest of it first.
func (l *Limiter) admitWaitingLocked() {
	for rank := priorities - 1; rank >= 0 && l.inFlight < l.gradient.now(); {
		e := l.waiting[rank].Front()
		if e == nil {
			rank--
			continue
		}
		l.waiting[rank].Remove(e)
		l.queued--
		l.admitLocked(rank)
		close(e.Value.(*waiter).settled)
	}
}

// makeRoomLocked makes sure that one of rank may wait. If it displaced another, it returns that one's rank, else rank.
func (l *Limiter) makeRoomLocked(rank int) (displaced int, ok bool) {
	most := l.opts.MaxQueued
	switch most {
	case -1:
		return rank, false
	case 0:
		most = l.gradient.now()
	}
	if l.queued < most {
		return rank, true
	}
	for lower := range rank {
		if e := l.waiting[lower].Back(); e != nil {
			l.waiting[lower].Remove(e)
			l.queued--
			l.counts[lower].Shed++
			w := e.Value.(*waiter)
			w.err = errDisplaced
			close(w.settled)
			return lower, true
		}
	}
	return rank, false
}

// leave takes a waiter out of the queue, for the reason given; false if it was settled before.
func (l *Limiter) leave(rank int, at *list.Element, why error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-at.Value.(*waiter).settled:
		return false
	default:
	}
	l.waiting[rank].Remove(at)
	l.queued--
	if errors.Is(why, errWaited) {
		l.counts[rank].Shed++
	} else {
		l.counts[rank].GaveUp++
	}
	return true
}

func (l *Limiter) tellShed(p Priority, err error) {
	if l.opts.Hooks.Shed != nil {
		l.opts.Hooks.Shed(p, err)
	}
}

// Stats are the state now, and counts since the Limiter was made.
type Stats struct {
	Limit, InFlight, Queued int

	Background, Normal, Critical Counts
}

// Counts are of one priority. Each call of Acquire counts once, when it ends.
type Counts struct {
	Queued   int   // now
	Admitted int64 // got a place
	Shed     int64 // turned away with ErrShed
	GaveUp   int64 // their ctx ended while they waited
}

// Stats returns them, all of the same instant.
func (l *Limiter) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := l.counts
	for rank := range counts {
		counts[rank].Queued = l.waiting[rank].Len()
	}
	return Stats{
		Limit: l.gradient.now(), InFlight: l.inFlight, Queued: l.queued,
		Background: counts[Background.rank()], Normal: counts[Normal.rank()], Critical: counts[Critical.rank()],
	}
}
