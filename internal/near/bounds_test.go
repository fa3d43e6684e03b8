package near

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// A thing is an entry with a weight.
type thing struct {
	Place[int]
	weight uint32
}

func (e *thing) StringKey() string { return fmt.Sprint("thing:", e.Key) }
func (e *thing) Weight() uint32    { return e.weight }

func things(t *testing.T, entries int, weight int64) *Map[int, thing, *thing] {
	t.Helper()
	m, err := New[int, thing](entries, weight)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// agrees compares the map with its index when nobody changes them.
func agrees(t *testing.T, m *Map[int, thing, *thing]) (n int, weight int64) {
	t.Helper()
	m.m.CleanUp()
	inMap := map[string]*thing{}
	for k, e := range m.All() {
		if e.Key != k {
			t.Errorf("at %d is the entry of %d", k, e.Key)
		}
		inMap[e.StringKey()] = e
		weight += int64(e.weight)
	}
	inIndex := 0
	for i := range m.index {
		s := &m.index[i]
		for key, e := range s.m {
			inIndex++
			if inMap[key] != e {
				t.Errorf("%s: the index has %p, the map %p", key, e, inMap[key])
			}
		}
	}
	used := weight
	if !m.weighted {
		used = int64(len(inMap))
	}
	if got := m.used.Load(); got != used {
		t.Errorf("used is %d; want %d", got, used)
	}
	for i := range m.front.sets {
		for j := range m.front.sets[i] {
			if e := m.front.sets[i][j].entry.Load(); e != nil && inMap[e.StringKey()] != e {
				t.Errorf("the front has %v, which is not in the map", e)
			}
		}
	}
	if inIndex != len(inMap) {
		t.Errorf("the index has %d entries, the map %d", inIndex, len(inMap))
	}
	return len(inMap), weight
}

func TestBoundedByCount(t *testing.T) {
	m := things(t, 100, 0)
	for k := range 10_000 {
		m.Put(k, &thing{Place: Place[int]{Key: k}, weight: 1000}, always)
	}
	n, _ := agrees(t, m)
	if n > 100 || n < 90 {
		t.Errorf("%d entries; want about 100", n)
	}
	if m.Len() != n || m.Weight() != int64(n) {
		t.Errorf("Len is %d, Weight %d; want %d", m.Len(), m.Weight(), n)
	}
}

func TestBoundedByWeight(t *testing.T) {
	m := things(t, 100, 10_000)
	for k := range 10_000 {
		m.Put(k, &thing{Place: Place[int]{Key: k}, weight: uint32(1 + k%1000)}, always)
	}
	n, weight := agrees(t, m)
	if weight > 10_000 || weight < 5000 || n < 10 {
		t.Errorf("%d entries weigh %d; want up to 10,000", n, weight)
	}
	if m.Weight() != weight {
		t.Errorf("Weight is %d; want %d", m.Weight(), weight)
	}
	m.Put(-1, &thing{Place: Place[int]{Key: -1}, weight: 10_001}, always) // more than fits is not kept, in neither
	m.m.CleanUp()
	if _, ok := m.Get(-1, rand.Uint32N(3)); ok {
		t.Error("an entry over the bound is kept")
	}
	if _, ok := m.ByString("thing:-1"); ok {
		t.Error("an entry over the bound is in the index")
	}
	agrees(t, m)
}

func TestReplaceAndRemove(t *testing.T) {
	m := things(t, 100, 0)
	old, young := &thing{Place: Place[int]{Key: 1}}, &thing{Place: Place[int]{Key: 1}}
	is := func(want *thing) {
		t.Helper()
		a, okA := m.Get(1, rand.Uint32N(3))
		b, okB := m.ByString("thing:1")
		if a != want || b != want || okA != (want != nil) || okB != okA {
			t.Errorf("by key %p, by string %p; want %p", a, b, want)
		}
	}
	is(nil)
	m.Put(1, old, always)
	is(old)
	m.Put(1, young, always)
	is(young)
	m.Remove(1, old) // not that one any more
	is(young)
	m.Put(1, young, always) // once more the same
	is(young)
	m.Remove(1, young)
	is(nil)
	m.Remove(1, young)
	m.Put(1, old, always)
	m.Clear()
	m.m.CleanUp()
	is(nil)
	agrees(t, m)
}

// Under puts, removals and evictions at once, the index and the map end up the same, and at no time does the
// index have what was removed for good.
func TestIndexUnderLoad(t *testing.T) {
	for _, weight := range []int64{0, 5000} {
		m := things(t, 60, weight)
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(w), 7))
				for range 3000 {
					k := rnd.IntN(100)
					switch rnd.IntN(5) {
					case 0:
						if e, ok := m.Get(k, rand.Uint32N(3)); ok {
							m.Remove(k, e)
						}
					case 1:
						if e, ok := m.ByString(fmt.Sprint("thing:", k)); ok && e.Key != k {
							t.Errorf("the index has the entry of %d for %d", e.Key, k)
						}
					default:
						m.Put(k, &thing{Place: Place[int]{Key: k}, weight: uint32(1 + rnd.IntN(200))}, always)
					}
				}
			})
		}
		wg.Wait()
		if n, sum := agrees(t, m); n > 60 && weight == 0 || weight > 0 && sum > weight {
			t.Errorf("%d entries weigh %d", n, sum)
		}
	}
}

// Who finds an entry by its key also finds it by its string key, unless it is gone by then: a drop that sees an
// entry's hit must be able to void it.
func TestFoundByBoth(t *testing.T) {
	m := things(t, 1000, 0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					k := rand.IntN(4)
					m.Put(k, &thing{Place: Place[int]{Key: k}}, always)
				}
			}
		})
	}
	for range 10_000 {
		k := rand.IntN(4)
		if _, ok := m.Get(k, rand.Uint32N(3)); !ok {
			continue
		}
		if _, ok := m.ByString(fmt.Sprint("thing:", k)); !ok { // nothing is evicted or removed here
			t.Errorf("%d is found by its key only", k)
		}
	}
	close(stop)
	wg.Wait()
}
