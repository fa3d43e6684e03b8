package overload

import (
	"math"
	"time"
)

// A gradient finds the limit: how many requests the origin can work on at a time before they wait in it. It knows nothing of
// queues and priorities, is told of requests that ended, and is guarded by its Limiter's lock.
//
// The rule of a window is that of Gradient2 (Netflix concurrency-limits), with the answer of DCTCP (RFC 8257) to
// the share of what was dropped:
//
//	limit = limit · min(1, max(1/2, tolerance · base / latency)) · (1 - dropped/2) + √limit
//
// Gradient2 takes a long average of latencies for base. Under an overload that lasts, that average becomes the latency of the overload,
// and the limit drifts up. Here the average counts only windows in which the limit was not reached. While it is reached all the time, base
// is measured by probes, as Envoy's adaptive_concurrency does for its minRTT and BBR by its ProbeRTT. A probe halves the limit until
// latency no longer falls with it:
//
//	state    a window ends                                     next
//	normal   the limit was not reached                         normal   base moves towards its latency
//	normal   it was, the last that was not is period ago       probing  at half the limit
//	normal   it was, latency over 2 · tolerance · base         probing  at half the limit
//	normal   it was, else                                      normal
//	probing  latency fell to less than 0.6 of what it was      probing  the limit is now that of the probe; at half of it
//	probing  it did not                                        normal   at the limit before; base is this latency
//
// So a lasting change of what requests cost is told from overload by one probe: with half the requests in flight, the
// latency of an origin that isn't overloaded stays the same.
//
// Latencies are geometric means: if one request in ten takes a hundred times as long, an arithmetic mean depends on
// how many of those were in a window, and the limit with it.
type gradient struct {
	low, high float64 // bounds of limit
	tolerance float64 // logarithm
	samples   int     // in a window, at least

	limit  float64
	start  float64 // below it the limit doubles, until a window says otherwise: at the start, and after an outage
	slow   bool    // the last window was slower than tolerated
	known  float64 // the limit at the last look at base
	probe  float64 // while probing: the limit in force; else 0
	before float64 // while probing: the latency that shall fall

	// The window. Latencies are natural logarithms of seconds.
	settle  int     // ends of requests yet to pass by: they began under another limit
	ended   int     // requests, of which
	dropped int     // had no answer, and so no latency that says anything, of which
	late    int     // took longer than tolerated: they kept the origin busy
	sum     float64 // of the others' latencies
	peak    int     // most in flight
	begun   time.Time

	base    float64   // latency without a queue in the origin; +Inf: not known
	seen    time.Time // the last window in which the limit was not reached, or probe
	probing time.Time // when the probe began
	noProbe time.Time // until then, so that probes take a small part of all time
}

const (
	period  = 10 * time.Second // the longest time without a look at base
	average = 30 * time.Second // time constant of base

	minRatio = 0.5 // of one limit to the one before
	outage   = 0.1 // share dropped

	// A queue in the origin makes latency fall to a half when the limit is halved, no queue leaves it as it
	// is. Means of 100 latencies, exponentially distributed, differ by 18 % (one standard deviation).
	fell      = 0.6
	certainty = 2 // times as many samples as an ordinary window
	haste     = 5
	patience  = 10 // times as long as a request takes, at most

	// Probes take a twentieth of all time, so that little is lost by them. With few requests they take long, and then up to
	// a fifth: a base that is wrong costs more.
	probePart, probeMost = 20, 5
)

func newGradient(low, high, initial, samples int, tolerance float64) gradient {
	return gradient{
		low: float64(low), high: float64(high), limit: float64(initial),
		start:   float64(high),
		samples: samples, tolerance: math.Log(tolerance), base: math.Inf(1),
	}
}

// now is the limit in force.
func (g *gradient) now() int {
	if g.probe > 0 {
		return int(g.probe)
	}
	return int(g.limit)
}

// end hears that a request ended, after it took so long, when inFlight were in flight, itself included.
func (g *gradient) end(now time.Time, took time.Duration, o Outcome, inFlight int) {
	g.peak = max(g.peak, inFlight)
	if g.settle > 0 {
		g.settle--
		g.begun = now
		return
	}
	if g.begun.IsZero() {
		g.begun = now
	}
	latency := math.Log(max(took.Seconds(), 1e-6))
	switch o {
	case Dropped:
		g.dropped++
		if latency > g.base+g.tolerance {
			g.late++
		}
	case Ignored:
		// It would have taken longer yet. If it was short, that says nothing.
		if latency <= g.base {
			return
		}
		g.sum += latency
	default:
		g.sum += latency
	}
	g.ended++
	if g.ended >= g.need() {
		g.close(now, inFlight-1)
	}
}

// need is how many requests make a window: as many as are in flight, so that it lasts as long as they do, and enough for
// a mean; but with few in flight, where each step is small, it shall not take for ever.
func (g *gradient) need() int {
	n := g.now()
	switch {
	case g.probe > 0:
		return max(n, min(certainty*g.samples, 2*patience*n))
	case g.limit < g.start: // the first sign will do
		return max(n, min(g.samples/haste, patience*n))
	}
	return max(n, min(g.samples, patience*n))
}

// close ends a window: a decision, and a new one.
func (g *gradient) close(now time.Time, inFlight int) {
	latency := math.Inf(-1)
	if n := g.ended - g.dropped; 2*n >= g.ended { // a few that came through say little of the rest
		latency = g.sum / float64(n)
	}
	before := g.now()
	if g.probe > 0 {
		g.probed(now, latency)
	} else {
		g.adjust(now, latency)
	}
	g.ended, g.dropped, g.late, g.sum, g.peak, g.begun = 0, 0, 0, 0, inFlight, now
	if g.now() != before {
		g.settle = inFlight
	}
}

func (g *gradient) adjust(now time.Time, latency float64) {
	full, measured := g.peak >= int(g.limit), !math.IsInf(latency, -1)
	dropped, late := float64(g.dropped)/float64(g.ended), float64(g.late)/float64(g.ended)
	ratio := 1.0
	if measured {
		if math.IsInf(g.base, 1) {
			g.base, g.known = latency, g.limit
		} else if !full {
			g.base += (latency - g.base) * -math.Expm1(-now.Sub(g.begun).Seconds()/average.Seconds())
		}
		ratio = min(1, max(minRatio, math.Exp(g.tolerance+g.base-latency)))
	}
	kept := 1 - dropped/2
	used := 2*g.peak >= int(g.limit)
	double := full && g.limit < g.start && ratio == 1 && dropped == 0
	next := g.limit * kept // what is not used says nothing of what more would do, nor whether less would help
	switch {
	case double:
		next *= 2
	case full:
		next = next*ratio + math.Sqrt(g.limit)*(1-late)*(1-late)
	case used && ratio == 1:
		next += math.Sqrt(g.limit) * (1 - late) * (1 - late)
	}
	switch {
	case dropped > outage:
		g.start = max(g.start, g.limit/2)
		if ratio == 1 {
			g.known = max(g.low, min(g.known, next)) // latency isn't why
		}
	case ratio < 1 && g.slow: // once may be chance: the windows are short
		g.start = 0
	}
	g.slow = ratio < 1
	switch {
	case !measured:
		g.seen = now // base from before an outage is better than a look with a handful in flight, soon after it
	case !full:
		g.seen, g.known = now, g.limit
	case g.limit <= g.low || double:
	case ratio < 1 && next < g.known/2, now.Sub(g.seen) >= period && !now.Before(g.noProbe):
		g.before, g.probing = latency, now
		g.probe = max(g.low, math.Floor(g.limit/2))
		return
	}
	g.limit = min(g.high, max(g.low, next))
}

// probed ends a window of a probe.
func (g *gradient) probed(now time.Time, latency float64) {
	down := g.probe
	switch {
	case math.IsInf(latency, -1): // it isn't the time to measure
		g.limit, g.probe = down, 0
	case latency < g.before+math.Log(fell):
		g.limit, g.before = down, latency
		if g.probe = max(g.low, math.Floor(down/2)); g.probe == down {
			g.probe = 0
		}
	default:
		g.probe = 0
	}
	if g.probe > 0 {
		return
	}
	if !math.IsInf(latency, -1) {
		g.seen, g.known = now, g.limit
		if math.Abs(latency-g.base) < g.tolerance {
			g.base += (latency - g.base) / 2 // perhaps chance
		} else {
			g.base = latency
		}
	}
	took := now.Sub(g.probing)
	g.noProbe = now.Add(min(probePart*took, max(2*period, probeMost*took)))
}
