package redisstore

import (
	"sync/atomic"
	"time"
)

// A serverClock estimates the server's clock from its answers to TIME. The answer was
// made somewhere within the round trip, so the best sample is that of the
// shortest one. It counts on from there by the monotonic clock: steps of the
// local clock don't matter.
type serverClock struct {
	best atomic.Pointer[sample]
}

type sample struct {
	local  time.Time // half-way through the round trip, with monotonic reading
	server time.Time
	err    time.Duration // half the round trip
}

// drift is how fast two clocks may part: a sample of an hour ago is worth 0.7 s less.
// It makes a newer sample win in the end.
const drift = 200e-6

func (c *serverClock) now() time.Time {
	s := c.best.Load()
	if s == nil {
		return time.Now().Round(0)
	}
	return s.server.Add(time.Since(s.local))
}

// at is now, and how far off that may be: half of the round trip it was estimated from, and what clocks part in the time since. It reports
// false before there was an answer.
func (c *serverClock) at() (now time.Time, off time.Duration, ok bool) {
	s := c.best.Load()
	if s == nil {
		return time.Now().Round(0), 0, false
	}
	age := time.Since(s.local)
	return s.server.Add(age), s.err + time.Duration(float64(age)*drift), true
}

// heard takes an answer of the server into account.
func (c *serverClock) heard(server, sent, received time.Time) {
	half := received.Sub(sent) / 2
	n := &sample{local: sent.Add(half), server: server, err: half}
	old := c.best.Load()
	if old == nil {
		c.best.CompareAndSwap(nil, n)
		return
	}
	age := n.local.Sub(old.local)
	oldErr := old.err + time.Duration(float64(age)*drift)
	off := server.Sub(old.server.Add(age)).Abs()
	// If they can't both be right, some clock was stepped or stood still.
	if n.err <= oldErr || off > n.err+oldErr {
		c.best.CompareAndSwap(old, n)
	}
}
