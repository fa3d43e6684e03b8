package pgcdc

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/freshetdev/freshet/cdc"
)

// TestFeed is what comes out for what happens in a database.
func TestFeed(t *testing.T) {
	pg := postgres(t)
	for _, c := range []struct {
		name string
		f    func(t *testing.T, d *db)
	}{
		{"changes", testChanges},
		{"rolled back", testRolledBack},
		{"identities", testIdentities},
		{"values", testValues},
		{"toast", testToast},
		{"generated", testGenerated},
		{"partitions", testPartitions},
		{"partitions with other identities", testPartitionIdentities},
		{"ddl", testDDL},
		{"ddl without changes", testQuietDDL},
		{"prepared", testPrepared},
		{"messages", testMessages},
		{"large", testLarge},
		{"new tables", testNewTables},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, database(t, pg)) })
	}
}

func testChanges(t *testing.T, d *db) {
	d.sql("create table t (a int, b text, c text, primary key (a, b))")
	d.sql("create table u (id int primary key)")
	d.sql("create schema other; create table other.t (id int primary key)")
	r := d.open(d.source(), "")
	same(t, "nothing", r.After(""))
	same(t, "insert", r.After("insert into t values (1, 'x', null)"), "[", "insert t (a=1 b=x c=~)", "]")
	same(t, "update", r.After("update t set c = 'y'"), "[", "update t (a=1 b=x c=?) (a=1 b=x c=y)", "]")
	same(t, "key", r.After("update t set b = 'z'"), "[", "update t (a=1 b=x c=?) (a=1 b=z c=y)", "]")
	same(t, "delete", r.After("delete from t"), "[", "delete t (a=1 b=z c=?)", "]")
	same(t, "several", r.After("begin; insert into t values (1, '', ''); insert into u values (1), (2); update t set c = 'x'; commit"),
		"[", "insert t (a=1 b= c=)", "insert u (id=1)", "insert u (id=2)", "update t (a=1 b= c=?) (a=1 b= c=x)", "]")
	same(t, "truncate", r.After("truncate t, u"), "[", "truncate t", "truncate u", "]")
	same(t, "not wanted", r.After("insert into other.t values (1)"))
	same(t, "two", append(r.After("insert into u values (1)"), r.After("insert into u values (2)")...), "[", "insert u (id=1)", "]", "[", "insert u (id=2)", "]")
}

func testRolledBack(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	r := d.open(d.source(), "")
	same(t, "rollback", r.After("begin; insert into t values (1); truncate t; rollback"))
	same(t, "savepoints", r.After(`
		begin; insert into t values (1);
		savepoint a; insert into t values (2); savepoint b; insert into t values (3); rollback to a;
		insert into t values (4); savepoint c; insert into t values (5); release c; commit`),
		"[", "insert t (id=1)", "insert t (id=4)", "insert t (id=5)", "]")
	same(t, "all undone", r.After("begin; savepoint a; insert into t values (6); rollback to a; commit"))
}

func testIdentities(t *testing.T, d *db) {
	d.sql(`
		create table full_ (id int primary key, a text, b text);
		alter table full_ replica identity full;
		create table index_ (id int primary key, a text not null, b text);
		create unique index i on index_ (id, a);
		alter table index_ replica identity using index i;
		create table bare (id int, a text);
		alter table bare replica identity full;
		insert into full_ values (1, 'x', null);
		insert into index_ values (1, 'x', null);
		insert into bare values (1, null)`)
	r := d.open(d.source(), "")
	same(t, "full", r.After("update full_ set a = 'y'; delete from full_"),
		"[", "update full_ (id=1 a=x b=~) (id=1 a=y b=~)", "delete full_ (id=1 a=y b=~)", "]")
	same(t, "index", r.After("update index_ set b = 'z'; update index_ set a = 'y'; delete from index_"),
		"[", "update index_ (id=1 a=x b=?) (id=1 a=x b=z)", "update index_ (id=1 a=x b=?) (id=1 a=y b=z)", "delete index_ (id=1 a=y b=?)", "]")
	same(t, "bare", r.After("update bare set id = 2; delete from bare"),
		"[", "update bare (id=1 a=~) (id=2 a=~)", "delete bare (id=2 a=~)", "]")
	// It is what the table has when the row changes, as the relation message says.
	same(t, "altered", r.After("alter table full_ replica identity default; insert into full_ values (2, 'x', 'y')"),
		"[", "schema full_", "insert full_ (id=2 a=x b=y)", "]")
	same(t, "after that", r.After("delete from full_"), "[", "delete full_ (id=2 a=? b=?)", "]")
}

func testValues(t *testing.T, d *db) {
	d.sql(`
		create type mood as enum ('sad', 'so so');
		create domain flag as boolean;
		create domain flag2 as flag;
		create domain blob as bytea;
		create table t (id bigint primary key, i smallint, b boolean, f flag2, y bytea, y2 blob, n numeric, u uuid, m mood, a text[], e double precision,
			ts timestamp, tz timestamptz, da date, ti time, iv interval, j jsonb, c char(3), v varchar)`)
	d.sql("alter database " + d.name + " set timezone = 'Asia/Kolkata'; alter database " + d.name + " set datestyle = 'German'; alter database " + d.name + " set bytea_output = 'escape'")
	r := d.open(d.source(), "")
	got := r.After(`insert into t values (-9223372036854775808, 7, true, false, '\xDEAD00', '\x', 1.50, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'so so',
		'{a,NULL,"b c"}', 0.1, '2026-01-02 03:04:05.6', '2026-01-02 03:04:05+02', '2026-01-02', '03:04', '1 day 2 hours', '{"b":1}', 'x', 'ü')`)
	for i, want := range []string{
		"id=-9223372036854775808", "i=7", "b=true", "f=false", "y=dead00", "y2=", "n=1.50", "u=a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "m=so so",
		`a={a,NULL,"b c"}`, "e=0.1", "ts=2026-01-02 03:04:05.6", "tz=2026-01-02 01:04:05+00", "da=2026-01-02", "ti=03:04:00", "iv=P1DT2H", `j={"b": 1}`, "c=x  ", "v=ü",
	} {
		if len(got) != 3 || !strings.Contains(got[1], want) {
			t.Errorf("%d: no %q in %q", i, want, got)
		}
	}
}

func testToast(t *testing.T, d *db) {
	d.sql(`create table t (id int primary key, n int, big text); alter table t alter big set storage external;
		create table f (id int primary key, n int, big text); alter table f alter big set storage external; alter table f replica identity full`)
	r := d.open(d.source(), "")
	same(t, "insert", r.After("insert into t values (1, 1, repeat('x', 10000))"), "[", "insert t (id=1 n=1 big=<10000>)", "]")
	same(t, "unchanged", r.After("update t set n = 2"), "[", "update t (id=1 n=? big=?) (id=1 n=2 big==)", "]")
	same(t, "changed", r.After("update t set big = repeat('y', 9000)"), "[", "update t (id=1 n=? big=?) (id=1 n=2 big=<9000>)", "]")
	r.After("insert into f values (1, 1, repeat('x', 10000))")
	same(t, "full", r.After("update f set n = 2"), "[", "update f (id=1 n=1 big=<10000>) (id=1 n=2 big==)", "]")
}

func testGenerated(t *testing.T, d *db) {
	d.sql("create table t (id int primary key, a int, twice int generated always as (a * 2) stored)")
	s := d.source()
	r := d.open(s, "")
	same(t, "insert", r.After("insert into t values (1, 2)"), "[", "insert t (id=1 a=2)", "]")
	tables, err := s.Tables(t.Context(), s.opts.Match)
	if err != nil || len(tables) != 1 || len(tables[0].Columns) != 2 {
		t.Errorf("tables are %+v, %v; want one without the generated column, so that rules that name it are an error", tables, err)
	}
}

func testPartitions(t *testing.T, d *db) {
	d.sql(`create table p (id int, k int, a text, primary key (id, k)) partition by list (k);
		create table p1 partition of p for values in (1);
		create table p2 partition of p for values in (2) partition by range (id);
		create table p21 partition of p2 for values from (0) to (1000)`)
	s := d.source()
	s.watchEvery = patience // by hand
	r := d.open(s, "")
	same(t, "insert", r.After("insert into p values (1, 1, 'x'), (2, 2, 'y')"), "[", "insert p (id=1 k=1 a=x)", "insert p (id=2 k=2 a=y)", "]")
	same(t, "into a partition", r.After("insert into p21 values (3, 2, 'z')"), "[", "insert p (id=3 k=2 a=z)", "]")
	same(t, "update", r.After("update p set a = 'w' where id = 1"), "[", "update p (id=1 k=1 a=?) (id=1 k=1 a=w)", "]")
	same(t, "moved", r.After("update p set k = 1 where id = 2"), "[", "delete p (id=2 k=2 a=?)", "insert p (id=2 k=1 a=y)", "]")
	same(t, "delete", r.After("delete from p where id = 2"), "[", "delete p (id=2 k=1 a=?)", "]")
	same(t, "truncate", r.After("truncate p"), "[", "truncate p", "]")

	// PostgreSQL sends nothing of these; the catalog has them.
	st := r.Stream.(*stream)
	f := func(statements string) {
		t.Helper()
		same(t, "sent: "+statements, r.After(statements))
		if err := st.look(); err != nil {
			t.Fatal(err)
		}
		if got := r.After(""); !slices.Contains(got, "schema p") {
			t.Errorf("told: %s: %q; want schema p", statements, got)
		}
	}
	f("truncate p1")
	f("create table p3 partition of p for values in (3)")
	f("alter table p detach partition p3")
	f("alter table p attach partition p3 for values in (3)")
}

func testPartitionIdentities(t *testing.T, d *db) {
	d.sql(`create table p (id int, k int, a text, b text, primary key (id, k)) partition by list (k);
		create table p1 partition of p for values in (1);
		create table p2 partition of p for values in (2);
		alter table p replica identity full;
		alter table p1 replica identity full;
		insert into p values (1, 1, 'x', null), (2, 2, 'x', null)`)
	s := d.source()
	s.watchEvery = patience
	problems, err := s.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hasProblem(t, problems, `ALTER TABLE "public"."p2" REPLICA IDENTITY FULL;`)
	r := d.open(s, "")
	// What is sent for p2 says "all columns", and has nulls for those outside of its key; with the key unchanged nothing old is sent.
	same(t, "of the one with all", r.After("update p set a = 'y' where id = 1"), "[", "update p (id=1 k=1 a=x b=?) (id=1 k=1 a=y b=~)", "]")
	same(t, "of the one with a key", r.After("update p set a = 'y' where id = 2"), "[", "update p (id=? k=? a=? b=?) (id=2 k=2 a=y b=~)", "]")
	same(t, "and its delete", r.After("delete from p where id = 2"), "[", "delete p (id=2 k=2 a=? b=?)", "]")
	// Here the key of the partition is another than that of the table: an update of id sends nothing old.
	d.sql(`create table q (id int, k int, a text not null, primary key (id, k)) partition by list (k); create table q1 partition of q for values in (1);
		create unique index qi on q1 (a); alter table q1 replica identity using index qi`)
	if err := r.Stream.(*stream).look(); err != nil {
		t.Fatal(err)
	}
	r.After("insert into q values (1, 1, 'x')")
	same(t, "of one with another key", r.After("update q set id = 2"), "[", "update q (id=? k=? a=?) (id=2 k=1 a=x)", "]")
	r.After("alter table p replica identity default; insert into p values (3, 1, '', '')")
	same(t, "default, with one that has all", r.After("update p set a = 'z' where id = 1"), "[", "update p (id=1 k=1 a=y b=?) (id=1 k=1 a=z b=~)", "]")
}

func testDDL(t *testing.T, d *db) {
	d.sql("create table t (id int primary key, a text); create table u (id int primary key)")
	s := d.source()
	s.watchEvery = patience
	r := d.open(s, "")
	same(t, "before", r.After("insert into t values (1, 'x')"), "[", "insert t (id=1 a=x)", "]")
	same(t, "in the middle", r.After("begin; insert into t values (2, 'y'); alter table t add column b int default 7; insert into t values (3, 'z'); commit"),
		"[", "insert t (id=2 a=y)", "schema t", "insert t (id=3 a=z b=7)", "]")
	same(t, "column renamed", r.After("alter table t rename a to c; update t set b = 8 where id = 1"),
		"[", "schema t", "update t (id=1 c=? b=?) (id=1 c=x b=8)", "]")
	same(t, "column dropped", r.After("alter table t drop c; delete from t where id = 1"), "[", "schema t", "delete t (id=1 b=?)", "]")
	same(t, "table renamed", r.After("alter table t rename to v; insert into v values (4, 4)"), "[", "schema t", "schema v", "insert v (id=4 b=4)", "]")
	r.After("insert into u values (1)")
	same(t, "replaced", r.After("drop table u; create table u (id int primary key); alter publication freshet add table u; insert into u values (1)"),
		"[", "schema u", "insert u (id=1)", "]")
	same(t, "index", r.After("create index on v (b); analyze v; insert into v values (5, 5)"), "[", "insert v (id=5 b=5)", "]")
}

// Changes of tables that no row shows are found in the catalog.
func testQuietDDL(t *testing.T, d *db) {
	d.sql("create table t (id int primary key, a text); create table u (id int primary key); create table v (id int primary key)")
	s := d.source()
	s.watchEvery = patience
	r := d.open(s, "")
	st := r.Stream.(*stream)
	f := func(statements string, want ...string) {
		t.Helper()
		same(t, "sent", r.After(statements))
		if err := st.look(); err != nil {
			t.Fatal(err)
		}
		same(t, statements, r.After(""), want...)
	}
	f("")
	f("alter table t add column b int default 7", "[", "schema t", "]")
	f("alter table u rename to w", "[", "schema w", "schema u", "]")
	f("drop table v", "[", "schema v", "]")
	d.sql("vacuum full t")
	f("create index on t (a)")
	if n := s.Stats().Altered; n != 4 {
		t.Errorf("%d tables were altered; want 4", n)
	}
}

func testPrepared(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	r := d.open(d.source(), "")
	same(t, "prepared", r.After("begin; insert into t values (1); prepare transaction 'a'"))
	same(t, "committed", r.After("commit prepared 'a'"), "[", "insert t (id=1)", "]")
	same(t, "prepared", r.After("begin; insert into t values (2); prepare transaction 'b'"))
	same(t, "rolled back", r.After("rollback prepared 'b'"))
	// A slot that would send them sooner isn't taken.
	d.sql("select pg_create_logical_replication_slot('twophase', 'pgoutput', false, true)")
	_, err := d.tryOpen(d.source(func(o *Options) { o.Slot = "twophase" }), "")
	if err == nil || !strings.Contains(err.Error(), "has two_phase") {
		t.Errorf("slot with two_phase: %v", err)
	}
}

func testMessages(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	emit := func(tx bool, prefix, text string) string {
		return "select pg_logical_emit_message(" + map[bool]string{true: "true", false: "false"}[tx] + ", '" + prefix + "', '" + text + "');"
	}
	same(t, "in a transaction", r.After("begin; insert into t values (1);"+emit(true, "freshet", `{"tags":["a"]}`)+"insert into t values (2); commit"),
		"[", "insert t (id=1)", `message {"tags":["a"]}`, "insert t (id=2)", "]")
	same(t, "by itself", r.After(emit(true, "freshet", "x")), "[", "message x", "]")
	same(t, "rolled back", r.After("begin;"+emit(true, "freshet", "x")+"rollback"))
	same(t, "of others", r.After(emit(true, "other", "x")+emit(false, "other", "x")+emit(true, prefixTick, "")))
	before := r.Pos
	same(t, "at once", r.After("begin; insert into t values (3);"+emit(false, "freshet", "y")+"rollback"), "[", "message y", "]")
	after := r.Pos
	r.Close()
	r = d.open(s, before)
	same(t, "again", r.After(""), "[", "message y", "]")
	r.Close()
	same(t, "not again", d.open(s, after).After(""))
}

// A transaction that is larger than what the server keeps in memory is neither kept in ours.
func testLarge(t *testing.T, d *db) {
	d.sql("create table t (id int primary key, a text)")
	r := d.open(d.source(), "")
	d.sql("insert into t select n, repeat('x', 1000) from generate_series(1, 100000) n")
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := r.Tick(ctx, 1); err != nil {
		t.Fatal(err)
	}
	var before, now runtime.MemStats
	var most uint64
	runtime.GC()
	runtime.ReadMemStats(&before)
	for n := 0; ; {
		var ev cdc.Event
		if err := r.Next(ctx, &ev); err != nil {
			t.Fatal(err)
		}
		if ev.Kind == cdc.Ticked {
			if n != 100_000 {
				t.Errorf("%d changes; want 100000", n)
			}
			break
		}
		if ev.Kind != cdc.Changed {
			continue
		}
		if n++; n%20_000 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc))
		}
	}
	t.Logf("100 MB in one transaction: at most %d KiB more on the heap", most>>10)
	if most > 8<<20 {
		t.Errorf("%d bytes more are in use while a transaction of 100 MB is read; want a few", most)
	}
}

// Tables that come to match are published and told of, since what was written to them before isn't in the feed.
func testNewTables(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	s.watchEvery = patience
	r := d.open(s, "")
	st := r.Stream.(*stream)
	same(t, "not published yet", r.After("create table u (id int primary key); insert into u values (1)"))
	// A transaction that began to write before isn't waited for by ALTER PUBLICATION, but by us.
	early := d.dial()
	defer early.Close(context.Background())
	if _, err := run(early, "begin; insert into u values (2)"); err != nil {
		t.Fatal(err)
	}
	looked := make(chan error, 1)
	go func() { looked <- st.look() }()
	await(t, "the table is published", func() bool { return d.sql("select count(*) from pg_publication_tables") == "2" })
	same(t, "not told yet", r.After(""))
	if _, err := run(early, "commit"); err != nil {
		t.Fatal(err)
	}
	if err := <-looked; err != nil {
		t.Fatal(err)
	}
	got := r.After("insert into u values (3)")
	if len(got) < 6 || strings.Join(got[len(got)-6:], " ") != "[ insert u (id=3) ] [ schema u ]" && strings.Join(got[len(got)-6:], " ") != "[ schema u ] [ insert u (id=3) ]" {
		t.Errorf("published: %q; want the table told of, and its next row", got)
	}
	// One without a key would break its writers. It doesn't take the others along.
	r.After("create table bare (id int)")
	if err := st.look(); err != nil {
		t.Fatal(err)
	}
	hasProblem(t, s.Stats().Problems, `REPLICA IDENTITY FULL`)
	d.sql("insert into bare values (1); update bare set id = 2")
	r.Close()
	// While nobody looks, too.
	r = d.open(s, r.Pos)
	r.After("")
	r.Close()
	d.sql("create table w (id int primary key); insert into w values (1)")
	r = d.open(s, r.Pos)
	await(t, "the new table is told of", func() bool {
		got := r.After("")
		return strings.Contains(strings.Join(got, " "), "schema w")
	})
}
