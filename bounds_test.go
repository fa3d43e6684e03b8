package freshet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// What is asked for by a key that is too long is loaded, by all who ask at the same time together, and kept nowhere.
func TestLongKey(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		client := l.client(func(o *Options) { o.MaxKey = 12 })
		c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, Load: src.load})
		fits, long := strings.Repeat("x", 10), strings.Repeat("x", 11) // and "n:"
		expect(t, c, fits, "1 source")
		expect(t, c, fits, "1 l1")
		for i := range 2 {
			r := expect(t, c, long, fmt.Sprintf("%d source refused long-key", i+2))
			is(t, "reason", r.Reason, observe.ReasonLongKey)
		}
		if m, err := c.GetMany(t.Context(), []string{fits, long}); err != nil || m[fits] != 1 || m[long] != 4 {
			t.Errorf("got %v, %v", m, err)
		}
		src.set(time.Second, nil)
		a, b := inBackground(t.Context(), c, long), inBackground(t.Context(), c, long)
		is(t, "a", a(), "5 source refused long-key")
		is(t, "b", b(), "5 source joined refused long-key")
		if err := c.Set(t.Context(), long, 1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("Set: %v", err)
		}
		if err := c.Drop(t.Context(), long); err != nil {
			t.Errorf("Drop: %v", err)
		}
		if _, there := l.srv.Get("n:" + long); there {
			t.Error("the long key is in the store")
		}
		is(t, "entries", client.Stats().Caches["n"].Entries, 1)
		x, err := client.Explain(t.Context(), "n:"+long)
		if err != nil || x.LastMiss != nil {
			t.Errorf("its misses are remembered: %v, %v", x.LastMiss, err)
		}
	})
}

// A value over the limit is returned, and kept nowhere, with Redis or without it.
func TestLargeValue(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		load := func(_ context.Context, n int, _ *Load) (string, error) { return strings.Repeat("x", n), nil }
		client := l.client()
		cfg := Config[int, string]{TTL: time.Hour, MaxValue: 1002, CompressOver: 100, Load: load} // 1000 in quotes
		c := cacheIn(t, client, cfg)
		look := func(c *Cache[int, string], n int, level observe.Level, refused observe.Reason) {
			t.Helper()
			r, err := c.Lookup(t.Context(), n)
			if err != nil || len(r.Value) != n || r.Level != level || r.Refused != refused {
				t.Errorf("%d: got %d bytes from %v, refused %q, %v; want level %v, refused %q", n, len(r.Value), r.Level, r.Refused, err, level, refused)
			}
		}
		look(c, 1000, observe.LevelSource, observe.ReasonNone)
		look(c, 1000, observe.LevelL1, observe.ReasonNone)
		for range 2 {
			look(c, 1001, observe.LevelSource, observe.ReasonTooLarge)
		}
		if err := c.Set(t.Context(), 5, strings.Repeat("x", 1001)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("Set: %v", err)
		}
		// What another instance stored under a larger limit, compressed or not.
		cfg.MaxValue = -1
		big := cacheIn(t, l.client(), cfg)
		look(big, 5000, observe.LevelSource, observe.ReasonNone)
		r, err := c.Lookup(t.Context(), 5000)
		if err != nil || r.Level != observe.LevelSource || r.Reason != observe.ReasonTooLarge {
			t.Errorf("what another stored: from %v, %q, %v", r.Level, r.Reason, err)
		}
		mend := cut(client)
		for range 2 {
			look(c, 1001, observe.LevelSource, observe.ReasonTooLarge)
		}
		mend()

		plain := cacheIn(t, client, Config[int, string]{Name: "p", TTL: time.Hour, Plain: true, MaxValue: 10, Load: load})
		l.srv.Set("p:3", []byte(`"`+strings.Repeat("y", 100)+`"`), time.Hour)
		r, err = plain.Lookup(t.Context(), 3)
		if err != nil || r.Value != "xxx" || r.Reason != observe.ReasonTooLarge {
			t.Errorf("a large plain value: %q, %q, %v", r.Value, r.Reason, err)
		}
	})
}

// An entry with too many tags is returned, and kept nowhere, however it comes by them.
func TestManyTags(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		tags := func(n int) (list []string) {
			for i := range n {
				list = append(list, Tag("t", i))
			}
			return list
		}
		client := l.client()
		early := cacheIn(t, client, Config[int, int]{
			TTL: time.Hour, MaxTags: 102, // n! and t!, and a hundred
			Tags: tags, Load: func(_ context.Context, n int, _ *Load) (int, error) { return n, nil },
		})
		late := cacheIn(t, client, Config[int, int]{
			Name: "late", TTL: time.Hour, MaxTags: 102,
			Load: func(_ context.Context, n int, l *Load) (int, error) { l.Tag(tags(n)...); return n, nil },
		})
		for _, c := range []*Cache[int, int]{early, late} {
			expect(t, c, 100, "100 source")
			expect(t, c, 100, "100 l1")
			for range 2 {
				expect(t, c, 101, "101 source refused many-tags")
				expect(t, c, 5000, "5000 source refused many-tags")
			}
		}
		if m, err := early.GetMany(t.Context(), []int{101, 100, 7}); err != nil || len(m) != 3 {
			t.Errorf("got %v, %v", m, err)
		}
		expect(t, early, 7, "7 l1")
		expect(t, early, 101, "101 source refused many-tags")
		if err := early.Set(t.Context(), 101, 1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("Set: %v", err)
		}
		if err := late.Set(t.Context(), 1, 1, tags(101)...); !errors.Is(err, ErrTooLarge) {
			t.Errorf("Set: %v", err)
		}
	})
}

// withCoarse has each tag once, few or many.
func TestWithCoarse(t *testing.T) {
	for _, n := range []int{1, 10, 51, 3000} {
		var tags []string
		for i := range n {
			tags = append(tags, Tag("t", i%(n/2+1)), Tag("u", i%(n/2+1)))
		}
		got := withCoarse([]string{"n!"}, tags)
		seen := make(map[string]bool)
		for _, tag := range got {
			if seen[tag] {
				t.Fatalf("%s is there twice", tag)
			}
			seen[tag] = true
		}
		is(t, "tags", len(got), 3+2*(n/2+1))
	}
}

// L1 keeps to its bytes also while nothing can be stored in the shared level, and counts what an entry takes here.
func TestMaxBytesHolds(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		load := func(context.Context, int, *Load) (string, error) { return strings.Repeat("x", 1000), nil }
		cfg := Config[int, string]{TTL: time.Hour, MaxBytes: 20_000, CompressOver: 100, Load: load}
		client, other := l.client(), l.client()
		c, far := cacheIn(t, client, cfg), cacheIn(t, other, cfg)
		for i := range 100 {
			c.Get(t.Context(), i)
			far.Get(t.Context(), i) // from the shared level, where it is small
		}
		mend := cut(client)
		for i := range 100 {
			c.Get(t.Context(), 1000+i)
		}
		mend()
		time.Sleep(time.Second)
		for _, s := range []CacheStats{client.Stats().Caches["n"], other.Stats().Caches["n"]} {
			if s.Entries > 20 || s.Entries < 10 || s.Weight > 20_000 {
				t.Errorf("%d entries of %d bytes; want at most 20 of 20,000", s.Entries, s.Weight)
			}
		}
	})
}
