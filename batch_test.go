package freshet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/store"
)

// A manySource answers batches with what it has for each key, and remembers what it was asked for.
type manySource struct {
	mu    sync.Mutex
	asked []string // "a b" for each call of LoadMany
	took  time.Duration
	have  func(k string) (int, bool)
	err   error
	panic any
	each  func(k string, l *Load)
	ended error // cause of the end of the last batch's context
}

func (s *manySource) loadMany(ctx context.Context, ks []string, l *BatchLoad[string]) (map[string]int, error) {
	s.mu.Lock()
	sorted := slices.Sorted(slices.Values(ks))
	s.asked = append(s.asked, strings.Join(sorted, " "))
	took, have, err, bad := s.took, s.have, s.err, s.panic
	s.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		s.mu.Lock()
		s.ended = context.Cause(ctx)
		s.mu.Unlock()
		return nil, context.Cause(ctx)
	}
	if bad != nil {
		panic(bad)
	}
	m := make(map[string]int)
	for _, k := range ks {
		if s.each != nil {
			s.each(k, l.For(k))
		}
		if have == nil {
			m[k] = len(k)
		} else if v, ok := have(k); ok {
			m[k] = v
		}
	}
	m["not asked for"] = 1
	return m, err
}

func (s *manySource) batches() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.asked, ", ")
	s.asked = nil
	return all
}

func many(t *testing.T, c *Cache[string, int], ks ...string) string {
	t.Helper()
	m, err := c.GetMany(t.Context(), ks)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%d ", k, m[k])
	}
	if err != nil {
		b.WriteString(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return strings.TrimSpace(b.String())
}

func TestGetMany(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		src := &manySource{have: func(k string) (int, bool) { return int(k[0]), k != "zz" }}
		cfg := Config[string, int]{TTL: 10 * time.Second, LoadMany: src.loadMany, Tags: func(k string) []string { return []string{Tag("t", k)} }}
		ca, cb := l.client(), l.client()
		a, b := cacheIn(t, ca, cfg), cacheIn(t, cb, cfg)
		f := func(got, want, batches string) {
			t.Helper()
			if got != want {
				t.Errorf("got %q; want %q", got, want)
			}
			if got := src.batches(); got != batches {
				t.Errorf("the source was asked for %q; want %q", got, batches)
			}
		}
		f(many(t, a), "", "")
		f(many(t, a, "a", "b", "a", "a"), "a=97 b=98", "a b") // each key once
		f(many(t, a, "b", "a"), "a=97 b=98", "")
		f(many(t, a, "b", "c", "zz", "d"), "b=98 c=99 d=100", "c d zz") // one batch for what is missing; what it leaves out is not found
		f(many(t, a, "zz", "a"), "a=97", "")                            // and remembered
		f(many(t, b, "a", "b", "c", "d", "e", "zz"), "a=97 b=98 c=99 d=100 e=101", "e")
		is(t, "reads answered by the shared level", cb.Stats().HitsL2, 5)
		f(many(t, b, "zz"), "", "")
		if _, err := b.Get(t.Context(), "zz"); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v; want not found", err)
		}
		if v, err := a.Get(t.Context(), "single"); v != 's' || err != nil { // LoadMany loads single keys
			t.Errorf("got %v, %v", v, err)
		}
		f("", "", "single")

		// A drop of one key or tag is a miss of those that depend on it.
		if err := cb.DropTags(t.Context(), Tag("t", "a")); err != nil {
			t.Fatal(err)
		}
		if err := b.Drop(t.Context(), "b", "c"); err != nil {
			t.Fatal(err)
		}
		tick()
		f(many(t, a, "a", "b", "c", "d"), "a=97 b=98 c=99 d=100", "a b c")
		if err := b.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		tick()
		f(many(t, a, "a", "d"), "a=97 d=100", "a d")
		time.Sleep(10 * time.Second)
		f(many(t, a, "a", "d"), "a=97 d=100", "a d")
	})
}

// A cache with only Load loads the missing keys side by side.
func TestGetManyWithLoadOnly(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(time.Second, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Minute, Load: func(ctx context.Context, k string, l *Load) (int, error) {
			if _, err := src.load(ctx, k, l); err != nil {
				return 0, err
			}
			switch k {
			case "none":
				return 0, ErrNotFound
			case "bad":
				return 0, errBoom
			}
			return len(k), nil
		}})
		d := took(func() {
			is(t, "got", many(t, c, "a", "bb", "none", "bad", "bb"), `a=1 bb=2 freshet: load "n:bad": boom`)
		})
		is(t, "time", d, time.Second)
		is(t, "loads", src.loads.Load(), 4)
		is(t, "got", many(t, c, "a", "bb", "none"), "a=1 bb=2")
		is(t, "loads", src.loads.Load(), 4)
	})
}

func TestGetManyErrors(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		src := &manySource{}
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, LoadMany: src.loadMany, Stale: Stale{IfError: time.Minute}})
		is(t, "got", many(t, c, "a"), "a=1")
		time.Sleep(10 * time.Second)

		// What the source returns with an error is good; the old value covers one key; the others fail.
		src.have, src.err = func(k string) (int, bool) { return 7, k == "b" }, errBoom
		m, err := c.GetMany(t.Context(), []string{"a", "b", "c", "d"})
		if len(m) != 2 || m["a"] != 1 || m["b"] != 7 {
			t.Errorf("got %v; want a and b", m)
		}
		failed := map[string]bool{}
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			var le *LoadError
			if !errors.As(e, &le) || !errors.Is(e, errBoom) {
				t.Errorf("%v is no LoadError of boom", e)
				continue
			}
			failed[le.Key] = true
		}
		if len(failed) != 2 || !failed["n:c"] || !failed["n:d"] {
			t.Errorf("failed: %v; want c and d", failed)
		}
		synctest.Wait()

		src.have, src.err, src.panic = nil, nil, "ouch"
		m, err = c.GetMany(t.Context(), []string{"x", "y"})
		var pe *PanicError
		if len(m) != 0 || !errors.As(err, &pe) || pe.Value != "ouch" || !strings.Contains(string(pe.Stack), "manySource") {
			t.Errorf("got %v, %v; want a PanicError with its stack", m, err)
		}
		src.panic = nil
		is(t, "got", many(t, c, "x", "y"), "x=1 y=1") // the leases were given back
	})
}

// A batch waits for keys that others are loading, and loads the rest.
func TestGetManyJoins(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		src := &manySource{took: time.Second}
		cfg := Config[string, int]{TTL: time.Minute, LoadMany: src.loadMany}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		single := inBackground(t.Context(), a, "aa")
		time.Sleep(100 * time.Millisecond)
		first := make(chan string, 1)
		go func() { first <- many(t, a, "aa", "bb", "cc") }()
		time.Sleep(100 * time.Millisecond)
		second := make(chan string, 2)
		go func() { second <- many(t, a, "cc", "dd") }()
		time.Sleep(100 * time.Millisecond)
		go func() { second <- many(t, b, "cc", "dd", "ee") }() // on another instance
		is(t, "single", single(), "2 source")
		is(t, "first", <-first, "aa=2 bb=2 cc=2")
		for range 2 {
			if got := <-second; got != "cc=2 dd=2" && got != "cc=2 dd=2 ee=2" {
				t.Errorf("got %s", got)
			}
		}
		is(t, "batches", src.batches(), "aa, bb cc, dd, ee")
		for _, k := range []string{"aa", "bb", "cc", "dd"} {
			expect(t, a, k, "2 l1")
		}
	})
}

func TestGetManyStale(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n := 0
		src := &manySource{have: func(string) (int, bool) { return n, true }}
		cfg := Config[string, int]{TTL: 10 * time.Second, LoadMany: src.loadMany, Stale: Stale{WhileRevalidate: time.Minute}}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		n = 1
		is(t, "got", many(t, a, "a", "b"), "a=1 b=1")
		time.Sleep(10 * time.Second)
		src.took, n = time.Second, 2
		d := took(func() {
			is(t, "a got", many(t, a, "a", "b"), "a=1 b=1")
			is(t, "b got", many(t, b, "a", "b"), "a=1 b=1") // from the shared level
			synctest.Wait()
			is(t, "b got", many(t, b, "a", "b"), "a=1 b=1")
		})
		is(t, "time", d, 0)
		time.Sleep(2 * time.Second)
		is(t, "a got", many(t, a, "a", "b"), "a=2 b=2")
		is(t, "b got", many(t, b, "a", "b"), "a=2 b=2")
	})
}

// What a loader says of one key of a batch is for that key alone.
func TestBatchLoad(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src *manySource
		src = &manySource{each: func(k string, l *Load) {
			if l.Key() != "n:"+k {
				t.Errorf("the Load of %s is that of %s", k, l.Key())
			}
			switch k {
			case "ttl":
				l.TTL(time.Second)
			case "unstored":
				l.NoStore()
			case "tagged":
				l.Tag("late")
			}
		}}
		client := l.client()
		c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, LoadMany: func(ctx context.Context, ks []string, b *BatchLoad[string]) (map[string]int, error) {
			if b.For("unknown") != nil {
				t.Error("there is a Load for a key that was not asked for")
			}
			return src.loadMany(ctx, ks, b)
		}})
		all := []string{"plain", "ttl", "unstored", "tagged"}
		many(t, c, all...)
		is(t, "batches", src.batches(), "plain tagged ttl unstored")
		many(t, c, all...)
		is(t, "batches", src.batches(), "unstored")
		time.Sleep(time.Second)
		many(t, c, all...)
		is(t, "batches", src.batches(), "ttl unstored")
		if err := client.DropTags(t.Context(), "late"); err != nil {
			t.Fatal(err)
		}
		tick()
		many(t, c, all...)
		is(t, "batches", src.batches(), "tagged unstored")
	})
}

// A caller of a batch who leaves ends the load only if nobody else wants any of its keys.
func TestGetManyCancelled(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		src := &manySource{took: time.Second}
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Minute, LoadMany: src.loadMany})
		ask := func(ks ...string) (leave func(), result func() (map[string]int, error)) {
			ctx, cancel := context.WithCancelCause(t.Context())
			type answer struct {
				m   map[string]int
				err error
			}
			ch := make(chan answer, 1)
			go func() {
				m, err := c.GetMany(ctx, ks)
				ch <- answer{m, err}
			}()
			synctest.Wait()
			return func() { cancel(errBoom); synctest.Wait() }, func() (map[string]int, error) { a := <-ch; return a.m, a.err }
		}

		leave, result := ask("a", "b", "c", "d")
		leave()
		if m, err := result(); len(m) != 0 || !errors.Is(err, errBoom) {
			t.Errorf("got %v, %v; want the cause of its end", m, err)
		}
		if src.ended == nil {
			t.Error("the load goes on though nobody waits")
		}
		src.ended = nil

		leave, result = ask("a", "b", "c", "d")
		_, other := ask("c")
		leave()
		if _, err := result(); !errors.Is(err, errBoom) {
			t.Errorf("got %v; want the cause of its end", err)
		}
		if m, err := other(); m["c"] != 1 || err != nil {
			t.Errorf("the other got %v, %v; want c", m, err)
		}
		if src.ended != nil {
			t.Errorf("the load was ended: %v", src.ended)
		}
		src.batches()
		is(t, "got", many(t, c, "a", "b", "c", "d"), "a=1 b=1 c=1 d=1")
		is(t, "batches", src.batches(), "") // all were stored
	})
}

// A slowRead store takes its time for the first read, unless who reads leaves.
type slowRead struct {
	store.Store
	reads atomic.Int64
	after func() // that read was given up; may be nil
}

func (s *slowRead) Read(ctx context.Context, keys []string, plain bool) ([]store.Value, error) {
	if s.reads.Add(1) == 1 {
		select {
		case <-ctx.Done():
			if s.after != nil {
				s.after()
			}
			return make([]store.Value, len(keys)), ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return s.Store.Read(ctx, keys, plain)
}

// joinLeft has one GetMany led by somebody who leaves while the store is read, and returns what another gets who joined it.
func joinLeft(t *testing.T, s *slowRead, client *Client, cfg Config[string, int], ks []string) (map[string]int, error) {
	t.Helper()
	synctest.Wait()
	c := cacheIn(t, client, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	left := make(chan error, 1)
	go func() {
		_, err := c.GetMany(ctx, ks)
		left <- err
	}()
	time.Sleep(time.Millisecond)
	m, err := c.GetMany(t.Context(), ks)
	if err := <-left; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who led: %v", err)
	}
	return m, err
}

// Who joined a batch whose leader left while it read the store makes one batch of it, too.
func TestBatchWhoseLeaderLeft(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		s := &slowRead{Store: l.srv.Connect()}
		client, err := New(s, Options{ExactClock: true})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		var batches []int
		var ks []string
		for i := range 100 {
			ks = append(ks, fmt.Sprint(i))
		}
		m, err := joinLeft(t, s, client, Config[string, int]{TTL: time.Hour, LoadMany: func(_ context.Context, ks []string, _ *BatchLoad[string]) (map[string]int, error) {
			batches = append(batches, len(ks))
			out := make(map[string]int)
			for _, k := range ks {
				if k != "7" {
					out[k] = len(k)
				}
			}
			return out, nil
		}}, ks)
		if err != nil || len(m) != 99 {
			t.Errorf("%d values, %v", len(m), err)
		}
		if !slices.Equal(batches, []int{100}) || s.reads.Load() != 2 {
			t.Errorf("batches of %v, %d reads; want one of 100, and 2", batches, s.reads.Load())
		}
	})
}

// What comes of it is no less an error: a key that is missing in the map would look as if the source didn't have it.
func TestBatchWhoseLeaderLeftFails(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		s := &slowRead{Store: l.srv.Connect()}
		client, err := New(s, Options{ExactClock: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			client.closed.Store(false)
			client.Close()
		}()
		s.after = func() { client.closed.Store(true) } // Close has come so far
		var src source
		if m, err := joinLeft(t, s, client, Config[string, int]{TTL: time.Hour, Load: src.load}, []string{"a", "b"}); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: got %v, %v; want ErrClosed", m, err)
		}
	})
	inLab(t, func(t *testing.T, l *lab) {
		s := &slowRead{Store: l.srv.Connect()}
		client, err := New(s, Options{ExactClock: true})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		var src source
		src.set(0, errBoom)
		if m, err := joinLeft(t, s, client, Config[string, int]{TTL: time.Hour, Load: src.load}, []string{"a", "b"}); len(m) > 0 || !errors.Is(err, errBoom) {
			t.Errorf("failed loads: got %v, %v; want the errors", m, err)
		}
	})
}
