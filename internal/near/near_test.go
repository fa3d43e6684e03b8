package near

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

type item struct {
	Place[int]
	key string
}

func newItem(k int) *item { return &item{Place: Place[int]{Key: k}, key: strconv.Itoa(k)} }

func (i *item) StringKey() string { return i.key }
func (*item) Weight() uint32      { return 1 }

// Two entries of one key that are put at the same time: whichever stays must be found by its
// string key too, or a drop would miss it.
func TestPutAtTheSameTime(t *testing.T) {
	m, err := New[int, item](1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3000 {
		k := round % 100
		var wg sync.WaitGroup
		for range 4 {
			e := newItem(k)
			wg.Go(func() { m.Put(k, e, always) })
		}
		wg.Wait()
		e, ok := m.Get(k, rand.Uint32N(3))
		byKey, ok2 := m.ByString(strconv.Itoa(k))
		if !ok || !ok2 || e != byKey {
			t.Fatalf("round %d: by key %p, by string key %p; want the same", round, e, byKey)
		}
	}
}

func always() bool { return true }

// Whoever makes valid say no and then looks the string key up either finds the entry or has prevented it:
// nothing that was dropped stays without its being told.
func TestPutMeetsADrop(t *testing.T) {
	m, err := New[int, item](1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 20_000 {
		k := round % 50
		e := newItem(k)
		var dropped atomic.Bool
		var found *item
		var wg sync.WaitGroup
		wg.Go(func() { m.Put(k, e, func() bool { return !dropped.Load() }) })
		wg.Go(func() {
			dropped.Store(true)
			found, _ = m.ByString(e.key)
		})
		wg.Wait()
		if got, ok := m.Get(k, rand.Uint32N(3)); ok && found != e {
			t.Fatalf("round %d: %p stayed, the drop found %p", round, got, found)
		}
	}
}
