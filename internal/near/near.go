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
	"sync/atomic"

	"github.com/maypok86/otter/v2"
)

// An Entry is what a Map holds: a pointer to something that knows its string key and embeds a Place.
type Entry[K comparable, T any] interface {
	*T
	StringKey() string
	Spot() *Place[K]
	Weight() uint32 // what it counts for in a Map bounded by weight
}

// A Map holds entries by K. All methods are safe for concurrent use.
type Map[K comparable, T any, E Entry[K, T]] struct {
	m     *otter.Cache[K, E]
	front front[K, T]
	seed  maphash.Seed
	index [indexShards]shard[E]

	weighted bool
	roomy    int64 // below this, it is too early to care what will be evicted
	_        [64]byte
	used     atomic.Int64 // weight of the entries, or their number
}

const indexShards = 64

// A shard is a part of the index from string key to entry. Lock order: the bucket lock of
// otter (held while it stores, and reports a deletion) before mu; nothing is called under mu.
type shard[E any] struct {
	mu sync.Mutex
	m  map[string]E
	_  [40]byte // a cache line each
}

// New returns a map of at most maxEntries entries or, if maxWeight is positive,
// of entries that weigh at most that.
func New[K comparable, T any, E Entry[K, T]](maxEntries int, maxWeight int64) (*Map[K, T, E], error) {
	n := &Map[K, T, E]{seed: maphash.MakeSeed(), front: newFront[K, T](maxEntries)}
	for i := range n.index {
		n.index[i].m = make(map[string]E)
	}
	o := &otter.Options[K, E]{
		OnAtomicDeletion: func(d otter.DeletionEvent[K, E]) {
			if d.Cause != otter.CauseReplacement { // Put has indexed its successor, which may be the same
				n.leave(d.Value)
				n.unindex(d.Value)
			}
			n.used.Add(-n.weigh(d.Value))
		},
	}
	if maxWeight > 0 {
		o.MaximumWeight = uint64(maxWeight)
		o.Weigher = func(_ K, e E) uint32 { return e.Weight() }
		n.weighted, n.roomy = true, maxWeight/4*3
	} else {
		o.MaximumSize = maxEntries
		n.roomy = int64(maxEntries) / 4 * 3
	}
	m, err := otter.New(o)
	if err != nil {
		return nil, err
	}
	n.m = m
	return n, nil
}

func (n *Map[K, T, E]) weigh(e E) int64 {
	if n.weighted {
		return int64(e.Weight())
	}
	return 1
}

// Get returns the entry of k. Once the map is three quarters full, the eviction policy hears of a hit once
// per entry and turn. So turns are to be shorter than the time between two hits of an entry that is about
// to be evicted: it looks no rarer then than it is.
func (n *Map[K, T, E]) Get(k K, turn uint32) (E, bool) {
	s, hash := n.front.set(k)
	for i := range s {
		if s[i].hash.Load() != hash {
			continue
		}
		if e := E(s[i].entry.Load()); e != nil {
			if p := e.Spot(); p.Key == k && (p.turn.Load() == turn || n.used.Load() < n.roomy) && !p.gone.Load() {
				return e, true
			}
		}
	}
	e, ok := n.m.GetIfPresent(k)
	if ok {
		e.Spot().turn.Store(turn)
		n.put(s, hash, e, turn)
	}
	return e, ok
}

// Peek returns the entry of k, and is no hit.
func (n *Map[K, T, E]) Peek(k K) (E, bool) {
	e, ok := n.m.GetEntryQuietly(k)
	return e.Value, ok
}

// Put stores an entry at k unless valid, asked once the entry is in the index, says no; then
// nothing is left at k. So whoever first makes valid say no, and then looks the string key up, either
// finds the entry or has prevented it. All happens under the bucket lock: otherwise two
// who put the same key could each win in one place, and the loser's unindexing
// would leave the winner where no drop finds it.
func (n *Map[K, T, E]) Put(k K, e E, valid func() bool) {
	n.m.Compute(k, func(old E, ok bool) (E, otter.ComputeOp) {
		if ok && old != e {
			n.leave(old) // before the index loses it
		}
		s, key := n.shard(e.StringKey()), e.StringKey()
		s.mu.Lock()
		s.m[key] = e
		s.mu.Unlock()
		if !valid() {
			n.unindex(e)
			return old, otter.InvalidateOp
		}
		n.used.Add(n.weigh(e))
		return e, otter.WriteOp
	})
}

// ByString returns the entry of a string key.
func (n *Map[K, T, E]) ByString(key string) (E, bool) {
	s := n.shard(key)
	s.mu.Lock()
	e, ok := s.m[key]
	s.mu.Unlock()
	return e, ok
}

// Remove removes k if it still holds e.
func (n *Map[K, T, E]) Remove(k K, e E) {
	n.m.ComputeIfPresent(k, func(old E) (E, otter.ComputeOp) {
		if old == e {
			return old, otter.InvalidateOp
		}
		return old, otter.CancelOp
	})
}

// All iterates over the entries in no order.
func (n *Map[K, T, E]) All() iter.Seq2[K, E] { return n.m.All() }

// Len is the number of entries, roughly.
func (n *Map[K, T, E]) Len() int { return n.m.EstimatedSize() }

// Weight is what the entries weigh together, roughly; the number of entries without a weight bound.
func (n *Map[K, T, E]) Weight() int64 {
	if !n.m.IsWeighted() {
		return int64(n.Len())
	}
	return int64(min(n.m.WeightedSize(), math.MaxInt64))
}

// Clear removes everything.
func (n *Map[K, T, E]) Clear() { n.m.InvalidateAll() }

func (n *Map[K, T, E]) unindex(e E) {
	s := n.shard(e.StringKey())
	s.mu.Lock()
	if s.m[e.StringKey()] == e {
		delete(s.m, e.StringKey())
	}
	s.mu.Unlock()
}

func (n *Map[K, T, E]) shard(key string) *shard[E] {
	return &n.index[maphash.String(n.seed, key)%indexShards]
}
