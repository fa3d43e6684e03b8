package demo

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver" // SQLite without a C compiler
)

// Driver is the name of the driver of package database/sql.
const Driver = "sqlite3"

// DSN is the data source name of a file that is there.
func DSN(path string) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath(), RawQuery: "mode=rw&_pragma=busy_timeout(5000)"}
	return u.String()
}

var (
	names  = []string{"Ada", "Alan", "Barbara", "Donald", "Edsger", "Frances", "Ken", "Leslie", "Margaret", "Niklaus"}
	cities = []string{"Delft", "Lisbon", "Oslo", "Porto", "Turin", "Vienna", "Zurich"}
)

// folders are where demos keep their files.
const folders = "freshet-demo-"

// Create makes a folder with a database of a hundred profiles in it, and opens that. Remove closes it and removes the folder.
func Create(ctx context.Context) (path string, db *sql.DB, remove func() error, err error) {
	dir, err := os.MkdirTemp("", folders)
	if err != nil {
		return "", nil, nil, err
	}
	path = filepath.Join(dir, "users.db")
	remove = func() error { return os.RemoveAll(dir) }
	if err := os.WriteFile(path, nil, 0o600); err != nil { // SQLite takes an empty file for an empty database
		return "", nil, nil, errors.Join(err, remove())
	}
	if db, err = sql.Open(Driver, DSN(path)); err != nil {
		return "", nil, nil, errors.Join(err, remove())
	}
	remove = func() error { return errors.Join(db.Close(), os.RemoveAll(dir)) }
	if err := fill(ctx, db); err != nil {
		return "", nil, nil, errors.Join(err, remove())
	}
	return path, db, remove, nil
}

func fill(ctx context.Context, db *sql.DB) error {
	for _, statement := range []string{
		`PRAGMA journal_mode = WAL`,
		`CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, city TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 1)`,
		`CREATE TRIGGER versions AFTER UPDATE OF name, email, city ON users BEGIN UPDATE users SET version = version + 1 WHERE id = NEW.id; END`,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for id := 1; id <= 100; id++ {
		_, err := tx.ExecContext(ctx, `INSERT INTO users (id, name, email, city) VALUES (?, ?, ?, ?)`,
			id, names[(id-1)%len(names)], fmt.Sprintf("user%d@example.com", id), cities[id%len(cities)])
		if err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// Newest returns the file of the demo that was started last.
func Newest() (path string, err error) {
	files, err := filepath.Glob(filepath.Join(os.TempDir(), folders+"*", "users.db"))
	if err != nil {
		return "", err
	}
	var at time.Time
	for _, f := range files {
		if info, err := os.Stat(filepath.Dir(f)); err == nil && (path == "" || info.ModTime().After(at)) {
			path, at = f, info.ModTime()
		}
	}
	if path == "" {
		return "", errors.New("no demo is running; start one with: freshet demo")
	}
	return path, nil
}

// patience is how long Run waits for the gateway, which takes a tenth of a second on a machine that isn't busy. Tests have less.
var patience = 10 * time.Second

// Run runs a statement on a demo's database, from outside of the demo, and writes what comes of it. If it changed something it returns once the gateway has dropped
// what depends on that: it then deletes the changes from its outbox, but for the last.
func Run(ctx context.Context, path, statement string, w io.Writer) error {
	db, err := sql.Open(Driver, DSN(path))
	if err != nil {
		return err
	}
	defer db.Close()
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := show(ctx, c, statement, w); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		var left int
		switch err := c.QueryRowContext(ctx, `SELECT count(*) FROM freshet_changes`).Scan(&left); {
		case err == nil && left <= 1:
			return nil
		case time.Now().After(end):
			return errors.Join(fmt.Errorf("nobody took notice in %v; is this demo still running?", patience), err)
		}
	}
}

// show writes the rows that come of a statement, or how many it changed.
func show(ctx context.Context, c *sql.Conn, statement string, w io.Writer) error {
	rows, err := c.QueryContext(ctx, statement)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(columns) > 0 {
		fmt.Fprintln(t, strings.Join(columns, "\t"))
	}
	for rows.Next() {
		cells := make([]sql.NullString, len(columns))
		at := make([]any, len(columns))
		for i := range cells {
			at[i] = &cells[i]
		}
		if err := rows.Scan(at...); err != nil {
			return err
		}
		for i, cell := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, cell.String)
		}
		fmt.Fprintln(t)
	}
	if err := errors.Join(rows.Err(), t.Flush()); err != nil || len(columns) > 0 {
		return err
	}
	if err := rows.Close(); err != nil {
		return err
	}
	var changed int
	if err := c.QueryRowContext(ctx, `SELECT changes()`).Scan(&changed); err != nil {
		return err
	}
	what := "rows"
	if changed == 1 {
		what = "row"
	}
	fmt.Fprintf(w, "%d %s changed\n", changed, what)
	return nil
}
