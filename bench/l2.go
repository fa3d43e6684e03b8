package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
	"github.com/freshetdev/freshet/bench/limiters"
)

const threeLimits = "freshet, three limits"

// l2 measures what several limits in one decision cost the server.
var l2 = scenario{
	name:  "L2",
	title: "three limits in one decision",
	note: "One caller, so nothing is merged: one script for each decision. µs of server time per script, by `INFO commandstats`: over all of them, and in the best tenth of a second, when nobody else " +
		"got the core. \"x\" is against one limit.",
	variants: []string{"g=1"},
	rounds:   5,
	contest: func() []adapters.Adapter {
		return []adapters.Adapter{{Name: ours, Kind: adapters.Ours}, {Name: threeLimits, Kind: adapters.Ours}}
	},
	suits: func(adapters.Adapter, string) bool { return true },
	run:   runThree,
	tables: []table{{columns: []column{
		{head: "µs/decision", variant: "g=1", metric: "usec", format: "%.2f"},
		{head: "x", variant: "g=1", metric: "usec", format: "%.2f", against: ours},
		{head: "best µs", variant: "g=1", metric: "best_usec", format: "%.2f"},
		{head: "x", variant: "g=1", metric: "best_usec", format: "%.2f", against: ours},
		{head: "decisions/s", variant: "g=1", metric: "ops", format: "%.0f"},
	}}},
}

func runThree(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	l, err := limiters.New(limiters.Ours, limiters.Config{Addr: c.Addr})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	allow := l.Allow
	if a.Name == threeLimits {
		allow = l.AllowThree
	}
	adm, err := dialAdmin(ctx, c.Addr)
	if err != nil {
		return nil, err
	}
	defer adm.close()
	decide(ctx, allow, []string{"{tenant}user"}, true, 1, pick(c, 200*time.Millisecond, 20*time.Millisecond))
	var usec, calls, errs float64
	best, begin := 0.0, time.Now()
	for range pick(c, 20, 2) {
		if _, err := adm.do("CONFIG RESETSTAT"); err != nil {
			return nil, err
		}
		_, _, failed := decide(ctx, allow, []string{"{tenant}user"}, true, 1, 100*time.Millisecond)
		text, err := adm.do("INFO commandstats")
		if err != nil {
			return nil, err
		}
		_, line, _ := strings.Cut(text, "cmdstat_evalsha:")
		var n, u float64
		if _, err := fmt.Sscanf(line, "calls=%f,usec=%f", &n, &u); err != nil {
			return nil, fmt.Errorf("commandstats %q: %w", line, err)
		}
		if best == 0 || u/n < best {
			best = u / n
		}
		usec, calls, errs = usec+u, calls+n, errs+float64(failed)
	}
	return Metrics{"usec": usec / calls, "best_usec": best, "ops": calls / time.Since(begin).Seconds(), "errors": errs}, nil
}
