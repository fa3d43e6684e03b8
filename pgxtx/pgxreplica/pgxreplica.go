// Package pgxreplica is package replica for pgx: it loads from a streaming replica of PostgreSQL without ever caching a stale row, and makes tokens
// by which a session reads its own writes.
//
//	db, err := pgxreplica.New(primary, standby, replica.Options{Source: "shop-db"})
//	err = db.Read(ctx, func(ctx context.Context, q pgxreplica.Querier) error {
//		return q.QueryRow(ctx, "SELECT name FROM users WHERE id = $1", id).Scan(&name)
//	})
//
// What is promised, and why it holds, is told at [github.com/freshetdev/freshet/replica].
package pgxreplica

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshetdev/freshet/replica"
)

// A Querier reads: a pgx.Tx on the replica, a *pgxpool.Pool or pgx.Tx on the primary.
type Querier interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// A DB is a primary and a replica of it, over pools of pgx. Its methods are safe for concurrent use.
type DB struct {
	*replica.Gate
	primary, standby *pgxpool.Pool
	snapshot         bool // RepeatableRead
}

// New returns a DB. standby leads to one standby or more, by an address that may stand for several; nil, if there is none. Neither is closed. Nothing is asked yet.
func New(primary, standby *pgxpool.Pool, o replica.Options) (*DB, error) {
	if primary == nil {
		return nil, errors.New("pgxreplica: primary is nil; want a *pgxpool.Pool")
	}
	g, err := replica.NewGate(func(ctx context.Context, query string) (text string, err error) {
		return text, primary.QueryRow(ctx, query).Scan(&text)
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
	var open func(context.Context) (replica.Session, error)
	if db.standby != nil {
		open = func(ctx context.Context) (replica.Session, error) { return db.open(ctx, f) }
	}
	return db.Gate.Read(ctx, open, func(ctx context.Context) error {
		if !db.snapshot {
			return f(ctx, db.primary)
		}
		tx, err := db.primary.BeginTx(ctx, repeatableRead)
		if err != nil {
			return err
		}
		defer end(tx)
		return f(ctx, tx)
	})
}

var (
	readCommitted  = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}
	repeatableRead = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
)

// end ends a transaction that only read. If that fails, pgx closes the connection, and the pool drops it.
func end(tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// A session is a connection to the replica.
type session struct {
	conn *pgxpool.Conn
	tx   pgx.Tx
	f    func(context.Context, Querier) error
}

func (db *DB) open(ctx context.Context, f func(context.Context, Querier) error) (replica.Session, error) {
	conn, err := db.standby.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, f: f}
	if !db.snapshot {
		if s.tx, err = conn.BeginTx(ctx, readCommitted); err != nil {
			conn.Release()
			return nil, err
		}
	}
	return s, nil
}

func (s *session) Ask(ctx context.Context, query string) (text string, err error) {
	if s.tx == nil {
		return text, s.conn.QueryRow(ctx, query).Scan(&text)
	}
	return text, s.tx.QueryRow(ctx, query).Scan(&text)
}

func (s *session) Read(ctx context.Context) (err error) {
	if s.tx == nil {
		if s.tx, err = s.conn.BeginTx(ctx, repeatableRead); err != nil {
			return err
		}
	}
	return s.f(ctx, s.tx)
}

func (s *session) End() {
	if s.tx != nil {
		end(s.tx)
	}
	s.conn.Release()
}
