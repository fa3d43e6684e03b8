package cli

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/config"
)

// databases opens what freshet.yaml names, by the key of the database in it. Another one is a line here, an entry of kinds in package config,
// and a file like postgres.go.
var databases = map[string]func(config.Source, *cdc.Rules) (database, error){
	"mysql":    openMySQL,    // mysql://, mariadb://
	"postgres": openPostgres, // postgres://, postgresql://
	"sqlite":   openSQLite,   // sqlite:
}

// A database is where changes come from, and can say what is wrong with it.
type database interface {
	// source is for the pump.
	source() cdc.Source

	// check says what keeps changes from being read, or may do so later. An error means that it couldn't look.
	check(ctx context.Context) ([]cdc.SourceProblem, error)

	// tables describes the tables for which match is true, but for those that check complains of.
	tables(ctx context.Context, match func(schema, name string) bool) ([]*cdc.Table, error)

	// health says how it goes, for doctor: it may look twice, with a pause. Up to from the store has the changes; empty: nobody knows.
	health(ctx context.Context, from cdc.Position) ([]finding, error)

	// metrics are what the database tells of itself, beside what its pump counts.
	metrics(source string) []prometheus.Collector

	// hung says where to look for a commit that hangs.
	hung() string
}

// A followed is a source that was opened.
type followed struct {
	config.Source
	rules *cdc.Rules
	db    database
}

// open makes the sources of a file ready. It connects to nothing.
func open(c *config.Config) ([]followed, error) {
	if len(c.Sources) == 0 {
		return nil, c.Mistake("cdc", "is missing; want at least one source of changes, see docs/watch.md")
	}
	var all []followed
	for _, s := range c.Sources {
		key := "cdc." + s.Name
		rules, err := cdc.NewRules(s.Rules)
		if err != nil {
			return nil, c.Mistake(key+".rules", "are wrong: "+err.Error())
		}
		db, err := databases[s.Kind](s, rules)
		if err != nil {
			return nil, c.Mistake(key+"."+s.Kind+".url", "is wrong: "+err.Error())
		}
		all = append(all, followed{s, rules, db})
	}
	return all, nil
}
