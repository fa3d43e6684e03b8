package limit

import (
	"sync/atomic"
	"unsafe"
)

// counters are the counts of Stats. They are striped, so that counting doesn't make processors wait for each other.
type counters [32]stripe

type stripe struct {
	n [countKinds]atomic.Int64
	_ [128 - countKinds*8]byte // two cache lines, which processors fetch as a pair
}

const (
	countAllowed = iota
	countRefused
	countShadowed
	countDegraded
	countRemembered
	countAdvanced
	countExempt
	countBlocked
	countFailures
	countKinds
)

// stripe is where this goroutine counts. It follows from where its stack lies: that costs nothing, differs between goroutines that run at the same
// time, and is the same for one that makes decision after decision, so its stripe stays with its processor.
func (c *counters) stripe() *stripe {
	var here byte
	at := uintptr(unsafe.Pointer(&here)) >> 11 // stacks are 2 KiB or more apart
	return &c[(at^at>>5)%uintptr(len(c))]
}

func (c *counters) add(kind int) { c.stripe().n[kind].Add(1) }

// count counts a decision.
func (c *counters) count(d *Decision) {
	n := &c.stripe().n
	if d.Allowed {
		n[countAllowed].Add(1)
	} else {
		n[countRefused].Add(1)
	}
	if d.Shadowed {
		n[countShadowed].Add(1)
	}
	if d.Degraded {
		n[countDegraded].Add(1)
	}
	if d.Blocked && !d.Allowed {
		n[countBlocked].Add(1)
	}
	switch d.Source {
	case FromRefused:
		n[countRemembered].Add(1)
	case FromAdvance:
		n[countAdvanced].Add(1)
	case FromExempt:
		n[countExempt].Add(1)
	}
}

// countFit is count of a decision on one limit, made by the store and not Blocked.
func (c *counters) countFit(fits, shadow bool) {
	n := &c.stripe().n
	switch {
	case fits:
		n[countAllowed].Add(1)
	case shadow:
		n[countAllowed].Add(1)
		n[countShadowed].Add(1)
	default:
		n[countRefused].Add(1)
	}
}

func (c *counters) sum() Stats {
	var n [countKinds]int64
	for i := range c {
		for k := range n {
			n[k] += c[i].n[k].Load()
		}
	}
	return Stats{
		Allowed: n[countAllowed], Refused: n[countRefused], Shadowed: n[countShadowed], Degraded: n[countDegraded],
		Remembered: n[countRemembered], Advanced: n[countAdvanced], Exempt: n[countExempt], Blocked: n[countBlocked],
		Failures: n[countFailures],
	}
}
