package cdctest_test

import (
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The scripted database keeps the contract, with old values and without, for one reader and for many.
func TestContract(t *testing.T) {
	for _, old := range []bool{false, true} {
		for _, exclusive := range []bool{false, true} {
			t.Run("old="+strconv.FormatBool(old)+",exclusive="+strconv.FormatBool(exclusive), func(t *testing.T) {
				cdctest.Run(t, func(t *testing.T) cdctest.Fixture { return fixture(old, exclusive) })
			})
		}
	}
}

func fixture(old, exclusive bool) cdctest.Fixture {
	table := &cdc.Table{Schema: "public", Name: "items", Columns: []cdc.Column{
		{Name: "id"}, {Name: "name", NoOld: !old}, {Name: "note", Nullable: true, NoOld: !old},
	}}
	d := cdctest.NewDatabase(table)
	var mu sync.Mutex
	rows := map[int][]cdc.Value{}
	exec := func(in ...cdctest.Row) {
		mu.Lock()
		defer mu.Unlock()
		var changes []cdc.Change
		for _, r := range in {
			note := cdc.Text(r.Note)
			if r.NullNote {
				note = cdc.Value{State: cdc.Null}
			}
			was := rows[r.ID]
			if !old && was != nil {
				was = []cdc.Value{was[0], {}, {}}
			}
			is := []cdc.Value{cdc.Text(strconv.Itoa(r.ID)), cdc.Text(r.Name), note}
			c := cdc.Change{Op: r.Op, Table: table}
			switch r.Op {
			case cdc.OpInsert:
				c.New = is
				rows[r.ID] = is
			case cdc.OpUpdate:
				c.Old, c.New = was, is
				rows[r.ID] = is
			case cdc.OpDelete:
				c.Old = was
				delete(rows, r.ID)
			case cdc.OpTruncate:
				clear(rows)
			}
			changes = append(changes, c)
		}
		d.Commit(changes...)
	}
	return cdctest.Fixture{
		New: func() cdc.Source { return d.Source(exclusive) }, Table: "public.items",
		Exec: exec, Rollback: func(...cdctest.Row) {},
		Rows: func() map[int]string {
			got := map[int]string{}
			for id := range d.Rows("public.items") {
				n, _ := strconv.Atoi(id)
				got[n] = "ada"
			}
			return got
		},
		Lose: d.Purge, Hold: d.Hold, OldValues: old,
	}
}
