package replica_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/replica"
)

// A cache whose loads go to a standby, and a session that reads its own writes.
func Example() {
	var (
		ctx              context.Context
		primary, standby *sql.DB
		w                http.ResponseWriter
		r                *http.Request
	)
	client, err := freshet.Open(ctx, "redis://localhost:6379", freshet.Options{Sources: []string{"shop-db"}})
	if err != nil {
		log.Fatal(err)
	}
	db, err := replica.New(primary, standby, replica.Options{Source: "shop-db"})
	if err != nil {
		log.Fatal(err)
	}
	users, err := freshet.NewCache(client, freshet.Config[int, string]{
		Name: "user", TTL: time.Hour,
		Tags: func(id int) []string { return []string{freshet.Tag("users", id)} },
		Load: func(ctx context.Context, id int, _ *freshet.Load) (name string, err error) {
			err = db.Read(ctx, func(ctx context.Context, q replica.Querier) error {
				return q.QueryRowContext(ctx, "SELECT name FROM users WHERE id = $1", id).Scan(&name)
			})
			return name, err
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	// A request that writes.
	if _, err := primary.ExecContext(ctx, "UPDATE users SET name = $1 WHERE id = $2", "Grace", 7); err != nil {
		log.Fatal(err)
	}
	token, err := db.Token(ctx) // after the commit
	if err != nil {
		log.Fatal(err)
	}
	http.SetCookie(w, &http.Cookie{Name: "seen", Value: token.String(), MaxAge: 60}) // signed, in earnest

	// A later request of the same browser, on any instance.
	if cookie, err := r.Cookie("seen"); err == nil {
		if token, err := replica.ParseToken(cookie.Value); err == nil {
			if ctx, err = client.WithToken(ctx, token); err != nil {
				log.Fatal(err) // "shop-db" is not in Options.Sources
			}
		}
	}
	fmt.Println(users.Get(ctx, 7))
}

func ExampleParseToken() {
	token, err := replica.ParseToken("shop-db@7312404012/1/0/16B3748")
	fmt.Println(token.Source(), err)
	fmt.Println(token.Covered("7312404012/1/0/16B3747"), token.Covered("7312404012/1/0/16B3748"))
	_, err = replica.ParseToken("shop-db@7312404012/1/0/16b3748")
	fmt.Println(err)
	// Output:
	// shop-db <nil>
	// false true
	// replica: token is "shop-db@7312404012/1/0/16b3748": replica: position is "7312404012/1/0/16b3748"; want system/timeline/LSN, as in 7312404012/1/0/16B3748
}
