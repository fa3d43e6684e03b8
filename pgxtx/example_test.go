package pgxtx_test

import (
	"context"
	"errors"
	"log"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/pgxtx"
)

func ExampleRun() {
	var (
		ctx    context.Context
		client *freshet.Client
		users  *freshet.Cache[int, string]
		pool   *pgxpool.Pool
	)
	err := pgxtx.Run(ctx, client, pool, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE users SET name = $1 WHERE id = $2", "Grace", 7); err != nil {
			return err
		}
		return users.Drop(ctx, 7) // after the commit
	})
	if err != nil && !errors.Is(err, freshet.ErrPending) { // ErrPending: committed
		log.Print(err)
	}
}
