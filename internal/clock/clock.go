// Package clock tells the time on the path of a hit.
//
// Reading the system's clock costs as much as looking a key up, so a clock keeps its last
// reading and uses it for as long as the processor's cycle counter shows that less than
// a millisecond can have passed. Nothing ticks in the background: a process that was
// stopped or starved for a while reads the real clock first when it goes on, which
// is what a bound on staleness needs.
//
// The time is that since boot, suspended time included, where the system has it
// (Linux: CLOCK_BOOTTIME). It is not affected by steps of the wall clock.
package clock

import (
	"sync/atomic"
	"time"
)

// A Clock tells the time in nanoseconds since an arbitrary origin. It never goes back.
type Clock struct {
	exact  bool
	origin time.Time // of an exact clock

	// A reader takes ticks first and last second; a writer stores them in
	// the other order. So a reader that overlaps a writer sees a last that is newer than ticks
	// say, and never one that is older.
	ticks atomic.Uint64 // cycle counter at the time of last
	last  atomic.Int64
}

// New returns a clock. An exact one reads time.Now at every call: in a testing/synctest
// bubble only that follows the bubble's time.
func New(exact bool) *Clock {
	// An hour before now, even in a bubble, where it is always the year 2000: zero and less
	// are never a time, and mean "not yet" where times are kept.
	c := &Clock{exact: exact, origin: time.Now().Add(-time.Hour)}
	c.Exact()
	return c
}

// Now returns the time, at most about a millisecond late.
func (c *Clock) Now() int64 {
	if hasTicks && !c.exact && readTicks()-c.ticks.Load() < maxTicks {
		return c.last.Load()
	}
	return c.Exact()
}

// Exact returns the time as the system has it now.
func (c *Clock) Exact() int64 {
	if c.exact {
		return int64(time.Since(c.origin))
	}
	ticks := readTicks()
	now := bootTime()
	for {
		last := c.last.Load()
		if now <= last {
			now = last
			break
		}
		if c.last.CompareAndSwap(last, now) {
			break
		}
	}
	c.ticks.Store(ticks)
	return now
}

var origin = time.Now().Add(-time.Hour)
