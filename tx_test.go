package freshet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store/memstore"
)

// committed is the commit of a database that works.
func committed(context.Context) error { return nil }

func TestTxDropsAfterCommit(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		a, b := l.client(), l.client()
		ca, cb := cacheIn(t, a, Config[string, int]{TTL: time.Hour, Load: src.load}), cacheIn(t, b, Config[string, int]{TTL: time.Hour, Load: src.load})
		expect(t, ca, "x", "1 source")
		expect(t, cb, "x", "1 l2")

		tx := a.Tx()
		ctx := tx.Context(t.Context())
		before := l.head(t)
		for range 3 {
			is(t, "a drop", ca.Drop(ctx, "x"), nil)
		}
		is(t, "a drop of tags", a.DropTags(ctx, "t", "t"), nil)
		tick()
		expect(t, ca, "x", "1 l1") // others see nothing of it
		expect(t, cb, "x", "1 l1")
		err := tx.Commit(ctx, func(context.Context) error {
			is(t, "the log at the commit", l.head(t), before)
			expect(t, cb, "x", "1 l1")
			return nil
		})
		is(t, "Commit", err, nil)
		synctest.Wait()
		tick()
		expect(t, cb, "x", "2 source")
		expect(t, ca, "x", "2 l2")
		conn := l.srv.Connect()
		defer conn.Close()
		log, err := conn.Tail(t.Context(), 0, before, 10)
		if err != nil || len(log) != 1 || !slices.Equal(log[0].Keys, []string{"n:x"}) || !slices.Equal(log[0].Tags, []string{"t"}) {
			t.Errorf("the log has %+v (%v); want one entry with each name once", log, err)
		}
	})
}

func TestTxRollback(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		a := l.client()
		ca := cacheIn(t, a, Config[string, int]{TTL: time.Hour, Load: src.load})
		expect(t, ca, "x", "1 source")
		before := l.head(t)
		tx := a.Tx()
		ctx := tx.Context(t.Context())
		ca.Drop(ctx, "x")
		expect(t, ca, "x", "1 l1")
		is(t, "open", a.Stats().TxOpen, 1)
		tx.Rollback()
		tx.Rollback()
		is(t, "open", a.Stats().TxOpen, 0)
		expect(t, ca, "x", "1 l1")
		is(t, "the log", l.head(t), before)
		is(t, "Commit after Rollback", tx.Commit(ctx, func(context.Context) error { t.Error("the database was asked to commit"); return nil }), ErrTxDone)

		// What is known not to have committed.
		tx = a.Tx()
		ca.Drop(tx.Context(t.Context()), "x")
		if err := tx.Commit(t.Context(), func(context.Context) error { return fmt.Errorf("%w: %w", ErrRolledBack, errBoom) }); !errors.Is(err, ErrRolledBack) || !errors.Is(err, errBoom) {
			t.Errorf("Commit says %v", err)
		}
		is(t, "the log", l.head(t), before)
		is(t, "Commit after Commit", tx.Commit(t.Context(), committed), ErrTxDone)
		expect(t, ca, "x", "1 l1")
	})
}

// A commit that failed may have happened, or happen later: it drops at once and again.
func TestTxUnknownOutcome(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.client(), l.client()
		row := 1
		load := func(context.Context, string, *Load) (int, error) { return row, nil }
		ca, cb := cacheIn(t, a, Config[string, int]{TTL: time.Hour, Load: load}), cacheIn(t, b, Config[string, int]{TTL: time.Hour, Load: load})
		expect(t, cb, "x", "1 source")
		tx := a.Tx()
		ca.Drop(tx.Context(t.Context()), "x")
		err := tx.Commit(t.Context(), func(context.Context) error { return errBoom })
		if ce, ok := errors.AsType[*CommitError](err); !ok || !errors.Is(err, errBoom) || errors.Is(err, ErrPending) || ce.Drop != nil {
			t.Errorf("Commit says %#v", err)
		}
		began := time.Now()
		f := func(at time.Duration, want string) {
			t.Helper()
			time.Sleep(at - time.Since(began))
			synctest.Wait()
			expect(t, cb, "x", want)
		}
		f(time.Millisecond, "1 source")
		row = 2 // only now does the server get to the commit
		f(900*time.Millisecond, "1 l1")
		f(1100*time.Millisecond, "2 source")
		row = 3
		f(9*time.Second, "2 l1")
		f(11*time.Second, "3 source")
		row = 4
		f(59*time.Second, "3 l1")
		f(61*time.Second, "4 source")
		before := l.head(t)
		time.Sleep(time.Hour)
		is(t, "the log an hour later", l.head(t), before)
	})
}

// Each batch of drops to be repeated has its own times, and Close sends what is left.
func TestTxRepeatedDrops(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a := l.client()
		cacheIn(t, a, Config[string, int]{TTL: time.Hour})
		conn := l.srv.Connect()
		defer conn.Close()
		start := l.head(t)
		began := time.Now()
		fail := func(key string) {
			tx := a.Tx()
			a.DropKeys(tx.Context(t.Context()), key)
			tx.Commit(t.Context(), func(context.Context) error { return errBoom })
		}
		drops := func(after time.Duration) (keys []string) {
			t.Helper()
			time.Sleep(after - time.Since(began))
			synctest.Wait()
			log, err := conn.Tail(t.Context(), 0, start, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range log {
				slices.Sort(e.Keys)
				keys = append(keys, e.Keys...)
				start = e.Pos
			}
			return keys
		}
		f := func(after time.Duration, want ...string) {
			t.Helper()
			if got := drops(after); !slices.Equal(got, want) {
				t.Errorf("after %v: dropped %v; want %v", after, got, want)
			}
		}
		fail("n:1")
		f(0, "n:1")
		f(900 * time.Millisecond)
		f(1100*time.Millisecond, "n:1")
		time.Sleep(4900 * time.Millisecond) // 6 s: run sleeps until 10 s
		fail("n:2")
		f(6100*time.Millisecond, "n:2")
		f(7100*time.Millisecond, "n:2")
		f(10100*time.Millisecond, "n:1")
		f(16100*time.Millisecond, "n:2")
		f(60100*time.Millisecond, "n:1")
		is(t, "Close", a.Close(), nil)
		f(60200*time.Millisecond, "n:2")
	})
}

// In a transaction, what it dropped is not answered from the cache, and what it loads is not stored.
func TestTxReads(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		a := l.client()
		load := func(ctx context.Context, k string, ld *Load) (int, error) {
			ld.Tag("late:" + k)
			return src.load(ctx, k, ld)
		}
		ca := cacheIn(t, a, Config[string, int]{TTL: time.Hour, Load: load, Tags: func(k string) []string { return []string{Tag("rows", k)} }})
		f := func(k string, drop func(ctx context.Context, k string) error, want string) {
			t.Helper()
			expect(t, ca, k, fmt.Sprintf("%d source", src.loads.Load()+1))
			n := src.loads.Load()
			tx := a.Tx()
			defer tx.Rollback()
			ctx := tx.Context(t.Context())
			if r, err := ca.Lookup(ctx, k); show(r, err) != fmt.Sprintf("%d l1", n) {
				t.Errorf("%s untouched: got %q; want a hit of L1", k, show(r, err))
			}
			is(t, "Get", first(ca.Get(ctx, k)), int(n))
			is(t, "drop", drop(ctx, k), nil)
			for i := range 2 {
				r, err := ca.Lookup(ctx, k)
				if got, want := show(r, err), fmt.Sprintf(want, n+1+int64(i)); got != want {
					t.Errorf("%s in the transaction: got %q; want %q", k, got, want)
				}
			}
			n2 := src.loads.Load()
			is(t, "Get", first(ca.Get(ctx, k)), int(n2+1-b2i(n2 == n)))
			if r, ok := ca.Peek(ctx, k); ok != (n2 == n) || !ok && r.Reason != observe.ReasonTransaction {
				t.Errorf("Peek: %+v, %v", r, ok)
			}
			expect(t, ca, k, fmt.Sprintf("%d l1", n)) // the others
		}
		const loaded = "%d source refused transaction"
		f("key", func(ctx context.Context, k string) error { return ca.Drop(ctx, k) }, loaded)
		f("keys", func(ctx context.Context, k string) error { return a.DropKeys(ctx, "n:"+k) }, loaded)
		f("tag", func(ctx context.Context, k string) error { return a.DropTags(ctx, Tag("rows", k)) }, loaded)
		f("table", func(ctx context.Context, k string) error { return a.DropTags(ctx, TagAll("rows")) }, loaded)
		f("late", func(ctx context.Context, k string) error { return a.DropTags(ctx, "late:late") }, loaded)
		f("set", func(ctx context.Context, k string) error { return ca.Set(ctx, k, 1000) }, loaded)
		f("clear", func(ctx context.Context, k string) error { return ca.Clear(ctx) }, loaded)

		// The late tag of an entry that only the shared level has.
		expect(t, ca, "l2", fmt.Sprintf("%d source", src.loads.Load()+1))
		e, _ := ca.near.Peek("l2")
		ca.near.Remove("l2", e)
		n := src.loads.Load()
		tx := a.Tx()
		ctx := tx.Context(t.Context())
		a.DropTags(ctx, "late:l2")
		is(t, "l2", first(ca.Get(ctx, "l2")), int(n+1))

		// What is not there is loaded for this caller alone.
		r, err := ca.Lookup(ctx, "absent")
		is(t, "absent", show(r, err), fmt.Sprintf("%d source refused transaction", n+2))
		is(t, "stored", l.record("n:absent"), nil)
		expect(t, ca, "absent", fmt.Sprintf("%d source", n+3))
		is(t, "Set", ca.Set(ctx, "anew", 1000), nil)
		is(t, "stored", l.record("n:anew"), nil)
		tx.Rollback()
		if st := a.Stats(); st.Refused[observe.ReasonTransaction] == 0 || st.MissesL1[observe.ReasonTransaction] == 0 {
			t.Errorf("not counted: %v, %v", st.Refused, st.MissesL1)
		}
	})
}

func first[V any](v V, _ error) V { return v }

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// A read in a transaction joins nobody's load, is joined by nobody, and refreshes nothing.
func TestTxReadsAlone(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		a := l.client(func(o *Options) { o.MaxLoads = 1 })
		ca := cacheIn(t, a, Config[string, int]{TTL: time.Minute, Stale: Stale{WhileRevalidate: time.Hour}, Load: src.load})
		src.set(time.Second, nil)
		tx := a.Tx()
		defer tx.Rollback()
		ctx := tx.Context(t.Context())

		// The only place for loads is taken by somebody who may wait for this transaction's connection.
		other := inBackground(t.Context(), ca, "x")
		time.Sleep(500 * time.Millisecond)
		mine := inBackground(ctx, ca, "x")
		is(t, "loads under way", src.under.Load(), 2)
		is(t, "the other's", other(), "1 source")
		is(t, "mine", mine(), "2 source refused transaction")

		mine = inBackground(ctx, ca, "y")
		other = inBackground(t.Context(), ca, "y")
		is(t, "mine", mine(), "3 source refused transaction")
		is(t, "the other's", other(), "4 source")

		src.set(0, nil)
		time.Sleep(2 * time.Minute)
		r, err := ca.Lookup(ctx, "x")
		is(t, "stale", show(r, err), "5 source refused transaction")
		synctest.Wait()
		is(t, "refreshes", a.Stats().Refreshes, 0)
		expect(t, ca, "x", "1 l1 stale")
	})
}

func TestTxGetMany(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a := l.client()
		var asked [][]string
		many := func(_ context.Context, ks []string, _ *BatchLoad[string]) (map[string]int, error) {
			slices.Sort(ks)
			asked = append(asked, ks)
			out := map[string]int{}
			for _, k := range ks {
				if k != "none" {
					out[k] = len(asked)
				}
			}
			return out, nil
		}
		ca := cacheIn(t, a, Config[string, int]{TTL: time.Hour, LoadMany: many})
		ca.GetMany(t.Context(), []string{"x", "y"})
		tx := a.Tx()
		ctx := tx.Context(t.Context())
		ca.Drop(ctx, "x")
		got, err := ca.GetMany(ctx, []string{"x", "y", "x", "z", "none"})
		if want := map[string]int{"x": 2, "y": 1, "z": 2}; err != nil || !maps.Equal(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
		if fmt.Sprint(asked) != "[[x y] [none x z]]" {
			t.Errorf("asked for %v", asked)
		}
		tx.Rollback()
		is(t, "stored", l.record("n:z"), nil)
		expect(t, ca, "x", "1 l1")

		// Without LoadMany, one after the other.
		var src source
		src.set(time.Second, nil)
		cb := cacheIn(t, a, Config[string, int]{Name: "one", TTL: time.Hour, Load: src.load})
		tx = a.Tx()
		got, err = cb.GetMany(tx.Context(t.Context()), []string{"x", "y"})
		is(t, "most at once", src.most.Load(), 1)
		if err != nil || !maps.Equal(got, map[string]int{"x": 1, "y": 2}) {
			t.Errorf("got %v, %v", got, err)
		}
		tx.Rollback()
	})
}

func TestTxLoadErrors(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a := l.client()
		var answer error
		ca := cacheIn(t, a, Config[string, int]{TTL: time.Hour, LoadTimeout: time.Second, Load: func(ctx context.Context, _ string, _ *Load) (int, error) {
			if answer == nil {
				<-ctx.Done()
				return 0, context.Cause(ctx)
			}
			if answer.Error() == "panic" {
				panic("p")
			}
			return 0, answer
		}})
		tx := a.Tx()
		defer tx.Rollback()
		ctx := tx.Context(t.Context())
		f := func(ctx context.Context, source error, want any) {
			t.Helper()
			answer = source
			_, err := ca.Get(ctx, "x")
			if target, ok := want.(error); ok && !errors.Is(err, target) || !ok && !errors.As(err, want) {
				t.Errorf("got %v; want %v", err, want)
			}
		}
		f(ctx, ErrNotFound, ErrNotFound)
		f(ctx, errBoom, errBoom)
		f(ctx, errBoom, new(*LoadError))
		f(ctx, ErrNotModified, new(*LoadError))
		f(ctx, errors.New("panic"), new(*PanicError))
		f(ctx, nil, context.DeadlineExceeded) // LoadTimeout
		canceled, cancel := context.WithCancelCause(ctx)
		time.AfterFunc(time.Millisecond, func() { cancel(errBoom) })
		f(canceled, nil, errBoom)
		is(t, "negative entry", l.record("n:x"), nil)
	})
}

// After the end of a transaction its context is an ordinary one.
func TestTxContextAfterTheEnd(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		a := l.client()
		ca := cacheIn(t, a, Config[string, int]{TTL: time.Hour, Load: src.load})
		expect(t, ca, "x", "1 source")
		tx := a.Tx()
		ctx := tx.Context(t.Context())
		is(t, "TxOf", a.TxOf(ctx), tx)
		is(t, "Commit", tx.Commit(ctx, committed), nil)
		is(t, "TxOf", a.TxOf(ctx), nil)
		before := l.head(t)
		is(t, "Drop", ca.Drop(ctx, "x"), nil)
		if l.head(t) == before {
			t.Error("the drop did not reach the log")
		}
		tick()
		is(t, "Get", first(ca.Get(ctx, "x")), 2)
		expect(t, ca, "x", "2 l1") // stored

		// A drop that found the transaction open, and comes after its end, is not swallowed.
		_, ok := tx.c.add([]string{"n:x"}, nil)
		is(t, "collected after the end", ok, false)

		// Also with another transaction open elsewhere, and within another.
		outer := a.Tx()
		outer.Context(t.Context())
		is(t, "Get", first(ca.Get(ctx, "y")), 3)
		expect(t, ca, "y", "3 l1")
		octx := outer.Context(t.Context())
		inner := a.Tx()
		ictx := inner.Context(octx)
		ca.Drop(ictx, "inner")
		is(t, "read through the inner", first(ca.Get(ictx, "x")), 2)
		ca.Drop(octx, "x")
		is(t, "read through the inner what the outer dropped", first(ca.Get(ictx, "x")), 4)
		inner.Rollback()
		ca.Drop(ictx, "late")
		keys, _ := outer.Collected()
		slices.Sort(keys)
		is(t, "collected by the outer", fmt.Sprint(keys), "[n:late n:x]")
		outer.Rollback()
		expect(t, ca, "x", "2 l1")
	})
}

// A drop that comes while the commit is under way is in time, one after that applies by itself: none is lost.
func TestTxDropDuringCommit(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		a := l.client()
		ca := cacheIn(t, a, Config[string, int]{TTL: time.Hour, Load: src.load})
		for round := range 50 {
			k := fmt.Sprint(round)
			n, other := first(ca.Get(t.Context(), k)), first(ca.Get(t.Context(), "other"))
			tx := a.Tx()
			ctx := tx.Context(t.Context())
			ca.Drop(ctx, "other")
			var wg sync.WaitGroup
			tx.Commit(ctx, func(context.Context) error {
				tx.Rollback() // does nothing any more
				wg.Go(func() { ca.Drop(ctx, k) })
				return nil
			})
			wg.Wait()
			tick()
			if first(ca.Get(t.Context(), k)) == n || first(ca.Get(t.Context(), "other")) == other {
				t.Fatalf("round %d: a drop is lost", round)
			}
		}
	})
}

func TestTxPending(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		conn := l.srv.Connect()
		a, err := New(conn, Options{ExactClock: true, Name: "cut"})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		var src source
		b := l.client()
		cb := cacheIn(t, b, Config[string, int]{TTL: time.Hour, Load: src.load})
		expect(t, cb, "1", "1 source")
		conn.Cut()
		tx := a.Tx()
		ctx := tx.Context(t.Context())
		for i := range 2 * dropsAtOnce {
			a.DropKeys(ctx, fmt.Sprint("n:", i))
		}
		err = tx.Commit(ctx, committed)
		var pending *PendingError
		if !errors.Is(err, ErrPending) || !errors.As(err, &pending) || len(pending.Keys) != 2*dropsAtOnce || errors.As(err, new(*CommitError)) {
			t.Errorf("Commit says %v", err)
		}
		tx = a.Tx()
		a.DropKeys(tx.Context(t.Context()), "n:1")
		err = tx.Commit(ctx, func(context.Context) error { return errBoom })
		if ce, ok := errors.AsType[*CommitError](err); !ok || errors.Is(err, ErrPending) || !errors.Is(ce.Drop, ErrPending) {
			t.Errorf("Commit says %#v", err)
		}
		conn.Mend()
		is(t, "delivered", a.WaitDelivered(t.Context()), nil)
		tick()
		expect(t, cb, "1", "2 source")
	})
}

// The caller's context may be over when the database has committed: the drops are sent all the same.
func TestTxCommitOverContext(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a := l.client()
		ctx, cancel := context.WithCancel(t.Context())
		tx := a.Tx()
		ctx = tx.Context(ctx)
		a.DropKeys(ctx, "n:1")
		before := l.head(t)
		is(t, "Commit", tx.Commit(ctx, func(got context.Context) error {
			is(t, "the context of the commit", got, ctx)
			cancel()
			return nil
		}), nil)
		if l.head(t) == before {
			t.Error("nothing was dropped")
		}
	})
}

func TestTxManyDrops(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a := l.client()
		ca := cacheIn(t, a, Config[int, int]{TTL: time.Hour})
		tx := a.Tx()
		ctx := tx.Context(t.Context())
		for i := range 2 * maxPending {
			ca.Drop(ctx, i)
			a.DropTags(ctx, Tag("t", i))
		}
		keys, tags := tx.Collected()
		if len(keys) != maxPending || len(tags) != maxPending+2 || !slices.Contains(tags, "t!") || !slices.Contains(tags, "n!") {
			t.Errorf("%d keys, %d tags are collected", len(keys), len(tags))
		}
		is(t, "touched", a.scope(ctx).touches("n:19999", []string{"n!"}), true)
		is(t, "Commit", tx.Commit(ctx, nil), nil)
		is(t, "drops", a.Stats().Drops, (2*maxPending+2+dropsAtOnce-1)/dropsAtOnce)
	})
}

// Close waits for a commit that is under way, and no other is begun.
func TestTxClose(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a := l.client()
		before := l.head(t)
		first, second := a.Tx(), a.Tx()
		a.DropKeys(first.Context(t.Context()), "n:1")
		ctx := second.Context(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- first.Commit(t.Context(), func(context.Context) error { time.Sleep(time.Second); return nil })
		}()
		synctest.Wait()
		is(t, "Close takes", took(func() { a.Close() }), time.Second)
		is(t, "Commit", <-done, nil)
		if l.head(t) == before {
			t.Error("nothing was dropped")
		}
		is(t, "Commit", second.Commit(ctx, func(context.Context) error { t.Error("the database was asked to commit"); return nil }), ErrClosed)
		is(t, "Drop", a.DropKeys(ctx, "n:2"), ErrClosed)
		is(t, "InTx", a.InTx(t.Context(), TxFuncs{}, nil), ErrClosed)
	})
}

// What nobody ended drops all the same, once nobody can end it any more.
func TestTxForgotten(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{})
	a, err := New(srv.Connect(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	srv.Set("n:1", []byte("x"), 0)
	func() {
		a.DropKeys(a.Tx().Context(t.Context()), "n:1")
		a.Tx()
	}()
	deadline := time.Now().Add(20 * time.Second)
	for {
		runtime.GC()
		if _, there := srv.Get("n:1"); !there && a.Stats().TxForgotten == 1 && a.Stats().TxOpen == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not dropped; %+v", a.Stats())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Other callers' hits must not pay for an open transaction with more than a look at their context.
func TestAllocTx(t *testing.T) {
	a, err := New(memstore.NewServer(memstore.Options{}).Connect(), Options{StaleAtMost: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.mirror.WaitSynced(t.Context())
	time.Sleep(20 * time.Millisecond) // the first proof
	ca := cacheIn(t, a, Config[int, int]{TTL: time.Hour, Load: func(context.Context, int, *Load) (int, error) { return 1, nil }})
	tx := a.Tx()
	defer tx.Rollback()
	ca.Drop(tx.Context(t.Context()), 2)
	ctx := t.Context()
	ca.Get(ctx, 1)
	if n := testing.AllocsPerRun(1000, func() { ca.Get(ctx, 1) }); n >= 1 {
		t.Errorf("a hit makes %v allocations beside an open transaction; want none", n)
	}
}

// A fakeDB is rows with transactions, whose commits may fail with an unknown outcome.
type fakeDB struct {
	mu   sync.Mutex
	rows map[int]int
}

type fakeTxKey struct{}

type fakeTx struct {
	db     *fakeDB
	writes map[int]int
}

func (db *fakeDB) read(ctx context.Context, k int) int {
	if tx, ok := ctx.Value(fakeTxKey{}).(*fakeTx); ok {
		if v, ok := tx.writes[k]; ok {
			return v
		}
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.rows[k]
}

func (tx *fakeTx) commit(context.Context) error {
	fate := rand.IntN(10)
	if fate > 1 || fate == 0 {
		tx.db.mu.Lock()
		maps.Copy(tx.db.rows, tx.writes)
		tx.db.mu.Unlock()
	}
	if fate <= 1 {
		return errBoom
	}
	return nil
}

// Many transactions and readers at once on two instances: when all is quiet the caches agree with the rows, and
// nobody ever sees what was not committed.
func TestTxStorm(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{})
	db := &fakeDB{rows: map[int]int{}}
	const keys, uncommitted = 8, 1 << 40
	var caches []*Cache[int, int]
	for range 2 {
		c, err := New(srv.Connect(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ca, err := NewCache(c, Config[int, int]{Name: "n", TTL: time.Hour,
			Tags: func(k int) []string { return []string{Tag("rows", k)} },
			Load: func(ctx context.Context, k int, _ *Load) (int, error) {
				v := db.read(ctx, k)
				runtime.Gosched()
				return v, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		caches = append(caches, ca)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			ca := caches[w%2]
			for i := range 400 {
				k := rand.IntN(keys)
				if rand.IntN(3) > 0 {
					if v, err := ca.Get(t.Context(), k); err != nil || v >= uncommitted {
						t.Errorf("got %d, %v", v, err)
					}
					continue
				}
				ftx := &fakeTx{db: db, writes: map[int]int{}}
				errAbort := errors.New("abort")
				err := ca.client.InTx(t.Context(), TxFuncs{
					Begin: func(context.Context) error { return nil }, Commit: ftx.commit, Rollback: func(context.Context) error { return nil },
				}, func(ctx context.Context) error {
					ctx = context.WithValue(ctx, fakeTxKey{}, ftx)
					v := w*1000 + i + 1
					if rand.IntN(2) == 0 {
						ftx.writes[k] = uncommitted // and what is loaded now must not be stored, though nothing is dropped yet
						ca.Get(ctx, (k+1)%keys)
						ca.Get(ctx, k)
					}
					var err error
					if rand.IntN(2) == 0 {
						err = ca.Drop(ctx, k)
					} else {
						err = ca.client.DropTags(ctx, Tag("rows", k))
					}
					if err != nil {
						return err
					}
					ftx.writes[k] = v
					if got, err := ca.Get(ctx, k); got != v {
						t.Errorf("in the transaction: got %d, %v; want its own write %d", got, err, v)
					}
					if rand.IntN(4) == 0 {
						return errAbort
					}
					return nil
				})
				if err != nil && !errors.Is(err, errAbort) && !errors.Is(err, errBoom) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i, ca := range caches {
		ca.client.WaitDelivered(t.Context())
		if _, err := ca.client.store.Head(t.Context(), 0); err != nil { // all is announced
			t.Fatal(err)
		}
		for k := range keys {
			if got, err := ca.Get(t.Context(), k); err != nil || got != db.read(t.Context(), k) {
				t.Errorf("instance %d: %d is %d (%v); want %d", i, k, got, err, db.read(t.Context(), k))
			}
		}
	}
}
