package freshettest

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
)

// Loads is a loader that counts, fails and dawdles: give its Load to Config.Load, or to several caches.
type Loads[K comparable, V any] struct {
	load func(context.Context, K, *freshet.Load) (V, error)

	mu  sync.Mutex
	n   map[K]int
	err error
	d   time.Duration
}

// Count makes a counting loader of one that asks your source.
func Count[K comparable, V any](load func(context.Context, K, *freshet.Load) (V, error)) *Loads[K, V] {
	return &Loads[K, V]{load: load, n: make(map[K]int)}
}

// Load counts, and then loads, or fails if Fail says so.
func (l *Loads[K, V]) Load(ctx context.Context, k K, fl *freshet.Load) (V, error) {
	l.mu.Lock()
	l.n[k]++
	err, d := l.err, l.d
	l.mu.Unlock()
	var none V
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return none, context.Cause(ctx)
		}
	}
	if err != nil {
		return none, err
	}
	return l.load(ctx, k, fl)
}

// Fail makes loads that begin from now on end with err; nil lets them succeed again.
func (l *Loads[K, V]) Fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// Slow makes loads that begin from now on take d longer.
func (l *Loads[K, V]) Slow(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.d = d
}

// Total returns how many loads have begun since the last Want.
func (l *Loads[K, V]) Total() (total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.n {
		total += n
	}
	return total
}

// Of returns how many loads of k have begun since the last Want.
func (l *Loads[K, V]) Of(k K) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n[k]
}

// Want fails the test unless total loads have begun since the last Want, and begins to count anew.
func (l *Loads[K, V]) Want(t testing.TB, total int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	got := 0
	for _, n := range l.n {
		got += n
	}
	if got != total {
		t.Errorf("%d loads, %s; want %d", got, fmt.Sprint(maps.Clone(l.n)), total)
	}
	clear(l.n)
}
