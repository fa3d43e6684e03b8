package near

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/maypok86/otter/v2"
)

// Once an entry was replaced or removed, nobody who comes later finds it: not even by way of somebody who
// found it in the map before and only now makes it known to the front.
func TestFrontForgets(t *testing.T) {
	m := things(t, 1000, 0)
	const keys = 4
	var put [keys]atomic.Uint32 // weight of the last entry that was surely put
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(stop)
		for i := uint32(1); i <= 30_000; i++ {
			k := rand.IntN(keys)
			e := &thing{Place: Place[int]{Key: k}, weight: i}
			m.Put(k, e, always)
			put[k].Store(i)
			if i%5 == 0 {
				m.Remove(k, e)
				put[k].Store(i + 1)
			}
		}
	})
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				k := rand.IntN(keys)
				least := put[k].Load()
				if e, ok := m.Get(k, rand.Uint32N(2)); ok && e.weight < least {
					t.Errorf("found entry %d of key %d after %d was put", e.weight, k, least)
					return
				}
			}
		})
	}
	wg.Wait()
	agrees(t, m)
}

// A reader found an entry in the map and stalls; meanwhile the entry is replaced, or removed. Then the reader makes
// it known to the front, at whatever point it stalled.
func TestFrontMeetsALateReader(t *testing.T) {
	for _, replace := range []bool{false, true} {
		for _, checked := range []bool{false, true} {
			m := things(t, 1000, 0)
			old, young := &thing{Place: Place[int]{Key: 1}}, &thing{Place: Place[int]{Key: 1}}
			m.Put(1, old, always)
			if replace {
				m.Put(1, young, always)
			} else {
				m.Remove(1, old)
			}
			s, hash := m.front.set(1)
			if checked {
				m.put(s, hash, old, 1)
			} else { // it stalls once more, before it looks whether the entry is gone
				s[0].hash.Store(hash)
				s[0].entry.Store(old)
			}
			if e, ok := m.Get(1, old.turn.Load()); ok != replace || ok && e != young {
				t.Errorf("replaced %v, checked %v: found %p, %v", replace, checked, e, ok)
			}
			if checked && s[0].entry.Load() == old {
				t.Errorf("replaced %v: the front holds on to what is gone", replace)
			}
		}
	}
}

// The front hides most hits from the eviction policy, and that costs it nothing worth mentioning.
func TestFrontKeepsHitRatio(t *testing.T) {
	const entries, keys, draws, turn = 300, 5000, 100_000, 5000 // 100,000 hits/s and turns of 50 ms
	m := things(t, entries, 0)
	alone := otter.Must(&otter.Options[int, *thing]{MaximumSize: entries})
	rnd := rand.New(rand.NewPCG(1, 2))
	z := rand.NewZipf(rnd, 1.05, 1, keys-1)
	hits, hitsAlone := 0, 0
	for i := range draws {
		k := int(z.Uint64())
		if _, ok := m.Get(k, uint32(i/turn)); ok {
			hits++
		} else {
			m.Put(k, &thing{Place: Place[int]{Key: k}}, always)
		}
		if _, ok := alone.GetIfPresent(k); ok {
			hitsAlone++
		} else {
			alone.Set(k, &thing{Place: Place[int]{Key: k}})
		}
	}
	if hits < hitsAlone-draws/25 {
		t.Errorf("hit ratio %.3f; otter alone %.3f", float64(hits)/draws, float64(hitsAlone)/draws)
	}
}

// Once the map is three quarters full, the policy hears of an entry's hits once a turn; before that, not at all.
func TestFrontTellsThePolicy(t *testing.T) {
	const entries = 100
	m := things(t, entries, 0)
	e := &thing{Place: Place[int]{Key: 0}}
	m.Put(0, e, always)
	told := func(turn uint32, want uint32) {
		t.Helper()
		if got, ok := m.Get(0, turn); !ok || got != e {
			t.Fatalf("turn %d: found %p, %v", turn, got, ok)
		}
		if got := e.turn.Load(); got != want {
			t.Errorf("turn %d, %d entries: the policy last heard of a hit in turn %d; want %d", turn, m.Len(), got, want)
		}
	}
	told(1, 1) // the front doesn't know it yet
	told(2, 1)
	for k := 1; k < entries*4/5; k++ {
		m.Put(k, &thing{Place: Place[int]{Key: k}}, always)
	}
	told(2, 2)
	told(3, 3)

	// In the same turn the map isn't asked: the front's word counts, even if it is another.
	twin := &thing{Place: Place[int]{Key: 0}}
	twin.turn.Store(3)
	s, _ := m.front.set(0)
	for i := range s {
		s[i].entry.CompareAndSwap(e, twin)
	}
	if got, _ := m.Get(0, 3); got != twin {
		t.Error("the map was asked twice in a turn")
	}
}
