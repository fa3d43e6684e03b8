package cdc

import (
	"context"
	"log/slog"
	"time"
)

// A Why says why something coarser than a name was dropped. The list is closed; metrics and logs use these words.
type Why string

// Why a drop was coarse.
const (
	WhyNull     Why = "null"      // the column is null
	WhyUnknown  Why = "unknown"   // the value wasn't sent
	WhyNoColumn Why = "no-column" // the table has no such column (any more)
	WhyTooLong  Why = "too-long"  // the name would be over the limit
	WhyBulk     Why = "bulk"      // one transaction, one rule, too many names
	WhyTruncate Why = "truncate"  // the table was truncated
	WhySchema   Why = "schema"    // the table was altered
	WhyMessage  Why = "message"   // a message in the transaction can't be read: everything
	WhyGap      Why = "gap"       // part of the changes is gone: everything
)

// A PumpState is what a pump is doing.
type PumpState string

// The states of a pump:
//
//	state     event                                   next      effect
//	opening   mark read, stream opened after it       running
//	opening   no mark, or ErrGap                      running   everything is dropped; Gap
//	opening   ErrBusy, or another's mark moves        standby   looks again every second
//	opening   any other error                         waiting   Error
//	standby   the reader is gone, the mark stands     opening
//	running   the source or the applier fails         waiting   Error
//	running   ErrMoved                                opening   from the mark that is there
//	waiting   the pause is over                       opening
//	any       Run's context ends                      stopped
const (
	Opening PumpState = "opening"
	Standby PumpState = "standby"
	Running PumpState = "running"
	Waiting PumpState = "waiting"
	Stopped PumpState = "stopped"
)

// Hooks are called synchronously by the pump and should return fast. Any may be nil.
type Hooks struct {
	State   func(PumpState)
	Applied func(Applied)
	Coarse  func(Coarse)
	Gap     func(Gap)
	Error   func(Error)
}

// Applied is a batch of changes that the store has acknowledged.
type Applied struct {
	Pos     Position
	Txs     int // transactions that end in it
	Changes int
	Tags    int
	Keys    int
	Sweeps  int // patterns of keys
	Publish int
	Lag     time.Duration // from the oldest commit in it to now, by the clocks of the database and of this machine; zero if the database doesn't say
	Barrier time.Duration // waiting until the changes were visible
	Took    time.Duration // to apply
}

// Coarse is something that was dropped coarser than by name.
type Coarse struct {
	Rule  int // its number, from 0; -1 if it was none
	Table string
	Op    Op
	Why   Why
	Names []string // what was dropped instead: tags, then patterns
}

// A Gap is a part of the changes that is gone. Everything is dropped: a new epoch in each partition, the coarse tags, patterns and
// messages of every rule.
type Gap struct {
	From, To Position // the mark, and where the pump goes on; From is empty at the very first start
	Err      error    // nil at the very first start
}

// An Error ends the stream; the pump opens another after Retry.
type Error struct {
	Step  string // "mark", "open", "read", "barrier", "apply", "epoch", "tick", "ack"
	Err   error
	Retry time.Duration
}

// Slog returns hooks that log: gaps and errors at Warn, coarse drops and states at Info, batches at Debug.
func Slog(l *slog.Logger, source string) Hooks {
	l = l.With("source", source)
	return Hooks{
		State: func(s PumpState) { l.Info("cdc state", "state", string(s)) },
		Applied: func(a Applied) {
			if !l.Enabled(context.Background(), slog.LevelDebug) {
				return
			}
			l.Debug("cdc applied", "pos", string(a.Pos), "txs", a.Txs, "changes", a.Changes, "tags", a.Tags, "keys", a.Keys,
				"sweeps", a.Sweeps, "publish", a.Publish, "lag", a.Lag, "barrier", a.Barrier, "took", a.Took)
		},
		Coarse: func(c Coarse) {
			l.Info("cdc coarse drop", "rule", c.Rule, "table", c.Table, "op", c.Op.String(), "why", string(c.Why), "names", c.Names)
		},
		Gap: func(g Gap) {
			l.Warn("cdc gap, everything is dropped", "from", string(g.From), "to", string(g.To), "err", g.Err)
		},
		Error: func(e Error) { l.Warn("cdc error", "step", e.Step, "err", e.Err, "retry", e.Retry) },
	}
}

// Tee joins hooks: each event is told to all.
func Tee(hooks ...Hooks) Hooks {
	return Hooks{
		State:   tee(hooks, func(h Hooks) func(PumpState) { return h.State }),
		Applied: tee(hooks, func(h Hooks) func(Applied) { return h.Applied }),
		Coarse:  tee(hooks, func(h Hooks) func(Coarse) { return h.Coarse }),
		Gap:     tee(hooks, func(h Hooks) func(Gap) { return h.Gap }),
		Error:   tee(hooks, func(h Hooks) func(Error) { return h.Error }),
	}
}

func tee[E any](hooks []Hooks, of func(Hooks) func(E)) func(E) {
	var fs []func(E)
	for _, h := range hooks {
		if f := of(h); f != nil {
			fs = append(fs, f)
		}
	}
	if len(fs) == 0 {
		return nil
	}
	return func(e E) {
		for _, f := range fs {
			f(e)
		}
	}
}
