package sqlitecdc

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// Options of a [Source]. A field that is zero gets its default.
type Options struct {
	// Match says which tables are wanted: cdc.Rules.Match. The schema is always "main". Required.
	Match func(schema, table string) bool

	// Name is what the names of the outbox, its helpers and the triggers begin with, the same for all that stand by for each other. Pumps that
	// have nothing to do with each other, such as processes with a store of their own, take different names; each costs its own triggers. Lower-case
	// letters, digits and underscores, a letter first. Default "freshet".
	Name string

	// Poll is the time between two looks at the file, which cost a few microseconds each as long as nothing was written. So long may it take
	// until what another process wrote is noticed; see [Source.Notify] for this one. Default 10 ms, at least 1 ms.
	Poll time.Duration

	// MaxRows is how many changes the outbox keeps while no pump takes them, so that the disk doesn't fill; what is beyond it goes, the oldest
	// first, which is a gap. Writers see to it themselves. The same for all of one name. Default 1,000,000, some 100 MB; at least 100.
	MaxRows int64
}

// A Source is an SQLite database as a feed of its changes. Its methods are safe for concurrent use.
type Source struct {
	driver, dsn string
	opts        Options
	names       names

	mu    sync.Mutex
	wakes map[chan struct{}]bool // of the streams that are open; guarded by mu
	stats Stats                  // guarded by mu
}

var _ cdc.Source = (*Source)(nil)

// Stats are counts since New.
type Stats struct {
	Opened  uint64 // streams
	Altered uint64 // tables whose triggers were made, or made anew
	Busy    uint64 // looks that a writer kept from reading; they are repeated
}

// New returns a source for a database file: the name of a driver of package database/sql that the program has imported, and what it takes as the name
// of a data source. It connects to nothing. Each stream opens the file anew, twice, with connections of its own: a connection that is
// kept in a pool would not notice that another file took the place of its own.
//
// The file is made if it isn't there, unless the data source name says otherwise.
func New(driver, dsn string, o Options) (*Source, error) {
	if !slices.Contains(sql.Drivers(), driver) {
		return nil, fmt.Errorf("sqlitecdc: driver is %q; want one that the program imports: %q", driver, sql.Drivers())
	}
	if o.Match == nil {
		return nil, errors.New("sqlitecdc: Match is nil; want what says which tables to follow")
	}
	if o.Name == "" {
		o.Name = "freshet"
	}
	if strings.Trim(o.Name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || len(o.Name) > 30 || o.Name[0] < 'a' || strings.HasPrefix(o.Name, "sqlite_") {
		return nil, fmt.Errorf("sqlitecdc: Name is %q; want 1 to 30 lower-case letters, digits and underscores, a letter first", o.Name)
	}
	switch {
	case o.Poll == 0:
		o.Poll = 10 * time.Millisecond
	case o.Poll < time.Millisecond:
		return nil, fmt.Errorf("sqlitecdc: Poll is %v; want at least 1ms", o.Poll)
	}
	switch {
	case o.MaxRows == 0:
		o.MaxRows = 1_000_000
	case o.MaxRows < 100:
		return nil, fmt.Errorf("sqlitecdc: MaxRows is %d; want at least 100", o.MaxRows)
	}
	return &Source{driver: driver, dsn: dsn, opts: o, names: newNames(o.Name), wakes: make(map[chan struct{}]bool)}, nil
}

// Exclusive reports false: any number may read the outbox, so pumps of one name stand by for each other by their marks. A lock in the file would
// have to be renewed, and so written, every second.
func (s *Source) Exclusive() bool { return false }

// Notify says that something was committed in this process: streams look at once rather than after Poll. It never blocks, so it may be
// called by a commit hook.
func (s *Source) Notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.wakes {
		wake(w)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Stats returns counts.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Source) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// gap wraps why changes are gone.
func gap(format string, args ...any) error {
	return fmt.Errorf("sqlitecdc: %w: %w", fmt.Errorf(format, args...), cdc.ErrGap)
}

// isBusy reports whether an error says that another connection has a lock. Drivers have no common type for that, but SQLite's own words in
// their errors: "database is locked", "database table is locked".
func isBusy(err error) bool { return err != nil && strings.Contains(err.Error(), " is locked") }

// busyTime is how long a statement waits for a lock by itself. What may wait longer is repeated.
const busyTime = 100 * time.Millisecond

// A file is a database file that is open.
type file struct {
	db   *sql.DB
	path string
	info os.FileInfo // of the file that the connections have
	a, b *sql.Conn
}

// open opens the file, with two connections that are surely to what lies at its path now.
func (s *Source) open(ctx context.Context) (f *file, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("sqlitecdc: open: %w", err)
		}
	}()
	var path string
	err = s.briefly(ctx, func(c *sql.Conn) error {
		rows, err := query(ctx, c, `SELECT file FROM pragma_database_list WHERE name = 'main'`)
		if err == nil && (len(rows) != 1 || rows[0][0] == "") {
			err = errors.New("the database is in memory; want a file")
		}
		if err == nil {
			path = rows[0][0]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	before, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open(s.driver, s.dsn)
	if err != nil {
		return nil, err
	}
	f = &file{db: db, path: path, info: before}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	for _, c := range []**sql.Conn{&f.a, &f.b} {
		if *c, err = prepared(ctx, db); err != nil {
			return nil, err
		}
	}
	return f, f.same()
}

// same looks whether the file is still the one that lies at the path.
func (f *file) same() error {
	now, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if !os.SameFile(f.info, now) {
		return gap("another file took the place of %s", f.path)
	}
	return nil
}

func (f *file) close() error {
	var errs []error
	for _, c := range []*sql.Conn{f.a, f.b} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(append(errs, f.db.Close())...)
}

// prepared makes a connection that waits for locks, and sees nothing that didn't commit.
func prepared(ctx context.Context, db *sql.DB) (*sql.Conn, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range []string{fmt.Sprintf(`PRAGMA busy_timeout = %d`, busyTime.Milliseconds()), `PRAGMA read_uncommitted = 0`} {
		if err := exec(ctx, c, p); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// briefly opens the file for one thing.
func (s *Source) briefly(ctx context.Context, f func(*sql.Conn) error) (err error) {
	db, err := sql.Open(s.driver, s.dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	c, err := prepared(ctx, db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return f(c)
}

// exec runs a statement.
func exec(ctx context.Context, c *sql.Conn, statement string, args ...any) error {
	_, err := c.ExecContext(ctx, statement, args...)
	return err
}

// query returns all rows as text; null is empty.
func query(ctx context.Context, c *sql.Conn, statement string, args ...any) (all [][]string, err error) {
	rows, err := c.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		cells := make([]sql.NullString, len(names))
		at := make([]any, len(names))
		for i := range cells {
			at[i] = &cells[i]
		}
		if err := rows.Scan(at...); err != nil {
			return nil, err
		}
		row := make([]string, len(names))
		for i, c := range cells {
			row[i] = c.String
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// inTx runs f in a transaction: "BEGIN" for one that reads, "BEGIN IMMEDIATE" for one that writes. While somebody else
// writes it waits, until ctx ends.
func inTx(ctx context.Context, c *sql.Conn, begin string, f func() error) error {
	for {
		err := exec(ctx, c, begin)
		if err == nil {
			if err = f(); err == nil {
				err = exec(ctx, c, `COMMIT`)
			}
			if err != nil {
				_ = exec(context.WithoutCancel(ctx), c, `ROLLBACK`) // it may be over already
			}
		}
		if !isBusy(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// newHistory makes the identity of an outbox.
func newHistory() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
