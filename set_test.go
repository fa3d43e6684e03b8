package freshet

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
)

func TestSet(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: 10 * time.Second, Load: src.load}
		ca, cb := l.client(), l.client()
		a, b := cacheIn(t, ca, cfg), cacheIn(t, cb, cfg)
		set := func(c *Cache[string, int], v int) {
			t.Helper()
			if err := c.Set(t.Context(), "k", v); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			tick()
		}
		set(a, 50)
		r := expect(t, a, "k", "50 l1")
		if r.TTL > 10*time.Second || r.TTL < 9999*time.Millisecond {
			t.Errorf("TTL %v; want the cache's", r.TTL)
		}
		expect(t, b, "k", "50 l2")
		set(b, 60)
		expect(t, b, "k", "60 l1")
		expect(t, a, "k", "60 l2")

		// A load that began before it neither overwrites it nor keeps it from those who come later.
		if err := a.Drop(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		tick()
		src.set(time.Second, nil)
		for i, by := range []*Cache[string, int]{a, b} {
			if i > 0 {
				a.Drop(t.Context(), "k")
				tick()
			}
			slow := inBackground(t.Context(), a, "k")
			time.Sleep(time.Millisecond)
			set(by, 70+i)
			expect(t, by, "k", []string{"70 l1", "71 l1"}[i])
			is(t, "the slow one's", slow(), []string{"1 source refused lease-lost", "2 source refused lease-lost"}[i])
			expect(t, a, "k", []string{"70 l1", "71 l2"}[i])
		}
		time.Sleep(10 * time.Second)
		src.set(0, nil)
		expect(t, a, "k", "3 source")

		// Of two writers the later one wins, everywhere.
		set(a, 80)
		set(b, 81)
		expect(t, a, "k", "81 l2")
		if err := cb.DropTags(t.Context(), "n!"); err != nil {
			t.Fatal(err)
		}
		tick()
		expect(t, a, "k", "4 source") // it depends on what a loaded entry does
	})
}

func TestPeek(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: 10 * time.Second, Load: src.load, Stale: Stale{WhileRevalidate: 10 * time.Second, IfError: time.Minute}}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		f := func(c *Cache[string, int], want string, reason observe.Reason) {
			t.Helper()
			r, ok := c.Peek(t.Context(), "k")
			got := "nothing"
			if ok {
				got = show(r, nil)
			}
			if got != want || r.Reason != reason {
				t.Errorf("got %q (%s); want %q (%s)", got, r.Reason, want, reason)
			}
			synctest.Wait()
		}
		f(a, "nothing", observe.ReasonAbsent)
		expect(t, a, "k", "1 source")
		f(a, "1 l1", observe.ReasonNone)
		f(b, "1 l2", observe.ReasonNone)
		f(b, "1 l1", observe.ReasonNone)
		time.Sleep(10 * time.Second)
		f(a, "1 l1 stale", observe.ReasonStale)
		time.Sleep(10 * time.Second)
		f(a, "nothing", observe.ReasonExpired)
		is(t, "loads", src.loads.Load(), 1) // it never loads, not even in the background
		if err := a.Drop(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		f(a, "nothing", observe.ReasonDropped)

		src.set(time.Second, nil)
		slow := inBackground(t.Context(), a, "k")
		f(b, "nothing", observe.ReasonDropped) // somebody loads it: not a value
		slow()
	})
}

// Many names are dropped in pieces: the store does nothing else meanwhile.
func TestManyDropsAtOnce(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		c := l.client()
		var tags []string
		for i := range 2*dropsAtOnce + 1 {
			tags = append(tags, fmt.Sprint("t", i))
		}
		is(t, "DropTags", c.DropTags(t.Context(), tags...), nil)
		is(t, "drops", c.Stats().Drops, 3)
	})
}
