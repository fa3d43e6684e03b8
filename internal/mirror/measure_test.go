package mirror

import (
	"fmt"
	"testing"
	"time"

	"github.com/freshetdev/freshet/store"
)

// clockedFake is a fake whose server has a clock.
type clockedFake struct {
	*fake
	now time.Time
	off time.Duration
	ok  bool
}

func (f *clockedFake) Clock(int) (time.Time, time.Duration, bool) { return f.now, f.off, f.ok }

// newClockedRig is newRig with a server's clock that stands at ten seconds, in which a log begins at its first microseconds.
func newClockedRig(t *testing.T, parts int, sources ...string) (*rig, *clockedFake) {
	r := newRig(t, parts)
	f := &clockedFake{fake: r.f, now: time.Unix(10, 0), off: 3 * time.Millisecond, ok: true}
	o := r.m.opts
	o.Sources = sources
	r.m = New(f, r.clock, o)
	r.m.inTurn = true
	r.m.link(store.Link{Up: true, Tracks: true})
	for range 2*parts + 1 {
		r.probe()
	}
	return r, f
}

func (r *rig) heard(d store.Drop) {
	r.announce(0, r.f.parts[0].append(r.clock, store.LogEntry{Drop: d}))
}

func TestVoidedIsMeasured(t *testing.T) {
	r, f := newClockedRig(t, 1)
	r.heard(store.Drop{Tags: []string{"t"}, By: "other"})
	h := r.m.Voided()
	if h.Count != 1 || h.Max < 9*time.Second || h.Max > 10*time.Second {
		t.Errorf("%d drops, by up to %v; want one, by nearly 10 s", h.Count, h.Max)
	}
	r.heard(store.Drop{Tags: []string{"t"}, By: "me"}) // void here before it was logged
	r.heard(store.Drop{By: "other"})                   // nothing was dropped
	r.is("drops", r.m.Voided().Count, uint64(1))

	f.now = time.Unix(0, 0) // the server's clock went back, or the estimate is wrong
	r.heard(store.Drop{Keys: []string{"k"}, By: "other"})
	h = r.m.Voided()
	r.is("drops", h.Count, uint64(2))
	r.is("those that took no time", h.Buckets[0], uint64(1))

	f.ok = false // before the server said what time it is
	r.heard(store.Drop{Keys: []string{"k"}, By: "other"})
	r.is("drops", r.m.Voided().Count, uint64(2))
	r.is("error of the clock", r.m.ClockError(), time.Duration(-1))
	f.ok = true
	r.is("error of the clock", r.m.ClockError(), 3*time.Millisecond)

	// What was missed counts when it is known here, not when it was announced.
	f.now = time.Unix(20, 0)
	r.drop(0, "missed")
	r.announce(0, r.drop(0, "announced"))
	r.is("drops", r.m.Voided().Count, uint64(2))
	r.probe()
	r.is("drops", r.m.Voided().Count, uint64(4))
}

func TestCommitsAreMeasured(t *testing.T) {
	r, f := newClockedRig(t, 1)
	by := func(source string, ago time.Duration) {
		r.heard(store.Drop{Tags: []string{"t"}, By: store.ByPump(source, f.now.Add(-ago))})
	}
	by("shop", time.Second)
	by("shop", 2*time.Second)
	by("hr", -time.Hour) // the database's clock is ahead
	r.heard(store.Drop{Tags: []string{"t"}, By: store.ByPump("shop", time.Time{})})
	got := r.m.Commits()
	if h := got["shop"]; h.Count != 2 || h.Sum != 3*time.Second {
		t.Errorf("shop: %d, %v in all; want two, 3 s", h.Count, h.Sum)
	}
	if h := got["hr"]; h.Count != 1 || h.Sum != 0 {
		t.Errorf("hr: %d, %v; want one of no time", h.Count, h.Sum)
	}
	r.is("drops", r.m.Voided().Count, uint64(4))

	for i := range 2 * maxSources {
		by(fmt.Sprint("source", i), time.Second)
	}
	r.is("sources", len(r.m.Commits()), maxSources)

	e := store.LogEntry{Head: store.Head{Pos: 100}, Drop: store.Drop{Tags: []string{"t"}, By: store.ByPump("shop", f.now)}}
	if n := testing.AllocsPerRun(100, func() { r.m.measure(0, e) }); n != 0 {
		t.Errorf("measuring a drop makes %v allocations; want none", n)
	}
}

// A round of probes notes how old the proof was before it.
func TestProofsAreMeasured(t *testing.T) {
	r, f := newClockedRig(t, 1, "shop")
	r.is("proofs of a source that was never certified", r.m.SourceProven(0).Count, uint64(0))
	before := r.m.Proven().Count
	f.fail["head"] = store.ErrTimeout
	for range 3 {
		r.probe() // they count though nothing is proven by them
	}
	r.is("proofs", r.m.Proven().Count-before, uint64(0)) // without a source nothing is
	r.m.proof.Store(r.clock.Exact() - int64(time.Second))
	r.m.sources[0].Store(r.clock.Exact() - int64(time.Minute))
	for range 3 {
		r.probe()
	}
	if h := r.m.Proven(); h.Count-before != 3 || h.Max < time.Second || h.Max > 10*time.Second {
		t.Errorf("%d times, %v at most; want 3, a second and a bit", h.Count, h.Max)
	}
	if h := r.m.SourceProven(0); h.Count != 3 || h.Max < time.Minute {
		t.Errorf("source: %d times, %v at most; want 3, a minute", h.Count, h.Max)
	}
	r.is("uncertified", r.m.uncertified(r.clock.Exact()), "")
	r.m.certify()
	r.is("uncertified", r.m.uncertified(r.clock.Exact()), "shop")
}
