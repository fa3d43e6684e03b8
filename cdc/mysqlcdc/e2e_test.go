package mysqlcdc

import (
	"testing"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/feedtest"
)

// An UPDATE by any client drops the entry on two instances, in Redis, and a key of others; another pump takes over.
func TestEndToEnd(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key, v text); insert into t values (1, 'old'), (2, 'other'); create table freshet_messages (id int auto_increment primary key, message text)")
	f := feedtest.NewFleet(t, d, cdc.Rule{Table: d.name + ".t", Tags: []string{"t:{id}"}, Keys: []string{"row:{id}:json"}})
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
		my.SQL(t, "update "+d.name+".t set v = '"+v+"' where id = 1")
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
	f.Redis.CLI(t, "SET", "row:2:html", "x")
	d.sql(`begin; update t set v = 'message' where id = 2; insert into freshet_messages (message) values ('{"keys": ["row:2:html"]}'); commit`)
	await(t, "the message", func() bool {
		return p.Stats().Messages == 1 && feedtest.Get(t, a, 2) == "message" && f.Redis.CLI(t, "EXISTS", "row:2:html") == "0"
	})
	d.sql("update t set v = 'other' where id = 2")

	// Two pumps: the second takes over and nothing is missed in between.
	q, _ := f.Pump(src(), cdc.Hooks{})
	await(t, "the second stands by", func() bool { return q.Stats().State == cdc.Standby })
	stop()
	d.sql("update t set v = 'between' where id = 1")
	await(t, "the second runs", func() bool { return q.Stats().State == cdc.Running })
	await(t, "what was in between", func() bool { return feedtest.Get(t, a, 1) == "between" && feedtest.Get(t, b, 1) == "between" })
	if n := q.Stats().Gaps; n != 0 {
		t.Errorf("%d gaps; want none", n)
	}
	p = q
	change("last")

	// The server crashes: no gap.
	my.Restart()
	d.reconnect()
	f.Redis.CLI(t, "SET", "row:1:json", "{}")
	d.sql("update t set v = 'crashed' where id = 1")
	feedtest.Certified(t, p)
	await(t, "what was written after the crash", func() bool { return f.Redis.CLI(t, "EXISTS", "row:1:json") == "0" && q.Stats().State == cdc.Running })
	if n := q.Stats().Gaps; n != 0 {
		t.Errorf("%d gaps after a crash; want none", n)
	}

	// The log begins anew: a gap, and all goes on.
	f.Redis.CLI(t, "SET", "row:1:json", "{}")
	d.sql("reset master; update t set v = 'lost' where id = 1")
	await(t, "the gap", func() bool { return q.Stats().Gaps == 1 })
	await(t, "what was lost in it", func() bool { return f.Redis.CLI(t, "EXISTS", "row:1:json") == "0" })
	feedtest.Certified(t, p)
}

// TestStalledReplica is about what waits for a replica that never acknowledges.
func TestStalledReplica(t *testing.T) {
	feedtest.Stalled(t, func(t *testing.T) feedtest.Database {
		return database(t, mariadb(t, "rpl-semi-sync-master-wait-point=AFTER_SYNC", "rpl-semi-sync-master-timeout=600000"))
	})
}

func TestRacingLoads(t *testing.T) { feedtest.RacingLoads(t, database(t, mariadb(t))) }
