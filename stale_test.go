package freshet

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// Two instances hold an entry that is past its time. Both serve it at once, one of them loads a new
// one, and both have that afterwards.
func TestWhileRevalidate(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: 5 * time.Second}, Load: src.load}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		expect(t, a, "k", "1 source")
		expect(t, b, "k", "1 l2")
		time.Sleep(10 * time.Second)
		src.set(time.Second, nil)
		d := took(func() {
			for range 20 {
				expect(t, a, "k", "1 l1 stale")
				expect(t, b, "k", "1 l1 stale")
			}
		})
		is(t, "time of 40 reads", d, 0)
		time.Sleep(time.Second - 1)
		expect(t, a, "k", "1 l1 stale")
		expect(t, b, "k", "1 l1 stale")
		time.Sleep(time.Millisecond)
		for _, c := range []*Cache[string, int]{a, b} { // one of them loaded it
			if r, err := c.Lookup(t.Context(), "k"); err != nil || r.Value != 2 || r.Stale || r.Level == observe.LevelSource {
				t.Errorf("got %s; want the new value from the cache", show(r, err))
			}
		}
		is(t, "loads", src.loads.Load(), 2)
		is(t, "refreshes", a.client.Stats().Refreshes+b.client.Stats().Refreshes, 1)
	})
}

func TestWhileRevalidateEnds(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: 5 * time.Second}, Load: src.load})
		expect(t, c, "k", "1 source")
		time.Sleep(15*time.Second - 2*time.Millisecond)
		src.set(time.Millisecond, nil)
		expect(t, c, "k", "1 l1 stale")
		time.Sleep(time.Second)
		expect(t, c, "k", "2 l1")
		time.Sleep(15 * time.Second)
		expect(t, c, "k", "3 source")
	})
}

// The shared level serves a stale value to those without L1, too, and while it is being loaded anew.
func TestWhileRevalidateWithoutL1(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: 10 * time.Second, MaxEntries: -1, Stale: Stale{WhileRevalidate: 5 * time.Second}, Load: src.load}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		expect(t, a, "k", "1 source")
		time.Sleep(10 * time.Second)
		src.set(time.Second, nil)
		d := took(func() {
			for range 5 {
				expect(t, a, "k", "1 l2 stale")
				expect(t, b, "k", "1 l2 stale")
				synctest.Wait()
			}
		})
		is(t, "time of 10 reads", d, 0)
		time.Sleep(2 * time.Second)
		expect(t, a, "k", "2 l2")
		expect(t, b, "k", "2 l2")
		is(t, "loads", src.loads.Load(), 2)
	})
}

// A drop ends the stale window at once, and a refresh under way stores nothing.
func TestDropEndsWhileRevalidate(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: time.Minute, IfError: time.Minute}, Load: src.load,
			Tags: func(k string) []string { return []string{Tag("t", k)} }}
		ca, cb := l.client(), l.client()
		a, b := cacheIn(t, ca, cfg), cacheIn(t, cb, cfg)
		drops := []func() error{
			func() error { return b.Drop(t.Context(), "k") },
			func() error { return cb.DropTags(t.Context(), Tag("t", "k")) },
			func() error { return b.Clear(t.Context()) },
			func() error { l.srv.Del("n:k"); return nil },
		}
		for i, drop := range drops {
			src.loads.Store(0)
			src.set(0, nil)
			if err := a.Drop(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			tick()
			expect(t, a, "k", "1 source")
			time.Sleep(11 * time.Second)
			src.set(time.Second, nil)
			expect(t, a, "k", "1 l1 stale")
			synctest.Wait()
			if err := drop(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			tick()
			src.set(0, nil)
			if r, err := a.Lookup(t.Context(), "k"); r.Value == 1 || err != nil {
				t.Errorf("drop %d: got %s; want a new value", i, show(r, err))
			}
			time.Sleep(time.Second)
			if r, err := b.Lookup(t.Context(), "k"); r.Value != 3 || err != nil {
				t.Errorf("drop %d: got %s; want the value of load 3", i, show(r, err))
			}
		}
	})
}

// A refresh that fails is tried again after RetryAfter, and the old value stays to the end of its window.
func TestFailedRefresh(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Load: src.load,
			Stale: Stale{WhileRevalidate: 10 * time.Second, RetryAfter: 2 * time.Second}})
		expect(t, c, "k", "1 source")
		time.Sleep(10 * time.Second)
		src.set(0, errBoom)
		for range 40 {
			expect(t, c, "k", "1 l1 stale")
			synctest.Wait()
			time.Sleep(250*time.Millisecond - 1)
		}
		is(t, "loads in 10 s", src.loads.Load()-1, 5)
		time.Sleep(time.Second)
		expect(t, c, "k", `error freshet: load "n:k": boom`)
	})
}

func TestIfErrorByClass(t *testing.T) {
	var errFatal = errors.New("fatal")
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Load: src.load,
			Stale: Stale{IfError: time.Minute, ErrorIs: func(err error) bool { return !errors.Is(err, errFatal) }}})
		expect(t, c, "k", "1 source")
		time.Sleep(10 * time.Second)
		src.set(0, errFatal)
		expect(t, c, "k", `error freshet: load "n:k": fatal`)
		src.set(0, errBoom)
		r := expect(t, c, "k", "1 l1 stale")
		var le *LoadError
		if !errors.As(r.Err, &le) || !errors.Is(r.Err, errBoom) || le.Key != "n:k" || le.Cache != "n" {
			t.Errorf("the result's error is %v; want a LoadError that wraps boom", r.Err)
		}
		v, err := c.Get(t.Context(), "k")
		is(t, "value", v, 1)
		is(t, "error", err, nil)
		time.Sleep(time.Minute)
		expect(t, c, "k", `error freshet: load "n:k": boom`)
	})
}

func TestIfErrorNeverCoversNotFound(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Load: src.load,
			Stale: Stale{IfError: time.Minute, ErrorIs: func(error) bool { return true }}})
		expect(t, c, "k", "1 source")
		time.Sleep(10 * time.Second)
		src.set(0, fmt.Errorf("no row: %w", ErrNotFound))
		expect(t, c, "k", "not found source")
		expect(t, c, "k", "not found l1")
		src.set(0, errBoom)
		time.Sleep(10 * time.Second)
		expect(t, c, "k", `error freshet: load "n:k": boom`) // the value is gone for good
	})
}

func TestIfErrorNeverServesWhatWasDropped(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		ca, cb := l.client(), l.client()
		c := cacheIn(t, ca, Config[string, int]{TTL: 10 * time.Second, Load: src.load, Stale: Stale{IfError: time.Hour},
			Tags: func(k string) []string { return []string{"all"} }})
		for i, drop := range []func() error{
			func() error { return c.Drop(t.Context(), "k") },
			func() error { return cb.DropKeys(t.Context(), "n:k") },
			func() error { return cb.DropTags(t.Context(), "all") },
			func() error { return c.Clear(t.Context()) },
			func() error { l.srv.Del("n:k"); return nil },
		} {
			src.set(0, nil)
			if _, err := c.Get(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second) // expired, and held for errors
			if err := drop(); err != nil {
				t.Fatal(err)
			}
			tick()
			src.set(0, errBoom)
			if r, err := c.Lookup(t.Context(), "k"); err == nil {
				t.Errorf("drop %d: got %s; want an error", i, show(r, err))
			}
		}
	})
}

// While RetryAfter lasts, the source is not asked again, neither by Get nor by GetMany.
func TestRetryAfter(t *testing.T) {
	for _, after := range []time.Duration{0, 5 * time.Second} {
		inLab(t, func(t *testing.T, l *lab) {
			var src source
			c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Load: src.load,
				Stale: Stale{IfError: time.Minute, RetryAfter: after}})
			expect(t, c, "k", "1 source")
			time.Sleep(10 * time.Second)
			src.set(0, errBoom)
			for i := range 5 {
				is(t, "loads", src.loads.Load(), int64(i+1))
				for range 10 {
					r, err := c.Lookup(t.Context(), "k")
					if err != nil || r.Value != 1 || !r.Stale || r.Err == nil {
						t.Fatalf("got %s, err %v; want the old value with an error", show(r, err), r.Err)
					}
					m, err := c.GetMany(t.Context(), []string{"k"})
					if err != nil || m["k"] != 1 {
						t.Fatalf("got %v, %v; want the old value", m, err)
					}
				}
				is(t, "loads", src.loads.Load(), int64(i+2))
				time.Sleep(max(after, time.Second))
			}
			src.set(0, nil)
			expect(t, c, "k", "7 source")
		})
	}
}

// An instance that never held the value pauses, too: it has the old value from the shared level.
func TestRetryAfterFromL2(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: 10 * time.Second, Load: src.load, Stale: Stale{IfError: time.Minute}}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		expect(t, a, "k", "1 source")
		time.Sleep(10 * time.Second)
		src.set(0, errBoom)
		for range 10 {
			if r, err := b.Lookup(t.Context(), "k"); err != nil || r.Value != 1 || !r.Stale {
				t.Fatalf("got %s; want the old value", show(r, err))
			}
		}
		is(t, "loads", src.loads.Load(), 2)
	})
}

// Past SoftTimeout a caller gets the old value, and the load goes on and is stored.
func TestSoftTimeout(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Load: src.load,
			SoftTimeout: 100 * time.Millisecond, Stale: Stale{IfError: time.Minute}})
		src.set(time.Second, nil)
		is(t, "first load", took(func() { expect(t, c, "k", "1 source") }), time.Second) // there is nothing else to serve
		time.Sleep(10 * time.Second)

		other := inBackground(t.Context(), c, "k")
		var r Result[int]
		is(t, "wait", took(func() { r = expect(t, c, "k", "1 l1 stale") }), 100*time.Millisecond)
		is(t, "error", r.Err, ErrSlow)
		is(t, "the other's", other(), "1 l1 stale")
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		expect(t, c, "k", "2 l1")
		is(t, "loads", src.loads.Load(), 2)
		if rec := l.record("n:k"); rec == nil || string(rec.Payload) != "2" {
			t.Errorf("the shared level holds %+v; want the value of load 2", rec)
		}
	})
}

// SoftTimeout is no reason to serve what was dropped.
func TestSoftTimeoutAfterADrop(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Load: src.load,
			SoftTimeout: 100 * time.Millisecond, Stale: Stale{IfError: time.Minute}})
		expect(t, c, "k", "1 source")
		time.Sleep(10 * time.Second)
		src.set(time.Second, nil)
		got := inBackground(t.Context(), c, "k")
		time.Sleep(50 * time.Millisecond)
		if err := c.Drop(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		is(t, "got", got(), "2 source refused lease-lost")
	})
}

func TestLoadTimeout(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(time.Hour, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, LoadTimeout: 3 * time.Second, Load: src.load})
		d := took(func() {
			_, err := c.Get(t.Context(), "k")
			var le *LoadError
			if !errors.As(err, &le) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v; want a LoadError for the deadline", err)
			}
		})
		is(t, "time", d, 3*time.Second)
		src.set(0, nil)
		synctest.Wait() // the lease was given back: nobody waits for it to end
		is(t, "time of the next", took(func() { expect(t, c, "k", "2 source") }), 0)
	})
}

// A loader that says NoStore to every refresh is not asked at every hit.
func TestRefreshNotStored(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		loads := 0
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: time.Minute},
			Load: func(_ context.Context, _ string, l *Load) (int, error) {
				loads++
				if l.Refresh() {
					l.NoStore()
				}
				return loads, nil
			}})
		expect(t, c, "k", "1 source")
		time.Sleep(10 * time.Second)
		for range 100 {
			expect(t, c, "k", "1 l1 stale")
			synctest.Wait()
			time.Sleep(time.Millisecond)
		}
		is(t, "loads", loads, 2)
	})
}

// It is one SoftTimeout for all keys of a batch.
func TestSoftTimeoutOfABatch(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Second, Load: src.load, SoftTimeout: 100 * time.Millisecond, Stale: Stale{IfError: time.Minute}})
		var ks []string
		for i := range 2 { // with many timers at one instant, the race detector of Go 1.26 crashes in a bubble now and then
			ks = append(ks, fmt.Sprint(i))
		}
		if _, err := c.GetMany(t.Context(), ks); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		src.set(5*time.Second, nil)
		is(t, "it takes", took(func() {
			if m, err := c.GetMany(t.Context(), ks); err != nil || len(m) != len(ks) {
				t.Errorf("got %d values, %v", len(m), err)
			}
		}), 100*time.Millisecond)
		time.Sleep(10 * time.Second)
	})
}
