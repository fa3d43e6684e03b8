package pgxreplica_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/goleak"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/pgcdc"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/pgxtx/pgxreplica"
	"github.com/freshetdev/freshet/replica"
	"github.com/freshetdev/freshet/store/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	rows  = 12
	bound = 250 * time.Millisecond // StaleAtMost
)

// A way reads rows, in one of the packages and at one isolation level.
type way struct {
	name  string
	read  func(ctx context.Context, id int) (int, error)
	twice func(ctx context.Context, id int, between func()) (first, second int, err error) // in one read
	token func(ctx context.Context) (replica.Token, error)
	stats func() replica.Stats
}

// app is the address of a server for a role without any rights but to read. Each connection goes to the next of the addresses.
func app(t *testing.T, servers ...*testenv.PostgresServer) (url string, next func(*pgx.ConnConfig)) {
	t.Helper()
	var n atomic.Int64
	return strings.Replace(servers[0].URL(), "freshet@", "app@", 1), func(c *pgx.ConnConfig) {
		_, port, err := net.SplitHostPort(servers[int(n.Add(1))%len(servers)].Addr())
		if err != nil {
			t.Error(err)
		}
		p, _ := strconv.ParseUint(port, 10, 16)
		c.Port = uint16(p)
	}
}

const readRow = "SELECT v FROM t WHERE id = $1"

func overPgx(t *testing.T, o replica.Options, primary *testenv.PostgresServer, standbys ...*testenv.PostgresServer) way {
	t.Helper()
	pool := func(servers ...*testenv.PostgresServer) *pgxpool.Pool {
		url, next := app(t, servers...)
		config, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		config.MaxConns = 4
		config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error { next(c); return nil }
		config.AfterRelease = func(*pgx.Conn) bool { return len(servers) == 1 }
		p, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	db, err := pgxreplica.New(pool(primary), pool(standbys...), o)
	if err != nil {
		t.Fatal(err)
	}
	return way{
		name: name("pgx", o), token: db.Token, stats: db.Stats,
		read: func(ctx context.Context, id int) (v int, err error) {
			err = db.Read(ctx, func(ctx context.Context, q pgxreplica.Querier) error { return q.QueryRow(ctx, readRow, id).Scan(&v) })
			return v, err
		},
		twice: func(ctx context.Context, id int, between func()) (first, second int, err error) {
			err = db.Read(ctx, func(ctx context.Context, q pgxreplica.Querier) error {
				if err := q.QueryRow(ctx, readRow, id).Scan(&first); err != nil {
					return err
				}
				between()
				return q.QueryRow(ctx, readRow, id).Scan(&second)
			})
			return first, second, err
		},
	}
}

func overSQL(t *testing.T, o replica.Options, primary *testenv.PostgresServer, standbys ...*testenv.PostgresServer) way {
	t.Helper()
	pool := func(servers ...*testenv.PostgresServer) *sql.DB {
		url, next := app(t, servers...)
		config, err := pgx.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		db := stdlib.OpenDB(*config, stdlib.OptionBeforeConnect(func(_ context.Context, c *pgx.ConnConfig) error { next(c); return nil }))
		db.SetMaxOpenConns(4)
		if db.SetMaxIdleConns(4); len(servers) > 1 {
			db.SetMaxIdleConns(-1)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	db, err := replica.New(pool(primary), pool(standbys...), o)
	if err != nil {
		t.Fatal(err)
	}
	return way{
		name: name("sql", o), token: db.Token, stats: db.Stats,
		read: func(ctx context.Context, id int) (v int, err error) {
			err = db.Read(ctx, func(ctx context.Context, q replica.Querier) error {
				return q.QueryRowContext(ctx, readRow, id).Scan(&v)
			})
			return v, err
		},
		twice: func(ctx context.Context, id int, between func()) (first, second int, err error) {
			err = db.Read(ctx, func(ctx context.Context, q replica.Querier) error {
				if err := q.QueryRowContext(ctx, readRow, id).Scan(&first); err != nil {
					return err
				}
				between()
				return q.QueryRowContext(ctx, readRow, id).Scan(&second)
			})
			return first, second, err
		},
	}
}

func name(driver string, o replica.Options) string {
	if o.RepeatableRead {
		return driver + "-repeatable-read"
	}
	return driver
}

// ways are both packages at both isolation levels.
func ways(t *testing.T, o replica.Options, primary *testenv.PostgresServer, standbys ...*testenv.PostgresServer) []way {
	t.Helper()
	repeatable := o
	repeatable.RepeatableRead = true
	return []way{
		overSQL(t, o, primary, standbys...), overPgx(t, o, primary, standbys...),
		overSQL(t, repeatable, primary, standbys...), overPgx(t, repeatable, primary, standbys...),
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for: %s", what)
		}
	}
}

// pause stops the replay, for certain.
func pause(t *testing.T, standby *testenv.PostgresServer) {
	t.Helper()
	standby.SQL(t, "select pg_wal_replay_pause()")
	await(t, "the replay is paused", func() bool {
		return standby.SQL(t, "select current_setting('server_version_num')::int < 140000 or pg_get_wal_replay_pause_state() = 'paused'") == "t"
	})
}

func resume(t *testing.T, standby *testenv.PostgresServer) {
	t.Helper()
	standby.SQL(t, "select pg_wal_replay_resume()")
}

// write sets a row on the primary.
func write(t *testing.T, primary *testenv.PostgresServer, id, v int) {
	t.Helper()
	primary.SQL(t, fmt.Sprintf("update t set v = %d where id = %d", v, id))
}

// The servers are the same for all tests: making three takes seconds.
func TestReplica(t *testing.T) {
	primary := testenv.Postgres(t, "wal_level=logical")
	primary.SQL(t, fmt.Sprintf(`create table t (id int primary key, v int); insert into t select i, 0 from generate_series(0, %d) i;
		create role app login; grant select, update on t to app`, rows-1))
	standby := primary.Standby(t)
	lost := primary.Standby(t) // cut off from the primary, for ever
	lost.SQL(t, "alter system set primary_conninfo = ''")
	lost.SQL(t, "select pg_reload_conf()")
	await(t, "the receiver ends", func() bool { return lost.SQL(t, "select count(*) from pg_stat_wal_receiver") == "0" })

	t.Run("Waits", func(t *testing.T) { testWaits(t, primary, standby) })
	t.Run("AsynchronousCommit", func(t *testing.T) { testAsynchronous(t, primary, standby) })
	t.Run("SeveralStandbys", func(t *testing.T) { testSeveral(t, primary, standby, lost) })
	t.Run("History", func(t *testing.T) { testHistory(t, primary, standby) })
	t.Run("Timeline", func(t *testing.T) { testTimeline(t, primary, standby, lost) })
	t.Run("Down", func(t *testing.T) { testDown(t, primary, standby) })
}

// A read waits for the replica and shows what it waited for: the snapshot is taken after the replay position is known to be far enough.
func testWaits(t *testing.T, primary, standby *testenv.PostgresServer) {
	for i, w := range ways(t, replica.Options{Wait: 30 * time.Second, Timeout: 40 * time.Second}, primary, standby) {
		t.Run(w.name, func(t *testing.T) {
			if v, err := w.read(t.Context(), 1); err != nil {
				t.Fatal(v, err)
			}
			pause(t, standby)
			write(t, primary, 1, 100+i)
			type result struct {
				v   int
				err error
			}
			got := make(chan result, 1)
			asked := func() bool {
				return standby.SQL(t, "select count(*) from pg_stat_activity where usename = 'app' and query like '%received_tli%' and query_start > now() - interval '100 ms'") != "0"
			}
			go func() {
				v, err := w.read(t.Context(), 1)
				got <- result{v, err}
			}()
			await(t, "the read asks the standby", asked)
			select {
			case r := <-got:
				t.Fatalf("got %v before the standby had it", r)
			default:
			}
			resume(t, standby)
			if r := <-got; r.v != 100+i || r.err != nil {
				t.Errorf("got %d, %v; want %d", r.v, r.err, 100+i)
			}
			if s := w.stats(); s.Replica != 2 || s.Primary != 0 || s.Waits == 0 {
				t.Errorf("stats are %+v; want two reads of the replica, and a wait", s)
			}
			first, second, err := w.twice(t.Context(), 2, func() {
				write(t, primary, 2, 200+i)
				standby.CaughtUp(t, primary)
			})
			if same := first == second; err != nil || same != strings.Contains(w.name, "repeatable") {
				t.Errorf("one read shows %d and then %d, %v", first, second, err)
			}
		})
	}
}

// With synchronous_commit=off a commit is visible on the primary, and what it concerns is dropped, before it is on disk anywhere.
func testAsynchronous(t *testing.T, primary, standby *testenv.PostgresServer) {
	conn, err := pgx.Connect(t.Context(), primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "SET synchronous_commit = off"); err != nil {
		t.Fatal(err)
	}
	w := overPgx(t, replica.Options{Wait: time.Millisecond}, primary, standby)
	for i := range 20 {
		if _, err := conn.Exec(t.Context(), "UPDATE t SET v = $1 WHERE id = 7", 700+i); err != nil {
			t.Fatal(err)
		}
		if v, err := w.read(t.Context(), 7); v != 700+i || err != nil {
			t.Errorf("got %d, %v; want %d", v, err, 700+i)
		}
	}
	if s := w.stats(); s.Fallbacks[replica.Lagging] == 0 {
		t.Errorf("stats are %+v; want some reads of the primary, or this shows nothing", s)
	}
}

// Behind one address are a standby and one that lags for ever. What is asked of one says nothing of the other.
func testSeveral(t *testing.T, primary, standby, lost *testenv.PostgresServer) {
	for i, w := range ways(t, replica.Options{Wait: 50 * time.Millisecond}, primary, standby, lost) {
		t.Run(w.name, func(t *testing.T) {
			write(t, primary, 3, 300+i)
			standby.CaughtUp(t, primary)
			for range 6 {
				if v, err := w.read(t.Context(), 3); v != 300+i || err != nil {
					t.Errorf("got %d, %v; want %d", v, err, 300+i)
				}
			}
			if s := w.stats(); s.Replica == 0 || s.Fallbacks[replica.Lagging] == 0 || s.Replica+s.Primary != 6 {
				t.Errorf("stats are %+v; want some reads of the replica, and some that found a lagging one", s)
			}
		})
	}
}

// A fleet is two instances and a pump.
type fleet struct {
	clients []*freshet.Client
	pump    *cdc.Pump
	stop    func() // ends the pump
}

func newFleet(t *testing.T, primary *testenv.PostgresServer) *fleet {
	t.Helper()
	srv := memstore.NewServer(memstore.Options{Partitions: 2})
	f := &fleet{}
	rules, err := cdc.NewRules([]cdc.Rule{{Table: "public.t", Tags: []string{"t:{id}"}}})
	if err != nil {
		t.Fatal(err)
	}
	src, err := pgcdc.New(primary.URL(), pgcdc.Options{Create: true, Match: rules.Match})
	if err != nil {
		t.Fatal(err)
	}
	shared := srv.Connect()
	applier, err := cdc.NewApplier(shared)
	if err != nil {
		t.Fatal(err)
	}
	if f.pump, err = cdc.NewPump(src, applier, cdc.Options{Name: "shop", Rules: rules}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.pump.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		shared.Close()
	})
	t.Cleanup(f.stop)
	await(t, "the pump", func() bool { return f.pump.Stats().State == cdc.Running })
	for range 2 {
		c, err := freshet.New(srv.Connect(), freshet.Options{Sources: []string{"shop"}, StaleAtMost: bound})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		f.clients = append(f.clients, c)
	}
	return f
}

func (f *fleet) certified(t *testing.T) {
	t.Helper()
	now := time.Now()
	await(t, "a certificate", func() bool { return f.pump.Stats().LastTick.After(now) })
}

// caches returns a cache on each instance over a way to read.
func (f *fleet) caches(t *testing.T, name string, read func(ctx context.Context, id int) (int, error), stale freshet.Stale) (all []*freshet.Cache[int, int]) {
	t.Helper()
	for _, c := range f.clients {
		cache, err := freshet.NewCache(c, freshet.Config[int, int]{
			Name: name, TTL: time.Hour, EarlyRefresh: -1, Stale: stale,
			Tags: func(id int) []string { return []string{freshet.Tag("t", id)} },
			Load: func(ctx context.Context, id int, _ *freshet.Load) (int, error) { return read(ctx, id) },
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, cache)
	}
	return all
}

// A history is the versions of rows, with the times at which their writers knew that they had committed.
type history struct {
	mu   sync.Mutex
	rows [rows][]written
}

type written struct {
	version int
	at      time.Time
}

func (h *history) wrote(id, version int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rows[id] = append(h.rows[id], written{version, time.Now()})
}

// before returns the last version that was committed before a time.
func (h *history) before(id int, at time.Time) (version int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.rows[id] {
		if w.at.Before(at) {
			version = max(version, w.version)
		}
	}
	return version
}

// Rows are written while the standby stops and goes on. Nothing that is read over the gate is older than the bound, writers see their own writes on any
// instance, and at the end no entry is old. The same caches over the standby itself have old entries, or this test could find none.
func testHistory(t *testing.T, primary, standby *testenv.PostgresServer) {
	f := newFleet(t, primary)
	gated := ways(t, replica.Options{Source: "shop"}, primary, standby)
	var caches [][]*freshet.Cache[int, int]
	for _, w := range gated {
		caches = append(caches, f.caches(t, w.name, w.read, freshet.Stale{}))
	}
	direct, err := pgxpool.New(t.Context(), standby.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	naked := f.caches(t, "naked", func(ctx context.Context, id int) (v int, err error) {
		return v, direct.QueryRow(ctx, readRow, id).Scan(&v)
	}, freshet.Stale{})
	writers, err := pgxpool.New(t.Context(), primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer writers.Close()
	primary.SQL(t, "update t set v = 0")

	var h history
	var wg sync.WaitGroup
	var over atomic.Bool
	update := func(id int) int {
		var v int
		if err := writers.QueryRow(t.Context(), "UPDATE t SET v = v + 1 WHERE id = $1 RETURNING v", id).Scan(&v); err != nil {
			t.Error(err)
		}
		h.wrote(id, v)
		return v
	}
	for i := range 2 {
		wg.Go(func() { // a session that writes rows of its own, and reads them on any instance
			for n := 0; !over.Load(); n++ {
				id := (2*n + i) % rows
				v := update(id)
				w := gated[n%len(gated)]
				tok, err := w.token(t.Context())
				if err == nil {
					tok, err = replica.ParseToken(tok.String()) // by cookie
				}
				if err != nil {
					t.Error(err)
					return
				}
				for j, c := range caches {
					k := (n + j) % 2
					ctx, err := f.clients[k].WithToken(t.Context(), tok)
					if err != nil {
						t.Error(err)
						return
					}
					if got, err := c[k].Get(ctx, id); got < v || err != nil {
						t.Errorf("%s, instance %d: who wrote version %d of row %d reads %d, %v", gated[j].name, k, v, id, got, err)
					}
				}
			}
		})
	}
	var late atomic.Int64
	for j := range 2 * len(gated) {
		c, cold := caches[j/2][j%2], naked[j%2]
		wg.Go(func() {
			for n := j; !over.Load(); n++ {
				id, began := n%rows, time.Now()
				must := h.before(id, began.Add(-bound))
				if got, err := c.Get(t.Context(), id); got < must || err != nil {
					t.Errorf("%s, instance %d: row %d is at version %d, %v; %d was committed more than %v before", gated[j/2].name, j%2, id, got, err, must, bound)
				}
				if got, err := cold.Get(t.Context(), id); got < must || err != nil {
					late.Add(1)
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	for _, d := range []time.Duration{100 * time.Millisecond, 2 * bound, 50 * time.Millisecond} {
		pause(t, standby)
		time.Sleep(d)
		resume(t, standby)
		time.Sleep(100 * time.Millisecond)
	}
	over.Store(true)
	wg.Wait()

	// The drops of all rows are in the log, and everything is read before the standby has replayed one of the changes.
	pause(t, standby)
	for id := range rows {
		update(id)
	}
	f.certified(t)
	for _, c := range f.clients {
		if err := c.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all := func(do func(name string, i, id, got int)) {
		for j, cs := range append(caches, naked) {
			name := "naked"
			if j < len(gated) {
				name = gated[j].name
			}
			for i, c := range cs {
				for id := range rows {
					wg.Go(func() {
						got, err := c.Get(t.Context(), id)
						if err != nil {
							t.Errorf("%s: %v", name, err)
						}
						do(name, i, id, got)
					})
				}
			}
		}
		wg.Wait()
	}
	all(func(string, int, int, int) {})
	resume(t, standby)
	standby.CaughtUp(t, primary)
	f.certified(t)
	time.Sleep(bound)
	var old atomic.Int64
	all(func(name string, i, id, got int) {
		want := h.before(id, time.Now())
		switch {
		case got == want:
		case name == "naked":
			old.Add(1)
		default:
			t.Errorf("at rest, %s, instance %d: row %d is at version %d; want %d", name, i, id, got, want)
		}
	})
	if late.Load() == 0 || old.Load() == 0 {
		t.Errorf("without the gate %d reads were too late and %d entries old: this test can't see what it is for", late.Load(), old.Load())
	}
	t.Logf("without the gate: %d reads were too late, %d entries old for ever", late.Load(), old.Load())
	for _, w := range gated {
		s := w.stats()
		if s.Replica == 0 || s.Waits == 0 || s.Fallbacks[replica.Lagging] == 0 {
			t.Errorf("%s: stats are %+v; want reads of the replica, waits, and some that it lagged for", w.name, s)
		}
		t.Logf("%s: %+v", w.name, s)
	}

	// Nobody drops any more.
	f.stop()
	v := update(5)
	for j, w := range gated {
		tok, err := w.token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range caches[j] {
			ctx, err := f.clients[i].WithToken(t.Context(), tok)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := c.Get(ctx, 5); got != v || err != nil {
				t.Errorf("no pump runs, %s, instance %d: %d, %v; want %d", w.name, i, got, err, v)
			}
		}
	}
}

// A standby is far ahead on a timeline of its own: the new primary branched off before, and has a commit that the standby never gets.
func testTimeline(t *testing.T, primary, standby, lost *testenv.PostgresServer) {
	primary.SQL(t, "create table big as select i, repeat('x', 100) from generate_series(1, 20000) i; drop table big")
	standby.CaughtUp(t, primary)
	if got := lost.SQL(t, "select pg_promote()"); got != "t" {
		t.Fatalf("pg_promote says %s", got)
	}
	write(t, lost, 4, -1)
	if got := standby.SQL(t, "select pg_last_wal_replay_lsn() > '"+lost.SQL(t, "select pg_current_wal_insert_lsn()")+"'"); got != "t" {
		t.Fatal("the standby isn't ahead")
	}
	for _, w := range ways(t, replica.Options{Source: "shop"}, lost, standby) {
		if v, err := w.read(t.Context(), 4); v != -1 || err != nil {
			t.Errorf("%s: got %d, %v; want -1", w.name, v, err)
		}
		if s := w.stats(); s.Fallbacks[replica.Unfit] != 1 {
			t.Errorf("%s: stats are %+v; want one unfit", w.name, s)
		}
		if tok, err := w.token(t.Context()); err != nil || tok.Position().Timeline != 2 {
			t.Errorf("%s: the token is %v, %v; want timeline 2", w.name, tok, err)
		}
	}
	// A standby that was promoted: its replay position stands still.
	for _, w := range ways(t, replica.Options{}, lost, lost) {
		if v, err := w.read(t.Context(), 4); v != -1 || err != nil || w.stats().Fallbacks[replica.Unfit] != 1 {
			t.Errorf("%s: %d, %v, %+v; want -1, and one unfit", w.name, v, err, w.stats())
		}
	}
}

// The standby dies and comes back; then the primary dies.
func testDown(t *testing.T, primary, standby *testenv.PostgresServer) {
	all := ways(t, replica.Options{Retry: 50 * time.Millisecond}, primary, standby)
	is := func(what string, w way, want int) {
		t.Helper()
		if v, err := w.read(t.Context(), 6); v != want || err != nil {
			t.Errorf("%s, %s: %d, %v; want %d", what, w.name, v, err, want)
		}
	}
	write(t, primary, 6, 600)
	standby.CaughtUp(t, primary)
	for _, w := range all {
		await(t, w.name+" reads the replica", func() bool { // which may answer too late on a busy machine
			is("all is well", w, 600)
			return w.stats().Replica > 0
		})
	}
	standby.Stop()
	write(t, primary, 6, 601)
	for _, w := range all {
		before := w.stats().Fallbacks[replica.Down]
		is("no standby", w, 601)
		is("no standby, again", w, 601)
		if s := w.stats(); s.Replica != 1 || s.Fallbacks[replica.Down]-before != 2 {
			t.Errorf("no standby, %s: stats are %+v; want one read of the replica and two that found it down", w.name, s)
		}
	}
	standby.Restart()
	standby.CaughtUp(t, primary)
	for _, w := range all {
		await(t, w.name+" is back", func() bool {
			is("it is back", w, 601)
			return w.stats().Replica > 1
		})
	}

	f := newFleet(t, primary)
	var caches, cold [][]*freshet.Cache[int, int]
	for _, w := range all {
		caches = append(caches, f.caches(t, w.name, w.read, freshet.Stale{IfError: time.Hour}))
		cold = append(cold, f.caches(t, w.name+"-cold", w.read, freshet.Stale{}))
	}
	for i, c := range caches {
		await(t, all[i].name+" is cached", func() bool { // the pump's first epoch, or a late certificate, may refuse a fill
			r, err := c[0].Lookup(t.Context(), 6)
			return err == nil && r.Value == 601 && r.Level != observe.LevelSource
		})
	}
	f.stop()
	primary.Stop()
	time.Sleep(bound + 100*time.Millisecond) // nothing is proven any more
	for i, w := range all {
		before := w.stats().Replica
		if r, err := caches[i][0].Lookup(t.Context(), 6); r.Value != 601 || !r.Stale || err != nil {
			t.Errorf("no primary, %s: %+v, %v; want the old row, marked stale", w.name, r, err)
		}
		if v, err := cold[i][0].Get(t.Context(), 6); err == nil {
			t.Errorf("no primary, %s: %d; want an error", w.name, v)
		} else if le := new(freshet.LoadError); !errors.As(err, &le) {
			t.Errorf("no primary, %s: %v; want a *LoadError", w.name, err)
		}
		if s := w.stats(); s.Replica != before || s.Fallbacks[replica.Unknown] == 0 {
			t.Errorf("no primary, %s: stats are %+v; want no read of the replica", w.name, s)
		}
	}
}
