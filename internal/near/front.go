package near

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// A Place is what L1 must know of an entry at each hit. Entries embed it.
type Place[K comparable] struct {
	Key  K             // not changed once the entry is put
	gone atomic.Bool   // it left the map, or is about to
	turn atomic.Uint32 // when the eviction policy was last told of a hit
}

// Spot lets L1 at its Place of an entry.
func (p *Place[K]) Spot() *Place[K] { return p }

// A front finds the entries hit lately without asking otter, whose bookkeeping costs more than the rest of a
// hit. It is a hint: a slot may be empty, or hold the entry of another key. An entry in it is in the map
// unless it is marked as gone, and that mark is set before a drop can't find the entry any more.
type front[K comparable, T any] struct {
	seed maphash.Seed
	mask uint64
	sets []set[T]
}

// A set is the slots in which an entry may be, within a cache line.
type set[T any] [2]slot[T]

type slot[T any] struct {
	hash  atomic.Uint64 // of the key; saves a look at the entries of others
	entry atomic.Pointer[T]
}

// The front has one to two slots an entry, 16 bytes each.
const (
	minSets = 1 << 5
	maxSets = 1 << 19
)

func newFront[K comparable, T any](entries int) front[K, T] {
	n := min(max(uint64(entries)/2, minSets), maxSets)
	n = 1 << bits.Len64(n-1)
	return front[K, T]{seed: maphash.MakeSeed(), mask: n - 1, sets: make([]set[T], n)}
}

func (f *front[K, T]) set(k K) (s *set[T], hash uint64) {
	hash = maphash.Comparable(f.seed, k)
	return &f.sets[hash&f.mask], hash
}

// put takes an entry that was just found in the map into the front, unless those in its place were hit in this
// turn too.
func (n *Map[K, T, E]) put(s *set[T], hash uint64, e E, turn uint32) {
	for i := range s {
		if s[i].entry.Load() == (*T)(e) {
			return
		}
	}
	for i := range s {
		s := &s[i]
		if old := E(s.entry.Load()); old != nil {
			if p := old.Spot(); p.turn.Load() == turn && !p.gone.Load() {
				continue
			}
		}
		s.hash.Store(hash)
		s.entry.Store(e)
		if e.Spot().gone.Load() { // meanwhile: who removed it may have looked here before
			s.entry.CompareAndSwap(e, nil)
		}
		return
	}
}

// leave marks an entry as gone from the map.
func (n *Map[K, T, E]) leave(e E) {
	e.Spot().gone.Store(true)
	s, _ := n.front.set(e.Spot().Key)
	for i := range s {
		s[i].entry.CompareAndSwap(e, nil)
	}
}
