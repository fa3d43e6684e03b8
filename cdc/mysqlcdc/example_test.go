package mysqlcdc_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/mysqlcdc"
	"github.com/freshetdev/freshet/store/redisstore"
)

func ExampleNew() {
	ctx := context.Background()
	rules, err := cdc.NewRules([]cdc.Rule{
		{Table: "shop.users", Tags: []string{"users:{id}"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	source, err := mysqlcdc.New("mariadb://freshet:secret@db.internal/", mysqlcdc.Options{Match: rules.Match})
	if err != nil {
		log.Fatal(err)
	}
	shared, err := redisstore.Open("redis://redis.internal", redisstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	applier, err := cdc.NewApplier(shared)
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
		source *mysqlcdc.Source
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
