package freshet

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
)

func TestTTLCountsFromTheStartOfTheLoad(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(2*time.Second, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Load: src.load})
		r := expect(t, c, "k", "1 source")
		is(t, "age", r.Age, 2*time.Second)
		is(t, "ttl", r.TTL, 8*time.Second)
		is(t, "stored", r.Stored, true)
		is(t, "reason", r.Reason, observe.ReasonAbsent)
		time.Sleep(8*time.Second - 1)
		expect(t, c, "k", "1 l1")
		time.Sleep(1)
		expect(t, c, "k", "2 source")
	})
}

func TestJitterTakesAwayAShareOfTheTTL(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		f := func(jitter float64, lowest time.Duration) {
			t.Helper()
			var src source
			name := fmt.Sprintf("j%v", jitter)
			c := cacheIn(t, l.client(), Config[string, int]{Name: name, TTL: 100 * time.Second, Jitter: jitter, Load: src.load})
			least, most := time.Hour, time.Duration(0)
			for i := range 400 {
				r := expect(t, c, fmt.Sprint(i), fmt.Sprintf("%d source", i+1))
				rec := l.record(fmt.Sprintf("%s:%d", name, i))
				stored := rec.Fresh.Sub(rec.Created)
				if d := stored - r.TTL; d < -time.Millisecond || d > time.Millisecond {
					t.Fatalf("the record is fresh for %v, L1 for %v; want the same", stored, r.TTL)
				}
				least, most = min(least, r.TTL), max(most, r.TTL)
			}
			if span := 100*time.Second - lowest; least < lowest || most > 100*time.Second || span > 0 && most-least < span*9/10 {
				t.Errorf("jitter %v: fresh times from %v to %v; want them spread from %v to 100s", jitter, least, most, lowest)
			}
		}
		f(0.1, 90*time.Second)
		f(0.5, 50*time.Second)
		f(-1, 100*time.Second)
	})
}

// An instance that takes a value over from the shared level counts its age from the load.
func TestPromotionKeepsTheAge(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: 10 * time.Second, Load: src.load}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		expect(t, a, "k", "1 source")
		time.Sleep(8 * time.Second)
		r := expect(t, b, "k", "1 l2")
		is(t, "age", r.Age.Round(time.Millisecond), 8*time.Second)
		is(t, "ttl", r.TTL.Round(time.Millisecond), 2*time.Second)
		expect(t, b, "k", "1 l1")
		time.Sleep(2 * time.Second)
		expect(t, b, "k", "2 source")
		is(t, "loads", src.loads.Load(), 2)
	})
}

func TestALoadSlowerThanItsTTLIsNotStored(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(3*time.Second, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 2 * time.Second, Load: src.load})
		expect(t, c, "k", "1 source refused no-store")
		expect(t, c, "k", "2 source refused no-store")
		synctest.Wait()
		if l.record("n:k") != nil {
			t.Error("something is left at the key")
		}
	})
}

func TestL1TTL(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Minute, L1TTL: time.Second, Load: src.load})
		expect(t, c, "k", "1 source")
		time.Sleep(time.Second - 1)
		expect(t, c, "k", "1 l1")
		time.Sleep(1)
		expect(t, c, "k", "1 l2")
		expect(t, c, "k", "1 l1")
		is(t, "loads", src.loads.Load(), 1)
	})
}

// Whatever two instances do, a fresh answer is never older than the TTL, and a stale one
// never older than its window; both count from the start of the load.
func TestNothingOutlivesItsTime(t *testing.T) {
	const ttl, window, load = time.Second, 500 * time.Millisecond, 30 * time.Millisecond
	for _, l1 := range []time.Duration{0, 200 * time.Millisecond} {
		inLab(t, func(t *testing.T, l *lab) {
			seed := rand.Uint64()
			rnd := rand.New(rand.NewPCG(seed, 1))
			began := func(ctx context.Context, _ string, _ *Load) (time.Time, error) {
				at := time.Now()
				time.Sleep(load)
				return at, nil
			}
			cfg := Config[string, time.Time]{
				TTL: ttl, Jitter: 0.1, EarlyRefresh: 1, L1TTL: l1, Stale: Stale{WhileRevalidate: window}, Load: began,
			}
			caches := []*Cache[string, time.Time]{cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)}
			for range 1500 {
				time.Sleep(time.Duration(rnd.Int64N(int64(300 * time.Millisecond))))
				c := caches[rnd.IntN(2)]
				switch rnd.IntN(12) {
				case 0:
					if err := c.Drop(t.Context(), "k"); err != nil {
						t.Fatal(err)
					}
					continue
				case 1:
					l.srv.Evict(1)
					continue
				}
				asked := time.Now()
				r, err := c.Lookup(t.Context(), "k")
				if err != nil {
					t.Fatal(err)
				}
				age, most := asked.Sub(r.Value), ttl
				if r.Stale {
					most += window
				}
				if age >= most {
					t.Fatalf("seed %d: got a value %v old, stale %v", seed, age, r.Stale)
				}
				if d := time.Since(r.Value) - r.Age; d < -time.Millisecond || d > time.Millisecond {
					t.Fatalf("seed %d: the result says %v; the value is %v old", seed, r.Age, time.Since(r.Value))
				}
			}
		})
	}
}

func TestStateAt(t *testing.T) {
	const never, sure = 1.0, 1e-300
	of := func(f *facts) *entry[string, int] { return &entry[string, int]{facts: f} }
	e := of(&facts{fresh: 100, stale: 150, failed: 200, local: 80, cost: 10})
	all := of(&facts{fresh: 100, stale: 100, failed: 100, local: 100, cost: 10})
	f := func(e *entry[string, int], now int64, p proof, luck float64, want state, reason observe.Reason) {
		t.Helper()
		if got, why := e.stateAt(now, p, 1, luck); got != want || why != reason {
			t.Errorf("at %d, proof %d, luck %v: state %d (%s); want %d (%s)", now, p, luck, got, why, want, reason)
		}
	}
	f(e, 0, proofHeld, never, fresh, "")
	f(e, 79, proofHeld, never, fresh, "")
	f(e, 80, proofHeld, never, recheck, "expired")
	f(e, 99, proofHeld, never, recheck, "expired")
	f(e, 100, proofHeld, never, stale, "stale")
	f(e, 149, proofHeld, never, stale, "stale")
	f(e, 150, proofHeld, never, expired, "expired")
	f(e, 199, proofHeld, never, expired, "expired")
	f(e, 200, proofHeld, never, dead, "expired")
	f(e, 0, proofNone, never, unproven, "unproven")
	f(e, 199, proofNone, never, unproven, "unproven")
	f(e, 200, proofNone, never, dead, "expired")
	for _, now := range []int64{0, 90, 120, 180, 300} {
		f(e, now, proofDropped, never, dead, "dropped")
		f(e, now, proofEpoch, never, dead, "epoch")
	}
	// Early: now - cost·ln(luck) >= fresh.
	f(all, 0, proofHeld, sure, early, "")             // ln is -690
	f(all, 89, proofHeld, 0.36788, fresh, "")         // ln is just above -1: 89 + 9.99
	f(all, 90, proofHeld, 0.36787, early, "")         // 90 + 10.00
	f(all, 99, proofHeld, never, fresh, "")           // at the worst of luck, not before the end
	f(all, 99, proofNone, sure, unproven, "unproven") // nothing is early that nothing vouches for
	f(all, 99, proofDropped, sure, dead, "dropped")   //
	f(e, 85, proofHeld, sure, recheck, "expired")     //
	f(e, 0, proofHeld, sure, early, "")               //
	free := of(&facts{fresh: 100, stale: 100, failed: 100, local: 100})
	f(free, 99, proofHeld, sure, fresh, "") // what costs nothing is never loaded early
	if st, _ := all.stateAt(99, proofHeld, 0, sure); st != fresh {
		t.Errorf("with EarlyRefresh off: state %d; want fresh", st)
	}
}

// Who reads a hot key never waits when it ends: it was loaded anew before.
func TestHotKeyNeverWaits(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		const ttl, cost = 2 * time.Second, 100 * time.Millisecond
		var src source
		src.set(cost, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: ttl, EarlyRefresh: 1, Load: src.load})
		expect(t, c, "k", "1 source")
		for range 6000 {
			time.Sleep(time.Millisecond)
			var r Result[int]
			var err error
			if d := took(func() { r, err = c.Lookup(t.Context(), "k") }); err != nil || d > 0 || r.Age >= ttl {
				t.Fatalf("%s took %v, age %v", show(r, err), d, r.Age)
			}
		}
		// Not much earlier than needed either: about five costs before the end of two seconds, at the most.
		if n := src.loads.Load(); n < 4 || n > 7 {
			t.Errorf("%d loads in three TTLs; want 4 to 7", n)
		}
		time.Sleep(cost)
	})
}

// A value that is near its end when it comes from the shared level is loaded early, too.
func TestEarlyRefreshFromL2(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(time.Second, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, EarlyRefresh: 1e6, MaxEntries: -1, Load: src.load})
		expect(t, c, "k", "1 source")
		r := expect(t, c, "k", "1 l2")
		is(t, "stale", r.Stale, false)
		time.Sleep(2 * time.Second)
		is(t, "loads", src.loads.Load(), 2)
		src.set(time.Second, nil)
		expect(t, c, "k", "2 l2")
		time.Sleep(2 * time.Second)
	})
}

// Times without end are long ones.
func TestForEver(t *testing.T) {
	const ever = math.MaxInt64
	for name, cfg := range map[string]Config[string, int]{
		"TTL":      {TTL: ever},
		"stale":    {TTL: ever, Stale: Stale{WhileRevalidate: ever, IfError: ever, RetryAfter: ever}},
		"load":     {TTL: 1},
		"the rest": {TTL: time.Hour, NegativeTTL: ever, L1TTL: ever, LeaseTime: ever, BreakAfter: 1, BreakFor: ever},
	} {
		inLab(t, func(t *testing.T, l *lab) {
			var src source
			cfg.Load = func(ctx context.Context, k string, l *Load) (int, error) {
				if name == "load" {
					l.TTL(ever)
					l.Stale(Stale{IfError: ever})
				}
				return src.load(ctx, k, l)
			}
			a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
			expect(t, a, "k", "1 source")
			time.Sleep(time.Minute)
			expect(t, a, "k", "1 l1")
			expect(t, b, "k", "1 l2")
			expect(t, b, "k", "1 l1")
		})
	}
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Second, Stale: Stale{IfError: ever}, Load: src.load})
		expect(t, c, "k", "1 source")
		src.set(0, errBoom)
		time.Sleep(time.Hour)
		r, err := c.Lookup(t.Context(), "k")
		if err != nil || r.Value != 1 || !r.Stale {
			t.Errorf("got %s; want the old value", show(r, err))
		}
	})
}
