// Package feedtest is what the tests of sources (cdc/pgcdc, cdc/mysqlcdc, cdc/sqlitecdc) have in common: a stream whose events are read as
// text, and a fleet of instances and pumps over a database. The contract of sources is in cdc/cdctest.
package feedtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// Patience is how long a test waits for what must come.
const Patience = 30 * time.Second

// A Reader is a stream in a test.
type Reader struct {
	cdc.Stream
	Pos cdc.Position // after the last transaction or tick

	t    *testing.T
	d    Database
	tick uint64
}

// A Database is what a test has of its own on a server.
type Database interface {
	// Schema is where its tables are. It is left out of their names in events.
	Schema() string

	// Exec runs statements, or fails the test.
	Exec(statements string)

	// Session makes a connection, closed when the test ends, and returns what runs statements there, one caller at a time.
	Session() func(statements string) (result string, err error)

	// Source makes a source of its tables.
	Source(match func(schema, table string) bool) cdc.Source

	// Stall has commits be in the log and not visible, until stop is called: they wait for a replica that never acknowledges.
	Stall() (stop func())
}

// Open opens a stream, or fails the test. It is closed when the test ends.
func Open(t *testing.T, d Database, s cdc.Source, from cdc.Position) *Reader {
	t.Helper()
	r, err := TryOpen(t, d, s, from)
	if err != nil {
		t.Fatalf("open after %q: %v", from, err)
	}
	return r
}

// TryOpen is Open that may fail.
func TryOpen(t *testing.T, d Database, s cdc.Source, from cdc.Position) (*Reader, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	st, err := s.Open(ctx, from)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = st.Close() }) // a second time, most often
	return &Reader{Stream: st, Pos: st.Start(), t: t, d: d}, nil
}

// After runs statements and returns the events up to the end of the feed, a line each. Transactions are in brackets.
func (r *Reader) After(statements string) []string {
	r.t.Helper()
	if statements != "" {
		r.d.Exec(statements)
	}
	lines, err := r.Read()
	if err != nil {
		r.t.Fatalf("after %s: %v; had %q", statements, err, lines)
	}
	return lines
}

// Read returns all events up to now.
func (r *Reader) Read() (lines []string, err error) {
	err = r.Each(func(ev *cdc.Event) {
		switch ev.Kind {
		case cdc.Begin:
			lines = append(lines, "[")
		case cdc.Commit:
			lines = append(lines, "]")
		case cdc.Changed:
			lines = append(lines, Line(r.d.Schema(), &ev.Change))
		}
	})
	return lines, err
}

// Each calls f with each event up to now.
func (r *Reader) Each(f func(*cdc.Event)) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	r.tick++
	if err := r.Tick(ctx, r.tick); err != nil {
		return err
	}
	for {
		var ev cdc.Event
		if err := r.Next(ctx, &ev); err != nil {
			return err
		}
		f(&ev)
		switch ev.Kind {
		case cdc.Commit:
			r.Pos = ev.Tx.Pos
		case cdc.Ticked:
			r.Pos = ev.Pos
			if ev.Tick != r.tick {
				return fmt.Errorf("tick %d came; want %d", ev.Tick, r.tick)
			}
			return nil
		}
	}
}

// Commit reads up to the next commit, and returns its position.
func (r *Reader) Commit() cdc.Position {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for {
		var ev cdc.Event
		if err := r.Next(ctx, &ev); err != nil {
			r.t.Fatal(err)
		}
		if ev.Kind == cdc.Commit {
			return ev.Tx.Pos
		}
	}
}

// Line writes a change: "update t (id=1 name=?) (id=1 name=x)". ? is unknown, = unchanged, ~ null.
func Line(schema string, c *cdc.Change) string {
	var b strings.Builder
	b.WriteString(c.Op.String())
	if c.Table != nil {
		b.WriteString(" " + strings.TrimPrefix(c.Table.String(), schema+"."))
	}
	for _, row := range [][]cdc.Value{c.Old, c.New} {
		if row == nil {
			continue
		}
		var cells []string
		for i, v := range row {
			text := map[cdc.State]string{cdc.Unknown: "?", cdc.Unchanged: "=", cdc.Null: "~", cdc.Known: string(v.Text)}[v.State]
			if len(text) > 60 {
				text = fmt.Sprintf("<%d>", len(text))
			}
			cells = append(cells, c.Table.Columns[i].Name+"="+text)
		}
		b.WriteString(" (" + strings.Join(cells, " ") + ")")
	}
	if c.Op == cdc.OpMessage {
		b.WriteString(" " + string(c.Message))
	}
	return b.String()
}

// Same compares events.
func Same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// IsGap wants a gap, with a text in its error.
func IsGap(t *testing.T, what string, err error, text string) {
	t.Helper()
	if !errors.Is(err, cdc.ErrGap) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v; want ErrGap and %q", what, err, text)
	}
}

// Await waits until ok.
func Await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for: %s", Patience, what)
		}
	}
}

// Log is a logger that writes to the test's log.
func Log(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
