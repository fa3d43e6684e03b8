package cdc

import (
	"math/bits"
	"time"
)

// Stats are counts since the pump was made, and its present state.
type Stats struct {
	State PumpState

	Txs, Changes, Messages uint64 // read and applied; a repeated transaction counts again
	Tags, Keys, Sweeps     uint64 // dropped
	Published              uint64
	Coarse                 map[Why]uint64 // drops that were coarser than a name, and why
	Unswept                uint64         // patterns that weren't deleted: NoSweep, or the store can't
	Gaps, Errors, Moved    uint64         // gaps; streams that ended with an error; times the store was not where it was left
	Opened                 uint64         // streams

	Pending    int           // names read and not applied yet
	PendingFor time.Duration // since the oldest of them was read

	Pos      Position  // applied up to here
	Acked    Position  // and the database told so up to here
	LastTx   Tx        // the last one that was applied
	LastTick time.Time // when the tick was announced that is certified last; zero if none is

	// Behind is the time since then: all changes that were visible so long ago have been dropped. Negative: no certificate yet.
	Behind time.Duration

	// Lag is the time from commit to applied, by the clocks of the database and of this machine; Barrier the wait
	// for visibility; Apply the time that the store took. Of each transaction, batch and batch.
	Lag, Barrier, Apply Histogram
}

// A Touch is a change that dropped a name.
type Touch struct {
	Name   string
	Table  string // empty for a gap, and for a message
	Op     Op
	Why    Why // if the drop was coarse
	Rule   int // -1: none
	Tx     Tx
	At     time.Time // when it was applied
	Source string
}

// A Histogram counts durations in buckets that double: bucket i holds those below 2^i microseconds, and not in one before; the
// last one the rest.
type Histogram struct {
	Count   uint64
	Sum     time.Duration
	Max     time.Duration
	Buckets [32]uint64
}

// Bound is the upper end of bucket i.
func (h *Histogram) Bound(i int) time.Duration { return time.Microsecond << i }

// Quantile returns an upper bound, good within a factor of two, of the duration that a part q (0 to 1) of all stays below.
func (h *Histogram) Quantile(q float64) time.Duration {
	want := uint64(q * float64(h.Count))
	var seen uint64
	for i, n := range h.Buckets {
		if seen += n; n > 0 && seen >= want {
			return min(h.Bound(i), h.Max)
		}
	}
	return h.Max
}

func (h *Histogram) add(d time.Duration) {
	d = max(d, 0) // clocks differ
	h.Count++
	h.Sum += d
	h.Max = max(h.Max, d)
	h.Buckets[min(bits.Len64(uint64(d/time.Microsecond)), len(h.Buckets)-1)]++
}
