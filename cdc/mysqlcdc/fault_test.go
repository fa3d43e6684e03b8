package mysqlcdc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/testenv"
)

// TestGaps is every position that can't be resumed.
func TestGaps(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	d.sql("insert into t values (1)")
	after := r.Commit()
	r.After("insert into t values (2)")
	tick := r.Pos
	r.Close()
	f := func(what, text string, of cdc.Position, change func(p *place)) {
		t.Helper()
		p, err := parsePlace(of)
		if err != nil {
			t.Fatal(err)
		}
		change(&p)
		r, err := d.tryOpen(s, p.position())
		if err == nil {
			_, err = r.Read()
		}
		isGap(t, what, err, text)
	}
	f("another server", "this is mariadb-1", after, func(p *place) { p.server = serverMariaDB + "2" })
	f("another file of that name", "the binary log began anew", tick, func(p *place) { p.created-- })
	f("another transaction there", "the server went back", after, func(p *place) { p.gtid = "0-1-9999" })
	f("no transaction there", "", tick, func(p *place) { p.gtid = "0-1-1" })
	f("past the end", "past the end", tick, func(p *place) { p.off += 1 << 20 })
	f("past 4 GiB", "past 4 GiB", tick, func(p *place) { p.off += 1 << 32; p.file = "binlog.000000" })
	f("a file that never was", "", tick, func(p *place) { p.file = "binlog.000000" })
	f("within an event", "", tick, func(p *place) { p.off -= 3 })
	if _, err := d.tryOpen(s, "nonsense"); !errors.Is(err, cdc.ErrGap) {
		t.Errorf("nonsense: %v", err)
	}
	same(t, "and there it still is", d.open(s, after).After(""), "[", "insert t (id=2)", "]")
	same(t, "and there", d.open(s, tick).After("insert into t values (3)"), "[", "insert t (id=3)", "]")
}

// TestBegunAnew resets the binary log under a stream that is open, and under positions.
func TestBegunAnew(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key)")
	time.Sleep(1100 * time.Millisecond) // the times that files are made differ
	s := d.source(func(o *Options) { o.Timeout = 2 * time.Second })
	r := d.open(s, "")
	r.After("insert into t values (1)")
	old := r.Pos
	p, _ := parsePlace(old)
	d.sql("reset master")
	// As much is written as there was before the first tick asks.
	for i := 0; ; i++ {
		d.sql(fmt.Sprintf("insert into t values (%d)", i+100))
		if st := strings.Split(d.sql("show master status"), "|"); fmt.Sprintf("%010s", st[1]) > fmt.Sprintf("%010d", p.off) {
			break
		}
	}
	var err error
	for err == nil {
		_, err = r.Read()
	}
	r.Close() // MariaDB ends the feed; what it was comes out now
	_, err = d.tryOpen(s, old)
	isGap(t, "a position of before", err, "began anew")
	r = d.open(s, "")
	same(t, "anew", r.After("insert into t values (2)"), "[", "insert t (id=2)", "]")
	// A server that doesn't end the feed: its log ends before what was read, or goes on where the feed doesn't.
	st := r.Stream.(*stream)
	st.mu.Lock()
	st.seen.off += 1 << 20
	st.mu.Unlock()
	isGap(t, "an end before what was read", st.Tick(t.Context(), 100), "began anew")
	r.Close()
	r = d.open(s, "")
	st = r.Stream.(*stream)
	st.mu.Lock()
	st.tick, st.tickAt = 1, spot{st.at.file, st.at.off + 1000}
	st.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var ev cdc.Event
	isGap(t, "an end that never comes", r.Next(ctx, &ev), "the feed stays at")
}

// TestPurged takes files away, before they are read.
func TestPurged(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	r.After("insert into t values (1)")
	r.Close()
	d.sql("insert into t values (2); flush binary logs; flush binary logs")
	await(t, "the files are purged", func() bool {
		d.sql("purge binary logs to '" + strings.Split(d.sql("show master status"), "|")[0] + "'")
		return !strings.Contains(d.sql("show binary logs"), "\n")
	})
	_, err := d.tryOpen(s, r.Pos)
	isGap(t, "purged", err, "")
	same(t, "anew", d.open(s, "").After("insert into t values (3)"), "[", "insert t (id=3)", "]")
}

// TestRestart kills the server, ends it, and damages its binary log.
func TestRestart(t *testing.T) {
	my := mariadb(t, "sync-binlog=1")
	d := database(t, my)
	d.sql("create table t (id int primary key, v text)")
	s := d.source()
	r := d.open(s, "")
	for round := range 3 {
		r.After("")
		d.sql(fmt.Sprintf("insert into t values (%d, 'before')", 10*round+1))
		my.Restart() // a crash
		d.reconnect()
		d.sql(fmt.Sprintf("insert into t values (%d, 'after')", 10*round+2))
		_, err := r.Read()
		if err == nil || errors.Is(err, cdc.ErrGap) {
			t.Errorf("while the server was away: %v; want an error that is no gap", err)
		}
		r.Close()
		pos := r.Pos
		r = d.open(s, pos)
		got := r.After("")
		var rows []string
		for _, l := range got {
			if strings.HasPrefix(l, "insert") {
				rows = append(rows, l)
			}
		}
		want := []string{fmt.Sprintf("insert t (id=%d v=before)", 10*round+1), fmt.Sprintf("insert t (id=%d v=after)", 10*round+2)}
		if len(rows) == 1 { // the first came before the crash
			want = want[1:]
		}
		same(t, fmt.Sprint("round ", round), rows, want...)
	}
	// The end of the file is lost, as without sync_binlog: what follows isn't what was read.
	d.sql("insert into t values (100, 'lost')")
	r.After("")
	r.Close()
	p, _ := parsePlace(r.Pos)
	my.Kill()
	file := filepath.Join(my.Dir(), "data", p.file)
	if err := os.Truncate(file, int64(p.off)-100); err != nil {
		t.Fatal(err)
	}
	my.Restart()
	d.reconnect()
	d.sql("replace into t values (101, 'new')")
	q, err := d.tryOpen(s, r.Pos)
	if err == nil {
		_, err = q.Read()
	}
	isGap(t, "after the end of the log was lost", err, "")
}

// TestLink cuts the network, and freezes it.
func TestLink(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key)")
	proxy := testenv.Proxy(t, my.Addr())
	d.addr = proxy.Addr()
	s := d.source(func(o *Options) { o.Timeout = 3 * time.Second })
	r := d.open(s, "")
	same(t, "at first", r.After("insert into t values (1)"), "[", "insert t (id=1)", "]")
	proxy.Reset()
	if _, err := r.Read(); err == nil || errors.Is(err, cdc.ErrGap) {
		t.Errorf("cut: %v; want an error that is no gap", err)
	}
	r.Close()
	r = d.open(s, r.Pos)
	same(t, "after the cut", r.After("insert into t values (2)"), "[", "insert t (id=2)", "]")

	// It is quiet, and alive.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var ev cdc.Event
	if err := r.Next(ctx, &ev); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a quiet server: %v; want nothing to happen", err)
	}
	r.Close()
	r = d.open(s, r.Pos)
	proxy.Freeze()
	begun := time.Now()
	err := r.Next(t.Context(), &ev)
	if err == nil || !strings.Contains(err.Error(), "silent") || errors.Is(err, cdc.ErrGap) || time.Since(begun) > patience {
		t.Errorf("frozen: %v after %v; want that the server is silent", err, time.Since(begun))
	}
	if err := r.Visible(t.Context(), r.Pos); err == nil {
		t.Error("visible over a stream that ended")
	}
	begun = time.Now()
	r.Close()
	if took := time.Since(begun); took > patience/2 {
		t.Errorf("close took %v", took)
	}
	proxy.Thaw()
	same(t, "after that", d.open(s, r.Pos).After("insert into t values (3)"), "[", "insert t (id=3)", "]")
}

// TestSlowPump has a pump that doesn't read for longer than the server waits for a client that doesn't.
func TestSlowPump(t *testing.T) {
	my := mariadb(t, "net-write-timeout=1")
	d := database(t, my)
	d.sql("create table t (id int primary key, v text)")
	r := d.open(d.source(), "")
	d.sql("insert into t select seq, repeat('x', 10000) from seq_1_to_3000") // 30 MB, more than sockets hold
	time.Sleep(3 * time.Second)
	if got := len(r.After("")); got != 3002 {
		t.Errorf("%d events; want 3002", got)
	}
}

// TestTakeover opens a position on another server.
func TestTakeover(t *testing.T) {
	my, other := mariadb(t), mariadb(t, "server-id=2")
	d := database(t, my)
	d.sql("create table t (id int primary key)")
	r := d.open(d.source(), "")
	r.After("insert into t values (1)")
	r.Close()
	other.SQL(t, "create database "+d.name+"; create table "+d.name+".t (id int primary key)")
	e := &db{t: t, my: other, name: d.name, addr: other.Addr()}
	e.conn = e.dial()
	defer e.conn.Close()
	_, err := e.tryOpen(e.source(), r.Pos)
	isGap(t, "on another server", err, "the position is of server mariadb-1; this is mariadb-2")
	same(t, "anew", e.open(e.source(), "").After("insert into t values (2)"), "[", "insert t (id=2)", "]")

	// An address behind which servers take turns is noticed.
	st := d.open(d.source(), "").Stream.(*stream)
	st.src.addr = other.Addr()
	_ = st.side.conn.net.Close()
	for range 2 { // the first finds the connection broken
		err = st.Tick(t.Context(), 1)
	}
	if err == nil || !strings.Contains(err.Error(), "doesn't serve the feed") {
		t.Errorf("a side connection to another server: %v", err)
	}
}

// TestLarge reads a transaction of 100,000 rows, and looks at the memory that takes.
func TestLarge(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key, v varchar(200))")
	r := d.open(d.source(), "")
	const rows = 100_000
	d.sql(fmt.Sprintf("insert into t select seq, repeat('x', 100) from seq_1_to_%d", rows))
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most uint64
	seen, begun := 0, time.Now()
	var ev cdc.Event
	for ev.Kind != cdc.Commit {
		if err := r.Next(t.Context(), &ev); err != nil {
			t.Fatal(err)
		}
		if ev.Kind != cdc.Changed {
			continue
		}
		if seen++; seen%10_000 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc))
		}
	}
	took := time.Since(begun)
	if seen != rows {
		t.Errorf("%d rows; want %d", seen, rows)
	}
	t.Logf("%d rows in %v, %.0f rows/s; at most %d KiB more on the heap", rows, took.Round(time.Millisecond), rows/took.Seconds(), most>>10)
	if most > 8<<20 {
		t.Errorf("the heap grew by %d bytes; want at most 8 MiB", most)
	}
	// After its position, which was known when it began, nothing of it comes.
	r.Close()
	same(t, "after it", d.open(d.source(), ev.Tx.Pos).After("insert into t values (0, 'y')"), "[", "insert t (id=0 v=y)", "]")
}

// TestVisible is the barrier: a commit is in the binary log, waits for a replica that says nothing, and is visible to nobody.
func TestVisible(t *testing.T) {
	my := mariadb(t, "rpl-semi-sync-master-wait-point=AFTER_SYNC", "rpl-semi-sync-master-timeout=600000")
	d := database(t, my)
	d.sql("create table t (id int primary key, v int); insert into t values (1, 1), (2, 1)")
	r := d.open(d.source(), "")
	version := func(id string) string { return d.sql("select v from t where id = " + id) }
	notVisible := func(st cdc.Stream, pos cdc.Position) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := st.Visible(ctx, pos); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Visible says %v of a commit that nobody sees; want it to wait", err)
		}
	}
	d.sql("update t set v = 2 where id = 2")
	before := r.Commit()
	release := d.Stall()
	defer release()
	writer := d.dial()
	defer writer.Close()
	wrote := make(chan error, 1)
	go func() {
		_, err := run(writer, "update t set v = 2 where id = 1")
		wrote <- err
	}()
	pos := r.Commit() // it is delivered
	if got := version("1"); got != "1" {
		t.Fatalf("the row has version %s before its commit is done; this test shows nothing", got)
	}
	notVisible(r, pos)
	if err := r.Visible(t.Context(), before); err != nil {
		t.Errorf("what came before is not held up: %v", err)
	}
	if _, err := r.Read(); err != nil {
		t.Errorf("tick while a commit hangs: %v", err)
	}
	// One that begins now doesn't get the commit, so all that follows a start waits for it.
	r.Close()
	r = d.open(d.source(), "")
	notVisible(r, r.Start())
	again := make(chan error, 1)
	go func() { again <- r.Visible(context.Background(), r.Start()) }()
	release()
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if err := <-again; err != nil || version("1") != "2" {
		t.Errorf("after the replica was given up: %v, version %s", err, version("1"))
	}
}
