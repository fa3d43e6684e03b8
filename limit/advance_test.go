package limit_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit"
)

func TestAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		p := limit.MustPolicy("p", limit.Spec{Limit: 10_000, Period: time.Hour, Advance: 100})
		for i := range 9000 {
			d := ask(t, l, p, "k", 1, true)
			if want := int64(9999 - i); d.Remaining != want {
				t.Fatalf("decision %d: %d remaining; want %d", i, d.Remaining, want)
			}
		}
		if got := s.asked.Swap(0); got > 100 {
			t.Errorf("the store was asked %d times for 9000 decisions; want at most 100", got)
		}
		for range 1000 {
			ask(t, l, p, "k", 1, true)
		}
		if got := s.asked.Swap(0); got < 40 || got > 200 { // batches of a tenth of what is left
			t.Errorf("the store was asked %d times for the last 1000; want 40 to 200", got)
		}
		ask(t, l, p, "k", 1, false)
		s.left(t, p, "k", 0)
		if got := l.Stats(); got.Advanced < 9000 {
			t.Errorf("%d of units taken ahead; want 9000 at least", got.Advanced)
		}
		noError(t, l.Close())
	})
}

// Another instance isn't kept from what is left: the last units go one by one.
func TestAdvanceOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: limit.MaxPeriod, Advance: 1000})
		a, b := newLimiter(t, s, limit.Options{}), newLimiter(t, s, limit.Options{})
		got := map[*limit.Limiter]int{}
		for range 1200 {
			for _, l := range []*limit.Limiter{a, b} {
				if l.Allow(bg, p, "k") {
					got[l]++
				}
			}
		}
		if got[a]+got[b] != 1000 || got[a] < 450 || got[b] < 450 {
			t.Errorf("%d and %d admitted; want 1000 in all, and none left out", got[a], got[b])
		}
		noError(t, a.Close())
		noError(t, b.Close())
	})
}

// What is documented: per Limiter, Advance more units in a window.
func TestAdvanceBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const instances, batch, n = 4, 20, 100
		s := newFaulty()
		p := limit.MustPolicy("p", limit.Spec{Limit: n, Period: time.Minute, Advance: batch})
		var all []*limit.Limiter
		for range instances {
			all = append(all, newLimiter(t, s, limit.Options{AdvanceFor: time.Hour}))
		}
		// All get as much ahead as they can, and keep it while the rest flows back. Then they spend all they can.
		var at []time.Time
		spend := func(l *limit.Limiter) bool {
			if l.Allow(bg, p, "k") {
				at = append(at, time.Now())
				return true
			}
			return false
		}
		for _, l := range all {
			spend(l)
			spend(l) // the second knows what is left
		}
		time.Sleep(2 * time.Minute)
		at = nil
		for range 600 {
			for _, l := range all {
				for spend(l) {
				}
			}
			time.Sleep(100 * ms)
		}
		best, from := 0, 0
		for i := range at {
			for at[i].Sub(at[from]) >= time.Minute {
				from++
			}
			best = max(best, i-from+1)
		}
		bound := n + n - 1 + instances*batch
		if best <= 2*n-1 || best > bound {
			t.Errorf("%d admitted in a window; want more than %d, since units were held, and at most %d", best, 2*n-1, bound)
		}
		t.Logf("%d admitted in a window; bound %d", best, bound)
		for _, l := range all {
			noError(t, l.Close())
		}
	})
}

func TestAdvanceIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: limit.MaxPeriod, Advance: 50})
		for range 5 {
			ask(t, l, p, "idle", 1, true)
			ask(t, l, p, "held", 1, true)
		}
		s.left(t, p, "idle", 1000-1-51)
		time.Sleep(900 * ms)
		ask(t, l, p, "held", 1, true)
		time.Sleep(900 * ms)
		ask(t, l, p, "held", 1, true)
		time.Sleep(700 * ms)
		s.left(t, p, "idle", 995)       // not used for two seconds
		s.left(t, p, "held", 1000-1-51) // used
		noError(t, l.Close())
	})
}

func TestAdvanceIsGivenBackOnClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, &unclosed{s}, limit.Options{})
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: limit.MaxPeriod, Advance: 50})
		q := limit.MustPolicy("q", limit.Spec{Kind: limit.Fixed, Limit: 1000, Calendar: limit.Year, Advance: 50})
		for i := range 5 {
			key := fmt.Sprint(i)
			for range 10 {
				ask(t, l, p, key, 1, true)
				ask(t, l, q, key, 1, true)
			}
		}
		noError(t, l.Close())
		for i := range 5 {
			s.left(t, p, fmt.Sprint(i), 990)
			s.left(t, q, fmt.Sprint(i), 990)
		}
	})
}

// unclosed lets a test look at the store after the Limiter was closed.
type unclosed struct{ *faulty }

func (*unclosed) Close() error { return nil }

// Units of a Fixed policy end with their window, so nothing more is admitted in the next.
func TestAdvanceOfFixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{AdvanceFor: time.Hour})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Kind: limit.Fixed, Limit: 100, Period: time.Minute, Advance: 10})
		for range 3 {
			got := 0
			for range 120 {
				if l.Allow(bg, p, "k") {
					got++
				}
				if got == 50 {
					break
				}
			}
			if s.remaining(t, p, "k") >= 50 {
				t.Fatal("nothing is held")
			}
			time.Sleep(time.Minute)
			for range 120 {
				if l.Allow(bg, p, "k") {
					got++
				}
			}
			if got != 150 {
				t.Errorf("%d admitted; want 50 and then 100", got)
			}
			time.Sleep(time.Minute)
		}
	})
}

func TestAdvanceAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 100, Period: limit.MaxPeriod, Advance: 10})
		for range 20 {
			ask(t, l, p, "k", 1, true)
		}
		noError(t, l.Reset(bg, p, "k"))
		got := 0
		for range 200 {
			if l.Allow(bg, p, "k") {
				got++
			}
		}
		if got != 100 {
			t.Errorf("%d admitted after a reset; want 100: units taken ahead are forgotten too", got)
		}

		// A fetch that overlaps a reset brings nothing ahead.
		noError(t, l.Reset(bg, p, "k"))
		ask(t, l, p, "k", 1, true)
		gate := make(chan struct{})
		s.after = func(context.Context) error { <-gate; return nil }
		done := make(chan struct{})
		go func() { ask(t, l, p, "k", 1, true); close(done) }()
		synctest.Wait()
		s.after = nil
		noError(t, l.Reset(bg, p, "k"))
		close(gate)
		<-done
		got = 0
		for range 200 {
			if l.Allow(bg, p, "k") {
				got++
			}
		}
		if got != 100 {
			t.Errorf("%d admitted after a reset that overlapped; want 100", got)
		}
	})
}

func TestAdvanceCostsAndCorrections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: limit.MaxPeriod, Advance: 20})
		ask(t, l, p, "k", 3, true)
		ask(t, l, p, "k", 3, true)
		d := ask(t, l, p, "k", 7, true)
		if d.Source != limit.FromAdvance || !d.Charged || d.Remaining != 987 {
			t.Errorf("%+v; want it of what was taken ahead, with 987 remaining", d)
		}
		if d := ask(t, l, p, "k", limit.Uncharged, true); d.Charged || d.Remaining != 987 || d.Source != limit.FromAdvance {
			t.Errorf("%+v; want it asked only", d)
		}
		if d := ask(t, l, p, "k", 21, true); d.Source != limit.FromStore { // more than Advance
			t.Errorf("%+v; want the store to be asked", d)
		}
		noError(t, l.Refund(bg, d))
		if st, err := l.Settle(bg, ask(t, l, p, "k", 5, true).Status, 1); err != nil || st.Cost != 1 {
			t.Errorf("%+v, %v", st, err)
		}
		several := decide(t, l, limit.Request{Policy: p, Key: "k"}, limit.Request{Policy: p, Key: "m"})
		if several.At(0).Source != limit.FromStore {
			t.Errorf("%+v; want the store to decide several", several)
		}
		noError(t, l.Close())
	})
}

func TestAdvanceKeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{AdvanceKeys: 2})
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: limit.MaxPeriod, Advance: 50})
		for range 10 {
			for i := range 5 {
				ask(t, l, p, fmt.Sprint(i), 1, true)
			}
		}
		s.times(t, 3*10+2*2) // three keys ask each time, two only twice
		noError(t, l.Close())
	})
}

// While the store is away, those that wait for more share one failure: no decision takes longer than its timeout.
func TestAdvanceInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{BreakAfter: -1})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: limit.MaxPeriod, Advance: 10, OnOutage: limit.OutageDeny})
		ask(t, l, p, "k", 1, true)
		s.before = hang
		s.asked.Store(0)
		began := time.Now()
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				d := ask(t, l, p, "k", 1, false)
				if got := time.Since(began); got > 20*ms || !d.Degraded || !errors.Is(d.Err, limit.ErrTimeout) {
					t.Errorf("after %v: %+v", got, d)
				}
			})
		}
		all.Wait()
		s.times(t, 1)
	})
}

// A key for which nothing can be held ahead asks the store as all others do: not for longer than the timeout.
func TestAdvanceKeysInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{AdvanceKeys: 1})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: limit.MaxPeriod, Advance: 10})
		ask(t, l, p, "first", 1, true)
		s.before = hang
		began := time.Now()
		if d := ask(t, l, p, "second", 1, true); !d.Degraded || time.Since(began) != 20*ms {
			t.Errorf("after %v: %+v; want it degraded after 20ms", time.Since(began), d)
		}
	})
}

func TestAdvanceExactlyOnce(t *testing.T) {
	s := newFaulty()
	p := limit.MustPolicy("p", limit.Spec{Limit: 500, Period: limit.MaxPeriod, Advance: 30})
	var all sync.WaitGroup
	var mu sync.Mutex
	got := 0
	var limiters []*limit.Limiter
	for range 3 {
		l := newLimiter(t, &unclosed{s}, limit.Options{Timeout: time.Minute})
		limiters = append(limiters, l)
		for range 8 {
			all.Go(func() {
				for range 60 {
					if l.Allow(bg, p, "k") {
						mu.Lock()
						got++
						mu.Unlock()
					}
				}
			})
		}
	}
	all.Wait()
	for _, l := range limiters {
		noError(t, l.Close())
	}
	if got > 500 || got < 400 { // some may be held by one when another is refused
		t.Errorf("%d admitted; want at most 500", got)
	}
	s.left(t, p, "k", int64(500-got))
}

// A client who went away while it asked for more says nothing of the store to those that waited for it.
func TestAdvanceAndCallersWhoGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: limit.MaxPeriod, Advance: 10, OnOutage: limit.OutageDeny})
		s.before = func(context.Context) error { s.before = hang; return nil }
		ask(t, l, p, "k", 1, true)
		ctx, leave := context.WithCancel(bg)
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := l.Decide(ctx, limit.Request{Policy: p, Key: "k"}); !errors.Is(err, context.Canceled) {
				t.Errorf("%v; want the end of its own context", err)
			}
		})
		synctest.Wait()
		for range 10 {
			all.Go(func() {
				if d := ask(t, l, p, "k", 1, true); d.Degraded {
					t.Errorf("%+v; want it decided by the store", d)
				}
			})
		}
		synctest.Wait()
		s.before = nil
		leave()
		all.Wait()
	})
}

// What is asked for ahead, and isn't there, is nobody's refused request: it must not count for a penalty.
func TestAdvanceAndPenalty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		p := limit.MustPolicy("p", limit.Spec{
			Limit: 100, Period: limit.MaxPeriod, Advance: 10, Penalty: limit.Penalty{After: 1, Within: time.Minute, Block: time.Hour},
		})
		a, b := newLimiter(t, s, limit.Options{}), newLimiter(t, s, limit.Options{})
		defer a.Close()
		defer b.Close()
		ask(t, a, p, "k", 1, true)
		ask(t, b, p, "k", 95, true)
		for range 4 {
			ask(t, a, p, "k", 1, true)
		}
		if d := ask(t, a, p, "k", 1, false); !d.Blocked {
			t.Errorf("%+v; want it blocked now", d)
		}
	})
}

// A fetch that is under way when the Limiter is closed leaves nothing charged ahead.
func TestAdvanceAndCloseMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, &unclosed{s}, limit.Options{})
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: limit.MaxPeriod, Advance: 50})
		ask(t, l, p, "k", 1, true)
		s.after = func(context.Context) error { s.after = nil; time.Sleep(10 * ms); return nil }
		done := make(chan struct{})
		go func() { ask(t, l, p, "k", 1, true); close(done) }()
		synctest.Wait()
		noError(t, l.Close())
		<-done
		s.left(t, p, "k", 998)
	})
}
