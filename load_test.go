package freshet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store/memstore"
)

func TestLoadOverridesTheTTL(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		ttls := map[string]time.Duration{"short": time.Second, "long": time.Hour, "zero": 0, "minus": -1}
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Minute, Jitter: 0.5, Load: func(_ context.Context, k string, l *Load) (int, error) {
			if ttl, ok := ttls[k]; ok {
				l.TTL(ttl)
			}
			return len(l.Key()), nil
		}})
		f := func(k string, want string, ttl time.Duration) {
			t.Helper()
			r := expect(t, c, k, want)
			if ttl != 0 {
				is(t, k+" ttl", r.TTL, ttl) // without jitter: the loader meant it
			}
		}
		f("short", "7 source", time.Second)
		f("long", "6 source", time.Hour)
		f("long", "6 l1", time.Hour)
		f("zero", "6 source refused no-store", 0)
		f("zero", "6 source refused no-store", 0)
		f("minus", "7 source refused no-store", 0)
	})
}

func TestLoadOverridesStale(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: time.Minute},
			Load: func(ctx context.Context, k string, l *Load) (int, error) {
				switch k {
				case "none":
					l.Stale(Stale{})
				case "error":
					l.Stale(Stale{IfError: time.Minute})
				}
				return src.load(ctx, k, l)
			}})
		expect(t, c, "none", "1 source")
		expect(t, c, "error", "2 source")
		expect(t, c, "as is", "3 source")
		time.Sleep(10 * time.Second)
		src.set(0, errBoom)
		expect(t, c, "none", `error freshet: load "n:none": boom`)
		expect(t, c, "error", "2 l1 stale")
		expect(t, c, "as is", "3 l1 stale")
		synctest.Wait()
	})
}

func TestNoStore(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(time.Second, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Hour, Load: func(ctx context.Context, k string, l *Load) (int, error) {
			l.NoStore()
			return src.load(ctx, k, l)
		}})
		other := inBackground(t.Context(), c, "k")
		expect(t, c, "k", "1 source joined refused no-store") // shared all the same
		is(t, "the other's", other(), "1 source refused no-store")
		expect(t, c, "k", "2 source refused no-store")
		synctest.Wait()
		if l.record("n:k") != nil {
			t.Error("something is left at the key")
		}
	})
}

// A private answer goes to the caller whose load brought it, and to nobody else.
func TestNoShare(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var mu sync.Mutex
		under, most := 0, 0
		type user struct{}
		c := cacheIn(t, l.client(), Config[string, string]{TTL: time.Hour, MaxLoads: 2, Load: func(ctx context.Context, k string, l *Load) (string, error) {
			mu.Lock()
			under++
			most = max(most, under)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			under--
			mu.Unlock()
			l.NoShare()
			return "for " + ctx.Value(user{}).(string), nil
		}})
		var got []func() string
		for i := range 5 {
			got = append(got, inBackground(context.WithValue(t.Context(), user{}, fmt.Sprint(i)), c, "k"))
		}
		for i, g := range got {
			is(t, "answer", g(), fmt.Sprintf("for %d source refused no-store", i))
		}
		is(t, "most loads at once", most, 2)

		// In a batch, too.
		many := make(chan map[string]string, 1)
		first := inBackground(context.WithValue(t.Context(), user{}, "a"), c, "k")
		go func() {
			m, err := c.GetMany(context.WithValue(t.Context(), user{}, "b"), []string{"k"})
			if err != nil {
				t.Error(err)
			}
			many <- m
		}()
		is(t, "answer", first(), "for a source refused no-store")
		is(t, "answer", (<-many)["k"], "for b")
	})
}

// Tags that only the answer names count like the others.
func TestLateTags(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var during func(*Load) error // what happens while the source is asked
		n := 0
		ca, cb := l.client(), l.client()
		cfg := Config[string, int]{TTL: time.Hour,
			Tags: func(string) []string { return []string{"early"} },
			Load: func(_ context.Context, _ string, l *Load) (int, error) {
				n++
				if during != nil {
					if err := during(l); err != nil {
						return 0, err
					}
				}
				l.Tag("late", "late:7")
				return n, nil
			}}
		c := cacheIn(t, ca, cfg)
		drop := func(c *Client, tags ...string) {
			t.Helper()
			tick()
			if err := c.DropTags(t.Context(), tags...); err != nil {
				t.Fatal(err)
			}
			tick()
		}
		f := func(name string, act func(), want ...string) {
			t.Helper()
			during = nil
			drop(ca, "early")
			n = 0
			during = func(*Load) error { act(); return nil }
			for _, w := range want {
				if r, err := c.Lookup(t.Context(), "k"); show(r, err) != w {
					t.Errorf("%s: got %q; want %q", name, show(r, err), w)
				}
				during = nil
			}
		}
		f("nothing happens", func() {}, "1 source", "1 l1")
		f("another tag is dropped", func() { drop(cb, "other") }, "1 source", "1 l1")
		f("a late tag is dropped", func() { drop(cb, "late") }, "1 source refused late-tag", "2 source")
		f("a late tag is dropped here", func() { drop(ca, "late:7") }, "1 source refused late-tag", "2 source")
		f("the table of a late tag is dropped", func() { drop(cb, "late!") }, "1 source refused late-tag", "2 source")
		f("an early tag is dropped", func() { drop(cb, "early") }, "1 source refused lease-lost", "2 source")
		// A stamp that was lost is made anew at the end of the log, which is above the read position. The recent log
		// shows that it was not dropped meanwhile.
		f("the stamp of a late tag is lost", func() {
			drop(cb, "other")
			l.srv.EvictStamp("late:7")
		}, "1 source", "1 l1")

		// Once stored, a late tag drops the entry.
		for _, tag := range []string{"late", "late:7", "late!", "early", "n!"} {
			if _, err := c.Get(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			expect(t, c, "k", fmt.Sprintf("%d l1", n))
			drop(cb, tag)
			expect(t, c, "k", fmt.Sprintf("%d source", n+1))
		}
	})
}

// A value that can't be stored is nothing for those who came after a drop of a tag that only it names.
func TestLateTagsOfWhatIsNotStored(t *testing.T) {
	for _, x := range []struct {
		reason observe.Reason
		key    string
		tags   []string
	}{
		{observe.ReasonManyTags, "k", []string{"late", "x", "y"}},
		{observe.ReasonBadTag, "k", []string{"late", "x y"}},
		{observe.ReasonBadTag, "k", []string{"late", strings.Repeat("x", 2000)}},
		{observe.ReasonLongKey, strings.Repeat("k", 2000), []string{"late"}},
	} {
		inLab(t, func(t *testing.T, l *lab) {
			n, release := 0, make(chan struct{})
			ca, cb := l.client(func(o *Options) { o.MaxKey = 1000 }), l.client()
			c := cacheIn(t, ca, Config[string, int]{TTL: time.Hour, MaxTags: 2, Load: func(_ context.Context, _ string, l *Load) (int, error) {
				n++
				v := n
				<-release
				l.Tag(x.tags...)
				return v, nil
			}})
			get := func() <-chan string {
				answer := make(chan string, 1)
				go func() {
					r, err := c.Lookup(t.Context(), x.key)
					answer <- show(r, err)
				}()
				return answer
			}
			first := get()
			synctest.Wait()
			tick()
			if err := cb.DropTags(t.Context(), "late"); err != nil {
				t.Fatal(err)
			}
			tick()
			second := get()
			synctest.Wait()
			close(release)
			is(t, "first", <-first, "1 source refused "+string(x.reason))
			is(t, "second, after the drop", <-second, "2 source refused "+string(x.reason))
		})
	}
}

// A read position that is behind is raised if the log proves that nothing concerned the entry.
func TestLateTagExtendsTheReadPosition(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		ca, cb := l.client(), l.client()
		tags := []string{"never-seen"}
		c := cacheIn(t, ca, Config[string, int]{TTL: time.Hour, Load: func(ctx context.Context, _ string, l *Load) (int, error) {
			time.Sleep(time.Millisecond)
			if err := cb.DropTags(ctx, "something-else"); err != nil {
				return 0, err
			}
			time.Sleep(time.Millisecond)
			l.Tag(tags...)
			return 1, nil
		}})
		before := l.head(t)
		expect(t, c, "k", "1 source")
		rec := l.record("n:k")
		if rec == nil {
			t.Fatal("it was not stored")
		}
		if len(rec.Deps) != 1 || rec.Deps[0].Read <= before {
			t.Errorf("the record depends on %+v; want a read position above %d", rec.Deps, before)
		}
		expect(t, c, "k", "1 l1")
	})
}

func TestLateTagsOfSet(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		ca, cb := l.client(), l.client()
		cfg := Config[string, int]{TTL: time.Hour, Load: src.load}
		a, b := cacheIn(t, ca, cfg), cacheIn(t, cb, cfg)
		if err := a.Set(t.Context(), "k", 42, "red", "blue:1"); err != nil {
			t.Fatal(err)
		}
		tick()
		expect(t, a, "k", "42 l1")
		expect(t, b, "k", "42 l2")
		for _, tag := range []string{"red", "blue!"} {
			if err := cb.DropTags(t.Context(), tag); err != nil {
				t.Fatal(err)
			}
			tick()
			if r, err := a.Lookup(t.Context(), "k"); r.Value == 42 || err != nil {
				t.Errorf("after the drop of %s: got %s", tag, show(r, err))
			}
			if err := a.Set(t.Context(), "k", 42, "red", "blue:1"); err != nil {
				t.Fatal(err)
			}
			tick()
		}
	})
}

func TestPreviousAndNotModified(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var asked []string
		current := "v1"
		cfg := Config[string, string]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: time.Minute, IfError: 2 * time.Minute},
			Load: func(_ context.Context, _ string, l *Load) (string, error) {
				prev, ok := Previous[string](l)
				asked = append(asked, fmt.Sprintf("%s %v refresh=%v", prev, ok, l.Refresh()))
				if prev == current {
					return "", ErrNotModified
				}
				return current, nil
			}}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		f := func(c *Cache[string, string], want, question string) {
			t.Helper()
			asked = nil
			expect(t, c, "k", want)
			synctest.Wait()
			tick()
			if got := strings.Join(asked, "; "); got != question {
				t.Errorf("the source was asked with %q; want %q", got, question)
			}
		}
		f(a, "v1 source", " false refresh=false")
		time.Sleep(11 * time.Second)
		f(a, "v1 l1 stale", "v1 true refresh=true")
		f(a, "v1 l1", "") // fresh again
		f(b, "v1 l2", "")
		time.Sleep(11 * time.Second)
		current = "v2"
		f(b, "v1 l1 stale", "v1 true refresh=true")
		f(b, "v2 l1", "")
		f(a, "v2 l2", "")
		time.Sleep(90 * time.Second) // past the stale window, within that for errors: still good to compare with
		f(a, "v2 source", "v2 true refresh=false")
		f(b, "v2 l2", "")

		// What was dropped is no longer to compare with.
		if err := b.Drop(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		tick()
		f(a, "v2 source", " false refresh=false")
		r, err := a.LookupFunc(t.Context(), "other", func(context.Context, *Load) (string, error) { return "", ErrNotModified })
		if !errors.Is(err, ErrNotModified) {
			t.Errorf("got %s; want an error: there is nothing that could be unmodified", show(r, err))
		}
	})
}

// A loader of the call's own is used like the cache's.
func TestGetFunc(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: time.Minute}})
		n := 0
		own := func(context.Context, *Load) (int, error) { n++; return 100 + n, nil }
		f := func(want int) {
			t.Helper()
			if v, err := c.GetFunc(t.Context(), "k", own); v != want || err != nil {
				t.Errorf("got %v, %v; want %d", v, err, want)
			}
		}
		f(101)
		f(101)
		time.Sleep(10 * time.Second)
		f(101) // and the refresh uses the call's loader
		synctest.Wait()
		f(102)

		want := `freshet: cache "n" has no loader: give Config.Load or Config.LoadMany, or call GetFunc`
		if _, err := c.Get(t.Context(), "x"); err == nil || err.Error() != want {
			t.Errorf("Get says %v; want %s", err, want)
		}
		if _, err := c.GetMany(t.Context(), []string{"x"}); err == nil || err.Error() != want {
			t.Errorf("GetMany says %v; want %s", err, want)
		}
	})
}

// Reasons tell why the cache could not answer.
func TestResultReason(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		ca, cb := l.client(), l.client()
		c := cacheIn(t, ca, Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: 10 * time.Second, IfError: 20 * time.Second}, Load: src.load})
		f := func(want observe.Reason) {
			t.Helper()
			r, err := c.Lookup(t.Context(), "k")
			if r.Reason != want || err != nil {
				t.Errorf("%s: reason %q; want %q", show(r, err), r.Reason, want)
			}
			synctest.Wait()
			tick()
		}
		f(observe.ReasonAbsent)
		f(observe.ReasonNone)
		time.Sleep(10 * time.Second)
		src.set(time.Second, nil)
		f(observe.ReasonStale)
		time.Sleep(2 * time.Second)
		f(observe.ReasonNone)
		time.Sleep(20 * time.Second)
		f(observe.ReasonExpired)
		if err := cb.DropTags(t.Context(), "n!"); err != nil {
			t.Fatal(err)
		}
		tick()
		f(observe.ReasonDropped)
		if err := cb.DropKeys(t.Context(), "n:k"); err != nil {
			t.Fatal(err)
		}
		tick()
		f(observe.ReasonAbsent) // in the shared level, which was asked last
		l.srv.FlushAll()
		time.Sleep(time.Second)
		f(observe.ReasonAbsent)
	})
}

// Nobody could drop an entry by a tag that DropTags refuses: it is returned, and not cached.
func TestBadTags(t *testing.T) {
	for _, tag := range []string{"", "two words", "line\nend", strings.Repeat("x", 513)} {
		inLab(t, func(t *testing.T, l *lab) {
			var src source
			client := l.client()
			early := cacheIn(t, client, Config[string, int]{Name: "early", TTL: time.Minute, Load: src.load, Tags: func(string) []string { return []string{"good", tag} }})
			late := cacheIn(t, client, Config[string, int]{Name: "late", TTL: time.Minute, Load: func(ctx context.Context, k string, l *Load) (int, error) {
				l.Tag(tag)
				return src.load(ctx, k, l)
			}})
			for i, c := range []*Cache[string, int]{early, late} {
				for j := range 2 {
					expect(t, c, "k", fmt.Sprintf("%d source refused bad-tag", 2*i+j+1))
				}
			}
			if err := early.Set(t.Context(), "k", 1, tag); err == nil || errors.Is(err, ErrPending) {
				t.Errorf("Set with the tag %q: %v; want an error", tag, err)
			}
		})
	}
}

// Without the store, an entry with late tags stays in L1 for StaleAtMost like any other, and a drop by this instance
// reaches it, whenever it comes.
func TestLateTagsInAnOutage(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		client := l.client()
		cut := client.store.(*memstore.Store)
		var src source
		c := cacheIn(t, client, Config[string, int]{TTL: time.Minute, Load: func(ctx context.Context, k string, l *Load) (int, error) {
			l.Tag(Tag("late", k))
			return src.load(ctx, k, l)
		}})
		expect(t, c, "before", "1 source")
		cut.Cut()
		time.Sleep(2 * time.Second)
		for _, k := range []string{"k", "before"} { // before: its tag is known
			n := src.loads.Load() + 1
			expect(t, c, k, fmt.Sprintf("%d source refused no-lease", n))
			for range 9 {
				time.Sleep(100 * time.Millisecond)
				expect(t, c, k, fmt.Sprintf("%d l1", n))
			}
			if err := client.DropTags(t.Context(), Tag("late", k)); !errors.Is(err, ErrPending) {
				t.Fatalf("got %v; want a pending drop", err)
			}
			tick()
			expect(t, c, k, fmt.Sprintf("%d source refused no-lease", n+1))
			time.Sleep(2 * time.Second)

			src.set(time.Second, nil)
			old := inBackground(t.Context(), c, k)
			if err := client.DropTags(t.Context(), Tag("late", k)); !errors.Is(err, ErrPending) {
				t.Fatalf("got %v; want a pending drop", err)
			}
			tick()
			young := inBackground(t.Context(), c, k)
			is(t, "who came before the drop", old(), fmt.Sprintf("%d source refused late-tag", n+2))
			is(t, "who came after it", young(), fmt.Sprintf("%d source refused no-lease", n+3))
			src.set(0, nil)
		}
	})
}
