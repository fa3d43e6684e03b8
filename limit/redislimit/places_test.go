package redislimit

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
)

// TestSentinel: after a failover the new primary decides, and no call was charged twice.
func TestSentinel(t *testing.T) {
	t.Parallel()
	g := testenv.Sentinel(t)
	s := open(t, g.URL())
	take(t, s, forEver, "before", 2)
	old := g.Primary(t)
	old.WaitReplicas(t, g.Replicas(t)...)
	var wg sync.WaitGroup
	const n = 2000
	wg.Go(func() { onceEach(t, s, forEver, n, time.Second, 10*time.Millisecond) })
	time.Sleep(100 * time.Millisecond)
	g.Failover(t)
	wg.Wait()
	connected(t, s)
	if g.Primary(t) == old {
		t.Fatal("there was no failover")
	}
	if st := take(t, s, forEver, "before", 1); st.Remaining != 2 {
		t.Errorf("%d remain; want 2", st.Remaining)
	}
	used(t, s, forEver, n)
	everythingExpires(t, g.Primary(t))
}

// TestCluster: slots, tags, redirections while a slot moves, and a failover.
func TestCluster(t *testing.T) {
	t.Parallel()
	g := testenv.Cluster(t)
	s := open(t, g.URL())
	user := limit.MustPolicy("user", limit.Spec{Limit: 5, Period: long})
	tenant := limit.MustPolicy("tenant", limit.Spec{Kind: limit.Strict, Limit: 3, Period: long, Penalty: limit.Penalty{After: 100, Within: time.Hour, Block: time.Hour}})
	slots := limit.MustPolicy("slots", limit.Spec{Kind: limit.Concurrency, Limit: 4, TTL: time.Hour})

	t.Run("slots", func(t *testing.T) {
		for _, key := range []string{"", "a", "{t}a", "{}a", "{x", "é"} {
			name := s.stateName(user, key)
			if got := g.Servers[0].CLI(t, "CLUSTER", "KEYSLOT", name); got != fmt.Sprint(s.Slot(user, key)) {
				t.Errorf("the slot of %q is %s; Slot says %d", name, got, s.Slot(user, key))
			}
		}
		if s.Slot(user, "{t}a") != s.Slot(tenant, "{t}b") {
			t.Error("keys with the same tag are in different slots")
		}
	})
	t.Run("together", func(t *testing.T) {
		for i := range 12 {
			tag := fmt.Sprintf("{t%d}", i)
			charges := []limit.Charge{{Policy: user, Key: tag + "u", Cost: 1}, {Policy: tenant, Key: tag, Cost: 1}, {Policy: slots, Key: tag, Cost: 1, Lease: newID()}}
			out := make([]limit.Status, 3)
			for n := range 4 {
				if err := s.TakeAll(t.Context(), charges, out); err != nil {
					t.Fatal(err)
				}
				for j := range out {
					if out[j].Charged != (n < 3) {
						t.Errorf("try %d: %s", n, sprint(out[j]))
					}
				}
				charges[2].Lease = newID()
			}
			if out[0].Remaining != 2 || out[1].Fits || out[2].Remaining != 1 {
				t.Errorf("got %+v", out)
			}
		}
	})
	t.Run("elsewhere", func(t *testing.T) {
		// A table that is wrong in every slot: the answers say where to go.
		old := s.many.table.Load()
		wrong := *old
		for i := range wrong.at {
			wrong.at[i] = old.at[(i+8000)%len(old.at)]
		}
		s.many.table.Store(&wrong)
		const n = 60
		answered, _, failed := onceEach(t, s, limit.MustPolicy("elsewhere", limit.Spec{Limit: 5, Period: long}), n, 5*time.Second, 0)
		for i := range answered {
			if !answered[i] {
				t.Fatalf("key %d: %v", i, failed)
			}
		}
		for i, charged := range used(t, s, limit.MustPolicy("elsewhere", limit.Spec{Limit: 5, Period: long}), n) {
			if !charged {
				t.Errorf("key %d isn't charged", i)
			}
		}
	})
	t.Run("a slot moves", func(t *testing.T) {
		var keys []string
		for i := range 40 {
			keys = append(keys, fmt.Sprintf("{moving}%d", i))
			take(t, s, user, keys[i], 1)
		}
		charge := func(want int64) {
			t.Helper()
			for _, key := range keys {
				if st := take(t, s, user, key, 1); st.Remaining != want {
					t.Errorf("%s: %d remain; want %d", key, st.Remaining, want)
				}
			}
		}
		g.Migrate(t, s.stateName(user, keys[0]), func() { charge(3) })
		charge(2)
	})
	t.Run("failover", func(t *testing.T) {
		p := limit.MustPolicy("failover", limit.Spec{Limit: 5, Period: long})
		take(t, s, p, "kept", 2)
		old := g.Primary(t, s.stateName(p, "kept"))
		var wg sync.WaitGroup
		const n = 1000
		wg.Go(func() { onceEach(t, s, p, n, time.Second, 5*time.Millisecond) })
		time.Sleep(50 * time.Millisecond)
		g.Failover(t, old)
		wg.Wait()
		eventually(t, "the new primary decides", func() bool {
			_, err := s.Take(t.Context(), limit.Charge{Policy: p, Key: "kept", Cost: 0})
			return err == nil
		})
		if st := take(t, s, p, "kept", 1); st.Remaining != 2 {
			t.Errorf("%d remain; want 2", st.Remaining)
		}
		used(t, s, p, n)
	})
	for _, srv := range g.Servers {
		if strings.HasPrefix(srv.CLI(t, "ROLE"), "master") {
			everythingExpires(t, srv)
		}
	}
	t.Run("check", func(t *testing.T) {
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
		for _, srv := range g.Servers {
			srv.CLI(t, "CONFIG", "SET", "maxmemory", "1gb")
			srv.CLI(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
		}
		if err := s.Check(t.Context()); !errors.Is(err, ErrEvicts) {
			t.Errorf("got %v; want ErrEvicts", err)
		}
	})
}

// TestClusterDown: no node answers at first.
func TestClusterDown(t *testing.T) {
	t.Parallel()
	s, err := Open("redis+cluster://127.0.0.1:1,127.0.0.1:2", Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Take(t.Context(), limit.Charge{Policy: forEver, Key: "k", Cost: 1})
	if !errors.Is(err, limit.ErrUnavailable) {
		t.Errorf("got %v; want ErrUnavailable", err)
	}
	s.Close()
	if _, err = s.Take(t.Context(), limit.Charge{Policy: forEver, Key: "k", Cost: 1}); !errors.Is(err, limit.ErrClosed) {
		t.Errorf("got %v; want ErrClosed", err)
	}
}
