package sqlitecdc

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/feedtest"
)

// TestMain is also the program of other processes: it runs statements, and with a "crash" at the end dies in the middle of what it does.
func TestMain(m *testing.M) {
	if path := os.Getenv("SQLITECDC_TEST_FILE"); path != "" {
		other(path, os.Getenv("SQLITECDC_TEST_SQL"))
		return
	}
	goleak.VerifyTestMain(m)
}

func other(path, statements string) {
	d, err := sql.Open("sqlite3", dsn(path))
	if err == nil {
		d.SetMaxOpenConns(1)
		_, err = d.Exec(strings.TrimSuffix(statements, "crash"))
	}
	if strings.HasSuffix(statements, "crash") && err == nil {
		err = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// process runs statements in another process.
func (d *db) process(statements string) error {
	d.t.Helper()
	self, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	c := osexec.Command(self)
	c.Env = append(os.Environ(), "SQLITECDC_TEST_FILE="+d.path, "SQLITECDC_TEST_SQL="+statements)
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// A db is a database file of one test.
type db struct {
	t    *testing.T
	path string
	exec func(string) (string, error)
}

// dsn has no fsync: power doesn't fail in tests.
func dsn(path string) string {
	return "file:" + path + "?_pragma=busy_timeout(20000)&_pragma=synchronous(off)&_pragma=foreign_keys(on)"
}

func database(t *testing.T) *db {
	t.Helper()
	d := &db{t: t, path: filepath.Join(t.TempDir(), "test.db")}
	d.exec = d.Session()
	d.sql("pragma journal_mode = wal")
	return d
}

// sql runs statements on one connection, and returns the last result as text.
func (d *db) sql(statements string) string {
	d.t.Helper()
	out, err := d.exec(statements)
	if err != nil {
		d.t.Fatalf("%s: %v", statements, err)
	}
	return out
}

// Schema, Exec, Session, Source and Stall are for package feedtest.
func (d *db) Schema() string { return "main" }

func (d *db) Exec(statements string) {
	d.t.Helper()
	d.sql(statements)
}

func (d *db) Session() func(statements string) (string, error) {
	d.t.Helper()
	pool, err := sql.Open("sqlite3", dsn(d.path))
	if err != nil {
		d.t.Fatal(err)
	}
	pool.SetMaxOpenConns(1) // one connection: what is not committed is its own
	d.t.Cleanup(func() { pool.Close() })
	return func(statements string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*feedtest.Patience)
		defer cancel()
		if !strings.HasPrefix(statements, "select") && !strings.HasPrefix(statements, "pragma") {
			_, err := pool.ExecContext(ctx, statements)
			return "", err
		}
		c, err := pool.Conn(ctx)
		if err != nil {
			return "", err
		}
		defer c.Close()
		rows, err := query(ctx, c, statements)
		var lines []string
		for _, r := range rows {
			lines = append(lines, strings.Join(r, "|"))
		}
		return strings.Join(lines, "\n"), err
	}
}

func (d *db) Source(match func(schema, table string) bool) cdc.Source {
	d.t.Helper()
	return d.source(func(o *Options) { o.Match = match })
}

// Stall is not possible: what is in the outbox is visible.
func (d *db) Stall() func() { panic("sqlite doesn't stall") }

// source makes a source of all tables.
func (d *db) source(change ...func(*Options)) *Source {
	d.t.Helper()
	o := Options{Match: func(string, string) bool { return true }, Poll: 2 * time.Millisecond}
	for _, c := range change {
		c(&o)
	}
	s, err := New("sqlite3", dsn(d.path), o)
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

func (d *db) open(s cdc.Source, from cdc.Position) *feedtest.Reader {
	d.t.Helper()
	return feedtest.Open(d.t, d, s, from)
}

func (d *db) tryOpen(s cdc.Source, from cdc.Position) (*feedtest.Reader, error) {
	return feedtest.TryOpen(d.t, d, s, from)
}

var await, same, isGap = feedtest.Await, feedtest.Same, feedtest.IsGap
