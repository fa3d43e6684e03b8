package freshet

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A gate is a loader that tells what happens to its context.
type gate struct {
	src   source
	ctx   context.Context
	ended error
}

func (g *gate) load(ctx context.Context, k string, l *Load) (int, error) {
	g.ctx = ctx
	v, err := g.src.load(ctx, k, l)
	g.ended = ctx.Err()
	return v, err
}

func TestWaitersLeaveOnTheirOwn(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var g gate
		g.src.set(time.Second, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Minute, Load: g.load})
		lead, leaveLead := context.WithCancelCause(t.Context())
		leader := inBackground(lead, c, "k")
		short, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("too slow for me"))
		defer cancel()
		hasty := inBackground(short, c, "k")
		patient := inBackground(t.Context(), c, "k")

		time.Sleep(100 * time.Millisecond)
		leaveLead(errBoom)
		is(t, "the leader's answer", leader(), "error boom")
		is(t, "time of the hasty one's", took(func() { is(t, "the hasty one's answer", hasty(), "error too slow for me") }), 200*time.Millisecond)
		is(t, "the patient one's answer", patient(), "1 source joined")
		is(t, "the load's end", g.ended, nil)
		expect(t, c, "k", "1 l1")
	})
}

func TestLoadEndsWhenNobodyWaits(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var g gate
		g.src.set(time.Hour, nil)
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Minute, LoadTimeout: time.Hour, Load: g.load})
		ctx, leave := context.WithCancel(t.Context())
		a, b := inBackground(ctx, c, "k"), inBackground(ctx, c, "k")
		leave()
		is(t, "answers", a()+", "+b(), "error context canceled, error context canceled")
		synctest.Wait()
		is(t, "the load's end", g.ended, context.Canceled)
		is(t, "loads under way", g.src.under.Load(), 0)

		// Who comes later starts anew, and need not wait for the lease to end.
		g.src.set(time.Second, nil)
		is(t, "time", took(func() { expect(t, c, "k", "2 source") }), time.Second)
	})
}

// A refresh is wanted for its own sake.
func TestRefreshGoesOnThoughItsCallerLeft(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var g gate
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, Stale: Stale{WhileRevalidate: time.Minute}, Load: g.load})
		expect(t, c, "k", "1 source")
		time.Sleep(10 * time.Second)
		g.src.set(time.Second, nil)
		ctx, leave := context.WithCancel(t.Context())
		if v, err := c.Get(ctx, "k"); v != 1 || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
		leave()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		is(t, "the load's end", g.ended, nil)
		expect(t, c, "k", "2 l1")
	})
}

// A load has the values of the caller who led it, and neither its deadline nor its end.
func TestContextOfALoad(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var g gate
		c := cacheIn(t, l.client(), Config[string, int]{TTL: 10 * time.Second, LoadTimeout: time.Minute, Load: g.load, Stale: Stale{WhileRevalidate: time.Minute}})
		type trace struct{}
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), trace{}, "t1"), time.Second)
		defer cancel()
		if _, err := c.Get(ctx, "k"); err != nil {
			t.Fatal(err)
		}
		check := func(want string) {
			t.Helper()
			is(t, "value", g.ctx.Value(trace{}), any(want))
			end, ok := g.ctx.Deadline()
			if left := time.Until(end); !ok || left > time.Minute || left < 59*time.Second {
				t.Errorf("the load has %v; want its own timeout of a minute", left)
			}
		}
		check("t1")
		time.Sleep(10 * time.Second)
		if _, err := c.Get(context.WithValue(t.Context(), trace{}, "t2"), "k"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		check("t2") // the refresh, too
	})
}

func TestEndedContext(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		c := cacheIn(t, l.client(), Config[string, int]{TTL: time.Minute, Load: src.load})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errBoom)
		if _, err := c.Get(ctx, "k"); !errors.Is(err, errBoom) {
			t.Errorf("Get says %v; want the cause", err)
		}
		if _, err := c.GetMany(ctx, []string{"k"}); !errors.Is(err, errBoom) {
			t.Errorf("GetMany says %v; want the cause", err)
		}
		is(t, "loads", src.loads.Load(), 0)
	})
}

// Another instance that dies while it loads delays others by the rest of its lease, at most.
func TestDeadLeaseHolder(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var dead, src source
		dead.set(time.Hour, nil)
		client := l.client()
		a := cacheIn(t, client, Config[string, int]{TTL: time.Minute, LeaseTime: 3 * time.Second, LoadTimeout: 2 * time.Hour, Load: dead.load})
		b := cacheIn(t, l.client(), Config[string, int]{TTL: time.Minute, LeaseTime: 3 * time.Second, Load: src.load})
		ctx, leave := context.WithCancel(t.Context())
		lost := inBackground(ctx, a, "k")
		client.store.(interface{ Cut() }).Cut() // it can't even give the lease back
		d := took(func() { expect(t, b, "k", "1 source") })
		if d < 2*time.Second || d > 3*time.Second+20*time.Millisecond {
			t.Errorf("waited for %v; want the lease of 3s", d)
		}
		leave()
		lost()
	})
}

// Others are woken as soon as the one who loads is done.
func TestWaitForAnotherInstance(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(777*time.Millisecond, nil)
		cfg := Config[string, int]{TTL: time.Minute, Load: src.load}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		first := inBackground(t.Context(), a, "k")
		is(t, "time", took(func() { expect(t, b, "k", "1 l2") }), 777*time.Millisecond)
		is(t, "the other's", first(), "1 source")

		// If its load fails, one of the others takes over.
		src.set(777*time.Millisecond, errBoom)
		first = inBackground(t.Context(), a, "x")
		second := inBackground(t.Context(), b, "x")
		src.set(time.Millisecond, nil)
		is(t, "the first's", first(), `error freshet: load "n:x": boom`)
		is(t, "the second's", second(), "3 source")
	})
}

// Word of a drop comes late, or twice (from the log and from tracking), to an instance that is loading the key again:
// its load holds the lease, but nobody joins it any more. Whoever asks waits for that lease, and must be woken by
// this instance's own fill, of which the store tells the others only.
func TestOwnFillWakesOwnWaiter(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		src.set(100*time.Millisecond, nil)
		a := l.client()
		cache := cacheIn(t, a, Config[string, int]{TTL: time.Hour, Load: src.load})
		first := inBackground(t.Context(), cache, "k")
		time.Sleep(10 * time.Millisecond)
		a.forget([]string{"n:k"})
		second := inBackground(t.Context(), cache, "k")
		is(t, "the first", first(), "1 source")
		is(t, "the wait of the second after the fill", took(func() { is(t, "the second", second(), "1 l2") }), 0)
	})
}
