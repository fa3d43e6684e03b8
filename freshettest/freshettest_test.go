package freshettest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/freshettest"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
	"github.com/freshetdev/freshet/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func number(t *testing.T, s *freshettest.Store, o ...freshet.Options) (*freshet.Client, *freshet.Cache[int, int], *freshettest.Loads[int, int]) {
	t.Helper()
	client := s.Open(o...)
	var n atomic.Int64
	loads := freshettest.Count(func(context.Context, int, *freshet.Load) (int, error) { return int(n.Add(1)), nil })
	cache, err := freshet.NewCache(client, freshet.Config[int, int]{Name: "n", TTL: time.Hour, Load: loads.Load})
	if err != nil {
		t.Fatal(err)
	}
	return client, cache, loads
}

func took(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func TestFaults(t *testing.T) {
	freshettest.Run(t, func(t *testing.T, s *freshettest.Store) {
		a, cache, loads := number(t, s)
		b, other, _ := number(t, s)
		f := func(what string, pending bool, slow time.Duration) {
			t.Helper()
			var err error
			d := took(func() { err = cache.Drop(t.Context(), 1) })
			if errors.Is(err, freshet.ErrPending) != pending || d != slow {
				t.Errorf("%s: Drop: %v after %v; want pending %v after %v", what, err, d, pending, slow)
			}
			if err := other.Drop(t.Context(), 2); err != nil {
				t.Errorf("%s: the other's drop: %v", what, err)
			}
		}
		restore := func() {
			s.Restore(a)
			s.Settle()
			freshettest.Pass(time.Second)
		}
		f("nothing", false, 0)
		s.Down(a)
		f("down", true, 0)
		if a.Stats().LinkUp || !b.Stats().LinkUp {
			t.Error("only the link of the first should be down")
		}
		restore()
		s.Hang(a)
		f("hang", true, 50*time.Millisecond)
		freshettest.Pass(2 * time.Second)
		if st := a.Stats(); !st.LinkUp || st.StaleFor < time.Second {
			t.Errorf("hang: %+v", st)
		}
		restore()
		s.Slow(20*time.Millisecond, a)
		f("slow", false, 20*time.Millisecond)
		s.Slow(60*time.Millisecond, a)
		f("too slow", true, 50*time.Millisecond)
		restore()
		f("restored", false, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		s.Hang()
		if d := took(func() { a.DropKeys(ctx, "n:1") }); d != time.Millisecond {
			t.Errorf("the caller's context ends the wait after %v; want 1ms", d)
		}
		loads.Want(t, 0)
	})
}

// What is announced while the store is silent comes in its order when that is over.
func TestHangHoldsAnnouncements(t *testing.T) {
	freshettest.Run(t, func(t *testing.T, s *freshettest.Store) {
		a, ca, _ := number(t, s)
		b, cb, loads := number(t, s)
		cb.Get(t.Context(), 1)
		s.Hang(b)
		for range 3 {
			ca.Drop(t.Context(), 1)
		}
		freshettest.Pass(time.Millisecond)
		cb.Get(t.Context(), 1)
		loads.Want(t, 1)
		s.Restore(b)
		cb.Get(t.Context(), 1)
		loads.Want(t, 1)
		if gaps := b.Stats().Gaps; gaps != 0 {
			t.Errorf("%d gaps; want none", gaps)
		}
		_ = a
	})
}

func TestServerFaults(t *testing.T) {
	freshettest.Run(t, func(t *testing.T, s *freshettest.Store) {
		_, ca, loads := number(t, s)
		b, cb, others := number(t, s)
		ca.Get(t.Context(), 1)
		cb.Get(t.Context(), 1)
		others.Want(t, 0)
		s.LoseAnnouncements(1)
		ca.Clear(t.Context())
		freshettest.Pass(1)
		cb.Get(t.Context(), 1)
		others.Want(t, 0) // not told
		s.Settle()
		cb.Get(t.Context(), 1)
		others.Want(t, 1)

		if s.DropLease("n:1") {
			t.Error("DropLease took a value away")
		}
		loads.Slow(time.Second)
		done := make(chan freshet.Result[int])
		go func() {
			r, _ := ca.Lookup(t.Context(), 3)
			done <- r
		}()
		synctest.Wait()
		if !s.DropLease("n:3") {
			t.Error("DropLease found no lease")
		}
		if r := <-done; r.Stored || r.Refused == "" {
			t.Errorf("stored without a lease: %+v", r)
		}

		cb.Get(t.Context(), 4)
		if !s.Has("n:4") || s.Delete("n:4") != 1 || s.Has("n:4") {
			t.Error("Has and Delete disagree")
		}
		cb.Get(t.Context(), 4)
		s.Flush()
		freshettest.Pass(time.Second)
		cb.Get(t.Context(), 4)
		if b.Stats().Epochs < 1 {
			t.Error("no new epoch after Flush")
		}
	})
}

func TestLoads(t *testing.T) {
	freshettest.Run(t, func(t *testing.T, s *freshettest.Store) {
		_, cache, loads := number(t, s)
		cache.GetMany(t.Context(), []int{1, 2, 3})
		if loads.Total() != 3 || loads.Of(2) != 1 || loads.Of(9) != 0 {
			t.Errorf("%d loads, %d of 2", loads.Total(), loads.Of(2))
		}
		loads.Slow(time.Second)
		loads.Fail(errors.New("boom"))
		var err error
		if d := took(func() { _, err = cache.Get(t.Context(), 4) }); d != time.Second || err == nil || !strings.Contains(err.Error(), "boom") {
			t.Errorf("%v after %v; want boom after 1s", err, d)
		}
		rec := &recorder{TB: t}
		loads.Want(rec, 3)
		rec.want(t, "4 loads")
		loads.Want(t, 0)
	})
}

// A recorder is a test that is expected to fail.
type recorder struct {
	testing.TB
	said     []string
	cleanups []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) end() {
	for len(r.cleanups) > 0 {
		f := r.cleanups[len(r.cleanups)-1]
		r.cleanups = r.cleanups[:len(r.cleanups)-1]
		f()
	}
}
func (r *recorder) want(t *testing.T, parts ...string) {
	t.Helper()
	if len(r.said) != len(parts) {
		t.Errorf("the test said %q; want %q", r.said, parts)
		return
	}
	for i, part := range parts {
		if !strings.Contains(r.said[i], part) {
			t.Errorf("the test said %q; want %q", r.said[i], part)
		}
	}
}

// What is wrong at the end of a test fails it.
func TestTheEnd(t *testing.T) {
	f := func(use func(t *testing.T, s *freshettest.Store), parts ...string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			t.Helper()
			rec := &recorder{TB: t}
			use(t, freshettest.NewStore(rec))
			rec.end()
			rec.want(t, parts...)
			time.Sleep(time.Hour) // the loader that ignored its context ends
		})
	}
	f(func(t *testing.T, s *freshettest.Store) {
		_, cache, _ := number(t, s)
		cache.Get(t.Context(), 1)
	})
	f(func(t *testing.T, s *freshettest.Store) { // closed by the test
		c, _, _ := number(t, s)
		c.Close()
	})
	f(func(t *testing.T, s *freshettest.Store) { // pending, and delivered once the fault is over
		_, cache, _ := number(t, s)
		s.Down()
		cache.Drop(t.Context(), 1)
	})
	f(func(t *testing.T, s *freshettest.Store) {
		c, cache, _ := number(t, s)
		cache.Drop(c.Tx().Context(t.Context()), 1)
	}, "1 transactions are open")
	f(func(t *testing.T, s *freshettest.Store) {
		_, cache, _ := number(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		cache.GetFunc(ctx, 1, func(context.Context, *freshet.Load) (int, error) {
			time.Sleep(time.Minute)
			return 0, nil
		})
	}, "does a loader, or a commit, ignore its context")
}

// Between faults it is a store like any other.
func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		srv := memstore.NewServer(memstore.Options{})
		return storetest.Fixture{New: func() store.Store { return freshettest.Wrap(srv.Connect()) }, Foreign: srv}
	})
}
