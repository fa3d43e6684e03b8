package deadline

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

var (
	errLate  = errors.New("late")
	errGone  = errors.New("gone")
	valueKey = new(int)
)

// It is what context.WithTimeoutCause makes, whatever it was asked before.
func TestLikeStandard(t *testing.T) {
	type end struct {
		name   string
		parent func() (context.Context, context.CancelCauseFunc)
		after  func(cancelParent context.CancelCauseFunc, cancel func())
	}
	background := func() (context.Context, context.CancelCauseFunc) {
		return context.WithValue(context.Background(), valueKey, "v"), func(error) {}
	}
	cancelable := func() (context.Context, context.CancelCauseFunc) {
		return context.WithCancelCause(context.WithValue(context.Background(), valueKey, "v"))
	}
	earlier := func() (context.Context, context.CancelCauseFunc) {
		ctx, cancel := context.WithTimeoutCause(context.WithValue(context.Background(), valueKey, "v"), time.Second, errGone)
		return ctx, func(error) { cancel() }
	}
	for _, e := range []end{
		{"none", background, func(context.CancelCauseFunc, func()) {}},
		{"soon", background, func(context.CancelCauseFunc, func()) { time.Sleep(2*time.Second - 1) }},
		{"deadline", background, func(context.CancelCauseFunc, func()) { time.Sleep(2 * time.Second) }},
		{"canceled", background, func(_ context.CancelCauseFunc, cancel func()) { cancel() }},
		{"parent canceled", cancelable, func(p context.CancelCauseFunc, _ func()) { p(errGone) }},
		{"parent's deadline", earlier, func(context.CancelCauseFunc, func()) { time.Sleep(time.Second) }},
		{"parent canceled, then the deadline", cancelable, func(p context.CancelCauseFunc, _ func()) { p(errGone); time.Sleep(3 * time.Second) }},
		{"canceled, then the deadline", background, func(_ context.CancelCauseFunc, cancel func()) { cancel(); time.Sleep(3 * time.Second) }},
	} {
		for _, asked := range []string{"nothing", "Done", "Err", "child"} {
			t.Run(e.name+"/"+asked, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					look := func(ctx context.Context, cancelParent context.CancelCauseFunc, cancel func()) [6]any {
						defer cancelParent(nil)
						defer cancel()
						child := ctx
						switch asked {
						case "Done":
							ctx.Done()
						case "Err":
							_ = ctx.Err()
						case "child":
							c, stop := context.WithCancel(ctx)
							defer stop()
							child = c
						}
						e.after(cancelParent, cancel)
						synctest.Wait()
						done := false
						at, ok := ctx.Deadline()
						out := [6]any{ctx.Err(), context.Cause(ctx), ctx.Value(valueKey), at, ok, child.Err()}
						select {
						case <-ctx.Done():
							done = true
						default:
						}
						if done != (out[0] != nil) {
							t.Errorf("Done is closed: %v, with Err %v", done, out[0])
						}
						return out
					}
					start := time.Now()
					p, cancelParent := e.parent()
					std, cancel := context.WithTimeoutCause(p, 2*time.Second, errLate)
					want := look(std, cancelParent, cancel)
					want[3] = want[3].(time.Time).Sub(start)

					start = time.Now()
					p, cancelParent = e.parent()
					c := New(p, 2*time.Second, errLate)
					got := look(c, cancelParent, c.Cancel)
					got[3] = got[3].(time.Time).Sub(start)
					if got != want {
						t.Errorf("Err, Cause, Value, Deadline, child's Err: %v; want %v", got, want)
					}
				})
			})
		}
	}
}

func TestOf(t *testing.T) {
	parent, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := New(parent, time.Minute, errLate)
	defer c.Cancel()
	if ctx, at := Of(c); ctx != parent || at != c.at {
		t.Errorf("%v, %v; want the parent and the deadline", ctx, at)
	}
	if ctx, at := Of(parent); ctx != parent || !at.IsZero() {
		t.Errorf("%v, %v; want the context itself, and no time", ctx, at)
	}
	if n := testing.AllocsPerRun(100, func() {
		c := New(parent, time.Minute, errLate)
		if c.Err() != nil {
			t.Fail()
		}
		_, _ = Of(c)
		c.Cancel()
	}); n > 1 {
		t.Errorf("%v allocations; want one", n)
	}
}
