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

// s2 measures hits in Redis, with no process layer.
var s2 = scenario{
	name:  "S2",
	title: "hits in Redis, no process layer",
	note: "Closed loop, uniform keys, everything in Redis. Client and Redis CPU in seconds per million operations " +
		"(µs per operation). \"x\" are ratios of client CPU (Redis CPU) against *by hand: otter+rueidis*.",
	variants: []string{"200B g=1", "200B g=8", "200B g=64", "200B g=512", "10KiB g=1", "10KiB g=64", "10KiB g=512"},
	rounds:   5,
	suits:    func(a adapters.Adapter, _ string) bool { return a.Redis },
	run:      runRedisHits,
	tables:   s2Tables(),
}

func s2Tables() []table {
	long := func(variant string) table {
		return table{caption: variant, columns: []column{
			{head: "kops/s", variant: variant, metric: "kops", format: "%.0f"},
			{head: "p50 µs", variant: variant, metric: "p50_us", format: "%.0f"},
			{head: "p99 µs", variant: variant, metric: "p99_us", format: "%.0f"},
			{head: "x p99", variant: variant, metric: "p99_us", format: "%.2f", against: best},
			{head: "client s/Mop", variant: variant, metric: "client", format: "%.2f"},
			{head: "of it sys", variant: variant, metric: "client_sys", format: "%.2f"},
			{head: "x client", variant: variant, metric: "client", format: "%.2f", against: best},
			{head: "Redis s/Mop", variant: variant, metric: "redis", format: "%.2f"},
			{head: "x Redis", variant: variant, metric: "redis", format: "%.2f", against: best},
			{head: "cmds/op", variant: variant, metric: "commands", format: "%.2f"},
			{head: "allocs", variant: variant, metric: "allocs", format: "%.0f"},
		}}
	}
	short := table{caption: "The other combinations: client s/Mop, kops/s, p99 µs"}
	for _, v := range []string{"200B g=1", "200B g=8", "10KiB g=1", "10KiB g=512"} {
		short.columns = append(short.columns,
			column{head: v + ": client", variant: v, metric: "client", format: "%.1f"},
			column{head: "x", variant: v, metric: "client", format: "%.2f", against: best},
			column{head: "kops/s", variant: v, metric: "kops", format: "%.0f"},
			column{head: "p99", variant: v, metric: "p99_us", format: "%.0f"})
	}
	return []table{long("200B g=64"), long("200B g=512"), long("10KiB g=64"), short}
}

func runRedisHits(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	var size string
	var g int
	if _, err := fmt.Sscanf(c.Variant, "%s g=%d", &size, &g); err != nil {
		return nil, err
	}
	large := size == "10KiB"
	n := pick(c, 10_000, 1000)
	if c.Smoke {
		n = 300
	}
	if large {
		n /= 5 // 20 MB are enough
	}
	keys := userKeys(n)
	src := &source{large: large}
	cache, err := a.New(adapters.Config{Addr: c.Addr, Load: src.load, TTL: time.Hour, L1: -1, Patient: c.Smoke})
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	if err := fill(ctx, cache, keys); err != nil {
		return nil, err
	}
	adm, err := dialAdmin(ctx, c.Addr)
	if err != nil {
		return nil, err
	}
	defer adm.close()
	runtime.GC()
	closedLoop(ctx, cache, keys, g, pick(c, 300*time.Millisecond, 30*time.Millisecond))

	loads := src.loads.Load()
	redisBefore, err := adm.usage()
	if err != nil {
		return nil, err
	}
	before, begin := costNow(), time.Now()
	h, failed := closedLoop(ctx, cache, keys, g, pick(c, 2*time.Second, 150*time.Millisecond))
	took, cost := time.Since(begin), costNow().since(before)
	redisAfter, err := adm.usage()
	if err != nil {
		return nil, err
	}
	r, ops := redisAfter.since(redisBefore), float64(h.n)
	return Metrics{
		"kops":       ops / took.Seconds() / 1000,
		"p50_us":     us(h.quantile(0.5)),
		"p99_us":     us(h.quantile(0.99)),
		"client":     us(cost.user+cost.sys) / ops,
		"client_sys": us(cost.sys) / ops,
		"redis":      r.cpu * 1e6 / ops,
		"commands":   r.commands / ops,
		"allocs":     float64(cost.mallocs) / ops,
		"loads":      float64(src.loads.Load() - loads),
		"errors":     float64(failed),
	}, nil
}

func closedLoop(ctx context.Context, cache adapters.Cache, keys []string, g int, d time.Duration) (*histogram, int64) {
	var (
		wg     sync.WaitGroup
		stop   atomic.Bool
		failed atomic.Int64
		parts  = make([]histogram, g)
	)
	for w := range g {
		wg.Go(func() {
			r, h := rand.New(rand.NewPCG(2, uint64(w))), &parts[w]
			for !stop.Load() {
				key, begin := keys[r.IntN(len(keys))], time.Now()
				p, err := cache.Get(ctx, key)
				h.add(time.Since(begin))
				if err != nil || p.ID == 0 {
					failed.Add(1)
				}
			}
		})
	}
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	all := &parts[0]
	for i := range parts[1:] {
		all.merge(&parts[i+1])
	}
	return all, failed.Load()
}
