package freshet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/freshetdev/freshet"
)

// A Profile is what GET /users/7 answers. It is stored as JSON.
type Profile struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// A profileDB stands for the database: one slow query a user, counted.
type profileDB struct {
	names   map[int64]string
	queries int
}

func (db *profileDB) Profile(_ context.Context, id int64) (Profile, error) {
	db.queries++
	name, ok := db.names[id]
	if !ok {
		return Profile{}, errors.New("no rows")
	}
	return Profile{ID: id, Name: name}, nil
}

// Get answers from the cache, or loads and stores.
func Example_getOrLoad() {
	ctx := context.Background()
	db := &profileDB{names: map[int64]string{7: "Ada"}}

	client, err := freshet.Open(ctx, "memory:", freshet.Options{}) // or "redis://localhost:6379"
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	profiles, err := freshet.NewCache(client, freshet.Config[int64, Profile]{
		Name: "user", // keys read user:7
		TTL:  time.Hour,
		Load: func(ctx context.Context, id int64, _ *freshet.Load) (Profile, error) {
			return db.Profile(ctx, id)
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	for range 3 {
		r, err := profiles.Lookup(ctx, 7) // Get, with where the value came from
		fmt.Println(r.Value.Name, "from", r.Level, err)
	}
	fmt.Println(db.queries, "query")

	// An error of the source is an error of Get, with the key in it.
	_, err = profiles.Get(ctx, 8)
	fmt.Println(err)

	// Output:
	// Ada from source <nil>
	// Ada from l1 <nil>
	// Ada from l1 <nil>
	// 1 query
	// freshet: load "user:8": no rows
}
