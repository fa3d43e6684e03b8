package mysqlcdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// mariadb starts a server whose events have names of columns, unless it is told otherwise.
func mariadb(t *testing.T, settings ...string) *testenv.MariaDBServer {
	return testenv.MariaDB(t, append([]string{"binlog-row-metadata=FULL", "max-connections=60", "sync-binlog=0"}, settings...)...)
}

// A db is a database of one test.
type db struct {
	t    *testing.T
	my   *testenv.MariaDBServer
	name string
	addr string // another way to the server
	conn *link
}

var databases atomic.Int64

func database(t *testing.T, my *testenv.MariaDBServer) *db {
	t.Helper()
	d := &db{t: t, my: my, name: fmt.Sprintf("db%d", databases.Add(1)), addr: my.Addr()}
	my.SQL(t, "create database "+d.name)
	d.conn = d.dial()
	t.Cleanup(func() { _ = d.conn.Close() })
	return d
}

func (d *db) url() string { return "mariadb://freshet@" + d.addr + "/" }

// dial makes a connection for a session of its own.
func (d *db) dial() *link {
	d.t.Helper()
	s, err := New("mariadb://freshet@"+d.my.Addr()+"/", Options{Match: func(string, string) bool { return true }})
	if err != nil {
		d.t.Fatal(err)
	}
	l, err := s.connect(context.Background())
	if err == nil {
		_, err = l.query(context.Background(), "use "+d.name+"; set session sql_mode = default, time_zone = default")
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return l
}

// sql runs statements, each by itself if it says so, and returns the last result as text.
func (d *db) sql(statements string) string {
	d.t.Helper()
	out, err := run(d.conn, statements)
	if err != nil {
		d.t.Fatalf("%s: %v", statements, err)
	}
	return out
}

func run(conn *link, statements string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	rows, err := conn.query(ctx, statements)
	var lines []string
	for _, r := range rows {
		lines = append(lines, strings.Join(r, "|"))
	}
	return strings.Join(lines, "\n"), err
}

// reconnect makes a new connection after the server was away.
func (d *db) reconnect() {
	d.t.Helper()
	_ = d.conn.Close()
	d.conn = d.dial()
}

// source makes a source over all tables of the database.
func (d *db) source(change ...func(*Options)) *Source {
	d.t.Helper()
	o := Options{Match: func(schema, _ string) bool { return schema == d.name }}
	for _, c := range change {
		c(&o)
	}
	s, err := New(d.url(), o)
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// A following is a stream in a test.
type following struct {
	t *testing.T
	d *db
	cdc.Stream
	n   uint64
	pos cdc.Position // after the last transaction or tick
}

func (d *db) open(s cdc.Source, from cdc.Position) *following {
	d.t.Helper()
	r, err := d.tryOpen(s, from)
	if err != nil {
		d.t.Fatalf("open after %q: %v", from, err)
	}
	return r
}

func (d *db) tryOpen(s cdc.Source, from cdc.Position) (*following, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := s.Open(ctx, from)
	if err != nil {
		return nil, err
	}
	d.t.Cleanup(func() { st.Close() })
	return &following{t: d.t, d: d, Stream: st, pos: st.Start()}, nil
}

// after runs statements and returns the events up to the end of the feed, a line each. Transactions are in brackets.
func (r *following) after(statements string) []string {
	r.t.Helper()
	if statements != "" {
		r.d.sql(statements)
	}
	lines, err := r.read()
	if err != nil {
		r.t.Fatalf("after %s: %v; had %q", statements, err, lines)
	}
	return lines
}

// read returns all events up to now.
func (r *following) read() (lines []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.n++
	if err := r.Tick(ctx, r.n); err != nil {
		return nil, err
	}
	for {
		var ev cdc.Event
		if err := r.Next(ctx, &ev); err != nil {
			return lines, err
		}
		switch ev.Kind {
		case cdc.Begin:
			lines = append(lines, "[")
		case cdc.Commit:
			lines = append(lines, "]")
			r.pos = ev.Tx.Pos
		case cdc.Changed:
			lines = append(lines, line(r.d.name, &ev.Change))
		case cdc.Ticked:
			r.pos = ev.Pos
			if ev.Tick != r.n {
				return lines, fmt.Errorf("tick %d came; want %d", ev.Tick, r.n)
			}
			return lines, nil
		}
	}
}

// begin reads up to the next commit, and returns its position.
func (r *following) begin() cdc.Position {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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

// line writes a change: "update t (id=1 name=?) (id=1 name=x)". ? is unknown, = unchanged, ~ null.
func line(schema string, c *cdc.Change) string {
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

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func isGap(t *testing.T, what string, err error, text string) {
	t.Helper()
	if !errors.Is(err, cdc.ErrGap) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v; want ErrGap and %q", what, err, text)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

// discard is a log of which only what matters is shown, if the test fails.
func discard(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
