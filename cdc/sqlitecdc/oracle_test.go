package sqlitecdc

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
)

// TestOracle makes random rules and transactions, sees what each statement did to the rows by reading them before and after, and compares what the rules drop
// with what cdctest.Expect says of that. A statement that ignores or replaces may drop more.
func TestOracle(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i := range uint64(oracles) {
		t.Run(fmt.Sprint("seed ", seed+i), func(t *testing.T) { oracle(t, rand.New(rand.NewPCG(seed+i, 0))) })
	}
}

var oracleColumns = []string{"id", "a", "b", "c", "uid"}

func oracle(t *testing.T, rnd *rand.Rand) {
	d := database(t)
	kind := []string{"(id integer primary key, a text collate nocase unique, b, c real, uid)", "(id text primary key, a, b, c, uid, unique (a, b)) without rowid", "(id int, a unique, b, c text, uid)"}
	var rules []cdc.Rule
	for n, table := range []string{"one", "two"} {
		d.sql("create table " + table + kind[rnd.IntN(len(kind))])
		for range 1 + rnd.IntN(3) {
			pick := func() string {
				return []string{"id", "a", "b", "c", "old.a", "new.b", "b?", "old.id"}[rnd.IntN(8)]
			}
			rule := cdc.Rule{Table: "main." + table, Tags: []string{fmt.Sprintf("%s-%d:{%s}", table, n, pick())}}
			if rnd.IntN(2) == 0 {
				rule.Keys = []string{fmt.Sprintf("key:%s:{%s}:{%s}", table, pick(), pick())}
			}
			switch rnd.IntN(4) {
			case 0:
				rule.WhenChanged = []string{"a", "b"}
			case 1:
				rule.Ops = []string{"insert", "delete"}
			}
			rules = append(rules, rule)
		}
	}
	made, err := cdc.NewRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	r := d.open(d.source(func(o *Options) { o.Match = made.Match }), "")
	uid := 0
	for range 40 {
		var log []string
		run := func(statement string) error {
			log = append(log, statement)
			_, err := d.exec(statement)
			return err
		}
		want, exact := map[string]bool{}, true
		if err := run("begin"); err != nil {
			t.Fatal(err)
		}
		kept := want
		for range 1 + rnd.IntN(5) {
			undo := rnd.IntN(6) == 0
			if undo {
				run("savepoint s")
				kept = maps.Clone(want)
			}
			table := []string{"one", "two"}[rnd.IntN(2)]
			before := rowsOf(t, d, table)
			uid++
			statement := oracleStatement(rnd, table, uid)
			exact = exact && !strings.Contains(statement, " or ") && !strings.Contains(statement, "conflict")
			_ = run(statement) // a key twice: then it did nothing
			for _, c := range diff(table, before, rowsOf(t, d, table)) {
				for _, name := range cdctest.Expect(rules, c) {
					want[name] = true
				}
			}
			if undo {
				run("rollback to s")
				want = kept
			}
		}
		end := []string{"commit", "commit", "commit", "rollback"}[rnd.IntN(4)]
		if err := run(end); err != nil {
			t.Fatal(err)
		}
		if end == "rollback" {
			clear(want)
		}
		got := map[string]bool{}
		err := r.Each(func(ev *cdc.Event) {
			if ev.Kind != cdc.Changed {
				return
			}
			o, _ := made.Drops(&ev.Change)
			for kind, names := range map[string][]string{"tag ": o.Tags, "key ": o.Keys, "pattern ": o.Patterns} {
				for _, n := range names {
					got[kind+n] = true
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if exact && !maps.Equal(got, want) || end == "rollback" && len(got) > 0 {
			t.Fatalf("rules %+v\n%s\ndrops %q\nwant  %q", rules, strings.Join(log, ";\n"), slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
		for name := range want {
			if !got[name] {
				t.Fatalf("rules %+v\n%s\ndrops %q\nnot   %q", rules, strings.Join(log, ";\n"), slices.Sorted(maps.Keys(got)), name)
			}
		}
	}
}

// oracleStatement makes up a statement. No statement changes a uid: it tells which row is which.
func oracleStatement(rnd *rand.Rand, table string, uid int) string {
	value := func() string {
		return []string{"null", "1", "2", "1.5", "'x'", "'X'", "'y z'", "x'00ff'", "''", "3"}[rnd.IntN(10)]
	}
	id := fmt.Sprint(1 + rnd.IntN(5))
	or := []string{"", "", "or replace ", "or ignore ", "or fail ", "or abort "}[rnd.IntN(6)]
	where := "id >= " + id
	if or == "or replace " { // one row: of several, the next may replace what the first became, and the rows before and after don't tell that
		where = fmt.Sprintf("uid = (select max(uid) from %s where %s)", table, where)
	}
	insert := fmt.Sprintf("into %s (id, a, b, c, uid) values (%s, %s, %s, %s, %d)", table, id, value(), value(), value(), uid)
	switch rnd.IntN(8) {
	case 0, 1, 2:
		return "insert " + or + insert
	case 3:
		return "insert " + insert + " on conflict do nothing"
	case 4:
		return fmt.Sprintf("delete from %s where id = %s", table, id)
	case 5:
		return fmt.Sprintf("update %s%s set id = %d where %s", or, table, 1+rnd.IntN(5), where)
	}
	return fmt.Sprintf("update %s%s set a = %s, b = %s where %s", or, table, value(), value(), where)
}

// rowsOf reads a table, by uid. Values are read by quote, and decoded as those of the outbox are: TestValues has what that makes of them.
func rowsOf(t *testing.T, d *db, table string) map[string][]cdc.Value {
	t.Helper()
	list := "quote(" + strings.Join(oracleColumns, ") || ',' || quote(") + ")"
	rows := map[string][]cdc.Value{}
	v := newVersion(table, columnsOf(), true)
	for line := range strings.Lines(d.sql("select uid, " + list + " from " + table)) {
		id, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
		row, _, err := v.decode(text, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		rows[id] = row
	}
	return rows
}

func columnsOf() (all []cdc.Column) {
	for _, c := range oracleColumns {
		all = append(all, cdc.Column{Name: c})
	}
	return all
}

// diff returns what happened to a table.
func diff(table string, before, after map[string][]cdc.Value) (changes []*cdc.Change) {
	tb := &cdc.Table{Schema: "main", Name: table, Columns: columnsOf()}
	for uid, was := range before {
		switch is, ok := after[uid]; {
		case !ok:
			changes = append(changes, &cdc.Change{Op: cdc.OpDelete, Table: tb, Old: was})
		case cdctest.RowText(is) != cdctest.RowText(was):
			changes = append(changes, &cdc.Change{Op: cdc.OpUpdate, Table: tb, Old: was, New: is})
		}
	}
	for uid, is := range after {
		if before[uid] == nil {
			changes = append(changes, &cdc.Change{Op: cdc.OpInsert, Table: tb, New: is})
		}
	}
	return changes
}
