package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestFineAgreesWithTheSystem(t *testing.T) {
	f := NewFine()
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		before := time.Since(f.start)
		got := time.Duration(f.Now())
		if after := time.Since(f.start); got < before-100*time.Microsecond || got > after+100*time.Microsecond {
			t.Fatalf("%v; the system's clock showed %v to %v", got, before, after)
		}
	}
	if hasTicks && f.from.Load() == nil {
		t.Error("after 100 ms of use it still reads the system's clock each time")
	}
}

func TestFineAfterAPause(t *testing.T) {
	f := NewFine()
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
		f.Now()
	}
	before := time.Since(f.start)
	time.Sleep(30 * time.Millisecond)
	if got := time.Duration(f.Now()); got < before+30*time.Millisecond {
		t.Errorf("the first reading is %v; want %v or more", got, before+30*time.Millisecond)
	}
}

func TestFineFollowsABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(40 * 365 * 24 * time.Hour) // the year alone must not tell
		const step = 2 * time.Duration(shortestMeasure)
		f := NewFine()
		for range 10 { // long enough by its time, and no time by the counter
			a := f.Now()
			time.Sleep(step)
			if d := f.Now() - a; d != int64(step) {
				t.Fatalf("the clock went on by %v; want %v", time.Duration(d), step)
			}
		}
	})
}

// What the counter says of longer than a millisecond isn't believed, whatever it is.
func TestFineReadsTheSystemAgain(t *testing.T) {
	f := NewFine()
	for _, ago := range []uint64{2*maxTicks + 1, 1 << 40, 1<<64 - 1<<30} { // in the future, too: of another processor
		f.from.Store(&reading{ticks: readTicks() - ago, at: -int64(time.Hour), rate: 1 << 32})
		if got := time.Duration(f.Now()); got < 0 {
			t.Errorf("a reading of %d ticks ago: %v", int64(ago), got)
		}
	}
}

func TestFineMeasures(t *testing.T) {
	const ms = int64(time.Millisecond)
	perTick := func(ticks, ns uint64) uint64 { return ns << 32 / ticks }
	f := &Fine{}
	step := func(ticks uint64, at int64, want uint64) {
		t.Helper()
		if got := f.measure(ticks, at); got != want {
			t.Errorf("at %v: rate %d; want %d", time.Duration(at), got, want)
		}
	}
	step(1000, 0, 0)
	step(2000, 9*ms, 0) // too short to know
	step(1000+20_000_000, 10*ms, perTick(20_000_000, 10_000_000))
	step(1000+2_200_000_000, 1100*ms, perTick(2_200_000_000, 1_100_000_000)) // the mark moves here
	step(1000+2_202_000_000, 1101*ms, perTick(2_200_000_000, 1_100_000_000)) // too short: that of before
	step(1000+2_230_000_000, 1110*ms, perTick(30_000_000, 10_000_000))       // the counter goes faster now
	forgets := func(ticks uint64, at int64) {
		t.Helper()
		f.from.Store(new(reading))
		if step(ticks, at, 0); f.from.Load() != nil {
			t.Error("it goes on by a rate that is no longer known")
		}
	}
	forgets(1000+9_000_000_000, 4000*ms) // nobody asked for long
	step(1000+9_020_000_000, 4010*ms, perTick(20_000_000, 10_000_000))
	forgets(500, 4020*ms) // the counter went back
}
