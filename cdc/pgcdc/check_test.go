package pgcdc

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/testenv"
)

func hasProblem(t *testing.T, problems []cdc.SourceProblem, text string) {
	t.Helper()
	if !slices.ContainsFunc(problems, func(p cdc.SourceProblem) bool { return strings.Contains(p.String(), text) }) {
		t.Errorf("no problem has %q; there are %q", text, problems)
	}
}

func TestCheck(t *testing.T) {
	pg := postgres(t)
	d := database(t, pg)
	check := func(s *Source) []cdc.SourceProblem {
		t.Helper()
		problems, err := s.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return problems
	}
	serious := func(problems []cdc.SourceProblem) []cdc.SourceProblem {
		return slices.DeleteFunc(problems, func(p cdc.SourceProblem) bool { return p.Warning })
	}
	d.sql(`create table good (id int primary key); create table "Bad ""name" (id int); create table none (id int primary key);
		alter table none replica identity nothing; create unlogged table u (id int primary key);
		create view v as select 1 as id; create materialized view m as select 1 as id;
		create table p (id int) partition by list (id); create table p1 partition of p for values in (1)`)
	s := d.source()
	problems := check(s)
	for _, want := range []string{
		`public.Bad "name: has no replica identity: once it is published, its updates and deletes fail; ALTER TABLE "public"."Bad ""name" ADD PRIMARY KEY (...); or ALTER TABLE "public"."Bad ""name" REPLICA IDENTITY FULL;`,
		`ALTER TABLE "public"."none" REPLICA IDENTITY DEFAULT;`,
		`ALTER TABLE "public"."u" SET LOGGED;`,
		`public.v: is a view`,
		`public.m: is a materialized view`,
		`the partition "public"."p1" has no replica identity`,
		`max_slot_wal_keep_size`,
	} {
		hasProblem(t, problems, want)
	}
	if slices.ContainsFunc(problems, func(p cdc.SourceProblem) bool { return p.Table == "public.good" }) {
		t.Errorf("a good table has problems: %q", problems)
	}
	if _, err := d.tryOpen(s, ""); err == nil || !strings.Contains(err.Error(), "public.none: has no replica identity") {
		t.Errorf("open: %v; want what is wrong with the tables", err)
	}
	if n := d.sql("select count(*) from pg_publication_tables"); n != "0" {
		t.Errorf("%s tables were published all the same", n)
	}
	tables, err := s.Tables(t.Context(), s.opts.Match)
	if err == nil || !strings.Contains(err.Error(), `"public"."u" SET LOGGED`) {
		t.Errorf("tables: %v; want what is wrong with them", err)
	}
	if len(tables) != 1 || tables[0].String() != "public.good" {
		t.Errorf("tables: %v; want public.good, with which nothing is wrong", tables)
	}

	// The statements mend it.
	d.sql(`alter table "Bad ""name" replica identity full; alter table none replica identity default; alter table u set logged;
		drop view v; drop materialized view m; alter table p replica identity full; alter table p1 replica identity full`)
	if got := serious(check(s)); len(got) != 0 {
		t.Errorf("after that there is still %q", got)
	}
	manual := d.source(func(o *Options) { o.Create = false })
	for _, want := range []string{"there is no publication freshet; CREATE PUBLICATION", "SELECT pg_create_logical_replication_slot('" + d.name + "', 'pgoutput');"} {
		hasProblem(t, check(manual), want)
	}
	for range 5 { // each statement may show the next problem
		for _, p := range serious(check(manual)) {
			d.sql(p.Fix)
		}
	}
	if got := serious(check(manual)); len(got) != 0 {
		t.Errorf("after all statements there is still %q", got)
	}
	r := d.open(manual, "")
	same(t, "by hand", r.After("insert into good values (1)"), "[", "insert good (id=1)", "]")
	r.Close()

	// A publication that leaves something out.
	d.sql(`alter publication freshet set (publish = 'insert, update', publish_via_partition_root = false); alter publication freshet drop table good;
		alter publication freshet set table none, p, u, "Bad ""name" where (id > 7)`)
	problems = check(manual)
	for _, want := range []string{
		`ALTER PUBLICATION "freshet" SET (publish = 'insert, update, delete, truncate');`, `ALTER PUBLICATION "freshet" SET (publish_via_partition_root = true);`,
		`public.good: is not in publication freshet; ALTER PUBLICATION "freshet" ADD TABLE "public"."good";`, "the publication leaves rows out",
	} {
		hasProblem(t, problems, want)
	}
	if _, err := d.tryOpen(d.source(func(o *Options) { o.Create = false }), ""); err == nil {
		t.Error("a publication that leaves something out is taken")
	}

	d.sql("begin; insert into good values (7); prepare transaction 'left'")
	d.sql("select pg_drop_replication_slot('" + d.name + "')")
	d.sql("select pg_create_physical_replication_slot('" + d.name + "')")
	hasProblem(t, check(s), "is of plugin")
	hasProblem(t, check(s), "ROLLBACK PREPARED 'left';")
	if _, err := d.tryOpen(d.source(func(o *Options) { o.Create = true }), ""); err == nil {
		t.Error("a physical slot is taken")
	}
	d.sql("select pg_drop_replication_slot('" + d.name + "')")
	d.sql("rollback prepared 'left'")
}

func TestCheckServer(t *testing.T) {
	pg := testenv.Postgres(t, "wal_level=replica", "synchronous_standby_names=*", "max_replication_slots=1", "synchronous_commit=off")
	d := database(t, pg)
	d.sql(`create table t (id int primary key); create role app login; select pg_create_physical_replication_slot('taken')`)
	s := d.source()
	u, _ := url.Parse(d.url())
	u.User = url.User("app")
	app, err := New(u.String(), s.opts)
	if err != nil {
		t.Fatal(err)
	}
	problems, err := app.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"wal_level is replica; want logical; ALTER SYSTEM SET wal_level = 'logical';",
		`role app may not replicate; ALTER ROLE "app" REPLICATION;`,
		"synchronous_standby_names is *",
		"ALTER SYSTEM SET max_replication_slots = 2;",
		`GRANT CREATE ON DATABASE "` + d.name + `" TO "app";`,
		`public.t: role app doesn't own it`,
	} {
		hasProblem(t, problems, want)
	}
	if _, err := d.tryOpen(s, ""); err == nil || !strings.Contains(err.Error(), "wal_level is replica") {
		t.Errorf("open: %v", err)
	}
	d.sql("create role rds_replication")
	if problems, err = app.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	hasProblem(t, problems, `GRANT rds_replication TO "app";`)
	d.sql("select pg_drop_replication_slot('taken')")
}

// TestRights is what a role needs at least.
func TestRights(t *testing.T) {
	pg := postgres(t)
	d := database(t, pg)
	role := d.name + "_app"
	d.sql("create table t (id int primary key); create role " + role + " login replication")
	u, _ := url.Parse(d.url())
	u.User = url.User(role)
	owner := d.source()
	r := d.open(owner, "")
	r.Close()
	s, err := New(u.String(), Options{Slot: d.name, Match: owner.opts.Match})
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := s.Check(t.Context()); err != nil || slices.ContainsFunc(problems, func(p cdc.SourceProblem) bool { return !p.Warning }) {
		t.Errorf("check: %q, %v", problems, err)
	}
	r = d.open(s, r.Pos)
	same(t, "with REPLICATION alone", r.After("insert into t values (1)"), "[", "insert t (id=1)", "]")
	if err := r.Visible(t.Context(), r.Start()); err != nil {
		t.Errorf("visible: %v", err)
	}
	r.Close()
	d.sql("drop owned by " + role + "; ")
}

func TestOptions(t *testing.T) {
	f := func(o Options, want string) {
		t.Helper()
		_, err := New("postgres://app:secret@h/d", o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", o, err, want)
		}
	}
	f(Options{Slot: "Shop-1"}, `Slot is "Shop-1"; want 1 to 63 lower-case letters, digits and underscores`)
	f(Options{Create: true}, "Match is nil")
	f(Options{Timeout: -1}, "Timeout is -1ns; want zero or more")
	f(Options{Timeout: 1}, "want at least 1s")
	f(Options{Publication: strings.Repeat("p", 64)}, "want a name of at most 63 bytes")
	_, err := New("postgres://app:secret@h:port/d", Options{})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("bad URL: %v; want an error without the password", err)
	}
}
