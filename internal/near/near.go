// Package near is L1: a bounded map in this process.
//
// Entries are found by the user's own key type on the path of a hit, and by the
// string key when a drop names them. Bounds and eviction (W-TinyLFU) are otter's.
// The package knows nothing of time or freshness: an entry carries its own.
package near

import (
	"hash/maphash"
	"iter"
	"math"
	"sync"

	"github.com/maypok86/otter/v2"
)

// An Entry is what a Map holds: something that knows its string key.
type Entry interface {
	comparable
	StringKey() string
	Weight() uint32 // what it counts for in a Map bounded by weight
}

// A Map holds entries by K. All methods are safe for concurrent use.
type Map[K comparable, E Entry] struct {
	m     *otter.Cache[K, E]
	seed  maphash.Seed
	index [indexShards]shard[E]
}

const indexShards = 64

// A shard is a part of the index from string key to entry. Lock order: the bucket lock of
// otter (held while it stores, and reports a deletion) before mu; nothing is called under mu.
type shard[E Entry] struct {
	mu sync.Mutex
	m  map[string]E
	_  [40]byte // a cache line each
}

// New returns a map of at most maxEntries entries or, if maxWeight is positive,
// of entries that weigh at most that.
func New[K comparable, E Entry](maxEntries int, maxWeight int64) (*Map[K, E], error) {
	n := &Map[K, E]{seed: maphash.MakeSeed()}
	for i := range n.index {
		n.index[i].m = make(map[string]E)
	}
	o := &otter.Options[K, E]{
		OnAtomicDeletion: func(d otter.DeletionEvent[K, E]) {
			if d.Cause != otter.CauseReplacement { // Put has indexed its successor, which may be the same
				n.unindex(d.Value)
			}
		},
	}
	if maxWeight > 0 {
		o.MaximumWeight = uint64(maxWeight)
		o.Weigher = func(_ K, e E) uint32 { return e.Weight() }
	} else {
		o.MaximumSize = maxEntries
	}
	m, err := otter.New(o)
	if err != nil {
		return nil, err
	}
	n.m = m
	return n, nil
}

// Get returns the entry of k.
func (n *Map[K, E]) Get(k K) (E, bool) { return n.m.GetIfPresent(k) }

// Put stores an entry at k unless valid, asked once the entry is in the index, says no; then
// nothing is left at k. So whoever first makes valid say no, and then looks the string key up, either
// finds the entry or has prevented it. All happens under the bucket lock: otherwise two
// who put the same key could each win in one place, and the loser's unindexing
// would leave the winner where no drop finds it.
func (n *Map[K, E]) Put(k K, e E, valid func() bool) {
	n.m.Compute(k, func(old E, _ bool) (E, otter.ComputeOp) {
		s, key := n.shard(e.StringKey()), e.StringKey()
		s.mu.Lock()
		s.m[key] = e
		s.mu.Unlock()
		if !valid() {
			n.unindex(e)
			return old, otter.InvalidateOp
		}
		return e, otter.WriteOp
	})
}

// ByString returns the entry of a string key.
func (n *Map[K, E]) ByString(key string) (E, bool) {
	s := n.shard(key)
	s.mu.Lock()
	e, ok := s.m[key]
	s.mu.Unlock()
	return e, ok
}

// Remove removes k if it still holds e.
func (n *Map[K, E]) Remove(k K, e E) {
	n.m.ComputeIfPresent(k, func(old E) (E, otter.ComputeOp) {
		if old == e {
			return old, otter.InvalidateOp
		}
		return old, otter.CancelOp
	})
}

// All iterates over the entries in no order.
func (n *Map[K, E]) All() iter.Seq2[K, E] { return n.m.All() }

// Len is the number of entries, roughly.
func (n *Map[K, E]) Len() int { return n.m.EstimatedSize() }

// Weight is what the entries weigh together, roughly; the number of entries without a weight bound.
func (n *Map[K, E]) Weight() int64 {
	if !n.m.IsWeighted() {
		return int64(n.Len())
	}
	return int64(min(n.m.WeightedSize(), math.MaxInt64))
}

// Clear removes everything.
func (n *Map[K, E]) Clear() { n.m.InvalidateAll() }

func (n *Map[K, E]) unindex(e E) {
	s := n.shard(e.StringKey())
	s.mu.Lock()
	if s.m[e.StringKey()] == e {
		delete(s.m, e.StringKey())
	}
	s.mu.Unlock()
}

func (n *Map[K, E]) shard(key string) *shard[E] {
	return &n.index[maphash.String(n.seed, key)%indexShards]
}
