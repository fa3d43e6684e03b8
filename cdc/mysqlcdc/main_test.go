package mysqlcdc

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/feedtest"
	"github.com/freshetdev/freshet/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = feedtest.Patience

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

// Schema, Exec, Session, Source and Stall are for package feedtest.
func (d *db) Schema() string { return d.name }

func (d *db) Exec(statements string) {
	d.t.Helper()
	d.sql(statements)
}

func (d *db) Session() func(statements string) (string, error) {
	d.t.Helper()
	conn := d.dial()
	d.t.Cleanup(func() { _ = conn.Close() })
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
