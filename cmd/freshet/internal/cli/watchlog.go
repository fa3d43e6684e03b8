package cli

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// A pumpLog tells what a pump does, in lines that don't drown each other: what is applied once a second at most, and what goes on being wrong every
// ten seconds.
type pumpLog struct {
	logs *slog.Logger
	info *slog.Logger // the same, or nowhere if only warnings are wanted

	opened chan struct{} // has one when the pump began to work, or found another at work, for the first time or after an error

	mu      sync.Mutex
	at      cdc.PumpState        // that was told last, or waiting; guarded by mu
	since   time.Time            // of the pump's state; guarded by mu
	sum     cdc.Applied          // since the last line; guarded by mu
	told    time.Time            // when that was; guarded by mu
	keysAt  time.Time            // when keys were deleted last; guarded by mu
	quiet   map[string]time.Time // lines that were said, until when they are not said again; guarded by mu
	skipped map[string]int       // how often they weren't; guarded by mu
}

const (
	appliedEvery = time.Second
	sameEvery    = 10 * time.Second
	maxQuiet     = 1000
)

func newPumpLog(l *slog.Logger, off bool) *pumpLog {
	info := l
	if off {
		info = slog.New(slog.DiscardHandler)
	}
	return &pumpLog{logs: l, info: info, opened: make(chan struct{}, 1), quiet: map[string]time.Time{}, skipped: map[string]int{}}
}

func (l *pumpLog) hooks() cdc.Hooks {
	return cdc.Hooks{State: l.state, Applied: l.applied, Coarse: l.coarse, Gap: l.gap, Error: l.failed}
}

// run writes what is left over, until ctx ends.
func (l *pumpLog) run(ctx context.Context) {
	t := time.NewTicker(appliedEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.flush(time.Now())
		case <-ctx.Done():
			l.flush(time.Now().Add(appliedEvery))
			return
		}
	}
}

// lastKeys is when keys were deleted last.
func (l *pumpLog) lastKeys() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keysAt
}

// stateSince is when the present state began.
func (l *pumpLog) stateSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}

// state tells of a state that isn't told yet. A pump that stands by opens its source again and again, and is still standing by.
func (l *pumpLog) state(s cdc.PumpState) {
	l.mu.Lock()
	before := l.at
	l.since = time.Now()
	if s != cdc.Opening {
		l.at = s
	}
	l.mu.Unlock()
	if s == before {
		return
	}
	switch s {
	case cdc.Running:
		l.info.Info("following")
	case cdc.Standby:
		l.info.Info("another pump works; standing by")
	case cdc.Stopped:
		l.info.Info("stopped")
		return
	default:
		return
	}
	if before == cdc.Standby || before == cdc.Running {
		return // the source is as it was
	}
	select {
	case l.opened <- struct{}{}:
	default:
	}
}

func (l *pumpLog) applied(a cdc.Applied) {
	now := time.Now()
	l.mu.Lock()
	s := &l.sum
	s.Txs += a.Txs
	s.Changes += a.Changes
	s.Tags += a.Tags
	s.Keys += a.Keys
	s.Sweeps += a.Sweeps
	s.Publish += a.Publish
	s.Lag = max(s.Lag, a.Lag)
	if a.Keys > 0 {
		l.keysAt = now
	}
	l.mu.Unlock()
	l.flush(now)
}

// flush writes a line if there is something, and the last was long ago.
func (l *pumpLog) flush(now time.Time) {
	l.mu.Lock()
	s := l.sum
	if s == (cdc.Applied{}) || now.Sub(l.told) < appliedEvery {
		l.mu.Unlock()
		return
	}
	l.sum, l.told = cdc.Applied{}, now
	l.mu.Unlock()
	facts := []any{"changes", s.Changes, "transactions", s.Txs, "tags", s.Tags, "keys", s.Keys, "sweeps", s.Sweeps, "messages", s.Publish}
	if s.Lag > 0 { // not every database says when a commit was
		facts = append(facts, "lag_ms", ms(s.Lag))
	}
	l.info.Info("applied", facts...)
}

func (l *pumpLog) coarse(c cdc.Coarse) {
	if skipped, ok := l.may(fmt.Sprint("coarse", c.Rule, c.Table, c.Why)); ok {
		l.info.Info("dropped more than one row's", "rule", c.Rule+1, "table", c.Table, "op", c.Op.String(), "why", string(c.Why), "names", c.Names, "not_told", skipped)
	}
}

func (l *pumpLog) gap(g cdc.Gap) {
	if g.Err == nil {
		l.info.Info("first start: everything is dropped once", "to", string(g.To))
		return
	}
	l.logs.Warn("part of the changes is gone: everything is dropped", "from", string(g.From), "to", string(g.To), "error", g.Err)
}

func (l *pumpLog) failed(e cdc.Error) {
	if skipped, ok := l.may("failed" + e.Step); ok {
		l.logs.Warn("trying again", "step", e.Step, "error", e.Err, "not_told", skipped)
	}
}

// found tells what check finds in a source that is followed all the same.
func (l *pumpLog) found(file string, all []finding) {
	for _, f := range all {
		if f.Level == levelFine {
			continue
		}
		skipped, ok := l.may("found" + f.What)
		if !ok {
			continue
		}
		facts := []any{"what", f.What}
		if f.Line > 0 {
			facts = append(facts, "line", fmt.Sprintf("%s:%d", file, f.Line))
		}
		if f.Fix != "" {
			facts = append(facts, "fix", f.Fix)
		}
		if f.Level == levelProblem {
			l.logs.Warn("something can't work", append(facts, "not_told", skipped)...)
		} else {
			l.info.Info("something may not work", append(facts, "not_told", skipped)...)
		}
	}
}

// may reports whether a line may be written, and how often it was not.
func (l *pumpLog) may(line string) (skipped int, ok bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.quiet[line]) {
		l.skipped[line]++
		return 0, false
	}
	if len(l.quiet) >= maxQuiet {
		clear(l.quiet)
		clear(l.skipped)
	}
	skipped = l.skipped[line]
	l.quiet[line] = now.Add(sameEvery)
	delete(l.skipped, line)
	return skipped, true
}
