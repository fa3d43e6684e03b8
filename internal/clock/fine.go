package clock

import (
	"sync/atomic"
	"time"
)

// A Fine clock tells the time since it was made, right to about a microsecond. It costs half of what time.Since does: it
// reads the system's clock at least once in a millisecond of use, and goes on from there by the processor's cycle counter,
// a little slower than that, so that it doesn't go back when it reads the clock again.
//
// How fast the counter goes is measured all the time. Until that is known (for ten milliseconds), where it can't be, and in a
// testing/synctest bubble, whose time it must follow, every call reads the system's clock. If the processors' counters
// differ, the clock is wrong by that, but never by more than a millisecond.
type Fine struct {
	start time.Time
	exact bool
	from  atomic.Pointer[reading]
	mark  atomic.Pointer[reading]
}

// A reading is what both clocks showed. As a mark, it is where measuring began, and rate that of the measurement before, or 0.
type reading struct {
	ticks uint64
	at    int64  // ns since start
	rate  uint64 // ns in 2^32 ticks
}

const (
	// The rate is measured over at least the one: then it doesn't matter that a clock goes on while the other is read. After
	// the other it is measured anew, since the system may have changed the speed of its clock; after twice that, nobody
	// asked for a while, and the machine may have been suspended.
	shortestMeasure = int64(10 * time.Millisecond)
	longestMeasure  = int64(time.Second)

	// maxApart is how many ticks may pass while both clocks are read; more, and the reading isn't used.
	maxApart = 2048

	// slower is the part of the rate that is left out: three times of what it can be wrong by.
	slower = 2048
)

// NewFine returns a clock that starts now.
func NewFine() *Fine { return &Fine{start: time.Now(), exact: !hasTicks || faked()} }

// Start is when the clock was made.
func (f *Fine) Start() time.Time { return f.start }

// Now is the time since Start in nanoseconds.
func (f *Fine) Now() int64 {
	if r := f.from.Load(); r != nil {
		if d := readTicks() - r.ticks; d < maxTicks {
			return r.at + int64(d*r.rate>>32)
		}
	}
	return f.read()
}

// read reads the system's clock.
func (f *Fine) read() int64 {
	if f.exact {
		return int64(time.Since(f.start))
	}
	before := readTicks()
	at := int64(time.Since(f.start))
	ticks := readTicks()
	if ticks-before > maxApart {
		return at
	}
	if rate := f.measure(ticks, at); rate > 0 {
		f.from.Store(&reading{ticks, at, rate - rate/slower})
	}
	return at
}

// measure is the rate as far as it is known; else 0.
func (f *Fine) measure(ticks uint64, at int64) (rate uint64) {
	m := f.mark.Load()
	if m == nil || at-m.at > 2*longestMeasure || ticks <= m.ticks {
		f.from.Store(nil)
		f.mark.Store(&reading{ticks: ticks, at: at})
		return 0
	}
	if at-m.at < shortestMeasure {
		return m.rate
	}
	rate = uint64(at-m.at) << 32 / (ticks - m.ticks)
	if at-m.at > longestMeasure {
		f.mark.CompareAndSwap(m, &reading{ticks, at, rate})
	}
	return rate
}
