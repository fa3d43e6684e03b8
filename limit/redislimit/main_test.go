package redislimit

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

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
		_, err := s.Take(t.Context(), limit.Charge{Policy: anything, Key: strconv.Itoa(time.Now().Nanosecond())})
		return err == nil
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

// everythingExpires scans all keys of a server for one without an expiry, and returns their number.
func everythingExpires(t testing.TB, srv *testenv.RedisServer) int {
	t.Helper()
	out := srv.CLI(t, "EVAL", `
		local found, cursor, n = {}, '0', 0
		repeat
			local page = redis.call('SCAN', cursor, 'MATCH', '*limit:*', 'COUNT', 1000)
			cursor = page[1]
			for _, key in ipairs(page[2]) do
				n = n + 1
				if redis.call('PTTL', key) == -1 then found[#found + 1] = key end
			end
		until cursor == '0'
		return n .. ' ' .. table.concat(found, ' ')`, "0")
	n, eternal, _ := strings.Cut(out, " ")
	if eternal != "" {
		t.Errorf("keys without an expiry: %s", eternal)
	}
	count, err := strconv.Atoi(n)
	if err != nil {
		t.Fatal(err)
	}
	return count
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
