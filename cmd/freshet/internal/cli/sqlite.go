package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver" // SQLite without a C compiler
	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/sqlitecdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/config"
)

// An sqliteDB is an SQLite file.
type sqliteDB struct{ src *sqlitecdc.Source }

func openSQLite(s config.Source, rules *cdc.Rules) (database, error) {
	path := strings.TrimPrefix(strings.TrimPrefix(s.URL.Reveal(), "sqlite:"), "//")
	if path == "" || strings.ContainsAny(path, "?#") {
		return nil, errors.New("want sqlite: and a path, such as sqlite:/var/lib/shop/shop.db, without options")
	}
	o := sqlitecdc.Options{Match: rules.Match, Name: s.SQLite.Name, Poll: s.SQLite.Poll, MaxRows: s.SQLite.MaxRows}
	src, err := sqlitecdc.New("sqlite3", sqliteDSN(path), o)
	if err != nil {
		return nil, err
	}
	return &sqliteDB{src}, nil
}

// sqliteDSN is what the driver takes for a file that is there: a path that was mistyped makes none.
func sqliteDSN(path string) string {
	return "file:" + (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath() + "?mode=rw"
}

func (d *sqliteDB) source() cdc.Source { return d.src }

func (d *sqliteDB) check(ctx context.Context) ([]cdc.SourceProblem, error) { return d.src.Check(ctx) }

func (d *sqliteDB) tables(ctx context.Context, match func(schema, name string) bool) ([]*cdc.Table, error) {
	return d.src.Tables(ctx, match)
}

func (d *sqliteDB) metrics(string) []prometheus.Collector { return nil } // a scrape opens no file

func (d *sqliteDB) hung() string { return "a program that leaves a transaction open" }

func (d *sqliteDB) health(ctx context.Context, _ cdc.Position) ([]finding, error) {
	o, err := d.src.Outbox(ctx)
	if err != nil {
		return nil, err
	}
	return outboxFindings(o), nil
}

// longKept is longer than a pump that works leaves changes in the outbox: it acknowledges after 30 s.
const longKept = 5 * time.Minute

// outboxFindings says how the outbox is.
func outboxFindings(o sqlitecdc.OutboxState) []finding {
	switch {
	case !o.Exists:
		return []finding{warning("there is no outbox in the file yet",
			"no change is followed. A pump that starts makes it, with triggers, and drops everything once", "start freshet watch")}
	case o.Oldest > longKept:
		return []finding{bad(fmt.Sprintf("nobody takes changes out of the outbox: it has %d, the oldest made %s ago", o.Rows, readable(o.Oldest.Truncate(time.Second))),
			fmt.Sprintf("what is cached stays until it expires. The file grows with every write, up to %d changes; beyond that the oldest go, and the next pump drops everything once", o.Max),
			"start freshet watch, or look at its log if it runs")}
	}
	return []finding{fine(fmt.Sprintf("the outbox has %s", count(int(o.Rows), "change")))}
}
