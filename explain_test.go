package freshet

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
)

var digits = regexp.MustCompile(`\b2000-01-01T\d\d:\d\d:\d\d\.\d{6}Z`) // log positions

// A short story, told by Explain.
func TestExplain(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(30*time.Millisecond, nil)
		ca, cb := l.client(), l.client()
		cfg := Config[string, int]{Name: "user", TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: 10 * time.Second}, Load: src.load,
			Tags: func(k string) []string { return []string{Tag("users", k)} }}
		a := cacheIn(t, ca, cfg)
		cacheIn(t, cb, cfg)
		f := func(c *Client, want ...string) {
			t.Helper()
			synctest.Wait()
			x, err := c.Explain(t.Context(), "user:7")
			if err != nil {
				t.Fatal(err)
			}
			got := digits.ReplaceAllString(strings.TrimSuffix(x.String(), "\n"), "P")
			if got != strings.Join(want, "\n") {
				t.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
			}
		}
		time.Sleep(time.Second - time.Duration(time.Now().Nanosecond()))
		f(ca, `user:7 (cache "user")`,
			"  L1: not in this process",
			"  L2: nothing at this key",
			"  trust: held, proven 0s ago")
		expect(t, a, "7", "1 source")
		f(ca, `user:7 (cache "user")`,
			"  L1: fresh, age 30ms, ttl 9.97s",
			"  L2: value, 123 bytes, loaded 2000-01-01T00:00:01Z in 30ms, fresh until 2000-01-01T00:00:11Z",
			"  tag user!: good, last drop at or before P, load read at P",
			"  tag users:7: good, last drop at or before P, load read at P",
			"  tag users!: good, last drop at or before P, load read at P",
			"  trust: held, proven 30ms ago",
			"  last miss: l2, absent, 30ms ago")
		f(cb, `user:7 (cache "user")`,
			"  L1: not in this process",
			"  L2: value, 123 bytes, loaded 2000-01-01T00:00:01Z in 30ms, fresh until 2000-01-01T00:00:11Z",
			"  tag user!: good, last drop at or before P, load read at P",
			"  tag users:7: good, last drop at or before P, load read at P",
			"  tag users!: good, last drop at or before P, load read at P",
			"  trust: held, proven 30ms ago")
		time.Sleep(11 * time.Second)
		f(ca, `user:7 (cache "user")`,
			"  L1: stale (stale), age 11.03s, ttl -1.03s",
			"  L2: value, 123 bytes, loaded 2000-01-01T00:00:01Z in 30ms, fresh until 2000-01-01T00:00:11Z (expired)",
			"  tag user!: good, last drop at or before P, load read at P",
			"  tag users:7: good, last drop at or before P, load read at P",
			"  tag users!: good, last drop at or before P, load read at P",
			"  trust: held, proven 30ms ago",
			"  last miss: l2, absent, 11.03s ago")
		if err := cb.DropTags(t.Context(), "users:7"); err != nil {
			t.Fatal(err)
		}
		f(ca, `user:7 (cache "user")`,
			"  L1: dead (dropped), age 11.03s, ttl -1.03s",
			"  L2: value, 123 bytes, loaded 2000-01-01T00:00:01Z in 30ms, fresh until 2000-01-01T00:00:11Z (dropped)",
			"  tag user!: good, last drop at or before P, load read at P",
			"  tag users:7: dropped at P, after the load read at P",
			"  tag users!: good, last drop at or before P, load read at P",
			"  trust: held, proven 30ms ago",
			"  last drop: users:7 by b at 2000-01-01T00:00:12.03Z",
			"  last miss: l2, absent, 11.03s ago")
		tick()
		src.set(time.Second, nil)
		loading := inBackground(t.Context(), a, "7")
		f(cb, `user:7 (cache "user")`,
			"  L1: not in this process",
			"  L2: lease, 24 bytes (absent)",
			"  trust: held, proven 30ms ago")
		loading()
		ca.store.(interface{ Cut() }).Cut()
		time.Sleep(5 * time.Second)
		if err := a.Drop(t.Context(), "7"); err == nil {
			t.Error("the drop was delivered")
		}
		f(ca, `user:7 (cache "user")`,
			"  L1: dead (dropped), age 6s, ttl 4s",
			"  L2: memstore: read: store: unavailable",
			"  tag user!: good, last drop at or before P, load read at P",
			"  tag users:7: good, last drop at or before P, load read at P",
			"  tag users!: good, last drop at or before P, load read at P",
			"  trust: lost, proven 5.03s ago",
			"  a drop of it has not reached the store yet",
			"  last drop: users:7 by b at 2000-01-01T00:00:12.03Z",
			"  last miss: l2, dropped, 6s ago")
		x, err := cb.Explain(t.Context(), "nobody:1")
		if err != nil || !strings.HasPrefix(x.String(), `nobody:1 (cache "")`+"\n  L1: not in this process\n  L2: nothing at this key\n") {
			t.Errorf("got %v, %v", x, err)
		}
	})
}

// The same story in numbers.
func TestStats(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(time.Second, nil)
		ca, cb := l.client(), l.client()
		cfg := Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: time.Minute}, Load: src.load}
		a, b := cacheIn(t, ca, cfg), cacheIn(t, cb, cfg)
		get := func(c *Cache[string, int], k string) { c.Get(t.Context(), k); synctest.Wait(); tick() }
		get(a, "x") // load
		get(a, "x") // L1
		get(a, "x") // L1
		get(b, "x") // L2
		get(b, "x") // L1
		get(a, "y") // load
		a.Drop(t.Context(), "y")
		tick()
		get(b, "y") // load
		cb.DropTags(t.Context(), "n!")
		tick()
		get(b, "y") // load
		time.Sleep(9500 * time.Millisecond)
		get(b, "y") // stale, and a refresh
		time.Sleep(time.Second)
		synctest.Wait()
		src.set(0, errBoom)
		get(b, "z") // fails
		check := func(name string, got Stats, want Stats) {
			t.Helper()
			if got.StaleFor < 0 || got.StaleFor > 100*time.Millisecond {
				t.Errorf("%s: StaleFor is %v; want at most the time between probes", name, got.StaleFor)
			}
			if got.Proven.Count < 100 || got.Proven.Max > 101*time.Millisecond || got.Voided.Count != 1 || got.Voided.Max > time.Millisecond {
				t.Errorf("%s: proven %v, voided %v; want each probe, within the time between them, and the one drop by the other", name, got.Proven, got.Voided)
			}
			got.StaleFor, got.Proven, got.Voided = 0, observe.Histogram{}, observe.Histogram{}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
			}
		}
		type n = map[observe.Reason]uint64
		check("a", ca.Stats(), Stats{
			HitsL1: 2, Loads: 2, LoadTime: 2 * time.Second, Fills: 2, Drops: 1, Epochs: 1,
			MissesL1: n{observe.ReasonAbsent: 2}, MissesL2: n{observe.ReasonAbsent: 2}, Refused: n{}, Shed: n{},
			LinkUp: true, Tracks: true, Committed: map[string]observe.Histogram{}, Caches: map[string]CacheStats{"n": {Entries: 2, Weight: 2}},
		})
		check("b", cb.Stats(), Stats{
			HitsL1: 1, HitsL2: 1, HitsStale: 1, Loads: 4, LoadErrors: 1, Refreshes: 1, LoadTime: 3 * time.Second, Fills: 3, Drops: 1,
			MissesL1: n{observe.ReasonAbsent: 3, observe.ReasonDropped: 1}, MissesL2: n{observe.ReasonAbsent: 2, observe.ReasonDropped: 1}, Refused: n{}, Shed: n{},
			LinkUp: true, Tracks: true, Committed: map[string]observe.Histogram{}, Caches: map[string]CacheStats{"n": {Entries: 2, Weight: 2}},
		})
	})
}

// The index of reasons knows all reason codes: an unknown one would be counted as none.
func TestReasonsAreComplete(t *testing.T) {
	seen := map[observe.Reason]bool{}
	for i, r := range reasons {
		if numberOf(r) != i || seen[r] {
			t.Errorf("reason %q has number %d and %d", r, i, numberOf(r))
		}
		seen[r] = true
	}
	for _, r := range []observe.Reason{
		observe.ReasonNone, observe.ReasonAbsent, observe.ReasonExpired, observe.ReasonStale, observe.ReasonDropped, observe.ReasonEpoch,
		observe.ReasonUnproven, observe.ReasonCorrupt, observe.ReasonVersion, observe.ReasonSchema, observe.ReasonCodec, observe.ReasonPending,
		observe.ReasonStoreError, observe.ReasonLeaseLost, observe.ReasonLateTag, observe.ReasonBadTag, observe.ReasonNoStore, observe.ReasonNoLease, observe.ReasonEncode, observe.ReasonTransaction,
		observe.ReasonLongKey, observe.ReasonTooLarge, observe.ReasonManyTags, observe.ReasonOverload, observe.ReasonSourceDown, observe.ReasonUncertified, observe.ReasonBehind,
	} {
		if !seen[r] {
			t.Errorf("%q is not counted", r)
		}
	}
	if fmt.Sprint(numberOf("made up")) != "0" {
		t.Error("an unknown reason has a number")
	}
}
