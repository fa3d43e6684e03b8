package pgcdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

func postgres(t *testing.T, settings ...string) *testenv.PostgresServer {
	return testenv.Postgres(t, append([]string{
		"wal_level=logical", "max_prepared_transactions=5", "max_replication_slots=40", "max_wal_senders=40", "max_connections=90",
	}, settings...)...)
}

// A db is a database of one test.
type db struct {
	t    *testing.T
	pg   *testenv.PostgresServer
	name string
	addr string // another way to the server
	conn *pgconn.PgConn
}

var databases atomic.Int64

func database(t *testing.T, pg *testenv.PostgresServer) *db {
	t.Helper()
	d := &db{t: t, pg: pg, name: fmt.Sprintf("db%d", databases.Add(1)), addr: pg.Addr()}
	pg.SQL(t, "create database "+d.name)
	d.connect()
	t.Cleanup(func() { d.conn.Close(context.Background()) })
	t.Cleanup(func() { d.dropSlots() })
	return d
}

func (d *db) url() string {
	u, _ := url.Parse(d.pg.URLAt(d.addr))
	u.Path = d.name
	return u.String()
}

func (d *db) connect() {
	d.t.Helper()
	d.conn = d.dial()
}

// dial makes a connection for a session of its own.
func (d *db) dial() *pgconn.PgConn {
	d.t.Helper()
	conn, err := pgconn.Connect(context.Background(), strings.Replace(d.url(), d.addr, d.pg.Addr(), 1))
	if err != nil {
		d.t.Fatal(err)
	}
	return conn
}

func (d *db) dropSlots() {
	d.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database() and not active")
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

func run(conn *pgconn.PgConn, statements string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	res, err := conn.Exec(ctx, statements).ReadAll()
	if err != nil || len(res) == 0 {
		return "", err
	}
	var lines []string
	for _, row := range res[len(res)-1].Rows {
		var cells []string
		for _, c := range row {
			cells = append(cells, string(c))
		}
		lines = append(lines, strings.Join(cells, "|"))
	}
	return strings.Join(lines, "\n"), nil
}

// stall has commits wait for a synchronous standby that never comes, and returns when that is in force. Stop lets them go on.
func (d *db) stall() (stop func()) {
	d.t.Helper()
	set := func(names string) {
		d.sql("alter system set synchronous_standby_names = '" + names + "'")
		d.sql("select pg_reload_conf()")
	}
	set("never")
	await(d.t, "commits wait", func() bool {
		probe := d.dial()
		defer probe.Close(context.Background())
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := probe.Exec(ctx, "select pg_logical_emit_message(true, 'probe', '')").ReadAll()
		return err != nil && d.sql("select count(*) > 0 from pg_stat_activity where wait_event = 'SyncRep'") == "t"
	})
	return sync.OnceFunc(func() { set("") })
}

// source makes a source over all tables of the schema public, with a slot of the database's name.
func (d *db) source(change ...func(*Options)) *Source {
	d.t.Helper()
	o := Options{Slot: d.name, Create: true, Match: func(schema, _ string) bool { return schema == "public" }}
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
			lines = append(lines, line(&ev.Change))
		case cdc.Ticked:
			r.pos = ev.Pos
			if ev.Tick != r.n {
				return lines, fmt.Errorf("tick %d came; want %d", ev.Tick, r.n)
			}
			return lines, nil
		}
	}
}

// line writes a change: "update t (id=1 name=?) (id=1 name=x)". ? is unknown, = unchanged, ~ null.
func line(c *cdc.Change) string {
	var b strings.Builder
	b.WriteString(c.Op.String())
	if c.Table != nil {
		b.WriteString(" " + strings.TrimPrefix(c.Table.String(), "public."))
	}
	for _, row := range [][]cdc.Value{c.Old, c.New} {
		if row == nil {
			continue
		}
		var cells []string
		for i, v := range row {
			text := map[cdc.State]string{cdc.Unknown: "?", cdc.Unchanged: "=", cdc.Null: "~", cdc.Known: string(v.Text)}[v.State]
			if len(text) > 40 {
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
