package limit_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/limittest"
)

const simulated = time.Minute

func simulate(p *limit.Policy) limittest.Simulation {
	return limittest.Simulation{Policy: p, Period: simulated}
}

// What each kind admits at worst, as documented at Kind: 100 per W, under all hostile patterns. The numbers are those of the bound, and
// the patterns reach them.
func TestWorstCases(t *testing.T) {
	t.Parallel()
	gcra := func(limitN, burst int64) limit.Spec {
		return limit.Spec{Limit: limitN, Burst: burst, Period: simulated}
	}
	for _, row := range []struct {
		name               string
		spec               limit.Spec
		w, w2, w10, w100   int
		over, flood, loses float64 // shortest span of 101; part of the limit that a flood gets; most that a polite stream loses
	}{
		{"fixed", limit.Spec{Kind: limit.Fixed, Limit: 100, Period: simulated}, 200, 200, 200, 200, 0, 1, 0.02},
		{"strict, a log", limit.Spec{Kind: limit.Strict, Limit: 100, Period: simulated}, 100, 100, 100, 100, 1, 1, 0.04},
		{"gcra, burst 100", gcra(100, 100), 199, 149, 109, 100, 0.01, 1.05, 0},
		{"gcra, burst 50", gcra(100, 50), 149, 99, 59, 50, 0.51, 1.025, 0.002},
		{"gcra, burst 10", gcra(100, 10), 109, 59, 19, 10, 0.91, 1.005, 0.03},
		{"gcra, burst 1", gcra(100, 1), 100, 50, 10, 1, 1, 1, 0.50},
		{"gcra, rate 90, burst 10", gcra(90, 10), 99, 54, 18, 10, 1, 0.905, 0.07},
		{"gcra, rate 50, burst 50", gcra(50, 50), 99, 75, 55, 50, 1.02, 0.525, 0.46},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := simulate(limit.MustPolicy("p", row.spec)).Worst(100, 1)
			t.Log(r)
			if r.W != row.w || r.W2 > row.w2 || r.W2 < row.w2-1 || r.W10 > row.w10 || r.W10 < row.w10-1 || r.W100 > row.w100 || r.W100 < row.w100-1 {
				t.Errorf("admits %d, %d, %d, %d in W, W/2, W/10, W/100; want %d, %d, %d, %d", r.W, r.W2, r.W10, r.W100, row.w, row.w2, row.w10, row.w100)
			}
			if r.Over < row.over-1e-9 {
				t.Errorf("admits 101 in %.4f W; want no less than %.2f", r.Over, row.over)
			}
			if r.Flood > row.flood+1e-9 || r.Flood < row.flood-0.01 {
				t.Errorf("a flood gets %.4f of the limit; want %.3f", r.Flood, row.flood)
			}
			if r.Refused > row.loses {
				t.Errorf("a Poisson stream at 90 %% loses %.3f; want at most %.3f", r.Refused, row.loses)
			}
		})
	}
}

// Sub-windows, with a limit above LogMax: never more than that in any window.
func TestWorstCaseOfSubWindows(t *testing.T) {
	t.Parallel()
	n := limit.LogMax + 2
	r := simulate(limit.MustPolicy("p", limit.Spec{Kind: limit.Strict, Limit: int64(n), Period: simulated})).Worst(n, 1)
	t.Log(r)
	if r.W != n || r.Over < 1 {
		t.Errorf("%v; want %d in W", r, n)
	}
	if r.Flood < 0.90 || r.Flood > 1 {
		t.Errorf("a flood gets %.3f of the limit; want 0.90 to 1", r.Flood)
	}
	if r.Refused > 0.08 {
		t.Errorf("a Poisson stream at 90 %% loses %.3f; want at most 0.08", r.Refused)
	}
}

// State lost once: one more Burst for GCRA, N for the others; documented at Kind.
func TestWorstCaseOfLostState(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		spec limit.Spec
		most int
	}{
		{limit.Spec{Limit: 100, Period: simulated}, 299},
		{limit.Spec{Limit: 100, Period: simulated, Burst: 10}, 119},
		{limit.Spec{Kind: limit.Strict, Limit: 100, Period: simulated}, 200},
		{limit.Spec{Kind: limit.Fixed, Limit: 100, Period: simulated}, 300},
	} {
		worst := 0
		for _, part := range []int{0, 3, 9, 10, 14} { // lost at each of these times
			s := simulate(limit.MustPolicy("p", row.spec))
			at, lost := int64(part)*simulated.Microseconds()/10, int64(-1)
			s.Lost = func(now int64) bool {
				if now < lost {
					lost = -1 // another pattern
				}
				if now < at || lost >= 0 {
					return false
				}
				lost = now
				return true
			}
			r := s.Windows(100, uint64(part))
			worst = max(worst, r.W)
			if r.W > row.most {
				t.Errorf("%+v, lost after %.1f W: %d in W; want at most %d", row.spec, float64(part)/10, r.W, row.most)
			}
		}
		if worst < row.most*9/10 {
			t.Errorf("%+v: at worst %d in W; want the patterns to come near %d", row.spec, worst, row.most)
		}
	}
}

// A server whose clock steps back refuses for no longer than the limit's own time, and admits no more than one that lost nothing but the step.
func TestServerClockSteps(t *testing.T) {
	for _, spec := range []limit.Spec{
		{Limit: 10, Period: time.Minute},
		{Limit: 10, Period: time.Minute, Burst: 3, Debt: -1},
		{Kind: limit.Strict, Limit: 10, Period: time.Minute},
		{Kind: limit.Strict, Limit: 1000, Period: time.Minute},
		{Kind: limit.Fixed, Limit: 10, Period: time.Minute},
		{Kind: limit.Concurrency, Limit: 10, TTL: time.Minute},
	} {
		for _, step := range []time.Duration{-time.Millisecond, -3 * time.Second, -time.Hour, -24 * time.Hour, time.Hour} {
			clock := new(limittest.Clock)
			clock.Set(1_790_000_000_000_000)
			m := limittest.NewModel(clock.Now)
			p := limit.MustPolicy("p", spec)
			n := 0
			take := func() bool {
				n++
				st, err := m.Take(bg, limit.Charge{Policy: p, Cost: 1, Lease: limit.ID{byte(n), byte(n >> 8)}})
				if err != nil {
					t.Fatal(err)
				}
				if st.RetryAfter > 140*time.Second || st.ResetAfter > 140*time.Second {
					t.Errorf("%+v, step %v: %+v; want no more than the limit's own time", spec, step, st)
				}
				return st.Fits
			}
			spend := func() (got int) {
				for take() {
					got++
				}
				return got
			}
			most := int(spec.Limit)
			if p.Rule().Burst > 0 {
				most = int(p.Rule().Burst)
			}
			if got := spend(); got != most {
				t.Errorf("%+v: %d at first; want %d", spec, got, most)
			}
			clock.Set(clock.Now() + step.Microseconds())
			if got := spend(); step < 0 && got != 0 {
				t.Errorf("%+v, step %v: %d more; want none", spec, step, got)
			}
			clock.Set(clock.Now() + (140 * time.Second).Microseconds())
			if got := spend(); got != most {
				t.Errorf("%+v, step %v: %d after all must have come back; want %d", spec, step, got, most)
			}
		}
	}
}

// The clocks of instances don't matter: only the store's is read. Three instances decide the same whether the store's clock is
// theirs, or three seconds behind or ahead.
func TestClientClocksDoNotMatter(t *testing.T) {
	run := func(spec limit.Spec, skew time.Duration) (got []bool) {
		synctest.Test(t, func(t *testing.T) {
			s := newFaulty()
			s.model.Now = func() int64 { return time.Now().Add(skew).UnixMicro() }
			p := limit.MustPolicy("p", spec)
			var all []*limit.Limiter
			for range 3 {
				l := newLimiter(t, s, limit.Options{})
				defer l.Close()
				all = append(all, l)
			}
			for i := range 900 {
				d := decide(t, all[i%len(all)], limit.Request{Policy: p, Key: "k"})
				got = append(got, d.Allowed)
				time.Sleep(37 * ms)
			}
		})
		return got
	}
	for _, spec := range []limit.Spec{
		{Limit: 10, Period: time.Second},
		{Kind: limit.Strict, Limit: 10, Period: time.Second},
		{Kind: limit.Strict, Limit: 200, Period: 10 * time.Second}, // three seconds are three sub-windows
		{Kind: limit.Fixed, Limit: 10, Period: time.Second},
		{Kind: limit.Concurrency, Limit: 10, TTL: time.Second},
	} {
		want := run(spec, 0)
		for _, skew := range []time.Duration{-3 * time.Second, 3 * time.Second} {
			if got := run(spec, skew); !slices.Equal(got, want) {
				t.Errorf("%+v: other decisions when clocks differ by %v", spec, skew)
			}
		}
	}
}

// A process may die at each step: what it was doing is charged or not, and all heals in the limit's own time.
func TestCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, spec := range []limit.Spec{
			{Limit: 6, Period: time.Minute},
			{Kind: limit.Strict, Limit: 6, Period: time.Minute},
			{Kind: limit.Fixed, Limit: 6, Period: time.Minute},
			{Kind: limit.Concurrency, Limit: 6, TTL: time.Minute},
			{Limit: 6, Period: time.Minute, Advance: 4},
		} {
			// Dies before its request was sent, after it was decided, and with what it held.
			for _, step := range []string{"before", "after", "holding"} {
				s := newFaulty()
				s.model.Slots = true
				shared := &unclosed{s}
				global := limit.MustPolicy("global", limit.Spec{Limit: 100, Period: time.Minute})
				p := limit.MustPolicy("p", spec)
				for range 3 {
					mine := newFaulty()
					mine.Store = shared
					l := newLimiter(t, mine, limit.Options{})
					defer l.Close()
					both := []limit.Request{{Policy: p, Key: "k"}, {Policy: global, Key: "*"}}
					if spec.Advance > 0 {
						both = both[:1]
					}
					switch step {
					case "before":
						mine.before = hang
					case "after":
						mine.after = hang
					}
					decide(t, l, both...)
					synctest.Wait() // a lease that it may have made is being ended
					mine.before, mine.after = nil, nil
					decide(t, l, both...)
					decide(t, l, both...)
					mine.before = down // it is gone: nothing is refunded, released, nor given back
				}
				time.Sleep(3 * time.Minute)
				s.left(t, p, "k", 6)
				s.left(t, global, "*", 100)
				l := newLimiter(t, s, limit.Options{})
				for range 6 {
					ask(t, l, p, "k", 1, true)
				}
				ask(t, l, p, "k", 1, false)
				noError(t, l.Close())
			}
		}
	})
}
