package limit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/limittest"
	"github.com/freshetdev/freshet/limit/memlimit"
)

var bg = context.Background()

const ms = time.Millisecond

// A faulty store is one that can fail, hang, and be late; and counts.
type faulty struct {
	limit.Store
	model  *limittest.Model
	traits limit.Traits

	asked  atomic.Int64                    // operations
	before func(ctx context.Context) error // instead of the operation, if it returns an error
	after  func(ctx context.Context) error // the operation was done, but the caller is told otherwise
}

func newFaulty() *faulty {
	model := limittest.NewModel(func() int64 { return time.Now().UnixMicro() })
	return &faulty{Store: model, model: model, traits: limit.Traits{KeepsDeadline: true}}
}

func (f *faulty) Traits() limit.Traits { return f.traits }

func (f *faulty) do(ctx context.Context, op func() error) error {
	f.asked.Add(1)
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.before != nil {
		if err := f.before(ctx); err != nil {
			return err
		}
	}
	err := op()
	if f.after != nil && err == nil {
		err = f.after(ctx)
	}
	return err
}

func (f *faulty) Take(ctx context.Context, c limit.Charge) (s limit.Status, err error) {
	err = f.do(ctx, func() error { s, err = f.Store.Take(ctx, c); return err })
	return s, err
}

func (f *faulty) TakeAll(ctx context.Context, c []limit.Charge, out []limit.Status) error {
	return f.do(ctx, func() error { return f.Store.TakeAll(ctx, c, out) })
}

func (f *faulty) Peek(ctx context.Context, c []limit.Charge, out []limit.Status) error {
	return f.do(ctx, func() error { return f.Store.Peek(ctx, c, out) })
}

func (f *faulty) Adjust(ctx context.Context, a []limit.Adjustment, out []limit.Status) error {
	return f.do(ctx, func() error { return f.Store.Adjust(ctx, a, out) })
}

func (f *faulty) Reset(ctx context.Context, p *limit.Policy, key string) error {
	return f.do(ctx, func() error { return f.Store.Reset(ctx, p, key) })
}

func (f *faulty) Renew(ctx context.Context, p *limit.Policy, key string, id limit.ID) error {
	return f.do(ctx, func() error { return f.Store.Renew(ctx, p, key, id) })
}

func (f *faulty) Release(ctx context.Context, p *limit.Policy, key string, id limit.ID) error {
	return f.do(ctx, func() error { return f.Store.Release(ctx, p, key, id) })
}

// left is what the store knows, asked behind the Limiter's back.
func (f *faulty) left(t testing.TB, p *limit.Policy, key string, want int64) {
	t.Helper()
	if got := f.remaining(t, p, key); got != want {
		t.Errorf("%q of %q has %d left in the store; want %d", key, p.Name(), got, want)
	}
}

func (f *faulty) remaining(t testing.TB, p *limit.Policy, key string) int64 {
	t.Helper()
	out := make([]limit.Status, 1)
	if err := f.model.Peek(bg, []limit.Charge{{Policy: p, Key: key, Cost: 1}}, out); err != nil {
		t.Fatal(err)
	}
	return out[0].Remaining
}

// times wants the store to have been asked so often since the last call.
func (f *faulty) times(t testing.TB, want int64) {
	t.Helper()
	if got := f.asked.Swap(0); got != want {
		t.Errorf("the store was asked %d times; want %d", got, want)
	}
}

func newLimiter(t testing.TB, s limit.Store, o limit.Options) *limit.Limiter {
	t.Helper()
	l, err := limit.New(s, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func decide(t testing.TB, l *limit.Limiter, reqs ...limit.Request) limit.Decision {
	t.Helper()
	d, err := l.Decide(bg, reqs...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func ask(t testing.TB, l *limit.Limiter, p *limit.Policy, key string, cost int64, want bool) limit.Decision {
	t.Helper()
	d := decide(t, l, limit.Request{Policy: p, Key: key, Cost: cost})
	if d.Allowed != want {
		t.Errorf("%q, cost %d: allowed %v, %d remaining, retry after %v, from %v; want %v", key, cost, d.Allowed, d.Remaining, d.RetryAfter, d.Source, want)
	}
	return d
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestBadRequests(t *testing.T) {
	l := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{})
	defer l.Close()
	p := limit.MustPolicy("p", limit.Spec{Limit: 3, Period: time.Hour})
	local := limit.MustPolicy("q", limit.Spec{Limit: 3, Period: time.Hour, OnOutage: limit.OutageLocal})
	f := func(want string, reqs ...limit.Request) {
		t.Helper()
		d, err := l.Decide(bg, reqs...)
		if !errors.Is(err, limit.ErrRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want ErrRequest with %q", err, want)
		}
		if d.Allowed {
			t.Error("allowed")
		}
		if _, err := l.Peek(bg, reqs...); !errors.Is(err, limit.ErrRequest) {
			t.Errorf("peek: %v; want ErrRequest", err)
		}
	}
	f("0 requests in one decision; want 1 to 16")
	f("17 requests", slices.Repeat([]limit.Request{{Policy: p}}, 17)...)
	f(`the policy is nil, key "k"`, limit.Request{Key: "k"})
	f(`the cost is -1, policy "p", key "k"; want 0 to 1000000000000000, or Uncharged`, limit.Request{Policy: p, Key: "k", Cost: -1})
	f("the cost is 1000000000000001", limit.Request{Policy: p, Cost: limit.MaxUnits + 1})
	f(`requests 0 and 2 of one decision are of the same limit, policy "p", key "k"`,
		limit.Request{Policy: p, Key: "k"}, limit.Request{Policy: p, Key: "other"}, limit.Request{Policy: p, Key: "k"})
	f(`policy "q" says OutageLocal; want Options.Local`, limit.Request{Policy: local})
	if l.Allow(bg, nil, "k") {
		t.Error("Allow without a policy")
	}
	if s := l.Stats(); s != (limit.Stats{}) {
		t.Errorf("%+v; bad requests are no decisions", s)
	}
	if d := ask(t, l, p, "k", 0, true); d.Remaining != 2 {
		t.Errorf("%d remaining; want 2: bad requests cost nothing, and a cost of zero means one", d.Remaining)
	}
}

func TestBadOptions(t *testing.T) {
	f := func(o limit.Options, want string) {
		t.Helper()
		s := memlimit.New(memlimit.Options{})
		if _, err := limit.New(s, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	f(limit.Options{Timeout: -2}, "Options.Timeout is -2ns; want more than zero, or 0 for 20ms")
	f(limit.Options{RefusedKeys: -2}, "Options.RefusedKeys is -2; want 1 or more, 0 for 16384, or -1 for none")
	f(limit.Options{BreakAfter: -2}, "Options.BreakAfter is -2")
	f(limit.Options{BreakFor: -1}, "Options.BreakFor is -1ns")
	f(limit.Options{AdvanceFor: -1}, "Options.AdvanceFor is -1ns")
	f(limit.Options{Local: newFaulty()}, "Options.Local is a *limit_test.faulty, which isn't in this process")
	if _, err := limit.New(nil, limit.Options{}); err == nil {
		t.Error("no error for a nil store")
	}
}

func TestDecide(t *testing.T) {
	l := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{})
	defer l.Close()
	user := limit.MustPolicy("user", limit.Spec{Limit: 3, Period: time.Hour})
	tenant := limit.MustPolicy("tenant", limit.Spec{Limit: 10, Period: time.Minute})
	quota := limit.MustPolicy("quota", limit.Spec{Kind: limit.Fixed, Limit: 1000, Calendar: limit.Year})

	d := decide(t, l, limit.Request{Policy: tenant, Key: "acme"}, limit.Request{Policy: user, Key: "ada"}, limit.Request{Policy: quota, Key: "acme", Cost: 10})
	if !d.Allowed || d.Policy != user || d.Remaining != 2 || d.Len() != 3 || d.At(0).Remaining != 9 || d.At(1).Remaining != 2 || d.At(2).Remaining != 990 {
		t.Errorf("%+v; want it allowed, bound by user with 2 remaining", d)
	}
	decide(t, l, limit.Request{Policy: user, Key: "ada", Cost: 2})
	d = decide(t, l, limit.Request{Policy: tenant, Key: "acme", Cost: 9}, limit.Request{Policy: user, Key: "ada"})
	if d.Allowed || d.Policy != user || d.RetryAfter <= 19*time.Minute || d.At(0).Remaining != 9 || !d.At(0).Fits || d.At(0).Charged {
		t.Errorf("%+v; want it refused by user alone", d)
	}
	// Of those that refuse, the one that does so for the longest binds; and never is longest.
	d = decide(t, l, limit.Request{Policy: tenant, Key: "acme", Cost: 10}, limit.Request{Policy: user, Key: "ada"})
	if d.Allowed || d.Policy != user {
		t.Errorf("%+v; want user to bind", d)
	}
	d = decide(t, l, limit.Request{Policy: user, Key: "ada"}, limit.Request{Policy: tenant, Key: "acme", Cost: 11})
	if d.Allowed || d.Policy != tenant || d.RetryAfter != limit.NeverRetry {
		t.Errorf("%+v; want tenant to bind for ever", d)
	}
	d = decide(t, l, limit.Request{Policy: tenant, Key: "acme", Cost: limit.Uncharged})
	if !d.Allowed || d.Charged || d.Remaining != 9 {
		t.Errorf("%+v; want it allowed, not charged", d)
	}
	if s := l.Stats(); s.Allowed != 3 || s.Refused != 3 {
		t.Errorf("%+v; want 3 allowed and 3 refused", s)
	}
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if d, err := l.Decide(ctx, limit.Request{Policy: user, Key: "bob"}); !errors.Is(err, context.Canceled) || d.Allowed {
		t.Errorf("%v, %v; want a refusal, canceled", d.Allowed, err)
	}
	d, err := l.Peek(bg, limit.Request{Policy: user, Key: "bob"}, limit.Request{Policy: user, Key: "ada"})
	if err != nil || d.Allowed || d.Key != "ada" || d.At(0).Remaining != 3 {
		t.Errorf("peek: %+v, %v; want ada refused, bob with 3 remaining", d, err)
	}
}

func TestLongKeysAreHashedForTheStore(t *testing.T) {
	l := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{})
	defer l.Close()
	p := limit.MustPolicy("p", limit.Spec{Limit: 1, Period: time.Hour})
	long := strings.Repeat("secret", 20)
	d := ask(t, l, p, long, 1, true)
	if len(d.Key) > limit.MaxKey || strings.Contains(d.Key, "secret") {
		t.Errorf("the key is %q", d.Key)
	}
	ask(t, l, p, long, 1, false)
	ask(t, l, p, long+"x", 1, true)
	ask(t, l, p, d.Key, 1, true) // what looks like the hash is another key
	noError(t, l.Refund(bg, d))
	ask(t, l, p, long, 1, true)
	noError(t, l.Reset(bg, p, long))
	ask(t, l, p, long, 1, true)
}

func TestRefusedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 10, Period: 2 * time.Second, Burst: 4})
		ask(t, l, p, "a", 4, true)
		d := ask(t, l, p, "a", 2, false)
		if d.RetryAfter != 400*ms || d.Source != limit.FromStore {
			t.Errorf("%+v; want a retry after 400 ms from the store", d)
		}
		s.times(t, 2)
		for range 20 {
			d = ask(t, l, p, "a", 2, false)
		}
		if d.RetryAfter != 400*ms || d.Source != limit.FromRefused {
			t.Errorf("%+v; want it remembered", d)
		}
		time.Sleep(50*ms + 300)
		d = ask(t, l, p, "a", 3, false) // 3 need longer than 2
		if d.RetryAfter != 550*ms || d.MoreAfter != 150*ms || d.ResetAfter != 750*ms || d.Remaining != 0 {
			t.Errorf("%+v; want a retry after 550 ms", d)
		}
		if d = ask(t, l, p, "a", 5, false); d.RetryAfter != limit.NeverRetry {
			t.Errorf("%+v; want never", d)
		}
		s.times(t, 0)
		time.Sleep(150 * ms)
		ask(t, l, p, "a", 1, true) // less than was refused
		s.times(t, 1)
		time.Sleep(200*ms - 1000) // 400 ms after the refusal there is one, and it was promised two: but one was taken meanwhile
		ask(t, l, p, "a", 2, false)
		s.times(t, 0)
		time.Sleep(1000)
		ask(t, l, p, "a", 2, false)
		s.times(t, 1)
		if got := l.Stats().Remembered; got != 23 {
			t.Errorf("%d remembered; want 23", got)
		}

		// Of several requests, one that is remembered refuses all, and the others aren't asked.
		q := limit.MustPolicy("q", limit.Spec{Limit: 10, Period: time.Second})
		d = decide(t, l, limit.Request{Policy: q, Key: "a"}, limit.Request{Policy: p, Key: "a", Cost: 2})
		if d.Allowed || d.Policy != p || d.At(0).Source != limit.NotAsked || d.At(1).Source != limit.FromRefused {
			t.Errorf("%+v; want it refused by what is remembered", d)
		}
		s.times(t, 0)

		// When a larger cost fits into a strict window, the refusal of a smaller one doesn't tell.
		p = limit.MustPolicy("r", limit.Spec{Kind: limit.Strict, Limit: 4, Period: time.Second})
		ask(t, l, p, "b", 2, true)
		time.Sleep(400 * ms)
		ask(t, l, p, "b", 2, true)
		s.times(t, 2)
		for _, want := range []struct {
			cost   int64
			retry  time.Duration
			source limit.Source
		}{
			{1, 600 * ms, limit.FromStore},
			{3, time.Second, limit.FromStore},
			{2, 600 * ms, limit.FromStore},
			{3, time.Second, limit.FromRefused},
			{1, 600 * ms, limit.FromRefused},
			{2, 600 * ms, limit.FromRefused},
			{5, limit.NeverRetry, limit.FromRefused},
		} {
			if d := ask(t, l, p, "b", want.cost, false); d.RetryAfter != want.retry || d.Source != want.source {
				t.Errorf("%+v; want %+v", d, want)
			}
		}
		s.times(t, 3)
	})
}

// Nobody is refused by memory whom the store would admit: whatever is asked, and whenever.
func TestRefusedKeysAreExact(t *testing.T) {
	for _, spec := range []limit.Spec{
		{Limit: 7, Period: time.Second, Burst: 3},
		{Kind: limit.Strict, Limit: 3, Period: time.Second},
		{Kind: limit.Strict, Limit: 300, Period: time.Second},
		{Kind: limit.Fixed, Limit: 3, Period: time.Second},
		{Kind: limit.Concurrency, Limit: 3, TTL: 300 * ms},
		{Limit: 7, Period: time.Second, Burst: 3, Penalty: limit.Penalty{After: 3, Within: time.Second, Block: 700 * ms}},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := limit.MustPolicy("p", spec)
			s, plain := newFaulty(), newFaulty()
			with, without := newLimiter(t, s, limit.Options{}), newLimiter(t, plain, limit.Options{RefusedKeys: -1})
			defer with.Close()
			defer without.Close()
			steps := []time.Duration{0, 3 * ms, 50 * ms, 7 * time.Microsecond, 0, 33 * ms, 1}
			for i := range 3000 {
				cost := int64(1 + i*7%5/2)
				if spec.Limit > 100 {
					cost *= 40
				}
				a := decide(t, with, limit.Request{Policy: p, Key: "k", Cost: cost})
				b := decide(t, without, limit.Request{Policy: p, Key: "k", Cost: cost})
				if a.Allowed != b.Allowed {
					t.Fatalf("%+v, step %d: %+v with memory, %+v without", spec, i, a, b)
				}
				if a.RetryAfter > b.RetryAfter+time.Microsecond { // earlier if a smaller cost was admitted meanwhile
					t.Fatalf("%+v, step %d: %+v with memory, %+v without", spec, i, a, b)
				}
				time.Sleep(steps[i%len(steps)])
			}
			if a, b := s.asked.Load(), plain.asked.Load(); spec.Kind != limit.Concurrency && a > b*3/4 {
				t.Errorf("%+v: the store was asked %d times with memory, %d without", spec, a, b)
			}
		})
	}
}

func TestRefusedKeysForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 2, Period: time.Hour})
		full := func() limit.Decision {
			noError(t, l.Reset(bg, p, "a"))
			d := ask(t, l, p, "a", 2, true)
			ask(t, l, p, "a", 1, false)
			ask(t, l, p, "a", 1, false)
			return d
		}
		full()
		noError(t, l.Reset(bg, p, "a"))
		ask(t, l, p, "a", 2, true)

		noError(t, l.Refund(bg, full()))
		ask(t, l, p, "a", 2, true)

		_, err := l.Settle(bg, full().Status, 1)
		noError(t, err)
		ask(t, l, p, "a", 1, true)

		full()
		_, err = l.Credit(bg, limit.Request{Policy: p, Key: "a"})
		noError(t, err)
		ask(t, l, p, "a", 1, true)

		full()
		raised := limit.MustPolicy("p", limit.Spec{Limit: 2, Period: time.Hour, Burst: 5})
		if d := ask(t, l, raised, "a", 1, true); d.Source != limit.FromStore {
			t.Errorf("%+v; want another policy of the name to ask", d)
		}

		full()
		s.model.Lose() // behind our back: seen after RefusedFor
		ask(t, l, p, "a", 1, false)
		time.Sleep(time.Second)
		ask(t, l, p, "a", 1, true)
	})
}

// Drawn in refused.go: who asked before a reset must not remember after it.
func TestRefusedKeysRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{Timeout: time.Minute})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1, Period: time.Hour})
		for _, several := range []bool{false, true} {
			noError(t, l.Reset(bg, p, "a"))
			ask(t, l, p, "a", 1, true)
			gate := make(chan struct{})
			s.after = func(context.Context) error { <-gate; return nil }
			done := make(chan limit.Decision)
			go func() {
				reqs := []limit.Request{{Policy: p, Key: "a"}}
				if several {
					reqs = append(reqs, limit.Request{Policy: p, Key: "b"})
				}
				done <- decide(t, l, reqs...)
			}()
			synctest.Wait() // it was refused, and doesn't know yet
			s.after = nil
			noError(t, l.Reset(bg, p, "a"))
			close(gate)
			if d := <-done; d.Allowed {
				t.Fatal("allowed")
			}
			ask(t, l, p, "a", 1, true)
		}
	})
}

func TestRefusedKeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{RefusedKeys: 8})
		defer l.Close()
		p := limit.MustPolicy("p", limit.Spec{Limit: 1, Period: time.Hour})
		for i := range 1000 {
			key := fmt.Sprint(i)
			ask(t, l, p, key, 1, true)
			ask(t, l, p, key, 1, false)
		}
		s.asked.Store(0)
		for i := range 1000 {
			ask(t, l, p, fmt.Sprint(i), 1, false)
		}
		if got := s.asked.Load(); got < 1000-8 {
			t.Errorf("the store was asked %d times about 1000 keys; want at least 992", got)
		}
	})
}

func TestShadow(t *testing.T) {
	s := memlimit.New(memlimit.Options{})
	l := newLimiter(t, s, limit.Options{})
	defer l.Close()
	hard := limit.MustPolicy("hard", limit.Spec{Limit: 5, Period: time.Hour})
	soft := limit.MustPolicy("soft", limit.Spec{Limit: 2, Period: time.Hour, Shadow: true})
	for i := range 7 {
		d := decide(t, l, limit.Request{Policy: soft, Key: "a"}, limit.Request{Policy: hard, Key: "a"})
		if want := i < 5; d.Allowed != want || d.Shadowed != (i >= 2 && i < 5) || d.Policy != hard {
			t.Errorf("decision %d: %+v", i, d)
		}
	}
	d := ask(t, l, soft, "a", 1, true)
	if !d.Shadowed || d.Fits || d.Charged || d.RetryAfter <= 0 {
		t.Errorf("%+v; want it shadowed", d)
	}
	if got := l.Stats(); got.Shadowed != 4 || got.Allowed != 6 || got.Refused != 2 {
		t.Errorf("%+v; want 4 shadowed", got)
	}

	all := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{Shadow: true})
	defer all.Close()
	for i := range 7 {
		if d := ask(t, all, hard, "a", 1, true); d.Shadowed != (i >= 5) {
			t.Errorf("decision %d: %+v", i, d)
		}
	}
}

func TestOverrides(t *testing.T) {
	var table limit.Overrides
	l := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{Override: table.Policy})
	defer l.Close()
	p := limit.MustPolicy("p", limit.Spec{Limit: 2, Period: time.Hour})
	more := limit.MustPolicy("p", limit.Spec{Limit: 2, Period: time.Hour, Burst: 10})
	ask(t, l, p, "ada", 2, true)
	ask(t, l, p, "ada", 1, false)
	table.Set(p, "ada", more)
	if d := ask(t, l, p, "ada", 1, true); d.Policy != more || d.Remaining != 7 {
		t.Errorf("%+v; want 7 remaining of 10, 2 used before and 1 now", d)
	}
	ask(t, l, p, "bob", 2, true)
	ask(t, l, p, "bob", 1, false)

	table.Set(p, "bob", nil)
	d := ask(t, l, p, "bob", 100, true)
	if d.Charged || d.Source != limit.FromExempt || d.Policy != p {
		t.Errorf("%+v; want it exempt", d)
	}
	noError(t, l.Refund(bg, d)) // nothing was charged
	both := decide(t, l, limit.Request{Policy: p, Key: "bob"}, limit.Request{Policy: p, Key: "ada"})
	if !both.Allowed || both.Key != "ada" || both.At(0).Source != limit.FromExempt || both.Remaining != 6 {
		t.Errorf("%+v; want ada's to bind", both)
	}
	table.Remove(p, "bob")
	ask(t, l, p, "bob", 1, false)

	table.Replace(func(set func(*limit.Policy, string, *limit.Policy)) { set(p, "bob", more) })
	ask(t, l, p, "bob", 8, true)
	ask(t, l, p, "ada", 1, false) // no longer overridden
	if got := l.Stats().Exempt; got != 1 {
		t.Errorf("%d exempt; want 1", got)
	}
}

// The table may be changed while it is read.
func TestOverridesAtOnce(t *testing.T) {
	var table limit.Overrides
	p := limit.MustPolicy("p", limit.Spec{Limit: 2, Period: time.Hour})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 500 {
				table.Set(p, fmt.Sprint(i%10), nil)
				if table.Policy(p, "other") != p {
					t.Error("another key was overridden")
				}
				table.Remove(p, fmt.Sprint(i%10))
			}
		})
	}
	all.Wait()
}

func TestPenalty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		l := newLimiter(t, s, limit.Options{})
		defer l.Close()
		p := limit.MustPolicy("login", limit.Spec{Limit: 5, Period: time.Second, Penalty: limit.Penalty{After: 10, Within: time.Minute, Block: 15 * time.Minute}})
		ask(t, l, p, "a", 5, true)
		for i := range 10 { // each must reach the store, to be counted
			if d := ask(t, l, p, "a", 1, false); d.Blocked != (i == 9) {
				t.Errorf("refusal %d: %+v", i, d)
			}
		}
		s.times(t, 11)
		d := ask(t, l, p, "a", 1, false)
		if !d.Blocked || d.Source != limit.FromRefused || d.RetryAfter != 15*time.Minute {
			t.Errorf("%+v; want a block that is remembered", d)
		}
		time.Sleep(15*time.Minute - 1000)
		ask(t, l, p, "a", 1, false)
		time.Sleep(1000)
		ask(t, l, p, "a", 5, true)
		if got := l.Stats().Blocked; got != 3 {
			t.Errorf("%d blocked; want 3", got)
		}
	})
}

func TestRefundAndSettle(t *testing.T) {
	l := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{})
	defer l.Close()
	requests := limit.MustPolicy("requests", limit.Spec{Limit: 100, Period: time.Hour})
	tokens := limit.MustPolicy("tokens", limit.Spec{Limit: 1000, Period: time.Hour})
	left := func(p *limit.Policy, want int64) {
		t.Helper()
		d, err := l.Peek(bg, limit.Request{Policy: p, Key: "a"})
		if err != nil || d.Remaining != want {
			t.Errorf("%s has %d left, %v; want %d", p.Name(), d.Remaining, err, want)
		}
	}
	both := func(estimate int64) limit.Decision {
		return decide(t, l, limit.Request{Policy: requests, Key: "a"}, limit.Request{Policy: tokens, Key: "a", Cost: estimate})
	}
	d := both(300)
	noError(t, l.Refund(bg, d))
	left(requests, 100)
	left(tokens, 1000)

	d = both(300)
	st, err := l.Settle(bg, d.At(1), 120)
	if err != nil || st.Remaining != 880 || st.Cost != 120 || !st.Charged {
		t.Errorf("%+v, %v; want 880 remaining", st, err)
	}
	st, err = l.Settle(bg, st, 900) // again, up
	if err != nil || st.Remaining != 100 {
		t.Errorf("%+v, %v; want 100 remaining", st, err)
	}
	d = both(100)
	st, err = l.Settle(bg, d.At(1), 600) // 500 over
	if err != nil || st.Remaining != 0 {
		t.Errorf("%+v, %v; want a debt", st, err)
	}
	if d = both(1); d.Allowed || d.RetryAfter < 1800*time.Second || d.RetryAfter > 1804*time.Second {
		t.Errorf("%+v; want a refusal until 500 units of debt are paid", d)
	}
	st, err = l.Settle(bg, st, 0)
	if err != nil || st.Charged || st.Remaining != 100 {
		t.Errorf("%+v, %v; want 100 remaining, and nothing charged", st, err)
	}
	if again, err := l.Settle(bg, st, 5); err != nil || again != st {
		t.Errorf("%+v, %v; want no change of what isn't charged", again, err)
	}
	left(tokens, 100)
	if _, err := l.Settle(bg, st, -1); !errors.Is(err, limit.ErrRequest) {
		t.Errorf("%v; want ErrRequest", err)
	}
	refused := both(101)
	noError(t, l.Refund(bg, refused))
	left(requests, 98)
	left(tokens, 100)

	if st, err := l.Credit(bg, limit.Request{Policy: tokens, Key: "a", Cost: 50}); err != nil || st.Remaining != 150 {
		t.Errorf("%+v, %v; want 150", st, err)
	}
	for _, cost := range []int64{limit.Uncharged, -1} {
		if _, err := l.Credit(bg, limit.Request{Policy: tokens, Key: "a", Cost: cost}); !errors.Is(err, limit.ErrRequest) {
			t.Errorf("%v; want ErrRequest", err)
		}
	}
}

func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, newFaulty(), limit.Options{})
		defer l.Close()
		slots := limit.MustPolicy("slots", limit.Spec{Kind: limit.Concurrency, Limit: 2, TTL: time.Minute})
		rate := limit.MustPolicy("rate", limit.Spec{Limit: 100, Period: time.Hour})
		a := ask(t, l, slots, "k", 1, true)
		b := decide(t, l, limit.Request{Policy: rate, Key: "k", Cost: 5}, limit.Request{Policy: slots, Key: "k"})
		if !b.Allowed || a.Lease == b.Lease || b.Lease == (limit.ID{}) {
			t.Errorf("%+v; want it allowed with its own lease", b)
		}
		if c := ask(t, l, slots, "k", 1, false); c.Lease != (limit.ID{}) {
			t.Errorf("%+v; want no lease", c)
		}
		noError(t, l.Release(bg, a))
		ask(t, l, slots, "k", 1, true)
		time.Sleep(40 * time.Second)
		noError(t, l.Renew(bg, b))
		time.Sleep(40 * time.Second) // the third one's ended
		ask(t, l, slots, "k", 1, true)
		ask(t, l, slots, "k", 1, false)
		noError(t, l.Renew(bg, b))
		if err := l.Renew(bg, a); !errors.Is(err, limit.ErrLeaseLost) {
			t.Errorf("%v; want ErrLeaseLost", err)
		}
		noError(t, l.Refund(bg, b)) // the lease, and the 5 units
		ask(t, l, slots, "k", 1, true)
		if d := ask(t, l, rate, "k", 1, true); d.Remaining != 99 {
			t.Errorf("%d remaining; want 99", d.Remaining)
		}
		if _, err := l.Settle(bg, a.Status, 2); !errors.Is(err, limit.ErrRequest) {
			t.Errorf("%v; want ErrRequest", err)
		}
		if _, err := l.Credit(bg, limit.Request{Policy: slots, Key: "k"}); !errors.Is(err, limit.ErrRequest) {
			t.Errorf("%v; want ErrRequest", err)
		}
		if got := l.Stats().Failures; got != 0 {
			t.Errorf("%d failures; a lost lease is none", got)
		}
	})
}

func TestHooks(t *testing.T) {
	var told []string
	l := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{Hooks: limit.Hooks{
		Decided: func(d limit.Decision) {
			told = append(told, fmt.Sprintf("%s %q %v", d.Policy.Name(), d.Key, d.Allowed))
		},
	}})
	defer l.Close()
	p := limit.MustPolicy("p", limit.Spec{Limit: 1, Period: time.Hour})
	ask(t, l, p, "a", 1, true)
	ask(t, l, p, "a", 1, false)
	l.Allow(bg, p, "a")
	l.Peek(bg, limit.Request{Policy: p, Key: "a"})
	decide(t, l, limit.Request{Policy: p, Key: "b"}, limit.Request{Policy: p, Key: "a"})
	if want := []string{`p "a" true`, `p "a" false`, `p "a" false`, `p "a" false`}; !slices.Equal(told, want) {
		t.Errorf("told %q; want %q", told, want)
	}
}

func TestClose(t *testing.T) {
	l := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{})
	p := limit.MustPolicy("p", limit.Spec{Limit: 1, Period: time.Hour})
	d := ask(t, l, p, "a", 1, true)
	noError(t, l.Close())
	noError(t, l.Close())
	_, err := l.Decide(bg, limit.Request{Policy: p, Key: "a"})
	_, err2 := l.Peek(bg, limit.Request{Policy: p, Key: "a"})
	_, err3 := l.Settle(bg, d.Status, 0)
	_, err4 := l.Credit(bg, limit.Request{Policy: p, Key: "a"})
	_, err5 := l.Decide(bg, limit.Request{Policy: p, Key: "a"}, limit.Request{Policy: p, Key: "b"})
	for i, err := range []error{err, err2, err3, err4, err5, l.Refund(bg, d), l.Reset(bg, p, "a"), l.Renew(bg, d), l.Release(bg, d)} {
		if !errors.Is(err, limit.ErrClosed) {
			t.Errorf("operation %d: %v; want ErrClosed", i, err)
		}
	}
}

// What a store in this process says by TakeGCRA is what it says by Take.
func TestGCRATaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{})
		plain := newLimiter(t, struct{ limit.Store }{memlimit.New(memlimit.Options{})}, limit.Options{})
		var policies []*limit.Policy
		for i, spec := range []limit.Spec{
			{Limit: 7, Period: time.Millisecond, Burst: 5},
			{Limit: 7, Period: time.Millisecond, Burst: 5, Shadow: true},
			{Limit: 7, Period: time.Millisecond, Penalty: limit.Penalty{After: 3, Within: time.Second, Block: ms}},
			{Kind: limit.Strict, Limit: 5, Period: time.Millisecond},
			{},
		} {
			if spec.Limit == 0 {
				spec.Period = time.Second // refuses everything
			}
			policies = append(policies, limit.MustPolicy(fmt.Sprint("p", i), spec))
		}
		seed := time.Now().UnixNano() + int64(rand.Uint32())
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(uint64(seed), 0))
		for i := range 5000 {
			req := limit.Request{Policy: policies[r.IntN(len(policies))], Key: fmt.Sprint(r.IntN(2)), Cost: []int64{0, 1, 2, 5, 6, limit.MaxUnits, limit.Uncharged}[r.IntN(7)]}
			a, b := decide(t, quick, req), decide(t, plain, req)
			if a.Status != b.Status || a.Allowed != b.Allowed || a.Shadowed != b.Shadowed {
				t.Fatalf("step %d, %q, cost %d: %+v; want %+v", i, req.Policy.Name(), req.Cost, a, b)
			}
			if a, b := quick.Allow(bg, req.Policy, req.Key), plain.Allow(bg, req.Policy, req.Key); a != b {
				t.Fatalf("step %d, %q: Allow says %v; want %v", i, req.Policy.Name(), a, b)
			}
			time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
		}
		if quick.Allow(bg, nil, "k") {
			t.Error("Allow without a policy says true")
		}
		if a, b := quick.Stats(), plain.Stats(); a != b || a.Shadowed == 0 || a.Blocked == 0 {
			t.Errorf("%+v; want %+v", a, b)
		}
		noError(t, quick.Close())
		if quick.Allow(bg, policies[0], "k") {
			t.Error("Allow after Close says true")
		}
		if _, err := quick.Decide(bg, limit.Request{Policy: policies[0], Key: "k"}); !errors.Is(err, limit.ErrClosed) {
			t.Errorf("after Close: %v; want ErrClosed", err)
		}
	})
}

func TestAllocations(t *testing.T) {
	f := func(what string, want float64, l *limit.Limiter, r ...limit.Request) {
		t.Helper()
		l.Decide(bg, r...)
		if n := testing.AllocsPerRun(500, func() { l.Decide(bg, r...) }); n > want {
			t.Errorf("%s: %v allocations; want %v", what, n, want)
		}
	}
	mem := newLimiter(t, memlimit.New(memlimit.Options{}), limit.Options{})
	defer mem.Close()
	f("GCRA, admitted", 0, mem, limit.Request{Policy: limit.MustPolicy("a", limit.Spec{Limit: 1_000_000, Period: time.Second}), Key: "k"})
	p := limit.MustPolicy("a", limit.Spec{Limit: 1_000_000, Period: time.Second})
	if n := testing.AllocsPerRun(500, func() { mem.Allow(bg, p, "k") }); n > 0 {
		t.Errorf("Allow: %v allocations; want none", n)
	}
	f("GCRA, refused", 0, mem, limit.Request{Policy: limit.MustPolicy("b", limit.Spec{Limit: 1, Period: time.Hour}), Key: "k"})
	f("Strict, admitted", 0, mem, limit.Request{Policy: limit.MustPolicy("c", limit.Spec{Kind: limit.Strict, Limit: 1_000_000, Period: time.Hour}), Key: "k"})
	f("Fixed, admitted", 0, mem, limit.Request{Policy: limit.MustPolicy("d", limit.Spec{Kind: limit.Fixed, Limit: 1_000_000, Calendar: limit.Year}), Key: "k"})
	var several []limit.Request
	for i := range 4 {
		p := limit.MustPolicy(fmt.Sprint("several", i), limit.Spec{Limit: 1_000_000, Period: time.Second})
		several = append(several, limit.Request{Policy: p, Key: "k"})
	}
	f("several", 2, mem, several...)

	s := newFaulty()
	far := newLimiter(t, s, limit.Options{})
	defer far.Close()
	f("remembered", 0, far, limit.Request{Policy: limit.MustPolicy("b", limit.Spec{Limit: 1, Period: limit.MaxPeriod}), Key: "k"})
	f("taken ahead", 0.1, far, limit.Request{Policy: limit.MustPolicy("e", limit.Spec{Limit: 1_000_000, Period: time.Hour, Advance: 10_000}), Key: "k"})
}
