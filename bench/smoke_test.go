package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
)

// TestMain lets this binary be a cell: S4 starts eight of them.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == childFlag {
		if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestScenarios runs every scenario briefly with freshet. It checks what does not depend on
// the machine: loads, versions, errors. Times are for the measurements, except where a
// bound is a promise.
func TestScenarios(t *testing.T) {
	facts := map[string]func(f func(metric string, atMost float64)){
		"S1": func(f func(string, float64)) { f("loads", 0); f("errors", 0); f("allocs", 0.9) },
		"S2": func(f func(string, float64)) { f("loads", 0); f("errors", 0) },
		"S3": func(f func(string, float64)) { f("loads_over", 0); f("errors", 0) },
		"S4": func(f func(string, float64)) { f("loads", 1); f("errors", 0) },
		"S5": func(f func(string, float64)) { f("loads", 4); f("errors", 0) },
		"S6": func(f func(string, float64)) { f("errors", 0); f("calm_errors", 0) },
		"S7": func(f func(string, float64)) { f("stale", 0); f("stale_fresh", 0) },
		"L1": func(f func(string, float64)) { f("errors", 0) },
		"L2": func(f func(string, float64)) { f("errors", 0) },
		"S8": func(f func(string, float64)) { f("p99_ms", 1500) }, // StaleAtMost and a busy machine
	}
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			if strings.Contains("S5 S6 S7 S8", s.name) {
				t.Parallel() // these mostly wait
			}
			ours, _ := s.named(ours)
			addr := redisFor(t)
			adm, err := dialAdmin(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			defer adm.close()
			for _, v := range s.variants {
				if err := adm.reset(); err != nil {
					t.Fatal(err)
				}
				m, err := s.run(t.Context(), Cell{Scenario: s.name, Variant: v, Cache: ours.Name, Addr: addr, Quick: true, Smoke: true}, ours)
				if err != nil {
					t.Errorf("%s: %v", v, err)
					continue
				}
				facts[s.name](func(metric string, atMost float64) {
					if got, ok := m[metric]; !ok || got > atMost {
						t.Errorf("%s: %s is %v; want at most %v (all: %v)", v, metric, got, atMost, m)
					}
				})
			}
		})
	}
}

// TestAdapters checks that every cache is wired as the scenarios assume: one load for two
// reads, and another one after a delete.
func TestAdapters(t *testing.T) {
	addr := redisFor(t)
	for i, a := range adapters.All() {
		if a.Name == "harness alone" {
			continue // not a cache
		}
		t.Run(a.Name, func(t *testing.T) {
			src := &source{}
			c, err := a.New(adapters.Config{Addr: addr, Load: src.load, TTL: time.Minute, L1: 1000, L1TTL: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			key := fmt.Sprintf("adapter:%d", i)
			f := func(what string, version, loads int64) {
				t.Helper()
				p, err := c.Get(t.Context(), key)
				time.Sleep(20 * time.Millisecond) // some store in the background
				if err != nil || p.Version != version || src.loads.Load() != loads {
					t.Fatalf("%s: version %d after %d loads, error %v; want version %d after %d loads", what,
						p.Version, src.loads.Load(), err, version, loads)
				}
			}
			f("cold", 1, 1)
			f("again", 1, 1)
			src.write(key, 2)
			if err := c.Del(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
			if a.Name == "rockscache" {
				// After a delete rockscache serves the old value once more while it loads.
				if _, err := c.Get(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				time.Sleep(50 * time.Millisecond)
			}
			f("after a delete", 2, 2)
		})
	}
}

// TestRender checks that the README has a place for every scenario.
func TestRender(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"machine", "targets"}
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	for _, name := range names {
		if _, err := between(string(b), name, ""); err != nil {
			t.Error(err)
		}
	}
}

func TestMeasures(t *testing.T) {
	h := new(histogram)
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	f := func(q float64, want time.Duration) {
		t.Helper()
		if got := h.quantile(q); got > want || float64(got) < 0.96*float64(want) {
			t.Errorf("quantile %v is %v; want %v or up to 4 %% less", q, got, want)
		}
	}
	f(0.5, 500*time.Microsecond)
	f(0.99, 990*time.Microsecond)
	f(1, 1000*time.Microsecond)

	if got := median([]float64{3, 1, 2, 10}); got != 2.5 {
		t.Errorf("median is %v; want 2.5", got)
	}

	r := &report{Rounds: 2, Results: []Result{
		{Cell: Cell{Cache: "a", Variant: "v", Round: 1}, Metrics: Metrics{"ns": 10}},
		{Cell: Cell{Cache: best, Variant: "v", Round: 1}, Metrics: Metrics{"ns": 20}},
		{Cell: Cell{Cache: "a", Variant: "v", Round: 2}, Metrics: Metrics{"ns": 100}},
		{Cell: Cell{Cache: best, Variant: "v", Round: 2}, Metrics: Metrics{"ns": 100}},
	}}
	if got := r.value("a", column{variant: "v", metric: "ns", against: best}); got != 0.75 {
		t.Errorf("the median of the ratios within a round is %v; want 0.75", got)
	}
}

func redisFor(tb testing.TB) string {
	tb.Helper()
	s, err := startServer(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.close)
	return s.Addr
}
