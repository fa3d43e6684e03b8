package freshet

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// Which entries and outcomes are new enough for a reader whose tokens are covered over a link. What comes of a link that changes between
// any two steps of a read can't be staged from outside.
func TestTokenJudgement(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		client := l.client()
		c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, Tags: func(k string) []string { return []string{k} }, Load: src.load})
		expect(t, c, "k", "1 source")
		e, _ := c.peekL1("k")
		link := client.mirror.Trust()
		f := func(what string, o outcome[string, int], arrived int64, lead, want bool) {
			t.Helper()
			is(t, what, c.mayHaveAfter(link, o, arrived, lead), want)
		}
		now := client.clock.Exact()
		stored := outcome[string, int]{e: e, level: observe.LevelL2}
		f("valid, from L2, joined", stored, now, false, true)
		f("valid, from L2, led", stored, now, true, true)
		f("an error", outcome[string, int]{err: errBoom}, now, false, true)

		old := newEntry[string, int]("k", "n:k", mirror.Untrusted) // known true for its load's start only
		old.deps, old.began, old.seen, old.proven, old.fresh, old.local = e.deps, e.began, e.began, now, e.fresh, e.local
		unproven := outcome[string, int]{e: old, level: observe.LevelL2}
		f("not read over that link, joined", unproven, now, false, false)
		f("not read over that link, led", unproven, now, true, false)
		unproven.level = observe.LevelSource
		f("a load of its own", unproven, now, true, true)
		f("a load that began before", unproven, old.began+1, false, false)
		f("a load that began after", unproven, old.began-1, false, true)

		st, reason := c.stateAfter(link, e, fresh, observe.ReasonNone)
		is(t, "state", st, fresh)
		is(t, "reason", reason, observe.ReasonNone)
		st, reason = c.stateAfter(link, old, fresh, observe.ReasonNone)
		is(t, "state", st, dead)
		is(t, "reason", reason, observe.ReasonBehind)
		st, reason = c.stateAfter(link, e, stale, observe.ReasonStale)
		is(t, "state", st, stale)
		is(t, "reason", reason, observe.ReasonStale)

		is(t, "contains", c.contains(e, link), true)
		is(t, "contains, known over another link", c.contains(e, mirror.Untrusted), false)
		p := client.mirror.Begin([]string{"unread"})
		deps, _ := p.Done(nil)
		deps[0].Read-- // a drop of the tag may be right before the place from which its cell knows
		unsure := newEntry[string, int]("k", "n:k", link)
		unsure.deps, unsure.began, unsure.seen, unsure.proven, unsure.fresh, unsure.local = deps, now, now, now, e.fresh, e.local
		is(t, "contains, stamps unknown", c.contains(unsure, link), false)

		// The source fails, and what could be served instead isn't known to be new enough.
		old.failed = old.fresh + int64(time.Hour)
		call, _ := c.flights.Join("n:k", nil, nil)
		call.State.old.Store(old)
		if r, err := c.settle(call, outcome[string, int]{err: errBoom}, false, nil); err != nil || !r.Stale {
			t.Errorf("without a token: %+v, %v; want the stale value", r, err)
		}
		if r, err := c.settle(call, outcome[string, int]{err: errBoom}, false, link); err != errBoom {
			t.Errorf("with a token: %+v, %v; want the error", r, err)
		}
		call.State.background = true // nor what a refresh is about to replace
		for after, want := range map[*mirror.Trust]bool{nil: true, link: false} {
			_, _, ok := c.meanwhile(call, after)
			is(t, "served while it is refreshed", ok, want)
		}
		c.flights.Finish(call, outcome[string, int]{})

		expect(t, c, "key", "2 source")
		other, _ := c.peekL1("key")
		is(t, "contains", c.contains(other, link), true)
		client.DropKeys(t.Context(), "n:key")
		is(t, "contains, the key was dropped", c.contains(other, link), false)

		tick()
		client.DropTags(t.Context(), "k")
		f("dropped", stored, now, false, false)
	})
}

// Once a client has seen a token, hits look into their contexts, and that takes no memory.
func TestAllocHitAfterTokens(t *testing.T) {
	client, err := New(memstore.NewServer(memstore.Options{}).Connect(), Options{StaleAtMost: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.mirror.WaitSynced(t.Context())
	time.Sleep(20 * time.Millisecond) // the first proof
	var src source
	c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, Load: src.load})
	client.tokens.Store(true)
	client.scoped.Add(1)
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), t, 1), time.Hour)
	defer cancel()
	get := func() {
		if v, err := c.Get(ctx, "k"); v != 1 || err != nil {
			t.Fatal(v, err)
		}
	}
	for range 3 {
		get()
	}
	before := client.Stats().HitsL1
	if n := testing.AllocsPerRun(1000, get); n != 0 {
		t.Errorf("a hit makes %v allocations; want none", n)
	}
	is(t, "hits", client.Stats().HitsL1-before, 1001)
}

// Without LoadMany, the keys of a batch that nothing in the cache is new enough for are loaded side by side.
func TestManyAloneSideBySide(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(10*time.Millisecond, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Hour, Load: src.load, MaxLoads: 5})
		var ks []string
		for i := range 20 {
			ks = append(ks, fmt.Sprint(i))
		}
		is(t, "it takes", took(func() {
			if m, err := c.manyAlone(t.Context(), ks); err != nil || len(m) != len(ks) {
				t.Errorf("got %v, %v", m, err)
			}
		}), 40*time.Millisecond)
		is(t, "at once", src.most.Load(), 5)
	})
}

type farToken struct{}

func (farToken) Source() string      { return "db" }
func (farToken) Covered(string) bool { return false }

// A headCounter counts how often the end of the log is asked for.
type headCounter struct {
	*memstore.Store
	heads atomic.Int64
}

func (s *headCounter) Head(ctx context.Context, part int) (store.Head, error) {
	s.heads.Add(1)
	return s.Store.Head(ctx, part)
}

// While no pump works, readers with tokens don't have the logs looked at more often than otherwise; while one does, they do.
func TestTokensWithoutAPump(t *testing.T) {
	for _, pump := range []bool{false, true} {
		inLab(t, func(t *testing.T, l *lab) {
			s := &headCounter{Store: l.srv.Connect()}
			client, err := New(s, Options{ExactClock: true, Sources: []string{"db"}})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			var src source
			c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, Load: src.load})
			ctx, err := client.WithToken(t.Context(), farToken{})
			if err != nil {
				t.Fatal(err)
			}
			marker := l.srv.Connect()
			var mark, next store.Mark
			read := func(d time.Duration) int64 {
				before := s.heads.Load()
				for end := time.Now().Add(d); time.Now().Before(end); {
					if pump {
						next.Owner, next.Pos, next.Seq, next.Tick, next.Cert = "p", "1", next.Seq+1, next.Tick+1, next.Tick
						if err := marker.SetMark(t.Context(), 0, "db", mark, next, nil); err != nil {
							t.Fatal(err)
						}
						mark = next
					}
					if _, err := c.Get(ctx, "k"); err != nil {
						t.Fatal(err)
					}
				}
				return s.heads.Load() - before
			}
			read(3 * time.Second)
			if n := read(10 * time.Second); pump != (n > 1000) || !pump && n > 250 {
				t.Errorf("pump=%v: %d looks in 10 s", pump, n)
			}
		})
	}
}
