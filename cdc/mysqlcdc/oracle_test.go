package mysqlcdc

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
	"github.com/freshetdev/freshet/internal/feedtest"
)

// TestOracle makes random schemas, rules, transactions and DDL, keeps a model of the rows, and compares what the rules drop with what cdctest.Expect
// says of the model's changes:
//
//	FULL names and images   exactly that
//	else                    at least that, or the coarse name that stands for it
func TestOracle(t *testing.T) {
	my := mariadb(t)
	seed := uint64(time.Now().UnixNano())
	for i := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed+i), func(t *testing.T) {
			oracle(t, database(t, my), rand.New(rand.NewPCG(seed+i, 0)))
		})
	}
}

// A modelColumn is a column of the model. make gives a literal and the text that it has.
type modelColumn struct {
	name, typ string
	make      func(*rand.Rand) (literal, text string)
}

func plain(f func(*rand.Rand) string) func(*rand.Rand) (string, string) {
	return func(r *rand.Rand) (string, string) { s := f(r); return s, s }
}

var modelTypes = []modelColumn{
	{typ: "int unsigned", make: plain(func(r *rand.Rand) string { return strconv.Itoa(r.IntN(3) + 4294967290) })},
	{typ: "mediumint", make: plain(func(r *rand.Rand) string { return strconv.Itoa(r.IntN(3) - 1) })},
	{typ: "decimal(12,3)", make: plain(func(r *rand.Rand) string { return fmt.Sprintf("-%d.500", r.IntN(3)+1) })},
	{typ: "varchar(30)", make: func(r *rand.Rand) (string, string) {
		s := []string{"a", "é b", "c:d", "x*y"}[r.IntN(4)]
		return "'" + s + "'", s
	}},
	{typ: "varchar(30) character set latin1", make: func(r *rand.Rand) (string, string) { s := []string{"ß", "€"}[r.IntN(2)]; return "'" + s + "'", s }},
	{typ: "enum('on','off')", make: func(r *rand.Rand) (string, string) { s := []string{"on", "off"}[r.IntN(2)]; return "'" + s + "'", s }},
	{typ: "varbinary(8)", make: func(r *rand.Rand) (string, string) {
		s := fmt.Sprintf("00ff%02x", r.IntN(3))
		return "x'" + s + "'", s
	}},
	{typ: "datetime(3)", make: func(r *rand.Rand) (string, string) {
		s := fmt.Sprintf("2026-01-02 03:04:05.00%d", r.IntN(3))
		return "'" + s + "'", s
	}},
}

// A modelTable is a table of the model: its first column is the key.
type modelTable struct {
	cdc.Table
	columns []modelColumn
	rows    map[string][]cdc.Value // by id
	names   int                    // given to columns so far
}

func (m *modelTable) add(rnd *rand.Rand) (definition string) {
	c := modelTypes[rnd.IntN(len(modelTypes))]
	c.name = fmt.Sprintf("c%d", m.names%4) // names come again, for other columns
	m.names++
	m.columns = append(m.columns, c)
	return c.name + " " + c.typ + " null"
}

// told is the table as changes have it now.
func (m *modelTable) told() *cdc.Table {
	t := m.Table
	t.Columns = []cdc.Column{{Name: "id"}}
	for _, c := range m.columns {
		t.Columns = append(t.Columns, cdc.Column{Name: c.name})
	}
	return &t
}

func oracle(t *testing.T, d *db, rnd *rand.Rand) {
	image := []string{"FULL", "FULL", "MINIMAL", "NOBLOB"}[rnd.IntN(4)]
	metadata := []string{"FULL", "FULL", "MINIMAL"}[rnd.IntN(3)]
	d.sql("set global binlog_row_metadata = " + metadata + "; set session binlog_row_image = " + image)
	exact := image == "FULL" && metadata == "FULL"
	var tables []*modelTable
	var rules []cdc.Rule
	for _, name := range []string{"one", "two"} {
		m := &modelTable{Table: cdc.Table{Schema: d.name, Name: name}, rows: map[string][]cdc.Value{}}
		tables = append(tables, m)
		d.sql(fmt.Sprintf("create table %s (id int primary key, %s, %s)", name, m.add(rnd), m.add(rnd)))
		for n := range 1 + rnd.IntN(3) {
			pick := func() string {
				return []string{"id", "c0", "c1", "c2", "old.c0", "new.c1", "c0?", "old.id"}[rnd.IntN(8)]
			}
			rule := cdc.Rule{Table: d.name + "." + name, Tags: []string{fmt.Sprintf("%s-%d:{%s}", name, n, pick())}}
			if rnd.IntN(2) == 0 {
				rule.Keys = []string{fmt.Sprintf("key:%s:%d:{%s}:{%s}", name, n, pick(), pick())}
			}
			switch rnd.IntN(4) {
			case 0:
				rule.WhenChanged = []string{"c0"}
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
	for round := range 40 {
		var want []string
		var sql string
		if rnd.IntN(6) == 0 {
			sql = alter(rnd, tables[rnd.IntN(2)], round)
			d.sql(sql)
			r.After("") // drops of DDL are the pump's tests
			continue
		}
		sql, changes, commits := transaction(rnd, tables)
		for _, c := range changes {
			if commits {
				want = append(want, cdctest.Expect(rules, c)...)
			}
		}
		d.sql(sql)
		got := drops(t, r, made)
		slices.Sort(want)
		want = slices.Compact(want)
		what := fmt.Sprintf("image %s, metadata %s, rules %+v\n%s", image, metadata, rules, sql)
		if exact && !slices.Equal(got, want) {
			t.Fatalf("%s\ndrops %q\nwant  %q", what, got, want)
		}
		for _, w := range want {
			if !slices.ContainsFunc(got, func(g string) bool { return covers(g, w) }) {
				t.Fatalf("%s\ndrops %q; nothing covers %q", what, got, w)
			}
		}
		if !commits && len(got) > 0 {
			t.Fatalf("%s\nwas rolled back, and drops %q", what, got)
		}
	}
}

// alter changes what a table is.
func alter(rnd *rand.Rand, m *modelTable, n int) string {
	switch rnd.IntN(3) {
	case 0:
		m.rows = map[string][]cdc.Value{}
		return "truncate " + m.Name
	case 1: // two columns swap their names
		a, b := &m.columns[0], &m.columns[1]
		a.name, b.name = b.name, a.name
		return fmt.Sprintf("alter table %s rename column %s to %s, rename column %[3]s to %[2]s", m.Name, b.name, a.name)
	}
	old := m.columns[0]
	m.columns = m.columns[1:]
	m.rows = map[string][]cdc.Value{}
	def := m.add(rnd)
	return fmt.Sprintf("delete from %s; alter table %[1]s drop column %s, add column %s", m.Name, old.name, def)
}

// transaction makes up a transaction, and the changes that it is.
func transaction(rnd *rand.Rand, tables []*modelTable) (sql string, changes []*cdc.Change, commits bool) {
	commits = rnd.IntN(5) > 0
	stmts := []string{"begin"}
	kept := map[*modelTable]map[string][]cdc.Value{}
	for _, m := range tables {
		kept[m] = clone(m.rows)
	}
	for n := range 1 + rnd.IntN(5) {
		m := tables[rnd.IntN(len(tables))]
		before := clone(m.rows)
		stmt, c := statementOf(rnd, m)
		if rnd.IntN(6) == 0 {
			m.rows = before
			stmts = append(stmts, fmt.Sprintf("savepoint s%d; %s; rollback to s%[1]d", n, stmt))
			continue
		}
		stmts = append(stmts, stmt)
		if c != nil {
			changes = append(changes, c)
		}
	}
	if !commits {
		for _, m := range tables {
			m.rows = kept[m]
		}
		return strings.Join(append(stmts, "rollback"), ";\n"), nil, false
	}
	return strings.Join(append(stmts, "commit"), ";\n"), changes, true
}

func clone(rows map[string][]cdc.Value) map[string][]cdc.Value {
	c := make(map[string][]cdc.Value, len(rows))
	for id, r := range rows {
		c[id] = r
	}
	return c
}

// statementOf makes up one statement; no change if it changes nothing.
func statementOf(rnd *rand.Rand, m *modelTable) (string, *cdc.Change) {
	id := strconv.Itoa(1 + rnd.IntN(5))
	row := m.rows[id]
	value := func(c modelColumn) (string, cdc.Value) {
		if rnd.IntN(5) == 0 {
			return "null", cdc.Value{State: cdc.Null}
		}
		lit, text := c.make(rnd)
		return lit, cdc.Text(text)
	}
	switch {
	case row == nil:
		now, cells := []cdc.Value{cdc.Text(id)}, []string{id}
		for _, c := range m.columns {
			lit, v := value(c)
			now, cells = append(now, v), append(cells, lit)
		}
		m.rows[id] = now
		return fmt.Sprintf("insert into %s values (%s)", m.Name, strings.Join(cells, ", ")), &cdc.Change{Op: cdc.OpInsert, Table: m.told(), New: now}
	case rnd.IntN(4) == 0:
		delete(m.rows, id)
		return fmt.Sprintf("delete from %s where id = %s", m.Name, id), &cdc.Change{Op: cdc.OpDelete, Table: m.told(), Old: row}
	}
	now := slices.Clone(row)
	to := id
	if n := strconv.Itoa(1 + rnd.IntN(5)); rnd.IntN(3) == 0 && m.rows[n] == nil {
		to = n
		now[0] = cdc.Text(to)
	}
	set := []string{"id = " + to}
	for i, c := range m.columns {
		if rnd.IntN(2) == 0 {
			var lit string
			lit, now[i+1] = value(c)
			set = append(set, c.name+" = "+lit)
		}
	}
	delete(m.rows, id)
	m.rows[to] = now
	stmt := fmt.Sprintf("update %s set %s where id = %s", m.Name, strings.Join(set, ", "), id)
	if slices.EqualFunc(row, now, func(a, b cdc.Value) bool { return a.State == b.State && string(a.Text) == string(b.Text) }) {
		return stmt, nil // isn't logged
	}
	return stmt, &cdc.Change{Op: cdc.OpUpdate, Table: m.told(), Old: row, New: now}
}

// covers reports whether dropping got drops want.
func covers(got, want string) bool {
	if got == want {
		return true
	}
	if tag, ok := strings.CutPrefix(got, "tag "); ok {
		first, isCoarse := strings.CutSuffix(tag, "!")
		return isCoarse && strings.HasPrefix(want, "tag "+first+":")
	}
	if pattern, ok := strings.CutPrefix(got, "pattern "); ok {
		for _, kind := range []string{"key ", "pattern "} {
			if name, isKey := strings.CutPrefix(want, kind); isKey {
				if ok, _ := path.Match(pattern, strings.ReplaceAll(name, "/", "_")); ok {
					return true
				}
			}
		}
	}
	return false
}

// drops reads to the end of the feed and returns what the rules make of it, as cdctest.Expect has it.
func drops(t *testing.T, r *feedtest.Reader, rules *cdc.Rules) (names []string) {
	t.Helper()
	err := r.Each(func(ev *cdc.Event) {
		if ev.Kind != cdc.Changed {
			return
		}
		d, _ := rules.Drops(&ev.Change)
		for kind, all := range map[string][]string{"tag ": d.Tags, "key ": d.Keys, "pattern ": d.Patterns} {
			for _, n := range all {
				names = append(names, kind+n)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
