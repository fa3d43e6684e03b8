package freshet

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// A table is a source whose rows somebody may change without telling the cache.
type table struct {
	mu    sync.Mutex
	rows  map[string]int
	took  time.Duration
	err   error
	loads int
	under int
	most  int // loads ever under way at once
}

func (s *table) set(key string, v int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		s.rows = make(map[string]int)
	}
	s.rows[key] = v
}

// busy returns how many loads are under way, and how many ever were at once.
func (s *table) busy() (under, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.under, s.most
}

func (s *table) slow(d time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took, s.err = d, err
}

func (s *table) load(ctx context.Context, key string, _ *Load) (int, error) {
	s.mu.Lock()
	took, err := s.took, s.err
	s.loads++
	s.under++
	s.most = max(s.most, s.under)
	s.mu.Unlock()
	if took > 0 {
		select {
		case <-time.After(took):
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under--
	if err != nil {
		return 0, err
	}
	v, ok := s.rows[key]
	if !ok {
		return 0, ErrNotFound
	}
	return v, nil
}

// said puts a Verification into a few words.
func said(v Verification) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d verified, %d in flight, %d mismatched", v.Verified, v.InFlight, v.Mismatched)
	for _, r := range reasons {
		if n := v.Unverifiable[r]; n > 0 {
			fmt.Fprintf(&b, ", %d %s", n, r)
		}
	}
	return b.String()
}

// verified compares what was verified so far.
func verified(t *testing.T, c *Client, want string) Verification {
	t.Helper()
	synctest.Wait()
	v := c.Stats().Verification
	if got := said(v); got != want {
		t.Errorf("%s; want %s", got, want)
	}
	return v
}

// A row changes and nobody drops it: this is what verification is for. In L1 and in L2, for values and for what isn't there.
func TestVerifyFindsLostDrop(t *testing.T) {
	for _, f := range []struct {
		name, key, hit string
		edit           func(*Config[string, int])
		level          observe.Level
		negative       bool
	}{
		{name: "l1", key: "k", hit: "1 l1", level: observe.LevelL1},
		{name: "l2", key: "k", hit: "1 l2", level: observe.LevelL2, edit: func(cfg *Config[string, int]) { cfg.MaxEntries = -1 }},
		{name: "negative", key: "new", hit: "not found l1", level: observe.LevelL1, negative: true, edit: func(cfg *Config[string, int]) { cfg.NegativeTTL = time.Hour }},
		{name: "plain", key: "k", hit: "1 l1", level: observe.LevelL1, edit: func(cfg *Config[string, int]) { cfg.Plain, cfg.Tags = true, nil }},
	} {
		t.Run(f.name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				var s table
				s.set("k", 1)
				var told []observe.Mismatch
				c := l.client(func(o *Options) {
					o.Hooks.Mismatch = func(m observe.Mismatch) { told = append(told, m) }
				})
				cfg := Config[string, int]{TTL: time.Hour, Verify: 1, Load: s.load, Tags: func(k string) []string { return []string{Tag("t", k)} }}
				if f.edit != nil {
					f.edit(&cfg)
				}
				cache := cacheIn(t, c, cfg)
				cache.Get(t.Context(), f.key)
				expect(t, cache, f.key, f.hit)
				verified(t, c, "1 verified, 0 in flight, 0 mismatched")
				time.Sleep(10 * time.Second)
				id := l.recordID("n:" + f.key)

				s.set(f.key, 2)
				expect(t, cache, f.key, f.hit)
				time.Sleep(2*time.Second + 100*time.Millisecond) // twice StaleAtMost
				v := verified(t, c, "2 verified, 0 in flight, 1 mismatched")
				if nines, atLeast := v.FreshNines(); atLeast || math.Abs(nines-math.Log10(2)) > 1e-9 {
					t.Errorf("%v nines, at least: %v; want log10(2)", nines, atLeast)
				}
				if len(told) != 1 {
					t.Fatalf("told of %d mismatches; want one", len(told))
				}
				m := told[0]
				is(t, "key", m.Cache+" "+m.Key, "n n:"+f.key)
				is(t, "level", m.Level, f.level)
				is(t, "negative", m.Negative, f.negative)
				is(t, "record", m.Record, id)
				is(t, "age", m.Age.Round(time.Second), 12*time.Second)
				is(t, "differs", m.Differs.Round(time.Second), 2*time.Second)
				if !cfg.Plain && (len(m.Tags) != 3 || m.Tags[1].Tag != "t:"+f.key || m.Tags[1].Stamp > m.Tags[1].Read || !m.Tags[1].Known) {
					t.Errorf("tags are %+v; want n!, t:%s and t!, none dropped", m.Tags, f.key)
				}
				// Nothing was stored by it, and nothing dropped.
				expect(t, cache, f.key, f.hit)
				is(t, "record afterwards", l.recordID("n:"+f.key), id)
				is(t, "fills", c.Stats().Fills, 1)
			})
		})
	}
}

// recordID is the id of the record at key, in hex; empty for bare values.
func (l *lab) recordID(key string) string {
	if image, ok := l.srv.Get(key); !ok || len(image) < 24 {
		return ""
	}
	return fmt.Sprintf("%x", l.record(key).ID)
}

// A drop that comes within the time in which it is to be known explains the difference, and how late it was is measured.
func TestVerifyDropInFlight(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var s table
		s.set("k", 1)
		c, other := l.client(), l.client()
		cache := cacheIn(t, c, Config[string, int]{TTL: time.Hour, Verify: 1, Load: s.load, Tags: func(k string) []string { return []string{Tag("t", k)} }})
		expect(t, cache, "k", "1 source")
		s.set("k", 2)
		expect(t, cache, "k", "1 l1")
		time.Sleep(300 * time.Millisecond)
		if err := other.DropTags(t.Context(), Tag("t", "k")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		v := verified(t, c, "1 verified, 1 in flight, 0 mismatched")
		if late := v.Late.Max; v.Late.Count != 1 || late < 300*time.Millisecond || late > 330*time.Millisecond {
			t.Errorf("%d late, by up to %v; want one, by 0.3 s", v.Late.Count, late)
		}

		// Dropped while it is compared: likewise.
		expect(t, cache, "k", "2 source")
		s.slow(time.Second, nil)
		expect(t, cache, "k", "2 l1")
		s.set("k", 3)
		if err := cache.Drop(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		v = verified(t, c, "2 verified, 2 in flight, 0 mismatched")
		if v.Late.Buckets[0] != 1 {
			t.Errorf("late by %v; want one by nothing", v.Late)
		}
	})
}

// What can't be compared is counted by why, and is no mismatch.
func TestVerifyCannot(t *testing.T) {
	type env struct {
		*testing.T
		l     *lab
		s     *table
		c     *Client
		cache *Cache[string, int]
	}
	calls := 100
	for _, f := range []struct {
		name, want string
		first      int // hits that could be verified
		edit       func(*Config[string, int])
		play       func(e env) // after the row was cached
	}{
		{name: "the loader fails", want: "load-error", play: func(e env) {
			e.s.slow(0, errBoom)
			expect(e.T, e.cache, "k", "1 l1")
		}},
		{name: "the loader is too slow", want: "load-error", edit: func(cfg *Config[string, int]) { cfg.LoadTimeout = time.Second }, play: func(e env) {
			e.s.slow(time.Minute, nil)
			expect(e.T, e.cache, "k", "1 l1")
		}},
		{name: "the source is given up", want: "source-down", edit: func(cfg *Config[string, int]) { cfg.BreakAfter, cfg.BreakFor = 1, time.Hour }, play: func(e env) {
			e.s.slow(0, errBoom)
			e.cache.Get(e.Context(), "another")
			expect(e.T, e.cache, "k", "1 l1")
		}},
		{name: "the places are taken", want: "overload", edit: func(cfg *Config[string, int]) { cfg.MaxLoads = 2 }, play: func(e env) {
			e.s.slow(time.Second, nil)
			wait := inBackground(e.Context(), e.cache, "another")
			expect(e.T, e.cache, "k", "1 l1")
			wait()
		}},
		{name: "nobody can load", first: 1, want: "no-loader", edit: func(cfg *Config[string, int]) { cfg.Load = nil }, play: func(e env) {
			e.cache.GetFunc(e.Context(), "k", func(ctx context.Context, l *Load) (int, error) { return e.s.load(ctx, "k", l) })
			synctest.Wait()
			e.cache.Get(e.Context(), "k") // what is known to be good is served without a thought of loaders
		}},
		{name: "the answer is not to be stored", want: "no-store", edit: func(cfg *Config[string, int]) {
			load := cfg.Load
			cfg.Load = func(ctx context.Context, k string, l *Load) (int, error) {
				if l.verify {
					l.NoStore()
				}
				return load(ctx, k, l)
			}
		}, play: func(e env) { expect(e.T, e.cache, "k", "1 l1") }},
		{name: "the source never says the same", want: "unstable", edit: func(cfg *Config[string, int]) {
			cfg.Load = func(context.Context, string, *Load) (int, error) { calls++; return calls, nil }
		}, play: func(e env) { e.cache.Get(e.Context(), "k") }},
		{name: "the source goes back", want: "unstable", play: func(e env) {
			e.s.set("k", 2)
			expect(e.T, e.cache, "k", "1 l1")
			synctest.Wait()
			e.s.set("k", 1)
		}},
		{name: "the entry ends", want: "expired", edit: func(cfg *Config[string, int]) { cfg.TTL = time.Second }, play: func(e env) {
			e.s.set("k", 2)
			expect(e.T, e.cache, "k", "1 l1")
		}},
		{name: "the link is cut", want: "unproven", play: func(e env) {
			e.s.set("k", 2)
			expect(e.T, e.cache, "k", "1 l1")
			synctest.Wait()
			e.c.store.(interface{ Cut() }).Cut()
		}},
		{name: "history is lost", want: "epoch", play: func(e env) {
			e.s.set("k", 2)
			expect(e.T, e.cache, "k", "1 l1")
			synctest.Wait()
			e.l.srv.FlushAll()
		}},
		{name: "it is gone from the store", want: "replaced", edit: func(cfg *Config[string, int]) { cfg.MaxEntries = -1 }, play: func(e env) {
			e.s.set("k", 2)
			expect(e.T, e.cache, "k", "1 l2")
			synctest.Wait()
			e.l.srv.Del("n:k")
		}},
		{name: "it was replaced without a drop", want: "replaced", edit: func(cfg *Config[string, int]) { cfg.Stale.WhileRevalidate = time.Hour }, play: func(e env) {
			e.s.set("k", 2)
			old, _ := e.cache.near.Peek("k")
			e.cache.verify(e.Context(), old, observe.LevelL1, nil)
			synctest.Wait()
			e.cache.refresh(e.Context(), old, nil, e.cache.mark("n:k").Load())
		}},
		{name: "the codec fails", want: "encode-error", edit: func(cfg *Config[string, int]) { cfg.Codec = fickle{} }, play: func(e env) {
			e.s.set("k", 13)
			expect(e.T, e.cache, "k", "1 l1")
		}},
	} {
		t.Run(f.name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				var s table
				s.set("k", 1)
				c := l.client()
				cfg := Config[string, int]{TTL: time.Hour, Verify: 1, Load: s.load, Tags: func(k string) []string { return []string{Tag("t", k)} }}
				if f.edit != nil {
					f.edit(&cfg)
				}
				cache := cacheIn(t, c, cfg)
				cache.GetFunc(t.Context(), "k", func(ctx context.Context, l *Load) (int, error) { return s.load(ctx, "k", l) })
				f.play(env{t, l, &s, c, cache})
				time.Sleep(5 * time.Second)
				verified(t, c, fmt.Sprintf("%d verified, 0 in flight, 0 mismatched, 1 %s", f.first, f.want))
			})
		})
	}
}

// fickle is a codec that doesn't write 13.
type fickle struct{}

func (fickle) Name() string { return "fickle" }
func (fickle) Append(b []byte, v int) ([]byte, error) {
	if v == 13 {
		return nil, errBoom
	}
	return fmt.Append(b, v), nil
}
func (fickle) Decode(b []byte) (v int, err error) { _, err = fmt.Sscan(string(b), &v); return v, err }

// At most 8 at a time and one for each key, none in the last half of the places; hits don't wait for it, and Close ends it.
func TestVerifyIsBounded(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var s table
		c := l.client()
		cache := cacheIn(t, c, Config[string, int]{TTL: time.Hour, Verify: 1, Load: s.load})
		few := cacheIn(t, c, Config[string, int]{Name: "few", TTL: time.Hour, Verify: 1, MaxLoads: 4, Load: s.load})
		key := func(i int) string { return fmt.Sprint("k", i) }
		for i := range 20 {
			s.set(key(i), i)
			cache.Get(t.Context(), key(i))
			few.Get(t.Context(), key(i))
		}
		s.slow(time.Second, nil)
		read := func(c *Cache[string, int]) {
			for range 3 {
				for i := range 20 {
					is(t, "time of a hit", took(func() { c.Get(t.Context(), key(i)) }), 0)
				}
			}
			synctest.Wait()
		}
		read(cache)
		under, _ := s.busy()
		is(t, "loads under way", under, verifyPlaces)
		time.Sleep(2 * time.Second)
		verified(t, c, "8 verified, 0 in flight, 0 mismatched, 52 overload")
		read(few)
		under, _ = s.busy()
		is(t, "loads under way, of 4 places", under, 2)
		time.Sleep(2 * time.Second)
		is(t, "of a cache", said(c.Stats().Caches["few"].Verification), "2 verified, 0 in flight, 0 mismatched, 58 overload")

		// Some wait for the source, and some for a drop, when the client is closed.
		s.slow(0, nil)
		s.set(key(1), -1)
		cache.Get(t.Context(), key(1))
		synctest.Wait()
		s.slow(time.Hour, nil)
		cache.Get(t.Context(), key(2))
		cache.Get(t.Context(), key(2)) // is being verified
		synctest.Wait()
		under, _ = s.busy()
		is(t, "loads under way", under, 1)
		is(t, "time of Close", took(func() { c.Close() }), 0)
		under, most := s.busy()
		is(t, "loads under way", under, 0)
		is(t, "at once", most, verifyPlaces)
		is(t, "after Close", said(c.Stats().Verification), "10 verified, 0 in flight, 0 mismatched, 111 overload")
	})
}

// The share that is asked for is the share that is loaded, of every kind of hit.
func TestVerifyShare(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var s table
		s.set("k", 1)
		c := l.client()
		get := cacheIn(t, c, Config[string, int]{Name: "get", TTL: time.Hour, Verify: 0.1, Load: s.load})
		many := cacheIn(t, c, Config[string, int]{Name: "many", TTL: time.Hour, Verify: 0.1, Load: s.load})
		noL1 := cacheIn(t, c, Config[string, int]{Name: "l2", TTL: time.Hour, Verify: 0.1, Load: s.load, MaxEntries: -1})
		off := cacheIn(t, c, Config[string, int]{Name: "off", TTL: time.Hour, Load: s.load})
		const n = 4000
		for range n + 1 { // the first is a load
			get.Get(t.Context(), "k")
			noL1.Get(t.Context(), "k")
			off.Get(t.Context(), "k")
			many.GetMany(t.Context(), []string{"k", "none"})
			synctest.Wait() // one at a time for each key
		}
		for name, hits := range map[string]float64{"get": n, "l2": n, "many": 2 * n, "off": 0} {
			want := hits / 10
			if v := c.Stats().Caches[name].Verification; math.Abs(float64(v.Verified)-want) > 5*math.Sqrt(want*0.9) || len(v.Unverifiable) > 0 {
				t.Errorf("%s: %s, of %v hits; want about %v", name, said(v), hits, want)
			}
		}
	})
}

// Values that are equal and are not written the same are no mismatch: maps in any order, and what Equal says.
func TestVerifyCompares(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		type value struct {
			Name string
			At   time.Time
		}
		c := l.client()
		shuffled := cacheIn(t, c, Config[string, map[string]int]{Name: "shuffled", TTL: time.Hour, Verify: 1, Codec: shuffle{},
			Load: func(context.Context, string, *Load) (map[string]int, error) {
				return map[string]int{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, nil
			}})
		equal := cacheIn(t, c, Config[string, value]{Name: "equal", TTL: time.Hour, Verify: 1, Equal: func(a, b value) bool { return a.Name == b.Name },
			Load: func(context.Context, string, *Load) (value, error) { return value{"Ada", time.Now()}, nil }})
		panics := cacheIn(t, c, Config[string, value]{Name: "panics", TTL: time.Hour, Verify: 1, Equal: func(a, b value) bool { panic("no") },
			Load: func(context.Context, string, *Load) (value, error) { return value{"Ada", time.Now()}, nil }})
		for range 20 {
			shuffled.Get(t.Context(), "k")
			equal.Get(t.Context(), "k")
			time.Sleep(10 * time.Millisecond)
		}
		panics.Get(t.Context(), "k")
		panics.Get(t.Context(), "k")
		time.Sleep(5 * time.Second)
		is(t, "in any order", said(c.Stats().Caches["shuffled"].Verification), "19 verified, 0 in flight, 0 mismatched")
		is(t, "by Equal", said(c.Stats().Caches["equal"].Verification), "19 verified, 0 in flight, 0 mismatched")
		is(t, "Equal panics", said(c.Stats().Caches["panics"].Verification), "0 verified, 0 in flight, 0 mismatched, 1 unstable")
	})
}

// shuffle is a codec that writes maps in any order.
type shuffle struct{}

func (shuffle) Name() string { return "shuffle" }
func (shuffle) Append(b []byte, m map[string]int) ([]byte, error) {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, k := range names {
		b = fmt.Appendf(b, "%s %d\n", k, m[k])
	}
	return b, nil
}
func (shuffle) Decode(b []byte) (map[string]int, error) {
	m := make(map[string]int)
	for line := range strings.Lines(string(b)) {
		var k string
		var v int
		if _, err := fmt.Sscan(line, &k, &v); err != nil {
			return nil, err
		}
		m[k] = v
	}
	return m, nil
}

func TestFreshNines(t *testing.T) {
	f := func(verified, mismatched uint64, want float64, wantAtLeast bool) {
		t.Helper()
		v := Verification{Verified: verified, Mismatched: mismatched}
		nines, atLeast := v.FreshNines()
		if math.Abs(nines-want) > 1e-9 || atLeast != wantAtLeast {
			t.Errorf("%d of %d: %v, at least: %v; want %v, %v", mismatched, verified, nines, atLeast, want, wantAtLeast)
		}
	}
	f(0, 0, 0, true) // nothing is known
	f(3, 0, 0, true)
	f(3000, 0, 3, true) // the rule of three
	f(3_000_000, 0, 6, true)
	f(1000, 1, 3, false)
	f(1000, 10, 2, false)
	f(5, 5, 0, false)
}

// A hot key of a plain cache is read from the store anew each time L1TTL ends: what is served is still the old value.
func TestVerifyPlainReadAnew(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var s table
		s.set("k", 1)
		c := l.client()
		cache := cacheIn(t, c, Config[string, int]{TTL: time.Hour, L1TTL: 500 * time.Millisecond, Plain: true, Verify: 1, Load: s.load})
		cache.Get(t.Context(), "k")
		s.set("k", 2)
		expect(t, cache, "k", "1 l1")
		for range 25 {
			time.Sleep(100 * time.Millisecond)
			cache.Get(t.Context(), "k")
		}
		if v := c.Stats().Verification; v.Mismatched == 0 {
			t.Errorf("%+v; want a mismatch", v)
		}
		time.Sleep(10 * time.Second)
	})
}
