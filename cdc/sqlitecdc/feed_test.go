package sqlitecdc

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/feedtest"
)

func TestChanges(t *testing.T) {
	d := database(t)
	d.sql("create table t (a int, b text, c text, primary key (a, b)); create table u (id integer primary key); create table other (id integer primary key)")
	r := d.open(d.source(func(o *Options) { o.Match = func(_, table string) bool { return table != "other" } }), "")
	same(t, "nothing", r.After(""))
	same(t, "insert", r.After("insert into t values (1, 'x', null)"), "[", "insert t (a=1 b=x c=~)", "]")
	same(t, "update", r.After("update t set c = 'y'"), "[", "update t (a=1 b=x c=~) (a=1 b=x c=y)", "]")
	same(t, "key", r.After("update t set b = 'z'"), "[", "update t (a=1 b=x c=y) (a=1 b=z c=y)", "]")
	same(t, "nothing is changed", r.After("update t set b = 'z'"))
	same(t, "delete", r.After("delete from t"), "[", "delete t (a=1 b=z c=y)", "]")
	same(t, "several", r.After("begin; insert into t values (1, '', ''); insert into u values (1), (2); update t set c = 'x'; commit"),
		"[", "insert t (a=1 b= c=)", "insert u (id=1)", "insert u (id=2)", "update t (a=1 b= c=) (a=1 b= c=x)", "]")
	same(t, "without where", r.After("delete from u"), "[", "delete u (id=1)", "delete u (id=2)", "]")
	same(t, "not wanted", r.After("insert into other values (1)"))
	same(t, "rolled back", r.After("begin; insert into u values (1); delete from t; rollback"))
	same(t, "savepoints", r.After(`
		begin; insert into u values (1);
		savepoint a; insert into u values (2); savepoint b; insert into u values (3); rollback to a;
		insert into u values (4); savepoint c; insert into u values (5); release c; commit`),
		"[", "insert u (id=1)", "insert u (id=4)", "insert u (id=5)", "]")
	same(t, "message", r.After(`begin; insert into u values (7); insert into freshet_changes (op, new) values ('m', '{"tags":["x"]}'); commit`),
		"[", "insert u (id=7)", `message {"tags":["x"]}`, "]")
}

func TestValues(t *testing.T) {
	d := database(t)
	d.sql(`create table t (id integer primary key, i, r real, x text, b blob, f boolean, f2 bool, n numeric, d datetime, "a ""b'c" text, g as (x || '!'), s text as (i) stored)`)
	r := d.open(d.source(), "")
	f := func(values string, want ...string) {
		t.Helper()
		lines := r.After("insert into t (i, r, x, b, f, f2, n, d, \"a \"\"b'c\") values (" + values + ")")
		for _, w := range want {
			if len(lines) != 3 || !strings.Contains(lines[1]+" ", " "+w+" ") && !strings.Contains(lines[1], " "+w+")") {
				t.Errorf("%s: %q; want %s", values, lines, w)
			}
		}
	}
	f(`-9223372036854775808, 0.1, 'it''s, "x"', x'00FFab', true, 0, 5, '2026-01-02 03:04:05', ''`,
		"i=-9223372036854775808", "r=0.1", `x=it's, "x"`, "b=00ffab", "f=true", "f2=false", "n=5", "d=2026-01-02 03:04:05", `a "b'c=`, `g=it's, "x"!`, "s=-9223372036854775808")
	f(`null, 5, null, x'', 2, 'true', 0.5, null, null`, "i=~", "r=5.0", "x=~", "b=", "f=2", "f2=true", "n=0.5", "d=~", "g=~")
	f(`'7', 0.1 + 0.2, 'ü€', null, null, null, 1e20, null, '1'`, "i=7", "r=0.30000000000000004", "x=ü€", "n=1.0e+20", `a "b'c=1`)
	f(`1.0, 1e999, '', -1e-7, false, true, -0.0, null, null`, "i=1.0", "r=Inf", "x=", "b=-1.0e-07", "f=false", "f2=true", "n=0")
	f(`'a' || char(0) || 'b', 1e15, hex(zeroblob(512)), zeroblob(1024), 1, 1, 123456789012345, null, null`, "i=?", "r=1.0e+15", "x=<1024>", "b=<2048>", "g=?")
	f(`char(0), 123456.789, hex(zeroblob(513)), zeroblob(1025), 1, 1, 1, null, null`, "i=?", "r=123456.789", "x=?", "b=?")

	r.After("delete from t where id > 1; update t set x = hex(zeroblob(600)), d = null, i = 1")
	same(t, "large and not changed", r.After("update t set r = 2"),
		"[", "update t (id=1 i=1 r=0.1 x=? b=00ffab f=true f2=false n=5 d=~ a \"b'c= g=? s=1) (id=1 i=1 r=2.0 x== b=00ffab f=true f2=false n=5 d=~ a \"b'c= g== s=1)", "]")
}

// An equal value is one of the same bytes and type: not what a collation or a comparison of numbers takes for equal.
func TestEqualIsExact(t *testing.T) {
	d := database(t)
	d.sql("create table t (id integer primary key, x text collate nocase, n); insert into t values (1, 'a', 1)")
	r := d.open(d.source(), "")
	same(t, "update", r.After("update t set x = 'A', n = 1.0"), "[", "update t (id=1 x=a n=1) (id=1 x=A n=1.0)", "]")
	same(t, "update", r.After("update t set x = 'A ', n = '1'"), "[", "update t (id=1 x=A n=1.0) (id=1 x=A  n=1)", "]")
}

// REPLACE deletes rows without telling triggers.
func TestReplace(t *testing.T) {
	d := database(t)
	d.sql(`create table t (id integer primary key, x text collate nocase unique, v);
		create table w (a text, b, v, primary key (a, b)) without rowid;
		create table n (x, y unique on conflict replace);
		create table g (id integer primary key, x, y as (lower(x)) unique)`)
	r := d.open(d.source(), "")
	d.sql("insert into t values (1, 'x', 1), (2, 'y', 2), (3, 'z', 3); insert into w values ('a', 1, 1), ('b', 1, 2); insert into n values (1, 1), (2, 2); insert into g values (1, 'A')")
	r.After("")
	f := func(statements string, want ...string) {
		t.Helper()
		if len(want) > 0 {
			want = append(append([]string{"["}, want...), "]")
		}
		same(t, statements, r.After(statements), want...)
	}
	f("insert or replace into t values (1, 'n', 9)", "delete t (id=1 x=x v=1)", "insert t (id=1 x=n v=9)")
	f("replace into t values (1, 'Y', 8)", "delete t (id=2 x=y v=2)", "delete t (id=1 x=n v=9)", "insert t (id=1 x=Y v=8)") // two rows
	f("replace into t values (1, 'y', 7)", "delete t (id=1 x=Y v=8)", "insert t (id=1 x=y v=7)")                            // one, by two keys
	f("replace into t values (5, 'new', 5)", "insert t (id=5 x=new v=5)")
	f("update or replace t set x = 'Z' where id = 1", "delete t (id=3 x=z v=3)", "update t (id=1 x=y v=7) (id=1 x=Z v=7)")
	f("update or replace t set id = 5 where id = 1", "delete t (id=5 x=new v=5)", "update t (id=1 x=Z v=7) (id=5 x=Z v=7)")
	f("update t set x = 'z' where id = 5", "update t (id=5 x=Z v=7) (id=5 x=z v=7)") // is in nobody's way
	f("insert or ignore into t values (5, 'q', 0)")
	f("insert or ignore into t values (6, 'Z', 0)")
	f("update or ignore t set v = 1", "update t (id=5 x=z v=7) (id=5 x=z v=1)")
	f("insert into t values (5, 'z', 0) on conflict do nothing")
	f("insert into t values (5, 'z', 0) on conflict (id) do update set v = excluded.v", "update t (id=5 x=z v=1) (id=5 x=z v=0)")
	f("insert into t values (9, 'z', 0) on conflict (x) do update set v = 4", "update t (id=5 x=z v=0) (id=5 x=z v=4)")
	f("insert into t (x, v) values ('auto', 1)", "insert t (id=6 x=auto v=1)")

	f("replace into w values ('a', 1, 5)", "delete w (a=a b=1 v=1)", "insert w (a=a b=1 v=5)")
	f("update or replace w set a = 'b'", "delete w (a=b b=1 v=2)", "update w (a=a b=1 v=5) (a=b b=1 v=5)")
	f("insert into n values (3, 1)", "delete n (x=1 y=1)", "insert n (x=3 y=1)")
	f("replace into n (rowid, x, y) values (2, 4, 4)", "delete n (x=2 y=2)", "insert n (x=4 y=4)")
	f("replace into g (id, x) values (2, 'a')", "delete g (id=1 x=A y=a)", "insert g (id=2 x=a y=a)")
	f("insert into g (id, x) values (3, 'c')", "insert g (id=3 x=c y=c)")
	f("update or replace g set x = 'A' where id = 3", "delete g (id=2 x=a y=a)", "update g (id=3 x=c y=c) (id=3 x=A y=a)")

	f("pragma recursive_triggers = on")
	d.sql("insert into t values (20, 'twenty', 1)")
	r.After("")
	f("replace into t values (20, 'x', 2)", "delete t (id=20 x=twenty v=1)", "insert t (id=20 x=x v=2)")
	f("pragma recursive_triggers = off")

	// What was ignored, and something else after it: a drop more, but none less.
	f("begin; insert or ignore into t values (20, 'q', 0); insert into t values (21, 'r', 0); commit", "delete t (id=20 x=x v=2)", "insert t (id=21 x=r v=0)")
	lines := r.After("begin; " + strings.Repeat("insert or ignore into t values (20, 'q', 0); insert or ignore into t values (21, 'q', 0);", 100) + "commit")
	same(t, "nothing came", lines)
}

// Foreign keys, and triggers of the program itself.
func TestCascades(t *testing.T) {
	d := database(t)
	d.sql(`create table p (id integer primary key);
		create table c (id integer primary key, p references p on delete cascade on update cascade);
		create table e (id integer primary key, p default 1 references p on delete set null);
		create table log (n integer primary key, text);
		create trigger own after insert on p begin insert into log (text) values ('p' || new.id); end;
		insert into p values (1), (2); insert into c values (1, 1), (2, 2); insert into e values (1, 1)`)
	r := d.open(d.source(), "")
	f := func(statement string, want ...string) { // in any order
		t.Helper()
		lines := r.After(statement)
		slices.Sort(lines)
		same(t, statement, lines, append([]string{"[", "]"}, want...)...)
	}
	f("insert into p values (3)", "insert log (n=3 text=p3)", "insert p (id=3)")
	f("update p set id = 7 where id = 2", "update c (id=2 p=2) (id=2 p=7)", "update p (id=2) (id=7)")
	f("delete from p where id = 1", "delete c (id=1 p=1)", "delete p (id=1)", "update e (id=1 p=1) (id=1 p=~)")
	same(t, "insert or rollback", r.After("insert or rollback into log values (9, 'x')"), "[", "insert log (n=9 text=x)", "]")
	if _, err := d.exec("insert into log values (10, 'y'), (9, 'z')"); err == nil {
		t.Error("a key twice was taken")
	}
	if _, err := d.exec("insert or fail into log values (10, 'y'), (9, 'z')"); err == nil {
		t.Error("a key twice was taken")
	}
	same(t, "half", r.After("insert into log values (11, 'z')"), "[", "insert log (n=10 text=y)", "delete log (n=9 text=x)", "insert log (n=11 text=z)", "]")
}

// More columns than an expression could join.
func TestLargeTable(t *testing.T) {
	d := database(t)
	var columns, values, want []string
	for i := range manyColumns {
		columns, values, want = append(columns, fmt.Sprintf("c%d", i)), append(values, fmt.Sprint(i)), append(want, fmt.Sprintf("c%d=%[1]d", i))
	}
	d.sql("create table t (" + strings.Join(columns, ", ") + ")")
	r := d.open(d.source(), "")
	same(t, "insert", r.After("insert into t values ("+strings.Join(values, ", ")+")"), "[", "insert t ("+strings.Join(want, " ")+")", "]")
}

// A transaction of any size is read page by page.
func TestLargeTransaction(t *testing.T) {
	const n = largeRows
	d := database(t)
	d.sql("create table t (id integer primary key, v text)")
	r := d.open(d.source(), "")
	d.sql(fmt.Sprintf("insert into t with recursive n(i) as (select 1 union all select i + 1 from n where i < %d) select i, 'some value of the row ' || i from n", n))
	changes, txs, most := 0, 0, 0
	s := r.Stream.(*stream)
	err := r.Each(func(ev *cdc.Event) {
		most = max(most, len(s.page)+len(s.queue)+len(s.waiting))
		switch ev.Kind {
		case cdc.Begin:
			txs++
			if lag := time.Since(ev.Tx.Committed); lag < 0 || lag > time.Minute {
				t.Errorf("committed at %v", ev.Tx.Committed)
			}
		case cdc.Changed:
			changes++
			if got, want := feedtest.Line("main", &ev.Change), fmt.Sprintf("insert t (id=%d v=some value of the row %[1]d)", changes); got != want {
				t.Fatalf("%s; want %s", got, want)
			}
		}
	})
	if err != nil || changes != n || txs != 1 {
		t.Errorf("%d changes in %d transactions, %v; want %d in 1", changes, txs, err, n)
	}
	if most > 500 {
		t.Errorf("%d rows were in memory; want at most 500", most)
	}
	// Acknowledged in pieces, and the disk doesn't fill.
	if err := s.Ack(t.Context(), r.Pos); err != nil {
		t.Fatal(err)
	}
	if left := d.sql("select count(*) from freshet_changes"); left != "1" {
		t.Errorf("%s rows are left; want 1", left)
	}
	same(t, "after it", r.After("insert into t values (-1, '')"), "[", "insert t (id=-1 v=)", "]")
}

// In this process nothing is polled for.
func TestNotify(t *testing.T) {
	d := database(t)
	d.sql("create table t (id integer primary key)")
	src := d.source(func(o *Options) { o.Poll = time.Hour })
	r := d.open(src, "")
	got := make(chan cdc.Position)
	go func() { got <- r.Commit() }()
	time.Sleep(20 * time.Millisecond) // it waits
	d.sql("insert into t values (1)")
	src.Notify()
	select {
	case <-got:
	case <-time.After(feedtest.Patience):
		t.Fatal("not noticed")
	}
}
