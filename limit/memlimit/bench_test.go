package memlimit_test

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
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

func newYardstick(n int64, per time.Duration, burst int64) *yardstick {
	interval := int64(per) / n
	y := &yardstick{start: time.Now(), interval: interval, tolerance: burst * interval, seed: maphash.MakeSeed()}
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

// Each row is 64 goroutines on the same keys. The contestants take turns of a few milliseconds each, so what else the machine does hits all of
// them, and "x" is the median, over all turns, of the yardstick's time by that of the contestant's next turn: 0.9 is 0.9 of its throughput.
//
//	go test -run - -bench Decide$ -benchtime 200x ./limit/memlimit
func BenchmarkDecide(b *testing.B) {
	ctx := context.Background()
	many := make([]string, 100_000)
	for i := range many {
		many[i] = fmt.Sprintf("user:%06d", i)
	}
	for _, row := range []struct {
		name  string
		n     int64
		per   time.Duration
		burst int64
		keys  []string
	}{
		{"hot-allowed", 1_000_000, time.Second, 1_000_000_000_000, many[:1]},
		{"hot-refused", 1, time.Hour, 1, many[:1]},
		{"100k-keys", 1000, time.Second, 1000, many},
	} {
		b.Run(row.name, func(b *testing.B) {
			p := limit.MustPolicy("p", limit.Spec{Limit: row.n, Period: row.per, Burst: row.burst})
			s := memlimit.New(memlimit.Options{})
			l, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			contestants := []struct {
				name  string
				allow func(key string) bool
				ns    []float64
			}{
				{name: "yardstick", allow: newYardstick(row.n, row.per, row.burst).allow},
				{name: "store", allow: func(key string) bool {
					st, _ := s.Take(ctx, limit.Charge{Policy: p, Key: key, Cost: 1})
					return st.Fits
				}},
				{name: "limiter", allow: func(key string) bool { return l.Allow(ctx, p, key) }},
				{name: "decision", allow: func(key string) bool {
					d, _ := l.Decide(ctx, limit.Request{Policy: p, Key: key})
					return d.Allowed
				}},
			}
			for _, c := range contestants {
				for _, key := range row.keys {
					c.allow(key)
				}
			}
			for b.Loop() {
				for i := range contestants {
					c := &contestants[i]
					c.ns = append(c.ns, turn(row.keys, c.allow))
				}
			}
			for _, c := range contestants {
				var x []float64
				for i, ns := range c.ns {
					x = append(x, contestants[0].ns[i]/ns)
				}
				slices.Sort(x)
				slices.Sort(c.ns)
				b.ReportMetric(c.ns[len(c.ns)/2], "ns/"+c.name)
				b.ReportMetric(x[len(x)/2], "x/"+c.name)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// turn is the time, in ns, of one of many calls by 64 goroutines.
func turn(keys []string, allow func(key string) bool) float64 {
	const callers, calls = 64, 1500
	var wg sync.WaitGroup
	began := time.Now()
	for range callers {
		i := rand.IntN(len(keys))
		wg.Go(func() {
			for range calls {
				if i++; i >= len(keys) {
					i = 0
				}
				allow(keys[i])
			}
		})
	}
	wg.Wait()
	return float64(time.Since(began).Nanoseconds()) / callers / calls
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
