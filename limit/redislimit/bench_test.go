package redislimit

import (
	"context"
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
