package limit

import (
	"math/rand/v2"
	"sync/atomic"
)

// counters are the counts of Stats. They are spread over a few cache lines, so that counting doesn't
// make all processors wait for one of them.
type counters [8]struct {
	n [countKinds]atomic.Int64
	_ [128 - countKinds*8]byte
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

func (c *counters) add(kind int) { c[rand.Uint32()%uint32(len(c))].n[kind].Add(1) }

// count counts a decision.
func (c *counters) count(d *Decision) {
	n := &c[rand.Uint32()%uint32(len(c))].n
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
