package cdc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// A Pump takes the changes of one source to one shared level. Any number may run for the same source, on different
// machines: one works, the others stand by.
type Pump struct {
	src   Source
	app   Applier
	opts  Options
	id    string // of this pump; what it puts before the number of a session makes the owner of marks
	begun atomic.Bool

	// These belong to Run's goroutine.
	sessions int
	broken   error     // the stream ended with ErrGap: the next one doesn't begin at the mark
	other    otherMark // of another pump, when it was seen last
	held     heldBack

	pending      atomic.Int64 // names read and not applied
	pendingSince atomic.Int64 // Unix nanoseconds; zero if there are none

	lag, barrier, apply observe.Recorder

	mu     sync.Mutex
	stats  Stats     // guarded by mu, but for the histograms
	certAt time.Time // when the last certified tick was announced; guarded by mu
	recent touches   // guarded by mu

	// For tests: step is called between any two things that a crash could come between; noBarrier leaves the barrier out.
	step      func(string)
	noBarrier bool
}

// NewPump returns a pump, which does nothing before Run. The applier must not be used by others.
func NewPump(src Source, a Applier, o Options) (*Pump, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	var id [6]byte
	rand.Read(id[:])
	p := &Pump{src: src, app: a, opts: o, id: o.Owner + ":" + hex.EncodeToString(id[:]), step: func(string) {}}
	p.stats.State = Stopped
	p.stats.Coarse = make(map[Why]uint64)
	return p, nil
}

// Options returns the options in force, defaults filled in; Again is zero if it is never.
func (p *Pump) Options() Options { return p.opts }

// errStandby ends a session that found another pump at work.
var errStandby = errors.New("cdc: another pump is active")

// Run pumps until ctx ends, and then returns nil, after all it started has ended. The only error is one that
// matches ErrGap, with GapStop. It must be called once.
func (p *Pump) Run(ctx context.Context) error {
	if p.begun.Swap(true) {
		return errors.New("cdc: Run was called before; want a new Pump")
	}
	defer p.setState(Stopped)
	for pause := p.opts.Retry; ; {
		ran, err := p.session(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errStop):
			return err
		case errors.Is(err, ErrBusy), errors.Is(err, errStandby):
			p.setState(Standby)
			pause = p.opts.Retry
			sleep(ctx, max(p.opts.TakeOver/3, p.opts.Retry))
			continue
		case errors.Is(err, ErrGap):
			p.broken = err
		case errors.Is(err, ErrMoved):
			p.count(func(s *Stats) { s.Moved++ })
		}
		if ran {
			pause = p.opts.Retry // it worked for a while
		}
		var at *stepError
		step := "run"
		if errors.As(err, &at) {
			step = at.step
		}
		p.failed(step, err, pause)
		p.setState(Waiting)
		sleep(ctx, pause)
		pause = min(2*pause, 30*p.opts.Retry)
	}
}

// errStop makes Run return.
var errStop = errors.New("cdc: stopped by GapStop")

// A stepError says what failed.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return "cdc: " + e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

func at(step string, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{step, err}
}

// failed tells of an error.
func (p *Pump) failed(step string, err error, retry time.Duration) {
	p.count(func(s *Stats) { s.Errors++ })
	if h := p.opts.Hooks.Error; h != nil {
		h(Error{Step: step, Err: err, Retry: retry})
	}
}

func (p *Pump) count(f func(*Stats)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.stats)
}

func (p *Pump) setState(s PumpState) {
	p.mu.Lock()
	same := p.stats.State == s
	p.stats.State = s
	p.mu.Unlock()
	if h := p.opts.Hooks.State; h != nil && !same {
		h(s)
	}
}

// Stats returns counts and the present state.
func (p *Pump) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Coarse = make(map[Why]uint64, len(p.stats.Coarse))
	for why, n := range p.stats.Coarse {
		s.Coarse[why] = n
	}
	s.Pending = int(p.pending.Load())
	if since := p.pendingSince.Load(); since != 0 && s.Pending > 0 {
		s.PendingFor = time.Since(time.Unix(0, since))
	}
	s.Lag, s.Barrier, s.Apply = p.lag.Histogram(), p.barrier.Histogram(), p.apply.Histogram()
	s.LastTick, s.Behind = p.certAt, -1
	if !p.certAt.IsZero() {
		s.Behind = time.Since(p.certAt)
	}
	return s
}

// LastChange returns the last change for which a tag, key or pattern was dropped, of the last 4,096 names.
func (p *Pump) LastChange(name string) (Touch, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.recent.last[name]
	return t, ok
}

// touches are the last names dropped, in a ring.
type touches struct {
	ring [4096]Touch
	next int
	last map[string]Touch
}

func (r *touches) add(t Touch) {
	if r.last == nil {
		r.last = make(map[string]Touch)
	}
	if old := r.ring[r.next]; r.last[old.Name] == old {
		delete(r.last, old.Name)
	}
	r.ring[r.next] = t
	r.next = (r.next + 1) % len(r.ring)
	r.last[t.Name] = t
}

// An otherMark is the mark of another pump.
type otherMark struct {
	owner string
	seq   uint64
	since time.Time
}

// released is the owner of a mark whose pump ended in peace.
const released = "-"

// works reports whether another pump seems to be at work: its mark moved within TakeOver. What it
// looks at is the mark alone, so it needs no clock but its own.
func (p *Pump) works(owner string, seq uint64) bool {
	if owner == "" || owner == released || strings.HasPrefix(owner, p.id+"/") || p.src.Exclusive() {
		return false
	}
	if p.other.owner != owner || p.other.seq != seq {
		p.other = otherMark{owner, seq, time.Now()}
	}
	return time.Since(p.other.since) < p.opts.TakeOver
}

// insist repeats an operation of the applier until the store takes it: all of them may be repeated. Meanwhile the reader
// stops at a full batch.
func (p *Pump) insist(ctx context.Context, step string, f func() error) error {
	for pause := p.opts.Retry; ; pause = min(2*pause, 30*p.opts.Retry) {
		err := f()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return at(step, context.Cause(ctx))
		case errors.Is(err, ErrMoved):
			return at(step, err)
		}
		p.failed(step, err, pause)
		if sleep(ctx, pause); ctx.Err() != nil {
			return at(step, context.Cause(ctx))
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// heldBack are positions that were marked, with the time, oldest first: after HoldBack the database need not keep
// what is before them.
type heldBack struct {
	owner  string // of the last mark
	marked Position
	at     []heldPos
}

type heldPos struct {
	pos  Position
	when time.Time
}

// keep notes that pos is marked; not more than about 60 are kept.
func (h *heldBack) keep(pos Position, now time.Time, span time.Duration) {
	h.marked = pos
	if n := len(h.at); pos == "" || n > 0 && (h.at[n-1].pos == pos || now.Sub(h.at[n-1].when) < span/60) {
		return
	}
	h.at = append(h.at, heldPos{pos, now})
}

// due returns the latest position that was marked a span ago; empty if there is none that is new.
func (h *heldBack) due(now time.Time, span time.Duration) (pos Position) {
	n := 0
	for n < len(h.at) && now.Sub(h.at[n].when) >= span {
		pos = h.at[n].pos
		n++
	}
	h.at = slices.Delete(h.at, 0, n)
	return pos
}

func errorf(format string, args ...any) error { return fmt.Errorf("cdc: "+format, args...) }
