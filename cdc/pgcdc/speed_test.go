package pgcdc

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store/redisstore"
)

// How fast is it? From the moment a writer has its commit acknowledged to the moment when another process no longer answers from memory, beside
// what nobody can go below: a bare client of pgoutput in this process, and a bare DEL with its push to that other process. They
// take turns.
//
//	go test -run - -bench 'CommitToL1|Rows' -benchtime 5x ./cdc/pgcdc
//
// Commits may be seen before their writer is told, so a time may be negative.

const (
	speedRows    = 64 // that the other process reads, of those that are written; the others are load
	speedWriters = 4
	readerEnv    = "FRESHET_SPEED_READER"
)

func BenchmarkCommitToL1(b *testing.B) {
	for _, rate := range []int{100, 2000} {
		b.Run(fmt.Sprintf("%d a second", rate), func(b *testing.B) {
			r := newSpeedRig(b, rate)
			type part struct{ p50, p99 float64 }
			var db, push, ours, x []part
			quantiles := func(d []time.Duration) part {
				slices.Sort(d)
				return part{d[len(d)/2].Seconds() * 1e6, d[len(d)*99/100].Seconds() * 1e6}
			}
			for b.Loop() {
				f1, f2, o := quantiles(r.bareFeed()), quantiles(r.barePush()), quantiles(r.ours())
				db, push, ours = append(db, f1), append(push, f2), append(ours, o)
				x = append(x, part{o.p50 / (f1.p50 + f2.p50), o.p99 / (f1.p99 + f2.p99)})
			}
			report := func(name string, of []part) {
				median := func(by func(part) float64) float64 {
					slices.SortFunc(of, func(a, b part) int { return cmp.Compare(by(a), by(b)) })
					return by(of[len(of)/2])
				}
				b.ReportMetric(median(func(p part) float64 { return p.p50 }), name+"-p50")
				b.ReportMetric(median(func(p part) float64 { return p.p99 }), name+"-p99")
			}
			b.Logf("the last round's pump: barrier p50 %v p99 %v, apply p50 %v p99 %v in %d batches; commit to applied p50 %v p99 %v", r.last.Barrier.Quantile(.5), r.last.Barrier.Quantile(.99), r.last.Apply.Quantile(.5), r.last.Apply.Quantile(.99), r.last.Apply.Count, r.last.Lag.Quantile(.5), r.last.Lag.Quantile(.99))
			report("µs-feed", db)
			report("µs-push", push)
			report("µs-ours", ours)
			report("x", x)
			b.ReportMetric(r.reached, "commits/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

type speedRig struct {
	b       *testing.B
	rate    int
	rows    int       // that are written: a hundred writes a second are of those that are read
	reached float64   // the least rate of all rounds
	last    cdc.Stats // of the pump in the last round
	pg      *testenv.PostgresServer
	redis   *testenv.RedisServer
	writers []*pgconn.PgConn
	bare    rueidis.Client
	reader  *speedReader
	rules   *cdc.Rules
}

func newSpeedRig(b *testing.B, rate int) *speedRig {
	r := &speedRig{b: b, rate: rate, rows: speedRows * max(1, rate/100), reached: float64(rate), redis: testenv.Redis(b)}
	r.pg = testenv.Postgres(b, "wal_level=logical", "max_replication_slots=10", "max_wal_senders=10")
	r.pg.SQL(b, "create table t (id int primary key, v bigint not null)")
	r.pg.SQL(b, fmt.Sprintf("insert into t select n, 0 from generate_series(0, %d) n", r.rows-1))
	r.pg.SQL(b, "create publication floor for table t")
	r.pg.SQL(b, "select pg_create_logical_replication_slot('floor', 'pgoutput')")
	for range speedWriters {
		c, err := pgconn.Connect(b.Context(), r.pg.URL())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close(context.Background()) })
		if _, err := c.Prepare(b.Context(), "w", "update t set v = $2 where id = $1", nil); err != nil {
			b.Fatal(err)
		}
		r.writers = append(r.writers, c)
	}
	var err error
	if r.rules, err = cdc.NewRules([]cdc.Rule{{Table: "public.t", Tags: []string{"t:{id}"}}}); err != nil {
		b.Fatal(err)
	}
	if r.bare, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.redis.Addr()}, DisableCache: true}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.bare.Close)
	r.reader = startSpeedReader(b, r.redis)
	return r
}

// A speedCommit is a write of one row. v counts the writes of a round.
type speedCommit struct {
	row, v      int
	sent, acked time.Time
}

// row is the row of write i: those that are read come at even distances.
func (r *speedRig) row(i int) int {
	k := r.rows / speedRows
	i %= r.rows
	return i%k*speedRows + i/k
}

// write does a round of writes on schedule.
func (r *speedRig) write() []speedCommit {
	n := 3 * r.rate
	every := time.Second / time.Duration(r.rate)
	start := time.Now()
	all := make([]speedCommit, n)
	var wg sync.WaitGroup
	for w, conn := range r.writers {
		wg.Go(func() {
			for i := w; i < n; i += speedWriters {
				time.Sleep(time.Until(start.Add(time.Duration(i) * every)))
				c := speedCommit{row: r.row(i), v: i + 1, sent: time.Now()}
				args := [][]byte{strconv.AppendInt(nil, int64(c.row), 10), strconv.AppendInt(nil, int64(c.v), 10)}
				if res := conn.ExecPrepared(context.Background(), "w", args, nil, nil).Read(); res.Err != nil {
					r.b.Error(res.Err)
					return
				}
				c.acked = time.Now()
				all[i] = c
			}
		})
	}
	wg.Wait()
	r.reached = min(r.reached, float64(n)/time.Since(start).Seconds())
	return all
}

// bareFeed is from acknowledged commits to their rows in the hands of a client that does nothing else.
func (r *speedRig) bareFeed() (late []time.Duration) {
	u, _ := url.Parse(r.pg.URL())
	u.RawQuery = "replication=database"
	conn, err := pgconn.Connect(r.b.Context(), u.String())
	if err != nil {
		r.b.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := pglogrepl.StartReplication(r.b.Context(), conn, "floor", 0, pglogrepl.StartReplicationOptions{PluginArgs: []string{"proto_version '1'", "publication_names 'floor'"}}); err != nil {
		r.b.Fatal(err)
	}
	const begin, end = "-1", "-2" // what was written before this round comes first
	begun := make(chan struct{})
	seen := map[[2]string]time.Time{}
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		ended := false
		for {
			msg, err := conn.ReceiveMessage(context.Background())
			if err != nil {
				done <- err
				return
			}
			data, ok := msg.(*pgproto3.CopyData)
			if !ok || data.Data[0] != pglogrepl.XLogDataByteID {
				continue
			}
			x, err := pglogrepl.ParseXLogData(data.Data[1:])
			if err != nil {
				done <- err
				return
			}
			m, err := pglogrepl.Parse(x.WALData)
			if err != nil {
				done <- err
				return
			}
			switch m := m.(type) {
			case *pglogrepl.UpdateMessage:
				key := [2]string{string(m.NewTuple.Columns[0].Data), string(m.NewTuple.Columns[1].Data)}
				switch seen[key] = time.Now(); key[1] {
				case begin:
					close(begun)
				case end:
					ended = true
				}
			case *pglogrepl.CommitMessage:
				if ended {
					done <- pglogrepl.SendStandbyStatusUpdate(context.Background(), conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: m.TransactionEndLSN})
					return
				}
			}
		}
	}()
	r.pg.SQL(r.b, "update t set v = "+begin+" where id = 0")
	select {
	case <-begun:
	case err := <-done:
		r.b.Fatal(err)
	}
	all := r.write()
	r.pg.SQL(r.b, "update t set v = "+end+" where id = 0")
	if err := <-done; err != nil {
		r.b.Fatal(err)
	}
	for _, c := range all {
		at := seen[[2]string{strconv.Itoa(c.row), strconv.Itoa(c.v)}]
		if at.Before(began) {
			r.b.Fatalf("the bare client has not seen %+v", c)
		}
		late = append(late, at.Sub(c.acked))
	}
	return late
}

// barePush is from before a DEL to its push in the other process.
func (r *speedRig) barePush() (late []time.Duration) {
	n := 3 * r.rate
	every := time.Second / time.Duration(r.rate)
	r.reader.dump()
	sent := map[string]time.Time{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	for w := range speedWriters {
		wg.Go(func() {
			for i := w; i < n; i += speedWriters {
				time.Sleep(time.Until(start.Add(time.Duration(i) * every)))
				key := fmt.Sprint("floor:", i)
				ctx := context.Background()
				if err := r.bare.Do(ctx, r.bare.B().Set().Key(key).Value("x").Build()).Error(); err != nil {
					r.b.Error(err)
				}
				mu.Lock()
				sent[key] = time.Now()
				mu.Unlock()
				if err := r.bare.Do(ctx, r.bare.B().Del().Key(key).Build()).Error(); err != nil {
					r.b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	time.Sleep(200 * time.Millisecond)
	// Both the SET and the DEL are told; the latter comes last.
	told := map[string]time.Time{}
	for _, e := range r.reader.dump() {
		if e.at.After(told[e.name]) {
			told[e.name] = e.at
		}
	}
	for key, at := range sent {
		if told[key].IsZero() {
			r.b.Fatalf("no push of %s came", key)
		}
		late = append(late, told[key].Sub(at))
	}
	return late
}

// ours is from acknowledged commits to the first read in the other process that memory doesn't answer.
func (r *speedRig) ours() (late []time.Duration) {
	p, stop := startSpeedPump(r.b, r.pg, r.redis, r.rules)
	defer stop()
	began := time.Now()
	for !p.Stats().LastTick.After(began) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond) // the rows are in memory
	r.reader.dump()
	before := p.Stats()
	all := r.write()
	time.Sleep(500 * time.Millisecond)
	r.last = p.Stats()
	for h, b := range map[*observe.Histogram]*observe.Histogram{&r.last.Lag: &before.Lag, &r.last.Barrier: &before.Barrier, &r.last.Apply: &before.Apply} {
		h.Count -= b.Count
		for i := range h.Buckets {
			h.Buckets[i] -= b.Buckets[i]
		}
	}
	missed := map[string][]time.Time{}
	for _, e := range r.reader.dump() {
		missed[e.name] = append(missed[e.name], e.at)
	}
	for _, c := range all {
		if c.row >= speedRows {
			continue
		}
		key := strconv.Itoa(c.row)
		i := slices.IndexFunc(missed[key], func(at time.Time) bool { return at.After(c.sent) })
		if i < 0 {
			r.b.Fatalf("row %d, version %d was never dropped", c.row, c.v)
		}
		late = append(late, missed[key][i].Sub(c.acked))
	}
	return late
}

func startSpeedPump(b *testing.B, pg *testenv.PostgresServer, redis *testenv.RedisServer, rules *cdc.Rules) (*cdc.Pump, func()) {
	src, err := New(pg.URL(), Options{Create: true, Match: rules.Match})
	if err != nil {
		b.Fatal(err)
	}
	st, err := redisstore.Open(redis.URL(), redisstore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	a, err := cdc.NewApplier(st)
	if err != nil {
		b.Fatal(err)
	}
	p, err := cdc.NewPump(src, a, cdc.Options{Name: "db", Rules: rules})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		st.Close()
	}
}

// A speedReader is the other process: it reads all rows over and over, and notes when memory didn't answer, and pushes.
type speedReader struct {
	b   *testing.B
	in  io.WriteCloser
	out *bufio.Scanner
}

type speedEvent struct {
	name string // a row, or a key of barePush
	at   time.Time
}

func startSpeedReader(b *testing.B, redis *testenv.RedisServer) *speedReader {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), readerEnv+"="+redis.URL())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("the reading process: %v", err)
		}
	})
	r := &speedReader{b, in, bufio.NewScanner(out)}
	r.dump()
	return r
}

// dump is what was noted since the last time.
func (r *speedReader) dump() (all []speedEvent) {
	if _, err := io.WriteString(r.in, "dump\n"); err != nil {
		r.b.Fatal(err)
	}
	for r.out.Scan() {
		name, at, ok := strings.Cut(r.out.Text(), " ")
		if !ok {
			return all
		}
		ns, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			r.b.Fatal(err)
		}
		all = append(all, speedEvent{name, time.Unix(0, ns)})
	}
	r.b.Fatal("the reading process ended")
	return nil
}

// readForSpeed is the program of a speedReader.
func readForSpeed(redis string) error {
	var mu sync.Mutex
	var noted []speedEvent
	note := func(name string) {
		at := time.Now()
		mu.Lock()
		noted = append(noted, speedEvent{name, at})
		mu.Unlock()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := freshet.Open(ctx, redis, freshet.Options{Hooks: observe.Hooks{Miss: func(m observe.Miss) {
		if m.Level == observe.LevelL1 && m.Reason == observe.ReasonDropped {
			note(strings.TrimPrefix(m.Key, "t:"))
		}
	}}})
	if err != nil {
		return err
	}
	defer c.Close()
	cache, err := freshet.NewCache(c, freshet.Config[int, int]{
		Name: "t", TTL: time.Hour,
		Tags: func(id int) []string { return []string{freshet.Tag("t", id)} },
		Load: func(_ context.Context, id int, _ *freshet.Load) (int, error) { return id, nil },
	})
	if err != nil {
		return err
	}
	u, err := url.Parse(redis)
	if err != nil {
		return err
	}
	told, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress:           []string{u.Host},
		ClientTrackingOptions: []string{"PREFIX", "floor:", "BCAST"},
		OnInvalidations: func(keys []rueidis.RedisMessage) {
			for _, k := range keys {
				if s, err := k.ToString(); err == nil {
					note(s)
				}
			}
		},
	})
	if err != nil {
		return err
	}
	defer told.Close()
	if err := told.Do(ctx, told.B().Ping().Build()).Error(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		runtime.LockOSThread() // time.Sleep would be a millisecond at least while nothing else runs
		defer runtime.UnlockOSThread()
		pause := syscall.NsecToTimespec(int64(20 * time.Microsecond))
		for ctx.Err() == nil {
			for id := range speedRows {
				_, _ = cache.Get(ctx, id) // what comes of it is not the question
			}
			_ = syscall.Nanosleep(&pause, nil)
		}
	})
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		mu.Lock()
		all := noted
		noted = nil
		mu.Unlock()
		out := bufio.NewWriter(os.Stdout)
		for _, e := range all {
			fmt.Fprintln(out, e.name, e.at.UnixNano())
		}
		fmt.Fprintln(out, "end")
		if err := out.Flush(); err != nil {
			return err
		}
	}
	return in.Err()
}

// Rows per second that a pump takes from PostgreSQL to Redis when it has fallen behind, on one core: it runs on a single processor of Go, and
// "CPU-µs" is what it takes of it for each row.
func BenchmarkRows(b *testing.B) {
	for _, tx := range []int{1, 10, 1000} {
		b.Run(fmt.Sprintf("transactions of %d", tx), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			rules, err := cdc.NewRules([]cdc.Rule{{Table: "public.t", Tags: []string{"t:{id}"}}})
			if err != nil {
				b.Fatal(err)
			}
			redis := testenv.Redis(b)
			pg := testenv.Postgres(b, "wal_level=logical", "max_replication_slots=10", "max_wal_senders=10")
			pg.SQL(b, "create table t (id int primary key, v bigint not null)")
			const rows = 100_000
			pg.SQL(b, fmt.Sprintf("insert into t select n, 0 from generate_series(0, %d) n", rows-1))
			p, stop := startSpeedPump(b, pg, redis, rules) // makes the slot
			for p.Stats().LastTick.IsZero() {
				time.Sleep(time.Millisecond)
			}
			stop()
			var took, cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				pg.SQL(b, fmt.Sprintf("do $$ begin for n in 0..%d by %d loop update t set v = v + 1 where id >= n and id < n + %[2]d; commit; end loop; end $$", rows-1, tx))
				before := cpuTime()
				b.StartTimer()
				began := time.Now()
				p, stop := startSpeedPump(b, pg, redis, rules)
				for p.Stats().Changes < rows {
					time.Sleep(time.Millisecond)
				}
				took += time.Since(began)
				cpu += cpuTime() - before
				b.StopTimer()
				stop()
				b.StartTimer()
			}
			n := float64(rows * b.N)
			b.ReportMetric(n/took.Seconds(), "rows/s")
			b.ReportMetric(cpu.Seconds()*1e6/n, "CPU-µs/row")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuTime is what this process took of all processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
