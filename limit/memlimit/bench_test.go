package memlimit_test

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/memlimit"
)

// yardstick is a limiter that does nothing but limit: GCRA by compare and swap, in sharded maps that grow for ever. It checks no
// input, and says nothing but yes or no.
type yardstick struct {
	start               time.Time
	interval, tolerance int64
	seed                maphash.Seed
	shards              [64]struct {
		mu   sync.RWMutex
		tats map[string]*atomic.Int64
		_    [64]byte
	}
}

func newYardstick(n int64, per time.Duration) *yardstick {
	y := &yardstick{start: time.Now(), interval: int64(per) / n, tolerance: int64(per), seed: maphash.MakeSeed()}
	for i := range y.shards {
		y.shards[i].tats = map[string]*atomic.Int64{}
	}
	return y
}

func (y *yardstick) allow(key string) bool {
	sh := &y.shards[maphash.String(y.seed, key)%uint64(len(y.shards))]
	sh.mu.RLock()
	tat := sh.tats[key]
	sh.mu.RUnlock()
	if tat == nil {
		sh.mu.Lock()
		if tat = sh.tats[key]; tat == nil {
			tat = new(atomic.Int64)
			sh.tats[strings.Clone(key)] = tat
		}
		sh.mu.Unlock()
	}
	now := int64(time.Since(y.start))
	for {
		old := tat.Load()
		next := max(old, now) + y.interval
		if next-now > y.tolerance {
			return false
		}
		if tat.CompareAndSwap(old, next) {
			return true
		}
	}
}

// The ratios of these rows are what counts: each pair runs on the same keys, side by side.
//
//	go test -run - -bench Decide -count 10 ./limit/memlimit
func BenchmarkDecide(b *testing.B) {
	ctx := context.Background()
	many := make([]string, 100_000)
	for i := range many {
		many[i] = fmt.Sprintf("user:%06d", i)
	}
	for _, row := range []struct {
		name string
		n    int64
		keys []string
	}{
		{"hot-allowed", 1_000_000, many[:1]},
		{"hot-refused", 1, many[:1]},
		{"100k-keys", 1000, many},
	} {
		per := time.Second
		if row.n == 1 {
			per = time.Hour
		}
		run := func(name string, allow func(key string) bool) {
			b.Run(row.name+"/"+name, func(b *testing.B) {
				for _, key := range row.keys {
					allow(key)
				}
				b.ReportAllocs()
				b.SetParallelism(32)
				b.RunParallel(func(pb *testing.PB) {
					i := rand.IntN(len(row.keys))
					for pb.Next() {
						if i++; i >= len(row.keys) {
							i = 0
						}
						allow(row.keys[i])
					}
				})
			})
		}
		run("yardstick", newYardstick(row.n, per).allow)

		p := limit.MustPolicy("p", limit.Spec{Limit: row.n, Period: per})
		s := memlimit.New(memlimit.Options{})
		run("store", func(key string) bool {
			st, _ := s.Take(ctx, limit.Charge{Policy: p, Key: key, Cost: 1})
			return st.Fits
		})
		l, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
		if err != nil {
			b.Fatal(err)
		}
		run("limiter", func(key string) bool { return l.Allow(ctx, p, key) })
	}
}

func BenchmarkDecideThree(b *testing.B) {
	ctx := context.Background()
	l, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var p [3]*limit.Policy
	for i := range p {
		p[i] = limit.MustPolicy(fmt.Sprint("p", i), limit.Spec{Limit: 1_000_000, Period: time.Second})
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, _ = l.Decide(ctx, limit.Request{Policy: p[0], Key: "t"}, limit.Request{Policy: p[1], Key: "t"}, limit.Request{Policy: p[2], Key: "t"})
		}
	})
}
