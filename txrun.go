package freshet

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// TxFuncs are what [Client.InTx] does with a transaction of a database. The packages sqltx and pgxtx have them for
// database/sql and pgx.
type TxFuncs struct {
	// Begin starts the transaction.
	Begin func(context.Context) error

	// Commit commits it. An error says that it may have been committed or not, unless it matches ErrRolledBack.
	Commit func(context.Context) error

	// Rollback ends it otherwise. After an error everything is dropped: somebody else
	// may have ended the transaction, and not like this.
	Rollback func(context.Context) error
}

// rollbackTime is how long a rollback may take. After that its connection is given up, and the server rolls back
// by itself. The caller's context may be over when it begins.
const rollbackTime = 5 * time.Second

// InTx runs f in a transaction of a database, and applies its drops after the commit. f gets the [Tx]'s
// context. An error of f, a panic and runtime.Goexit roll back. f must not end the transaction itself.
//
// Errors are those of Begin, of f, or what [Tx.Commit] returns, but for its ErrTxDone. They match ErrPending or ErrNotKept only if the
// database committed, so this is how to tell whether it did:
//
//	err := client.InTx(ctx, db, f)
//	committed := err == nil || errors.Is(err, freshet.ErrPending) || errors.Is(err, freshet.ErrNotKept)
//	unknown := errors.As(err, new(*freshet.CommitError))
//
// In a context that carries an open transaction it returns ErrTxOpen and does nothing: a function that was made to run
// by itself would wait for locks of the transaction around it.
func (c *Client) InTx(ctx context.Context, db TxFuncs, f func(context.Context) error) error {
	if c.TxOf(ctx) != nil {
		return ErrTxOpen
	}
	if c.closed.Load() {
		return ErrClosed
	}
	if err := db.Begin(ctx); err != nil {
		return fmt.Errorf("freshet: begin: %w", err)
	}
	tx := c.Tx()
	finished := false
	defer func() {
		if !finished { // a panic goes on after this
			_ = tx.rollback(ctx, db.Rollback)
		}
	}()
	txctx := tx.Context(ctx)
	err := f(txctx)
	if err == nil {
		err = tx.Commit(ctx, db.Commit)
		if !errors.Is(err, ErrClosed) || tx.c.ended() {
			finished = true
			return err
		}
	}
	finished = true
	if undone := tx.rollback(ctx, db.Rollback); undone != nil && ctx.Err() == nil {
		err = errors.Join(err, fmt.Errorf("freshet: roll back: %w", undone))
	}
	if errors.Is(err, ErrPending) || errors.Is(err, ErrNotKept) {
		// A drop of f's own, past the transaction. The caller would take it for word of a commit.
		return fmt.Errorf("freshet: rolled back: %s", err.Error())
	}
	return err
}

// rollback ends the database's transaction, and drops everything if it might have been committed by somebody.
func (tx *Tx) rollback(ctx context.Context, rollback func(context.Context) error) error {
	if !tx.c.pass(txOpen, txCommitting) {
		return nil
	}
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	unknown := true
	defer func() {
		if unknown {
			_ = tx.apply(ctx, true)
		} else {
			tx.end()
		}
	}()
	err := rollback(short)
	unknown = err != nil
	return err
}
