package pgxtx_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/pgxtx"
	"github.com/freshetdev/freshet/sqltx"
	"github.com/freshetdev/freshet/store/memstore"
)

// What docs/transactions.md shows.
func testDocs(t *testing.T, pg *testenv.PostgresServer) {
	ctx := t.Context()
	pool, err := pgxpool.New(ctx, pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	client, users := users(t, memstore.NewServer(memstore.Options{}), pgxQ{pool})
	is(t, "before", get(t, ctx, users, 50), "old")

	rename := func(id int, name string) error {
		err := sqltx.Run(ctx, client, db, nil, func(ctx context.Context, tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "UPDATE users SET name = $1 WHERE id = $2", name, id); err != nil {
				return err
			}
			return users.Drop(ctx, id)
		})
		if errors.Is(err, freshet.ErrPending) {
			err = nil // committed; the other instances learn of it when Redis is back
		}
		return err
	}
	is(t, "sqltx", rename(50, "new"), nil)
	is(t, "after sqltx", get(t, ctx, users, 50), "new")

	id, name := 50, "newer"
	err = pgxtx.Run(ctx, client, pool, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE users SET name = $1 WHERE id = $2", name, id); err != nil {
			return err
		}
		return client.DropTags(ctx, freshet.Tag("users", id))
	})
	is(t, "pgxtx", err, nil)
	is(t, "after pgxtx", get(t, ctx, users, 50), "newer")

	outbox := func() error {
		dbtx, err := pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer dbtx.Rollback(ctx)
		tx := client.Tx()
		defer tx.Rollback()
		if err := users.Drop(tx.Context(ctx), id); err != nil {
			return err
		}
		keys, tags := tx.Collected()
		if _, err := dbtx.Exec(ctx, "INSERT INTO drops (keys, tags) VALUES ($1, $2)", keys, tags); err != nil {
			return err
		}
		return tx.Commit(ctx, dbtx.Commit)
	}
	pg.SQL(t, "CREATE TABLE drops (keys text[], tags text[])")
	is(t, "outbox", outbox(), nil)
	is(t, "drops", pg.SQL(t, "SELECT keys, tags FROM drops"), "{user:50}|")
}
