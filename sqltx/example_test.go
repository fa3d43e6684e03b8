package sqltx_test

import (
	"context"
	"database/sql"
	"errors"
	"log"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/sqltx"
)

func ExampleRun() {
	var (
		ctx    context.Context
		client *freshet.Client
		users  *freshet.Cache[int, string]
		db     *sql.DB
	)
	err := sqltx.Run(ctx, client, db, nil, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "UPDATE users SET name = $1 WHERE id = $2", "Grace", 7); err != nil {
			return err
		}
		return users.Drop(ctx, 7) // after the commit
	})
	if err != nil && !errors.Is(err, freshet.ErrPending) { // ErrPending: committed
		log.Print(err)
	}
}
