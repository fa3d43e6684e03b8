package limit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/memlimit"
)

var errDown = errors.New("connection refused")

func down(context.Context) error { return errDown }

// hang waits for the end of ctx, as a store does whose server is stopped.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestOnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{Local: memlimit.New(memlimit.Options{}), BreakAfter: -1})
		defer l.Close()
		spec := limit.Spec{Limit: 10, Period: time.Hour, Share: 20}
		allow := limit.MustPolicy("allow", spec)
		spec.OnOutage = limit.OutageDeny
		deny := limit.MustPolicy("deny", spec)
		spec.OnOutage = limit.OutageLocal
		local := limit.MustPolicy("local", spec)
		spec.Shadow, spec.OnOutage = true, limit.OutageDeny
		shadow := limit.MustPolicy("shadow", spec)

		ask(t, l, local, "k", 10, true)
		s.before = down
		check := func(d limit.Decision, allowed bool, from limit.Source) {
			t.Helper()
			if d.Allowed != allowed || d.Source != from || !d.Degraded || !errors.Is(d.Err, errDown) {
				t.Errorf("%+v; want allowed %v from %v, degraded", d, allowed, from)
			}
		}
		for range 30 {
			check(ask(t, l, allow, "k", 1, true), true, limit.FromOutage)
		}
		check(ask(t, l, deny, "k", 1, false), false, limit.FromOutage)
		check(ask(t, l, shadow, "k", 1, true), true, limit.FromOutage)
		d := ask(t, l, local, "k", 1, true) // 20 % of 10
		check(d, true, limit.FromLocal)
		if d.Remaining != 1 {
			t.Errorf("%d remaining; want 1 of 2", d.Remaining)
		}
		noError(t, l.Refund(bg, d)) // where it was charged: it needs no store
		check(ask(t, l, local, "k", 2, true), true, limit.FromLocal)
		check(ask(t, l, local, "k", 1, false), false, limit.FromLocal)

		// Several: each by its own policy, all or nothing.
		both := func(a, b *limit.Policy, key string) limit.Decision {
			return decide(t, l, limit.Request{Policy: a, Key: key}, limit.Request{Policy: b, Key: key})
		}
		check(both(allow, deny, "m"), false, limit.FromOutage)
		check(both(local, deny, "m"), false, limit.FromOutage)
		check(both(deny, local, "m"), false, limit.FromOutage)
		check(both(allow, local, "m"), true, limit.FromLocal)
		check(both(allow, local, "m"), true, limit.FromLocal) // nothing was charged by those that deny refused
		check(both(allow, local, "m"), false, limit.FromLocal)
		check(both(allow, allow2, "m"), true, limit.FromOutage)

		if st := l.Stats(); st.Degraded != st.Allowed+st.Refused-1 || st.Failures < 30 {
			t.Errorf("%+v; want all but one degraded", st)
		}
		if _, err := l.Peek(bg, limit.Request{Policy: allow, Key: "k"}); !errors.Is(err, errDown) {
			t.Errorf("peek: %v; want the store's error", err)
		}
		if err := l.Reset(bg, allow, "k"); !errors.Is(err, errDown) {
			t.Errorf("reset: %v; want the store's error", err)
		}
		s.before = nil
		if d := ask(t, l, local, "k", 1, false); d.Degraded || d.Source != limit.FromStore {
			t.Errorf("%+v; want the store's answer", d)
		}
		s.left(t, allow, "k", 10) // what was admitted without the store isn't charged
	})
}

var allow2 = limit.MustPolicy("allow2", limit.Spec{Limit: 10, Period: time.Hour})

// What a store can't do before it has tried to connect isn't held against it: it may be up the next moment.
func TestConnectingOpensNoBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		defer l.Close()
		deny := limit.MustPolicy("deny", limit.Spec{Limit: 10, Period: time.Hour, OnOutage: limit.OutageDeny})
		s.before = func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("%w: %w", limit.ErrConnecting, ctx.Err())
		}
		for range 20 {
			d := ask(t, l, deny, "k", 1, false)
			if !d.Degraded || !errors.Is(d.Err, limit.ErrConnecting) || !errors.Is(d.Err, limit.ErrTimeout) {
				t.Errorf("%+v; want it degraded, for the store is connecting", d)
			}
		}
		s.before = nil
		if d := ask(t, l, deny, "k", 1, true); d.Degraded || l.Stats().Opened != 0 {
			t.Errorf("%+v, %+v; want the store's answer at once, and no open breaker", d, l.Stats())
		}
	})
}

// Leases that were taken in an outage are held, renewed and released where they were taken.
func TestLeasesInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		s.before = down
		l := newLimiter(t, s, limit.Options{Local: memlimit.New(memlimit.Options{})})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Kind: limit.Concurrency, Limit: 4, Share: 50, OnOutage: limit.OutageLocal})
		a := ask(t, l, p, "k", 1, true)
		ask(t, l, p, "k", 1, true)
		ask(t, l, p, "k", 1, false)
		synctest.Wait() // leases that they may have made are being ended
		s.before = nil
		noError(t, l.Renew(bg, a))
		noError(t, l.Release(bg, a))
		if err := l.Renew(bg, a); !errors.Is(err, limit.ErrLeaseLost) {
			t.Errorf("%v; want ErrLeaseLost", err)
		}
		s.before = down
		ask(t, l, p, "k", 1, true)
	})
}

// A decision returns at its deadline, by the policy, whatever the store does.
func TestTimeout(t *testing.T) {
	stuck := make(chan struct{})
	for name, f := range map[string]func(context.Context) error{
		"a store that keeps the deadline": hang,
		"a store that ignores it":         func(context.Context) error { <-stuck; return errDown },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stuck = make(chan struct{})
				s := newFaulty()
				s.traits.KeepsDeadline = name == "a store that keeps the deadline"
				s.before = f
				l := newLimiter(t, s, limit.Options{BreakAfter: -1})
				p := limit.MustPolicy("p", limit.Spec{Limit: 10, Period: time.Hour, OnOutage: limit.OutageDeny})
				q := limit.MustPolicy("q", limit.Spec{Limit: 10, Period: time.Hour})
				began := time.Now()
				took := func(want time.Duration) {
					t.Helper()
					if got := time.Since(began); got != want {
						t.Errorf("it took %v; want %v", got, want)
					}
					began = time.Now()
				}
				d := ask(t, l, p, "k", 1, false)
				took(20 * ms)
				if !d.Degraded || !errors.Is(d.Err, limit.ErrTimeout) {
					t.Errorf("%+v; want it degraded for a timeout", d)
				}
				d = decide(t, l, limit.Request{Policy: q, Key: "k"}, limit.Request{Policy: p, Key: "k"})
				took(20 * ms)
				if d.Allowed || !errors.Is(d.Err, limit.ErrTimeout) {
					t.Errorf("%+v; want it refused for a timeout", d)
				}
				if err := l.Reset(bg, p, "k"); !errors.Is(err, limit.ErrTimeout) {
					t.Errorf("reset: %v; want ErrTimeout", err)
				}
				took(200 * ms)
				// The caller's own end is his: no decision, and nothing to follow.
				ctx, cancel := context.WithTimeout(bg, 3*ms)
				defer cancel()
				_, err := l.Decide(ctx, limit.Request{Policy: p, Key: "k"})
				took(3 * ms)
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, limit.ErrTimeout) {
					t.Errorf("%v; want the caller's deadline", err)
				}
				close(stuck)
				noError(t, l.Close())
			})
		})
	}
}

// Whatever goes wrong, a decision is sent to the store once.
func TestNothingIsChargedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{BreakAfter: -1})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 10, Period: time.Hour})
		s.after = hang // charged, but the answer is lost
		d := ask(t, l, p, "k", 1, true)
		if !d.Degraded || d.Charged {
			t.Errorf("%+v; want it degraded", d)
		}
		s.times(t, 1)
		s.left(t, p, "k", 9)
		noError(t, l.Refund(bg, d)) // it isn't known to be charged, so it isn't given back
		s.left(t, p, "k", 9)
		decide(t, l, limit.Request{Policy: p, Key: "k"}, limit.Request{Policy: p, Key: "m"})
		s.times(t, 1)
		s.left(t, p, "k", 8)
		s.after = func(context.Context) error { return errDown }
		ask(t, l, p, "k", 1, true)
		s.times(t, 1)
		s.left(t, p, "k", 7)
	})
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []bool
		var failed atomic.Int64
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{Hooks: limit.Hooks{
			Breaker: func(b limit.Breaker) { told = append(told, b.Open) },
			Failed:  func(f limit.Failed) { failed.Add(1) },
		}})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: time.Hour})
		s.before = hang
		began := time.Now()
		for range 5 {
			ask(t, l, p, "k", 1, true)
		}
		if got := time.Since(began); got != 100*ms {
			t.Errorf("5 timeouts took %v", got)
		}
		s.times(t, 5)
		for range 1000 {
			d := ask(t, l, p, "k", 1, true)
			if !d.Degraded || !errors.Is(d.Err, limit.ErrUnavailable) || !errors.Is(d.Err, limit.ErrTimeout) {
				t.Fatalf("%+v; want it degraded, unavailable", d)
			}
		}
		s.times(t, 0)
		if got := time.Since(began); got != 100*ms {
			t.Errorf("an outage costs %v more; want no time", got-100*ms)
		}
		if st := l.Stats(); !st.BreakerOpen || st.Opened != 1 || st.Failures != 5 {
			t.Errorf("%+v; want it open, opened once, 5 failures", st)
		}
		time.Sleep(time.Second)
		var all sync.WaitGroup
		for range 50 { // one of them is the probe
			all.Go(func() { ask(t, l, p, "k", 1, true) })
		}
		all.Wait()
		s.times(t, 1)
		time.Sleep(time.Second)
		s.before = nil
		if d := ask(t, l, p, "k", 1, true); d.Degraded {
			t.Errorf("%+v; want the probe to succeed", d)
		}
		for range 4 { // too few in a row
			s.before = down
			for range 4 {
				ask(t, l, p, "k", 1, true)
			}
			s.before = nil
			ask(t, l, p, "k", 1, true)
		}
		if st := l.Stats(); st.BreakerOpen || st.Opened != 1 {
			t.Errorf("%+v; want it closed", st)
		}
		if len(told) != 2 || !told[0] || told[1] || failed.Load() != 22 {
			t.Errorf("told %v, and of %d failures; want open, closed, and 22", told, failed.Load())
		}
	})
}

// What began before the breaker changed says nothing about the store as it is now.
func TestBreakerIgnoresLateFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{BreakAfter: 2, Timeout: time.Hour})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: time.Hour})
		late := make(chan struct{})
		s.before = func(context.Context) error { <-late; return errDown }
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { ask(t, l, p, "k", 1, true) })
		}
		synctest.Wait()
		s.before = down
		for range 2 {
			ask(t, l, p, "k", 1, true)
		}
		time.Sleep(time.Second)
		s.before = nil
		ask(t, l, p, "k", 1, true) // the probe: closed again
		close(late)
		all.Wait()
		if st := l.Stats(); st.BreakerOpen || st.Opened != 1 {
			t.Errorf("%+v; want it closed", st)
		}
	})
}

// Callers who go away prove nothing, unless they had waited for a while.
func TestBreakerAndCallersWhoGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		s.before = hang
		l := newLimiter(t, s, limit.Options{})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: time.Hour})
		gone := func(after time.Duration) {
			ctx, cancel := context.WithTimeout(bg, after)
			defer cancel()
			if _, err := l.Decide(ctx, limit.Request{Policy: p, Key: "k"}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v; want the caller's deadline", err)
			}
		}
		for range 20 {
			gone(ms)
		}
		if l.Stats().BreakerOpen {
			t.Error("opened by callers who waited for a millisecond")
		}
		for range 5 {
			gone(10 * ms)
		}
		if !l.Stats().BreakerOpen {
			t.Error("not opened by callers who waited for 10 ms each")
		}
	})
}

// A probe whose caller leaves proves nothing: the next operation is the probe.
func TestBreakerProbeWithoutAVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		s.before = down
		l := newLimiter(t, s, limit.Options{})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: time.Hour, OnOutage: limit.OutageDeny})
		for range 5 {
			ask(t, l, p, "k", 1, false)
		}
		time.Sleep(time.Second)
		s.before = hang
		ctx, leave := context.WithTimeout(bg, ms)
		defer leave()
		if _, err := l.Decide(ctx, limit.Request{Policy: p, Key: "k"}); !errors.Is(err, context.DeadlineExceeded) || !l.Stats().BreakerOpen {
			t.Errorf("%v, %+v; want the caller's deadline, and the breaker open as before", err, l.Stats())
		}
		s.before = nil
		if d := ask(t, l, p, "k", 1, true); d.Degraded || l.Stats().BreakerOpen || l.Stats().Opened != 1 {
			t.Errorf("%+v, %+v; want the store's answer, and the breaker closed", d, l.Stats())
		}
	})
}

// Without a timeout too, callers who leave at once say nothing of the store.
func TestBreakerWithoutTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		s.before = hang
		l := newLimiter(t, s, limit.Options{Timeout: -1})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1000, Period: time.Hour})
		for _, row := range []struct {
			after time.Duration
			opens bool
		}{{ms, false}, {10 * ms, true}} {
			for range 5 {
				ctx, leave := context.WithTimeout(bg, row.after)
				if _, err := l.Decide(ctx, limit.Request{Policy: p, Key: "k"}); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v; want the caller's deadline", err)
				}
				leave()
			}
			if got := l.Stats().BreakerOpen; got != row.opens {
				t.Errorf("after callers who waited for %v each: open %v; want %v", row.after, got, row.opens)
			}
		}
	})
}

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		s.model.Slots = true
		l := newLimiter(t, s, limit.Options{Local: memlimit.New(memlimit.Options{})})
		defer l.Close()
		user := limit.MustPolicy("user", limit.Spec{Limit: 10, Period: time.Hour})
		conc := limit.MustPolicy("conc", limit.Spec{Kind: limit.Concurrency, Limit: 10, TTL: time.Hour})
		global := limit.MustPolicy("global", limit.Spec{Limit: 3, Period: time.Hour})
		all := func() limit.Decision {
			return decide(t, l, limit.Request{Policy: user, Key: "ada", Cost: 2}, limit.Request{Policy: global, Key: "*"}, limit.Request{Policy: conc, Key: "ada"})
		}
		for i := range 3 {
			d := all()
			if !d.Allowed || d.Policy != global || d.Len() != 3 || d.At(0).Remaining != int64(8-2*i) || d.At(1).Remaining != int64(2-i) || d.At(2).Remaining != int64(9-i) {
				t.Errorf("decision %d: %+v", i, d)
			}
		}
		s.times(t, 6) // two slots each
		d := all()
		if d.Allowed || d.Policy != global || d.At(0).Charged || d.At(0).Remaining != 4 || d.At(2).Remaining != 7 {
			t.Errorf("%+v; want it refused by global, and the others as they were", d)
		}
		s.times(t, 4) // ada's, the global one, and the two given back
		s.left(t, user, "ada", 4)
		s.left(t, conc, "ada", 7)
		all() // the refusal is remembered, so ada's isn't even asked
		s.times(t, 0)

		// The first that refuses ends it: others aren't asked.
		noError(t, l.Reset(bg, global, "*"))
		d = decide(t, l, limit.Request{Policy: user, Key: "ada", Cost: 5}, limit.Request{Policy: global, Key: "*"})
		if d.Allowed || d.At(1).Source != limit.NotAsked {
			t.Errorf("%+v; want global not to be asked", d)
		}
		s.left(t, global, "*", 3)
	})
}

// Of several slots, one may be out: each policy there decides, and what denies gives the rest back.
func TestSlotsInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, on := range []limit.Outage{limit.OutageAllow, limit.OutageDeny, limit.OutageLocal} {
			s := newFaulty()
			s.model.Slots = true
			l := newLimiter(t, s, limit.Options{Local: memlimit.New(memlimit.Options{}), BreakAfter: -1})
			user := limit.MustPolicy("user", limit.Spec{Limit: 10, Period: time.Hour})
			global := limit.MustPolicy("global", limit.Spec{Limit: 3, Period: time.Hour, OnOutage: on})
			n := 0
			s.before = func(ctx context.Context) error {
				if n++; n == 2 {
					return hang(ctx)
				}
				return nil
			}
			began := time.Now()
			d := decide(t, l, limit.Request{Policy: user, Key: "ada"}, limit.Request{Policy: global, Key: "*"})
			if want := on != limit.OutageDeny; d.Allowed != want || !d.Degraded || time.Since(began) != 20*ms {
				t.Errorf("%v, after %v: %+v", on, time.Since(began), d)
			}
			synctest.Wait() // giving back goes on after the deadline
			want := int64(9)
			if on == limit.OutageDeny {
				want = 10
			}
			s.left(t, user, "ada", want)
			noError(t, l.Refund(bg, d))
			s.left(t, user, "ada", 10)

			// The caller goes away between the two: nothing stays charged.
			n = 0
			ctx, cancel := context.WithTimeout(bg, 5*ms)
			if _, err := l.Decide(ctx, limit.Request{Policy: user, Key: "ada"}, limit.Request{Policy: global, Key: "*"}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v; want the caller's deadline", err)
			}
			cancel()
			synctest.Wait()
			s.left(t, user, "ada", 10)
			noError(t, l.Close())
		}
	})
}

func TestErrorsNameTheStep(t *testing.T) {
	s := newFaulty()
	s.before = down
	l := newLimiter(t, s, limit.Options{})
	defer l.Close()
	p := limit.MustPolicy("per-user", limit.Spec{Limit: 3, Period: time.Hour})
	d := ask(t, l, p, "k", 1, true)
	if want := `limit: decide by "per-user": connection refused`; d.Err.Error() != want {
		t.Errorf("%q; want %q", d.Err, want)
	}
	if err := l.Reset(bg, p, "k"); err == nil || !strings.HasPrefix(err.Error(), `limit: reset by "per-user": `) {
		t.Errorf("%v", err)
	}
}

// A lease that nobody was told of is ended: clients who leave, again and again, must not hold all places for a TTL each.
func TestLeaseOfAFailedDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Kind: limit.Concurrency, Limit: 2, TTL: time.Hour, OnOutage: limit.OutageDeny})
		q := limit.MustPolicy("q", limit.Spec{Kind: limit.Concurrency, Limit: 2, TTL: time.Hour, OnOutage: limit.OutageDeny})
		late := func(ctx context.Context) error { // it was done, but the answer comes too late
			s.after = nil
			return hang(ctx)
		}
		for _, reqs := range [][]limit.Request{{{Policy: p, Key: "k"}}, {{Policy: p, Key: "k"}, {Policy: q, Key: "k"}}} {
			for range 3 {
				s.after = late
				ctx, leave := context.WithTimeout(bg, ms)
				if _, err := l.Decide(ctx, reqs...); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v; want the caller's deadline", err)
				}
				leave()
				synctest.Wait()

				s.after = late
				if d := decide(t, l, reqs...); d.Allowed || !d.Degraded {
					t.Errorf("%+v; want it denied, for the store is late", d)
				}
				synctest.Wait()
			}
		}
		s.left(t, p, "k", 2)
		s.left(t, q, "k", 2)
	})
}
