package freshet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// A lab is a server and instances that share it, in a bubble: time passes only in Sleep, and goes by in no time.
type lab struct {
	t   *testing.T
	srv *memstore.Server
	n   int
}

func inLab(t *testing.T, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, &lab{t: t, srv: memstore.NewServer(memstore.Options{})})
	})
}

// client makes another instance, named a, b, c and so on, that has read the log.
func (l *lab) client(edit ...func(*Options)) *Client {
	l.t.Helper()
	o := Options{ExactClock: true, Name: string(rune('a' + l.n))}
	l.n++
	for _, e := range edit {
		e(&o)
	}
	c, err := New(l.srv.Connect(), o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	synctest.Wait()
	tick()
	return c
}

// tick lets a moment pass: what happens at the same nanosecond counts as at the same time, and a drop
// wins against a load then.
func tick() { time.Sleep(time.Microsecond) }

// cacheIn makes a cache whose times are exact unless cfg says otherwise: no jitter, no early refresh.
func cacheIn[K comparable, V any](t *testing.T, c *Client, cfg Config[K, V]) *Cache[K, V] {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "n"
	}
	if cfg.Jitter == 0 {
		cfg.Jitter = -1
	}
	if cfg.EarlyRefresh == 0 {
		cfg.EarlyRefresh = -1
	}
	cache, err := NewCache(c, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

// A source answers loads with 1, 2, 3 and so on. The zero source answers at once.
type source struct {
	loads atomic.Int64
	under atomic.Int64 // loads under way
	most  atomic.Int64 // loads ever under way at once

	mu   sync.Mutex
	took time.Duration
	err  error
}

// set makes the loads from now on take that long and end with err.
func (s *source) set(took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took, s.err = took, err
}

func (s *source) load(ctx context.Context, _ string, _ *Load) (int, error) {
	n := s.loads.Add(1)
	under := s.under.Add(1)
	defer s.under.Add(-1)
	for most := s.most.Load(); under > most && !s.most.CompareAndSwap(most, under); most = s.most.Load() {
	}
	s.mu.Lock()
	took, err := s.took, s.err
	s.mu.Unlock()
	select {
	case <-time.After(took):
		return int(n), err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// show puts a result into a few words: "1 source", "1 l1 stale", "not found l2", "error boom".
func show[V any](r Result[V], err error) string {
	var b strings.Builder
	switch {
	case err == nil:
		fmt.Fprintf(&b, "%v %v", r.Value, r.Level)
	case errors.Is(err, ErrNotFound):
		fmt.Fprintf(&b, "not found %v", r.Level)
	default:
		fmt.Fprintf(&b, "error %v", err)
	}
	if r.Stale {
		b.WriteString(" stale")
	}
	if r.Joined {
		b.WriteString(" joined")
	}
	if r.Refused != observe.ReasonNone {
		fmt.Fprintf(&b, " refused %s", r.Refused)
	}
	return b.String()
}

// expect looks k up and compares what it gets.
func expect[K comparable, V any](t *testing.T, c *Cache[K, V], k K, want string) Result[V] {
	t.Helper()
	r, err := c.Lookup(t.Context(), k)
	if got := show(r, err); got != want {
		t.Errorf("%v: got %q; want %q", k, got, want)
	}
	return r
}

// inBackground looks k up in a goroutine of its own. The result is to be asked for once.
func inBackground[K comparable, V any](ctx context.Context, c *Cache[K, V], k K) (result func() string) {
	ch := make(chan string, 1)
	go func() {
		r, err := c.Lookup(ctx, k)
		ch <- show(r, err)
	}()
	synctest.Wait()
	return func() string { return <-ch }
}

// took returns how long f takes.
func took(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func is[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v; want %v", what, got, want)
	}
}

// record decodes what the server holds at key.
func (l *lab) record(key string) *store.Record {
	l.t.Helper()
	image, ok := l.srv.Get(key)
	if !ok {
		return nil
	}
	r, err := store.DecodeRecord(image)
	if err != nil {
		l.t.Fatalf("%s: %v", key, err)
	}
	return r
}

// head returns the end of the log.
func (l *lab) head(t *testing.T) store.Pos {
	t.Helper()
	c := l.srv.Connect()
	defer c.Close()
	h, err := c.Head(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return h.Pos
}

var errBoom = errors.New("boom")
