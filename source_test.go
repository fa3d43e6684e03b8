package freshet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// A databaseWorld is a database, a pump that follows it, and instances that cache its rows.
type databaseWorld struct {
	*testing.T
	db     *cdctest.Database
	srv    *memstore.Server
	conns  []*memstore.Store
	caches []*freshet.Cache[int, int]
	all    []*freshet.Client

	mu    sync.Mutex
	loads int
	seen  map[int][]sighting // versions of rows as they became visible, in order
}

type sighting struct {
	at      time.Time
	version int
}

const (
	databaseRows = 20
	databaseLate = 500 * time.Millisecond // StaleAtMost
)

var databaseTable = &cdc.Table{Schema: "public", Name: "rows", Columns: []cdc.Column{{Name: "id"}, {Name: "version"}}}

func newDatabaseWorld(t *testing.T, sources ...string) *databaseWorld {
	w := &databaseWorld{T: t, db: cdctest.NewDatabase(databaseTable), srv: memstore.NewServer(memstore.Options{Partitions: 3}), seen: make(map[int][]sighting)}
	for id := range databaseRows {
		w.commit(id, 1)
	}
	for range 2 {
		conn := w.srv.Connect()
		c, err := freshet.New(conn, freshet.Options{StaleAtMost: databaseLate, Sources: sources, ExactClock: true})
		if err != nil {
			t.Fatal(err)
		}
		cache, err := freshet.NewCache(c, freshet.Config[int, int]{
			Name: "rows", TTL: time.Hour, EarlyRefresh: -1,
			Tags: func(id int) []string { return []string{freshet.Tag("row", id)} },
			Load: func(_ context.Context, id int, _ *freshet.Load) (int, error) {
				w.mu.Lock()
				w.loads++
				w.mu.Unlock()
				return w.version(id), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.conns, w.all, w.caches = append(w.conns, conn), append(w.all, c), append(w.caches, cache)
	}
	return w
}

func (w *databaseWorld) close() {
	for _, c := range w.all {
		c.Close()
	}
}

func (w *databaseWorld) commit(id, version int) {
	was, row := strconv.Itoa(id), []cdc.Value{cdc.Text(strconv.Itoa(id)), cdc.Text(strconv.Itoa(version))}
	c := cdc.Change{Op: cdc.OpInsert, Table: databaseTable, New: row}
	if version > 1 {
		c.Op, c.Old = cdc.OpUpdate, []cdc.Value{cdc.Text(was), cdc.Text(strconv.Itoa(version - 1))}
	}
	w.db.Commit(c)
}

func (w *databaseWorld) version(id int) int {
	_, text, _ := strings.Cut(w.db.Read("public.rows", strconv.Itoa(id)), "|")
	v, err := strconv.Atoi(text)
	if err != nil {
		w.Error(err)
	}
	return v
}

// pump runs one until the function it returns is called.
func (w *databaseWorld) pump() (stop func()) {
	rules, err := cdc.NewRules([]cdc.Rule{{Table: "rows", Tags: []string{"row:{id}"}}})
	if err != nil {
		w.Fatal(err)
	}
	a, err := cdc.NewApplier(w.srv.Connect())
	if err != nil {
		w.Fatal(err)
	}
	p, err := cdc.NewPump(w.db.Source(true), a, cdc.Options{Name: "db", Rules: rules})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan struct{})
	go func() { _ = p.Run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

func (w *databaseWorld) get(i, id int) int {
	v, err := w.caches[i].Get(w.Context(), id)
	if err != nil {
		w.Error(err)
	}
	return v
}

// A database is followed: entries stay while it is certified, and are loaded once in StaleAtMost while it isn't.
func TestCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDatabaseWorld(t, "db")
		defer w.close()
		read := func(d time.Duration) (loads int) {
			before := w.loads
			for range int(d / (10 * time.Millisecond)) {
				time.Sleep(10 * time.Millisecond)
				for i := range w.caches {
					w.get(i, 1)
				}
			}
			return w.loads - before
		}
		between := func(what string, got, low, high int) {
			t.Helper()
			if got < low || got > high {
				t.Errorf("%s: %d loads; want %d to %d", what, got, low, high)
			}
		}
		uncertified := func() uint64 {
			s := w.all[0].Stats()
			return s.MissesL1[observe.ReasonUncertified] + s.MissesL2[observe.ReasonUncertified]
		}
		between("no pump ever ran, 5 s", read(5*time.Second), 8, 21)
		if got := w.all[0].Stats().Sources["db"]; got >= 0 {
			t.Errorf("certified %v ago; want never", got)
		}
		if uncertified() == 0 {
			t.Errorf("misses are %+v; want uncertified", w.all[0].Stats().MissesL1)
		}
		stop := w.pump()
		read(2 * time.Second)
		was := uncertified()
		between("it is followed, 30 s", read(30*time.Second), 0, 0)
		w.conns[0].Cut()
		w.conns[0].Mend()
		between("a link is cut and mended", read(2*time.Second), 0, 0)
		if n := uncertified() - was; n > 0 {
			t.Errorf("%d reads were uncertified meanwhile", n)
		}
		if got := w.all[1].Stats().Sources["db"]; got < 0 || got > databaseLate/2 {
			t.Errorf("certified %v ago; want a moment", got)
		}
		w.commit(1, 2)
		time.Sleep(databaseLate)
		if v := w.get(0, 1) + w.get(1, 1); v != 4 {
			t.Errorf("after a change both read %d in sum; want 4", v)
		}
		release := w.db.Hold()
		w.commit(1, 3)
		between("a standby is stalled, 5 s", read(5*time.Second), 8, 21)
		release()
		read(2 * time.Second)
		between("it goes on", read(5*time.Second), 0, 0)
		stop()
		between("the pump is dead, 5 s", read(5*time.Second), 8, 21)
		if x, err := w.all[0].Explain(t.Context(), "rows:1"); err != nil || x.Trusted {
			t.Errorf("%v, %v; want no trust", x, err)
		}
	})
}

// Whatever becomes of the pump, of the database, of its commits, of the store and the links to it, nothing is older than StaleAtMost, measured against what
// others see in the database.
func TestStaleAtMostOfADatabase(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if late := databaseTrouble(t, seed, "db"); len(late) > 0 {
					t.Errorf("%d reads were too old, such as %s", len(late), late[0])
				}
			})
		})
	}
	t.Run("without", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if late := databaseTrouble(t, 1); len(late) == 0 {
				t.Error("without certificates nothing was too old: this test can't see what it is for")
			}
		})
	})
}

func databaseTrouble(t *testing.T, seed uint64, sources ...string) (late []string) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := newDatabaseWorld(t, sources...)
	defer w.close()
	done := make(chan struct{})
	var wg sync.WaitGroup
	upTo := func(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	over := func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	wg.Go(func() { // what others see
		for !over() {
			w.mu.Lock()
			for id := range databaseRows {
				all := w.seen[id]
				if v := w.version(id); len(all) == 0 || all[len(all)-1].version != v {
					w.seen[id] = append(all, sighting{time.Now(), v})
				}
			}
			w.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
	})
	for i := range w.caches {
		r := rand.New(rand.NewPCG(seed, uint64(10+i)))
		wg.Go(func() {
			for !over() {
				id, began := r.IntN(databaseRows), time.Now()
				v := w.get(i, id)
				w.mu.Lock()
				must := 0
				for _, s := range w.seen[id] {
					if s.at.Before(began.Add(-databaseLate)) {
						must = s.version
					}
				}
				if v < must {
					late = append(late, fmt.Sprintf("row %d at instance %d: version %d; others saw %d more than %v before", id, i, v, must, databaseLate))
				}
				w.mu.Unlock()
				time.Sleep(upTo(r, 4*time.Millisecond))
			}
		})
	}
	writes := rand.New(rand.NewPCG(seed, 2))
	wg.Go(func() {
		versions := make(map[int]int)
		for !over() {
			id := writes.IntN(databaseRows)
			versions[id]++
			w.commit(id, versions[id]+1)
			time.Sleep(upTo(writes, 100*time.Millisecond))
		}
	})
	for range 12 {
		stop := w.pump()
		time.Sleep(upTo(rnd, 3*time.Second))
		switch rnd.IntN(5) {
		case 0:
			release := w.db.Hold()
			time.Sleep(upTo(rnd, 2*time.Second))
			release()
		case 1:
			up := w.db.Down()
			time.Sleep(upTo(rnd, 2*time.Second))
			up()
		case 2: // a link is cut
			c := w.conns[rnd.IntN(len(w.conns))]
			c.Cut()
			time.Sleep(upTo(rnd, 2*time.Second))
			c.Mend()
		case 3: // the store goes back in time, as after a failover, with marks and drops
			back := w.srv.Snapshot()
			time.Sleep(upTo(rnd, time.Second))
			for _, c := range w.conns {
				c.Cut()
			}
			back()
			for _, c := range w.conns {
				c.Mend()
			}
		}
		time.Sleep(upTo(rnd, time.Second))
		stop()
		time.Sleep(upTo(rnd, 3*time.Second))
	}
	close(done)
	wg.Wait()
	return late
}

func TestBadSources(t *testing.T) {
	if _, err := freshet.New(memstore.NewServer(memstore.Options{}).Connect(), freshet.Options{Sources: []string{"a b"}}); err == nil || !strings.Contains(err.Error(), `["a b"]`) {
		t.Errorf("error is %v; want one that names the source", err)
	}
	bare := struct{ store.Store }{memstore.NewServer(memstore.Options{}).Connect()}
	defer bare.Close()
	if _, err := freshet.New(bare, freshet.Options{Sources: []string{"db"}}); err == nil || !strings.Contains(err.Error(), "store.Marker") {
		t.Errorf("error is %v; want one that says what the store lacks", err)
	}
}

// From commit to where nothing old is served: what a stalled standby costs is in one histogram, and what the store costs in the other.
func TestFreshnessIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDatabaseWorld(t, "db")
		defer w.close()
		defer w.pump()()
		time.Sleep(2 * time.Second)
		before := w.all[0].Stats()
		release := w.db.Hold()
		w.commit(1, 2)
		time.Sleep(300 * time.Millisecond)
		release()
		time.Sleep(time.Second)
		w.commit(2, 2)
		time.Sleep(time.Second)
		if err := w.all[1].DropTags(t.Context(), freshet.Tag("row", 3)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s := w.all[0].Stats()
		h, was := s.Committed["db"], before.Committed["db"]
		if n, quick := h.Count-was.Count, h.Below(50*time.Millisecond)-was.Below(50*time.Millisecond); n != 2 || h.Max < 300*time.Millisecond || h.Max > 400*time.Millisecond || quick != 1 {
			t.Errorf("from commit: %d, at most %v, %d below 50 ms; want two, 0.3 s and one", n, h.Max, quick)
		}
		if h := s.Voided; h.Count-before.Voided.Count < 3 || h.Max > 50*time.Millisecond {
			t.Errorf("from the log: %d, at most %v; want the three, and not long", h.Count-before.Voided.Count, h.Max)
		}
		if s.ClockError != 0 {
			t.Errorf("the clock of a store in this process is %v off", s.ClockError)
		}
		// Certificates stopped meanwhile. The bound was at its largest right before they went on.
		p, all := s.ProvenSources["db"], s.Proven
		if p.Max < 300*time.Millisecond || p.Max > databaseLate || all.Max < p.Max-10*time.Millisecond || p.Count < 20 {
			t.Errorf("proven at worst %v ago of %d times, by a source %v; want 0.3 s and a bit", all.Max, p.Count, p.Max)
		}
		if x, err := w.all[0].Explain(t.Context(), "rows:2"); err != nil || x.LastDrop != nil && (x.LastDrop.By != "cdc:db" || x.LastDrop.Committed.IsZero()) {
			t.Errorf("%v, %v; want a drop by cdc:db", x, err)
		}
	})
}
