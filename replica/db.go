package replica

import (
	"context"
	"database/sql"
	"errors"
)

// A Querier reads: a *sql.Tx on the replica, a *sql.DB or *sql.Tx on the primary.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// A DB is a primary and a replica of it, over database/sql. Its methods are safe for concurrent use.
type DB struct {
	*Gate
	primary, standby *sql.DB
	snapshot         bool // RepeatableRead
}

// New returns a DB. standby leads to one standby or more, by an address that may stand for several; nil, if there is none. Neither is closed. Nothing is asked yet.
func New(primary, standby *sql.DB, o Options) (*DB, error) {
	if primary == nil {
		return nil, errors.New("replica: primary is nil; want a *sql.DB")
	}
	g, err := NewGate(func(ctx context.Context, query string) (text string, err error) {
		return text, primary.QueryRowContext(ctx, query).Scan(&text)
	}, o)
	if err != nil {
		return nil, err
	}
	return &DB{g, primary, standby, o.RepeatableRead}, nil
}

// Read calls f with what reads the replica, if that shows everything that was dropped before Read was called, or else the primary.
// It is for loaders: it must be called after the load began. f may be called a second time, with the primary, if the replica fails under it: it should set
// its results rather than add to them. f uses q in one goroutine, and not after it returned.
//
// Errors are those of f, and of the primary's.
func (db *DB) Read(ctx context.Context, f func(ctx context.Context, q Querier) error) error {
	var open func(context.Context) (Session, error)
	if db.standby != nil {
		open = func(ctx context.Context) (Session, error) { return db.open(ctx, f) }
	}
	return db.Gate.Read(ctx, open, func(ctx context.Context) error {
		if !db.snapshot {
			return f(ctx, db.primary)
		}
		tx, err := db.primary.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // there is nothing to commit
		return f(ctx, tx)
	})
}

// A session is a connection to the replica.
type session struct {
	conn *sql.Conn // with RepeatableRead
	tx   *sql.Tx
	f    func(context.Context, Querier) error
}

func (db *DB) open(ctx context.Context, f func(context.Context, Querier) error) (Session, error) {
	var err error
	s := &session{f: f}
	if db.snapshot {
		s.conn, err = db.standby.Conn(ctx)
	} else {
		s.tx, err = db.standby.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: true})
	}
	return s, err
}

func (s *session) Ask(ctx context.Context, query string) (text string, err error) {
	if s.tx == nil {
		return text, s.conn.QueryRowContext(ctx, query).Scan(&text)
	}
	return text, s.tx.QueryRowContext(ctx, query).Scan(&text)
}

func (s *session) Read(ctx context.Context) (err error) {
	if s.tx == nil {
		if s.tx, err = s.conn.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}); err != nil {
			return err
		}
	}
	return s.f(ctx, s.tx)
}

func (s *session) End() {
	if s.tx != nil {
		_ = s.tx.Rollback() // there is nothing to commit
	}
	if s.conn != nil {
		_ = s.conn.Close()
	}
}
