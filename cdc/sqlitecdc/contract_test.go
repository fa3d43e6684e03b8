package sqlitecdc

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
)

// TestContract is the contract of sources.
func TestContract(t *testing.T) {
	cdctest.Run(t, func(t *testing.T) cdctest.Fixture {
		d := database(t)
		d.sql("create table items (id integer primary key, name text not null, note text)")
		d.open(d.source(), "").Close() // makes the triggers
		var mu sync.Mutex
		write := d.Session()
		exec := func(end string, rows []cdctest.Row) {
			mu.Lock()
			defer mu.Unlock()
			stmts := []string{"begin"}
			for i, r := range rows {
				_, values, _ := strings.Cut(r.SQL("items"), " VALUES ")
				switch {
				case r.Op == cdc.OpTruncate:
					stmts = append(stmts, "delete from items")
				case i > 0 && r.Op == cdc.OpInsert && rows[i-1].Op == cdc.OpInsert: // one statement of many: to prepare them costs most, with the race detector
					stmts[len(stmts)-1] += ", " + values
				default:
					stmts = append(stmts, r.SQL("items"))
				}
			}
			if _, err := write(strings.Join(append(stmts, end), "; ")); err != nil {
				t.Errorf("%s: %v", stmts, err)
			}
		}
		return cdctest.Fixture{
			New:      func() cdc.Source { return d.source() },
			Table:    "main.items",
			Exec:     func(rows ...cdctest.Row) { exec("commit", rows) },
			Rollback: func(rows ...cdctest.Row) { exec("rollback", rows) },
			Rows: func() map[int]string {
				rows := map[int]string{}
				for line := range strings.Lines(d.sql("select id, name from items")) {
					id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
					n, _ := strconv.Atoi(id)
					rows[n] = name
				}
				return rows
			},
			Lose:      func() { d.sql("delete from freshet_changes") },
			OldValues: true,
			Merges:    true,
		}
	})
}
