package pgcdc

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
)

// TestContract is the contract of sources, with only the key in old rows, and with all columns.
func TestContract(t *testing.T) {
	pg := postgres(t)
	for _, identity := range []string{"default", "full"} {
		t.Run(identity, func(t *testing.T) {
			cdctest.Run(t, func(t *testing.T) cdctest.Fixture { return fixture(t, database(t, pg), identity) })
		})
	}
}

func fixture(t *testing.T, d *db, identity string) cdctest.Fixture {
	d.sql("create table items (id int primary key, name text not null, note text); alter table items replica identity " + identity)
	d.open(d.source(), "").Close() // makes the slot
	var (
		held   sync.WaitGroup // transactions that don't return yet
		isHeld bool
	)
	sql := func(end string, rows []cdctest.Row) string {
		stmts := []string{"begin"}
		for _, r := range rows {
			stmts = append(stmts, r.SQL("public.items"))
		}
		return strings.Join(append(stmts, end), "; ")
	}
	// Some cases execute in goroutines.
	exec := func(text string) {
		conn := d.dial()
		defer conn.Close(context.Background())
		if _, err := run(conn, text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	return cdctest.Fixture{
		New:   func() cdc.Source { return d.source() },
		Table: "public.items",
		Exec: func(rows ...cdctest.Row) {
			if isHeld {
				held.Go(func() { exec(sql("commit", rows)) })
				return
			}
			exec(sql("commit", rows))
		},
		Rollback: func(rows ...cdctest.Row) { exec(sql("rollback", rows)) },
		Rows: func() map[int]string {
			rows := map[int]string{}
			for line := range strings.Lines(d.sql("select id, name from items")) {
				id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
				n, _ := strconv.Atoi(id)
				rows[n] = name
			}
			return rows
		},
		Lose: func() { d.sql("select pg_drop_replication_slot('" + d.name + "')") },
		Hold: func() func() {
			stop := d.Stall()
			isHeld = true
			return func() {
				stop()
				held.Wait()
				isHeld = false
			}
		},
		OldValues: identity == "full",
	}
}
