package sqlitecdc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freshetdev/freshet/cdc"
)

// The schema is altered under an open stream: what may have been missed is told, and triggers are there again before anything is certified.
func TestAltered(t *testing.T) {
	d := database(t)
	d.sql("create table t (id integer primary key, v); create table u (id integer primary key); insert into t values (1, 'a')")
	r := d.open(d.source(), "")
	f := func(statements string, want ...string) {
		t.Helper()
		same(t, statements, r.After(statements), want...)
	}
	f("alter table t add column w default 5; update t set w = 6", "[", "schema t", "]")
	f("update t set w = 7", "[", "update t (id=1 v=a w=6) (id=1 v=a w=7)", "]")
	f("alter table t rename column v to x", "[", "schema t", "]")
	f("update t set x = 'b'", "[", "update t (id=1 x=a w=7) (id=1 x=b w=7)", "]")
	f("drop trigger freshet_update_t", "[", "schema t", "]")
	f("update t set x = 'c'", "[", "update t (id=1 x=b w=7) (id=1 x=c w=7)", "]")
	f("create unique index i on t (x)", "[", "schema t", "]")
	f("replace into t values (2, 'c', 0)", "[", "delete t (id=1 x=c w=7)", "insert t (id=2 x=c w=0)", "]")
	f("alter table t rename to t2", "[", "schema t2", "schema t", "]")
	f("insert into t2 values (3, 'd', 0)", "[", "insert t2 (id=3 x=d w=0)", "]")
	f("drop table t2", "[", "schema t2", "]")
	f("create table t2 (id integer primary key)", "[", "schema t2", "]")
	f("insert into t2 values (1)", "[", "insert t2 (id=1)", "]")

	// One statement that has nothing to do with our tables is nothing to tell of.
	f("vacuum")
	f("create view x as select 1")
	f("create temp table temporary (a); insert into temporary values (1)")
	f("insert into t2 values (2)", "[", "insert t2 (id=2)", "]")

	// Nor can two be told from a trigger that was away for a while.
	statement := d.sql("select sql from sqlite_master where name = 'freshet_insert_t2'")
	f("begin; drop trigger freshet_insert_t2; insert into t2 values (3); "+statement+"; commit", "[", "schema t2", "schema u", "]")
	f("insert into t2 values (4)", "[", "insert t2 (id=4)", "]")

	// The other way to alter a table.
	f(`begin; create table new (id integer primary key, v text); insert into new select id, 'v' from t2; drop table t2; alter table new rename to t2; commit`,
		"[", "schema t2", "schema u", "]")
	f("insert into t2 values (5, 'x')", "[", "insert t2 (id=5 v=x)", "]")
}

// The same, while nobody reads.
func TestAlteredMeanwhile(t *testing.T) {
	d := database(t)
	d.sql("create table t (id integer primary key, v); create table u (id integer primary key)")
	r := d.open(d.source(), "")
	f := func(statements string, want ...string) {
		t.Helper()
		r.Close()
		d.sql(statements)
		r = d.open(d.source(), r.Pos)
		same(t, statements, r.After(""), want...)
	}
	f("insert into t values (1, 'a')", "[", "insert t (id=1 v=a)", "]")
	f("vacuum")
	f("drop trigger freshet_insert_t; insert into t values (2, 'b')", "[", "schema t", "]")
	f("insert into t values (3, 'c'); alter table t add column w; insert into t values (4, 'd', 0)", "[", "insert t (id=3 v=c)", "insert t (id=4 v=d)", "schema t", "]")
	f("drop table u", "[", "schema u", "]")
	f("create table n (id integer primary key); insert into n values (1)", "[", "schema n", "]")
	statement := d.sql("select sql from sqlite_master where name = 'freshet_insert_n'")
	f("drop trigger freshet_insert_n; insert into n values (2); "+statement, "[", "schema n", "schema t", "]")
	if got := d.source().Stats(); got.Altered != 0 {
		t.Errorf("a source that opened nothing has %+v", got)
	}
}

// Positions prove the history of the file.
func TestGaps(t *testing.T) {
	for _, c := range []struct {
		name, want string
		open       bool // under an open stream, or before one; see TestGapOfOpenStream, too
		f          func(d *db)
	}{
		{"emptied", "the outbox ends at change 1, before 2", true, func(d *db) { d.sql("delete from freshet_changes") }},
		{"outbox gone", "of outbox", true, func(d *db) { d.sql("drop table freshet_changes; drop table freshet_state") }},
		{"set back", "the file was", false, func(d *db) { d.restore() }},
		{"set back and written to", "another than the one that was read", false, func(d *db) {
			d.restore()
			d.sql("insert into t values (20), (30), (40), (50)")
		}},
		{"another file", "of outbox", true, func(d *db) {
			d.replace("")
			d.sql("create table t (id integer primary key)")
			d.open(d.source(), "").Close()
			d.sql("insert into t values (20), (30), (40), (50)")
		}},
		{"replaced by an older one", "the outbox ends at change 1, before 2", false, func(d *db) { d.replace(d.path + ".backup") }},
		{"acknowledged by another", "aren't kept any more", true, func(d *db) {
			r := d.open(d.source(), "")
			r.After("insert into t values (4); insert into t values (5)")
			if err := r.Ack(d.t.Context(), r.Pos); err != nil {
				d.t.Fatal(err)
			}
		}},
		{"too many", "aren't kept any more", true, func(d *db) {
			d.sql("insert into t with recursive n(i) as (select 100 union all select i + 1 from n where i < 300) select i from n")
			if got := d.sql("select count(*) from freshet_changes"); got != "100" {
				d.t.Errorf("%s rows are kept; want 100", got)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := database(t)
			d.sql("create table t (id integer primary key)")
			source := func() *Source { return d.source(func(o *Options) { o.MaxRows = 100 }) }
			r := d.open(source(), "")
			d.backup() // the outbox is at 1: t is new
			r.After("insert into t values (3)")
			if !c.open {
				r.Close()
			}
			c.f(d)
			if c.open {
				_, err := r.Read()
				if err == nil {
					t.Fatal("no error of the open stream")
				}
				t.Logf("open stream: %v", err)
				r.Close()
			}
			r2, err := d.tryOpen(source(), r.Pos)
			if err == nil {
				r2.Close()
			}
			isGap(t, "open after it", err, c.want)
			// A new beginning.
			d.sql("select count(*) from t") // a connection that knows the old schema prepares no insert by the new one
			r = d.open(source(), "")
			same(t, "after it", r.After("insert into t values (99)"), "[", "insert t (id=99)", "]")
			r.Close()
		})
	}
}

// Ids have no gaps, so a row that somebody deleted shows.
func TestHole(t *testing.T) {
	d := database(t)
	d.sql("create table t (id integer primary key)")
	r := d.open(d.source(), "")
	d.sql("insert into t values (1), (2), (3); delete from freshet_changes where id = (select max(id) from freshet_changes) - 1")
	_, err := r.Read()
	isGap(t, "read", err, "aren't kept any more")
}

// An open stream says gap where that would not show any more when its mark is opened.
func TestGapOfOpenStream(t *testing.T) {
	for name, f := range map[string]func(d *db){
		"replaced": func(d *db) { d.replace(d.path + ".backup") },
		"set back": func(d *db) { d.restore() },
		"written to since": func(d *db) {
			d.restore()
			d.sql("insert into t values (20), (30), (40), (50)")
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := database(t)
			d.sql("create table t (id integer primary key)")
			r := d.open(d.source(), "")
			d.backup()
			r.After("insert into t values (3)")
			f(d)
			_, err := r.Read()
			isGap(t, "read", err, "")
		})
	}
}

// backup copies the file.
func (d *db) backup() { d.sql("vacuum into '" + d.path + ".backup'") }

// restore writes the copy over the file, within SQLite, as .restore of the sqlite3 shell does.
func (d *db) restore() {
	d.t.Helper()
	d.sql("attach '" + d.path + ".backup' as b; begin; delete from t; drop trigger freshet_insert_t; insert into t select * from b.t; delete from freshet_changes; " +
		"insert into freshet_changes select * from b.freshet_changes; commit; detach b")
}

// replace puts a file, or none, in the place of the database.
func (d *db) replace(by string) {
	d.t.Helper()
	old := d.path + ".old"
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(d.path+suffix, old+suffix); err != nil && !os.IsNotExist(err) {
			d.t.Fatal(err)
		}
	}
	if by != "" {
		if err := os.Rename(by, d.path); err != nil {
			d.t.Fatal(err)
		}
	}
	d.exec = d.Session() // others still have the old one
}

// What another process commits is seen; what it had not committed when it died never was there.
func TestProcesses(t *testing.T) {
	d := database(t)
	d.sql("create table t (id integer primary key)")
	r := d.open(d.source(), "")
	if err := d.process("insert into t values (1)"); err != nil {
		t.Fatal(err)
	}
	same(t, "of another", r.After(""), "[", "insert t (id=1)", "]")
	if err := d.process("begin; insert into t values (2); insert into t values (3); crash"); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the process ended with %v; want it killed", err)
	}
	if err := d.process("begin; insert into t values (4); commit; crash"); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the process ended with %v; want it killed", err)
	}
	same(t, "of the dead", r.After(""), "[", "insert t (id=4)", "]")
	same(t, "after them", r.After("insert into t values (5)"), "[", "insert t (id=5)", "]")
}

// A writer holds the file, without WAL: the stream waits, and certifies nothing.
func TestLocked(t *testing.T) {
	d := database(t)
	d.sql("pragma journal_mode = delete")
	d.sql("create table t (id integer primary key)")
	src := d.source()
	r := d.open(src, "")
	d.sql("begin exclusive; insert into t values (1)")
	done := make(chan []string, 1)
	go func() {
		lines, err := r.Read()
		if err != nil {
			lines = append(lines, err.Error())
		}
		done <- lines
	}()
	await(t, "it is kept from reading", func() bool { return src.Stats().Busy > 0 })
	if err := r.Ack(t.Context(), r.Pos); err != nil {
		t.Errorf("ack while it is locked: %v", err)
	}
	d.sql("commit")
	same(t, "after it", <-done, "[", "insert t (id=1)", "]")
}

func TestNames(t *testing.T) {
	d := database(t)
	d.sql(`create table "a ""b'_c" ("x y""'" integer primary key, "order" text unique)`)
	one, two := d.open(d.source(), ""), d.open(d.source(func(o *Options) { o.Name = "other" }), "")
	want := []string{"[", `insert a "b'_c (x y"'=1 order=o)`, "]"}
	same(t, "one", one.After(`insert into "a ""b'_c" values (1, 'o')`), "[", want[1], `schema a "b'_c`, "]") // two made triggers meanwhile
	same(t, "two", two.After(""), want...)
	for _, r := range []cdc.Stream{one, two} {
		r.Close()
	}
	if err := d.source().Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := d.sql("select count(*) from sqlite_master where name like 'freshet%'"); left != "0" {
		t.Errorf("%s things are left", left)
	}
	if left := d.sql("select count(*) from sqlite_master where type = 'trigger'"); left != "5" {
		t.Errorf("%s triggers of the other are left; want 5", left)
	}
}

// Somebody drops the outbox and leaves the triggers: who writes is told so, and a stream makes it again.
func TestOutboxDroppedBehindTriggers(t *testing.T) {
	d := database(t)
	d.sql("create table t (id integer primary key, v text)")
	d.open(d.source(), "").Close()
	d.sql("drop table freshet_changes")
	if err := d.process("insert into t values (1, 'a')"); err == nil || !strings.Contains(err.Error(), "no such table: main.freshet_changes") {
		t.Errorf("a write without the outbox: %v; want an error that names it", err)
	}
	r := d.open(d.source(), "")
	if err := d.process("insert into t values (2, 'b')"); err != nil {
		t.Fatal(err)
	}
	d.sql("select * from t") // SQLite compiles triggers by what a connection knew, so one that is open must look at something else first
	same(t, "again", r.After("insert into t values (3, 'c')"), "[", "insert t (id=2 v=b)", "insert t (id=3 v=c)", "]")
}

func TestNew(t *testing.T) {
	all := func(string, string) bool { return true }
	f := func(driver string, o Options, want string) {
		t.Helper()
		if _, err := New(driver, "x", o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s %+v: %v; want %q", driver, o.Name, err, want)
		}
	}
	f("postgres", Options{Match: all}, `driver is "postgres"; want one that the program imports: ["sqlite3"]`)
	f("sqlite3", Options{}, "Match is nil")
	f("sqlite3", Options{Match: all, Name: "A"}, `Name is "A"`)
	f("sqlite3", Options{Match: all, Name: "1a"}, `Name is "1a"`)
	f("sqlite3", Options{Match: all, Name: "sqlite_x"}, `Name is "sqlite_x"`)
	f("sqlite3", Options{Match: all, Poll: 1}, "Poll is 1ns; want at least 1ms")
	f("sqlite3", Options{Match: all, MaxRows: 1}, "MaxRows is 1; want at least 100")

	s, err := New("sqlite3", "file:/memory?vfs=memdb", Options{Match: all})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), ""); err == nil {
		t.Error("a database in memory was opened")
	}
	s, err = New("sqlite3", "file:"+filepath.Join(t.TempDir(), "none")+"?mode=rw", Options{Match: all})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), ""); err == nil {
		t.Error("a file that isn't there was opened")
	}
}

func TestCheck(t *testing.T) {
	d := database(t)
	d.sql("create table t (id integer primary key, x); create unique index i on t (x) where x > 0; create unique index e on t (x + 1); create view v as select 1 as a")
	d.sql("pragma writable_schema = on")
	d.sql("insert into sqlite_master values ('table', 'f', 'f', 0, 'CREATE VIRTUAL TABLE f USING fts5 (a)')") // the driver has no such module
	f := func(want ...string) {
		t.Helper()
		problems, err := d.source().Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range problems {
			got = append(got, p.String())
		}
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || !strings.HasPrefix(got[i], want[i]) {
				t.Fatalf("%q; want %q", got, want)
			}
		}
	}
	known := []string{"main.f: it is a virtual table", "main.v: it is a view", "main.t: the unique index e has", "main.t: the unique index i has"}
	f(known...)
	d.sql("pragma journal_mode = delete")
	f(append([]string{"the journal mode is delete"}, known...)...)
	if got := d.sql("select count(*) from sqlite_master where name like 'freshet%'"); got != "0" {
		t.Error("Check changed the file")
	}
	tables, err := d.source().Tables(t.Context(), func(_, name string) bool { return name == "t" || name == "f" })
	if err != nil || len(tables) != 1 || tables[0].String() != "main.t" || tables[0].Columns[0].Nullable || !tables[0].Columns[1].Nullable {
		t.Errorf("tables %+v, %v", tables, err)
	}
	for v, want := range map[string]bool{"3.25.3": true, "3.26.0": false, "3.40.1": false, "4.0": false, "2.9": true, "x": true} {
		if older(v, 3, 26) != want {
			t.Errorf("%s is older: %v", v, !want)
		}
	}
}
