package freshet_test

import (
	"context"
	"errors"
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
	"github.com/freshetdev/freshet/observe"
)

// A dbToken is a position of a cdctest.Database.
type dbToken struct {
	source string
	pos    cdc.Position
}

func (t dbToken) Source() string { return t.source }

func (t dbToken) Covered(pos string) bool {
	number := func(s string) int {
		_, n, _ := strings.Cut(s, "/")
		i, _ := strconv.Atoi(n)
		return i
	}
	return number(pos) >= number(string(t.pos))
}

// write commits a version of a row and returns the token of that.
func (w *databaseWorld) write(id, version int) freshet.Token {
	was, row := strconv.Itoa(id), []cdc.Value{cdc.Text(strconv.Itoa(id)), cdc.Text(strconv.Itoa(version))}
	tx := w.db.Commit(cdc.Change{Op: cdc.OpUpdate, Table: databaseTable, Old: []cdc.Value{cdc.Text(was), cdc.Text(strconv.Itoa(version - 1))}, New: row})
	return dbToken{"db", tx.Pos}
}

// with returns a context of instance i that carries a token.
func (w *databaseWorld) with(i int, tok freshet.Token) context.Context {
	ctx, err := w.all[i].WithToken(w.Context(), tok)
	if err != nil {
		w.Fatal(err)
	}
	return ctx
}

// loaded returns how many rows were loaded.
func (w *databaseWorld) loaded() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.loads
}

// reads are the ways to read a row.
var reads = map[string]func(ctx context.Context, w *databaseWorld, i, id int) (int, error){
	"Get": func(ctx context.Context, w *databaseWorld, i, id int) (int, error) { return w.caches[i].Get(ctx, id) },
	"GetFunc": func(ctx context.Context, w *databaseWorld, i, id int) (int, error) {
		return w.caches[i].GetFunc(ctx, id, func(context.Context, *freshet.Load) (int, error) { return w.version(id), nil })
	},
	"Lookup": func(ctx context.Context, w *databaseWorld, i, id int) (int, error) {
		r, err := w.caches[i].Lookup(ctx, id)
		return r.Value, err
	},
	"GetMany": func(ctx context.Context, w *databaseWorld, i, id int) (int, error) {
		m, err := w.caches[i].GetMany(ctx, []int{id, (id + 1) % databaseRows, id})
		return m[id], err
	},
	"Get in a Tx": func(ctx context.Context, w *databaseWorld, i, id int) (int, error) {
		tx := w.all[i].Tx()
		defer tx.Rollback()
		return w.caches[i].Get(tx.Context(ctx), id)
	},
	"Peek": func(ctx context.Context, w *databaseWorld, i, id int) (int, error) {
		if r, ok := w.caches[i].Peek(ctx, id); ok {
			return r.Value, nil
		}
		return w.version(id), nil // it has nothing
	},
}

// Memory and the shared level have the old row, and no pump tells otherwise: who has a token sees the new one, by every way and on every instance.
func TestTokenSeesItsWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDatabaseWorld(t, "db")
		defer w.close()
		stop := w.pump()
		time.Sleep(time.Second)
		for id := range databaseRows {
			w.get(0, id)
			w.get(1, id)
		}
		stop()
		tok := w.write(1, 2)
		for way, read := range reads {
			for i := range w.caches {
				if v, err := read(w.with(i, tok), w, i, 1); v != 2 || err != nil {
					t.Errorf("%s with a token on instance %d: %d, %v; want 2", way, i, v, err)
				}
				if v, err := read(t.Context(), w, i, 1); v != 1 || err != nil {
					t.Errorf("%s without one on instance %d: %d, %v; want the old row, or this shows nothing", way, i, v, err)
				}
			}
		}
		before := w.all[0].Stats()
		r, err := w.caches[0].Lookup(w.with(0, tok), 1)
		if err != nil || r.Reason != observe.ReasonBehind || r.Refused != observe.ReasonBehind || r.Level != observe.LevelSource {
			t.Errorf("got %+v, %v; want a load, because of the token", r, err)
		}
		if s := w.all[0].Stats(); s.MissesL1[observe.ReasonBehind] != before.MissesL1[observe.ReasonBehind]+1 || s.HitsL1 != before.HitsL1 {
			t.Errorf("misses %v, hits %d; before %v, %d", s.MissesL1, s.HitsL1, before.MissesL1, before.HitsL1)
		}

		// Once the pump has applied it, a token costs nothing.
		defer w.pump()()
		time.Sleep(time.Second)
		for i := range w.caches {
			if v, err := w.caches[i].Get(w.with(i, tok), 1); v != 2 || err != nil {
				t.Errorf("applied, instance %d: %d, %v; want 2", i, v, err)
			}
		}
		loads := w.loaded()
		for range 10 {
			for i := range w.caches {
				r, err := w.caches[i].Lookup(w.with(i, tok), 1)
				if err != nil || r.Value != 2 || r.Level == observe.LevelSource {
					t.Errorf("applied, instance %d: %+v, %v; want a hit", i, r, err)
				}
				if m, err := w.caches[i].GetMany(w.with(i, tok), []int{1, 2, 3}); err != nil || m[1] != 2 || len(m) != 3 {
					t.Errorf("applied, instance %d: %v, %v", i, m, err)
				}
			}
		}
		if n := w.loaded() - loads; n != 0 {
			t.Errorf("%d loads for reads with a token that is covered; want none", n)
		}
	})
}

// A reader waits TokenWait for the pump, and not longer.
func TestTokenWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDatabaseWorld(t, "db")
		defer w.close()
		stop := w.pump()
		time.Sleep(time.Second)
		w.get(0, 1)
		// The pump marks a change as soon as it is applied, so this one is covered within the wait.
		r, err := w.caches[0].Lookup(w.with(0, w.write(1, 2)), 1)
		if err != nil || r.Value != 2 || !r.Stored {
			t.Errorf("got %+v, %v; want a load that is stored: the drop was heard of", r, err)
		}
		stop()
		ctx := w.with(0, w.write(1, 3))
		began := time.Now()
		if v, err := w.caches[0].Get(ctx, 1); v != 3 || err != nil {
			t.Errorf("got %d, %v; want 3", v, err)
		}
		if took := time.Since(began); took != 20*time.Millisecond {
			t.Errorf("it took %v; want 20ms", took)
		}
		short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		defer cancel()
		if _, err := w.caches[0].Get(short, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v; want the end of the context", err)
		}
		// Two tokens: both hold.
		if v, err := w.caches[0].Get(w.with2(0, ctx, dbToken{"db", "1/1"}), 1); v != 3 || err != nil {
			t.Errorf("got %d, %v; want 3: a later token doesn't take the place of another", v, err)
		}
		if _, err := w.all[0].WithToken(t.Context(), dbToken{"other", "1/1"}); err == nil || !strings.Contains(err.Error(), `"other"; Options.Sources are ["db"]`) {
			t.Errorf("got %v; want an error that says what is missing", err)
		}
	})
}

func (w *databaseWorld) with2(i int, ctx context.Context, tok freshet.Token) context.Context {
	ctx, err := w.all[i].WithToken(ctx, tok)
	if err != nil {
		w.Fatal(err)
	}
	return ctx
}

// What others are doing when a reader with a token comes: it doesn't get what they got too early.
func TestTokenJoins(t *testing.T) {
	for _, applied := range []bool{false, true} {
		t.Run(fmt.Sprint("applied=", applied), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tokenJoins(t, applied) })
		})
	}
}

// tokenJoins has reads begin before a write and return after it. applied says that the change is known to be applied when the reader comes.
func tokenJoins(t *testing.T, applied bool) {
	w := newDatabaseWorld(t, "db")
	defer w.close()
	stop := w.pump()
	time.Sleep(time.Second)
	if applied {
		defer stop()
	} else {
		stop()
	}
	slow := time.Second // between what a loader reads and its return
	load := func(_ context.Context, id int, _ *freshet.Load) (int, error) {
		v := w.version(id)
		time.Sleep(slow)
		return v, nil
	}
	late := func(ctx context.Context, id int, l *freshet.Load) (int, error) {
		defer l.Tag(freshet.Tag("row", id))
		return load(ctx, id, l)
	}
	many := func(_ context.Context, ids []int, _ *freshet.BatchLoad[int]) (map[int]int, error) {
		m := make(map[int]int)
		for _, id := range ids {
			m[id] = w.version(id)
		}
		time.Sleep(slow)
		return m, nil
	}
	make1 := func(cfg freshet.Config[int, int]) *freshet.Cache[int, int] {
		cfg.EarlyRefresh, cfg.Jitter = -1, -1
		if cfg.Name != "late" {
			cfg.Tags = func(id int) []string { return []string{freshet.Tag("row", id)} }
		}
		c, err := freshet.NewCache(w.all[0], cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	named := make1(freshet.Config[int, int]{Name: "late", TTL: time.Hour, Load: late})
	single := make1(freshet.Config[int, int]{Name: "single", TTL: time.Hour, Load: load})
	batch := make1(freshet.Config[int, int]{Name: "batch", TTL: time.Hour, LoadMany: many})
	stale := make1(freshet.Config[int, int]{Name: "stale", TTL: time.Second, Load: load, Stale: freshet.Stale{WhileRevalidate: time.Hour}})
	one := func(c *freshet.Cache[int, int]) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) { return c.Get(ctx, 3) }
	}
	several := func(c *freshet.Cache[int, int]) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			m, err := c.GetMany(ctx, []int{3, 4})
			return m[3], err
		}
	}
	slow = 0
	one(stale)(t.Context())
	time.Sleep(2 * time.Second)
	slow = time.Second
	version := 1
	for name, read := range map[string]func(context.Context) (int, error){
		"a load of one": one(single), "a load of several": several(batch), "several loads": several(single), "one of a batch": one(batch),
		"a load that names its tags late": one(named), "several of them": several(named),
		"a refresh": one(stale), "refreshes": several(stale),
	} {
		var wg sync.WaitGroup
		wg.Go(func() { read(t.Context()) }) // it reads the old row, and returns it in a second
		synctest.Wait()
		time.Sleep(time.Millisecond)
		version++
		tok := w.write(3, version)
		if applied {
			time.Sleep(100 * time.Millisecond)
		}
		if v, err := read(w.with(0, tok)); v != version || err != nil {
			t.Errorf("%s is under way: the reader with a token gets %d, %v; want %d", name, v, err, version)
		}
		wg.Wait()
		time.Sleep(3 * time.Second)
	}
}

// An entry that is past its time may have all that the token asks for.
func TestTokenAndStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDatabaseWorld(t, "db")
		defer w.close()
		defer w.pump()()
		time.Sleep(time.Second)
		var slow time.Duration
		c, err := freshet.NewCache(w.all[0], freshet.Config[int, int]{
			Name: "c", TTL: time.Second, EarlyRefresh: -1, Jitter: -1, SoftTimeout: 10 * time.Millisecond,
			Stale: freshet.Stale{WhileRevalidate: 10 * time.Second, IfError: 30 * time.Second},
			Tags:  func(id int) []string { return []string{freshet.Tag("row", id)} },
			Load: func(_ context.Context, id int, _ *freshet.Load) (int, error) {
				v := w.version(id)
				time.Sleep(slow)
				return v, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx := w.with(0, w.write(7, 2))
		is := func(what string, ctx context.Context, level observe.Level, stale bool, reason error) {
			t.Helper()
			r, err := c.Lookup(ctx, 1)
			if err != nil || r.Value != 1 || r.Level != level || r.Stale != stale || !errors.Is(r.Err, reason) {
				t.Errorf("%s: %+v, %v", what, r, err)
			}
		}
		is("absent", ctx, observe.LevelSource, false, nil)
		is("fresh", ctx, observe.LevelL1, false, nil)
		time.Sleep(2 * time.Second)
		slow = 5 * time.Millisecond
		is("stale", ctx, observe.LevelL1, true, nil) // and a refresh begins
		is("while it is refreshed", ctx, observe.LevelL1, true, nil)
		time.Sleep(time.Second / 2)
		is("refreshed", ctx, observe.LevelL1, false, nil)
		time.Sleep(12 * time.Second)
		slow = time.Second
		is("the source is slow", ctx, observe.LevelL1, true, freshet.ErrSlow)
		time.Sleep(2 * time.Second)
	})
}

// A row that did not exist, and a source that fails.
func TestTokenFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDatabaseWorld(t, "db")
		defer w.close()
		stop := w.pump()
		time.Sleep(time.Second)
		var fail error
		there := false
		c, err := freshet.NewCache(w.all[0], freshet.Config[int, int]{
			Name: "c", TTL: time.Second, NegativeTTL: time.Hour, EarlyRefresh: -1, Jitter: -1, Stale: freshet.Stale{IfError: time.Hour},
			Tags: func(id int) []string { return []string{freshet.Tag("row", id)} },
			Load: func(_ context.Context, id int, _ *freshet.Load) (int, error) {
				if id == 9 && !there {
					return 0, freshet.ErrNotFound
				}
				return w.version(id), fail
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get(t.Context(), 9); !errors.Is(err, freshet.ErrNotFound) {
			t.Fatal(err)
		}
		c.Get(t.Context(), 5)
		stop()
		there = true
		tok := w.write(9, 2)
		if v, err := c.Get(w.with(0, tok), 9); v != 2 || err != nil {
			t.Errorf("what wasn't there is %d, %v; want 2", v, err)
		}
		if _, err := c.Get(t.Context(), 9); !errors.Is(err, freshet.ErrNotFound) {
			t.Errorf("without a token: %v; want what is remembered, or this shows nothing", err)
		}

		time.Sleep(2 * time.Second)
		fail = errors.New("boom")
		tok = w.write(5, 2)
		if _, err := c.Get(w.with(0, tok), 5); !errors.Is(err, fail) {
			t.Errorf("the source fails: %v; want its error rather than an old row", err)
		}
		if m, err := c.GetMany(w.with(0, tok), []int{5, 6}); !errors.Is(err, fail) || len(m) != 0 {
			t.Errorf("the source fails: %v, %v; want its error rather than an old row", m, err)
		}
		if v, err := c.Get(t.Context(), 5); v != 1 || err != nil {
			t.Errorf("without a token: %d, %v; want the stale row", v, err)
		}

		// It is stale, but has all that the token asks for.
		fail = nil
		defer w.pump()()
		time.Sleep(time.Second)
		c.Get(t.Context(), 5)
		time.Sleep(2 * time.Second)
		fail = errors.New("boom")
		r, err := c.Lookup(w.with(0, tok), 5)
		if r.Value != 2 || !r.Stale || err != nil {
			t.Errorf("the source fails: %+v, %v; want the stale row, which is new enough", r, err)
		}
	})
}

// Whatever becomes of the pump, of the store and of the links to it, who has a token reads no older version than its own.
func TestTokensInTrouble(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tokenTrouble(t, seed) })
		})
	}
}

func tokenTrouble(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := newDatabaseWorld(t, "db")
	defer w.close()
	done := make(chan struct{})
	over := func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	upTo := func(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	ways := make([]string, 0, len(reads))
	for way := range reads {
		ways = append(ways, way)
	}
	var wg sync.WaitGroup
	for i := range w.caches { // others, who fill the cache
		r := rand.New(rand.NewPCG(seed, uint64(10+i)))
		wg.Go(func() {
			for !over() {
				w.caches[i].Get(t.Context(), r.IntN(databaseRows))
				time.Sleep(upTo(r, 3*time.Millisecond))
			}
		})
	}
	total, hits := 0, 0
	var mu sync.Mutex
	for s := range 3 { // sessions, each with rows of its own
		r := rand.New(rand.NewPCG(seed, uint64(20+s)))
		wg.Go(func() {
			var tok freshet.Token
			versions := make(map[int]int)
			for !over() {
				id := 3*r.IntN(databaseRows/3) + s
				if tok == nil || r.IntN(10) == 0 {
					versions[id]++
					tok = w.write(id, versions[id]+1)
				}
				i, way := r.IntN(2), ways[r.IntN(len(ways))]
				loads := w.loaded()
				v, err := reads[way](w.with(i, tok), w, i, id)
				if err != nil {
					t.Errorf("%s: %v", way, err)
				}
				mu.Lock()
				total++
				if w.loaded() == loads {
					hits++
				}
				mu.Unlock()
				if want := versions[id] + 1; v != want {
					t.Errorf("%s of row %d on instance %d by session %d: version %d; want %d", way, id, i, s, v, want)
				}
				time.Sleep(upTo(r, 40*time.Millisecond))
			}
		})
	}
	for range 6 {
		stop := w.pump()
		time.Sleep(upTo(rnd, 2*time.Second))
		switch rnd.IntN(5) {
		case 0: // a link is cut, and log entries are lost meanwhile
			c := w.conns[rnd.IntN(len(w.conns))]
			c.Cut()
			time.Sleep(upTo(rnd, time.Second))
			w.srv.TrimLog(1)
			c.Mend()
		case 1:
			w.srv.LoseNext(1 + rnd.IntN(5))
			time.Sleep(upTo(rnd, time.Second))
			w.srv.TrimLog(1)
		case 2: // the store goes back in time, as after a failover, with marks and drops
			back := w.srv.Snapshot()
			time.Sleep(upTo(rnd, time.Second))
			for _, c := range w.conns {
				c.Cut()
			}
			back()
			for _, c := range w.conns {
				c.Mend()
			}
		case 3: // very short, so that memory goes on
			c := w.conns[rnd.IntN(len(w.conns))]
			c.Cut()
			time.Sleep(upTo(rnd, 20*time.Millisecond))
			w.srv.TrimLog(1)
			c.Mend()
		}
		time.Sleep(upTo(rnd, time.Second))
		stop()
		time.Sleep(upTo(rnd, time.Second))
	}
	close(done)
	wg.Wait()
	t.Logf("%d reads with a token, %d without a load meanwhile", total, hits)
	if hits < total/4 {
		t.Errorf("%d of %d reads with a token were answered without a load; want most, or this shows nothing", hits, total)
	}
}
