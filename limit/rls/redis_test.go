package rls_test

import (
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/redislimit"
	"github.com/freshetdev/freshet/limit/rls"
)

func openRedis(t *testing.T, url string) limit.Store {
	t.Helper()
	store, err := redislimit.Open(url, redislimit.Options{Prefix: "rls:"})
	if err != nil {
		t.Fatal(err)
	}
	// The connection is made in the background.
	p := limit.MustPolicy("connected", limit.Spec{Limit: 1, Period: time.Second})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		err := store.Peek(t.Context(), []limit.Charge{{Policy: p}}, make([]limit.Status, 1))
		switch {
		case err == nil:
			return store
		case time.Now().After(end):
			t.Fatal(err)
		}
	}
}

// TestExactlyNRedis: servers with a store each, over one Redis.
func TestExactlyNRedis(t *testing.T) {
	url := testenv.Redis(t).URL()
	admits(t, func() limit.Store { return openRedis(t, url) })
}

// TestRedis goes once through what the server asks of a store, and a Redis that stops answering.
func TestRedis(t *testing.T) {
	redis := testenv.Redis(t)
	r := newRigWith(t, `
domain: d
descriptors:
- key: deny
  rate_limit: { unit: year, requests_per_unit: 3, algorithm: strict, on_outage: deny }
- key: error
  rate_limit: { unit: year, requests_per_unit: 5, algorithm: fixed }
- key: gcra
  rate_limit: { unit: year, requests_per_unit: 2 }
`, rls.Options{}, limit.Options{Timeout: 10 * time.Second, BreakAfter: -1}, openRedis(t, redis.URL()))
	left := func(wantCode ratelimitv3.RateLimitResponse_Code, want [3]uint32, with ...uint64) {
		t.Helper()
		req := request("d", descriptor("deny"), descriptor("error"), descriptor("gcra"))
		for i, n := range with {
			hits(n)(req.GetDescriptors()[i])
		}
		resp := r.ask(req)
		got := [3]uint32{}
		for i, s := range resp.GetStatuses() {
			got[i] = s.GetLimitRemaining()
		}
		if got != want || resp.GetOverallCode() != wantCode {
			t.Errorf("got %v %v; want %v %v", resp.GetOverallCode(), got, wantCode, want)
		}
	}
	left(ok, [3]uint32{2, 4, 1})
	left(ok, [3]uint32{1, 3, 0})
	left(over, [3]uint32{1, 3, 0}) // gcra refuses, and the others aren't charged
	r.ask(request("d", descriptor("gcra", back(1))))
	left(ok, [3]uint32{0, 2, 0})
	r.ask(request("d", descriptor("deny", back(9)), descriptor("gcra", back(9))))
	left(ok, [3]uint32{3, 2, 2}, 0, 0, 0)
	if keys := redis.CLI(t, "KEYS", "rls:*"); keys == "" {
		t.Error("no keys with the prefix in Redis")
	}

	redis.Kill()
	r.fails(request("d", descriptor("error")), codes.Unavailable, "")
	if got := r.ask(request("d", descriptor("deny"))).GetOverallCode(); got != over {
		t.Errorf("deny: %v; want OVER_LIMIT", got)
	}
}
