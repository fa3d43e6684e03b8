package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A pair is a primary and a replica that the test moves. Real ones are in pgxtx/pgxreplica.
type pair struct {
	mu        sync.Mutex
	end       int           // of the primary's log
	replayed  int           // by the replica
	timeline  string        // of the replica
	isolation string        // of its transactions
	answers   time.Duration // how long the primary takes to tell its position
	primary   error
	replica   error // of Begin
	read      error // of Read on the replica
	open      int   // sessions
}

func (p *pair) Ask(context.Context, string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("7/%s/0/%X/%s", p.timeline, p.replayed, p.isolation), nil
}
func (p *pair) Read(context.Context) error { return p.read }
func (p *pair) End()                       { p.opened(-1) }

func (p *pair) opened(n int) { p.set(func() { p.open += n }) }

func (p *pair) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *pair) gate(t *testing.T, o Options) (g *Gate, read func() string) {
	t.Helper()
	p.timeline, p.isolation = "1", "read committed"
	var why Reason
	o.Fallback = func(r Reason, _ error) { why = r }
	g, err := NewGate(func(ctx context.Context, _ string) (string, error) {
		p.mu.Lock()
		end, answers, err := p.end, p.answers, p.primary
		p.mu.Unlock()
		select {
		case <-time.After(answers):
		case <-ctx.Done():
			return "", ctx.Err()
		}
		return fmt.Sprintf("7/00000001/0/%X/8192", end), err
	}, o)
	if err != nil {
		t.Fatal(err)
	}
	return g, func() string {
		from := "replica"
		err := g.Read(t.Context(), func(context.Context) (Session, error) {
			if p.replica != nil {
				return nil, p.replica
			}
			p.opened(1)
			return p, nil
		}, func(context.Context) error { from = "primary: " + string(why); return nil })
		if err != nil {
			return "error " + err.Error()
		}
		return from
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pair{end: 100, replayed: 100}
		g, read := p.gate(t, Options{})
		is := func(want string, took time.Duration) {
			t.Helper()
			began := time.Now()
			if got := read(); got != want {
				t.Errorf("got %q; want %q", got, want)
			}
			if got := time.Since(began); got != took {
				t.Errorf("it took %v; want %v", got, took)
			}
			if p.open != 0 {
				t.Errorf("%d sessions are open", p.open)
			}
		}
		is("replica", 0)
		p.set(func() { p.end = 101 })
		is("primary: lagging", 20*time.Millisecond)
		time.AfterFunc(2*time.Millisecond, func() { p.set(func() { p.replayed = 101 }) })
		is("replica", 3500*time.Microsecond) // it is asked after 0.5, 1.5 and 3.5 ms
		p.timeline = "2"
		is("primary: unfit", 0)
		p.timeline, p.isolation = "1", "repeatable read"
		is("primary: unfit", 0)
		p.isolation = "read committed"
		p.read = errors.New("no such table")
		is("error no such table", 0)
		p.read = fmt.Errorf("conn: %w", io.ErrUnexpectedEOF)
		is("primary: down", 0)
		p.read = nil
		is("primary: down", 0) // it is left alone
		time.Sleep(time.Second)
		is("replica", 0)
		p.set(func() { p.primary = errors.New("refused") })
		is("primary: unknown", 0)
		p.set(func() { p.primary, p.answers = nil, 5*time.Second })
		is("primary: unknown", time.Second)
		synctest.Wait() // the question ends at the same time
		p.set(func() { p.answers = 0 })
		is("replica", 0)
		p.replica = errors.New("refused")
		is("primary: down", 0)

		s := g.Stats()
		want := map[Reason]uint64{Lagging: 1, Unfit: 2, Down: 3, Unknown: 2}
		if !maps.Equal(s.Fallbacks, want) || s.Primary != 8 || s.Replica != 4 || s.Waits != 2 || s.Waited != 23500*time.Microsecond {
			t.Errorf("stats are %+v; want fallbacks %v, 8 of the primary, 4 of the replica, 2 waits of 23.5ms", s, want)
		}
		if _, err := g.Token(t.Context()); err == nil || !strings.Contains(err.Error(), "Source is empty") {
			t.Errorf("a token without a source: %v", err)
		}
		from := ""
		g.Read(t.Context(), nil, func(context.Context) error { from = "primary"; return nil })
		if from != "primary" || g.Stats().Fallbacks[None] != 1 {
			t.Errorf("without a replica: read %q, %+v", from, g.Stats())
		}
	})
}

// Reads at the same time share a question, but none takes an answer that may be from before it came.
func TestOneQuestionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pair{end: 100, replayed: 100, answers: 10 * time.Millisecond}
		g, read := p.gate(t, Options{Wait: -1, Source: "db"})
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := read(); got != "replica" {
				t.Errorf("the first: %s", got)
			}
		})
		synctest.Wait()
		p.set(func() { p.end = 200 }) // a commit, and its drop
		for range 50 {
			wg.Go(func() {
				tok, err := g.Token(t.Context())
				if err != nil || tok.Position().LSN != 200 {
					t.Errorf("a token of %v, %v; want 200: it came after that", tok, err)
				}
			})
		}
		if got := read(); got != "primary: lagging" {
			t.Errorf("a read that came after the commit: %s; want the primary", got)
		}
		wg.Wait()
		if n := g.Stats().Asked; n != 2 {
			t.Errorf("the primary was asked %d times; want 2", n)
		}
	})
}

func TestBadOptions(t *testing.T) {
	for _, o := range []Options{{Source: "a b"}, {Timeout: -1}} {
		if _, err := NewGate(nil, o); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%+v: %v; want an error", o, err)
		}
	}
	if _, err := New(nil, nil, Options{}); err == nil {
		t.Error("no primary, and no error")
	}
}
