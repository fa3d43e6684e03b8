package freshet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// A gateQueue lets loads named by letters enter a gate, in this order, and notes in which they are let in. Those of the
// background have capitals.
type gateQueue struct {
	t     *testing.T
	g     *loadGate
	mu    sync.Mutex
	order string
	turns map[rune]*turn
}

func (q *gateQueue) enter(ctx context.Context, name rune) (err <-chan error) {
	tn := &turn{back: name < 'a'}
	q.turns[name] = tn
	ch := make(chan error, 1)
	go func() {
		_, err := q.g.enter(ctx, tn)
		if err == nil {
			q.mu.Lock()
			q.order += string(name)
			q.mu.Unlock()
		}
		ch <- err
	}()
	synctest.Wait()
	return ch
}

func (q *gateQueue) leave(names string) {
	for _, n := range names {
		q.g.leave(q.turns[n])
		synctest.Wait()
	}
}

func (q *gateQueue) let(want string) {
	q.t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.order != want {
		q.t.Errorf("let in are %q; want %q", q.order, want)
	}
	q.order = ""
}

func inQueue(t *testing.T, places, room int, f func(t *testing.T, q *gateQueue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, &gateQueue{t: t, g: newLoadGate(places, room), turns: make(map[rune]*turn)})
	})
}

// In order of arrival, and those that somebody waits for first.
func TestGateIsFair(t *testing.T) {
	inQueue(t, 2, 100, func(t *testing.T, q *gateQueue) {
		for _, n := range "abXcYde" {
			q.enter(t.Context(), n)
		}
		q.let("ab")
		q.leave("a")
		q.let("c")
		q.leave("bc")
		q.let("de")
		q.enter(t.Context(), 'f')
		q.leave("d")
		q.let("f")
		q.leave("ef")
		q.let("XY")
		q.leave("XY")
		is(t, "loads under way", q.g.under, 0)
	})
}

// The background never has all places, so that a burst of refreshes holds nobody up.
func TestGateKeepsPlacesForTheForeground(t *testing.T) {
	inQueue(t, 4, 100, func(t *testing.T, q *gateQueue) {
		for _, n := range "ABCDE" {
			q.enter(t.Context(), n)
		}
		q.let("ABC")
		q.enter(t.Context(), 'a')
		q.let("a")
		q.leave("a")
		q.let("") // D waits for one of its kind
		q.leave("A")
		q.let("D")
		q.leave("BCD")
		q.let("E")
		q.leave("E")
	})
	inQueue(t, 1, 100, func(t *testing.T, q *gateQueue) {
		q.enter(t.Context(), 'A')
		q.let("A")
		q.leave("A")
	})
}

// Beyond the room, the last of the background is turned away, and then who comes.
func TestGateShedsLoads(t *testing.T) {
	inQueue(t, 1, 2, func(t *testing.T, q *gateQueue) {
		q.enter(t.Context(), 'a')
		x := q.enter(t.Context(), 'X')
		y := q.enter(t.Context(), 'Y')
		z := q.enter(t.Context(), 'Z')
		is(t, "a third in the background is turned away", errors.Is(<-z, ErrOverloaded), true)
		q.enter(t.Context(), 'b')
		is(t, "the last of the background makes room", errors.Is(<-y, ErrOverloaded), true)
		q.enter(t.Context(), 'c')
		is(t, "so does the first", errors.Is(<-x, ErrOverloaded), true)
		err := <-q.enter(t.Context(), 'd')
		is(t, "error", fmt.Sprint(err), "freshet: too many loads: 1 under way, and 2 waiting")
		q.leave("abc")
		q.let("abc")
	})
	inQueue(t, 1, 0, func(t *testing.T, q *gateQueue) {
		q.enter(t.Context(), 'a')
		is(t, "nobody may wait", errors.Is(<-q.enter(t.Context(), 'b'), ErrOverloaded), true)
		q.leave("a")
		q.enter(t.Context(), 'c')
		q.leave("c")
		q.let("ac")
	})
}

// Who leaves the queue leaves no hole in it.
func TestGateWaiterLeaves(t *testing.T) {
	inQueue(t, 1, 2, func(t *testing.T, q *gateQueue) {
		ctx, cancel := context.WithCancel(t.Context())
		q.enter(t.Context(), 'a')
		gone := q.enter(ctx, 'b')
		q.enter(t.Context(), 'c')
		cancel()
		is(t, "error", fmt.Sprint(<-gone), "waiting for one of 1 loads under way to end: context canceled")
		q.enter(t.Context(), 'd')
		q.leave("acd")
		q.let("acd")
		is(t, "loads under way", q.g.under, 0)
	})
}

// A place that is given to one who leaves at that moment is given on.
func TestGatePlaceIsNotLost(t *testing.T) {
	g := newLoadGate(2, 1000)
	var wg sync.WaitGroup
	var under, most atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			for n := range 2000 {
				ctx, cancel := context.WithCancel(context.Background())
				go cancel()
				tn := &turn{back: (i+n)%3 == 0}
				if _, err := g.enter(ctx, tn); err == nil {
					if u := under.Add(1); u > most.Load() {
						most.Store(u)
					}
					under.Add(-1)
					g.leave(tn)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if most.Load() > 2 {
		t.Errorf("%d loads at once; want 2", most.Load())
	}
	if g.under != 0 || g.behind != 0 || g.fore.Len() != 0 || g.back.Len() != 0 {
		t.Errorf("%d under way, %d in the background, %d and %d waiting; want none", g.under, g.behind, g.fore.Len(), g.back.Len())
	}
}

func TestGatePromotes(t *testing.T) {
	inQueue(t, 1, 100, func(t *testing.T, q *gateQueue) {
		for _, n := range "aXYb" {
			q.enter(t.Context(), n)
		}
		q.g.promote(q.turns['Y'])
		q.enter(t.Context(), 'c')
		q.g.promote(q.turns['Y']) // again: nothing
		q.leave("abYcX")
		q.let("abYcX")
	})
	inQueue(t, 4, 100, func(t *testing.T, q *gateQueue) {
		for _, n := range "ABCD" {
			q.enter(t.Context(), n)
		}
		q.let("ABC")
		q.g.promote(q.turns['D']) // there is a place for the foreground
		synctest.Wait()
		q.let("D")
		q.g.promote(q.turns['A']) // has its place
		q.leave("ABCD")
		is(t, "loads under way", q.g.under+q.g.behind, 0)
	})
}

// A foreground load that joins a refresh in the queue takes it along to the front.
func TestJoinerPromotesARefresh(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		client := l.client()
		c := cacheIn(t, client, Config[string, int]{
			TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: 5 * time.Second}, MaxLoads: 1, Load: src.load,
			Tags: func(k string) []string { return []string{Tag("t", k)} },
		})
		expect(t, c, "k", "1 source")
		time.Sleep(11 * time.Second)
		src.set(2*time.Second, nil)
		running := inBackground(t.Context(), c, "a")
		expect(t, c, "k", "1 l1 stale") // its refresh waits for a
		b := inBackground(t.Context(), c, "b")
		if err := client.DropTags(t.Context(), Tag("t", "k")); err != nil {
			t.Fatal(err)
		}
		k := inBackground(t.Context(), c, "k")
		last := inBackground(t.Context(), c, "c")
		running()
		is(t, "b", b(), "3 source")
		got := k()
		is(t, "k", got[:8], "4 source")
		last()
	})
}

// When too many loads wait, an old value is served if the policy allows, and else the error says why.
func TestOverload(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		var d diary
		client := l.client(func(o *Options) {
			o.Hooks.Shed = func(e observe.Shed) { d.note("%s %s %s %v", e.Cache, e.Key, e.Reason, e.Refresh) }
		})
		c := cacheIn(t, client, Config[string, int]{
			TTL: 10 * time.Second, Stale: Stale{IfError: time.Hour, ErrorIs: func(error) bool { return false }},
			MaxLoads: 1, MaxQueued: 1, Load: src.load,
		})
		expect(t, c, "old", "1 source")
		time.Sleep(11 * time.Second)
		src.set(5*time.Second, nil)
		a, b := inBackground(t.Context(), c, "a"), inBackground(t.Context(), c, "b")
		var r Result[int]
		d1 := took(func() { r = expect(t, c, "old", "1 l1 stale") })
		is(t, "time", d1, 0)
		if !errors.Is(r.Err, ErrOverloaded) {
			t.Errorf("served for %v; want ErrOverloaded", r.Err)
		}
		expect(t, c, "new", `error freshet: load "n:new": freshet: too many loads: 1 under way, and 1 waiting refused overload`)
		_, err := c.Get(t.Context(), "new")
		if !errors.Is(err, ErrOverloaded) || !errors.As(err, new(*LoadError)) {
			t.Errorf("got %v", err)
		}
		m, err := c.GetMany(t.Context(), []string{"x", "old"})
		if !errors.Is(err, ErrOverloaded) || m["old"] != 1 {
			t.Errorf("got %v, %v; want the old value, and an error for the other", m, err)
		}
		is(t, "shed", client.Stats().Shed[observe.ReasonOverload], 4)
		is(t, "told", d.took(), "n n:old overload false\nn n:new overload false\nn n:new overload false\nn n:x overload false")
		is(t, "a", a(), "2 source")
		is(t, "b", b(), "3 source")
		if v, ok := l.srv.Get("n:new"); ok && len(v) > 0 {
			t.Error("the lease of a load that was turned away is still there")
		}
	})
}

// The last who waits takes the load out of the queue.
func TestCallerLeavesTheQueue(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(5*time.Second, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Hour, MaxLoads: 1, MaxQueued: 1, Load: src.load})
		a := inBackground(t.Context(), c, "a")
		ctx, cancel := context.WithCancel(t.Context())
		b := inBackground(ctx, c, "b")
		cancel()
		is(t, "b", b(), "error context canceled")
		synctest.Wait()
		other := inBackground(t.Context(), c, "c") // there is room again
		is(t, "a", a(), "1 source")
		is(t, "c", other(), "2 source")
	})
}

// The table of breaker, row by row.
func TestBreakerTable(t *testing.T) {
	const pause = 10
	b := &breaker{after: 3, pause: pause}
	states := []string{"closed", "open", "half-open"}
	var rounds []uint64
	begin := func(now int64, want bool) {
		t.Helper()
		round, _, refused := b.begin(now)
		if refused == want {
			t.Errorf("at %d: refused %v; want %v", now, refused, !want)
		}
		rounds = append(rounds, round)
	}
	end := func(now int64, v verdict, want string) {
		t.Helper()
		changed, open := b.end(now, rounds[0], v, errBoom)
		rounds = rounds[1:]
		got := states[b.state]
		if changed {
			got += map[bool]string{true: " opened", false: " closed"}[open]
		}
		if got != want {
			t.Errorf("at %d: %s; want %s", now, got, want)
		}
	}
	for _, v := range []verdict{sourceIll, sourceIll, sourceWell, sourceIll, sourceUnknown, sourceIll} {
		begin(0, true)
		end(0, v, "closed")
	}
	begin(0, true) // ends late
	late := rounds
	rounds = nil
	begin(0, true)
	end(1, sourceIll, "open opened")
	begin(10, false)
	rounds = nil
	begin(11, true) // the probe
	begin(11, false)
	rounds = rounds[:1]
	end(12, sourceIll, "open")
	begin(21, false)
	rounds = nil
	begin(22, true)
	end(23, sourceUnknown, "open")
	begin(23, true) // at once: the last probe proved nothing
	end(24, sourceWell, "closed closed")
	for range 2 {
		begin(25, true)
		end(25, sourceIll, "closed")
	}
	rounds = late
	end(26, sourceIll, "closed") // of another round
	begin(27, true)
	end(27, sourceIll, "open opened")

	off := &breaker{}
	for range 10 {
		round, _, refused := off.begin(0)
		if changed, _ := off.end(0, round, sourceIll, errBoom); refused || changed {
			t.Error("a breaker that is off does something")
		}
	}
}

// A source that fails again and again is left alone for a while.
func TestSourceBreaker(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		var d diary
		client := l.client(func(o *Options) {
			o.Hooks.Source = func(e observe.Source) { d.note("%s open %v", e.Cache, e.Open) }
		})
		c := cacheIn(t, client, Config[string, int]{
			TTL: 10 * time.Second, Stale: Stale{IfError: time.Hour, RetryAfter: time.Millisecond},
			BreakAfter: 3, BreakFor: 5 * time.Second, LoadTimeout: 2 * time.Second, Load: src.load,
		})
		expect(t, c, "old", "1 source")
		time.Sleep(11 * time.Second)
		src.set(0, errBoom)
		for i := range 2 {
			expect(t, c, fmt.Sprint(i), fmt.Sprintf(`error freshet: load "n:%d": boom`, i))
		}
		src.set(time.Hour, nil)
		expect(t, c, "slow", `error freshet: load "n:slow": freshet: LoadTimeout is over: context deadline exceeded`) // a timeout counts
		is(t, "told", d.took(), "n open true")
		is(t, "open", client.Stats().Caches["n"].SourceOpen, true)
		loads := src.loads.Load()
		src.set(0, nil)
		if r := expect(t, c, "old", "1 l1 stale"); !errors.Is(r.Err, ErrSourceDown) || !errors.Is(r.Err, context.DeadlineExceeded) {
			t.Errorf("served for %v", r.Err)
		}
		expect(t, c, "new", `error freshet: load "n:new": freshet: the source failed again and again: freshet: LoadTimeout is over: context deadline exceeded refused source-down`)
		if _, err := c.GetMany(t.Context(), []string{"x", "y"}); !errors.Is(err, ErrSourceDown) {
			t.Errorf("GetMany: %v", err)
		}
		is(t, "loads while it is open", src.loads.Load(), loads)
		if _, there := l.srv.Get("n:new"); there {
			t.Error("a lease was taken for a load that is not to be")
		}

		time.Sleep(5 * time.Second)
		src.set(time.Second, errBoom)
		probe := inBackground(t.Context(), c, "a")
		expect(t, c, "b", `error freshet: load "n:b": freshet: the source failed again and again: freshet: LoadTimeout is over: context deadline exceeded refused source-down`)
		is(t, "probe", probe(), `error freshet: load "n:a": boom`)
		is(t, "loads", src.loads.Load(), loads+1)
		expect(t, c, "b", `error freshet: load "n:b": freshet: the source failed again and again: boom refused source-down`)

		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		probe = inBackground(ctx, c, "a")
		cancel() // it proves nothing
		is(t, "probe", probe(), "error context canceled")
		synctest.Wait()
		src.set(0, nil)
		is(t, "next probe", inBackground(t.Context(), c, "a")(), fmt.Sprint(loads+3, " source"))
		expect(t, c, "b", fmt.Sprint(loads+4, " source"))
		is(t, "told", d.took(), "n open false")
		is(t, "opened", client.Stats().SourceOpened, 1)
		if n := client.Stats().Shed[observe.ReasonSourceDown]; n < 5 {
			t.Errorf("%d loads were refused; want at least 5", n)
		}

		// What ErrorIs says is not the source's failure, and what it has not, don't count.
		src.set(0, ErrNotFound)
		for i := range 5 {
			expect(t, c, fmt.Sprint("none", i), "not found source")
		}
		is(t, "open", client.Stats().Caches["n"].SourceOpen, false)
		mine := cacheIn(t, client, Config[string, int]{Name: "m", TTL: time.Hour, BreakAfter: 1, Load: src.load, Stale: Stale{ErrorIs: func(err error) bool { return !errors.Is(err, errBoom) }}})
		src.set(0, errBoom)
		for range 3 {
			expect(t, mine, "k", `error freshet: load "m:k": boom`)
		}
	})
}

// Loads that wait for their turn while the source fails don't ask it, one after the other.
func TestSourceFailsWhileLoadsWait(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(time.Second, errBoom)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Hour, MaxLoads: 1, BreakAfter: 1, BreakFor: time.Minute, Load: src.load})
		first := inBackground(t.Context(), c, "first")
		var rest []func() string
		for i := range 5 {
			rest = append(rest, inBackground(t.Context(), c, fmt.Sprint(i)))
		}
		is(t, "first", first(), `error freshet: load "n:first": boom`)
		for i, result := range rest {
			is(t, "one that waited", result(), fmt.Sprintf(`error freshet: load "n:%d": freshet: the source failed again and again: boom refused source-down`, i))
		}
		synctest.Wait()
		is(t, "loads", src.loads.Load(), 1)
		for i := range rest {
			if _, there := l.srv.Get(fmt.Sprint("n:", i)); there {
				t.Errorf("the lease of %d was not given back", i)
			}
		}
		// Their places are free: the next one is the probe.
		time.Sleep(time.Minute)
		src.set(0, nil)
		expect(t, c, "0", "2 source")
	})
}

// A batch is one load for the breaker, and a probe that panics is a failure.
func TestSourceBreakerAndBatches(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		client := l.client()
		var mood atomic.Int32
		var asked []int
		c := cacheIn(t, client, Config[int, int]{TTL: time.Hour, BreakAfter: 2, BreakFor: time.Minute, LoadMany: func(_ context.Context, ks []int, _ *BatchLoad[int]) (map[int]int, error) {
			asked = append(asked, len(ks))
			m := make(map[int]int)
			for _, k := range ks {
				m[k] = k
			}
			switch mood.Load() {
			case 1:
				return nil, errBoom
			case 2:
				panic("ouch")
			}
			return m, nil
		}})
		many := func(want error) {
			t.Helper()
			synctest.Wait() // leases are given back
			if _, err := c.GetMany(t.Context(), []int{1, 2, 3}); !errors.Is(err, want) {
				t.Errorf("got %v; want %v", err, want)
			}
		}
		mood.Store(1)
		many(errBoom)
		many(errBoom)
		many(ErrSourceDown)
		time.Sleep(time.Minute)
		mood.Store(2)
		if _, err := c.Get(t.Context(), 1); !errors.As(err, new(*PanicError)) {
			t.Errorf("got %v", err)
		}
		many(ErrSourceDown)
		time.Sleep(time.Minute)
		mood.Store(0)
		many(nil)
		many(nil)
		if !slices.Equal(asked, []int{3, 3, 1, 3}) {
			t.Errorf("asked for %v keys", asked)
		}
	})
}

// A claimCounter counts the leases that are asked for.
type claimCounter struct {
	store.Store
	claims atomic.Int64
}

func (s *claimCounter) Claim(ctx context.Context, reqs []store.ClaimRequest, regs ...*store.Registration) []store.Claim {
	s.claims.Add(int64(len(reqs)))
	return s.Store.Claim(ctx, reqs, regs...)
}

// While the source is down, no lease is taken for a load that is not to be: others would wait for it.
func TestNoLeaseWhileTheSourceIsDown(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(0, errBoom)
		s := &claimCounter{Store: l.srv.Connect()}
		client, err := New(s, Options{ExactClock: true})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		synctest.Wait()
		c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, BreakAfter: 1, BreakFor: time.Minute, Load: src.load})
		many := cacheIn(t, client, Config[string, int]{Name: "m", TTL: time.Hour, BreakAfter: 1, BreakFor: time.Minute, LoadMany: func(context.Context, []string, *BatchLoad[string]) (map[string]int, error) {
			return nil, errBoom
		}})
		for range 3 {
			c.Get(t.Context(), "a")
			many.GetMany(t.Context(), []string{"x", "y"})
			synctest.Wait()
		}
		is(t, "claims", s.claims.Load(), 1+2)
		is(t, "loads", src.loads.Load(), 1)
	})
}

// A deadline of the caller's is none of the source's failures, though the load of one caller alone ends with it. LoadTimeout is one.
func TestBreakerIgnoresDeadlinesOfCallers(t *testing.T) {
	for _, batch := range []bool{false, true} {
		inLab(t, func(t *testing.T, l *lab) {
			var src source
			cfg := Config[string, int]{TTL: time.Hour, BreakAfter: 2, BreakFor: time.Hour, LoadTimeout: time.Second, Load: src.load}
			if batch {
				cfg.LoadMany = func(ctx context.Context, _ []string, _ *BatchLoad[string]) (map[string]int, error) {
					_, err := src.load(ctx, "", nil)
					return nil, err
				}
			}
			c := cacheIn(t, l.client(), cfg)
			alone := func(d time.Duration) {
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				var err error
				if batch {
					_, err = c.manyAlone(ctx, []string{"k"})
				} else {
					_, err = c.alone(ctx, "k", c.name("k"), nil, observe.ReasonBehind)
				}
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v; want a deadline", err)
				}
			}
			src.set(time.Minute, nil)
			for range 5 {
				alone(30 * time.Millisecond)
			}
			is(t, "after deadlines of callers", c.down("k", false), nil)
			for range 2 {
				alone(time.Minute)
			}
			if err := c.down("k", false); !errors.Is(err, ErrSourceDown) {
				t.Errorf("after two times LoadTimeout: %v; want ErrSourceDown", err)
			}
		})
	}
}
