package mysqlcdc

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store/redisstore"
)

// A fleet is a database, a Redis, instances and pumps.
type fleet struct {
	t     *testing.T
	d     *db
	redis *testenv.RedisServer
	rules *cdc.Rules
}

func newFleet(t *testing.T, d *db, rules ...cdc.Rule) *fleet {
	t.Helper()
	made, err := cdc.NewRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{t: t, d: d, redis: testenv.Redis(t), rules: made}
}

// instance is a process that caches what is in the column v of t, under "v:<id>".
func (f *fleet) instance() *freshet.Cache[int, string] {
	f.t.Helper()
	c, err := freshet.Open(f.t.Context(), f.redis.URL(), freshet.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	conns := make(chan *link, 4)
	for range cap(conns) {
		conn := f.d.dial()
		f.t.Cleanup(func() { conn.Close() })
		conns <- conn
	}
	cache, err := freshet.NewCache(c, freshet.Config[int, string]{
		Name: "v", TTL: time.Hour,
		Tags: func(id int) []string { return []string{freshet.Tag("t", id)} },
		Load: func(_ context.Context, id int, _ *freshet.Load) (string, error) {
			conn := <-conns
			defer func() { conns <- conn }()
			return run(conn, "select v from t where id = "+strconv.Itoa(id))
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return cache
}

// pump starts a pump, which ends with the test or by stop.
func (f *fleet) pump(src cdc.Source, hooks cdc.Hooks) (p *cdc.Pump, stop func()) {
	f.t.Helper()
	st, err := redisstore.Open(f.redis.URL(), redisstore.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	a, err := cdc.NewApplier(st)
	if err != nil {
		f.t.Fatal(err)
	}
	p, err = cdc.NewPump(src, a, cdc.Options{Name: "db", Rules: f.rules, Hooks: hooks})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("pump: %v", err)
		}
		st.Close()
	})
	f.t.Cleanup(stop)
	return p, stop
}

func get(t *testing.T, c *freshet.Cache[int, string], id int) string {
	t.Helper()
	v, err := c.Get(t.Context(), id)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	return v
}

// certified waits for a certificate of what is visible now.
func certified(t *testing.T, p *cdc.Pump) {
	t.Helper()
	now := time.Now()
	await(t, "a certificate", func() bool { return p.Stats().LastTick.After(now) })
}

// An UPDATE by any client drops the entry on two instances, in Redis, and a key of others; another pump takes over.
func TestEndToEnd(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key, v text); insert into t values (1, 'old'), (2, 'other'); create table freshet_messages (id int auto_increment primary key, message text)")
	f := newFleet(t, d, cdc.Rule{Table: d.name + ".t", Tags: []string{"t:{id}"}, Keys: []string{"row:{id}:json"}})
	src := func() *Source { return d.source(func(o *Options) { o.Match = f.rules.Match }) }
	p, stop := f.pump(src(), cdc.Slog(discard(t), "db"))
	await(t, "the pump", func() bool { return p.Stats().State == cdc.Running })
	a, b := f.instance(), f.instance()

	change := func(v string) {
		t.Helper()
		before := p.Stats().Coarse
		f.redis.CLI(t, "SET", "row:1:json", "{}")
		get(t, a, 1)
		get(t, b, 1)
		get(t, b, 2)
		my.SQL(t, "update "+d.name+".t set v = '"+v+"' where id = 1")
		await(t, "both instances have "+v, func() bool { return get(t, a, 1) == v && get(t, b, 1) == v })
		await(t, "the other key is gone", func() bool { return f.redis.CLI(t, "EXISTS", "row:1:json") == "0" })
		if got := get(t, b, 2); got != "other" {
			t.Errorf("another row is %q", got)
		}
		if after := p.Stats().Coarse; len(after) != len(before) {
			t.Errorf("something coarse was dropped: %v, before %v", after, before)
		}
	}
	change("new")
	change("newer")
	// A drop that no rule knows of.
	get(t, a, 2)
	f.redis.CLI(t, "SET", "row:2:html", "x")
	d.sql(`begin; update t set v = 'message' where id = 2; insert into freshet_messages (message) values ('{"keys": ["row:2:html"]}'); commit`)
	await(t, "the message", func() bool {
		return p.Stats().Messages == 1 && get(t, a, 2) == "message" && f.redis.CLI(t, "EXISTS", "row:2:html") == "0"
	})
	d.sql("update t set v = 'other' where id = 2")

	// Two pumps: the second takes over and nothing is missed in between.
	q, _ := f.pump(src(), cdc.Hooks{})
	await(t, "the second stands by", func() bool { return q.Stats().State == cdc.Standby })
	stop()
	d.sql("update t set v = 'between' where id = 1")
	await(t, "the second runs", func() bool { return q.Stats().State == cdc.Running })
	await(t, "what was in between", func() bool { return get(t, a, 1) == "between" && get(t, b, 1) == "between" })
	if n := q.Stats().Gaps; n != 0 {
		t.Errorf("%d gaps; want none", n)
	}
	p = q
	change("last")

	// The server crashes: no gap.
	my.Restart()
	d.reconnect()
	f.redis.CLI(t, "SET", "row:1:json", "{}")
	d.sql("update t set v = 'crashed' where id = 1")
	certified(t, p)
	await(t, "what was written after the crash", func() bool { return f.redis.CLI(t, "EXISTS", "row:1:json") == "0" && q.Stats().State == cdc.Running })
	if n := q.Stats().Gaps; n != 0 {
		t.Errorf("%d gaps after a crash; want none", n)
	}

	// The log begins anew: a gap, and all goes on.
	f.redis.CLI(t, "SET", "row:1:json", "{}")
	d.sql("reset master; update t set v = 'lost' where id = 1")
	await(t, "the gap", func() bool { return q.Stats().Gaps == 1 })
	await(t, "what was lost in it", func() bool { return f.redis.CLI(t, "EXISTS", "row:1:json") == "0" })
	certified(t, p)
}

// A blind source has no barrier: it says that everything is visible.
type blindSource struct{ cdc.Source }

type blindStream struct{ cdc.Stream }

func (s blindSource) Open(ctx context.Context, from cdc.Position) (cdc.Stream, error) {
	st, err := s.Source.Open(ctx, from)
	if err != nil {
		return nil, err
	}
	return blindStream{st}, nil
}

func (blindStream) Visible(context.Context, cdc.Position) error { return nil }

// TestStalledReplica has a commit that is in the log and not visible: it waits for a replica that never acknowledges. A loader
// reads the old row meanwhile. Without the barrier its drop came before that, so the old row stays for ever.
func TestStalledReplica(t *testing.T) {
	for _, blind := range []bool{false, true} {
		t.Run(fmt.Sprintf("blind=%v", blind), func(t *testing.T) {
			d := database(t, mariadb(t, "rpl-semi-sync-master-wait-point=AFTER_SYNC", "rpl-semi-sync-master-timeout=600000"))
			d.sql("create table t (id int primary key, v text); insert into t values (1, 'old')")
			f := newFleet(t, d, cdc.Rule{Table: d.name + ".t", Tags: []string{"t:{id}"}})
			var src cdc.Source = d.source(func(o *Options) { o.Match = f.rules.Match })
			if blind {
				src = blindSource{src}
			}
			var applied atomic.Int64
			p, _ := f.pump(src, cdc.Hooks{Applied: func(cdc.Applied) { applied.Add(1) }})
			await(t, "the pump", func() bool { return p.Stats().State == cdc.Running })
			a := f.instance()
			get(t, a, 1)
			release := d.stall()
			defer release()
			writer := d.dial()
			defer writer.Close()
			wrote := make(chan error, 1)
			go func() {
				_, err := run(writer, "update t set v = 'new' where id = 1")
				wrote <- err
			}()
			if blind {
				await(t, "the drop", func() bool { return applied.Load() == 1 })
			} else {
				await(t, "the change is read", func() bool { return p.Stats().Pending == 1 })
			}
			await(t, "the old row is in memory", func() bool { return get(t, a, 1) == "old" })
			release()
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
			await(t, "the change is applied", func() bool { return applied.Load() == 1 })
			certified(t, p)
			time.Sleep(2 * time.Second) // longer than an instance may be behind
			got := get(t, a, 1)
			if want := map[bool]string{true: "old", false: "new"}[blind]; got != want {
				t.Errorf("the row is %q for readers; want %q", got, want)
			}
		})
	}
}

// TestRacingLoads has writers, loaders, and programs that take the processor from all of them. Once all is at rest, no cached value may
// differ from its row. FRESHET_CDC_WRITES is the number of writes, FRESHET_CDC_BLIND leaves the barrier out.
func TestRacingLoads(t *testing.T) {
	writes := 1500
	if n, err := strconv.Atoi(os.Getenv("FRESHET_CDC_WRITES")); err == nil {
		writes = n
	}
	const rows, writers, readers = 20, 4, 4
	d := database(t, mariadb(t))
	d.sql(fmt.Sprintf("create table t (id int primary key, v int); insert into t select seq, 0 from seq_0_to_%d", rows-1))
	f := newFleet(t, d, cdc.Rule{Table: d.name + ".t", Tags: []string{"t:{id}"}})
	var src cdc.Source = d.source(func(o *Options) { o.Match = f.rules.Match })
	if os.Getenv("FRESHET_CDC_BLIND") != "" {
		src = blindSource{src}
	}
	p, _ := f.pump(src, cdc.Hooks{})
	await(t, "the pump", func() bool { return p.Stats().State == cdc.Running })
	caches := []*freshet.Cache[int, string]{f.instance(), f.instance()}

	var stop atomic.Bool
	var idle, work sync.WaitGroup
	for range 3 * runtime.GOMAXPROCS(0) {
		idle.Go(func() {
			for !stop.Load() {
				for range 1000 {
				}
			}
		})
	}
	for i := range readers {
		cache := caches[i%len(caches)]
		idle.Go(func() {
			for n := i; !stop.Load(); n++ {
				cache.Get(context.Background(), n%rows)
			}
		})
	}
	var wrote atomic.Int64
	for i := range writers {
		conn := d.dial()
		defer conn.Close()
		work.Go(func() {
			for n := i; wrote.Add(1) <= int64(writes); n++ {
				if _, err := run(conn, "update t set v = v + 1 where id = "+strconv.Itoa(n%rows)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	certified(t, p)
	stop.Store(true)
	idle.Wait()
	time.Sleep(2 * time.Second)
	stale := 0
	for id := range rows {
		want := d.sql("select v from t where id = " + strconv.Itoa(id))
		for i, cache := range caches {
			if got := get(t, cache, id); got != want {
				stale++
				t.Errorf("instance %d has version %s of row %d; the row is at %s", i, got, id, want)
			}
		}
	}
	st := p.Stats()
	t.Logf("%d writes, %d transactions applied, barrier p50 %v p99 %v max %v, %d stale", writes, st.Txs, st.Barrier.Quantile(0.5), st.Barrier.Quantile(0.99), st.Barrier.Max, stale)
}
