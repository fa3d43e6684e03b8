package freshet_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/freshetdev/freshet"
)

// That a row doesn't exist is an answer too: it is remembered for NegativeTTL, so a
// client that asks for ids at random doesn't reach the database with each of them twice.
func ExampleErrNotFound() {
	ctx := context.Background()
	client, err := freshet.Open(ctx, "memory:", freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	queries := 0
	query := func(int64) (Profile, error) { queries++; return Profile{}, sql.ErrNoRows }
	profiles, err := freshet.NewCache(client, freshet.Config[int64, Profile]{
		Name: "user", TTL: time.Hour,
		NegativeTTL: 30 * time.Second,
		Load: func(_ context.Context, id int64, _ *freshet.Load) (Profile, error) {
			p, err := query(id)
			if errors.Is(err, sql.ErrNoRows) {
				return p, freshet.ErrNotFound
			}
			return p, err
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	for range 3 {
		_, err = profiles.Get(ctx, 404)
		fmt.Println(errors.Is(err, freshet.ErrNotFound), queries)
	}
	_ = profiles.Drop(ctx, 404) // after INSERT
	_, err = profiles.Get(ctx, 404)
	fmt.Println(errors.Is(err, freshet.ErrNotFound), queries)

	// Output:
	// true 1
	// true 1
	// true 1
	// true 2
}
