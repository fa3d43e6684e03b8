package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Gate decides, read by read, whether a replica is far enough. [DB] is one for database/sql; with a Gate other drivers can have the same.
// Its methods are safe for concurrent use.
type Gate struct {
	opts Options
	end  end

	downUntil atomic.Int64 // Unix nanoseconds

	mu    sync.Mutex
	stats Stats // guarded by mu
}

// A Session is a server connection of a replica, for one read.
type Session interface {
	// Ask runs a statement without arguments that gives one text. It is called once or more before Read.
	Ask(ctx context.Context, query string) (string, error)

	// Read reads the data over the same server connection. Without RepeatableRead that is in the transaction, READ COMMITTED
	// and READ ONLY, in which Ask ran; with it, in one of REPEATABLE READ that begins now.
	Read(ctx context.Context) error

	// End gives the connection back. It is called once, also if Read panics.
	End()
}

// NewGate returns a gate. ask runs a statement without arguments on the primary that gives one text.
func NewGate(ask func(ctx context.Context, query string) (string, error), o Options) (*Gate, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Gate{opts: o}
	g.stats.Fallbacks = make(map[Reason]uint64)
	g.end.ask = func() (Position, error) {
		g.count(func(s *Stats) { s.Asked++ })
		ctx, cancel := context.WithTimeout(context.Background(), o.Timeout)
		defer cancel()
		text, err := ask(ctx, primarySQL)
		if err != nil {
			return Position{}, fmt.Errorf("replica: ask the primary for its position: %w", err)
		}
		return parsePrimary(text)
	}
	return g, nil
}

// Token returns the token of all that was committed before Token was called: to be called after the commit.
func (g *Gate) Token(ctx context.Context) (Token, error) {
	if g.opts.Source == "" {
		return Token{}, errors.New("replica: Options.Source is empty; want the database's name for a token")
	}
	pos, err := g.end.after(ctx)
	if err != nil {
		return Token{}, err
	}
	return NewToken(g.opts.Source, pos)
}

// Read reads over a session that open begins, or, if the replica isn't far enough, by primary. It must be called after the read
// position of a load was noted: in the loader. If the replica fails while it is read, primary is called after all.
// A nil open means that there is no replica.
func (g *Gate) Read(ctx context.Context, open func(context.Context) (Session, error), primary func(context.Context) error) error {
	reason, err := g.replica(ctx, open)
	switch {
	case reason == "":
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	g.count(func(s *Stats) { s.Primary++; s.Fallbacks[reason]++ })
	if f := g.opts.Fallback; f != nil {
		f(reason, err)
	}
	return primary(ctx)
}

// Stats returns the counts so far.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.stats
	s.Fallbacks = make(map[Reason]uint64, len(g.stats.Fallbacks))
	for r, n := range g.stats.Fallbacks {
		s.Fallbacks[r] = n
	}
	return s
}

func (g *Gate) count(f func(*Stats)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.stats)
}

var errSlow = errors.New("replica: it took longer than Options.Timeout")

// replica reads the replica if it is far enough. Otherwise reason says why not. Without a reason, err is that of the read.
func (g *Gate) replica(ctx context.Context, open func(context.Context) (Session, error)) (reason Reason, err error) {
	switch {
	case open == nil:
		return None, nil
	case time.Now().UnixNano() < g.downUntil.Load():
		return Down, errors.New("replica: it failed a moment ago")
	}
	end := g.end.join() // while the replica's connection is made
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slow := time.AfterFunc(g.opts.Timeout, func() { cancel(errSlow) })
	defer slow.Stop()
	down := func(err error) (Reason, error) {
		if g.opts.Retry > 0 && (ctx.Err() == nil || errors.Is(context.Cause(ctx), errSlow)) {
			g.downUntil.Store(time.Now().Add(g.opts.Retry).UnixNano())
		}
		return Down, fmt.Errorf("replica: %w", err)
	}
	s, err := open(ctx)
	if err != nil {
		return down(err)
	}
	defer s.End()
	l, err := end.wait(ctx)
	if err != nil {
		return Unknown, err
	}
	for began, pause := time.Now(), 500*time.Microsecond; ; pause = min(2*pause, 4*time.Millisecond) {
		text, err := s.Ask(ctx, replicaSQL)
		if err != nil {
			return down(err)
		}
		r, isolation, err := parseReplica(text)
		if err != nil {
			return Unfit, err
		}
		switch {
		case r.System != l.System || r.Timeline != l.Timeline:
			return Unfit, fmt.Errorf("replica: the standby is of system %d and timeline %d, the primary of %d and %d", r.System, r.Timeline, l.System, l.Timeline)
		case !g.opts.RepeatableRead && isolation != "read committed":
			return Unfit, fmt.Errorf("replica: the standby's transaction is %s; want read committed", isolation)
		}
		waited := time.Since(began)
		shown, over := r.shows(l), waited >= g.opts.Wait
		if (shown || over) && pause > 500*time.Microsecond {
			g.count(func(s *Stats) { s.Waits++; s.Waited += waited })
		}
		if shown {
			break
		}
		if over {
			return Lagging, nil
		}
		select {
		case <-time.After(min(pause, g.opts.Wait-waited)):
		case <-ctx.Done():
			return down(context.Cause(ctx))
		}
	}
	if !slow.Stop() {
		return down(errSlow)
	}
	if err := s.Read(ctx); err != nil {
		if gone(err) {
			return down(err)
		}
		return "", err
	}
	g.count(func(s *Stats) { s.Replica++ })
	return "", nil
}

// gone reports whether an error is the server's or the link's, and no answer: the primary may have one. A standby cancels
// queries that are in the way of what it replays (40001, 40P01). That a caller's time is over says nothing of the server.
func gone(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	if state, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		code := state.SQLState()
		return slices.Contains([]string{"40001", "40P01", "57P01", "57P02", "57P03"}, code) || strings.HasPrefix(code, "08")
	}
	_, isNet := errors.AsType[net.Error](err)
	return isNet || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// An end asks the primary where its log ends. One question is under way at a time. Who comes meanwhile waits for the next one: the answer
// to a question that was asked earlier may be from before a commit that the asker must see.
type end struct {
	ask func() (Position, error)

	mu   sync.Mutex
	busy bool      // guarded by mu
	next *question // that is not asked yet; guarded by mu
}

type question struct {
	done chan struct{} // closed once pos and err are set
	pos  Position
	err  error
}

func (e *end) after(ctx context.Context) (Position, error) { return e.join().wait(ctx) }

// join returns a question that is asked after the call.
func (e *end) join() *question {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.next == nil {
		e.next = &question{done: make(chan struct{})}
	}
	q := e.next
	if !e.busy {
		e.busy = true
		go e.run()
	}
	return q
}

// run asks until nobody wants to know any more: no longer than Options.Timeout after the last one came.
func (e *end) run() {
	for {
		e.mu.Lock()
		q := e.next
		e.next = nil
		e.busy = q != nil
		e.mu.Unlock()
		if q == nil {
			return
		}
		q.pos, q.err = e.ask()
		close(q.done)
	}
}

func (q *question) wait(ctx context.Context) (Position, error) {
	select {
	case <-q.done:
		return q.pos, q.err
	case <-ctx.Done():
		return Position{}, context.Cause(ctx)
	}
}
