package freshet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/freshetdev/freshet"
)

// The drops of a transaction apply after its commit, and not at all after a rollback. Here the database is a map, and a
// transaction a copy of it; for database/sql and pgx, the packages sqltx and pgxtx do this with a real one.
func ExampleClient_InTx() {
	ctx := context.Background()
	rows := map[int]string{7: "Ada"}
	client, err := freshet.Open(ctx, "memory:", freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	type key struct{} // of the written row, in a context
	users, err := freshet.NewCache(client, freshet.Config[int, string]{
		Name: "user", TTL: time.Hour,
		Load: func(ctx context.Context, id int, _ *freshet.Load) (string, error) {
			if written, ok := ctx.Value(key{}).(string); ok {
				return written, nil // a query in the transaction sees its own writes
			}
			return rows[id], nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	rename := func(name string, result error) error {
		return client.InTx(ctx, freshet.TxFuncs{
			Begin:    func(context.Context) error { return nil },
			Commit:   func(context.Context) error { rows[7] = name; return nil },
			Rollback: func(context.Context) error { return nil },
		}, func(tx context.Context) error {
			tx = context.WithValue(tx, key{}, name) // UPDATE users …
			if err := users.Drop(tx, 7); err != nil {
				return err
			}
			mine, _ := users.Get(tx, 7)
			others, _ := users.Get(ctx, 7)
			fmt.Println("in the transaction:", mine, "- outside:", others)
			return result
		})
	}
	fmt.Println(users.Get(ctx, 7))
	fmt.Println(rename("Grace", errors.New("changed my mind")))
	fmt.Println(users.Get(ctx, 7))
	fmt.Println(rename("Grace", nil))
	fmt.Println(users.Get(ctx, 7))

	// Output:
	// Ada <nil>
	// in the transaction: Grace - outside: Ada
	// changed my mind
	// Ada <nil>
	// in the transaction: Grace - outside: Ada
	// <nil>
	// Grace <nil>
}

// A Tx by hand, where no helper fits: the commit is a function, so that an unknown outcome can't be overlooked.
func ExampleTx() {
	ctx := context.Background()
	client, err := freshet.Open(ctx, "memory:", freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	commit := func(context.Context) error { return errors.New("connection lost") } // of the database

	tx := client.Tx()
	defer tx.Rollback() // does nothing after Commit
	err = errors.Join(
		client.DropTags(tx.Context(ctx), freshet.Tag("users", 7)),
		client.DropTags(tx.Context(ctx), freshet.Tag("users", 7)), // each once
	)
	keys, tags := tx.Collected()
	fmt.Println(keys, tags, err)

	err = tx.Commit(ctx, commit)
	var unknown *freshet.CommitError
	fmt.Println(errors.As(err, &unknown), err)
	fmt.Println("dropped:", client.Stats().Drops)

	// Output:
	// [] [users:7] <nil>
	// true freshet: commit, outcome unknown: connection lost
	// dropped: 1
}
