package memlimit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit"
)

var bg = context.Background()

func take(t testing.TB, s *Store, p *limit.Policy, key string, cost int64) limit.Status {
	t.Helper()
	st, err := s.Take(bg, limit.Charge{Policy: p, Key: key, Cost: cost, Lease: limit.ID{byte(cost)}})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func keys(t testing.TB, s *Store, want int64) {
	t.Helper()
	if got := s.Stats().Keys; got != want {
		t.Errorf("%d keys; want %d", got, want)
	}
}

var kinds = []limit.Spec{
	{Limit: 2, Period: time.Minute},
	{Limit: 2, Period: time.Minute, Penalty: limit.Penalty{After: 100, Within: time.Second, Block: time.Second}},
	{Kind: limit.Strict, Limit: 2, Period: time.Minute},
	{Kind: limit.Strict, Limit: 1000, Period: time.Minute},
	{Kind: limit.Fixed, Limit: 2, Period: time.Minute},
	{Kind: limit.Concurrency, Limit: 2, TTL: time.Minute},
}

// A full store forgets nobody who owes something: an attacker can't buy himself free with made-up keys. With 1100 keys it has two
// shards, and more keys than one search for room looks at.
func TestFullStoreKeepsDebts(t *testing.T) {
	for _, spec := range kinds {
		for _, max := range []int{1, 10, 100, 1100} {
			synctest.Test(t, func(t *testing.T) {
				s := New(Options{MaxKeys: max})
				p := limit.MustPolicy("p", spec)
				for i := range max {
					if st := take(t, s, p, fmt.Sprint("debtor ", i), spec.Limit); !st.Charged {
						t.Fatalf("%v of %d: key %d: %+v", spec.Kind, max, i, st)
					}
				}
				keys(t, s, int64(max))
				for i := range 3 * max {
					if st := take(t, s, p, fmt.Sprint("made up ", i), 1); st.Fits || st.RetryAfter != time.Second {
						t.Fatalf("%v of %d: made-up key %d: %+v; want a refusal", spec.Kind, max, i, st)
					}
				}
				for i := range max {
					if take(t, s, p, fmt.Sprint("debtor ", i), 1).Fits {
						t.Fatalf("%v of %d: debtor %d was forgotten", spec.Kind, max, i)
					}
				}
				if got := s.Stats().Full; got < int64(3*max) { // and more for records of penalties
					t.Errorf("full %d times; want %d at least", got, 3*max)
				}
				// Once the debts are paid, there is place for as many.
				time.Sleep(3 * time.Minute)
				placed := 0
				for i := range max {
					for range 40 { // the search for place goes on where it ended
						if take(t, s, p, fmt.Sprint("new ", i), 1).Charged {
							placed++
							break
						}
					}
				}
				if placed != max {
					t.Errorf("%v of %d: %d new keys have a place after all debts are paid; want all", spec.Kind, max, placed)
				}
				if got := s.Stats().Keys; got > int64(max) {
					t.Errorf("%d keys; want at most %d", got, max)
				}
			})
		}
	}
}

func TestFullAllow(t *testing.T) {
	for _, spec := range kinds {
		s := New(Options{MaxKeys: 1, WhenFull: FullAllow})
		p := limit.MustPolicy("p", spec)
		take(t, s, p, "a", spec.Limit)
		for range 5 {
			if st := take(t, s, p, "b", 1); !st.Fits || st.Charged {
				t.Errorf("%v: %+v; want it admitted, not charged", spec.Kind, st)
			}
		}
		if take(t, s, p, "a", 1).Fits {
			t.Errorf("%v: the key that is there has no limit", spec.Kind)
		}
	}
}

func TestFullStoreAndSeveral(t *testing.T) {
	for _, spec := range kinds {
		s := New(Options{MaxKeys: 2})
		p := limit.MustPolicy("p", spec)
		q := limit.MustPolicy("q", limit.Spec{Limit: 10, Period: time.Hour})
		take(t, s, q, "a", 1)
		take(t, s, p, "a", spec.Limit/2)
		out := make([]limit.Status, 2)
		for _, c := range [][]limit.Charge{
			{{Policy: q, Key: "a", Cost: 1}, {Policy: p, Key: "new", Cost: 1, Lease: limit.ID{9}}},
			{{Policy: p, Key: "new", Cost: 1, Lease: limit.ID{9}}, {Policy: q, Key: "a", Cost: 1}},
		} {
			if err := s.TakeAll(bg, c, out); err != nil {
				t.Fatal(err)
			}
			for i := range out {
				if out[i].Key != c[i].Key || out[i].Charged || out[i].Fits != (c[i].Key == "a") {
					t.Errorf("%v: %+v; want the new key refused, and nothing charged", spec.Kind, out[i])
				}
			}
		}
		if st := take(t, s, q, "a", 1); st.Remaining != 8 {
			t.Errorf("%v: %+v; want 8 remaining", spec.Kind, st)
		}
		if err := s.Adjust(bg, []limit.Adjustment{{Policy: p, Key: "new", Units: 1}}, out[:1]); spec.Kind != limit.Concurrency && (err == nil || !strings.Contains(err.Error(), `memlimit: adjust "new": the store is full: 2 keys`)) {
			t.Errorf("%v: adjust: %v; want it to say that the store is full", spec.Kind, err)
		}
		if err := s.Renew(bg, p, "new", limit.ID{9}); !errors.Is(err, limit.ErrLeaseLost) {
			t.Errorf("%v: renew: %v; want ErrLeaseLost", spec.Kind, err)
		}
		if err := s.Release(bg, p, "new", limit.ID{9}); err != nil {
			t.Errorf("%v: release: %v", spec.Kind, err)
		}
		keys(t, s, 2)
	}
}

// Keys are counted right, however they come and go.
func TestKeysAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, spec := range kinds {
			s := New(Options{MaxKeys: 1000})
			p := limit.MustPolicy("p", spec)
			var all sync.WaitGroup
			for g := range 4 {
				all.Go(func() {
					for i := range 300 {
						key := fmt.Sprint(i % 100)
						take(t, s, p, key, 1)
						if i%7 == g {
							_ = s.Reset(bg, p, key)
						}
						_ = s.TakeAll(bg, []limit.Charge{{Policy: p, Key: key, Cost: 1}, {Policy: p, Key: "x" + key, Cost: 1}}, make([]limit.Status, 2))
					}
				})
			}
			all.Wait()
			for i := range 100 {
				for _, key := range []string{fmt.Sprint(i), fmt.Sprint("x", i)} {
					if err := s.Reset(bg, p, key); err != nil {
						t.Fatal(err)
					}
				}
			}
			keys(t, s, 0)
		}
	})
}

// What owes nothing makes place as new keys come, long before the store is full.
func TestIdleKeysMakePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, spec := range kinds {
			s := New(Options{})
			p := limit.MustPolicy("p", spec)
			for round := range 10 {
				for i := range 2000 {
					take(t, s, p, fmt.Sprintf("%d/%d", round, i), spec.Limit)
				}
				time.Sleep(3 * time.Minute)
			}
			if got := s.Stats().Keys; got > 6000 {
				t.Errorf("%v: %d keys after ten times 2000, of which 2000 owe something at a time; want at most 6000", spec.Kind, got)
			}
		}
	})
}

// The new keys of one decision don't sweep each other away, neither those of one shard nor for want of room.
func TestNewKeysOfOneDecision(t *testing.T) {
	p := limit.MustPolicy("p", limit.Spec{Limit: 2, Period: time.Minute})
	for _, max := range []int{1, 15, 16, 1000} {
		for range 100 { // seeds of the hash
			s := New(Options{MaxKeys: max})
			var c []limit.Charge
			for i := range 16 {
				c = append(c, limit.Charge{Policy: p, Key: fmt.Sprint(i), Cost: 1})
			}
			out := make([]limit.Status, len(c))
			if err := s.TakeAll(bg, c, out); err != nil {
				t.Fatal(err)
			}
			for i := range out {
				if out[i].Charged != (max >= 16) || max >= 16 && out[i].Remaining != 1 {
					t.Fatalf("%d keys at most: %+v", max, out[i])
				}
			}
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []Options{{MaxKeys: -1}, {WhenFull: 2}} {
		func() {
			defer func() {
				if msg := fmt.Sprint(recover()); !strings.HasPrefix(msg, "memlimit: MaxKeys is") {
					t.Errorf("%+v: %s", o, msg)
				}
			}()
			New(o)
		}()
	}
}

// A key isn't kept alive with all of what it was cut from, nor changed with it.
func TestKeysAreCopied(t *testing.T) {
	s := New(Options{})
	p := limit.MustPolicy("p", limit.Spec{Limit: 1, Period: time.Hour})
	large := strings.Repeat("x", 1<<20)
	for i := range 64 {
		take(t, s, p, (fmt.Sprint(i) + large)[:8], 1)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 32<<20 {
		t.Errorf("%d MiB are in use", m.HeapAlloc>>20)
	}
	runtime.KeepAlive(s)
}

// bytesPerKey is what a key takes beside its bytes, at the worst moment of a table's growth.
func bytesPerKey(spec limit.Spec, n int) float64 {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("user:%011d", i) // 16 bytes, a size class of its own
	}
	p := limit.MustPolicy("p", spec)
	s := New(Options{MaxKeys: n})
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for _, key := range all {
		_, _ = s.Take(bg, limit.Charge{Policy: p, Key: key, Cost: 1})
	}
	used := heap() - before
	runtime.KeepAlive(s)
	runtime.KeepAlive(all)
	return float64(used)/float64(n) - 16
}

func TestBytesPerKey(t *testing.T) {
	worst := 0.0
	for _, n := range []int{20_000, 23_000, 26_000, 30_000} { // a table that is full is replaced by one for half as many again
		worst = max(worst, bytesPerKey(kinds[0], n))
	}
	if worst > 60 {
		t.Errorf("a GCRA key takes %.1f bytes beside its key; want 60 at most", worst)
	}
	t.Logf("GCRA: at most %.1f bytes a key", worst)
	for _, spec := range kinds[2:] {
		t.Logf("%v, limit %d: %.0f bytes a key", spec.Kind, spec.Limit, bytesPerKey(spec, 10_000))
	}
}
