package torture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/observe"
)

var limits = Limits{
	Instances:   4,
	StaleAtMost: 250 * time.Millisecond,
	ClockError:  2 * time.Millisecond,
	Lease:       400 * time.Millisecond,
	Budget:      100 * time.Millisecond,
	LongestLoad: 40 * time.Millisecond,
	MaxLoads:    8,
}

const (
	partitions = 3 // of the log in a Cluster; each is probed by each instance
)

// kinds are the rows, by the cache that they are read through. often weighs how often a row is written: P3 says
// nothing of loads around a drop, so some rows are loaded for other reasons.
var kinds = []struct {
	cache string
	rows  int
	often int
	drop  string
}{
	{"key", 8, 20, "key"},
	{"tag", 6, 20, "tag"},
	{"late", 5, 20, "late"},
	{"clear", 3, 5, "clear"},
	{"neg", 4, 20, "key"},
	{"plain", 4, 15, "key"},
	{"batch", 6, 20, "key"},
	{"brief", 4, 1, "key"},
	{"swr", 3, 2, "tag"},
	{"foreign", 3, 0, ""}, // only a foreign client drops these
}

// A value is what is cached: it tells which row and version it is, and that it is whole.
type value struct {
	Row     int
	Version int64
	Sum     uint64
}

func valueOf(row int, version int64) value {
	h := fnv.New64a()
	fmt.Fprint(h, row, version)
	return value{row, version, h.Sum64()}
}

// A row is a row of the source.
type row struct {
	kind int

	mu      sync.Mutex
	version int64 // guarded by mu
}

// A world is a source, a Redis of some topology, and instances between them.
type world struct {
	t     *testing.T
	topo  Topology
	fault Fault
	seed  uint64
	base  time.Time
	h     *History

	rows    []*row
	weights []int // of writes; by row, added up
	fleet   []*instance
	foreign rueidis.Client

	srv   *testenv.RedisServer
	sen   *testenv.SentinelGroup
	clu   *testenv.ClusterGroup
	links [][]*testenv.FaultProxy // by instance: to each server

	reading time.Duration // since when there are reads

	lost atomic.Bool  // a primary was killed
	late atomic.Int64 // the sum of all stalls

	quit  chan struct{}
	tasks sync.WaitGroup // the workload
	owed  sync.WaitGroup // deliveries waited for
	mu    sync.Mutex     // guards what the workload adds to h
}

// An instance is one client of freshet with its caches.
type instance struct {
	w       *world
	n       int
	client  *freshet.Client
	caches  map[string]*freshet.Cache[int, value]
	running atomic.Int64
	most    atomic.Int64 // loads ever under way at once
}

func (w *world) now() time.Duration { return time.Since(w.base) }

// newWorld starts servers and instances, and waits until all have trust.
func newWorld(t *testing.T, topo Topology, fault Fault, seed uint64) *world {
	t.Helper()
	w := &world{t: t, topo: topo, fault: fault, seed: seed, base: time.Now().Add(-time.Millisecond), quit: make(chan struct{})}
	w.h = &History{Limits: limits, Lossy: fault.IsLossy(topo)}
	total := 0
	for i, k := range kinds {
		for range k.rows {
			n := len(w.rows)
			w.rows = append(w.rows, &row{kind: i, version: 1})
			w.h.Rows = append(w.h.Rows, Row{Cache: k.cache, Key: fmt.Sprintf("%s:%d", k.cache, n),
				Plain: k.cache == "plain", Odd: k.cache == "neg", Background: k.cache == "swr"})
			total += k.often
			w.weights = append(w.weights, total)
		}
	}
	urls := make([]string, limits.Instances)
	foreign := rueidis.ClientOption{DisableCache: true, AlwaysRESP2: true}
	switch topo {
	case Tracking, Blind:
		w.srv = testenv.Redis(t)
		w.allow()
		for i := range urls {
			p := testenv.Proxy(t, w.srv.Addr())
			w.links = append(w.links, []*testenv.FaultProxy{p})
			urls[i] = "redis://" + p.Addr()
			if topo == Blind {
				urls[i] = "redis://bob:secret@" + p.Addr()
			}
		}
		foreign.InitAddress, foreign.ForceSingleClient = []string{w.srv.Addr()}, true
	case Sentinel:
		w.sen = testenv.Sentinel(t)
		for i := range urls {
			v := w.sen.View(t, 2+i)
			urls[i], w.links = v.URL, append(w.links, v.Proxies())
		}
		for _, s := range w.sen.Sentinels {
			foreign.InitAddress = append(foreign.InitAddress, s.Addr())
		}
		foreign.Sentinel.MasterSet = "mymaster"
	case Cluster:
		w.clu = testenv.Cluster(t)
		for i := range urls {
			v := w.clu.View(t, 2+i)
			urls[i], w.links = v.URL+fmt.Sprint("?partitions=", partitions), append(w.links, v.Proxies())
		}
		for _, s := range w.clu.Servers {
			foreign.InitAddress = append(foreign.InitAddress, s.Addr())
		}
	}
	var err error
	if w.foreign, err = rueidis.NewClient(foreign); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.foreign.Close)
	for i, url := range urls {
		w.fleet = append(w.fleet, w.newInstance(i, url))
	}
	if !w.trusted(0, 20*time.Second) {
		t.Fatal("no trust at the beginning")
	}
	return w
}

// allow makes the user without tracking, whom a server that starts again has forgotten.
func (w *world) allow() {
	if w.topo == Blind {
		w.srv.CLI(w.t, "ACL", "SETUSER", "bob", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
	}
}

func (w *world) newInstance(n int, url string) *instance {
	in := &instance{w: w, n: n, caches: make(map[string]*freshet.Cache[int, value])}
	trouble := func(reset bool) {
		w.mu.Lock()
		w.h.Trouble = append(w.h.Trouble, Trouble{Instance: n, At: w.now(), Reset: reset})
		w.mu.Unlock()
	}
	c, err := freshet.Open(w.t.Context(), url, freshet.Options{
		Name: fmt.Sprint("i", n), StaleAtMost: limits.StaleAtMost, MaxLoads: limits.MaxLoads, StoreBudget: limits.Budget,
		Hooks: observe.Hooks{
			StoreError: func(observe.StoreError) { trouble(false) },
			Breaker:    func(observe.Breaker) { trouble(false) },
			Link:       func(observe.Link) { trouble(true) },
			Gap:        func(observe.Gap) { trouble(true) },
			Epoch:      func(observe.Epoch) { trouble(true) },
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	in.client = c
	w.t.Cleanup(func() { c.Close() })
	for _, k := range kinds {
		cfg := freshet.Config[int, value]{Name: k.cache, TTL: time.Hour, EarlyRefresh: -1, LeaseTime: limits.Lease}
		cfg.Load = func(ctx context.Context, row int, _ *freshet.Load) (value, error) {
			m, err := in.load(ctx, row)
			if v, ok := m[row]; ok || err != nil {
				return v, err
			}
			return value{}, freshet.ErrNotFound
		}
		switch k.cache {
		case "tag":
			cfg.Tags = func(row int) []string { return []string{freshet.Tag("of-"+k.cache, row)} }
		case "late":
			load := cfg.Load
			cfg.Load = func(ctx context.Context, row int, l *freshet.Load) (value, error) {
				l.Tag(freshet.Tag("late", row))
				return load(ctx, row, l)
			}
		case "plain":
			cfg.Plain = true
		case "batch":
			cfg.Load = nil
			cfg.LoadMany = func(ctx context.Context, rows []int, _ *freshet.BatchLoad[int]) (map[int]value, error) {
				return in.load(ctx, rows...)
			}
		case "brief":
			cfg.TTL = 40 * time.Millisecond
		case "swr":
			cfg.TTL, cfg.EarlyRefresh = 60*time.Millisecond, 1
			cfg.Tags = func(row int) []string { return []string{freshet.Tag("of-"+k.cache, row)} }
			cfg.Stale.WhileRevalidate = 10 * time.Second
		}
		cache, err := freshet.NewCache(c, cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		in.caches[k.cache] = cache
	}
	return in
}

// load asks the source. What it reads, it reads at once, and then takes its time: what is dangerous is an old value
// under way.
func (in *instance) load(ctx context.Context, rows ...int) (map[int]value, error) {
	w := in.w
	n := in.running.Add(1)
	if n > int64(limits.MaxLoads) {
		w.notice(P3, "%d loads under way on instance %d; want at most %d", n, in.n, limits.MaxLoads)
	}
	for most := in.most.Load(); n > most && !in.most.CompareAndSwap(most, n); most = in.most.Load() {
	}
	defer in.running.Add(-1)
	start := w.now()
	m := make(map[int]value, len(rows))
	for _, r := range rows {
		w.rows[r].mu.Lock()
		v := w.rows[r].version
		w.rows[r].mu.Unlock()
		if !w.h.Rows[r].Odd || v%2 == 0 {
			m[r] = valueOf(r, v)
		}
	}
	pause := rand.N(2 * time.Millisecond)
	switch rand.IntN(20) {
	case 0:
		pause = rand.N(limits.LongestLoad)
	case 1, 2, 3, 4:
		pause = rand.N(15 * time.Millisecond)
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	w.mu.Lock()
	for _, r := range rows {
		w.h.Loads = append(w.h.Loads, Load{Instance: in.n, Row: r, Start: start, End: w.now()})
	}
	w.mu.Unlock()
	return m, nil
}

func (w *world) notice(promise int, format string, args ...any) {
	w.mu.Lock()
	w.h.Noticed = append(w.h.Noticed, Violation{promise, fmt.Sprintf(format, args...)})
	w.mu.Unlock()
}

// trusted waits until every instance has proven, after that time, that it knows every drop. Patience grows with what the
// machine is late by, but has an end: the load goes on meanwhile.
func (w *world) trusted(after, patience time.Duration) bool {
	late := w.late.Load()
	proven := make([]bool, len(w.fleet)) // not all at once: on a busy machine that may take long
	for end := w.now() + patience; ; time.Sleep(5 * time.Millisecond) {
		for i, in := range w.fleet {
			since := w.now() - after
			s := in.client.Stats()
			proven[i] = proven[i] || s.LinkUp && s.StaleFor >= 0 && s.StaleFor < min(limits.StaleAtMost, since)
		}
		if !slices.Contains(proven, false) {
			return true
		}
		if w.now() > end+min(perHop*time.Duration(w.late.Load()-late), 2*patience) {
			return false
		}
	}
}

// rng is the n-th goroutine's own.
func (w *world) rng(n int) *rand.Rand { return rand.New(rand.NewPCG(w.seed, uint64(100+n))) }

// begin starts the workload.
func (w *world) begin() {
	w.reading = w.now()
	readers := cmp.Or(w.fault.Readers, 4)
	for _, in := range w.fleet {
		if w.fault.Rate > 0 {
			w.tasks.Go(func() { in.readsOnTime(w.rng(in.n)) })
		} else {
			for n := range readers {
				w.tasks.Go(func() { in.reads(w.rng(in.n*readers+n), time.Duration(readers)*time.Millisecond) })
			}
		}
		w.tasks.Go(func() { in.writes(w.rng(1000 + in.n)) })
	}
	w.tasks.Go(func() { w.foreignWrites(w.rng(2000)) })
	w.tasks.Go(w.measureStalls)
}

func (w *world) over() bool {
	select {
	case <-w.quit:
		return true
	default:
		return false
	}
}

// pause sleeps, but not beyond the end.
func (w *world) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.quit:
	}
}

func (w *world) measureStalls() {
	var stalls []Stall
	for !w.over() {
		began := w.now()
		time.Sleep(time.Millisecond)
		if now := w.now(); now-began > 2*time.Millisecond {
			late := now - began - time.Millisecond
			stalls = append(stalls, Stall{At: now, Late: late})
			w.late.Add(int64(late))
		}
	}
	w.mu.Lock()
	w.h.Stalls = stalls
	w.mu.Unlock()
}

// maxUnanswered bounds the reads that readsOnTime has begun: a machine that falls behind by almost a second won't catch up by more
// of them. Those left out are missing in the rate that was reached.
const maxUnanswered = 1000

// readsOnTime asks for rows at its share of the rate until the end, whether or not there are answers.
func (in *instance) readsOnTime(rng *rand.Rand) {
	w := in.w
	var wg sync.WaitGroup
	var mu sync.Mutex
	var reads []Read // guarded by mu
	var unanswered atomic.Int64
	rate := w.fault.Rate
	if *longFor == 0 {
		rate /= 5 // beside other tests, and under the race detector
	}
	every := time.Second * time.Duration(len(w.fleet)) / time.Duration(rate)
	for due := w.now() + upTo(rng, every); ; due += every {
		if ahead := due - w.now(); ahead > 0 {
			w.pause(ahead)
		}
		if w.over() {
			break
		}
		n, lookup := rng.IntN(len(w.rows)), rng.IntN(2) == 0
		if unanswered.Add(1) > maxUnanswered {
			unanswered.Add(-1)
			continue
		}
		wg.Go(func() {
			defer unanswered.Add(-1)
			r := in.lookupOrGet(n, lookup)
			r.Due = due
			mu.Lock()
			reads = append(reads, r)
			mu.Unlock()
		})
	}
	wg.Wait()
	w.mu.Lock()
	w.h.Reads = append(w.h.Reads, reads...)
	w.mu.Unlock()
}

func (in *instance) lookupOrGet(n int, lookup bool) Read {
	if lookup {
		return in.lookup(n)
	}
	r := Read{Instance: in.n, Row: n, Start: in.w.now()}
	v, err := in.caches[in.w.h.Rows[n].Cache].Get(context.Background(), n)
	r.End = in.w.now()
	return r.with(v, err)
}

// reads asks for rows in all ways until the end.
func (in *instance) reads(rng *rand.Rand, pause time.Duration) {
	w := in.w
	var reads []Read
	for !w.over() {
		n := rng.IntN(len(w.rows))
		switch how := rng.IntN(10); {
		case how < 5:
			reads = append(reads, in.lookup(n))
		case how < 8 && w.h.Rows[n].Cache != "batch":
			reads = append(reads, in.lookupOrGet(n, false))
		default:
			reads = append(reads, in.many(n, rng)...)
		}
		w.pause(upTo(rng, pause))
	}
	w.mu.Lock()
	w.h.Reads = append(w.h.Reads, reads...)
	w.mu.Unlock()
}

func (in *instance) lookup(n int) Read {
	r := Read{Instance: in.n, Row: n, Start: in.w.now()}
	res, err := in.caches[in.w.h.Rows[n].Cache].Lookup(context.Background(), n)
	r.End = in.w.now()
	r.Level, r.Joined, r.Stale, r.Failed = res.Level, res.Joined, res.Stale, res.Err != nil
	return r.with(res.Value, err)
}

// many asks for several rows of the cache of n.
func (in *instance) many(n int, rng *rand.Rand) (reads []Read) {
	w := in.w
	cache := w.h.Rows[n].Cache
	var ks []int
	for k := range w.rows {
		if w.h.Rows[k].Cache == cache && (k == n || rng.IntN(2) == 0) {
			ks = append(ks, k)
		}
	}
	start := w.now()
	got, err := in.caches[cache].GetMany(context.Background(), ks)
	end := w.now()
	for _, k := range ks {
		r := Read{Instance: in.n, Row: k, Start: start, End: end, Batch: true}
		v, ok := got[k]
		switch {
		case err != nil:
			r = r.with(v, err)
		case ok:
			r = r.with(v, nil)
		default:
			r = r.with(v, freshet.ErrNotFound)
		}
		reads = append(reads, r)
	}
	return reads
}

// with fills in what came.
func (r Read) with(v value, err error) Read {
	switch {
	case errors.Is(err, freshet.ErrNotFound):
		r.Absent = true
	case err != nil:
		r.Err = err
	default:
		r.Version = v.Version
		r.Corrupt = v.Row != r.Row || v != valueOf(v.Row, v.Version)
	}
	return r
}

// change commits the next version of a row.
func (w *world) change(n int, wr Write) Write {
	r := w.rows[n]
	r.mu.Lock()
	defer r.mu.Unlock()
	wr.Row, wr.Began = n, w.now()
	r.version++
	wr.Version, wr.Committed = r.version, w.now()
	return wr
}

// writes changes rows and drops them until the end.
func (in *instance) writes(rng *rand.Rand) {
	w := in.w
	n := 0
	for !w.over() {
		if rng.IntN(2) == 0 {
			// The same row again: it is being loaded since the last drop.
			w.pause(upTo(rng, 12*time.Millisecond))
		} else {
			w.pause(5*time.Millisecond + upTo(rng, 60*time.Millisecond))
			at := rng.IntN(w.weights[len(w.weights)-1])
			for n = 0; w.weights[n] <= at; n++ {
			}
		}
		k := kinds[w.rows[n].kind]
		if w.lost.Load() && (n%2 == 0 || k.drop == "clear") {
			continue // a drop that was lost must not be hidden by a later one
		}
		wr := w.change(n, Write{Instance: in.n, Drop: k.drop})
		var drop func(context.Context) error
		switch k.drop {
		case "key":
			drop = func(ctx context.Context) error { return in.caches[k.cache].Drop(ctx, n) }
		case "tag":
			tag := freshet.Tag("of-"+k.cache, n)
			if rng.IntN(40) == 0 && !w.lost.Load() {
				tag = freshet.TagAll("of-" + k.cache)
				wr.Wide = true
			}
			drop = func(ctx context.Context) error { return in.client.DropTags(ctx, tag) }
		case "late":
			drop = func(ctx context.Context) error { return in.client.DropTags(ctx, freshet.Tag("late", n)) }
		case "clear":
			wr.Wide = true
			drop = in.caches[k.cache].Clear
		}
		wr.Asked = w.now()
		err := drop(context.Background())
		wr.Returned = w.now()
		switch {
		case err == nil:
			wr.Acked = wr.Returned
		case !errors.Is(err, freshet.ErrPending):
			w.notice(P5, "drop of row %d by instance %d: %v; want none, or pending", n, in.n, err)
		default:
			w.owed.Go(func() { in.delivered(wr) })
			continue
		}
		w.wrote(wr)
	}
}

// delivered waits until a pending drop is acknowledged.
func (in *instance) delivered(wr Write) {
	w := in.w
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := in.client.WaitDelivered(ctx); err != nil {
		w.notice(P5, "%v: not delivered within a minute: %v", wr, err)
	} else {
		wr.Acked = w.now()
	}
	w.wrote(wr)
}

func (w *world) wrote(wr Write) {
	w.mu.Lock()
	w.h.Writes = append(w.h.Writes, wr)
	w.mu.Unlock()
}

// foreignWrites changes rows and deletes their keys, as redis-cli would. It tries until it can.
func (w *world) foreignWrites(rng *rand.Rand) {
	var rows []int
	for n, r := range w.h.Rows {
		if r.Cache == "plain" || r.Cache == "foreign" && !w.h.Lossy {
			rows = append(rows, n)
		}
	}
	for !w.over() {
		w.pause(20*time.Millisecond + upTo(rng, 60*time.Millisecond))
		n := rows[rng.IntN(len(rows))]
		wr := w.change(n, Write{Instance: Foreign, Drop: "DEL"})
		wr.Asked = w.now()
		for tries := 0; ; tries++ {
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			err := w.foreign.Do(ctx, w.foreign.B().Del().Key(w.h.Rows[n].Key).Build()).Error()
			cancel()
			if wr.Returned = w.now(); err == nil {
				wr.Acked = wr.Returned
				break
			}
			if tries > 1000 || w.over() && tries > 100 {
				w.notice(P5, "the foreign client can't reach Redis: %v", err)
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		w.wrote(wr)
	}
}

// play plays a script, and returns what happened.
func (w *world) play(s Script) *History {
	began := w.now()
	w.begin()
	time.Sleep(100 * time.Millisecond)
	for i, step := range s {
		time.Sleep(step.After)
		if step.Fault == "none" {
			continue
		}
		f := FaultNamed(step.Fault)
		from := w.now()
		w.act(step)
		healed := w.now()
		w.h.Hit = append(w.h.Hit, Window{from, healed})
		patience := 20 * time.Second
		if i < len(s)-1 && !f.IsLossy(w.topo) {
			patience = s[i+1].After / 2 // the next one may hit those who are just getting up
		}
		back := w.trusted(healed, patience)
		end := w.now()
		switch {
		case back:
			w.h.TrustBack = max(w.h.TrustBack, end-healed)
		case i == len(s)-1:
			w.notice(P5, "trust is not back %v after %v", patience, step)
		}
		window := Window{from, end + 100*time.Millisecond}
		if !f.Answers {
			w.h.Broken = append(w.h.Broken, window)
		}
		if f.IsLossy(w.topo) {
			window.To = end + 1500*time.Millisecond
			w.h.Losing = append(w.h.Losing, window)
		}
	}
	w.settle()
	w.h.Length = w.now() - began
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, in := range w.fleet {
		w.h.MostLoads = max(w.h.MostLoads, int(in.most.Load()))
	}
	h := *w.h // the instances live on
	return &h
}

// settle lets the world come to rest, and asks every instance for every row.
func (w *world) settle() {
	if !w.trusted(w.now(), 20*time.Second) {
		w.notice(P5, "trust is not back at the end")
	}
	if n := len(w.h.Losing); n > 0 {
		time.Sleep(w.h.Losing[n-1].To - w.now())
	}
	time.Sleep(2 * limits.StaleAtMost) // the workload goes on
	close(w.quit)
	w.h.ReadFor = w.now() - w.reading
	w.tasks.Wait()
	w.owed.Wait()
	time.Sleep(limits.StaleAtMost + 50*time.Millisecond)
	var wg sync.WaitGroup
	for _, in := range w.fleet {
		wg.Go(func() {
			for n := range w.rows {
				r := in.lookup(n)
				r.Last = true
				w.mu.Lock()
				w.h.Reads = append(w.h.Reads, r)
				w.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// act does what a step says, and undoes it.
func (w *world) act(s Step) {
	t := w.t
	rng := rand.New(rand.NewPCG(s.N, 0))
	broken := w.linksOf(s)
	links := func(do func(*testenv.FaultProxy)) {
		for _, p := range broken {
			do(p)
		}
	}
	restore := func() { links((*testenv.FaultProxy).Restore) }
	switch s.Fault {
	case "cut":
		links((*testenv.FaultProxy).Cut)
		time.Sleep(s.For)
		restore()
	case "freeze":
		links((*testenv.FaultProxy).Freeze)
		time.Sleep(s.For)
		restore()
	case "reset":
		for end := w.now() + s.For; ; time.Sleep(upTo(rng, 100*time.Millisecond)) {
			if links((*testenv.FaultProxy).Reset); w.now() > end {
				break
			}
		}
	case "delay":
		for end := w.now() + s.For; w.now() < end; time.Sleep(20 * time.Millisecond) {
			links(func(p *testenv.FaultProxy) { p.Delay(upTo(rng, 60*time.Millisecond)) })
		}
		restore()
	case "swallow":
		links(func(p *testenv.FaultProxy) {
			one := rand.New(rand.NewPCG(s.N, 1)) // the proxy asks for one push at a time
			p.FilterPushes(func(frame []byte) int {
				if replaceable(string(frame)) && one.IntN(3) > 0 {
					return 0
				}
				return 1
			})
		})
		time.Sleep(s.For)
		restore()
	case "double":
		links(func(p *testenv.FaultProxy) {
			p.FilterPushes(func(frame []byte) int {
				if strings.Contains(string(frame[:min(len(frame), 40)]), "subscribe") {
					return 1 // it answers a command
				}
				return 2
			})
		})
		time.Sleep(s.For)
		restore()
	case "stop":
		srv := w.server(rng)
		srv.Pause()
		time.Sleep(s.For)
		srv.Resume()
	case "kill":
		w.srv.Kill()
		time.Sleep(s.For)
		w.srv.Restart()
		w.allow()
	case "rewind":
		srv := w.server(rng)
		srv.Save(t)
		time.Sleep(s.For)
		srv.Kill()
		if w.sen != nil {
			srv.Restart("--replicaof", "no", "one") // it may have begun as a replica
		} else {
			srv.Restart()
		}
		srv.ForgetSnapshot()
		w.allow()
	case "flush":
		w.server(rng).CLI(t, "FLUSHALL")
	case "evict":
		for end := w.now() + s.For; w.now() < end; time.Sleep(20 * time.Millisecond) {
			w.evict(rng)
		}
	case "failover":
		if w.sen != nil {
			w.sen.Failover(t)
		} else {
			w.clu.Failover(t, w.server(rng))
		}
	case "failover-kill":
		old := w.server(rng)
		if w.sen != nil {
			w.failOver(old, w.sen.Replicas(t), func() { w.sen.WaitFailover(t, old) })
		} else {
			replica := w.clu.Replica(t, old)
			w.failOver(old, []*testenv.RedisServer{replica}, func() { w.clu.WaitPrimary(t, replica) })
		}
	case "migrate":
		w.clu.Migrate(t, w.somewhere(rng), func() { time.Sleep(upTo(rng, 200*time.Millisecond)) })
	case "contention":
		var wg sync.WaitGroup
		end := time.Now().Add(s.For)
		for range 3 * runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				for time.Now().Before(end) {
				}
			})
		}
		wg.Wait()
	default:
		t.Fatal("no such fault: " + s.Fault)
	}
}

// lag is how long a primary is not heard of by its replicas before it is killed: what it acknowledges then is lost.
const lag = 250 * time.Millisecond

// failOver kills a primary that has lost its replicas, and notes how long it takes until another is there, and until all
// instances trust it.
func (w *world) failOver(old *testenv.RedisServer, replicas []*testenv.RedisServer, promoted func()) {
	for _, s := range replicas {
		s.Pause()
	}
	old.CLI(w.t, "CLIENT", "KILL", "TYPE", "replica")
	time.Sleep(lag)
	w.lost.Store(true)
	old.Kill()
	killed := w.now()
	for _, s := range replicas {
		s.Resume()
	}
	ready := make(chan time.Duration, 1)
	w.owed.Go(func() {
		w.trusted(killed, time.Minute)
		over := Failover{Killed: killed, Trusted: w.now(), Promoted: <-ready}
		w.mu.Lock()
		w.h.Failovers = append(w.h.Failovers, over)
		w.mu.Unlock()
	})
	defer func() { ready <- w.now() }() // also when the test is given up
	promoted()
}

// linksOf are the links that a step breaks: two times in three all of its instances, else some.
func (w *world) linksOf(s Step) (ps []*testenv.FaultProxy) {
	rng := rand.New(rand.NewPCG(s.N, 2))
	for _, i := range s.On {
		all := w.links[i]
		if len(all) == 1 || rng.IntN(3) > 0 {
			ps = append(ps, all...)
			continue
		}
		one := rng.IntN(len(all))
		for j, p := range all {
			if j == one || rng.IntN(2) == 0 {
				ps = append(ps, p)
			}
		}
	}
	return ps
}

// replaceable reports whether a push may be lost without anybody noticing but by the log: an announcement, or
// word of a key that is announced too. A foreign DEL is told by nothing else.
func replaceable(frame string) bool {
	head := frame[:min(len(frame), 60)]
	switch {
	case strings.Contains(head, "subscribe"):
		return false
	case strings.Contains(head, "invalidate"):
		return strings.Contains(frame, ":") && !strings.Contains(frame, "foreign:") && !strings.Contains(frame, "plain:")
	}
	return strings.Contains(head, "message")
}

// somewhere is a key: of a row, or of a log.
func (w *world) somewhere(rng *rand.Rand) string {
	if rng.IntN(2) == 0 {
		return fmt.Sprintf("{freshet:%d}:log", rng.IntN(partitions))
	}
	return w.h.Rows[rng.IntN(len(w.rows))].Key
}

// server is the server, or a primary.
func (w *world) server(rng *rand.Rand) *testenv.RedisServer {
	switch {
	case w.sen != nil:
		return w.sen.Primary(w.t)
	case w.clu != nil:
		return w.clu.Primary(w.t, w.somewhere(rng))
	}
	return w.srv
}

// evict deletes some of our keys.
func (w *world) evict(rng *rand.Rand) {
	patterns := []string{"*:stamp:*", "*:stamp:*", "*", "freshet:lease:*", "*:head", "*:log"}
	srv := w.server(rng)
	keys := strings.Fields(srv.CLI(w.t, "KEYS", patterns[rng.IntN(len(patterns))]))
	rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys[:min(len(keys), 1+rng.IntN(6))] {
		srv.CLI(w.t, "UNLINK", key) // one at a time: in a Cluster they lie in different slots
	}
}

// upTo returns a random duration below d.
func upTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
