package flight

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type (
	group  = Group[string, int]
	aCall  = Call[string, int]
	accept = func(*aCall) bool
)

func state(s *string) { *s = "state" }

// join joins and says whether it leads.
func join(t *testing.T, g *group, ok accept, want bool) *aCall {
	t.Helper()
	c, lead := g.Join("k", state, ok)
	if lead != want {
		t.Errorf("leads: %v; want %v", lead, want)
	}
	return c
}

func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		lead := join(t, &g, nil, true)
		if lead.Key != "k" || lead.State != "state" {
			t.Errorf("the call is %q with %q", lead.Key, lead.State)
		}
		joined := join(t, &g, nil, false)
		if joined != lead || g.Find("k") != lead || g.Find("other") != nil {
			t.Error("callers of one key are in different calls")
		}
		if _, other := g.Join("other", state, nil); !other {
			t.Error("another key has the same call")
		}
		got := make(chan int, 2)
		for _, c := range []*aCall{lead, joined} {
			go func() {
				v, err := c.Wait(t.Context())
				if err != nil {
					t.Error(err)
				}
				got <- v
			}()
		}
		synctest.Wait()
		g.Finish(lead, 7)
		if a, b := <-got, <-got; a != 7 || b != 7 {
			t.Errorf("got %d and %d; want 7", a, b)
		}
		<-lead.Done()
		if lead.Result() != 7 {
			t.Errorf("the result is %d", lead.Result())
		}
		if v, err := lead.Wait(t.Context()); v != 7 || err != nil {
			t.Errorf("who waits late gets %d, %v", v, err)
		}
		join(t, &g, nil, true) // it is over
	})
}

func TestAccept(t *testing.T) {
	var g group
	first := join(t, &g, nil, true)
	join(t, &g, func(c *aCall) bool { return c == first }, false)
	second := join(t, &g, func(*aCall) bool { return false }, true)
	if g.Find("k") != second {
		t.Error("the refused call is still the one to join")
	}
	g.Finish(first, 1) // does not take the second away
	if g.Find("k") != second {
		t.Error("the end of the first call ended the second")
	}
	g.Finish(second, 2)
	if first.Result() != 1 || second.Result() != 2 || g.Find("k") != nil {
		t.Errorf("results %d and %d; want 1 and 2", first.Result(), second.Result())
	}
}

func TestForget(t *testing.T) {
	var g group
	first := join(t, &g, nil, true)
	g.Forget(first)
	g.Forget(first)
	second := join(t, &g, nil, true)
	g.Forget(first) // late: it is not that one any more
	if join(t, &g, nil, false) != second {
		t.Error("the second call was forgotten")
	}
	g.Finish(first, 1) // its waiters get it all the same
	if v, err := first.Wait(t.Context()); v != 1 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
}

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		canceled := 0
		c := join(t, &g, nil, true)
		c.Detach(func() { canceled++ })
		ctx, cancel := context.WithCancelCause(t.Context())
		errs := make(chan error, 1)
		join(t, &g, nil, false)
		go func() { _, err := c.Wait(ctx); errs <- err }()
		synctest.Wait()
		boom := errors.New("boom")
		cancel(boom)
		if err := <-errs; err != boom {
			t.Errorf("got %v; want the cause", err)
		}
		if canceled != 0 {
			t.Error("the work was canceled though the leader waits")
		}
		c.Leave() // the leader, who was the last
		if canceled != 1 {
			t.Errorf("canceled %d times; want once", canceled)
		}
		if next := join(t, &g, nil, true); next == c { // nobody joins what was canceled
			t.Error("the same call leads again")
		}
		g.Finish(c, 1)
		if canceled != 1 {
			t.Errorf("canceled %d times; want once", canceled)
		}
	})
}

// Everybody has left before the work has its cancel function.
func TestDetachAfterTheLastLeft(t *testing.T) {
	var g group
	canceled := 0
	c := join(t, &g, nil, true)
	c.Leave()
	c.Detach(func() { canceled++ })
	if canceled != 1 {
		t.Errorf("canceled %d times; want at once", canceled)
	}
	g.Finish(c, 0)
	if canceled != 1 {
		t.Errorf("canceled %d times; want once", canceled)
	}
}

// Finish calls the cancel function too, so that the context of the work is released.
func TestFinishReleases(t *testing.T) {
	var g group
	canceled := 0
	c := join(t, &g, nil, true)
	c.Detach(func() { canceled++ })
	g.Finish(c, 0)
	c.Leave()
	if canceled != 1 {
		t.Errorf("canceled %d times; want once", canceled)
	}
}

// The first result stands, and a call may be ended twice.
func TestFinishTwice(t *testing.T) {
	var g group
	c := join(t, &g, nil, true)
	g.Finish(c, 1)
	g.Finish(c, 2)
	if v, err := c.Wait(t.Context()); v != 1 || err != nil {
		t.Errorf("got %d, %v; want the first result", v, err)
	}
}

// A result beats the end of the context that comes with it.
func TestResultFirst(t *testing.T) {
	var g group
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		c := join(t, &g, nil, true)
		g.Finish(c, 3)
		if v, err := c.Wait(ctx); v != 3 || err != nil {
			t.Fatalf("got %d, %v", v, err)
		}
	}
}

// Many callers join, lead, leave, forget and refuse at once: each gets the result of a load that was under way
// while it waited, and each cancel function is called once.
func TestStress(t *testing.T) {
	var g Group[atomic.Int32, int64]
	var next, leads, cancels atomic.Int64
	var work, callers sync.WaitGroup
	for w := range 16 {
		callers.Go(func() {
			for i := range 800 {
				key := fmt.Sprint(i % 3)
				ctx, cancel := context.WithCancel(t.Context())
				before := next.Load()
				c, lead := g.Join(key, nil, func(c *Call[atomic.Int32, int64]) bool {
					return c.State.Load() == 0 || i%5 != 0
				})
				if lead {
					leads.Add(1)
					work.Go(func() {
						c.State.Store(1)
						var once atomic.Int32
						wctx, stop := context.WithCancel(context.Background())
						c.Detach(func() {
							if once.Add(1) > 1 {
								t.Error("canceled twice")
							}
							cancels.Add(1)
							stop()
						})
						if i%7 == 0 {
							select {
							case <-wctx.Done():
							case <-time.After(10 * time.Microsecond):
							}
						}
						g.Finish(c, next.Add(1))
					})
				}
				switch (i + w) % 11 {
				case 0:
					cancel()
				case 1:
					g.Forget(c)
				case 2:
					if found := g.Find(key); found != nil && found.Ended() && found.Result() <= 0 {
						t.Errorf("an ended call has the result %d", found.Result())
					}
				}
				v, err := c.Wait(ctx)
				switch {
				case err != nil && !errors.Is(err, context.Canceled):
					t.Errorf("got %v", err)
				case err == nil && v <= 0, err == nil && v > next.Load(), err == nil && lead && v <= before:
					t.Errorf("got the result %d; between %d and %d results were there", v, before, next.Load())
				}
				cancel()
			}
		})
	}
	callers.Wait()
	work.Wait()
	if leads.Load() != cancels.Load() {
		t.Errorf("%d calls, %d were released", leads.Load(), cancels.Load())
	}
	for i := range 3 {
		if c := g.Find(fmt.Sprint(i)); c != nil {
			t.Errorf("%s is left", c.Key)
		}
	}
}
