package cdctest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// A Database is a scripted database in memory: tables, a log of commits, and what real ones do to whoever follows them. A
// transaction becomes durable, and its changes come out of the sources, before it becomes visible to readers, as
// with PostgreSQL and MySQL; Lag and Hold say for how long.
//
// It uses time.Now and timers, so it works in a testing/synctest bubble. All methods are safe for concurrent use.
type Database struct {
	mu      sync.Mutex
	history int                          // another one: another timeline
	tables  map[string]*cdc.Table        // by "schema.name"
	rows    map[string]map[string]string // visible: by table, and by the text of the first column, the row as text
	log     []commit
	purged  int // so many commits can't be had any more
	visible int // so many commits are
	acked   int
	lag     time.Duration
	held    int
	timers  int           // commits on their way to be visible
	change  chan struct{} // closed when anything changes
	broken  error         // streams end with it
	readers map[*stream]bool
}

type commit struct {
	tx      cdc.Tx
	changes []cdc.Change
	bad     bool
}

// NewDatabase returns a database with tables. The first column of each is its key.
func NewDatabase(tables ...*cdc.Table) *Database {
	d := &Database{
		history: 1, tables: make(map[string]*cdc.Table), rows: make(map[string]map[string]string),
		change: make(chan struct{}), readers: make(map[*stream]bool),
	}
	for _, t := range tables {
		d.tables[t.String()] = t
		d.rows[t.String()] = make(map[string]string)
	}
	return d
}

// SetLag sets how long after it is durable a transaction becomes visible.
func (d *Database) SetLag(lag time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lag = lag
}

// Hold keeps transactions from becoming visible, as a synchronous standby that doesn't answer, until the function it
// returns is called.
func (d *Database) Hold() (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held++
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.held--
		d.showLocked()
	})
}

// Commit commits a transaction. It returns when the transaction is durable and, unless visibility is held or lags, visible.
func (d *Database) Commit(changes ...cdc.Change) cdc.Tx {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.log) + 1
	tx := cdc.Tx{ID: strconv.Itoa(n), Pos: d.pos(n), Committed: time.Now()}
	d.log = append(d.log, commit{tx: tx, changes: slices.Clone(changes)})
	if d.lag > 0 {
		d.timers++
		time.AfterFunc(d.lag, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.timers--
			d.showLocked()
		})
	}
	d.showLocked()
	d.changedLocked()
	return tx
}

// Garble makes the last transaction unreadable.
func (d *Database) Garble() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log[len(d.log)-1].bad = true
}

func (d *Database) pos(n int) cdc.Position { return cdc.Position(fmt.Sprintf("%d/%d", d.history, n)) }

// showLocked makes visible what may be: in order, all but the last ones that lag.
func (d *Database) showLocked() {
	if d.held > 0 {
		return
	}
	for d.visible < len(d.log)-d.timers {
		c := d.log[d.visible]
		d.visible++
		for _, ch := range c.changes {
			d.writeLocked(ch)
		}
	}
	d.changedLocked()
}

func (d *Database) writeLocked(c cdc.Change) {
	if c.Table == nil {
		return
	}
	rows := d.rows[c.Table.String()]
	switch c.Op {
	case cdc.OpTruncate:
		clear(rows)
	case cdc.OpInsert, cdc.OpUpdate, cdc.OpDelete:
		if len(c.Old) > 0 {
			delete(rows, string(c.Old[0].Text))
		}
		if len(c.New) > 0 {
			rows[string(c.New[0].Text)] = RowText(c.New)
		}
	}
}

// RowText is a row as text.
func RowText(vs []cdc.Value) string {
	var b strings.Builder
	for i, v := range vs {
		if i > 0 {
			b.WriteByte('|')
		}
		switch v.State {
		case cdc.Known:
			b.Write(v.Text)
		case cdc.Null:
			b.WriteString("NULL")
		default:
			b.WriteString("?")
		}
	}
	return b.String()
}

// Read returns a row as a new snapshot sees it; empty if there is none.
func (d *Database) Read(table, key string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows[table][key]
}

// Rows returns all rows of a table as a new snapshot sees them, by key.
func (d *Database) Rows(table string) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.rows[table])
}

// Purge loses the log up to now, as a slot that was dropped or a binlog that was purged.
func (d *Database) Purge() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.purged = len(d.log)
	d.breakLocked(fmt.Errorf("the slot is gone: %w", cdc.ErrGap))
}

// Promote begins another history, with the same rows: a standby took over.
func (d *Database) Promote() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.history++
	d.breakLocked(errors.New("cdctest: the server went away"))
}

// Cut ends all streams.
func (d *Database) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.breakLocked(errors.New("cdctest: connection lost"))
}

// Down makes the database unreachable until the function it returns is called.
func (d *Database) Down() (up func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = errors.New("cdctest: connection refused")
	d.breakLocked(d.broken)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.broken = nil
	}
}

func (d *Database) breakLocked(err error) {
	for s := range d.readers {
		s.err = err
	}
	d.changedLocked()
}

func (d *Database) changedLocked() {
	close(d.change)
	d.change = make(chan struct{})
}

// Acked returns how many commits need not be kept any more.
func (d *Database) Acked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.acked
}

// Commits returns how many there were.
func (d *Database) Commits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.log)
}

// Source returns a source of the database. If it is exclusive, it admits one stream at a time, of all such sources.
func (d *Database) Source(exclusive bool) cdc.Source { return &source{d: d, exclusive: exclusive} }

type source struct {
	d         *Database
	exclusive bool
	skip      int // commits up to here were told to be unreadable
}

func (s *source) Exclusive() bool { return s.exclusive }

func (s *source) Tables(_ context.Context, match func(schema, name string) bool) (ts []*cdc.Table, err error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.d.tables)) {
		if t := s.d.tables[name]; match(t.Schema, t.Name) {
			ts = append(ts, t)
		}
	}
	return ts, nil
}

func (s *source) Open(ctx context.Context, from cdc.Position) (cdc.Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return nil, d.broken
	}
	if s.exclusive {
		for r := range d.readers {
			if r.exclusive {
				return nil, fmt.Errorf("cdctest: %w", cdc.ErrBusy)
			}
		}
	}
	at := max(d.acked, d.purged, s.skip)
	if from != "" {
		history, n, _ := strings.Cut(string(from), "/")
		i, err := strconv.Atoi(n)
		switch {
		case err != nil || history != strconv.Itoa(d.history):
			return nil, fmt.Errorf("cdctest: position %q is of another history: %w", from, cdc.ErrGap)
		case i < max(d.purged, d.acked) || i > len(d.log):
			return nil, fmt.Errorf("cdctest: position %q: the log begins at %d: %w", from, max(d.purged, d.acked), cdc.ErrGap)
		}
		at = i
	}
	st := &stream{d: d, src: s, start: d.pos(at), at: at, exclusive: s.exclusive}
	d.readers[st] = true
	return st, nil
}

// A stream delivers the commits after at.
type stream struct {
	d         *Database
	src       *source
	start     cdc.Position
	exclusive bool

	// guarded by d.mu
	at     int // commits delivered, or begun
	within int // events delivered of the one that is being delivered; zero if none is
	tick   uint64
	end    int // where tick is due
	err    error
	closed bool
}

func (s *stream) Start() cdc.Position { return s.start }

// wait waits until ok, which is called under the lock, reports true.
func (s *stream) wait(ctx context.Context, ok func() bool) error {
	d := s.d
	d.mu.Lock()
	for {
		switch {
		case s.closed:
			d.mu.Unlock()
			return errors.New("cdctest: closed")
		case s.err != nil:
			d.mu.Unlock()
			return s.err
		case ok():
			d.mu.Unlock()
			return nil
		}
		change := d.change
		d.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		d.mu.Lock()
	}
}

func (s *stream) Next(ctx context.Context, ev *cdc.Event) error {
	d := s.d
	err := s.wait(ctx, func() bool {
		*ev = cdc.Event{}
		if s.within == 0 {
			if s.tick != 0 && s.at >= s.end {
				*ev = cdc.Event{Kind: cdc.Ticked, Tick: s.tick, Pos: d.pos(s.at)}
				s.tick = 0
				return true
			}
			if s.at >= len(d.log) {
				return false
			}
			c := d.log[s.at]
			if c.bad {
				s.src.skip = s.at + 1
				s.err = fmt.Errorf("cdctest: transaction %s can't be read: %w", c.tx.ID, cdc.ErrGap)
				return false
			}
			*ev = cdc.Event{Kind: cdc.Begin, Tx: c.tx}
			s.within = 1
			return true
		}
		c := d.log[s.at]
		if s.within <= len(c.changes) {
			*ev = cdc.Event{Kind: cdc.Changed, Change: c.changes[s.within-1]}
			s.within++
			return true
		}
		*ev = cdc.Event{Kind: cdc.Commit, Tx: c.tx}
		s.within = 0
		s.at++
		return true
	})
	if err == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return err
}

func (s *stream) Visible(ctx context.Context, pos cdc.Position) error {
	_, n, _ := strings.Cut(string(pos), "/")
	upTo, err := strconv.Atoi(n)
	if err != nil {
		return fmt.Errorf("cdctest: position %q: %w", pos, err)
	}
	return s.wait(ctx, func() bool { return s.d.visible >= upTo })
}

func (s *stream) Tick(ctx context.Context, n uint64) error {
	return s.wait(ctx, func() bool {
		s.tick, s.end = n, len(s.d.log)
		s.d.changedLocked()
		return true
	})
}

func (s *stream) Ack(ctx context.Context, pos cdc.Position) error {
	history, n, _ := strings.Cut(string(pos), "/")
	i, err := strconv.Atoi(n)
	if err != nil {
		return fmt.Errorf("cdctest: position %q: %w", pos, err)
	}
	return s.wait(ctx, func() bool {
		if history == strconv.Itoa(s.d.history) {
			s.d.acked = max(s.d.acked, i)
		}
		return true
	})
}

func (s *stream) Close() error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.closed = true
	delete(s.d.readers, s)
	s.d.changedLocked()
	return nil
}
