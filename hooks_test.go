package freshet

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// A diary notes what hooks are told, without what is random.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

// took returns the lines since the last time.
func (d *diary) took() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := strings.Join(d.lines, "\n")
	d.lines = nil
	return all
}

func (d *diary) hooks() observe.Hooks {
	return observe.Hooks{
		Hit: func(e observe.Hit) {
			d.note("hit %s %s %s age %v stale %v negative %v", e.Cache, e.Key, e.Level, e.Age.Round(time.Millisecond), e.Stale, e.Negative)
		},
		Miss: func(e observe.Miss) { d.note("miss %s %s %s %s", e.Cache, e.Key, e.Level, e.Reason) },
		Load: func(e observe.Load) {
			d.note("load %s %s took %v refresh %v err %v", e.Cache, e.Key, e.Took, e.Refresh, e.Err)
		},
		Fill: func(e observe.Fill) {
			d.note("fill %s %s stored %v %s bytes %v", e.Cache, e.Key, e.Stored, e.Reason, e.Bytes > 50)
		},
		Drop: func(e observe.Drop) {
			d.note("drop %v %v by %s own %v pending %v err %v", e.Keys, e.Tags, e.By, e.Own, e.Pending, e.Err)
		},
		Link:       func(e observe.Link) { d.note("link up %v tracks %v err %v", e.Up, e.Tracks, e.Err) },
		Gap:        func(e observe.Gap) { d.note("gap healed %v lost %v", e.Healed, e.Lost) },
		Epoch:      func(e observe.Epoch) { d.note("epoch of %d: %s", e.Part, e.Why) },
		Trust:      func(e observe.Trust) { d.note("trust held %v", e.Held) },
		StoreError: func(e observe.StoreError) { d.note("store error %s: %v", e.Op, e.Err) },
		Panic:      func(e observe.Panic) { d.note("panic %s %s %v", e.Cache, e.Key, e.Value) },
	}
}

func TestHooks(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var d diary
		var src source
		src.set(time.Second, nil)
		ca := l.client(func(o *Options) { o.Hooks = d.hooks() })
		cb := l.client()
		c := cacheIn(t, ca, Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: time.Minute}, Load: src.load})
		f := func(act func(), want ...string) {
			t.Helper()
			act()
			synctest.Wait()
			tick()
			if got := d.took(); got != strings.Join(want, "\n") {
				t.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
			}
		}
		get := func() { c.Get(t.Context(), "k") }
		f(func() {}, "link up true tracks true err <nil>", "epoch of 0: the store has no log", "trust held true")
		f(get, "miss n n:k l1 absent", "miss n n:k l2 absent", "load n n:k took 1s refresh false err <nil>", "fill n n:k stored true  bytes true")
		f(get, "hit n n:k l1 age 1s stale false negative false")
		time.Sleep(9 * time.Second)
		f(func() { get(); time.Sleep(2 * time.Second) }, "hit n n:k l1 age 10s stale true negative false",
			"load n n:k took 1s refresh true err <nil>", "fill n n:k stored true  bytes true")
		f(func() { c.Drop(t.Context(), "k") }, "drop [n:k] [] by a own true pending false err <nil>")
		src.set(0, ErrNotFound)
		f(get, "miss n n:k l1 dropped", "miss n n:k l2 absent", "load n n:k took 0s refresh false err <nil>", "fill n n:k stored true  bytes true")
		f(get, "hit n n:k l1 age 0s stale false negative true")
		f(func() { cb.DropTags(t.Context(), "n!", "other") }, "drop [] [n! other] by b own false pending false err <nil>")
		src.set(0, errBoom)
		f(get, "miss n n:k l1 dropped", "miss n n:k l2 dropped", `load n n:k took 0s refresh false err freshet: load "n:k": boom`)
		f(func() {
			c.GetFunc(t.Context(), "k", func(_ context.Context, l *Load) (int, error) { l.NoStore(); return 1, nil })
		}, "miss n n:k l1 dropped", "miss n n:k l2 absent", "load n n:k took 0s refresh false err <nil>", "fill n n:k stored false no-store bytes false")
		f(func() { c.GetFunc(t.Context(), "k", func(context.Context, *Load) (int, error) { panic("ouch") }) },
			"miss n n:k l1 dropped", "miss n n:k l2 absent", "panic n n:k ouch", `load n n:k took 0s refresh false err freshet: load "n:k": loader panicked: ouch`)

		// Losses.
		f(func() {
			l.srv.LoseNext(1)
			cb.DropTags(t.Context(), "x")
			cb.DropTags(t.Context(), "y")
			time.Sleep(time.Second)
		}, "drop [] [x] by b own false pending false err <nil>", "drop [] [y] by b own false pending false err <nil>", "gap healed true lost false")
		f(func() {
			l.srv.LoseNext(2)
			cb.DropTags(t.Context(), "x")
			cb.DropTags(t.Context(), "y")
			l.srv.TrimLog(1)
			time.Sleep(time.Second)
		}, "gap healed false lost true", "trust held false", "trust held true")
		cut := ca.store.(interface {
			Cut()
			Mend()
		})
		f(func() { cut.Cut(); time.Sleep(200 * time.Millisecond) }, "link up false tracks false err store: unavailable", "trust held false")
		f(func() {
			if err := c.Drop(t.Context(), "k"); err == nil {
				t.Error("the drop was delivered; want it pending")
			}
		}, "drop [n:k] [] by a own true pending true err memstore: drop: store: unavailable")
		cut.Mend()
		time.Sleep(time.Second)
		synctest.Wait()
		lines := strings.Split(d.took(), "\n")
		slices.Sort(lines) // the delivery and the probe race
		if want := []string{"drop [n:k] [] by a own true pending false err <nil>", "link up true tracks true err <nil>", "trust held true"}; !slices.Equal(lines, want) {
			t.Errorf("got %q; want %q", lines, want)
		}
	})
}

// Every hook can ask for the statistics: none is called under a lock.
func TestHooksMayAskForStats(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var client *Client
		var mu sync.Mutex
		called := map[string]int{}
		var hooks observe.Hooks
		v := reflect.ValueOf(&hooks).Elem()
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			v.Field(i).Set(reflect.MakeFunc(v.Field(i).Type(), func([]reflect.Value) []reflect.Value {
				mu.Lock()
				called[name]++
				c := client
				mu.Unlock()
				if c != nil {
					c.Stats()
					if _, err := c.Explain(context.Background(), "n:k"); err != nil && !c.closed.Load() {
						t.Error(err)
					}
				}
				return nil
			}))
		}
		c := l.client(func(o *Options) { o.Hooks = hooks })
		other := l.client()
		mu.Lock()
		client = c
		mu.Unlock()
		var src source
		cache := cacheIn(t, c, Config[string, []int]{TTL: time.Second, Stale: Stale{WhileRevalidate: time.Second}, CheckMutation: true,
			Load: func(ctx context.Context, k string, l *Load) ([]int, error) {
				n, err := src.load(ctx, k, l)
				if n == 2 {
					panic("ouch")
				}
				return []int{n}, err
			}})
		for range 5 {
			v, _ := cache.Get(t.Context(), "k")
			if len(v) > 0 {
				v[0]++
			}
			cache.Get(t.Context(), "k")
			cache.Drop(t.Context(), "k")
			cache.Get(t.Context(), "k")
			time.Sleep(1500 * time.Millisecond)
			cache.Get(t.Context(), "k")
			synctest.Wait()
		}
		ill := cacheIn(t, c, Config[string, int]{Name: "ill", TTL: time.Second, BreakAfter: 1,
			Load: func(context.Context, string, *Load) (int, error) { return 0, errBoom }})
		for range 2 {
			ill.Get(t.Context(), "k")
		}
		l.srv.LoseNext(1)
		for range 2 {
			other.DropTags(t.Context(), "t")
		}
		var rows table
		rows.set("k", 1)
		lost := cacheIn(t, c, Config[string, int]{Name: "lost", TTL: time.Hour, Verify: 1, Load: rows.load})
		lost.Get(t.Context(), "k")
		rows.set("k", 2) // and nobody drops it
		lost.Get(t.Context(), "k")
		time.Sleep(5 * time.Second)
		time.Sleep(time.Second)
		cut := c.store.(interface {
			Cut()
			Mend()
		})
		cut.Cut()
		cache.Drop(t.Context(), "k")
		cache.Drop(WithPending(t.Context(), PendingFail), "k")
		cache.Get(t.Context(), "k2")
		cut.Mend()
		time.Sleep(time.Second)
		l.srv.FlushAll()
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		for i := range v.NumField() {
			// A memory store has no breaker.
			if name := v.Type().Field(i).Name; called[name] == 0 && name != "Breaker" {
				t.Errorf("%s was never called", name)
			}
		}
		client = nil
	})
}
