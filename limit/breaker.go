package limit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A breaker keeps decisions from a store that fails again and again, so that an outage costs them no time.
//
//	state      event                             next       effect
//	closed     an operation fails                closed     counted
//	closed     an operation succeeds             closed     counted from zero
//	closed     the Nth failure in a row          open       until pause is over
//	open       an operation, within pause        open       refused
//	open       an operation, after it            half-open  it asks the store: the probe
//	half-open  another operation                 half-open  refused
//	half-open  the probe succeeds                closed     counted from zero
//	half-open  the probe fails                   open       until pause is over
//	half-open  the probe proves nothing          open       the next operation is the probe
//
// Operations that began before the last change between open and closed are of another round, and change nothing: a late failure
// must not count against a store that is well again.
type breaker struct {
	after int // N; zero: never
	pause time.Duration

	// calm is true while it is closed and nothing failed: then there is nothing to read or write under the lock.
	calm  atomic.Bool
	round atomic.Uint64 // grows with each change between open and closed; changed under mu

	mu       sync.Mutex
	state    breakerState  // guarded by mu
	failed   int           // in a row, while it is closed; guarded by mu
	until    time.Duration // the end of the pause, while it is open; guarded by mu
	cause    error         // what is told to who is refused; guarded by mu
	openings int64         // guarded by mu
}

type breakerState uint8

const (
	breakerClosed breakerState = iota
	breakerOpen
	breakerHalfOpen
)

// A verdict is what the end of an operation says of the store.
type verdict uint8

const (
	provesNothing verdict = iota // the caller went away
	storeWell
	storeIll
)

func newBreaker(after int, pause time.Duration) *breaker {
	b := &breaker{after: after, pause: pause}
	b.calm.Store(true)
	return b
}

// begin lets an operation ask the store, or says why not. After nil, end must follow with the same round.
func (b *breaker) begin(now time.Duration) (round uint64, refused error) {
	if round = b.round.Load(); b.calm.Load() {
		return round, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.state == breakerHalfOpen, b.state == breakerOpen && now < b.until:
		return 0, b.cause
	case b.state == breakerOpen:
		b.state = breakerHalfOpen
	}
	return b.round.Load(), nil
}

// end notes how an operation ended, and reports whether the breaker opened or closed by it.
func (b *breaker) end(now time.Duration, round uint64, v verdict, err error) (changed, open bool) {
	if b.after == 0 || v == storeWell && b.calm.Load() {
		return false, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if round != b.round.Load() {
		return false, false
	}
	probe := b.state == breakerHalfOpen
	switch v {
	case storeWell:
		b.failed = 0
		b.state, b.cause = breakerClosed, nil
		b.calm.Store(true)
		if probe {
			b.round.Add(1)
			return true, false
		}
	case storeIll:
		b.calm.Store(false)
		if b.failed++; probe || b.failed >= b.after {
			b.state, b.until = breakerOpen, now+b.pause
			b.cause = fmt.Errorf("%w: %d failures in a row, the last: %w", ErrUnavailable, b.failed, err)
			b.round.Add(1)
			if !probe {
				b.openings++
			}
			return !probe, true
		}
	default:
		if probe {
			b.state, b.until = breakerOpen, now
			b.round.Add(1)
		}
	}
	return false, false
}

func (b *breaker) stats() (openings int64, open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.openings, b.state != breakerClosed
}
