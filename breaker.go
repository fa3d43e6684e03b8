package freshet

import (
	"sync"
	"time"
)

// A breaker keeps loads from a source that fails again and again. Each cache has one.
//
//	state      event                             next       effect
//	closed     a load fails, not the Nth in row  closed     counted
//	closed     a load ends well                  closed     counted from zero
//	closed     a load fails, the Nth in a row    open       until pause is over
//	open       a load, within pause              open       refused
//	open       a load, after it                  half-open  it asks the source: the probe
//	half-open  another load                      half-open  refused
//	half-open  the probe ends well               closed     counted from zero
//	half-open  the probe fails                   open       until pause is over
//	half-open  the probe proves nothing          open       the next load is the probe
//
// Loads that began before the last change of state are of another round, and change nothing:
//
//	A: begins; the source is ill
//	B, C, D: fail → open; later E probes, the source is well → closed
//	A: fails at last → must not count against the source as it is now
type breaker struct {
	after int // N; zero: never
	pause time.Duration

	mu     sync.Mutex
	state  breakerState // guarded by mu
	failed int          // loads in a row, while it is closed; guarded by mu
	until  int64        // the end of the pause, while it is open; guarded by mu
	round  uint64       // grows with each change between open and closed; guarded by mu
	cause  error        // of the last failure; guarded by mu
}

type breakerState uint8

const (
	breakerClosed breakerState = iota
	breakerOpen
	breakerHalfOpen
)

// A verdict is what a load's end says of the source.
type verdict uint8

const (
	sourceUnknown verdict = iota // nothing: canceled, or an error that isn't the source's
	sourceWell
	sourceIll
)

// refuses reports whether a load that begins now would be refused, and why.
func (b *breaker) refuses(now int64) (cause error, refused bool) {
	if b.after == 0 {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause, b.refusesLocked(now)
}

func (b *breaker) refusesLocked(now int64) bool {
	return b.state == breakerHalfOpen || b.state == breakerOpen && now < b.until
}

// begin lets a load ask the source, unless it is refused. Then end must follow, with the same round.
func (b *breaker) begin(now int64) (round uint64, cause error, refused bool) {
	if b.after == 0 {
		return 0, nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refusesLocked(now) {
		return 0, b.cause, true
	}
	if b.state == breakerOpen {
		b.state = breakerHalfOpen
	}
	return b.round, nil, false
}

// end notes how a load ended, and reports whether the breaker opened or closed by it.
func (b *breaker) end(now int64, round uint64, v verdict, err error) (changed, open bool) {
	if b.after == 0 {
		return false, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if round != b.round {
		return false, false
	}
	probe := b.state == breakerHalfOpen
	switch v {
	case sourceWell:
		b.failed = 0
		if probe {
			b.state, b.cause = breakerClosed, nil
			b.round++
			return true, false
		}
	case sourceIll:
		b.cause = err
		if b.failed++; probe || b.failed >= b.after {
			b.state, b.until = breakerOpen, now+int64(b.pause)
			b.round++
			return !probe, true
		}
	default:
		if probe {
			b.state, b.until = breakerOpen, now
			b.round++
		}
	}
	return false, false
}

func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state != breakerClosed
}
