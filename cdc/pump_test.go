package cdc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

func TestAChangeIsDroppedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules, cdc.Rule{Table: "items", Keys: []string{"item:{id}:page"}, Publish: []cdc.Publish{{Channel: "items", Payload: "{id}"}}})
		var heard []string
		r.srv.Subscribe("items", func(p string) { heard = append(heard, p) })
		r.srv.Set("item:7:page", []byte("old"), 0)
		p := r.pump(cdc.Options{Again: -1})
		r.settle() // the start is a gap: an epoch, and the patterns
		before := r.tags()["item:7"]
		d.Commit(put(nil, 7, "ada"), put([]cdc.Value{cdc.Text("7"), cdc.Text("ada")}, 7, "bob"))
		r.srv.Set("item:7:page", []byte("old"), 0)
		r.settle()
		tags := r.tags()
		if tags["item:7"]-before != 1 || tags["key item:7:page"] != 1 || tags["epoch"] != 1 {
			t.Errorf("log has %v; want one drop of item:7 and its key, one epoch", tags)
		}
		if _, there := r.srv.Get("item:7:page"); there {
			t.Error("the key is still there")
		}
		if !slices.Equal(heard, []string{"*", "7"}) {
			t.Errorf("published %q; want * for the start, then 7", heard)
		}
		st := p.Stats()
		if st.Changes != 2 || st.Txs != 1 || st.State != cdc.Running || st.Lag.Count != 1 || st.Behind < 0 || st.Behind > time.Second || st.Gaps != 1 || st.Errors != 0 {
			t.Errorf("stats %+v", st)
		}
		if at, ok := p.LastChange("item:7"); !ok || at.Op != cdc.OpInsert || at.Table != "public.items" || at.Tx.ID != "1" || at.Source != "db" || at.Rule != 0 {
			t.Errorf("last change of item:7 is %+v, %v", at, ok)
		}
		r.stop()
		if st := p.Stats(); st.State != cdc.Stopped {
			t.Errorf("state %q after the end", st.State)
		}
	})
}

// The first defense: with changes told before they can be seen, no reader keeps an old row for good.
func TestBarrier(t *testing.T) {
	f := func(lag time.Duration, with bool) (bad []string, early uint64) {
		synctest.Test(t, func(t *testing.T) {
			d := cdctest.NewDatabase(items)
			d.SetLag(lag)
			r := newRig(t, d, itemRules)
			p := r.pump(cdc.Options{}, func(p *cdc.Pump) {
				if !with {
					p.WithoutBarrier()
				}
			})
			r.settle()
			c := newReader(r.srv.Connect(), d)
			for id := range 100 {
				c.get(id, func() {})
				d.Commit(put(nil, id, "new")) // told at once, visible later
				for range 2 + lag/(500*time.Microsecond) {
					time.Sleep(700 * time.Microsecond)
					c.get(id, func() {})
				}
			}
			r.settle()
			bad, early = c.stale(), p.Stats().Early
			r.stop()
		})
		return bad, early
	}
	for lag, wantEarly := range map[time.Duration]uint64{3 * time.Millisecond: 0, 20 * time.Millisecond: 100} {
		bad, early := f(lag, true)
		if len(bad) > 0 {
			t.Errorf("stale for good:\n%s", lines(bad))
		}
		if early != wantEarly {
			t.Errorf("lag %v: %d early drops; want %d", lag, early, wantEarly)
		}
		if bad, _ := f(lag, false); len(bad) == 0 {
			t.Error("without the barrier nothing went wrong: this test can't see what it is for")
		}
	}
}

// A transaction that stays invisible holds back certificates and messages: nothing is served as proven meanwhile. Drops are made early, its own
// and those of transactions that come after it, which may be visible; once it is visible, they are made in turn.
func TestAStalledStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules, cdc.Rule{Table: "items", Publish: []cdc.Publish{{Channel: "items", Payload: "{id}"}}})
		p := r.pump(cdc.Options{})
		r.settle()
		var published atomic.Int64
		r.srv.Subscribe("items", func(string) { published.Add(1) })
		f := func(what string, n map[string]int, messages int64) {
			t.Helper()
			if got := r.tags(); got["item:1"] != n["1"] || got["item:2"] != n["2"] {
				t.Errorf("%s: drops are %v; want %v", what, got, n)
			}
			if got := published.Load(); got != messages {
				t.Errorf("%s: %d messages; want %d", what, got, messages)
			}
		}
		release := d.Hold()
		d.Commit(put(nil, 1, "ada"))
		time.Sleep(4 * time.Millisecond)
		f("4 ms", nil, 0)
		time.Sleep(2 * time.Millisecond)
		f("6 ms", map[string]int{"1": 1}, 0)
		time.Sleep(10 * time.Second)
		d.Commit(put(nil, 2, "bob"))
		time.Sleep(time.Millisecond)
		f("another", map[string]int{"1": 1, "2": 1}, 0)
		if b := p.Stats().Behind; b < 9*time.Second {
			t.Errorf("certified %v ago; want none since the stall", b)
		}
		release()
		r.settle()
		f("visible", map[string]int{"1": 2, "2": 2}, 2)
		if n := p.Stats().Early; n != 2 {
			t.Errorf("%d early drops; want 2", n)
		}
		r.stop()
	})
}

// However long a transaction is invisible, what is read meanwhile is bounded by Batch; it is applied at once when the wait is over, and none of it
// is lost. Rows that change again are dropped early again.
func TestALongStall(t *testing.T) {
	const batch, writes = 50, 500
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		p := r.pump(cdc.Options{Batch: batch})
		r.settle()
		release := d.Hold()
		for id := range writes {
			d.Commit(put(nil, 2*id%writes+id%2, "new")) // 0 3 4 7 8 11 ...: each twice
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Minute)
		if n := p.Stats().Early; n < batch || n > 2*batch {
			t.Errorf("%d early drops; want about as many as a batch has: %d", n, batch)
		}
		release()
		r.settle()
		for id := range writes {
			if n := r.tags()[fmt.Sprint("item:", id)]; (id%4 == 0 || id%4 == 3) != (n > 0) {
				t.Errorf("item %d was dropped %d times", id, n)
			}
		}
		r.stop()
	})
}

// Rows that change over and over while a transaction waits are dropped early each time, and once when the wait is over, in one batch.
func TestAStallOfHotRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		batches := 0
		r.pump(cdc.Options{Hooks: cdc.Hooks{Applied: func(cdc.Applied) { batches++ }}})
		r.settle()
		release := d.Hold()
		for range 100 {
			d.Commit(put(nil, 1, "new"))
			time.Sleep(10 * time.Millisecond)
		}
		if n := r.tags()["item:1"]; n != 100 {
			t.Errorf("%d early drops; want 100", n)
		}
		release()
		r.settle()
		if n := r.tags()["item:1"]; n != 102 || batches != 2 {
			t.Errorf("%d drops in %d batches; want 2 more, in 2", n, batches)
		}
		r.stop()
	})
}

// Early drops are repeated until the store takes them, and those that its log lost again stop nobody: no mark speaks of them.
func TestEarlyDropsMayBeLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		s := r.srv.Connect()
		p := r.pumpOn(s, d.Source(true), cdc.Options{})
		r.settle()
		release := d.Hold()
		s.Cut()
		d.Commit(put(nil, 1, "ada"))
		time.Sleep(3 * time.Second)
		s.Mend()
		time.Sleep(5 * time.Second)
		if n := r.tags()["item:1"]; n != 1 {
			t.Errorf("%d early drops; want 1", n)
		}
		other := r.srv.Connect()
		if _, err := other.Drop(t.Context(), 0, store.Drop{Tags: []string{"x"}}, store.Head{}); err != nil {
			t.Fatal(err)
		}
		r.srv.TrimLog(1)
		release()
		r.settle()
		if n := r.tags()["item:1"]; n != 2 {
			t.Errorf("%d drops; want 2", n)
		}
		if st := p.Stats(); st.Moved != 0 {
			t.Errorf("the store moved %d times; want never", st.Moved)
		}
		r.stop()
	})
}

// The end of the stream is noticed, though it comes while a transaction waits to be visible.
func TestGarbledDuringAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		p := r.pump(cdc.Options{Tick: time.Hour})
		time.Sleep(time.Second)
		release := d.Hold()
		d.Commit(put(nil, 1, "ada"))
		time.Sleep(10 * time.Millisecond)
		d.Commit(put(nil, 2, "bob"))
		d.Garble()
		time.Sleep(10 * time.Millisecond)
		release()
		time.Sleep(time.Minute)
		if n := p.Stats().Gaps; n != 2 {
			t.Errorf("%d gaps; want that of the beginning and another", n)
		}
		r.stop()
	})
}

// A stream that ends while its changes wait to be visible: what was taken early is read again.
func TestCutDuringAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		r.pump(cdc.Options{})
		r.settle()
		release := d.Hold()
		d.Commit(put(nil, 1, "ada"))
		time.Sleep(10 * time.Millisecond)
		d.Commit(put(nil, 2, "bob"))
		time.Sleep(10 * time.Millisecond)
		d.Cut()
		time.Sleep(time.Second)
		before := r.tags()
		release()
		r.settle()
		for _, tag := range []string{"item:1", "item:2"} {
			if r.tags()[tag] == before[tag] {
				t.Errorf("%s was not dropped in turn", tag)
			}
		}
		r.stop()
	})
}

// A pump is killed at each of its steps, many times over, and the next one takes over: nothing is lost.
func TestKilledAtEveryStep(t *testing.T) {
	steps := []string{
		"opened", "claimed", "gap barrier", "gap epoch", "gap applied", "gap marked", "taken", "visible", "half applied",
		"applied", "marked", "tick announced", "acked", "repeated", "epoch", "early",
	}
	for _, partitions := range []int{1, 3} {
		for _, step := range steps {
			if step == "repeated" && partitions > 1 {
				continue // no bare keys there
			}
			t.Run(fmt.Sprintf("%s,partitions=%d", step, partitions), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { killAt(t, step, partitions) })
			})
		}
	}
}

func killAt(t *testing.T, step string, partitions int) {
	d := cdctest.NewDatabase(items)
	d.SetLag(time.Millisecond)
	if step == "early" {
		d.SetLag(10 * time.Millisecond)
	}
	r := newRig(t, d, itemRules)
	r.srv = memstore.NewServer(memstore.Options{Partitions: partitions})
	again := -time.Second
	if partitions == 1 {
		again = 20 * time.Millisecond // longer than the foreign program takes
		r.rules = append(r.rules, cdc.Rule{Table: "items", Keys: []string{"page:{id}"}})
	}
	kills := 0
	var mu sync.Mutex
	seed := uint64(len(step)*10 + partitions)
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	random := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	start := func(left int) (m *mortal) {
		m = newMortal()
		a, err := cdc.NewApplier(r.srv.Connect())
		if err != nil {
			t.Fatal(err)
		}
		hit := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			if s == step && m.err() == nil && kills < 12 {
				if left--; left < 0 {
					kills++
					m.kill()
				}
			}
		}
		m.during = hit
		r.pumpTo(mortalApplier{a, m}, mortalSource{d.Source(true), m}, cdc.Options{HoldBack: 2 * time.Second, Again: again, Retry: 10 * time.Millisecond},
			func(p *cdc.Pump) { p.OnStep(hit) })
		return m
	}
	stopped := make(chan struct{})
	var keeper sync.WaitGroup
	keeper.Go(func() {
		for {
			left := random(4)
			switch step {
			case "opened", "claimed", "gap barrier", "gap epoch", "gap applied", "gap marked", "epoch":
				left = 0 // they come once
			}
			m := start(left)
			select {
			case <-m.dead:
				r.stop()
			case <-stopped:
				r.stop()
				return
			}
		}
	})
	c := newReader(r.srv.Connect(), d)
	// A program that knows nothing of us: get or set, slowly.
	var foreign sync.WaitGroup
	foreign.Go(func() {
		for i := 0; partitions == 1; i++ {
			select {
			case <-stopped:
				return
			default:
			}
			id := strconv.Itoa(i % rows)
			if _, ok := r.srv.Get("page:" + id); !ok {
				row := d.Read("public.items", id)
				time.Sleep(time.Duration(random(15)) * time.Millisecond)
				r.srv.Set("page:"+id, []byte(row), 0)
			}
			time.Sleep(time.Millisecond)
		}
	})
	if step == "epoch" {
		d.Commit(cdc.Change{Op: cdc.OpMessage, Message: []byte("garbled")})
	}
	load(d, []*reader{c}, 100, func() time.Duration { return time.Duration(random(8000)) * time.Microsecond })
	time.Sleep(3 * time.Second) // beyond HoldBack
	close(stopped)
	foreign.Wait()
	keeper.Wait()
	if kills == 0 {
		t.Errorf("step %q was never met", step)
	}
	// One pump in peace, and all must be well.
	r.pumpOn(r.srv.Connect(), d.Source(true), cdc.Options{Again: again})
	r.settle()
	time.Sleep(time.Second)
	r.settle()
	bad := c.stale()
	for id := range rows {
		key := "page:" + strconv.Itoa(id)
		if row, ok := r.srv.Get(key); ok && string(row) != d.Read("public.items", strconv.Itoa(id)) {
			bad = append(bad, key+" holds "+string(row))
		}
	}
	if len(bad) > 0 {
		t.Errorf("after %d kills:\n%s", kills, lines(bad))
	}
	r.stop()
}

// The store goes back in time, at any moment: what it lost is dropped again.
func TestStoreGoesBack(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 3))
				d := cdctest.NewDatabase(items)
				r := newRig(t, d, cdc.Rule{Table: "items", Keys: []string{"page:{id}"}}, itemRules)
				s := r.srv.Connect()
				p := r.pumpOn(s, d.Source(true), cdc.Options{Again: -1})
				r.settle()
				c := newReader(r.srv.Connect(), d)
				for round := range 5 {
					var changes []cdc.Change
					for id := range 20 {
						c.get(id, func() {})
						r.srv.Set("page:"+strconv.Itoa(id), []byte(d.Read("public.items", strconv.Itoa(id))), 0)
					}
					revert := r.srv.Snapshot()
					for range 1 + rnd.IntN(10) {
						id := rnd.IntN(20)
						changes = append(changes[:0], put(nil, id, fmt.Sprint("round ", round, " ", rnd.IntN(1000))))
						d.Commit(changes...)
						time.Sleep(time.Duration(rnd.IntN(70)) * time.Millisecond)
					}
					revert()
					if rnd.IntN(2) == 0 {
						s.Cut()
						time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
						s.Mend()
					}
					r.settle()
					time.Sleep(time.Second)
				}
				bad := c.stale()
				for id := range 20 {
					key := "page:" + strconv.Itoa(id)
					if row, ok := r.srv.Get(key); ok && string(row) != d.Read("public.items", strconv.Itoa(id)) {
						bad = append(bad, key+" holds "+string(row))
					}
				}
				if len(bad) > 0 {
					t.Errorf("%s\n%+v", lines(bad), p.Stats())
				}
				if p.Stats().Moved == 0 {
					t.Error("the pump never noticed")
				}
				r.stop()
			})
		})
	}
}

// A drop is lost together with nothing else, and others' drops hide it: the entry that the log must have is missing.
func TestALostDropThatOthersHide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memstore.NewServer(memstore.Options{})
		ctx := t.Context()
		a, err := cdc.NewApplier(srv.Connect())
		if err != nil {
			t.Fatal(err)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err = a.Mark(ctx, "db")
		must(err)
		must(a.Epoch(ctx))
		must(a.SetMark(ctx, "db", store.Mark{Owner: "a", Pos: "1"}))
		revert := srv.Snapshot()
		must(a.Apply(ctx, &cdc.Drops{Tags: []string{"item:1"}}))
		revert()
		other := srv.Connect()
		_, err = other.Drop(ctx, 0, store.Drop{Tags: []string{"other:1"}}, store.Head{})
		must(err)
		must(a.Apply(ctx, &cdc.Drops{Tags: []string{"item:2"}})) // the log is not behind: it went on
		if err := a.SetMark(ctx, "db", store.Mark{Owner: "a", Pos: "2"}); !errors.Is(err, cdc.ErrMoved) {
			t.Errorf("the mark is set though item:1 was lost: %v; want ErrMoved", err)
		}
		before, err := other.Head(ctx, 0)
		must(err)
		m, err := a.Mark(ctx, "db")
		must(err)
		after, err := other.Head(ctx, 0)
		must(err)
		if m.Pos != "1" || after.Epoch == before.Epoch {
			t.Errorf("mark %+v, epoch new: %v; want position 1 and a new epoch", m, after.Epoch != before.Epoch)
		}
		must(a.SetMark(ctx, "db", store.Mark{Owner: "a", Pos: "2"}))
	})
}

// Two pumps of one source: the mark of the one that was overtaken is refused.
func TestAnOvertakenPumpIsRefused(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		srv := memstore.NewServer(memstore.Options{Partitions: partitions})
		ctx := t.Context()
		var a [2]cdc.Applier
		for i := range a {
			var err error
			if a[i], err = cdc.NewApplier(srv.Connect()); err != nil {
				t.Fatal(err)
			}
		}
		check := func(i int, want error) {
			t.Helper()
			if err := a[i].SetMark(ctx, "db", store.Mark{Owner: strconv.Itoa(i), Pos: "1"}); !errors.Is(err, want) {
				t.Errorf("mark of %d: %v; want %v", i, err, want)
			}
		}
		a[0].Mark(ctx, "db")
		a[0].Epoch(ctx)
		check(0, nil)
		check(0, nil)
		a[1].Mark(ctx, "db")
		check(1, nil)
		check(0, cdc.ErrMoved)
		check(1, nil)
		if m, err := a[0].Mark(ctx, "db"); err != nil || m.Owner != "1" || m.Seq != 4 {
			t.Errorf("mark %+v, %v; want the fourth, of 1", m, err)
		}
	}
}

// A pump that died between the marks of two partitions is resumed where both know.
func TestTheLowestMarkCounts(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{Partitions: 2})
	ctx := t.Context()
	for _, deaf := range []int{0, 1} {
		s := &deafStore{Store: srv.Connect(), part: -1}
		a, err := cdc.NewApplier(s)
		if err != nil {
			t.Fatal(err)
		}
		a.Mark(ctx, "db")
		a.Epoch(ctx)
		if err := a.SetMark(ctx, "db", store.Mark{Owner: "a", Pos: "1"}); err != nil {
			t.Fatal(err)
		}
		s.part = deaf
		if err := a.SetMark(ctx, "db", store.Mark{Owner: "a", Pos: "2"}); !errors.Is(err, store.ErrTimeout) {
			t.Errorf("mark with a deaf partition: %v", err)
		}
		// Who is refused in the first partition doesn't touch the others: two pumps would each have set some.
		if m, err := s.Mark(ctx, 1, "db"); deaf == 0 && (err != nil || m.Pos != "1") {
			t.Errorf("the second partition has %+v, %v, though the first refused; want position 1", m, err)
		}
		next, err := cdc.NewApplier(srv.Connect())
		if err != nil {
			t.Fatal(err)
		}
		if m, err := next.Mark(ctx, "db"); err != nil || m.Pos != "1" {
			t.Errorf("partition %d is behind: mark %+v, %v; want position 1", deaf, m, err)
		}
	}
}

// A deafStore doesn't take the marks of one partition.
type deafStore struct {
	*memstore.Store
	part int
}

func (s *deafStore) SetMark(ctx context.Context, part int, source string, seen, next store.Mark, has []store.Head) error {
	if part == s.part {
		return store.ErrTimeout
	}
	return s.Store.SetMark(ctx, part, source, seen, next, has)
}

func TestGaps(t *testing.T) {
	f := func(name string, fault func(d *cdctest.Database, srv *memstore.Server)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := cdctest.NewDatabase(items)
				r := newRig(t, d, itemRules, cdc.Rule{Table: "items", Keys: []string{"page:{id}"}})
				var gaps []cdc.Gap
				p := r.pump(cdc.Options{Hooks: cdc.Hooks{Gap: func(g cdc.Gap) { gaps = append(gaps, g) }}})
				r.settle()
				d.Commit(put(nil, 1, "old"))
				r.settle()
				time.Sleep(5 * time.Second)
				c := newReader(r.srv.Connect(), d)
				c.get(1, func() {})
				r.srv.Set("page:1", []byte("1|old"), 0)
				r.srv.Set("pages", []byte("not ours"), 0)
				before := r.tags()["epoch"]
				fault(d, r.srv)
				r.settle()
				if bad := c.stale(); len(bad) > 0 {
					t.Error(lines(bad))
				}
				if row, ok := r.srv.Get("page:1"); ok {
					t.Errorf("page:1 still holds %s", row)
				}
				if len(gaps) != 2 || gaps[0].Err != nil || gaps[1].Err == nil || p.Stats().Gaps != 2 || r.tags()["epoch"] == before {
					t.Errorf("gaps %+v, epochs %d; want the start, and one more with its reason and an epoch", gaps, r.tags()["epoch"])
				}
				// And then it goes on as before.
				d.Commit(put(nil, 9, "new"))
				r.settle()
				if r.tags()["item:9"] != 1 || p.Stats().Gaps != 2 {
					t.Errorf("item:9 dropped %d times, %d gaps; want once, and no more gaps", r.tags()["item:9"], p.Stats().Gaps)
				}
				r.stop()
			})
		})
	}
	change := func(d *cdctest.Database) {
		d.Commit(put([]cdc.Value{cdc.Text("1"), cdc.Text("old")}, 1, "new"))
	}
	f("the slot is lost", func(d *cdctest.Database, _ *memstore.Server) {
		up := d.Down()
		change(d)
		d.Purge()
		up()
	})
	f("another timeline", func(d *cdctest.Database, _ *memstore.Server) {
		up := d.Down()
		change(d)
		d.Promote()
		up()
	})
	f("a transaction can't be read", func(d *cdctest.Database, _ *memstore.Server) {
		up := d.Down()
		change(d)
		d.Garble()
		up()
	})
	f("the mark is lost", func(d *cdctest.Database, srv *memstore.Server) {
		up := d.Down()
		change(d)
		srv.FlushAll()
		srv.Set("page:1", []byte("1|old"), 0)
		up()
	})
}

// What committed before the stream, and is not visible yet, is waited for before the epoch: an entry of the new
// epoch never has an old row.
func TestTheBarrierComesBeforeTheEpoch(t *testing.T) {
	f := func(with bool) []string {
		var bad []string
		synctest.Test(t, func(t *testing.T) {
			d := cdctest.NewDatabase(items)
			d.Commit(put(nil, 1, "old"))
			r := newRig(t, d, itemRules)
			release := d.Hold()
			d.Commit(put([]cdc.Value{cdc.Text("1"), cdc.Text("old")}, 1, "new"))
			d.Purge() // no slot yet: the stream begins after it
			r.pump(cdc.Options{}, func(p *cdc.Pump) {
				if !with {
					p.WithoutBarrier()
				}
			})
			c := newReader(r.srv.Connect(), d)
			for range 50 {
				time.Sleep(10 * time.Millisecond)
				c.get(1, func() {})
			}
			release()
			r.settle()
			bad = c.stale()
			r.stop()
		})
		return bad
	}
	if bad := f(true); len(bad) > 0 {
		t.Errorf("stale for good:\n%s", lines(bad))
	}
	if bad := f(false); len(bad) == 0 {
		t.Error("without the barrier nothing went wrong: this test can't see what it is for")
	}
}

func TestAMessageDropsWhatItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		p := r.pump(cdc.Options{})
		r.settle()
		d.Commit(cdc.Change{Op: cdc.OpMessage, Message: []byte(`{"tags":["report:5"],"keys":["k"]}`)})
		r.settle()
		if tags := r.tags(); tags["report:5"] != 1 || tags["key k"] == 0 || tags["epoch"] != 1 {
			t.Errorf("log has %v; want report:5 and k", tags)
		}
		d.Commit(cdc.Change{Op: cdc.OpMessage, Message: []byte(`report:5`)})
		r.settle()
		if tags := r.tags(); tags["epoch"] != 2 || p.Stats().Coarse[cdc.WhyMessage] == 0 {
			t.Errorf("log has %v; want everything dropped for what can't be read", tags)
		}
		r.stop()
	})
}

func TestGapStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		p := r.pump(cdc.Options{OnGap: cdc.GapStop})
		r.settle()
		d.Purge()
		time.Sleep(time.Minute)
		if s := p.Stats(); s.State != cdc.Stopped || s.Gaps != 1 {
			t.Errorf("state %s, %d gaps; want stopped, and the start alone", s.State, s.Gaps)
		}
		r.stop()
	})
}

// The store is away: what changes meanwhile is read up to the bound, and dropped when it is back.
func TestStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		s := r.srv.Connect()
		p := r.pumpOn(s, d.Source(true), cdc.Options{Batch: 10})
		r.settle()
		c := newReader(r.srv.Connect(), d)
		for id := range 20 {
			c.get(id, func() {})
		}
		s.Cut()
		for i := range 100 {
			d.Commit(put(nil, i%20, "new"))
			time.Sleep(100 * time.Millisecond)
		}
		if n := p.Stats().Pending; n > 11 {
			t.Errorf("%d names are kept; want at most the batch", n)
		}
		s.Mend()
		r.settle()
		if bad := c.stale(); len(bad) > 0 {
			t.Error(lines(bad))
		}
		if st := p.Stats(); st.Opened != 1 || st.Errors == 0 || st.Pos != cdc.Position("1/100") {
			t.Errorf("stats %+v; want one stream, errors, and all applied", st)
		}
		r.stop()
	})
}

// A slow applier makes the pump stop reading: a burst of 100,000 rows is never held at once.
func TestSlowStoreBoundsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rows, batch = 100_000, 1000
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, cdc.Rule{Table: "items", Keys: []string{"page:{id}"}})
		a, err := cdc.NewApplier(r.srv.Connect())
		if err != nil {
			t.Fatal(err)
		}
		slow := &slowApplier{Applier: a}
		p := r.pumpTo(slow, d.Source(true), cdc.Options{Batch: batch, Again: -1, Tick: time.Second})
		r.settle()
		changes := make([]cdc.Change, rows)
		for i := range changes {
			changes[i] = put(nil, i, "x")
		}
		d.Commit(changes...)
		most := 0
		for p.Stats().Keys < rows {
			most = max(most, p.Stats().Pending)
			time.Sleep(time.Millisecond)
		}
		r.settle()
		if most > batch || slow.most > batch || slow.keys != rows {
			t.Errorf("up to %d names kept, %d in one drop, %d keys dropped; want at most %d, and all %d", most, slow.most, slow.keys, batch, rows)
		}
		r.stop()
	})
}

type slowApplier struct {
	cdc.Applier
	most, keys int
}

func (a *slowApplier) Apply(ctx context.Context, d *cdc.Drops) error {
	a.most = max(a.most, d.Len())
	a.keys += len(d.Keys)
	time.Sleep(20 * time.Millisecond)
	return a.Applier.Apply(ctx, d)
}

// The database is told late: after HoldBack, and what was marked then.
func TestHoldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		p := r.pump(cdc.Options{HoldBack: 30 * time.Second})
		for i := range 60 {
			d.Commit(put(nil, i, "x"))
			time.Sleep(time.Second)
			if n := d.Acked(); n > max(0, i-28) {
				t.Fatalf("%d s after the start, %d commits are acknowledged; want none younger than 30 s", i, n)
			}
		}
		if n := d.Acked(); n < 28 {
			t.Errorf("after a minute %d commits are acknowledged; want about 30", n)
		}
		time.Sleep(time.Minute) // quiet: ticks move it on
		if n := d.Acked(); n != 60 {
			t.Errorf("%d are acknowledged; want all 60", n)
		}
		if p.Stats().Acked == "" {
			t.Error("no position acknowledged in Stats")
		}
		r.stop()
	})
}

// What a certificate says is true: of all changes that were visible before its tick was announced, the drop is in the
// log, before the mark.
func TestCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		d.SetLag(2 * time.Millisecond)
		r := newRig(t, d, itemRules)
		a, err := cdc.NewApplier(r.srv.Connect())
		if err != nil {
			t.Fatal(err)
		}
		// The store takes its time, so that what is read and what is applied differ.
		p := r.pumpTo(&slowApplier{Applier: a}, d.Source(true), cdc.Options{Tick: 20 * time.Millisecond}, func(p *cdc.Pump) {
			p.OnStep(func(step string) {
				if step == "tick asked" { // so that the tick is in one batch with what came before it
					time.Sleep(3 * time.Millisecond)
				}
			})
		})
		r.settle()
		s := r.srv.Connect()
		rnd := rand.New(rand.NewPCG(5, 6))
		// An instance: it reads the mark, and what it sees first of a tick is later than the reading before.
		type sight struct {
			tick    uint64
			visible int
		}
		var sights []sight
		checked := 0
		for i := range 1000 {
			if i%3 == 0 {
				d.Commit(put(nil, i, "x"))
			}
			time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
			visible := len(d.Rows("public.items"))
			m, err := s.Mark(t.Context(), 0, "db")
			if err != nil {
				t.Fatal(err)
			}
			sights = append(sights, sight{m.Tick, visible})
			if _, err := r.watch.Head(t.Context(), 0); err != nil { // after the mark: all that it speaks of has been told
				t.Fatal(err)
			}
			// asOf: the last reading that did not know the certified tick yet.
			asOf := -1
			for j, sg := range sights {
				if sg.tick < m.Cert {
					asOf = j
				}
			}
			if asOf < 0 {
				continue
			}
			checked++
			dropped := 0
			for tag := range r.tags() {
				if strings.HasPrefix(tag, "item:") {
					dropped++
				}
			}
			if dropped < sights[asOf].visible {
				t.Fatalf("certificate %d: %d rows were visible before its tick, and %d are dropped", m.Cert, sights[asOf].visible, dropped)
			}
			if i > 20 && len(sights)-asOf > 100 {
				t.Fatalf("certificates are %d readings old", len(sights)-asOf)
			}
		}
		if checked < 900 || p.Stats().LastTick.IsZero() {
			t.Errorf("%d of 1000 readings had a certificate", checked)
		}
		r.stop()
	})
}

// Of two pumps one works; the other takes over when it dies, with a source for one reader and with one for many.
func TestTakeOver(t *testing.T) {
	for _, exclusive := range []bool{true, false} {
		for _, peaceful := range []bool{true, false} {
			t.Run(fmt.Sprintf("exclusive=%v,peaceful=%v", exclusive, peaceful), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := cdctest.NewDatabase(items)
					r := newRig(t, d, itemRules)
					r.exclusive = exclusive
					m := newMortal()
					a, err := cdc.NewApplier(r.srv.Connect())
					if err != nil {
						t.Fatal(err)
					}
					first := r.pumpTo(mortalApplier{a, m}, mortalSource{d.Source(exclusive), m}, cdc.Options{})
					r.settle()
					second := r.pump(cdc.Options{})
					c := newReader(r.srv.Connect(), d)
					for i := range 100 {
						d.Commit(put(nil, i%20, fmt.Sprint(i)))
						c.get(i%20, func() {})
						time.Sleep(50 * time.Millisecond)
					}
					for second.Stats().State == cdc.Opening { // it tries once in a while
						time.Sleep(time.Millisecond)
					}
					if s := second.Stats(); s.State != cdc.Standby || s.Changes != 0 || first.Stats().Changes != 100 {
						t.Errorf("states %s and %s, changes %d and %d; want one at work", first.Stats().State, s.State, first.Stats().Changes, s.Changes)
					}
					if !peaceful {
						m.kill()
					}
					first.stop()
					for i := range 20 {
						d.Commit(put(nil, i, "new"))
					}
					began := time.Now()
					r.settle()
					if took := time.Since(began); took > 5*time.Second {
						t.Errorf("taken over after %v", took)
					}
					if s := second.Stats(); s.State != cdc.Running || s.Gaps != 0 {
						t.Errorf("state %s, %d gaps; want running, without a gap", s.State, s.Gaps)
					}
					if bad := c.stale(); len(bad) > 0 {
						t.Error(lines(bad))
					}
					r.stop()
				})
			})
		}
	}
}

// A program fills a bare key with what it read before the change, after the pump deleted it. The second time gets it.
func TestAgain(t *testing.T) {
	f := func(again time.Duration) bool {
		var there bool
		synctest.Test(t, func(t *testing.T) {
			d := cdctest.NewDatabase(items)
			r := newRig(t, d, cdc.Rule{Table: "items", Keys: []string{"page:{id}"}})
			r.pump(cdc.Options{Again: again})
			r.settle()
			d.Commit(put(nil, 1, "new"))
			time.Sleep(100 * time.Millisecond)
			r.srv.Set("page:1", []byte("old"), 0)
			time.Sleep(3 * time.Second)
			_, there = r.srv.Get("page:1")
			r.stop()
		})
		return there
	}
	if f(0) {
		t.Error("page:1 has the old row for good")
	}
	if !f(-1) {
		t.Error("without Again nothing went wrong: this test can't see what it is for")
	}
}

func TestDatabaseAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := cdctest.NewDatabase(items)
		r := newRig(t, d, itemRules)
		p := r.pump(cdc.Options{})
		r.settle()
		for i := range 30 {
			d.Commit(put(nil, i%20, "x"))
			switch i % 3 {
			case 0:
				d.Cut()
			case 1:
				up := d.Down()
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				up()
			}
			time.Sleep(30 * time.Millisecond)
		}
		r.settle()
		tags := r.tags()
		for id := range 20 {
			if tags["item:"+strconv.Itoa(id)] == 0 {
				t.Errorf("item:%d was not dropped", id)
			}
		}
		if s := p.Stats(); s.Gaps != 1 || s.Opened < 3 {
			t.Errorf("%d gaps, %d streams; want the start alone, and many", s.Gaps, s.Opened)
		}
		r.stop()
	})
}

func TestBadOptions(t *testing.T) {
	rules := mustRules(t, itemRules)
	f := func(o cdc.Options, want string) {
		t.Helper()
		if _, err := cdc.NewPump(nil, nil, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v; want %q in it", o, err, want)
		}
	}
	f(cdc.Options{Rules: rules}, `Name is ""`)
	f(cdc.Options{Name: "a b", Rules: rules}, `Name is "a b"`)
	f(cdc.Options{Name: "db"}, "Rules is nil")
	f(cdc.Options{Name: "db", Rules: rules, Tick: -1}, "Tick is -1ns")
	f(cdc.Options{Name: "db", Rules: rules, Batch: -1}, "Batch is -1")
	f(cdc.Options{Name: "db", Rules: rules, Owner: "a b"}, `Owner is "a b"`)
	f(cdc.Options{Name: "db", Rules: rules, OnGap: 9}, "OnGap is 9")
	if _, err := cdc.NewApplier(struct{ store.Store }{}); err == nil || !strings.Contains(err.Error(), "keeps no marks") {
		t.Errorf("a store without marks: %v", err)
	}
}

func TestRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cdctest.NewDatabase(items), itemRules)
		p := r.pump(cdc.Options{})
		r.settle()
		if err := p.Run(t.Context()); err == nil {
			t.Error("a second Run: no error")
		}
		r.stop()
	})
}
