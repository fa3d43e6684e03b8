package freshet

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/freshetdev/freshet/store"
)

func TestNegativeTTL(t *testing.T) {
	f := func(ttl, negative, want time.Duration) {
		t.Helper()
		inLab(t, func(t *testing.T, l *lab) {
			var src source
			src.set(0, ErrNotFound)
			c := cacheIn(t, l.client(), Config[string, int]{TTL: ttl, NegativeTTL: negative, Load: src.load})
			if want == 0 {
				expect(t, c, "k", "not found source refused no-store")
				expect(t, c, "k", "not found source refused no-store")
				return
			}
			expect(t, c, "k", "not found source")
			is(t, "kind", l.record("n:k").Kind, store.KindNegative)
			time.Sleep(want - 1)
			expect(t, c, "k", "not found l1")
			time.Sleep(1)
			expect(t, c, "k", "not found source")
		})
	}
	f(time.Hour, 0, 10*time.Second)
	f(5*time.Second, 0, 5*time.Second)
	f(5*time.Second, time.Minute, time.Minute)
	f(time.Hour, -1, 0)
}

func TestNegativeEntriesAreSharedAndCleared(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: time.Hour, Load: src.load, Tags: func(k string) []string { return []string{Tag("t", k)} }}
		ca, cb := l.client(), l.client()
		a, b := cacheIn(t, ca, cfg), cacheIn(t, cb, cfg)
		for i, clear := range []func() error{
			func() error { return b.Drop(t.Context(), "k") },
			func() error { return cb.DropTags(t.Context(), Tag("t", "k")) },
			func() error { return b.Clear(t.Context()) },
			func() error { return b.Set(t.Context(), "k", 99) },
		} {
			src.set(0, ErrNotFound)
			if i > 0 {
				a.Drop(t.Context(), "k")
				tick()
			}
			expect(t, a, "k", "not found source")
			expect(t, b, "k", "not found l2")
			expect(t, b, "k", "not found l1")
			if r, ok := b.Peek(t.Context(), "k"); ok {
				t.Errorf("Peek found %+v; want nothing", r)
			}
			src.set(0, nil)
			if err := clear(); err != nil {
				t.Fatal(err)
			}
			tick()
			v, err := a.Get(t.Context(), "k")
			if err != nil || i == 3 && v != 99 {
				t.Errorf("way %d: got %v, %v after it was cleared", i, v, err)
			}
		}
	})
}

func TestNegativeResults(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Hour, Load: func(_ context.Context, k string, l *Load) (int, error) {
			l.TTL(2 * time.Second)
			return 7, errors.Join(errors.New("gone"), ErrNotFound) // the value with it means nothing
		}})
		for _, want := range []string{"not found source", "not found l1"} {
			r := expect(t, c, "k", want)
			is(t, "value", r.Value, 0)
			is(t, "ttl", r.TTL, 2*time.Second)
		}
		v, err := c.Get(t.Context(), "k")
		if v != 0 || !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v, %v; want ErrNotFound", v, err)
		}
		m, err := c.GetMany(t.Context(), []string{"k", "k", "x"})
		if len(m) != 0 || err != nil {
			t.Errorf("got %v, %v; want an empty map", m, err)
		}
	})
}
