package overload

import (
	"math"
	"testing"
	"time"
)

// A window feeds g one window of requests that all took as long, with so many in flight, of which the first were dropped.
func (g *gradient) window(at time.Time, took time.Duration, inFlight, dropped int) {
	g.settle = 0
	for n, i := g.need(), 0; i < n; i++ {
		o := OK
		if i < dropped {
			o = Dropped
		}
		g.end(at, took, o, inFlight)
	}
}

func TestGradientStates(t *testing.T) {
	begin := time.Unix(1_000_000, 0)
	const ms = time.Millisecond
	// Each starts from a limit of 64, 100 ms known to be the latency without a queue, seen a moment ago.
	f := func(name string, want int, probing bool, steps func(g *gradient)) {
		t.Helper()
		g := newGradient(1, 1000, 64, 50, 1.5)
		g.base, g.known, g.seen, g.start = math.Log(0.1), 64, begin, 0
		steps(&g)
		if g.now() != want || (g.probe > 0) != probing {
			t.Errorf("%s: limit %d, probing %v (%+v); want %d, %v", name, g.now(), g.probe > 0, g, want, probing)
		}
	}
	soon, late := begin.Add(time.Second), begin.Add(period)
	f("all is well, and half of the limit is used", 64+8, false, func(g *gradient) { g.window(soon, 100*ms, 32, 0) })
	f("less is used: more would say nothing", 64, false, func(g *gradient) { g.window(soon, 100*ms, 31, 0) })
	f("less is used, however slow it is", 64, false, func(g *gradient) { g.window(soon, 900*ms, 31, 0) })
	f("half is used, and it is slow: less wouldn't help, more might harm", 64, false, func(g *gradient) { g.window(soon, 900*ms, 63, 0) })
	f("tolerated", 64+8, false, func(g *gradient) { g.window(soon, 149*ms, 64, 0) })
	f("twice as slow", 48+8, false, func(g *gradient) { g.window(soon, 200*ms, 64, 0) })
	f("ten times as slow: at most to a half", 32+8, false, func(g *gradient) { g.window(soon, 1000*ms, 64, 0) })
	f("again: half of the known limit, so it looks", 20, true, func(g *gradient) {
		g.window(soon, 1000*ms, 64, 0)
		g.window(soon, 1000*ms, 40, 0)
	})
	f("all were refused at once", 32+8, false, func(g *gradient) { g.window(soon, ms, 64, 64) })
	f("all took too long and were dropped", 32, false, func(g *gradient) { g.window(soon, time.Second, 64, 64) })
	f("a quarter was dropped", 56+8, false, func(g *gradient) { g.window(soon, 100*ms, 64, 16) })
	f("dropped though little is used", 32, false, func(g *gradient) { g.window(soon, ms, 4, 64) })
	f("a period at the limit: a probe", 32, true, func(g *gradient) { g.window(late, 120*ms, 64, 0) })
	f("a period below it", 64+8, false, func(g *gradient) { g.window(late, 120*ms, 63, 0) })
	f("the probe found no queue: back to the limit", 64, false, func(g *gradient) {
		g.window(late, 120*ms, 64, 0)
		g.window(late, 100*ms, 32, 0)
	})
	f("it did: its limit stays, and it goes on", 16, true, func(g *gradient) {
		g.window(late, 400*ms, 64, 0)
		g.window(late, 200*ms, 32, 0)
	})
	f("to where latency falls no more", 32, false, func(g *gradient) {
		g.window(late, 400*ms, 64, 0)
		g.window(late, 200*ms, 32, 0)
		g.window(late, 130*ms, 16, 0)
	})
	f("slower for good: the limit is as it was", 64, false, func(g *gradient) {
		g.window(late, 400*ms, 64, 0)
		g.window(late, 400*ms, 32, 0)
	})
	f("and stays, for that is the base now", 64+8, false, func(g *gradient) {
		g.window(late, 400*ms, 64, 0)
		g.window(late, 400*ms, 32, 0)
		g.window(late, 400*ms, 64, 0)
	})
	f("an outage in a probe: nothing to measure", 32, false, func(g *gradient) {
		g.window(late, 400*ms, 64, 0)
		g.window(late, ms, 32, 1000)
	})
	f("no second probe within 20 s", 64+8, false, func(g *gradient) {
		g.window(late, 120*ms, 64, 0)
		g.window(late.Add(4*time.Second), 100*ms, 32, 0)
		g.window(late.Add(4*time.Second+period), 120*ms, 64, 0)
	})
	f("but after 20 s", 32, true, func(g *gradient) {
		g.window(late, 120*ms, 64, 0)
		g.window(late.Add(4*time.Second), 100*ms, 32, 0)
		g.window(late.Add(24*time.Second), 120*ms, 64, 0)
	})
	f("to the minimum, and no further", 1, false, func(g *gradient) {
		for range 100 {
			g.window(soon, time.Second, 64, 64)
		}
	})
	f("after an outage it doubles", 4, false, func(g *gradient) {
		for range 100 {
			g.window(soon, time.Second, 64, 64)
		}
		g.window(soon, 100*ms, 1, 0)
		g.window(soon, 100*ms, 2, 0)
	})
	f("until it is slow twice", 7, false, func(g *gradient) {
		for range 100 {
			g.window(soon, time.Second, 64, 64)
		}
		g.window(soon, 100*ms, 1, 0)
		g.window(soon, 160*ms, 2, 0)
		g.window(soon, 160*ms, 3, 0)
		g.window(soon, 140*ms, 4, 0)
	})
	f("to the maximum, and no further", 1000, false, func(g *gradient) {
		for range 1000 {
			g.window(soon, 100*ms, 1000, 0)
			g.seen = soon
		}
	})
}

// What began under another limit isn't counted under the new one.
func TestGradientSettles(t *testing.T) {
	g := newGradient(1, 1000, 64, 50, 1.5)
	g.base, g.known, g.start = math.Log(0.1), 64, 0
	now := time.Unix(1_000_000, 0)
	g.seen = now
	g.window(now, 200*time.Millisecond, 64, 0)
	if g.now() != 56 {
		t.Fatalf("limit %d; want 56", g.now())
	}
	for range 63 { // those still in flight when the window ended
		g.end(now, 900*time.Millisecond, OK, 56)
	}
	for range g.need() {
		g.end(now, 100*time.Millisecond, OK, 56)
	}
	if g.now() != 56+7 {
		t.Errorf("limit %d; want 63: old requests count", g.now())
	}
}

func TestGradientIgnored(t *testing.T) {
	g := newGradient(1, 1000, 64, 50, 1.5)
	g.base = math.Log(0.1)
	now := time.Unix(1_000_000, 0)
	g.end(now, 99*time.Millisecond, Ignored, 1)
	if g.ended != 0 {
		t.Error("a client that left early counts")
	}
	g.end(now, 101*time.Millisecond, Ignored, 1)
	if g.ended != 1 || g.dropped != 0 {
		t.Error("a client that left late doesn't count as a latency")
	}
}

// One in ten requests takes 100 times as long. How many of them a window has by chance hardly matters.
func TestGradientTails(t *testing.T) {
	g := newGradient(1, 1000, 64, 50, 1.5)
	g.base, g.known, g.start = math.Log(0.01)+0.1*math.Log(100), 64, 0
	now := time.Unix(1_000_000, 0)
	g.seen = now
	for i := range g.need() {
		took := 10 * time.Millisecond
		if i%8 == 0 {
			took *= 100
		}
		g.end(now, took, OK, 64)
	}
	if g.now() != 72 {
		t.Errorf("limit %d; want 72: with one slow request in 8 instead of 10 all is still well", g.now())
	}
}

// What is measured at the limit may be the queue that the limit lets grow, so it isn't learned: only a probe, or a time below the limit, tells.
func TestGradientBase(t *testing.T) {
	g := newGradient(1, 1000, 64, 50, 1.5)
	now := time.Unix(1_000_000, 0)
	g.base, g.known, g.seen, g.start = math.Log(0.1), 64, now, 0
	base := func() float64 { return math.Round(1000 * math.Exp(g.base)) }
	for range 9 { // seconds
		now = now.Add(time.Second)
		g.window(now, 140*time.Millisecond, g.now(), 0)
	}
	if base() != 100 {
		t.Errorf("at the limit, 140 ms made 100 ms %v ms", base())
	}
	for range 30 {
		g.begun = now
		now = now.Add(time.Second)
		g.window(now, 140*time.Millisecond, g.now()-1, 0)
	}
	if base() < 120 || base() > 135 {
		t.Errorf("below the limit, 30 s of 140 ms made 100 ms %v ms; want 120 to 135", base())
	}
}
