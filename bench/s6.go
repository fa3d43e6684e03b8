package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
)

// s6 takes Redis away for five seconds while the database is healthy.
var s6 = scenario{
	name:  "S6",
	title: "Redis fails for 5 s",
	note: "Open loop: 3,000 req/s over 2,000 keys, all in Redis (TTL 60 s), 1 s in process, each request with a deadline of 1 s; a load " +
		"takes 5 ms and ends with the request's context. Redis is stopped (hang) or killed and started again (empty). \"fast\" is answered within " +
		"25 ms; recovery is when the last 50 ms with more than 1 % of slow or failed requests ended, counted from the return of Redis.",
	variants: []string{"hang", "kill"},
	rounds:   2,
	suits: func(a adapters.Adapter, _ string) bool {
		return a.Kind != adapters.Yardstick || a.Protected || a.Name == otterAlone
	},
	run: runOutage,
	tables: []table{{columns: []column{
		{head: "hang: errors", variant: "hang", metric: "errors_share", format: "%.1f %%"},
		{head: "fast", variant: "hang", metric: "fast", format: "%.1f %%"},
		{head: "p99 ms", variant: "hang", metric: "p99_ms", format: "%.1f"},
		{head: "recovery ms", variant: "hang", metric: "recovery_ms", format: "%.0f"},
		{head: "killed: errors", variant: "kill", metric: "errors_share", format: "%.1f %%"},
		{head: "fast", variant: "kill", metric: "fast", format: "%.1f %%"},
		{head: "p99 ms", variant: "kill", metric: "p99_ms", format: "%.1f"},
		{head: "recovery ms", variant: "kill", metric: "recovery_ms", format: "%.0f"},
	}}},
}

func runOutage(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	redis, err := startServer(ctx) // its own: it will be stopped
	if err != nil {
		return nil, err
	}
	defer redis.close()
	const deadline, fast, window = time.Second, 25 * time.Millisecond, 50 * time.Millisecond
	keys := userKeys(pick(c, 2000, 500))
	src := &source{delay: 5 * time.Millisecond}
	cache, err := a.New(adapters.Config{
		Addr: redis.Addr, Load: src.load, TTL: time.Minute, L1: 10_000, L1TTL: time.Second,
	})
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	if err := fill(ctx, cache, keys); err != nil {
		return nil, err
	}

	calm := pick(c, 1500*time.Millisecond, 300*time.Millisecond)
	outage := pick(c, 5*time.Second, 800*time.Millisecond)
	after := pick(c, 3*time.Second, 700*time.Millisecond)
	type span struct{ down, up time.Duration }
	done, begin := make(chan span, 1), time.Now()
	failed := make(chan error, 1)
	go func() {
		var s span
		var err error
		time.Sleep(calm)
		s.down = time.Since(begin)
		if c.Variant == "hang" {
			err = redis.hang()
			time.Sleep(outage)
			err = firstError(err, redis.resume())
		} else {
			redis.kill()
			time.Sleep(outage)
			err = redis.start(ctx)
		}
		s.up = time.Since(begin)
		failed <- err
		done <- s
	}()
	requests := openLoop(pick(c, 3000, 1000), calm+outage+after, func(int) (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		_, err := cache.Get(ctx, keys[rand.IntN(len(keys))])
		return 0, err
	})
	if err := <-failed; err != nil {
		return nil, err
	}
	s := <-done

	var n, errs, quick, calmErrs float64
	var took []time.Duration
	bad, all := map[time.Duration]int{}, map[time.Duration]int{} // by window since the return
	for _, r := range requests {
		slow := r.err != nil || r.took > fast
		switch {
		case r.start < s.down:
			if r.err != nil {
				calmErrs++
			}
		case r.start < s.up:
			n++
			took = append(took, r.took)
			if r.err != nil {
				errs++
			}
			if !slow {
				quick++
			}
		default:
			w := (r.start - s.up) / window
			all[w]++
			if slow {
				bad[w]++
			}
		}
	}
	var recovery time.Duration
	for w, count := range bad {
		if 100*count > all[w] {
			recovery = max(recovery, (w+1)*window)
		}
	}
	return Metrics{
		"errors_share": 100 * errs / n,
		"errors":       errs,
		"calm_errors":  calmErrs,
		"fast":         100 * quick / n,
		"p99_ms":       ms(quantile(took, 0.99)),
		"recovery_ms":  ms(recovery),
		"loads":        float64(src.loads.Load()),
	}, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
