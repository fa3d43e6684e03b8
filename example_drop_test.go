package freshet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/freshetdev/freshet"
)

// Drop after the update was committed: the next Get brings the new value, on every instance.
func ExampleCache_Drop() {
	ctx := context.Background()
	db := &profileDB{names: map[int64]string{7: "Ada"}}
	client, err := freshet.Open(ctx, "memory:", freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	profiles, err := freshet.NewCache(client, freshet.Config[int64, Profile]{
		Name: "user", TTL: time.Hour,
		Load: func(ctx context.Context, id int64, _ *freshet.Load) (Profile, error) {
			return db.Profile(ctx, id)
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	before, _ := profiles.Get(ctx, 7)

	db.names[7] = "Grace" // UPDATE users SET name = 'Grace' WHERE id = 7; COMMIT
	err = profiles.Drop(ctx, 7)
	if err != nil && !errors.Is(err, freshet.ErrPending) {
		log.Fatal(err) // the client was closed
	}
	// Pending is no failure of the update: this instance has dropped it, and the others
	// will hear of it when Redis is back.

	after, _ := profiles.Get(ctx, 7)
	fmt.Println(before.Name, after.Name, db.queries)

	// Output:
	// Ada Grace 2
}
