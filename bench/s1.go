package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
)

// s1 measures hits in process: 1,000 keys fit the CPU caches and show instructions, 100,000
// show memory.
var s1 = scenario{
	name:  "S1",
	title: "hits in process",
	note: "ns per hit (wall time over all hits), Zipf(0.99), everything in process. g is the number of goroutines. " +
		"\"x\" is against *by hand: otter+rueidis*.",
	variants: []string{"1k g=1", "1k g=8", "100k g=1", "100k g=8"},
	rounds:   5,
	suits:    func(a adapters.Adapter, _ string) bool { return a.Layer && !a.Protected },
	run:      runHits,
	tables: []table{{columns: []column{
		{head: "1k keys g=1", variant: "1k g=1", metric: "ns", format: "%.0f"},
		{head: "x", variant: "1k g=1", metric: "ns", format: "%.2f", against: best},
		{head: "1k g=8", variant: "1k g=8", metric: "ns", format: "%.0f"},
		{head: "x", variant: "1k g=8", metric: "ns", format: "%.2f", against: best},
		{head: "100k g=1", variant: "100k g=1", metric: "ns", format: "%.0f"},
		{head: "x", variant: "100k g=1", metric: "ns", format: "%.2f", against: best},
		{head: "100k g=8", variant: "100k g=8", metric: "ns", format: "%.0f"},
		{head: "x", variant: "100k g=8", metric: "ns", format: "%.2f", against: best},
		{head: "allocs/op", variant: "1k g=1", metric: "allocs", format: "%.1f"},
		{head: "B/op", variant: "1k g=1", metric: "bytes", format: "%.0f"},
	}}},
}

func runHits(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	n, g := 0, 0
	if _, err := fmt.Sscanf(c.Variant, "%dk g=%d", &n, &g); err != nil {
		return nil, err
	}
	n *= 1000
	if c.Quick {
		n = min(n, 10_000)
	}
	passes := 4 // some caches drop what they are given too fast, or store it late
	if c.Smoke {
		n, passes = min(n, 1000), 1
	}
	keys := userKeys(n)
	draws := zipf(rand.New(rand.NewPCG(1, uint64(c.Round))), n, 1<<20)
	src := &source{}
	cache, err := a.New(adapters.Config{
		Addr: c.Addr, Load: src.load, TTL: time.Hour, L1: 2 * n, L1TTL: time.Hour, Patient: c.Smoke,
	})
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	for range passes {
		if err := fill(ctx, cache, keys); err != nil {
			return nil, err
		}
		time.Sleep(pick(c, 300*time.Millisecond, 30*time.Millisecond))
	}
	runtime.GC()
	hammer(ctx, cache, keys, draws, g, pick(c, 300*time.Millisecond, 20*time.Millisecond))
	loads, before, begin := src.loads.Load(), costNow(), time.Now()
	hits, failed := hammer(ctx, cache, keys, draws, g, pick(c, time.Second, 60*time.Millisecond))
	took, cost := time.Since(begin), costNow().since(before)
	return Metrics{
		"ns":     float64(took) / float64(hits),
		"cpu_ns": float64(cost.user+cost.sys) / float64(hits),
		"allocs": float64(cost.mallocs) / float64(hits),
		"bytes":  float64(cost.bytes) / float64(hits),
		"loads":  float64(src.loads.Load() - loads),
		"errors": float64(failed),
	}, nil
}

// sink keeps the compiler from dropping what was read.
var sink atomic.Int64

func hammer(ctx context.Context, cache adapters.Cache, keys []string, draws []uint32, g int, d time.Duration) (hits, failed int64) {
	var (
		wg                 sync.WaitGroup
		stop               atomic.Bool
		allHits, allFailed atomic.Int64
		mask               = len(draws) - 1
	)
	for w := range g {
		wg.Go(func() {
			var hits, failed, sum int64
			for i := w * len(draws) / g; !stop.Load(); {
				for range 256 {
					p, err := cache.Get(ctx, keys[draws[i&mask]])
					if err != nil {
						failed++
					}
					sum += p.ID
					i++
				}
				hits += 256
			}
			sink.Add(sum)
			allHits.Add(hits)
			allFailed.Add(failed)
		})
	}
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	return allHits.Load(), allFailed.Load()
}
