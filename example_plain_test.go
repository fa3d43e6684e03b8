package freshet_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/store/memstore"
)

// A plain cache keeps bare JSON at its keys, as SET user:7 '{"id":7,…}' EX 3600 does, so that
// services in other languages share it. examples/node-redis is the other side, in Node.
func ExampleConfig_plain() {
	ctx := context.Background()
	server := memstore.NewServer(memstore.Options{}) // stands for Redis, to play the other service on
	client, err := freshet.New(server.Connect(), freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	profiles, err := freshet.NewCache(client, freshet.Config[int64, Profile]{
		Name: "user", TTL: time.Hour,
		Plain: true,
		Load: func(_ context.Context, id int64, _ *freshet.Load) (Profile, error) {
			return Profile{id, "Ada"}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	p, _ := profiles.Get(ctx, 7)
	text, _ := server.Get("user:7")
	fmt.Printf("%s %s\n", p.Name, text)

	server.Set("user:7", []byte(`{"id":7,"name":"Grace"}`), time.Hour) // redis.set(…) in Node
	for p.Name == "Ada" {
		time.Sleep(time.Millisecond) // Redis tells us; it takes a moment
		p, _ = profiles.Get(ctx, 7)
	}
	fmt.Println(p.Name)

	// Output:
	// Ada {"id":7,"name":"Ada"}
	// Grace
}
