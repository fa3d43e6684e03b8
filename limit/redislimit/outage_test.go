package redislimit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
)

var errDeadline = context.DeadlineExceeded

var forEver = limit.MustPolicy("for-ever", limit.Spec{Limit: 5, Period: long})

// TestPause: while the server hangs, decisions return by their deadline; once it goes on, nothing was charged twice.
func TestPause(t *testing.T) {
	t.Parallel()
	for _, p := range []*limit.Policy{forEver, limit.MustPolicy("log", limit.Spec{Kind: limit.Strict, Limit: 5, Period: long})} {
		t.Run(p.Rule().Kind.String(), func(t *testing.T) {
			t.Parallel()
			srv := testenv.Redis(t)
			s := open(t, srv.URL())
			var wg sync.WaitGroup
			wg.Go(func() {
				time.Sleep(30 * time.Millisecond)
				srv.Pause()
				time.Sleep(4 * time.Second) // long enough for the link to be given up
				srv.Resume()
			})
			const n = 3000
			const deadline = 20 * time.Millisecond
			answered, longest, failed := onceEach(t, s, p, n, deadline, 10*time.Millisecond)
			wg.Wait()
			t.Logf("the longest took %v; the last error was %v", longest, failed)
			if failed == nil {
				t.Error("every call was answered; want some that weren't")
			}
			if longest > deadline+slack {
				t.Errorf("a call with %v took %v", deadline, longest)
			}
			charged := used(t, s, p, n)
			for i := range charged {
				if answered[i] && !charged[i] {
					t.Errorf("key %d was admitted and isn't charged", i)
				}
			}
			everythingExpires(t, srv)
		})
	}
}

// TestLimiterInOutage: over a hanging server a Limiter follows the policy, at once after a few tries.
func TestLimiterInOutage(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	l, err := limit.New(open(t, srv.URL()), limit.Options{Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	deny := limit.MustPolicy("deny", limit.Spec{Limit: 5, Period: long, OnOutage: limit.OutageDeny})
	srv.Pause()
	began := time.Now()
	for i := range 200 {
		for p, want := range map[*limit.Policy]bool{forEver: true, deny: false} {
			d, err := l.Decide(t.Context(), limit.Request{Policy: p, Key: fmt.Sprint(i)})
			if err != nil || d.Allowed != want || !d.Degraded {
				t.Fatalf("%s: got %+v, %v; want a degraded one that says %t", p.Name(), d, err, want)
			}
		}
	}
	// 5 tries of 20 ms, one each second after that.
	if took := time.Since(began); took > 400*20*time.Millisecond/4 {
		t.Errorf("400 decisions took %v", took)
	}
	srv.Resume()
	eventually(t, "the store decides again", func() bool {
		d, err := l.Decide(t.Context(), limit.Request{Policy: forEver, Key: "again"})
		return err == nil && !d.Degraded
	})
}

// TestDeadline: while the server hangs, decisions are late by no more than goroutines that only sleep for as long, next to them: whatever else the
// machine does makes both late.
func TestDeadline(t *testing.T) {
	srv := testenv.Redis(t)
	const timeout = 20 * time.Millisecond
	l, err := limit.New(open(t, srv.URL()), limit.Options{Timeout: timeout, BreakAfter: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := limit.MustPolicy("deny", limit.Spec{Limit: 5, Period: long, OnOutage: limit.OutageDeny})
	srv.Pause()
	defer srv.Resume()
	var mu sync.Mutex
	var all sync.WaitGroup
	measure := func(into *[]time.Duration, f func(i int)) {
		all.Go(func() {
			for i := range 40 {
				began := time.Now()
				f(i)
				took := time.Since(began)
				mu.Lock()
				*into = append(*into, took)
				mu.Unlock()
			}
		})
	}
	var decisions, sleeps []time.Duration
	for g := range 16 {
		measure(&decisions, func(i int) {
			d, err := l.Decide(t.Context(), limit.Request{Policy: p, Key: fmt.Sprint(g, i)})
			if err != nil || d.Allowed || !d.Degraded {
				t.Errorf("%+v, %v; want it denied for the outage", d, err)
			}
		})
		measure(&sleeps, func(int) { time.Sleep(timeout) })
	}
	all.Wait()
	slices.Sort(decisions)
	slices.Sort(sleeps)
	at := func(d []time.Duration, percent int) time.Duration { return d[(len(d)-1)*percent/100] }
	t.Logf("decisions took %v, %v, %v (half, 99 %%, all); sleeps %v, %v, %v", at(decisions, 50), at(decisions, 99), at(decisions, 100), at(sleeps, 50), at(sleeps, 99), at(sleeps, 100))
	if at(decisions, 50) > at(sleeps, 50)+5*time.Millisecond || at(decisions, 99) > at(sleeps, 100)+5*time.Millisecond {
		t.Error("decisions are later than that by more than 5 ms")
	}
}

// TestOutOfMemory: a server that may not forget and has no memory left refuses to write. Then nothing is charged, and each policy decides.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t, testenv.Args("--maxmemory-policy", "noeviction"))
	s := open(t, srv.URL())
	l, err := limit.New(open(t, srv.URL()), limit.Options{Timeout: 5 * time.Second, BreakAfter: -1, RefusedKeys: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("check: %v; want nil: it forgets nothing", err)
	}
	var reqs []limit.Request
	for _, spec := range []limit.Spec{
		{Limit: 5, Period: long},
		{Limit: 5, Period: long, Penalty: limit.Penalty{After: 100, Within: long, Block: long}},
		{Kind: limit.Strict, Limit: 5, Period: long},
		{Kind: limit.Fixed, Limit: 5, Calendar: limit.Year},
		{Kind: limit.Concurrency, Limit: 5, TTL: long},
	} {
		for _, o := range []limit.Outage{limit.OutageAllow, limit.OutageDeny} {
			spec.OnOutage = o
			reqs = append(reqs, limit.Request{Policy: limit.MustPolicy(fmt.Sprint("oom", len(reqs)), spec), Key: "k"})
		}
	}
	decide := func(reqs ...limit.Request) limit.Decision {
		t.Helper()
		d, err := l.Decide(t.Context(), reqs...)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, r := range reqs {
		if d := decide(r); !d.Charged || d.Remaining != 4 {
			t.Errorf("%v: %+v; want it charged", r.Policy.Rule().Kind, d)
		}
	}
	srv.CLI(t, "CONFIG", "SET", "maxmemory", "1")
	for _, r := range append(reqs, limit.Request{Policy: reqs[0].Policy, Key: "another"}) {
		d := decide(r)
		if d.Allowed != (r.Policy.Spec().OnOutage == limit.OutageAllow) || !d.Degraded || d.Charged || !strings.Contains(fmt.Sprint(d.Err), "OOM") {
			t.Errorf("%v, on outage %v: allowed %t, degraded %t, charged %t, %v; want what the policy says, by OOM", r.Policy.Rule().Kind, r.Policy.Spec().OnOutage, d.Allowed, d.Degraded, d.Charged, d.Err)
		}
	}
	if d := decide(reqs...); d.Allowed || !d.Degraded || d.Charged {
		t.Errorf("all together: %+v; want it denied, and nothing charged", d)
	}
	srv.CLI(t, "CONFIG", "SET", "maxmemory", "0")
	for _, r := range reqs {
		if d := decide(r); !d.Charged || d.Remaining != 3 {
			t.Errorf("%v: %d remain afterwards; want 3: nothing was charged meanwhile", r.Policy.Rule().Kind, d.Remaining)
		}
	}
	everythingExpires(t, srv)
}

func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t, testenv.Args("--appendonly", "yes", "--appendfsync", "always"))
	s := open(t, srv.URL())
	for range 3 {
		take(t, s, forEver, "k", 1)
	}
	srv.Kill()
	eventually(t, "the store notices", func() bool {
		_, err := s.Take(t.Context(), limit.Charge{Policy: forEver, Key: "k", Cost: 1})
		return errors.Is(err, limit.ErrUnavailable)
	})
	began := time.Now()
	for range 1000 {
		_, err := s.Take(t.Context(), limit.Charge{Policy: forEver, Key: "k", Cost: 1})
		if !errors.Is(err, limit.ErrUnavailable) {
			t.Fatalf("got %v; want ErrUnavailable", err)
		}
	}
	if took := time.Since(began); took > slack {
		t.Errorf("1000 calls took %v without a server", took)
	}
	srv.Restart()
	connected(t, s)
	if st := take(t, s, forEver, "k", 1); st.Remaining != 1 {
		t.Errorf("%d remain; want 1: the server kept what was used", st.Remaining)
	}
}

// TestOpenLater: a server that is down when a store is opened is found once it is there.
func TestOpenLater(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	srv.Kill()
	s, err := Open(srv.URL(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Take(t.Context(), limit.Charge{Policy: forEver, Key: "k", Cost: 1}); !errors.Is(err, limit.ErrUnavailable) {
		t.Errorf("got %v; want ErrUnavailable", err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, limit.ErrUnavailable) {
		t.Errorf("Check says %v; want ErrUnavailable", err)
	}
	srv.Restart()
	connected(t, s)
}

// TestCut: a connection that is cut between a charge and its answer leaves it charged once or not at all.
func TestCut(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	proxy := testenv.Proxy(t, srv.Addr())
	s := open(t, "redis://"+proxy.Addr())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(30 * time.Millisecond):
			}
			if i%2 == 0 {
				proxy.Delay(2 * time.Millisecond) // so that answers are on their way when it is cut
			} else {
				proxy.Reset()
				proxy.Delay(0)
			}
		}
	})
	const n = 4000
	answered, _, failed := onceEach(t, s, forEver, n, 5*time.Second, time.Millisecond)
	close(stop)
	wg.Wait()
	if failed == nil {
		t.Error("every call was answered; want some that were cut off")
	}
	direct := open(t, srv.URL())
	charged := used(t, direct, forEver, n)
	lost := 0
	for i := range charged {
		switch {
		case answered[i] && !charged[i]:
			t.Errorf("key %d was admitted and isn't charged", i)
		case charged[i] && !answered[i]:
			lost++
		}
	}
	t.Logf("%d were charged without an answer; the last error was %v", lost, failed)
}

// TestLeaveTheQueue: who leaves before the charge was sent isn't charged.
func TestLeaveTheQueue(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	proxy := testenv.Proxy(t, srv.Addr())
	s := open(t, "redis://"+proxy.Addr())
	proxy.Freeze()
	var staying, leaving sync.WaitGroup
	try := func(wg *sync.WaitGroup, key string, d time.Duration, want error) {
		wg.Go(func() {
			ctx, cancel := within(d)
			defer cancel()
			if _, err := s.Take(ctx, limit.Charge{Policy: forEver, Key: key, Cost: 1}); !errors.Is(err, want) {
				t.Errorf("%s: got %v; want %v", key, err, want)
			}
		})
	}
	for i := range maxFlights { // these are sent
		try(&staying, fmt.Sprint("sent", i), 20*time.Second, nil)
	}
	eventually(t, "they are on their way", func() bool {
		s.merger.mu.Lock()
		defer s.merger.mu.Unlock()
		return s.merger.flying == maxFlights
	})
	for i := range 50 {
		try(&leaving, fmt.Sprint("left", i), 20*time.Millisecond, errDeadline)
		try(&staying, fmt.Sprint("stayed", i), 20*time.Second, nil)
	}
	leaving.Wait()
	proxy.Thaw()
	staying.Wait()
	f := func(pattern string, want int) {
		t.Helper()
		if got := srv.CLI(t, "EVAL", "return #redis.call('KEYS', ARGV[1])", "0", "limit:g:{for-ever:"+pattern+"*"); got != fmt.Sprint(want) {
			t.Errorf("%s keys of %s; want %d", got, pattern, want)
		}
	}
	f("sent", maxFlights)
	f("left", 0)
	f("stayed", 50)
}

// TestClose: Close returns though the server hangs, calls in flight end, later ones are refused.
func TestClose(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL())
	srv.Pause()
	var wg sync.WaitGroup
	for i := range 3 * maxFlights {
		wg.Go(func() {
			_, err := s.Take(t.Context(), limit.Charge{Policy: forEver, Key: fmt.Sprint(i), Cost: 1})
			if !errors.Is(err, limit.ErrClosed) {
				t.Errorf("in flight: got %v; want ErrClosed", err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	s.Close()
	wg.Wait()
	if took := time.Since(began); took > slack {
		t.Errorf("it took %v", took)
	}
	f := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, limit.ErrClosed) {
			t.Errorf("%s: got %v; want ErrClosed", what, err)
		}
	}
	_, err := s.Take(t.Context(), limit.Charge{Policy: forEver, Key: "k", Cost: 1})
	f("Take", err)
	f("Peek", s.Peek(t.Context(), []limit.Charge{{Policy: forEver}}, make([]limit.Status, 1)))
	f("Reset", s.Reset(t.Context(), forEver, "k"))
	f("Close", errors.Join(s.Close(), limit.ErrClosed))
}

// TestLeasesOfLateDecisions: what the server decides too late holds no places.
func TestLeasesOfLateDecisions(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	l, err := limit.New(open(t, srv.URL()), limit.Options{Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := limit.MustPolicy("places", limit.Spec{Kind: limit.Concurrency, Limit: 3, TTL: time.Hour, OnOutage: limit.OutageDeny})
	srv.Pause()
	for range 3 {
		ctx, leave := context.WithTimeout(t.Context(), 20*time.Millisecond) // sooner than the breaker counts it
		if _, err := l.Decide(ctx, limit.Request{Policy: p, Key: "k"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want the caller's deadline", err)
		}
		leave()
	}
	srv.Resume()
	eventually(t, "all places are free", func() bool {
		d, err := l.Peek(t.Context(), limit.Request{Policy: p, Key: "k"})
		return err == nil && d.Remaining == 3
	})
}

// TestDemoted: a server that became a replica loses its link, since the name in the URL may lead to another one by now.
func TestDemoted(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL())
	old := s.one.live.Load()
	srv.CLI(t, "REPLICAOF", "127.0.0.1", "1") // where nobody is
	if _, err := s.Take(t.Context(), limit.Charge{Policy: forEver, Key: "k", Cost: 1}); err == nil || !strings.Contains(err.Error(), "READONLY") {
		t.Errorf("%v; want READONLY", err)
	}
	eventually(t, "there is another link", func() bool { l := s.one.live.Load(); return l != nil && l != old })
	srv.CLI(t, "REPLICAOF", "NO", "ONE")
	eventually(t, "the store decides again", func() bool {
		_, err := s.Take(t.Context(), limit.Charge{Policy: forEver, Key: "k", Cost: 1})
		return err == nil
	})
}
