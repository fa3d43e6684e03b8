package sqlitecdc

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// A table is a table of the file, as far as its triggers depend on it.
type table struct {
	cdc.Table
	sql     string   // its CREATE TABLE
	rowid   string   // what the rowid can be called in a statement; empty: WITHOUT ROWID, or hidden by columns
	primary []string // columns of the primary key
	keys    []key    // what no two rows have in common, but the rowid
	unseen  []string // unique indexes that aren't in keys, since triggers can't compare them: partial ones, and those of expressions

	generated []string
}

// A key is the columns of a unique index, or the primary key.
type key struct {
	columns  []string
	collates []string // the collation of each; empty for the column's own
}

// A virtual is a table that can't have triggers, and what it is.
type virtual struct{ name, kind string }

// readTables reads the tables for which match is true, and those that match and can't be followed.
func readTables(ctx context.Context, c *sql.Conn, match func(schema, table string) bool) (tables []*table, others []virtual, err error) {
	rows, err := query(ctx, c, `SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`)
	if err != nil {
		return nil, nil, err
	}
	var virtuals []string
	for _, r := range rows {
		if isVirtual(r[2]) {
			virtuals = append(virtuals, r[0])
		}
	}
	for _, r := range rows {
		name := r[0]
		shadow := slices.ContainsFunc(virtuals, func(v string) bool { return strings.HasPrefix(name, v+"_") }) // holds the data of that virtual table
		switch {
		case own(name, r[2]) || shadow || !match("main", name):
		case r[1] == "view":
			others = append(others, virtual{name, "a view"})
		case isVirtual(r[2]):
			others = append(others, virtual{name, "a virtual table"})
		default:
			t, err := readTable(ctx, c, name, r[2])
			if err != nil {
				return nil, nil, fmt.Errorf("table %s: %w", name, err)
			}
			tables = append(tables, t)
		}
	}
	return tables, others, nil
}

func isVirtual(statement string) bool {
	words := strings.Fields(statement)
	return len(words) > 1 && strings.EqualFold(words[1], "virtual")
}

func readTable(ctx context.Context, c *sql.Conn, name, statement string) (*table, error) {
	t := &table{Table: cdc.Table{Schema: "main", Name: name}, sql: statement}
	columns, err := query(ctx, c, `SELECT name, type, "notnull", pk, hidden FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid`, name)
	if err != nil {
		return nil, err
	}
	for _, r := range columns {
		t.Columns = append(t.Columns, cdc.Column{Name: r[0], Type: r[1], Nullable: r[2] == "0"})
		if r[3] != "0" {
			t.primary = append(t.primary, r[0])
		}
		if r[4] != "0" {
			t.generated = append(t.generated, r[0])
		}
	}
	for _, name := range []string{"rowid", "_rowid_", "oid"} {
		if t.rowid == "" && !slices.ContainsFunc(t.Columns, func(c cdc.Column) bool { return strings.EqualFold(c.Name, name) }) {
			t.rowid = name
		}
	}
	indexes, err := query(ctx, c, `SELECT name, origin, partial FROM pragma_index_list(?) WHERE "unique" ORDER BY name`, name)
	if err != nil {
		return nil, err
	}
	alias := len(t.primary) == 1 // of the rowid: INTEGER PRIMARY KEY has no index
	for _, r := range indexes {
		parts, err := query(ctx, c, `SELECT cid, name, coll, "key" FROM pragma_index_xinfo(?) ORDER BY seqno`, r[0])
		if err != nil {
			return nil, err
		}
		var k key
		expressions, rowid := false, false
		for _, p := range parts {
			switch {
			case p[3] == "1" && p[0] == "-2":
				expressions = true
			case p[3] == "1":
				k.columns, k.collates = append(k.columns, p[1]), append(k.collates, p[2])
			case p[0] == "-1":
				rowid = true
			}
		}
		if r[1] == "pk" {
			alias = false
			if !rowid {
				t.rowid = ""
				for i := range t.Columns {
					t.Columns[i].Nullable = t.Columns[i].Nullable && !slices.Contains(t.primary, t.Columns[i].Name)
				}
			}
		}
		if expressions || r[2] == "1" {
			t.unseen = append(t.unseen, r[0])
			continue
		}
		t.keys = append(t.keys, k)
	}
	if alias {
		t.keys = append(t.keys, key{columns: t.primary, collates: []string{""}})
		for i := range t.Columns {
			t.Columns[i].Nullable = t.Columns[i].Nullable && t.Columns[i].Name != t.primary[0]
		}
		t.rowid = quoteName(t.primary[0])
	} else if t.rowid != "" {
		// A row can take the place of another by INSERT OR REPLACE INTO t (rowid, ...).
		t.keys = append(t.keys, key{columns: []string{t.rowid}, collates: []string{""}})
	}
	return t, nil
}

// Tables implements [cdc.Source]. All columns carry old values. Views and virtual tables are left out: see [Source.Check].
func (s *Source) Tables(ctx context.Context, match func(schema, name string) bool) (all []*cdc.Table, err error) {
	err = s.briefly(ctx, func(c *sql.Conn) error {
		return inTx(ctx, c, `BEGIN`, func() error {
			all = nil
			tables, _, err := readTables(ctx, c, match)
			for _, t := range tables {
				all = append(all, &t.Table)
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("sqlitecdc: tables: %w", err)
	}
	return all, nil
}
