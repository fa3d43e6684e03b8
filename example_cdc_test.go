package freshet_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
	"github.com/freshetdev/freshet/store/memstore"
)

// A row is changed by somebody who knows nothing of the cache. The pump hears of it from the database, and drops what
// depends on the row.
func ExampleNew_cdc() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	table := &cdc.Table{Schema: "public", Name: "users", Columns: []cdc.Column{{Name: "id"}, {Name: "name"}}}
	db := cdctest.NewDatabase(table) // stands for a real one
	ada, grace := []cdc.Value{cdc.Text("7"), cdc.Text("Ada")}, []cdc.Value{cdc.Text("7"), cdc.Text("Grace")}
	db.Commit(cdc.Change{Op: cdc.OpInsert, Table: table, New: ada})

	server := memstore.NewServer(memstore.Options{})
	client, err := freshet.New(server.Connect(), freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	users, err := freshet.NewCache(client, freshet.Config[int, string]{
		Name: "user", TTL: time.Hour,
		Tags: func(id int) []string { return []string{freshet.Tag("users", id)} },
		Load: func(_ context.Context, id int, _ *freshet.Load) (string, error) {
			return db.Read("public.users", fmt.Sprint(id)), nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	source, shared := db.Source(true), server.Connect()
	applied := make(chan cdc.Position, 100)
	run := func() error {
		rules, err := cdc.NewRules([]cdc.Rule{
			{Table: "public.users", Tags: []string{"users:{id}"}},
		})
		if err != nil {
			return err
		}
		applier, err := cdc.NewApplier(shared)
		if err != nil {
			return err
		}
		hooks := cdc.Hooks{Applied: func(a cdc.Applied) { applied <- a.Pos }, Gap: func(g cdc.Gap) { applied <- g.To }}
		pump, err := cdc.NewPump(source, applier, cdc.Options{Name: "shop-db", Rules: rules, Hooks: hooks})
		if err != nil {
			return err
		}
		err = pump.Run(ctx)
		return err
	}
	done := make(chan error, 1)
	go func() { done <- run() }()
	<-applied // the start

	fmt.Println(users.Get(ctx, 7))
	tx := db.Commit(cdc.Change{Op: cdc.OpUpdate, Table: table, Old: ada, New: grace})
	for pos := range applied {
		if pos == tx.Pos {
			break
		}
	}
	if err := client.CatchUp(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(users.Get(ctx, 7))

	cancel()
	fmt.Println(<-done)
	// Output:
	// 7|Ada <nil>
	// 7|Grace <nil>
	// <nil>
}
