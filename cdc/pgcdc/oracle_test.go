package pgcdc

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
	"github.com/freshetdev/freshet/internal/feedtest"
)

// TestOracle makes random schemas, rules and transactions, and compares what the rules drop with what a model of the
// tables says must be dropped:
//
//	nothing is missed     each name that a row had or has is dropped, or the coarse name that stands for it
//	nothing is made up    each name that is dropped and not coarse is one of those
//	all is known          with REPLICA IDENTITY FULL and no nulls, nothing is coarse
func TestOracle(t *testing.T) {
	pg := postgres(t)
	seed := uint64(time.Now().UnixNano())
	for i := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed+i), func(t *testing.T) {
			oracle(t, database(t, pg), rand.New(rand.NewPCG(seed+i, 0)))
		})
	}
}

// A modelTable is a table of the model. Its columns are id (the key), k (of the index), c (may be null), b and big.
type modelTable struct {
	name     string
	identity string // "default", "full", "index"
	parts    bool   // partitioned: ids up to 3 here, others there
	exact    bool   // all old values are told: "full", without partitions
	rows     map[string]modelRow
}

type modelRow map[string]*string

func oracle(t *testing.T, d *db, rnd *rand.Rand) {
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	var tables []*modelTable
	var rules []cdc.Rule
	for _, name := range []string{"one", "two"} {
		m := &modelTable{name: name, identity: pick("default", "full", "index"), rows: map[string]modelRow{}}
		tables = append(tables, m)
		kind, parts := "", ""
		if rnd.IntN(3) == 0 && m.identity != "index" {
			kind = " partition by list (id)"
			parts = fmt.Sprintf("create table %[1]s_a partition of %[1]s for values in (1, 2, 3); create table %[1]s_b partition of %[1]s default;", name)
		}
		m.parts = kind != ""
		m.exact = m.identity == "full" && kind == ""
		d.sql(fmt.Sprintf("create table %s (id int primary key, k int not null, c text, b bool not null, big text)%s; %s", name, kind, parts))
		for _, of := range []string{name, name + "_a", name + "_b"} {
			if of != name && kind == "" {
				continue
			}
			d.sql(fmt.Sprintf("alter table %s alter big set storage external", of))
			switch m.identity {
			case "full":
				d.sql(fmt.Sprintf("alter table %s replica identity full", of))
			case "index":
				d.sql(fmt.Sprintf("create unique index i_%[1]s on %[1]s (id, k); alter table %[1]s replica identity using index i_%[1]s", of))
			}
		}
		for n := range 1 + rnd.IntN(3) {
			rule := cdc.Rule{Table: "public." + name}
			for range 1 + rnd.IntN(2) {
				column := pick("id", "k", "c", "c?", "b", "big", "old.k", "new.k", "old.c?")
				rule.Tags = append(rule.Tags, fmt.Sprintf("%s-%d:%s", name, n, "{"+column+"}"))
			}
			if rnd.IntN(2) == 0 {
				rule.Keys = append(rule.Keys, fmt.Sprintf("key:%s:%d:{id}:{k}", name, n))
			}
			if rnd.IntN(3) == 0 {
				rule.WhenChanged = []string{pick("k", "c", "big")}
			}
			if rnd.IntN(4) == 0 {
				rule.Ops = []string{"insert", "delete"}
				rule.WhenChanged = nil
			}
			rules = append(rules, rule)
		}
	}
	made, err := cdc.NewRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	s := d.source(func(o *Options) { o.Match = made.Match })
	s.watchEvery = patience
	r := d.open(s, "")

	for range 40 {
		want := &wanted{names: map[string]bool{}, coarse: map[string]bool{}, exact: true}
		sql, commits := transaction(rnd, tables, rules, want)
		if _, err := run(d.conn, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		got, txs := drops(t, r, made)
		what := fmt.Sprintf("identities %s and %s, rules %+v\n%s", tables[0].identity, tables[1].identity, rules, sql)
		if !commits && (txs > 0 || len(got) > 0) {
			t.Fatalf("%s\nwas rolled back, and gave %q", what, got)
		}
		if !commits {
			continue
		}
		for name, must := range want.names {
			if must && !slices.ContainsFunc(got, func(g string) bool { return covers(g, name) }) {
				t.Fatalf("%s\ndrops %q; nothing covers %q", what, got, name)
			}
		}
		for name := range want.coarse {
			if !slices.Contains(got, name) {
				t.Fatalf("%s\ndrops %q; want the coarse %q", what, got, name)
			}
		}
		for _, g := range got {
			isCoarse := strings.HasSuffix(g, "!") || strings.Contains(g, "*")
			if _, may := want.names[g]; !isCoarse && !may {
				t.Fatalf("%s\ndrops %q, which no row had; want only %v", what, g, want.names)
			}
			if isCoarse && want.exact && !want.coarse[g] {
				t.Fatalf("%s\ndrops the coarse %q though all is known", what, g)
			}
		}
	}
}

// covers reports whether dropping got drops name.
func covers(got, name string) bool {
	if first, ok := strings.CutSuffix(got, "!"); ok {
		return strings.HasPrefix(name, first+":")
	}
	ok, _ := path.Match(got, name)
	return got == name || ok
}

// drops reads to the end of the feed and returns what the rules make of it.
func drops(t *testing.T, r *feedtest.Reader, rules *cdc.Rules) (names []string, txs int) {
	t.Helper()
	err := r.Each(func(ev *cdc.Event) {
		switch ev.Kind {
		case cdc.Commit:
			txs++
		case cdc.Changed:
			d, _ := rules.Drops(&ev.Change)
			names = slices.Concat(names, d.Tags, d.Keys, d.Patterns)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, txs
}

// wanted is what the model says must be dropped.
type wanted struct {
	names  map[string]bool // true: must be dropped; false: may
	coarse map[string]bool // since a value is null, or all rows are meant
	exact  bool            // nothing else may be coarse
}

// transaction makes up a transaction, and does the same to the model.
func transaction(rnd *rand.Rand, tables []*modelTable, rules []cdc.Rule, want *wanted) (sql string, commits bool) {
	commits = rnd.IntN(5) > 0
	stmts := []string{"begin"}
	saved := make([]map[string]modelRow, len(tables))
	for i, m := range tables {
		saved[i] = clone(m.rows)
	}
	for n := range 1 + rnd.IntN(5) {
		m := tables[rnd.IntN(len(tables))]
		undone := rnd.IntN(6) == 0
		keep := clone(m.rows)
		changes := &wanted{names: map[string]bool{}, coarse: map[string]bool{}, exact: true}
		stmt := statement(rnd, m, rules, changes)
		if undone {
			stmt = fmt.Sprintf("savepoint s%d; %s; rollback to s%[1]d", n, stmt)
			m.rows = keep
		} else {
			for name, must := range changes.names {
				want.names[name] = want.names[name] || must
			}
			for name := range changes.coarse {
				want.coarse[name] = true
			}
			want.exact = want.exact && changes.exact
		}
		stmts = append(stmts, stmt)
	}
	if !commits {
		for i, m := range tables {
			m.rows = saved[i]
		}
		return strings.Join(append(stmts, "rollback"), ";\n"), false
	}
	return strings.Join(append(stmts, "commit"), ";\n"), true
}

func clone(rows map[string]modelRow) map[string]modelRow {
	c := make(map[string]modelRow, len(rows))
	for id, r := range rows {
		c[id] = r
	}
	return c
}

// statement makes up one statement.
func statement(rnd *rand.Rand, m *modelTable, rules []cdc.Rule, want *wanted) string {
	id := strconv.Itoa(1 + rnd.IntN(6))
	row := m.rows[id]
	switch n := rnd.IntN(12); {
	case n == 0:
		m.rows = map[string]modelRow{}
		for _, rule := range rules {
			if rule.Table == "public."+m.name {
				all(rule, want)
			}
		}
		return "truncate " + m.name
	case row == nil:
		row = modelRow{"id": &id, "k": text(rnd.IntN(4)), "c": maybe(rnd), "b": boolText(rnd), "big": big(rnd)}
		m.rows[id] = row
		expect(m, rules, cdc.OpInsert, nil, row, want)
		return fmt.Sprintf("insert into %s (id, k, c, b, big) values (%s, %s, %s, %s, %s)", m.name, id, sqlText(row["k"]), sqlText(row["c"]), *row["b"], sqlText(row["big"]))
	case n < 3:
		delete(m.rows, id)
		expect(m, rules, cdc.OpDelete, row, nil, want)
		return fmt.Sprintf("delete from %s where id = %s", m.name, id)
	}
	now := modelRow{}
	for c, v := range row {
		now[c] = v
	}
	var set []string
	change := func(column string, v *string) {
		now[column] = v
		set = append(set, column+" = "+sqlText(v))
	}
	if rnd.IntN(4) == 0 {
		if to := strconv.Itoa(1 + rnd.IntN(6)); m.rows[to] == nil {
			change("id", &to)
		}
	}
	if rnd.IntN(2) == 0 {
		change("k", text(rnd.IntN(4)))
	}
	if rnd.IntN(2) == 0 {
		change("c", maybe(rnd))
	}
	if rnd.IntN(5) == 0 {
		change("big", big(rnd))
	}
	if len(set) == 0 {
		change("b", boolText(rnd))
	}
	delete(m.rows, id)
	m.rows[*now["id"]] = now
	if to := *now["id"]; m.parts && (id <= "3") != (to <= "3") { // PostgreSQL sends it as it does it
		expect(m, rules, cdc.OpDelete, row, nil, want)
		expect(m, rules, cdc.OpInsert, nil, now, want)
	} else {
		expect(m, rules, cdc.OpUpdate, row, now, want)
	}
	return fmt.Sprintf("update %s set %s where id = %s", m.name, strings.Join(set, ", "), id)
}

func text(n int) *string {
	s := strconv.Itoa(n)
	return &s
}

func boolText(rnd *rand.Rand) *string {
	s := strconv.FormatBool(rnd.IntN(2) == 0)
	return &s
}

func maybe(rnd *rand.Rand) *string {
	if rnd.IntN(4) == 0 {
		return nil
	}
	return text(rnd.IntN(4))
}

// big is a text that may be stored aside, and is then too long for a tag.
func big(rnd *rand.Rand) *string {
	s := strings.Repeat(strconv.Itoa(rnd.IntN(4)), 1+rnd.IntN(2)*3000)
	return &s
}

func sqlText(s *string) string {
	if s == nil {
		return "null"
	}
	return "'" + *s + "'"
}

// expect notes what a change of a row must drop.
func expect(m *modelTable, rules []cdc.Rule, op cdc.Op, before, after modelRow, want *wanted) {
	for _, rule := range rules {
		if rule.Table != "public."+m.name || len(rule.Ops) > 0 && !slices.Contains(rule.Ops, op.String()) {
			continue
		}
		changed := true
		if op == cdc.OpUpdate && len(rule.WhenChanged) > 0 {
			a, b := before[rule.WhenChanged[0]], after[rule.WhenChanged[0]]
			changed = (a == nil) != (b == nil) || a != nil && *a != *b
		}
		if !changed {
			if !m.exact {
				// That it did not change may not be known, so its names may be dropped.
				may := &wanted{names: map[string]bool{}, coarse: map[string]bool{}}
				for _, tm := range slices.Concat(rule.Tags, rule.Keys) {
					named(m, tm, op, before, after, may)
				}
				want.exact = false
				for name := range may.names {
					if _, ok := want.names[name]; !ok {
						want.names[name] = false
					}
				}
			}
			continue
		}
		for _, tm := range slices.Concat(rule.Tags, rule.Keys) {
			named(m, tm, op, before, after, want)
		}
	}
}

// named notes the names that one template makes.
func named(m *modelTable, tm string, op cdc.Op, before, after modelRow, want *wanted) {
	hasOld, hasNew := strings.Contains(tm, "{old."), strings.Contains(tm, "{new.")
	if op == cdc.OpInsert && hasOld || op == cdc.OpDelete && hasNew {
		return
	}
	sides := []modelRow{before, after}
	if hasOld && !hasNew {
		sides = sides[:1]
	}
	if hasNew && !hasOld {
		sides = sides[1:]
	}
	for _, row := range sides {
		if row == nil {
			continue
		}
		name, null, nothing := "", false, false
		for rest := tm; rest != ""; {
			lit, more, ok := strings.Cut(rest, "{")
			name += lit
			if !ok {
				break
			}
			column, tail, _ := strings.Cut(more, "}")
			rest = tail
			column = strings.TrimPrefix(strings.TrimPrefix(column, "old."), "new.")
			column, optional := strings.CutSuffix(column, "?")
			v := row[column]
			switch {
			case v == nil && optional:
				nothing = true
			case v == nil:
				null = true
			default:
				name += *v
			}
			if !m.exact {
				want.exact = false // old values and those stored aside aren't told
			}
		}
		switch {
		case nothing:
		case null || len(name) > 512:
			want.exact = false
			want.coarse[coarseOf(tm)] = true
		default:
			want.names[name] = true
		}
	}
}

// all notes that everything of a rule is to be dropped.
func all(rule cdc.Rule, want *wanted) {
	for _, tm := range slices.Concat(rule.Tags, rule.Keys) {
		want.coarse[coarseOf(tm)] = true
	}
	want.exact = false
}

func coarseOf(tm string) string {
	if strings.HasPrefix(tm, "key:") {
		parts := strings.Split(tm, ":")
		return strings.Join(parts[:3], ":") + ":*:*"
	}
	first, _, _ := strings.Cut(tm, ":")
	return first + "!"
}
