package memlimit

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet/limit"
)

// Drawn in table.go: keys that are charged while others sweep them away and come anew. Each key's burst is 1 and flows back at once, so keys are idle most of the time,
// and time is the test's. At each time, each key must be admitted exactly once, whoever asks and whoever sweeps.
func TestSweepLosesNoCharge(t *testing.T) {
	var now atomic.Int64
	now.Store(1_790_000_000_000_000)
	s := New(Options{MaxKeys: 1000}) // one shard, which all sweep
	s.clock = now.Load
	p := limit.MustPolicy("p", limit.Spec{Limit: 1_000_000, Period: time.Second, Burst: 1})
	q := limit.MustPolicy("q", limit.Spec{Limit: 1_000_000, Period: time.Second, Burst: 1})
	for round := range 300 {
		now.Add(idleKept + 10)
		var admitted, single atomic.Int64
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for i := range 20 {
					key := fmt.Sprint("k", i)
					out := make([]limit.Status, 2)
					_ = s.TakeAll(bg, []limit.Charge{{Policy: p, Key: key, Cost: 1}, {Policy: q, Key: key, Cost: 1}}, out)
					if out[0].Charged != out[1].Charged {
						t.Error("one was charged without the other")
					}
					if out[0].Charged {
						admitted.Add(1)
					}
					if take(t, s, p, fmt.Sprintf("single %d", i), 1).Charged {
						single.Add(1)
					}
					take(t, s, p, fmt.Sprint(round, "other", i), 1) // a new key, which sweeps others
				}
			})
		}
		all.Wait()
		if admitted.Load() != 20 || single.Load() != 20 {
			t.Fatalf("round %d: %d and %d admitted; want 20 each", round, admitted.Load(), single.Load())
		}
	}
}

// Decisions over the same keys in all orders, of all kinds, must not wait for each other for ever.
func TestNoDeadlock(t *testing.T) {
	s := New(Options{MaxKeys: 10_000})
	var policies []*limit.Policy
	for i := range 8 {
		policies = append(policies, limit.MustPolicy(fmt.Sprint("gcra", i), limit.Spec{Limit: 1_000_000, Period: time.Hour}))
	}
	for i, spec := range kinds {
		spec.Limit = 1_000_000
		policies = append(policies, limit.MustPolicy(fmt.Sprint("p", i), spec))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all sync.WaitGroup
		for g := range 8 {
			all.Go(func() {
				order := rand.New(rand.NewPCG(uint64(g), 1))
				for i := range 1000 {
					var c []limit.Charge
					for _, n := range order.Perm(len(policies)) {
						c = append(c, limit.Charge{Policy: policies[n], Key: "k", Cost: 1, Lease: limit.ID{byte(g), byte(i % 8)}})
					}
					if err := s.TakeAll(bg, c, make([]limit.Status, len(c))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("they wait for each other")
	}
}
