// Package sqltx runs a transaction of database/sql whose drops apply after its commit.
//
//	err := sqltx.Run(ctx, client, db, nil, func(ctx context.Context, tx *sql.Tx) error {
//		if _, err := tx.ExecContext(ctx, "UPDATE users SET name = $1 WHERE id = $2", name, id); err != nil {
//			return err
//		}
//		return users.Drop(ctx, id)
//	})
//
// What the context of the function means for drops and reads, and what is promised, is told at [freshet.Tx].
package sqltx

import (
	"context"
	"database/sql"

	"github.com/freshetdev/freshet"
)

// A Beginner begins transactions: a *sql.DB, or a *sql.Conn.
type Beginner interface {
	BeginTx(context.Context, *sql.TxOptions) (*sql.Tx, error)
}

// Run runs f in a transaction. If f returns nil, the transaction is committed and the drops made through f's context are
// applied; if f returns an error or panics, it is rolled back and they are forgotten. f must not end tx
// itself. opts may be nil.
//
// When ctx ends, database/sql rolls back. Errors are those of [freshet.Client.InTx]:
//
//	nil                         committed, and dropped
//	is freshet.ErrPending       committed; the other instances learn of the drops later
//	is freshet.ErrNotKept       committed; there was no room to keep some of the drops: the other instances won't learn of them
//	a *freshet.CommitError      the commit failed: nobody knows whether it happened, and everything is dropped
//	is freshet.ErrTxOpen        ctx carries an open transaction: nothing was done
//	anything else               not committed; the error of f or of the begin
func Run(ctx context.Context, client *freshet.Client, db Beginner, opts *sql.TxOptions, f func(ctx context.Context, tx *sql.Tx) error) error {
	var tx *sql.Tx
	return client.InTx(ctx, freshet.TxFuncs{
		Begin:    func(ctx context.Context) (err error) { tx, err = db.BeginTx(ctx, opts); return err },
		Commit:   func(context.Context) error { return tx.Commit() },
		Rollback: func(context.Context) error { return tx.Rollback() },
	}, func(ctx context.Context) error { return f(ctx, tx) })
}
