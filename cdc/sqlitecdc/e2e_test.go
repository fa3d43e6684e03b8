package sqlitecdc

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/feedtest"
	"github.com/freshetdev/freshet/store/memstore"
)

// An UPDATE by another process drops the entry. One pump is killed, another takes over, and nothing is missed in between. A pump that stands by leaves
// the outbox alone.
func TestEndToEnd(t *testing.T) {
	d := database(t)
	d.sql("create table t (id integer primary key, v text); insert into t values (1, 'old'), (2, 'other')")
	rules, err := cdc.NewRules([]cdc.Rule{{Table: "t", Tags: []string{"t:{id}"}}})
	if err != nil {
		t.Fatal(err)
	}
	server := memstore.NewServer(memstore.Options{})
	pump := func() (*cdc.Pump, *memstore.Store, func()) {
		st := server.Connect()
		a, err := cdc.NewApplier(st)
		if err != nil {
			t.Fatal(err)
		}
		p, err := cdc.NewPump(d.source(func(o *Options) { o.Match = rules.Match }), a, cdc.Options{
			Name: "db", Rules: rules, Tick: 10 * time.Millisecond, TakeOver: 300 * time.Millisecond, HoldBack: time.Millisecond, Hooks: cdc.Slog(feedtest.Log(t), "db"),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		stop := sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("pump: %v", err)
			}
			st.Close()
		})
		t.Cleanup(stop)
		return p, st, stop
	}
	p, link, stop := pump()
	await(t, "the pump", func() bool { return p.Stats().State == cdc.Running })
	q, _, _ := pump()

	c, err := freshet.New(server.Connect(), freshet.Options{Sources: []string{"db"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	read := d.Session()
	users, err := freshet.NewCache(c, freshet.Config[int, string]{
		Name: "v", TTL: time.Hour, Tags: func(id int) []string { return []string{freshet.Tag("t", id)} },
		Load: func(_ context.Context, id int, _ *freshet.Load) (string, error) {
			return read("select v from t where id = " + strconv.Itoa(id))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	becomes := func(want string) {
		t.Helper()
		await(t, want, func() bool { return feedtest.Get(t, users, 1) == want })
		if got := feedtest.Get(t, users, 2); got != "other" {
			t.Errorf("another row is %q", got)
		}
	}
	becomes("old")
	if err := d.process("update t set v = 'new' where id = 1"); err != nil {
		t.Fatal(err)
	}
	becomes("new")
	await(t, "what was applied is deleted", func() bool { return d.sql("select count(*) from freshet_changes") == "1" })
	await(t, "the second stands by", func() bool { return q.Stats().State == cdc.Standby })

	link.Cut() // killed: it tells nobody
	stop()
	d.sql("update t set v = 'between' where id = 1")
	becomes("between")
	await(t, "the second works", func() bool { return q.Stats().State == cdc.Running })
	if n := q.Stats().Gaps; n != 0 {
		t.Errorf("%d gaps; want none", n)
	}
	d.sql("alter table t add column w; update t set v = 'last' where id = 1")
	becomes("last")

	// The file is set back: everything is dropped.
	d.sql("delete from freshet_changes; drop trigger freshet_update_t; update t set v = 'restored'")
	await(t, "the gap", func() bool { return q.Stats().Gaps == 1 })
	await(t, "restored", func() bool { return feedtest.Get(t, users, 1) == "restored" && feedtest.Get(t, users, 2) == "restored" })
}
