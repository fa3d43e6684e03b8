package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
)

// s3 is a service from cold: a mix of hits in process, hits in Redis and loads.
var s3 = scenario{
	name:  "S3",
	title: "mix with loads",
	note: "Open loop: 20,000 req/s, 100k keys, Zipf(0.99), 10k entries in process (TTL 5 s), TTL 15 s in Redis, a load takes 5 ms, " +
		"12 s from cold. Every distinct key must be loaded once; \"over the minimum\" are the loads beyond that. " +
		"Reads are the keys looked up in Redis and commands what Redis counts, both with those inside scripts.",
	variants: []string{"mix"},
	rounds:   3,
	suits: func(a adapters.Adapter, _ string) bool {
		return a.Kind != adapters.Yardstick || a.Name == otterAlone
	},
	run: runMix,
	tables: []table{{columns: []column{
		{head: "loads over the minimum", variant: "mix", metric: "loads_over", format: "%.0f"},
		{head: "Redis reads/op", variant: "mix", metric: "reads", format: "%.3f"},
		{head: "Redis cmds/op", variant: "mix", metric: "commands", format: "%.2f"},
		{head: "scripts/op", variant: "mix", metric: "scripts", format: "%.2f"},
		{head: "p50 µs", variant: "mix", metric: "p50_us", format: "%.0f"},
		{head: "p99 ms", variant: "mix", metric: "p99_ms", format: "%.1f"},
		{head: "x p99", variant: "mix", metric: "p99_ms", format: "%.2f", against: best},
		{head: "client s/Mop", variant: "mix", metric: "client", format: "%.1f"},
		{head: "x client", variant: "mix", metric: "client", format: "%.2f", against: best},
		{head: "Redis s/Mop", variant: "mix", metric: "redis", format: "%.1f"},
		{head: "errors", variant: "mix", metric: "errors", format: "%.0f"},
	}}},
}

func runMix(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	n, rate := pick(c, 100_000, 10_000), pick(c, 20_000, 5_000)
	if c.Smoke {
		n, rate = 1000, 1000
	}
	keys := userKeys(n)
	draws := zipf(rand.New(rand.NewPCG(3, uint64(c.Round))), n, 1<<20)
	src := &source{delay: 5 * time.Millisecond}
	cache, err := a.New(adapters.Config{
		Addr: c.Addr, Load: src.load, TTL: 15 * time.Second, L1: n / 10, L1TTL: 5 * time.Second, Patient: c.Smoke,
	})
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	if err := fill(ctx, cache, []string{"warm"}); err != nil { // connect
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
	before, loads := costNow(), src.loads.Load()
	requests := openLoop(rate, pick(c, 12*time.Second, time.Second), func(i int) (int64, error) {
		_, err := cache.Get(ctx, keys[draws[i&(len(draws)-1)]])
		return 0, err
	})
	cost := costNow().since(before)
	redisAfter, err := adm.usage()
	if err != nil {
		return nil, err
	}
	distinct := map[uint32]bool{}
	for i := range requests {
		distinct[draws[i&(len(draws)-1)]] = true
	}
	r, ops, took := redisAfter.since(redisBefore), float64(len(requests)), latencies(requests)
	loaded := float64(src.loads.Load() - loads)
	return Metrics{
		"loads":      loaded,
		"distinct":   float64(len(distinct)),
		"loads_over": loaded - float64(len(distinct)),
		"reads":      r.lookups / ops,
		"commands":   r.commands / ops,
		"scripts":    r.scripts / ops,
		"p50_us":     us(quantile(took, 0.5)),
		"p99_ms":     ms(quantile(took, 0.99)),
		"client":     us(cost.user+cost.sys) / ops,
		"redis":      r.cpu * 1e6 / ops,
		"errors":     failures(requests),
	}, nil
}
