package freshet_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
)

// P3: one load per key across the fleet. Every load that a child makes is a line that it prints, before
// the load begins.

// fleetBudget is the StoreBudget of the children. The promise is for while Redis answers within it, and
// sixteen starved threads of eight processes on two cores are late by more than the usual 50 ms.
const fleetBudget = 2 * time.Second

// fleetChild is one instance of a fleet, in a process of its own.
//
//	args   url, lease time, how long a load takes, goroutines
//	input  "go VERSION": all goroutines get the key, and a load brings VERSION
//	output "ready", "load", then "took NANOSECONDS VERSION" for each goroutine, and "done REFUSED"
func fleetChild(args []string) int {
	lease, _ := time.ParseDuration(args[1])
	slow, _ := time.ParseDuration(args[2])
	callers, _ := strconv.Atoi(args[3])
	c, err := freshet.Open(context.Background(), args[0], freshet.Options{StoreBudget: fleetBudget})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer c.Close()
	var version atomic.Int64
	var mu sync.Mutex // of the output
	cache, err := freshet.NewCache(c, freshet.Config[string, int64]{
		Name: "cold", TTL: time.Hour, LeaseTime: lease, LoadTimeout: 20 * time.Second,
		Load: func(context.Context, string, *freshet.Load) (int64, error) {
			v := version.Load()
			mu.Lock()
			fmt.Println("load")
			mu.Unlock()
			time.Sleep(slow)
			return v, nil
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		v, _ := strconv.ParseInt(strings.TrimPrefix(in.Text(), "go "), 10, 64)
		version.Store(v)
		var wg sync.WaitGroup
		out := make([]string, callers)
		for i := range callers {
			wg.Go(func() {
				began := time.Now()
				r, err := cache.Lookup(context.Background(), "key")
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
				out[i] = fmt.Sprintf("took %d %d", time.Since(began), r.Value)
				if r.Refused != "" {
					out[i] += " " + string(r.Refused)
				}
			})
		}
		wg.Wait()
		mu.Lock()
		for _, l := range out {
			fmt.Println(l)
		}
		fmt.Println("done")
		mu.Unlock()
	}
	return 0
}

// A fleetAnswer is what one caller in a child got.
type fleetAnswer struct {
	took    time.Duration
	version int64
	refused string
}

// fleetRound reads what a child prints until it is done.
func fleetRound(t *testing.T, p *testenv.Process) (answers []fleetAnswer, loads int) {
	t.Helper()
	for {
		f := strings.Fields(p.Line())
		switch f[0] {
		case "load":
			loads++
		case "took":
			ns, _ := strconv.ParseInt(f[1], 10, 64)
			v, _ := strconv.ParseInt(f[2], 10, 64)
			a := fleetAnswer{took: time.Duration(ns), version: v}
			if len(f) > 3 {
				a.refused = f[3]
			}
			answers = append(answers, a)
		case "done":
			return answers, loads
		}
	}
}

func fleetStart(t *testing.T, url string, lease, slow time.Duration, callers int) *testenv.Process {
	t.Helper()
	p := testenv.Child(t, "fleet", url, lease.String(), slow.String(), strconv.Itoa(callers))
	if l := p.Line(); l != "ready" {
		t.Fatalf("child: %q", l)
	}
	return p
}

// fleetCache is an instance in this process that shares the children's key.
func fleetCache(t *testing.T, url string, lease time.Duration, load func(context.Context, string, *freshet.Load) (int64, error)) *freshet.Cache[string, int64] {
	t.Helper()
	c, err := freshet.Open(t.Context(), url, freshet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	cache, err := freshet.NewCache(c, freshet.Config[string, int64]{
		Name: "cold", TTL: time.Hour, LeaseTime: lease, LoadTimeout: 20 * time.Second, Load: load,
	})
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func TestOneLoadAcrossTheFleet(t *testing.T) {
	const instances, callers = 8, 250
	const slow = 100 * time.Millisecond
	srv := testenv.Redis(t)
	var fleet []*testenv.Process
	for range instances {
		fleet = append(fleet, fleetStart(t, srv.URL(), 10*time.Second, slow, callers))
	}
	for round := range 3 {
		for _, p := range fleet {
			p.Send("go 1")
		}
		var all []time.Duration
		loads := 0
		for _, p := range fleet {
			answers, n := fleetRound(t, p)
			loads += n
			for _, a := range answers {
				all = append(all, a.took)
				if a.version != 1 {
					t.Errorf("got version %d; want 1", a.version)
				}
			}
		}
		slices.Sort(all)
		t.Logf("round %d: %d callers, %d loads of %v; p50 %v, p99 %v, max %v", round, len(all), loads, slow, all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
		if loads != 1 {
			t.Errorf("%d loads; want 1", loads)
		}
		if len(all) != instances*callers {
			t.Errorf("%d answers; want %d", len(all), instances*callers)
		}
		srv.CLI(t, "DEL", "cold:key") // cold again, for the L1s too
		time.Sleep(50 * time.Millisecond)
	}
}

func TestKilledHolderDelaysByTheLease(t *testing.T) {
	const lease = 700 * time.Millisecond
	srv := testenv.Redis(t)
	holder := fleetStart(t, srv.URL(), lease, time.Minute, 1)
	loads := 0
	cache := fleetCache(t, srv.URL(), lease, func(context.Context, string, *freshet.Load) (int64, error) { loads++; return 2, nil })
	holder.Send("go 1")
	if l := holder.Line(); l != "load" {
		t.Fatalf("child: %q", l)
	}
	leased := time.Now()
	holder.Kill()
	v, err := cache.Get(t.Context(), "key")
	took := time.Since(leased)
	t.Logf("the killed holder delayed the others by %v; its lease time was %v", took, lease)
	if err != nil || v != 2 || loads != 1 {
		t.Errorf("got %d, %v, %d loads; want 2 by one load", v, err, loads)
	}
	if took > lease+faultSlack {
		t.Errorf("it took %v; want at most the lease time of %v", took, lease)
	}
}

func TestFailedHolderHandsOver(t *testing.T) {
	const lease = 10 * time.Second
	srv := testenv.Redis(t)
	failure := errors.New("no database today")
	loading, fail := make(chan struct{}), make(chan struct{})
	failing := fleetCache(t, srv.URL(), lease, func(context.Context, string, *freshet.Load) (int64, error) {
		close(loading)
		<-fail
		return 0, failure
	})
	other := fleetCache(t, srv.URL(), lease, func(context.Context, string, *freshet.Load) (int64, error) { return 2, nil })
	var failed time.Time
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := failing.Get(context.Background(), "key")
		failed = time.Now()
		if le, ok := errors.AsType[*freshet.LoadError](err); !ok || !errors.Is(le, failure) {
			t.Errorf("got %v; want a LoadError with the loader's", err)
		}
	})
	<-loading
	var got time.Time
	wg.Go(func() {
		if v, err := other.Get(context.Background(), "key"); err != nil || v != 2 {
			t.Errorf("got %d, %v; want 2", v, err)
		}
		got = time.Now()
	})
	time.Sleep(100 * time.Millisecond) // the other waits now
	close(fail)
	wg.Wait()
	t.Logf("the other had its value %v after the holder failed", got.Sub(failed))
	if d := got.Sub(failed); d > 200*time.Millisecond {
		t.Errorf("handed over after %v; want at once", d) // the poll comes after 250 ms
	}
}

// A holder stands still, its lease runs out, another loads a newer value. It must not overwrite that.
func TestPausedHolderDoesNotOverwrite(t *testing.T) {
	const lease = 400 * time.Millisecond
	srv := testenv.Redis(t)
	holder := fleetStart(t, srv.URL(), lease, 100*time.Millisecond, 1)
	loads := 0
	load := func(context.Context, string, *freshet.Load) (int64, error) { loads++; return 2, nil }
	cache := fleetCache(t, srv.URL(), lease, load)
	holder.Send("go 1")
	if l := holder.Line(); l != "load" {
		t.Fatalf("child: %q", l)
	}
	holder.Pause()
	began := time.Now()
	if v, err := cache.Get(t.Context(), "key"); err != nil || v != 2 {
		t.Fatalf("got %d, %v; want 2", v, err)
	}
	t.Logf("the paused holder delayed the others by %v; its lease time was %v", time.Since(began), lease)
	if took := time.Since(began); took > lease+faultSlack {
		t.Errorf("it took %v; want at most the lease time", took)
	}
	holder.Resume()
	answers, _ := fleetRound(t, holder)
	if len(answers) != 1 || answers[0].refused != "lease-lost" {
		t.Errorf("the holder got %+v; want its fill refused", answers)
	}
	late := fleetCache(t, srv.URL(), lease, load)
	if v, err := late.Get(t.Context(), "key"); err != nil || v != 2 || loads != 1 {
		t.Errorf("afterwards the shared level brings %d, %v, %d loads; want 2 by the one load", v, err, loads)
	}
	holder.Send("go 3")
	answers, n := fleetRound(t, holder)
	if len(answers) != 1 || answers[0].version != 2 || n != 0 {
		t.Errorf("the holder reads %+v after %d loads; want version 2 without a load", answers, n)
	}
}

// Another instance takes the lease between an instance's read and its claim, so that the key changed under a
// call that doesn't wait yet. It must be woken by the fill all the same, and not find it by polling.
func TestOvertakenCallIsWoken(t *testing.T) {
	const way = 15 * time.Millisecond // from A to Redis, and back
	srv := testenv.Redis(t)
	proxy := testenv.Proxy(t, srv.Addr())
	open := func(addr string, load func() int64) *freshet.Cache[int, int64] {
		c, err := freshet.Open(t.Context(), "redis://"+addr, freshet.Options{StoreBudget: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		cache, err := freshet.NewCache(c, freshet.Config[int, int64]{Name: "cold", TTL: time.Hour,
			Load: func(context.Context, int, *freshet.Load) (int64, error) { return load(), nil }})
		if err != nil {
			t.Fatal(err)
		}
		return cache
	}
	var filled atomic.Int64
	a := open(proxy.Addr(), func() int64 { return 1 })
	b := open(srv.Addr(), func() int64 {
		time.Sleep(100 * time.Millisecond)
		filled.Store(faultNow())
		return 2
	})
	// The first keys teach both the tags and scripts.
	for k := range 2 {
		a.Get(t.Context(), k)
		b.Get(t.Context(), k+2)
	}
	proxy.Delay(way)
	var waits []time.Duration
	for k := 10; k < 17; k++ {
		var wg sync.WaitGroup
		var wait time.Duration
		wg.Go(func() {
			if v, err := a.Get(context.Background(), k); err != nil || v != 2 {
				t.Logf("A got %d, %v: it was quicker than B", v, err)
				return
			}
			wait = time.Duration(faultNow() - filled.Load())
		})
		time.Sleep(way * 4 / 3) // A's read has passed Redis, its claim not yet
		if _, err := b.Get(t.Context(), k); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if wait > 0 {
			waits = append(waits, wait)
		}
	}
	slices.Sort(waits)
	t.Logf("A had the value this long after B loaded it: %v", waits)
	if len(waits) < 4 || waits[len(waits)/2] > 150*time.Millisecond {
		t.Errorf("A had the value %v after B loaded it; want a few round trips of %v", waits, 2*way)
	}
}
