package main

import (
	"context"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
	"github.com/freshetdev/freshet/bench/profile"
)

// s5 is a hot key that expires again and again.
var s5 = scenario{
	name:  "S5",
	title: "a hot key expires",
	note: "Open loop: 20,000 req/s on one key, TTL 1 s in both layers, a load takes 50 ms, 10 s. Refreshing caches refresh after " +
		"0.7 s. A wait of everybody at each expiry would be 10,000 requests. \"oldest\" is the age of the oldest value served, from " +
		"the start of its load.",
	variants: []string{"plain", "refresh"},
	rounds:   3,
	suits: func(a adapters.Adapter, variant string) bool {
		return a.Redis && a.Kind != adapters.Yardstick && (variant == "plain" || a.Refreshes)
	},
	run: runExpiry,
	tables: []table{
		{caption: "Without refresh", columns: s5Columns("plain")},
		{caption: "With refresh", columns: s5Columns("refresh")},
	},
}

func s5Columns(variant string) []column {
	return []column{
		{head: "loads", variant: variant, metric: "loads", format: "%.0f"},
		{head: "waited > 10 ms", variant: variant, metric: "waited", format: "%.0f"},
		{head: "of all", variant: variant, metric: "waited_share", format: "%.1f %%"},
		{head: "p99 ms", variant: variant, metric: "p99_ms", format: "%.3f"},
		{head: "oldest ms", variant: variant, metric: "oldest_ms", format: "%.0f"},
		{head: "Redis cmds", variant: variant, metric: "commands", format: "%.0f"},
		{head: "errors", variant: variant, metric: "errors", format: "%.0f"},
	}
}

func runExpiry(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	src := &source{delay: 50 * time.Millisecond}
	cfg := adapters.Config{
		Addr: c.Addr, TTL: time.Second, L1: 10_000, L1TTL: time.Second, Exact: true, Patient: c.Smoke,
		Load: func(ctx context.Context, key string) (profile.Profile, error) {
			begin := time.Now().UnixNano()
			p, err := src.load(ctx, key)
			p.Version = begin
			return p, err
		},
	}
	if c.Variant == "refresh" {
		cfg.Refresh = 700 * time.Millisecond
	}
	cache, err := a.New(cfg)
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	if err := fill(ctx, cache, []string{"warm", "hot"}); err != nil {
		return nil, err
	}
	adm, err := dialAdmin(ctx, c.Addr)
	if err != nil {
		return nil, err
	}
	defer adm.close()
	redisBefore, err := adm.usage()
	if err != nil {
		return nil, err
	}
	loads := src.loads.Load()
	requests := openLoop(pick(c, 20_000, 1_000), pick(c, 10*time.Second, 2300*time.Millisecond), func(int) (int64, error) {
		p, err := cache.Get(ctx, "hot")
		return time.Now().UnixNano() - p.Version, err
	})
	redisAfter, err := adm.usage()
	if err != nil {
		return nil, err
	}
	var waited, oldest float64
	for _, r := range requests {
		if r.took > 10*time.Millisecond {
			waited++
		}
		if r.err == nil {
			oldest = max(oldest, ms(time.Duration(r.value)))
		}
	}
	return Metrics{
		"loads":        float64(src.loads.Load() - loads),
		"waited":       waited,
		"waited_share": 100 * waited / float64(len(requests)),
		"p99_ms":       ms(quantile(latencies(requests), 0.99)),
		"oldest_ms":    oldest,
		"commands":     redisAfter.since(redisBefore).commands,
		"errors":       failures(requests),
	}, nil
}
