package pgcdc

import (
	"context"
	"testing"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/feedtest"
)

// An UPDATE by psql drops the entry on two instances, in Redis, and a key of others; another pump takes over.
func TestEndToEnd(t *testing.T) {
	pg := postgres(t)
	d := &db{t: t, pg: pg, name: "postgres", addr: pg.Addr()}
	d.connect()
	t.Cleanup(func() { d.conn.Close(context.Background()) })
	pg.SQL(t, "create table t (id int primary key, v text); insert into t values (1, 'old'), (2, 'other')")
	f := feedtest.NewFleet(t, d, cdc.Rule{Table: "public.t", Tags: []string{"t:{id}"}, Keys: []string{"row:{id}:json"}})
	src := func() *Source { return d.source(func(o *Options) { o.Match = f.Rules.Match }) }
	p, stop := f.Pump(src(), cdc.Slog(feedtest.Log(t), "db"))
	await(t, "the pump", func() bool { return p.Stats().State == cdc.Running })
	a, b := f.Instance(), f.Instance()

	change := func(v string) {
		t.Helper()
		before := p.Stats().Coarse
		f.Redis.CLI(t, "SET", "row:1:json", "{}")
		feedtest.Get(t, a, 1)
		feedtest.Get(t, b, 1)
		feedtest.Get(t, b, 2)
		pg.SQL(t, "update t set v = '"+v+"' where id = 1")
		await(t, "both instances have "+v, func() bool { return feedtest.Get(t, a, 1) == v && feedtest.Get(t, b, 1) == v })
		await(t, "the other key is gone", func() bool { return f.Redis.CLI(t, "EXISTS", "row:1:json") == "0" })
		if got := feedtest.Get(t, b, 2); got != "other" {
			t.Errorf("another row is %q", got)
		}
		if after := p.Stats().Coarse; len(after) != len(before) {
			t.Errorf("something coarse was dropped: %v, before %v", after, before)
		}
	}
	change("new")
	change("newer")
	// A drop that no rule knows of.
	feedtest.Get(t, a, 2)
	pg.SQL(t, `begin; update t set v = 'message' where id = 2; select pg_logical_emit_message(true, 'freshet', '{"keys": ["row:2:html"]}'); commit`)
	f.Redis.CLI(t, "SET", "row:2:html", "x")
	await(t, "the message", func() bool { return p.Stats().Messages == 1 && feedtest.Get(t, a, 2) == "message" })
	pg.SQL(t, "update t set v = 'other' where id = 2")

	// Two pumps: the second takes over and nothing is missed in between.
	q, _ := f.Pump(src(), cdc.Hooks{})
	await(t, "the second stands by", func() bool { return q.Stats().State == cdc.Standby })
	stop()
	pg.SQL(t, "update t set v = 'between' where id = 1")
	await(t, "the second runs", func() bool { return q.Stats().State == cdc.Running })
	await(t, "what was in between", func() bool { return feedtest.Get(t, a, 1) == "between" && feedtest.Get(t, b, 1) == "between" })
	if n := q.Stats().Gaps; n != 0 {
		t.Errorf("%d gaps; want none", n)
	}
	p = q
	change("last")

	// The slot is taken away: a gap, and all goes on.
	feedtest.Get(t, a, 1)
	await(t, "the slot is dropped", func() bool {
		run(d.conn, "select pg_terminate_backend(active_pid) from pg_replication_slots where active")
		_, err := run(d.conn, "select pg_drop_replication_slot('postgres')")
		return err == nil
	})
	pg.SQL(t, "update t set v = 'lost' where id = 1")
	await(t, "the gap", func() bool { return q.Stats().Gaps == 1 })
	await(t, "what was lost in it", func() bool { return feedtest.Get(t, a, 1) == "lost" && feedtest.Get(t, b, 1) == "lost" })
}

// TestStalledStandby is about what waits for a synchronous standby that never comes.
func TestStalledStandby(t *testing.T) {
	feedtest.Stalled(t, func(t *testing.T) feedtest.Database {
		return database(t, postgres(t))
	})
}

// A commit waits for a standby that never answers. One that comes after it in the log and doesn't wait is visible, and readers have it, though
// what was dropped in turn ends before the first.
func TestVisibleBehindAStall(t *testing.T) {
	d := database(t, postgres(t))
	d.Exec("create table t (id int primary key, v text); insert into t values (1, 'old'), (2, 'old')")
	f := feedtest.NewFleet(t, d, cdc.Rule{Table: "public.t", Tags: []string{"t:{id}"}})
	p, _ := f.Pump(d.Source(f.Rules.Match), cdc.Hooks{})
	feedtest.Await(t, "the pump", func() bool { return p.Stats().State == cdc.Running })
	a := f.Instance()
	feedtest.Get(t, a, 2)
	release := d.Stall()
	defer release()
	stalled, write := d.Session(), d.Session()
	wrote := make(chan error, 1)
	go func() {
		_, err := stalled("update t set v = 'new' where id = 1")
		wrote <- err
	}()
	feedtest.Await(t, "the change is read", func() bool { return p.Stats().Pending == 1 })
	if _, err := write("set synchronous_commit = local; update t set v = 'new' where id = 2"); err != nil {
		t.Fatal(err)
	}
	feedtest.Await(t, "the new row of the second", func() bool { return feedtest.Get(t, a, 2) == "new" })
	if got := feedtest.Get(t, a, 1); got != "old" {
		t.Errorf("the first is %q; want old: it isn't visible", got)
	}
	release()
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	feedtest.Await(t, "the new row of the first", func() bool { return feedtest.Get(t, a, 1) == "new" })
}

func TestRacingLoads(t *testing.T) { feedtest.RacingLoads(t, database(t, postgres(t))) }
