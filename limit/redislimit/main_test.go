package redislimit

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
)

func TestMain(m *testing.M) {
	testenv.RunChildRole(map[string]func([]string) int{"taker": taker})
	goleak.VerifyTestMain(m)
}

// open returns a store that is connected.
func open(t testing.TB, url string) *Store {
	t.Helper()
	s, err := Open(url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	connected(t, s)
	return s
}

func connected(t testing.TB, s *Store) {
	t.Helper()
	eventually(t, "the store is connected", func() bool {
		for i := range 24 { // in a Cluster they lie on all nodes
			if _, err := s.Take(t.Context(), limit.Charge{Policy: anything, Key: strconv.Itoa(time.Now().Nanosecond()) + strconv.Itoa(i)}); err != nil {
				return false
			}
		}
		return true
	})
}

var anything = limit.MustPolicy("anything", limit.Spec{Limit: 1, Period: time.Second})

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// everythingExpires scans all keys of a server for one without an expiry.
func everythingExpires(t testing.TB, srv *testenv.RedisServer) {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{srv.Addr()}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var cursor uint64
	for {
		page, err := c.Do(t.Context(), c.B().Scan().Cursor(cursor).Match("*limit:*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			t.Fatal(err)
		}
		var cmds []rueidis.Completed
		for _, key := range page.Elements {
			cmds = append(cmds, c.B().Pttl().Key(key).Build())
		}
		for i, res := range c.DoMulti(t.Context(), cmds...) {
			if left, err := res.AsInt64(); err != nil || left == -1 {
				t.Errorf("%q has no expiry: %v", page.Elements[i], err)
			}
		}
		if cursor = page.Cursor; cursor == 0 {
			return
		}
	}
}

func take(t testing.TB, s *Store, p *limit.Policy, key string, cost int64) limit.Status {
	t.Helper()
	st, err := s.Take(t.Context(), limit.Charge{Policy: p, Key: key, Cost: cost, Lease: newID()})
	if err != nil {
		t.Fatalf("take of %s %q: %v", p.Name(), key, err)
	}
	return st
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func sprint(s limit.Status) string {
	return fmt.Sprintf("remaining %d retry %v more %v reset %v at %d fits %t charged %t blocked %t", s.Remaining, s.RetryAfter, s.MoreAfter, s.ResetAfter, s.At, s.Fits, s.Charged, s.Blocked)
}
