package sqlitecdc_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/sqlitecdc"
	"github.com/freshetdev/freshet/store/memstore"
	_ "github.com/ncruces/go-sqlite3/driver" // or any other
)

// A program with a cache in its own memory and an SQLite file, and nothing else.
func ExampleNew() {
	ctx := context.Background()
	rules, err := cdc.NewRules([]cdc.Rule{
		{Table: "users", Tags: []string{"users:{id}"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	source, err := sqlitecdc.New("sqlite3", "file:shop.db", sqlitecdc.Options{Match: rules.Match})
	if err != nil {
		log.Fatal(err)
	}
	server := memstore.NewServer(memstore.Options{})
	client, err := freshet.New(server.Connect(), freshet.Options{Sources: []string{"shop-db"}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	applier, err := cdc.NewApplier(server.Connect())
	if err != nil {
		log.Fatal(err)
	}
	pump, err := cdc.NewPump(source, applier, cdc.Options{Name: "shop-db", Rules: rules, Hooks: cdc.Slog(slog.Default(), "shop-db")})
	if err != nil {
		log.Fatal(err)
	}
	err = pump.Run(ctx)
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleSource_Check() {
	var (
		ctx    context.Context
		source *sqlitecdc.Source
		rules  *cdc.Rules
	)
	problems, err := source.Check(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range problems {
		fmt.Println(p)
	}
	tables, err := source.Tables(ctx, rules.Match)
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range rules.Check(tables) {
		fmt.Println(p)
	}
}
