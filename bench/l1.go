package main

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
	"github.com/freshetdev/freshet/bench/limiters"
)

const (
	hotAllowed = "hot key, allowed"
	hotRefused = "hot key, refused"
	manyKeys   = "100k keys"

	// limitCallers is how many ask at once.
	limitCallers = 64
)

// l1 measures decisions of rate limiters.
var l1 = scenario{
	name:  "L1",
	title: "decisions of a rate limiter",
	note: "Closed loop of 64 callers. kops/s are thousands of decisions a second; client and Redis CPU in seconds per million decisions (µs per decision). \"x\" is the throughput against *rueidis, the same script*: " +
		"what a team writes by hand, one `EVALSHA` per decision, with the script of freshet. *Not remembered* asks Redis also for keys that it refused; *10,000 ahead* takes units ahead of need (`Spec.Advance`). " +
		"freshet's deadline is a second here.",
	variants: []string{hotAllowed, hotRefused, manyKeys},
	rounds:   5,
	contest:  limiters.All,
	suits:    func(adapters.Adapter, string) bool { return true },
	run:      runDecisions,
	tables:   []table{l1Table(hotAllowed), l1Table(hotRefused), l1Table(manyKeys)},
}

func l1Table(v string) table {
	return table{caption: v, columns: []column{
		{head: "kops/s", variant: v, metric: "kops", format: "%.0f"},
		{head: "x", variant: v, metric: "kops", format: "%.2f", against: limiters.Script},
		{head: "p50 µs", variant: v, metric: "p50_us", format: "%.1f"},
		{head: "p99 µs", variant: v, metric: "p99_us", format: "%.0f"},
		{head: "client s/Mop", variant: v, metric: "client", format: "%.2f"},
		{head: "Redis s/Mop", variant: v, metric: "redis", format: "%.2f"},
		{head: "x Redis", variant: v, metric: "redis", format: "%.2f", against: limiters.Script},
		{head: "scripts/op", variant: v, metric: "scripts", format: "%.2f"},
		{head: "allocs", variant: v, metric: "allocs", format: "%.0f"},
		{head: "errors", variant: v, metric: "errors", format: "%.0f"},
	}}
}

func runDecisions(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	l, err := limiters.New(a.Name, limiters.Config{Addr: c.Addr, Scarce: c.Variant == hotRefused})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	adm, err := dialAdmin(ctx, c.Addr)
	if err != nil {
		return nil, err
	}
	defer adm.close()
	keys := []string{"user:000000"}
	if c.Variant == manyKeys {
		keys = userKeys(pick(c, 100_000, 1000))
	}
	want := c.Variant != hotRefused
	if !want { // take the only unit
		_, _ = l.Allow(ctx, keys[0])
		_, _ = l.Allow(ctx, keys[0])
	}
	runtime.GC()
	decide(ctx, l.Allow, keys, want, limitCallers, pick(c, 300*time.Millisecond, 30*time.Millisecond))
	redisBefore, err := adm.usage()
	if err != nil {
		return nil, err
	}
	before, begin := costNow(), time.Now()
	h, n, failed := decide(ctx, l.Allow, keys, want, limitCallers, pick(c, time.Second, 100*time.Millisecond))
	took, cost := time.Since(begin), costNow().since(before)
	redisAfter, err := adm.usage()
	if err != nil {
		return nil, err
	}
	r, ops := redisAfter.since(redisBefore), float64(n)
	return Metrics{
		"kops":    ops / took.Seconds() / 1000,
		"p50_us":  us(h.quantile(0.5)),
		"p99_us":  us(h.quantile(0.99)),
		"client":  us(cost.user+cost.sys) / ops,
		"redis":   r.cpu * 1e6 / ops,
		"scripts": r.scripts / ops,
		"allocs":  float64(cost.mallocs) / ops,
		"errors":  float64(failed),
	}, nil
}

// timed is which decisions are timed: one in so many, since reading the clock twice takes longer than a decision in process.
const timed = 16

// decide asks in a closed loop, and counts answers other than want as failures, too. ops is how many there were; the histogram has some.
func decide(ctx context.Context, allow func(context.Context, string) (bool, error), keys []string, want bool, g int, d time.Duration) (h *histogram, ops, failed int64) {
	var (
		wg        sync.WaitGroup
		stop      atomic.Bool
		sum, fail atomic.Int64
		parts     = make([]histogram, g)
	)
	for w := range g {
		wg.Go(func() {
			h := &parts[w]
			n, bad := int64(0), int64(0)
			for i := w * len(keys) / g; !stop.Load(); i += 7919 { // a prime: all keys, in no order
				var begin time.Time
				if n%timed == 0 {
					begin = time.Now()
				}
				ok, err := allow(ctx, keys[i%len(keys)])
				if n%timed == 0 {
					h.add(time.Since(begin))
				}
				n++
				if err != nil || ok != want {
					bad++
				}
			}
			sum.Add(n)
			fail.Add(bad)
		})
	}
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	all := &parts[0]
	for i := range parts[1:] {
		all.merge(&parts[i+1])
	}
	return all, sum.Load(), fail.Load()
}
