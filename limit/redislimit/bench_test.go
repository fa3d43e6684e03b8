package redislimit

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
)

var roomy = limit.MustPolicy("roomy", limit.Spec{Limit: 1_000_000, Period: time.Second, Burst: 1_000_000_000, Debt: 1})

// BenchmarkTake is one decision on one hot key, of 64 callers: by the script alone, by the store, and by a Limiter.
func BenchmarkTake(b *testing.B) {
	srv := testenv.Redis(b)
	s := open(b, srv.URL())
	l, err := limit.New(open(b, srv.URL()), limit.Options{Timeout: time.Second, BreakAfter: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{srv.Addr()}, DisableCache: true})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	script := rueidis.NewLuaScript(luaGCRA)
	args := s.argsOf(roomy)
	for _, c := range []struct {
		name string
		f    func(ctx context.Context) bool
	}{
		{"script", func(ctx context.Context) bool {
			n, err := script.Exec(ctx, client, []string{"limit:g:{roomy:k}"}, args.one[:]).AsInt64()
			return err == nil && n >= 0
		}},
		{"store", func(ctx context.Context) bool {
			st, err := s.Take(ctx, limit.Charge{Policy: roomy, Key: "k", Cost: 1})
			return err == nil && st.Charged
		}},
		{"limiter", func(ctx context.Context) bool { return l.Allow(ctx, roomy, "k") }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32) // times GOMAXPROCS
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if !c.f(context.Background()) {
						b.Error("refused")
					}
				}
			})
		})
	}
}

// BenchmarkServer is the server's time of a decision, in µs by INFO commandstats, in the best 200 in a row: when nobody else got the processor.
//
//	go test -run - -bench Server -benchtime 4000x ./limit/redislimit
func BenchmarkServer(b *testing.B) {
	srv := testenv.Redis(b)
	s := open(b, srv.URL())
	spent := func() (calls, us float64) {
		for _, line := range strings.Split(srv.CLI(b, "INFO", "commandstats"), "\n") {
			if _, err := fmt.Sscanf(line, "cmdstat_evalsha:calls=%f,usec=%f", &calls, &us); err == nil {
				return calls, us
			}
		}
		return 0, 0
	}
	penalty := limit.Penalty{After: 10, Within: time.Minute, Block: time.Minute}
	for _, c := range []struct {
		name   string
		spec   limit.Spec
		shadow bool
	}{
		{"gcra", limit.Spec{Limit: 1_000_000, Period: time.Second, Burst: 1_000_000_000, Debt: 1}, false},
		{"gcra-shadow", limit.Spec{Limit: 1_000_000, Period: time.Second, Burst: 1_000_000_000, Debt: 1}, true},
		{"gcra-penalty", limit.Spec{Limit: 1_000_000, Period: time.Second, Burst: 1_000_000_000, Debt: 1, Penalty: penalty}, false},
		{"gcra-refused-penalty", limit.Spec{Limit: 1, Period: time.Hour, Penalty: penalty}, false},
		{"strict-1000", limit.Spec{Kind: limit.Strict, Limit: 1_000_000_000, Period: time.Second}, false},
		{"strict-100", limit.Spec{Kind: limit.Strict, Limit: 100, Period: time.Second}, false},
		{"fixed-day", limit.Spec{Kind: limit.Fixed, Limit: 1_000_000_000, Calendar: limit.Day}, false},
		{"fixed-refused", limit.Spec{Kind: limit.Fixed, Limit: 1, Calendar: limit.Year}, false},
		{"concurrency", limit.Spec{Kind: limit.Concurrency, Limit: 1_000_000, TTL: 10 * time.Millisecond}, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := limit.MustPolicy(c.name, c.spec)
			n, best := 0, math.Inf(1)
			calls, us := spent()
			for b.Loop() {
				charge := limit.Charge{Policy: p, Key: "k", Cost: 1, Shadow: c.shadow}
				binary.BigEndian.PutUint64(charge.Lease[:], uint64(n))
				if _, err := s.Take(b.Context(), charge); err != nil {
					b.Fatal(err)
				}
				if n++; n%200 == 0 {
					c, u := spent()
					if c > calls {
						best = min(best, (u-us)/(c-calls))
					}
					calls, us = c, u
				}
			}
			b.ReportMetric(best, "µs/script")
			b.ReportMetric(0, "ns/op")
		})
	}
}
