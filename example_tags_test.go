package freshet_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/freshetdev/freshet"
)

// Pages of a list depend on the rows they show. One drop of a row's tag makes invalid what
// shows the row, and nothing else; nobody has to know which pages those are.
func ExampleClient_DropTags() {
	ctx := context.Background()
	rows := []Profile{{1, "Ada"}, {2, "Alan"}, {3, "Barbara"}, {4, "Donald"}}
	client, err := freshet.Open(ctx, "memory:", freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	queries := 0
	pages, err := freshet.NewCache(client, freshet.Config[int, []Profile]{
		Name: "users-page", TTL: time.Hour,
		Load: func(_ context.Context, page int, l *freshet.Load) ([]Profile, error) {
			queries++
			found := append([]Profile(nil), rows[2*page:2*page+2]...)
			for _, p := range found {
				l.Tag(freshet.Tag("users", p.ID)) // known only from the answer
			}
			return found, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	show := func() {
		for page := range 2 {
			found, err := pages.Get(ctx, page)
			fmt.Println(found, err)
		}
		fmt.Println(queries, "queries so far")
	}

	show()
	rows[2].Name = "Grace" // on page 1
	err = client.DropTags(ctx, freshet.Tag("users", 3))
	fmt.Println("dropped users:3", err)
	show()

	// A new row, or a migration: everything that shows any of the users, in one step.
	err = client.DropTags(ctx, "users!")
	fmt.Println("dropped users!", err)
	show()

	// Output:
	// [{1 Ada} {2 Alan}] <nil>
	// [{3 Barbara} {4 Donald}] <nil>
	// 2 queries so far
	// dropped users:3 <nil>
	// [{1 Ada} {2 Alan}] <nil>
	// [{3 Grace} {4 Donald}] <nil>
	// 3 queries so far
	// dropped users! <nil>
	// [{1 Ada} {2 Alan}] <nil>
	// [{3 Grace} {4 Donald}] <nil>
	// 5 queries so far
}
