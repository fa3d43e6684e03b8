package torture

import (
	"fmt"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// Times in a history are since its beginning, on one clock for all instances. A zero time never came.

// A Row is one row of the source, with the cache that it is read through.
type Row struct {
	Cache string
	Key   string

	Plain      bool
	Odd        bool // odd versions say that the row is absent
	Background bool // is refreshed while an old value is served
}

// A Read is one answer of the cache.
type Read struct {
	Instance, Row int
	Due           time.Duration // when it was to begin, where that doesn't wait for others; else zero
	Start, End    time.Duration
	Version       int64 // what came; zero if absent
	Absent        bool
	Corrupt       bool // not a value of that row that was ever made

	Level  observe.Level // none if not told
	Joined bool
	Stale  bool
	Failed bool // served because the source failed

	Err   error
	Batch bool // one of several rows asked for at once
	Last  bool // asked after everything had settled: the present version is due
}

func (r Read) String() string {
	what := fmt.Sprint("version ", r.Version)
	switch {
	case r.Err != nil:
		what = fmt.Sprint("error ", r.Err)
	case r.Corrupt:
		what = "rubbish"
	case r.Absent:
		what = "absent"
	}
	if r.Level != observe.LevelNone {
		what += " from " + r.Level.String()
	}
	if r.Joined {
		what += ", joined"
	}
	if r.Stale {
		what += ", stale"
	}
	return fmt.Sprintf("read of row %d at instance %d, %v to %v: %s", r.Row, r.Instance, r.Start, r.End, what)
}

// Foreign is the instance of writes by a program that knows nothing of us.
const Foreign = -1

// A Write is a change of a row, and its drop.
type Write struct {
	Instance, Row int
	Version       int64
	Drop          string // key, tag, late, clear, DEL

	Wide bool // other rows of the same cache are dropped, too

	Began, Committed time.Duration // of the change: before the first and after the last is sure
	Asked, Returned  time.Duration // of the drop
	Acked            time.Duration // when the store was known to have it
}

// ofKey reports whether the drop deletes the key itself.
func (w Write) ofKey() bool { return w.Drop == "key" || w.Drop == "DEL" }

func (w Write) String() string {
	acked := "never acknowledged"
	if w.Acked != 0 {
		acked = fmt.Sprintf("acknowledged %v", w.Acked)
	}
	return fmt.Sprintf("version %d of row %d by instance %d: committed %v, drop by %s asked %v, returned %v, %s",
		w.Version, w.Row, w.Instance, w.Committed, w.Drop, w.Asked, w.Returned, acked)
}

// A Load is one question to the source.
type Load struct {
	Instance, Row int
	Start, End    time.Duration
}

// A Window is a span of time.
type Window struct{ From, To time.Duration }

func (w Window) meets(from, to time.Duration) bool { return from <= w.To && to >= w.From }

// Trouble is something that an instance noticed of the store.
type Trouble struct {
	Instance int
	At       time.Duration
	Reset    bool // it lost its view: a link, a gap, an epoch. Else an operation failed
}

// A Stall is by how much a goroutine that does nothing but sleep came late.
type Stall struct{ At, Late time.Duration }

// A Failover is a primary's death, and what came of it.
type Failover struct {
	Killed   time.Duration
	Promoted time.Duration // another server was primary, and the rest knew
	Trusted  time.Duration // every instance had a proof that is newer than Killed
}

// Limits are the settings that the world ran with.
type Limits struct {
	Instances   int
	StaleAtMost time.Duration
	ClockError  time.Duration // of the clock on the path of a hit
	Lease       time.Duration
	Budget      time.Duration
	LongestLoad time.Duration
	MaxLoads    int           // of an instance
	Slack       time.Duration // what a read may take longer, beside other tests and under the race detector
}

// A History is everything that happened in a round.
type History struct {
	Limits
	Lossy bool // acknowledged drops may be lost in some window

	Rows    []Row
	Reads   []Read
	Writes  []Write
	Loads   []Load
	Trouble []Trouble
	Stalls  []Stall // in order

	Broken  []Window // Redis didn't answer everybody
	Losing  []Window // acknowledged drops may be lost, or not be known to have been lost
	Noticed []Violation

	Hit       []Window // from the beginning of a fault until it was undone
	Failovers []Failover
	MostLoads int           // loads ever under way at once on an instance
	ReadFor   time.Duration // how long there were reads

	TrustBack time.Duration // the longest time from the end of a fault to new proofs everywhere
	Length    time.Duration

	lateBy []time.Duration // of the stalls before the n-th; see weigh
}
