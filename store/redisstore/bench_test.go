package redisstore

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/testenv"
)

// BenchmarkRead compares grouped reads with a GET each: GOMAXPROCS does not matter, the
// number of callers does.
func BenchmarkRead(b *testing.B) {
	srv := testenv.Redis(b)
	s := open(b, srv.URL(), roomy)
	value := make([]byte, 200)
	for i := range value {
		value[i] = 'x'
	}
	srv.CLI(b, "SET", "k", string(value))
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{srv.Addr()}, DisableCache: true, AlwaysPipelining: true, PipelineMultiplex: -1, ForceSingleClient: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	keys := []string{"k"}
	for _, callers := range []int{1, 8, 64, 512} {
		name := map[int]string{1: "1", 8: "8", 64: "64", 512: "512"}[callers]
		b.Run("grouped/callers="+name, func(b *testing.B) {
			b.ReportAllocs()
			share(b, callers, func() error { _, err := s.Read(ctx, keys, false); return err })
		})
		b.Run("rueidis/callers="+name, func(b *testing.B) {
			b.ReportAllocs()
			share(b, callers, func() error { return c.Do(ctx, c.B().Get().Key("k").Build()).Error() })
		})
	}
}

func share(b *testing.B, callers int, f func() error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	before := cpu()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// cpu is what this process used: on a shared machine it says more than the clock.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
