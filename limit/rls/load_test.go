package rls_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/memlimit"
	"github.com/freshetdev/freshet/limit/rls"
)

// crowd lets all clients at once ask so many times for the same, and returns how often they were admitted.
func crowd(t *testing.T, clients []ratelimitv3.RateLimitServiceClient, times int, req *ratelimitv3.RateLimitRequest) int64 {
	t.Helper()
	var sum atomic.Int64
	var all sync.WaitGroup
	for _, client := range clients {
		all.Go(func() {
			for range times {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				resp, err := client.ShouldRateLimit(ctx, req)
				cancel()
				if err != nil {
					t.Error(err)
					return
				}
				if resp.GetOverallCode() == ok {
					sum.Add(1)
				}
			}
		})
	}
	all.Wait()
	return sum.Load()
}

// admits checks that 64 clients of several servers, over stores that count together, get exactly what there is.
func admits(t *testing.T, open func() limit.Store) {
	const text = `
domain: d
descriptors:
- key: gcra
  rate_limit: { unit: year, requests_per_unit: 500 }
- key: strict
  rate_limit: { unit: year, requests_per_unit: 500, algorithm: strict }
- key: fixed
  rate_limit: { unit: year, requests_per_unit: 500, algorithm: fixed }
- key: other
  rate_limit: { unit: year, requests_per_unit: 400, algorithm: strict }
`
	var clients []ratelimitv3.RateLimitServiceClient
	for range 4 {
		l, err := limit.New(open(), limit.Options{Timeout: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		s, err := rls.NewServer(l, config(t, text), rls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		target := serve(t, s).Target()
		for range 16 { // 64 in all, each with a connection of its own
			conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			clients = append(clients, ratelimitv3.NewRateLimitServiceClient(conn))
		}
	}
	for _, key := range []string{"gcra", "strict", "fixed"} {
		if got := crowd(t, clients, 10, request("d", descriptor(key))); got != 500 {
			t.Errorf("%s: %d admitted; want 500", key, got)
		}
	}
	// Two limits: the lower one says how many, and the other isn't charged for those refused.
	if got := crowd(t, clients, 8, request("d", descriptor("gcra=2"), descriptor("other=2"))); got != 400 {
		t.Errorf("two limits: %d admitted; want 400", got)
	}
	if got := crowd(t, clients, 8, request("d", descriptor("gcra=2"))); got != 100 {
		t.Errorf("after two limits: %d admitted; want the 100 that were left", got)
	}
	// More than are there at a time.
	if got := crowd(t, clients, 2, request("d", descriptor("strict=2", hits(7)))); got != 71 {
		t.Errorf("7 hits each: %d admitted; want 71", got)
	}
}

// A shared store is closed by nobody but its owner.
type shared struct{ limit.Store }

func (shared) Close() error { return nil }

func TestExactlyN(t *testing.T) {
	store := memlimit.New(memlimit.Options{})
	defer store.Close()
	admits(t, func() limit.Store { return shared{store} })
}

// TestReload replaces the Config while clients ask: each request is decided by one of them as a whole, nothing is forgotten, and
// what was set last holds in the end.
func TestReload(t *testing.T) {
	text := func(n int) string {
		return fmt.Sprintf(`
domain: d
descriptors:
- key: a
  rate_limit: { unit: year, requests_per_unit: %d, algorithm: strict, name: a%[1]d }
- key: b
  rate_limit: { unit: year, requests_per_unit: %[1]d, algorithm: strict, name: b%[1]d }
- key: used
  rate_limit: { unit: year, requests_per_unit: %[1]d, algorithm: strict, name: used }
`, n)
	}
	r := newRigWith(t, text(1000), rls.Options{}, limit.Options{}, memlimit.New(memlimit.Options{}))
	ctx, stop := context.WithCancel(t.Context())
	var clients, setter sync.WaitGroup
	setter.Go(func() {
		two := []*rls.Config{config(t, text(1000)), config(t, text(1001))}
		for i := 0; ctx.Err() == nil; i++ {
			if err := r.server.SetConfig(two[i%2]); err != nil {
				t.Error(err)
			}
			// One that is wrong changes nothing.
			if err := r.server.SetConfig(&rls.Config{Domains: []rls.Domain{{}}}); err == nil {
				t.Error("no error for an empty domain")
			}
		}
	})
	var used atomic.Int64
	for range 8 {
		clients.Go(func() {
			for i := range 100 {
				resp, err := r.client.ShouldRateLimit(ctx, request("d", descriptor("a", hits(0)), descriptor("b", hits(0))))
				if err != nil {
					t.Error(err)
					return
				}
				a, b := resp.GetStatuses()[0].GetCurrentLimit(), resp.GetStatuses()[1].GetCurrentLimit()
				if n := a.GetRequestsPerUnit(); n != b.GetRequestsPerUnit() || n != 1000 && n != 1001 || a.GetName() != fmt.Sprint("a", n) || b.GetName() != fmt.Sprint("b", n) {
					t.Errorf("%v beside %v; want both of one Config", a, b)
				}
				if i%10 == 0 {
					if resp, err = r.client.ShouldRateLimit(ctx, request("d", descriptor("used"))); err != nil || resp.GetOverallCode() != ok {
						t.Errorf("%v, %v; want OK", resp, err)
					}
					used.Add(1)
				}
			}
		})
	}
	clients.Wait()
	stop()
	setter.Wait()
	if err := r.server.SetConfig(config(t, text(100))); err != nil {
		t.Fatal(err)
	}
	resp := r.ask(request("d", descriptor("used", hits(0))))
	if st := resp.GetStatuses()[0]; int64(st.GetLimitRemaining()) != 100-used.Load() || st.GetCurrentLimit().GetRequestsPerUnit() != 100 {
		t.Errorf("%v; want %d of 100 remaining", st, 100-used.Load())
	}
}
