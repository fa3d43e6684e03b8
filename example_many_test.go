package freshet_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/freshetdev/freshet"
)

// GetMany asks the source once for all that is missing.
func ExampleCache_GetMany() {
	ctx := context.Background()
	names := map[int64]string{1: "Ada", 2: "Alan", 3: "Barbara"}
	client, err := freshet.Open(ctx, "memory:", freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	profiles, err := freshet.NewCache(client, freshet.Config[int64, Profile]{
		Name: "user", TTL: time.Hour,
		// SELECT id, name FROM users WHERE id = ANY($1). It loads single keys, too.
		LoadMany: func(_ context.Context, ids []int64, _ *freshet.BatchLoad[int64]) (map[int64]Profile, error) {
			fmt.Println("query for", ids)
			found := make(map[int64]Profile)
			for _, id := range ids {
				if name, ok := names[id]; ok {
					found[id] = Profile{id, name}
				}
			}
			return found, nil // what isn't there is not found
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	_, _ = profiles.Get(ctx, 2)
	ids := []int64{1, 2, 3, 4}
	for range 2 {
		found, err := profiles.GetMany(ctx, ids)
		for _, id := range ids {
			if p, ok := found[id]; ok {
				fmt.Print(p.Name, " ")
			}
		}
		fmt.Println(len(found), err)
	}
	_, err = profiles.Get(ctx, 4)
	fmt.Println(err)

	// Output:
	// query for [2]
	// query for [1 3 4]
	// Ada Alan Barbara 3 <nil>
	// Ada Alan Barbara 3 <nil>
	// freshet: not found
}
