package cdc

import (
	"time"

	"github.com/freshetdev/freshet/observe"
)

// Stats are counts since the pump was made, and its present state.
type Stats struct {
	State PumpState

	Txs, Changes, Messages uint64 // read and applied; a repeated transaction counts again
	Tags, Keys, Sweeps     uint64 // dropped
	Published              uint64
	Early                  uint64         // tags and keys dropped early, as the wait for visibility took more than 5 ms; they are dropped again after it
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

	// Lag is the time from commit to applied in the shared level, of each transaction with changes, by the clocks of the database and of
	// this machine: what they differ by is in it, but it is never negative. Databases that don't tell when a commit was have none.
	// Barrier is the wait for visibility and Apply the time that the store took, of each batch, by the clock of this machine.
	Lag, Barrier, Apply observe.Histogram
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
