package redislimit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/deadline"
	"github.com/freshetdev/freshet/limit"
)

const (
	// So many requests for single charges are on their way at once; charges that come meanwhile go together with the next.
	// With one, a charge would wait for up to a round trip; with many, there would be nothing left to merge.
	maxFlights = 4

	// So many keys go together. The server does nothing else meanwhile.
	maxMerged = 64
)

// A merger sends the single GCRA charges of many callers together: a script that decides ten of them costs server and client far less than
// ten scripts do, and equal charges of one key little more than one. They stay decisions of their own. A
// caller who leaves before its charge was sent is never charged.
type merger struct {
	s *Store

	mu      sync.Mutex // guards all below
	flying  int
	queue   []*merged
	places  map[chargeArgs]*merged // of the queue
	closed  bool
	flights sync.WaitGroup
	waiters sync.Pool // *waiter; not guarded
}

// chargeArgs are what equal charges have in common.
type chargeArgs struct {
	key  string
	args [3]string // of gcra.lua
}

// merged are equal charges.
type merged struct {
	chargeArgs
	waiting []*waiter
}

// A waiter is used again once it was told.
type waiter struct {
	until time.Time // the deadline; zero if there is none
	state atomic.Int32
	done  chan debtOrError // capacity 1
	timer *time.Timer      // not running while nobody waits
}

type debtOrError struct {
	debt int64
	err  error
}

// The states of a waiter: it leaves, or is sent, never both.
const (
	waits int32 = iota
	sent
	left
)

func newMerger(s *Store) *merger { return &merger{s: s, places: map[chargeArgs]*merged{}} }

// take decides one charge, and returns the debt as gcra.lua does.
func (m *merger) take(ctx context.Context, c chargeArgs) (int64, error) {
	if err := m.s.one.firstTry(ctx); err != nil { // else it would end in the queue for a flight that waits for that
		return 0, err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return 0, limit.ErrClosed
	}
	if m.flying < maxFlights {
		m.flying++
		m.mu.Unlock()
		debt, err := m.s.gcra(ctx, c)
		m.landed()
		return debt, err
	}
	w := m.newWaiter(ctx)
	q := m.places[c]
	if q == nil {
		q = &merged{chargeArgs: c}
		m.places[c] = q
		m.queue = append(m.queue, q)
	}
	q.waiting = append(q.waiting, w)
	m.mu.Unlock()
	return m.wait(ctx, w)
}

func (m *merger) newWaiter(ctx context.Context) *waiter {
	w, _ := m.waiters.Get().(*waiter)
	if w == nil {
		w = &waiter{done: make(chan debtOrError, 1), timer: time.NewTimer(time.Hour)}
		w.timer.Stop()
	}
	w.until, _ = ctx.Deadline()
	w.state.Store(waits)
	return w
}

// wait waits for the answer, or for the end of ctx. That of a Limiter's decision has a deadline, for which the waiter's own timer
// is a third of the price of the context's.
func (m *merger) wait(ctx context.Context, w *waiter) (int64, error) {
	var late <-chan time.Time
	caller, until := deadline.Of(ctx)
	if !until.IsZero() {
		w.timer.Reset(time.Until(until))
		late = w.timer.C
	}
	select {
	case d := <-w.done:
		if late != nil {
			w.timer.Stop()
		}
		m.waiters.Put(w) // nobody else looks at it: it was told once
		return d.debt, d.err
	case <-late:
		w.state.CompareAndSwap(waits, left)
		return 0, context.DeadlineExceeded
	case <-caller.Done():
		w.timer.Stop()
		w.state.CompareAndSwap(waits, left)
		return 0, ctx.Err()
	}
}

// landed ends a flight, or begins the next in its place.
func (m *merger) landed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if batch := m.nextLocked(); batch == nil {
		m.flying--
	} else {
		m.flights.Go(func() { m.fly(batch) })
	}
}

// nextLocked takes what goes next out of the queue.
func (m *merger) nextLocked() []*merged {
	if len(m.queue) == 0 || m.closed {
		return nil
	}
	n := min(len(m.queue), maxMerged)
	batch := m.queue[:n:n]
	if m.queue = m.queue[n:]; len(m.queue) == 0 {
		m.queue = nil
	}
	for _, q := range batch {
		delete(m.places, q.chargeArgs)
	}
	return batch
}

// fly sends batches until there are none.
func (m *merger) fly(batch []*merged) {
	for batch != nil {
		m.send(batch)
		m.mu.Lock()
		if batch = m.nextLocked(); batch == nil {
			m.flying--
		}
		m.mu.Unlock()
	}
}

// send sends a batch, and tells those who wait.
func (m *merger) send(batch []*merged) {
	keys, args := make([]string, 0, len(batch)), make([]string, 0, 4*len(batch))
	var until time.Time // the latest deadline: everybody leaves at his own
	forever := false
	going := batch[:0]
	for _, q := range batch {
		stay := q.waiting[:0]
		for _, w := range q.waiting {
			if w.state.CompareAndSwap(waits, sent) {
				stay = append(stay, w)
				if forever = forever || w.until.IsZero(); w.until.After(until) {
					until = w.until
				}
			}
		}
		if q.waiting = stay; len(stay) > 0 {
			going = append(going, q)
			keys = append(keys, q.key)
			args = append(args, q.args[0], q.args[1], q.args[2], text(int64(len(stay))))
		}
	}
	if len(going) == 0 {
		return
	}
	ctx := m.s.ctx
	if !forever {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	var n []int64
	res, err := m.s.run(ctx, m.s.scripts.batch, keys, args)
	if err == nil {
		if n, err = numbers(res); err != nil || len(n) != 2*len(going) {
			err = strange(err)
		}
	}
	for i, q := range going {
		for j, w := range q.waiting {
			if err != nil {
				w.done <- debtOrError{err: err}
				continue
			}
			fit, debt := n[2*i], n[2*i+1]
			if int64(j) < fit {
				w.done <- debtOrError{debt: debt - (fit-1-int64(j))*number(q.args[0])}
			} else {
				w.done <- debtOrError{debt: -1 - debt}
			}
		}
	}
}

// close fails those who wait, and returns when no flight is left.
func (m *merger) close() {
	m.mu.Lock()
	m.closed = true
	queue := m.queue
	m.queue = nil
	m.mu.Unlock()
	for _, q := range queue {
		for _, w := range q.waiting {
			w.done <- debtOrError{err: limit.ErrClosed}
		}
	}
	m.flights.Wait()
}
