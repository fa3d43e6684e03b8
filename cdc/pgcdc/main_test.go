package pgcdc

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/feedtest"
	"github.com/freshetdev/freshet/internal/testenv"
)

func TestMain(m *testing.M) {
	if redis := os.Getenv(readerEnv); redis != "" {
		if err := readForSpeed(redis); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const patience = feedtest.Patience

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

// Stall has commits wait for a synchronous standby that never comes, and returns when that is in force. Stop lets them go on.
func (d *db) Stall() (stop func()) {
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

// Schema, Exec, Session, Source and Stall are for package feedtest.
func (d *db) Schema() string { return "public" }

func (d *db) Exec(statements string) {
	d.t.Helper()
	d.sql(statements)
}

func (d *db) Session() func(statements string) (string, error) {
	d.t.Helper()
	conn := d.dial()
	d.t.Cleanup(func() { conn.Close(context.Background()) })
	return func(statements string) (string, error) { return run(conn, statements) }
}

func (d *db) Source(match func(schema, table string) bool) cdc.Source {
	d.t.Helper()
	return d.source(func(o *Options) { o.Match = match })
}

func (d *db) open(s cdc.Source, from cdc.Position) *feedtest.Reader {
	d.t.Helper()
	return feedtest.Open(d.t, d, s, from)
}

func (d *db) tryOpen(s cdc.Source, from cdc.Position) (*feedtest.Reader, error) {
	return feedtest.TryOpen(d.t, d, s, from)
}

var await, same, isGap = feedtest.Await, feedtest.Same, feedtest.IsGap
