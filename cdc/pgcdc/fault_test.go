package pgcdc

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/testenv"
)

// TestFaults is what becomes of a stream when something goes wrong, and where the next one begins.
func TestFaults(t *testing.T) {
	pg := postgres(t)
	for _, c := range []struct {
		name string
		f    func(t *testing.T, d *db)
	}{
		{"resume", testResume},
		{"gaps", testGaps},
		{"slot dropped", testSlotDropped},
		{"two consumers", testTwo},
		{"quiet", testQuiet},
		{"cut", testCut},
		{"frozen", testFrozen},
		{"side connection", testSideConnection},
		{"slot lag", testSlotLag},
		{"publication", testPublication},
		{"unreadable", testUnreadable},
		{"not flushed", testNotFlushed},
		{"contexts", testContexts},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, database(t, pg)) })
	}
}

func testResume(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	var at []cdc.Position
	for range 3 {
		r.After("insert into t select coalesce(max(id), 0) + 1 from t")
		at = append(at, r.Pos)
	}
	var ev cdc.Event
	d.sql("insert into t values (4)")
	for ev.Kind != cdc.Begin {
		if err := r.Next(t.Context(), &ev); err != nil {
			t.Fatal(err)
		}
	}
	fourth := ev.Tx.Pos // known at begin
	r.Close()

	r = d.open(s, at[0])
	if got := r.Start(); got != at[0] {
		t.Errorf("starts at %s; want %s", got, at[0])
	}
	same(t, "after the first", r.After(""), "[", "insert t (id=2)", "]", "[", "insert t (id=3)", "]", "[", "insert t (id=4)", "]")
	r.Close()
	// Nothing was acknowledged, so nothing is gone; the slot is asked for one place after another.
	r = d.open(d.source(), at[2])
	same(t, "after the third", r.After(""), "[", "insert t (id=4)", "]")
	r.Close()
	r = d.open(s, fourth)
	same(t, "after the fourth, by what its begin said", r.After("insert into t values (5)"), "[", "insert t (id=5)", "]")

	// Acknowledged: exactly that far.
	if err := r.Ack(t.Context(), at[1]); err != nil {
		t.Fatal(err)
	}
	confirmed := func() string {
		return d.sql("select confirmed_flush_lsn from pg_replication_slots where slot_name = '" + d.name + "'")
	}
	p, _ := parsePlace(at[1])
	await(t, "the acknowledgement", func() bool { return confirmed() == p.lsn.String() })
	for range 5 {
		r.After("insert into t select max(id) + 1 from t")
	}
	if got := confirmed(); got != p.lsn.String() {
		t.Errorf("the slot is at %s; want %s: nothing more was acknowledged", got, p.lsn)
	}
	r.Close()
	_, err := d.tryOpen(s, at[0])
	isGap(t, "before what was acknowledged", err, "past")
	same(t, "at what was", d.open(s, at[1]).After("")[:3], "[", "insert t (id=3)", "]")
}

func testGaps(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	r.After("insert into t values (1)")
	r.Close()
	p, err := parsePlace(r.Pos)
	if err != nil {
		t.Fatal(err)
	}
	f := func(what, text string, change func(p *place)) {
		t.Helper()
		q := p
		change(&q)
		_, err := d.tryOpen(s, q.position())
		isGap(t, what, err, text)
	}
	f("another system", "the position is of system", func(p *place) { p.system++ })
	f("another timeline", "timeline 2", func(p *place) { p.timeline++ })
	f("after the end", "the server went back", func(p *place) { p.lsn += 1 << 30 })
	_, err = d.tryOpen(s, "nonsense")
	isGap(t, "nonsense", err, "nonsense")
	same(t, "and there it still is", d.open(s, r.Pos).After("insert into t values (2)"), "[", "insert t (id=2)", "]")
}

func testSlotDropped(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	r.After("insert into t values (1)")
	r.Close()
	d.sql("select pg_drop_replication_slot('" + d.name + "')")
	d.sql("insert into t values (2)")
	_, err := d.tryOpen(s, r.Pos)
	isGap(t, "dropped", err, "there is no slot")
	r2 := d.open(s, "")
	same(t, "anew", r2.After("insert into t values (3)"), "[", "insert t (id=3)", "]")
	r2.Close()
	_, err = d.tryOpen(s, r.Pos)
	isGap(t, "made anew by another", err, "past")

	// While it is read, by force.
	r3 := d.open(s, r2.Pos)
	d.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '" + d.name + "'")
	await(t, "the end of the stream", func() bool {
		_, err = r3.Read()
		return err != nil
	})
	if errors.Is(err, cdc.ErrGap) {
		t.Errorf("terminated: %v; want an error that is no gap", err)
	}
	r3.Close()
	same(t, "after that", d.open(s, r2.Pos).After("insert into t values (4)"), "[", "insert t (id=4)", "]")

	// Without the right to make one, it is said.
	_, err = d.tryOpen(d.source(func(o *Options) { o.Create, o.Slot = false, "other" }), "")
	if err == nil || errors.Is(err, cdc.ErrGap) || !strings.Contains(err.Error(), "SELECT pg_create_logical_replication_slot('other', 'pgoutput');") {
		t.Errorf("no slot, and not to be made: %v", err)
	}
}

func testTwo(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	a, b := d.source(), d.source()
	if !a.Exclusive() {
		t.Error("not exclusive")
	}
	first := d.open(a, "")
	first.After("insert into t values (1)")
	for _, from := range []cdc.Position{"", first.Pos} {
		if _, err := d.tryOpen(b, from); !errors.Is(err, cdc.ErrBusy) {
			t.Errorf("second, from %q: %v; want ErrBusy", from, err)
		}
	}
	first.Close()
	second := d.open(b, first.Pos) // at once
	same(t, "taken over", second.After("insert into t values (2)"), "[", "insert t (id=2)", "]")
	second.Close()
	// Two that begin at the same moment.
	d.sql("select pg_drop_replication_slot('" + d.name + "')")
	type result struct {
		st  cdc.Stream
		err error
	}
	got := make(chan result, 2)
	for _, s := range []*Source{a, b} {
		go func() {
			st, err := s.Open(context.Background(), "")
			got <- result{st, err}
		}()
	}
	opened := 0
	for range 2 {
		switch r := <-got; {
		case r.err == nil:
			opened++
			defer r.st.Close()
		case !errors.Is(r.err, cdc.ErrBusy):
			t.Errorf("at the same moment: %v; want ErrBusy", r.err)
		}
	}
	if opened != 1 {
		t.Errorf("%d of two at the same moment were opened; want 1", opened)
	}
}

// A database in which nothing happens must not keep the log of the others.
func testQuiet(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	r.After("insert into t values (1)")
	busy := database(t, d.pg)
	busy.sql("create table b (id int, a text)")
	retained := func() int {
		n, _ := strconv.Atoi(d.sql("select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint from pg_replication_slots where slot_name = '" + d.name + "'"))
		return n
	}
	for range 5 {
		busy.sql("insert into b select n, repeat('x', 1000) from generate_series(1, 4000) n")
		same(t, "quiet", r.After(""))
		if err := r.Ack(t.Context(), r.Pos); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the slot keeps less than 1 MB of some 20", func() bool {
		d.sql("checkpoint")
		r.After("")
		r.Ack(t.Context(), r.Pos)
		return retained() < 1<<20
	})
	same(t, "nothing was missed", r.After("insert into t values (2)"), "[", "insert t (id=2)", "]")
}

func testCut(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	proxy := testenv.Proxy(t, d.pg.Addr())
	direct := d.source()
	d.addr = proxy.Addr()
	s := d.source()
	r := d.open(s, "")
	r.After("insert into t values (1)")
	proxy.Cut()
	if _, err := r.Read(); err == nil || errors.Is(err, cdc.ErrGap) {
		t.Errorf("cut: %v; want an error that is no gap", err)
	}
	r.Close()
	if _, err := d.tryOpen(s, r.Pos); err == nil || errors.Is(err, cdc.ErrGap) || errors.Is(err, cdc.ErrBusy) {
		t.Errorf("while it is cut: %v; want an error that is neither gap nor busy", err)
	}
	await(t, "the server notices, and another takes over", func() bool {
		next, err := d.tryOpen(direct, r.Pos)
		if err != nil {
			if !errors.Is(err, cdc.ErrBusy) {
				t.Fatal(err)
			}
			return false
		}
		same(t, "taken over", next.After("insert into t values (2)"), "[", "insert t (id=2)", "]")
		next.Close()
		return true
	})
}

// A link that tells nothing of its end: both sides notice by themselves.
func testFrozen(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	proxy := testenv.Proxy(t, d.pg.Addr())
	direct := d.source()
	d.addr = proxy.Addr()
	s := d.source(func(o *Options) { o.Timeout = 2 * time.Second })
	s.watchEvery = patience // its queries would fail, too
	r := d.open(s, "")
	r.After("insert into t values (1)")
	proxy.Freeze()
	var ev cdc.Event
	// Whichever notices first: the beat, or a query on the side connection that was under way.
	if err := r.Next(t.Context(), &ev); err == nil || !strings.Contains(err.Error(), "silent") && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("frozen: %v; want an error that says so", err)
	}
	await(t, "the server lets go of the slot", func() bool {
		next, err := d.tryOpen(direct, r.Pos)
		if err == nil {
			next.Close()
		} else if !errors.Is(err, cdc.ErrBusy) {
			t.Fatal(err)
		}
		return err == nil
	})
	proxy.Restore()
	r.Close()

	// A reader that doesn't call Next isn't dead.
	r = d.open(d.source(func(o *Options) { o.Timeout = 3 * time.Second }), r.Pos)
	time.Sleep(7 * time.Second)
	same(t, "after a pause", r.After("insert into t values (2)"), "[", "insert t (id=2)", "]")
}

// The side connection may break without the other.
func testSideConnection(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	s.watchEvery = patience
	r := d.open(s, "")
	r.After("insert into t values (1)")
	d.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'freshet' and backend_type = 'client backend' and datname = current_database()")
	await(t, "a new one", func() bool {
		_, err := r.Read()
		return err == nil
	})
	same(t, "goes on", r.After("insert into t values (2)"), "[", "insert t (id=2)", "]")
	// A query that is given up breaks it, too.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Visible(ctx, r.Start()); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	same(t, "goes on", r.After("insert into t values (3)"), "[", "insert t (id=3)", "]")
}

func testSlotLag(t *testing.T, d *db) {
	d.sql("create table t (id int primary key, a text); create table other (id int); alter table other replica identity full")
	write := func() { d.sql("insert into other select n from generate_series(1, 20000) n") } // 1.2 MB
	s := d.source(func(o *Options) {
		o.MaxSlotLag = 1 << 20
		o.Match = func(_, name string) bool { return name == "t" }
	})
	s.watchEvery = 20 * time.Millisecond
	r := d.open(s, "")
	r.After("insert into t values (1)")
	st := s.Stats()
	if st.At.IsZero() || st.Status != "reserved" || st.Reconnects != 1 || st.Dropped != 0 {
		t.Errorf("stats are %+v", st)
	}
	write()
	await(t, "the slot is dropped", func() bool { return s.Stats().Dropped == 1 })
	var ev cdc.Event
	isGap(t, "while it is read", r.Next(t.Context(), &ev), "bytes of log; want at most 1048576")
	r.Close()
	_, err := d.tryOpen(s, r.Pos)
	isGap(t, "dropped", err, "there is no slot")
	s.watchEvery = patience
	r = d.open(s, "")
	r.Close()
	write()
	_, err = d.tryOpen(s, r.Pos)
	isGap(t, "too long when it is opened", err, "bytes of log; want at most 1048576")
	if n := s.Stats().Dropped; n != 2 {
		t.Errorf("%d slots were dropped; want 2", n)
	}
	same(t, "anew", d.open(s, "").After("insert into t values (2)"), "[", "insert t (id=2 a=~)", "]")
}

func testPublication(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	s.watchEvery = patience
	r := d.open(s, "")
	r.After("insert into t values (1)")
	d.sql("drop publication freshet; create publication freshet for table t with (" + publishAll + ")")
	isGap(t, "made anew while it is read", r.Stream.(*stream).look(), "made anew")
	r.Close()
	d.sql("drop publication freshet; insert into t values (2)")
	_, err := d.tryOpen(s, r.Pos)
	isGap(t, "missing", err, "there was no publication")
	// The server can't decode what came before there was one. It may say so before the slot is seen to be ours.
	from := r.Pos
	await(t, "the gap is told", func() bool {
		r, err = d.tryOpen(s, from)
		if err == nil {
			_, err = r.Read()
			r.Close()
		}
		return errors.Is(err, cdc.ErrGap)
	})
	isGap(t, "made anew", err, "")
	same(t, "anew", d.open(s, "").After("insert into t values (3)"), "[", "insert t (id=3)", "]")
}

// What can't be read is a gap, and isn't met again.
func testUnreadable(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	r.After("insert into t values (1)")
	st := r.Stream.(*stream)
	for _, b := range []string{"", "x", "w123", "k1", "w" + strings.Repeat("\x00", 24), "w" + strings.Repeat("\x00", 24) + "I\x00\x00\x00\x01N\x00\x00",
		"w" + strings.Repeat("\x00", 24) + string((&message{kind: 'C'}).encode())} {
		isGap(t, strconv.Quote(b), st.data(t.Context(), []byte(b)), "")
	}
	r.Close()
	d.sql("insert into t values (2)") // say that this was it
	r = d.open(s, "")
	same(t, "begins after it", r.After("insert into t values (3)"), "[", "insert t (id=3)", "]")
}

// With synchronous_commit=off a change is visible before it is in the log that is sent. A tick covers it all the same.
func testNotFlushed(t *testing.T, d *db) {
	d.sql("create table t (id int primary key); set synchronous_commit = off")
	r := d.open(d.source(), "")
	for i := range 50 {
		id := strconv.Itoa(i)
		same(t, "tick "+id, r.After("insert into t values ("+id+")"), "[", "insert t (id="+id+")", "]")
	}
}

func testContexts(t *testing.T, d *db) {
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	// A context that ends between calls is of no interest.
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		d.sql("insert into t values (" + strconv.Itoa(i) + ")")
		var ev cdc.Event
		for ev.Kind != cdc.Commit {
			if err := r.Next(ctx, &ev); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	var ev cdc.Event
	if err := r.Next(ctx, &ev); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled while it waits: %v", err)
	}
	r.Close()
	for what, f := range map[string]func(st cdc.Stream) error{
		"next":    func(st cdc.Stream) error { return st.Next(t.Context(), &ev) },
		"visible": func(st cdc.Stream) error { return st.Visible(t.Context(), st.Start()) },
		"tick":    func(st cdc.Stream) error { return st.Tick(t.Context(), 1) },
	} {
		st := d.open(s, "").Stream
		time.AfterFunc(50*time.Millisecond, func() { st.Close() })
		var err error
		for err == nil {
			err = f(st)
		}
		if !errors.Is(err, errClosed) {
			t.Errorf("%s of a closed stream: %v; want that it is closed", what, err)
		}
		st.Close()
	}
}

func TestRestart(t *testing.T) {
	pg := postgres(t)
	d := database(t, pg)
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	r.After("insert into t values (1)")
	pg.Restart()
	if _, err := r.Read(); err == nil || errors.Is(err, cdc.ErrGap) {
		t.Errorf("restarted: %v; want an error that is no gap", err)
	}
	r.Close()
	d.connect()
	d.sql("insert into t values (2)")
	r = d.open(s, r.Pos)
	same(t, "after the restart", r.After("insert into t values (3)"), "[", "insert t (id=2)", "]", "[", "insert t (id=3)", "]")

	// A shutdown waits until all that was sent is acknowledged, or the reader gone. The pump acknowledges late, but it ticks.
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	end := make(chan error, 1)
	go func() {
		for range ticks.C {
			if _, err := r.Read(); err != nil {
				r.Close()
				end <- err
				return
			}
		}
	}()
	d.conn.Close(t.Context())
	shutdown(t, pg)
	select {
	case err := <-end:
		t.Logf("the stream ended with: %v", err)
	case <-time.After(patience):
		t.Fatal("the stream goes on after a shutdown was asked for")
	}
	await(t, "the server is gone", func() bool {
		_, err := os.Stat(filepath.Join(pg.Dir(), "data", "postmaster.pid"))
		return os.IsNotExist(err)
	})
	pg.Restart()
	d.connect()
	same(t, "after the shutdown", d.open(s, r.Pos).After("insert into t values (4)"), "[", "insert t (id=4)", "]")
}

// shutdown asks the server to end its sessions and then itself.
func shutdown(t *testing.T, pg *testenv.PostgresServer) {
	b, err := os.ReadFile(filepath.Join(pg.Dir(), "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	pid, err := strconv.Atoi(string(line))
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGINT)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestLost is a slot that the server gave up.
func TestLost(t *testing.T) {
	pg := postgres(t, "max_slot_wal_keep_size=2MB", "min_wal_size=32MB", "max_wal_size=48MB")
	d := database(t, pg)
	d.sql("create table t (id int primary key); create table b (id int, a text)")
	s := d.source(func(o *Options) { o.Match = func(_, name string) bool { return name == "t" } })
	r := d.open(s, "")
	r.After("insert into t values (1)")
	r.Close()
	await(t, "the server gives the slot up", func() bool {
		d.sql("insert into b select n, repeat('x', 1000) from generate_series(1, 20000) n; checkpoint")
		return d.sql("select wal_status from pg_replication_slots") == "lost"
	})
	_, err := d.tryOpen(d.source(func(o *Options) {
		o.Match = func(_, name string) bool { return name == "t" }
		o.Create = false
	}), "")
	if err == nil || errors.Is(err, cdc.ErrGap) || !strings.Contains(err.Error(), "pg_drop_replication_slot") {
		t.Errorf("lost, and not to be made: %v", err)
	}
	_, err = d.tryOpen(s, r.Pos)
	isGap(t, "lost", err, "invalidated")
	same(t, "anew", d.open(s, "").After("insert into t values (2)"), "[", "insert t (id=2)", "]")
}
