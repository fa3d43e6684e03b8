package rls_test

import (
	"fmt"
	"strings"
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

// TestSlotByCluster: in a Redis Cluster, the descriptors of a request that share the value of slot_by are decided by one script, of
// one server; others by a script each. Either way, one that refuses costs the others nothing.
func TestSlotByCluster(t *testing.T) {
	g := testenv.Cluster(t)
	const config = `
descriptors:
- key: tenant
  rate_limit: { unit: year, requests_per_unit: 9, algorithm: strict }
  descriptors:
  - key: user
    rate_limit: { unit: year, requests_per_unit: 9, algorithm: strict }
- key: route
  rate_limit: { unit: year, requests_per_unit: 2, algorithm: strict }
  descriptors:
  - key: tenant
    rate_limit: { unit: year, requests_per_unit: 2, algorithm: strict }
`
	open := func() limit.Store { // linked to all three
		store := openRedis(t, g.URL())
		p := limit.MustPolicy("connected", limit.Spec{Limit: 1, Period: time.Second})
		for i, end := 0, time.Now().Add(30*time.Second); i < 100; {
			switch err := store.Peek(t.Context(), []limit.Charge{{Policy: p, Key: fmt.Sprint(i)}}, make([]limit.Status, 1)); {
			case err == nil:
				i++
			case time.Now().After(end):
				t.Fatal(err)
			default:
				time.Sleep(time.Millisecond)
			}
		}
		return store
	}
	scripts := func() (n int) {
		for _, s := range g.Servers[:3] {
			for _, line := range strings.Split(s.CLI(t, "INFO", "commandstats"), "\n") {
				var calls int
				if _, err := fmt.Sscanf(line, "cmdstat_evalsha:calls=%d,", &calls); err == nil {
					n += calls
				}
			}
		}
		return n
	}
	for _, c := range []struct {
		name, slotBy string
		scripts      int
	}{{"with slot_by", "slot_by: tenant", 1}, {"without", "", 3}} {
		t.Run(c.name, func(t *testing.T) {
			domain := strings.Fields(c.name)[0]
			r := newRigWith(t, "domain: "+domain+"\n"+c.slotBy+config, rls.Options{}, limit.Options{Timeout: 10 * time.Second, BreakAfter: -1, RefusedKeys: -1}, open())
			ask := func(want ratelimitv3.RateLimitResponse_Code, left ...uint32) {
				t.Helper()
				resp := r.ask(request(domain, descriptor("tenant=acme"), descriptor("tenant=acme,user=ann"), descriptor("route=x,tenant=acme")))
				var got []uint32
				for _, s := range resp.GetStatuses() {
					got = append(got, s.GetLimitRemaining())
				}
				if resp.GetOverallCode() != want || fmt.Sprint(got) != fmt.Sprint(left) {
					t.Errorf("%v %v; want %v %v", resp.GetOverallCode(), got, want, left)
				}
			}
			ask(ok, 8, 8, 1) // the servers learn the script
			before := scripts()
			ask(ok, 7, 7, 0)
			if got := scripts() - before; got != c.scripts {
				t.Errorf("%d scripts for a request; want %d", got, c.scripts)
			}
			for range 3 {
				ask(over, 7, 7, 0)
			}
		})
	}
}
