package freshet

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Loads beyond MaxLoads wait their turn within their time.
func TestMaxLoads(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(time.Second, nil)
		client := l.client(func(o *Options) { o.MaxLoads = 2 })
		a := cacheIn(t, client, Config[string, int]{Name: "a", TTL: time.Hour, Load: src.load})
		b := cacheIn(t, client, Config[string, int]{Name: "b", TTL: time.Hour, Load: src.load})
		own := cacheIn(t, client, Config[string, int]{Name: "own", TTL: time.Hour, MaxLoads: 1, Load: src.load})
		d := took(func() {
			var got []func() string
			for i := range 3 {
				got = append(got, inBackground(t.Context(), a, fmt.Sprint(i)), inBackground(t.Context(), b, fmt.Sprint(i)))
			}
			for _, g := range got {
				g()
			}
		})
		is(t, "time of 6 loads, 2 at once", d, 3*time.Second)
		is(t, "most at once", src.most.Load(), 2)
		is(t, "queued", client.Stats().LoadsQueued, 4)
		d = took(func() {
			first, second := inBackground(t.Context(), own, "1"), inBackground(t.Context(), own, "2")
			shared := inBackground(t.Context(), a, "x") // has places of its own
			shared()
			first()
			second()
		})
		is(t, "time of 2 loads, 1 at once", d, 2*time.Second)
	})
}

func TestMaxLoadsRunsIntoTheTimeout(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(time.Hour, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Hour, MaxLoads: 1, LoadTimeout: 2 * time.Second, Load: src.load})
		first := inBackground(t.Context(), c, "a")
		time.Sleep(500 * time.Millisecond)
		second, third := inBackground(t.Context(), c, "b"), inBackground(t.Context(), c, "b")
		is(t, "first", first(), `error freshet: load "n:a": freshet: LoadTimeout is over: context deadline exceeded`)
		// The second got its place with half a second left; the time in the queue counts.
		d := took(func() {
			is(t, "second", second(), `error freshet: load "n:b": freshet: LoadTimeout is over: context deadline exceeded`)
		})
		is(t, "time", d, 500*time.Millisecond)
		third()

		slow := inBackground(t.Context(), c, "a")
		time.Sleep(time.Second / 2)
		src.set(0, nil)
		own := cacheIn(t, c.client, Config[string, int]{Name: "m", TTL: time.Hour, MaxLoads: 1, LoadTimeout: time.Second, Load: func(ctx context.Context, k string, l *Load) (int, error) {
			time.Sleep(time.Hour) // it does not listen
			return 1, nil
		}})
		deaf := inBackground(t.Context(), own, "a")
		queued := inBackground(t.Context(), own, "b")
		is(t, "queued", queued(), `error freshet: load "m:b": waiting for one of 1 loads under way to end: freshet: LoadTimeout is over: context deadline exceeded`)
		slow()
		deaf()
	})
}

// A batch takes one place, however many keys it loads.
func TestBatchTakesOnePlace(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		src := &manySource{took: time.Second}
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Hour, MaxLoads: 1, LoadMany: src.loadMany})
		is(t, "time", took(func() { many(t, c, "a", "b", "c") }), time.Second)
		other := inBackground(t.Context(), c, "x")
		is(t, "time", took(func() { many(t, c, "d", "e") }), 2*time.Second)
		is(t, "other", other(), "1 source")
	})
}

// L1 keeps to its bounds, and what it gave up comes from the shared level.
func TestMaxEntries(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		client := l.client()
		byCount := cacheIn(t, client, Config[string, int]{Name: "count", TTL: time.Hour, MaxEntries: 50, Load: src.load})
		bySize := cacheIn(t, client, Config[string, int]{Name: "size", TTL: time.Hour, MaxBytes: 1000, Weigh: func(int) int { return 100 }, Load: src.load})
		none := cacheIn(t, client, Config[string, int]{Name: "none", TTL: time.Hour, MaxEntries: -1, Load: src.load})
		for i := range 500 {
			for _, c := range []*Cache[string, int]{byCount, bySize, none} {
				if _, err := c.Get(t.Context(), fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		stats := client.Stats().Caches
		if s := stats["count"]; s.Entries > 50 || s.Entries < 40 {
			t.Errorf("%d entries; want about 50", s.Entries)
		}
		if s := stats["size"]; s.Weight > 1000 || s.Entries > 10 || s.Entries < 5 {
			t.Errorf("%d entries of weight %d; want about 10 of 1000", s.Entries, s.Weight)
		}
		is(t, "entries without L1", stats["none"].Entries, 0)
		is(t, "their weight", stats["none"].Weight, 0)
		is(t, "loads", src.loads.Load(), 1500)
		for i := range 500 {
			for _, c := range []*Cache[string, int]{byCount, bySize, none} {
				if _, err := c.Get(t.Context(), fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		is(t, "loads", src.loads.Load(), 1500)
	})
}

// What has ended leaves L1 without being asked for.
func TestJanitor(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		client := l.client()
		c := cacheIn(t, client, Config[string, int]{TTL: 10 * time.Second, Load: src.load})
		for i := range 20 {
			expect(t, c, fmt.Sprint(i), fmt.Sprintf("%d source", i+1))
		}
		is(t, "entries", client.Stats().Caches["n"].Entries, 20)
		time.Sleep(2 * time.Minute)
		is(t, "entries", client.Stats().Caches["n"].Entries, 0)
	})
}
