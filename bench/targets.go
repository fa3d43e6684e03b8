package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/freshetdev/freshet/bench/limiters"
)

// A target is a promise that one number shows.
type target struct {
	scenario string
	what     string
	cache    string
	column   column
	want     float64
	atLeast  bool // want is the least value rather than the largest
}

const (
	ours     = "freshet"
	oursFast = "freshet, sonic"
	pointer  = "otter, pointer, coarse clock"
	rawJSON  = "rueidis GET + encoding/json"
	cacheV9  = "go-redis/cache"
)

// targets is the bar that freshet has set for itself.
func targets() (all []target) {
	most := func(scenario, what, cache, variant, metric, against string, want float64) {
		all = append(all, target{scenario, what, cache, column{variant: variant, metric: metric, against: against}, want, false})
	}
	least := func(scenario, what, cache, variant, metric, against string, want float64) {
		all = append(all, target{scenario, what, cache, column{variant: variant, metric: metric, against: against}, want, true})
	}
	for _, v := range []string{"1k g=1", "1k g=8"} {
		most("S1", v+": time / by hand", ours, v, "ns", best, 0.70)
		most("S1", v+": time / otter pointer", ours, v, "ns", pointer, 1.35)
		most("S1", v+": allocs", ours, v, "allocs", "", 0.005)
	}
	for _, v := range []string{"100k g=1", "100k g=8"} {
		most("S1", v+": time / by hand", ours, v, "ns", best, 1.05)
		most("S1", v+": time / otter pointer", ours, v, "ns", pointer, 1.25)
	}
	for _, v := range []string{"200B g=64", "200B g=512"} {
		most("S2", v+": client CPU / best peer, encoding/json", ours, v, "client", best, 0.70)
		most("S2", v+": client CPU / best peer, sonic", oursFast, v, "client", best, 0.50)
		most("S2", v+": Redis CPU / best peer", ours, v, "redis", best, 0.40)
	}
	least("S2", "200B g=512: throughput / best peer", ours, "200B g=512", "kops", best, 1.5)
	most("S2", "200B g=512: p99 / best peer", ours, "200B g=512", "p99_us", best, 0.6)
	for _, v := range []string{"200B g=1", "200B g=8"} {
		most("S2", v+": client CPU / rueidis GET", ours, v, "client", rawJSON, 1.10)
		most("S2", v+": p99 / rueidis GET", ours, v, "p99_us", rawJSON, 1.10)
	}
	for _, v := range []string{"10KiB g=64", "10KiB g=512"} {
		most("S2", v+": client CPU, sonic / go-redis/cache", oursFast, v, "client", cacheV9, 0.80)
		most("S2", v+": client CPU / rueidis GET + encoding/json", ours, v, "client", rawJSON, 1.00)
	}
	most("S3", "loads over the minimum", ours, "mix", "loads_over", "", 0)
	most("S3", "Redis reads/op", ours, "mix", "reads", "", 0.29)
	most("S3", "Redis cmds/op", ours, "mix", "commands", "", 0.65)
	most("S3", "p99 / by hand", ours, "mix", "p99_ms", best, 1.05)
	most("S3", "client CPU / by hand", ours, "mix", "client", best, 1.15)
	most("S4", "one process: loads", ours, "1 process", "loads", "", 1)
	most("S4", "one process: p99 ms", ours, "1 process", "p99_ms", "", 110)
	most("S4", "8 processes: loads", ours, "8 processes", "loads", "", 1)
	most("S4", "8 processes: p99 ms", ours, "8 processes", "p99_ms", "", 115)
	most("S5", "with refresh: waits", ours, "refresh", "waited", "", 0)
	most("S5", "with refresh: loads (1.4 per TTL)", ours, "refresh", "loads", "", 14)
	most("S5", "without refresh: oldest ms (TTL and a load)", ours, "plain", "oldest_ms", "", 1060)
	most("S5", "without refresh: Redis commands", ours, "plain", "commands", "", 100)
	for _, v := range []string{"hang", "kill"} {
		most("S6", v+": errors", ours, v, "errors", "", 0)
		least("S6", v+": within 25 ms, %", ours, v, "fast", "", 99.5)
		most("S6", v+": p99 / otter without Redis", ours, v, "p99_ms", otterAlone, 1.3)
		most("S6", v+": recovery ms", ours, v, "recovery_ms", "", 500)
	}
	for _, v := range []string{"same instance", "another instance"} {
		most("S7", "deleted by "+v+": stale, %", ours, v, "stale", "", 0)
		most("S7", "deleted by "+v+": stale in a fresh instance, %", ours, v, "stale_fresh", "", 0)
	}
	most("S8", "p50 ms", ours, "connected", "p50_ms", "", 5)
	most("S8", "p99 ms", ours, "connected", "p99_ms", "", 5)
	most("S8", "channel cut: ms (StaleAtMost 1 s and the store's budget)", ours, "cut", "p50_ms", "", 1100)
	for _, v := range []string{hotAllowed, manyKeys} {
		least("L1", v+": throughput / the same script", limiters.Unremembered, v, "kops", limiters.Script, 0.95)
		least("L1", v+": throughput / redis_rate", limiters.Unremembered, v, "kops", limiters.RedisRate, 2)
	}
	least("L1", hotRefused+": throughput / not remembered", limiters.Ours, hotRefused, "kops", limiters.Unremembered, 50)
	least("L1", hotRefused+": throughput / the same script", limiters.Ours, hotRefused, "kops", limiters.Script, 50)
	least("L1", hotAllowed+", ahead: throughput / the same script", limiters.Ahead, hotAllowed, "kops", limiters.Script, 10)
	most("L1", hotAllowed+": errors", limiters.Unremembered, hotAllowed, "errors", "", 0)
	most("L2", "three limits: server time / one", threeLimits, "g=1", "best_usec", ours, 2)
	return all
}

// targetTable compares the targets with what was measured.
func targetTable(reports map[string]*report) string {
	var b strings.Builder
	b.WriteString("| | target | measured | |\n|---|---:|---:|---|\n")
	for _, t := range targets() {
		r := reports[t.scenario]
		if r == nil {
			continue
		}
		got := r.value(t.cache, t.column)
		sign, ok := "≤", got <= t.want
		if t.atLeast {
			sign, ok = "≥", got >= t.want
		}
		verdict := "met"
		switch {
		case math.IsNaN(got):
			verdict = "not measured"
		case !ok:
			verdict = "**missed**"
		}
		fmt.Fprintf(&b, "| %s %s | %s %s | %s | %s |\n", t.scenario, t.what, sign, short(t.want), short(got), verdict)
	}
	return b.String()
}

func short(v float64) string {
	if v == math.Trunc(v) || math.Abs(v) >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
