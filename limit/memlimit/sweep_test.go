package memlimit

import (
	"fmt"
	"math/rand/v2"
	"slices"
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
	s.fake = now.Load
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

// What finds an entry that was just swept must not charge it: it waits until the key can be looked up again.
func TestDeadEntryIsNotCharged(t *testing.T) {
	p := limit.MustPolicy("p", limit.Spec{Limit: 5, Period: time.Hour})
	q := limit.MustPolicy("q", limit.Spec{Limit: 5, Period: time.Hour})
	for name, charge := range map[string]func(s *Store) error{
		"take": func(s *Store) error { _, err := s.Take(bg, limit.Charge{Policy: p, Key: "k", Cost: 1}); return err },
		"take all": func(s *Store) error {
			return s.TakeAll(bg, []limit.Charge{{Policy: q, Key: "k", Cost: 1}, {Policy: p, Key: "k", Cost: 1}}, make([]limit.Status, 2))
		},
	} {
		s := New(Options{})
		take(t, s, p, "k", 0)
		hash := s.hash("k")
		sh := &s.route(p).state.gcra[s.shardOf(hash)]
		e, _, _ := sh.insert(s, hash, "k", 0, s.now())
		e.word.Store(dead) // as a sweep does, before it takes the entry out
		done := make(chan error)
		go func() { done <- charge(s) }()
		select {
		case <-done:
			t.Fatalf("%s: it was decided on a dead entry", name)
		case <-time.After(20 * time.Millisecond):
		}
		sh.mu.Lock()
		for i := range sh.table.Load().slots {
			sh.table.Load().slots[i].entry.CompareAndSwap(e, nil)
		}
		sh.mu.Unlock()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if st := take(t, s, p, "k", 0); st.Remaining != 4 {
			t.Errorf("%s: %d remaining; want 4: the charge was lost", name, st.Remaining)
		}
		if e.word.Load() != dead {
			t.Errorf("%s: the dead entry was changed", name)
		}
	}
}

// Decisions over the same keys in all orders must not wait for each other for ever: over GCRA keys of one policy, GCRA policies of one key,
// other kinds, and all at once.
func TestNoDeadlock(t *testing.T) {
	type at struct {
		policy *limit.Policy
		key    string
	}
	var keys, policies, others []at
	for i := range 8 {
		spec := limit.Spec{Limit: 1_000_000, Period: time.Hour}
		keys = append(keys, at{limit.MustPolicy("one", spec), fmt.Sprint("k", i)})
		policies = append(policies, at{limit.MustPolicy(fmt.Sprint("gcra", i), spec), "k"})
	}
	for i, spec := range kinds {
		spec.Limit = 1_000_000
		others = append(others, at{limit.MustPolicy(fmt.Sprint("p", i), spec), "k"})
	}
	for name, set := range map[string][]at{"keys": keys, "policies": policies, "others": others, "all": slices.Concat(keys[:4], policies[:4], others)} {
		s := New(Options{MaxKeys: 10_000})
		done := make(chan struct{})
		go func() {
			defer close(done)
			var all sync.WaitGroup
			for g := range 8 {
				all.Go(func() {
					order := rand.New(rand.NewPCG(uint64(g), 1))
					for i := range 400 {
						var c []limit.Charge
						for _, n := range order.Perm(len(set)) {
							c = append(c, limit.Charge{Policy: set[n].policy, Key: set[n].key, Cost: 1, Lease: limit.ID{byte(g), byte(i % 8)}})
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
			t.Fatalf("%s: they wait for each other", name)
		}
	}
}
