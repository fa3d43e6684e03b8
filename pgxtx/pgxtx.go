// Package pgxtx runs a transaction of pgx whose drops apply after its commit.
//
//	err := pgxtx.Run(ctx, client, pool, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
//		if _, err := tx.Exec(ctx, "UPDATE users SET name = $1 WHERE id = $2", name, id); err != nil {
//			return err
//		}
//		return users.Drop(ctx, id)
//	})
//
// What the context of the function means for drops and reads, and what is promised, is told at [freshet.Tx].
package pgxtx

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshetdev/freshet"
)

// A Beginner begins transactions: a *pgxpool.Pool, a *pgxpool.Conn or a *pgx.Conn.
type Beginner interface {
	BeginTx(context.Context, pgx.TxOptions) (pgx.Tx, error)
}

// Run runs f in a transaction. If f returns nil, the transaction is committed and the drops made through f's context are
// applied; if f returns an error or panics, it is rolled back and they are forgotten. f must not end tx
// itself, but may make savepoints with tx.Begin: what is dropped in one that is rolled back is dropped all the same, if
// tx commits.
//
// Errors are those of [freshet.Client.InTx]:
//
//	nil                           committed, and dropped
//	is freshet.ErrPending         committed; the other instances learn of the drops later
//	is freshet.ErrNotKept         committed; there was no room to keep some of the drops: the other instances won't learn of them
//	a *freshet.CommitError        the commit failed: nobody knows whether it happened, and everything is dropped
//	is pgx.ErrTxCommitRollback    not committed: a statement had failed and f returned nil. Also freshet.ErrRolledBack
//	is freshet.ErrTxOpen          ctx carries an open transaction: nothing was done
//	anything else                 not committed; the error of f or of the begin
func Run(ctx context.Context, client *freshet.Client, db Beginner, opts pgx.TxOptions, f func(ctx context.Context, tx pgx.Tx) error) error {
	var tx pgx.Tx
	return client.InTx(ctx, freshet.TxFuncs{
		Begin: func(ctx context.Context) (err error) { tx, err = db.BeginTx(ctx, opts); return err },
		Commit: func(ctx context.Context) error {
			err := tx.Commit(ctx)
			if errors.Is(err, pgx.ErrTxCommitRollback) { // the server's answer to COMMIT was ROLLBACK
				return fmt.Errorf("%w: %w", freshet.ErrRolledBack, err)
			}
			return err
		},
		Rollback: func(ctx context.Context) error { return tx.Rollback(ctx) },
	}, func(ctx context.Context) error { return f(ctx, tx) })
}
