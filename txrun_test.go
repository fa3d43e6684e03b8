package freshet

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestInTx(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a := l.client()
		var did []string
		var failing string
		step := func(name string) func(context.Context) error {
			return func(context.Context) error {
				did = append(did, name)
				if name == failing {
					return errBoom
				}
				return nil
			}
		}
		db := TxFuncs{Begin: step("begin"), Commit: step("commit"), Rollback: step("rollback")}
		run := func(ctx context.Context, fail string, f func(context.Context) error) (err error, dropped bool) {
			did, failing = nil, fail
			before := l.head(t)
			err = a.InTx(ctx, db, func(ctx context.Context) error {
				a.DropKeys(ctx, "n:1")
				return f(ctx)
			})
			return err, l.head(t) != before
		}
		f := func(fail string, result, want error, steps string, dropped bool) {
			t.Helper()
			err, got := run(t.Context(), fail, func(context.Context) error { return result })
			if !errors.Is(err, want) || (err == nil) != (want == nil) || strings.Join(did, " ") != steps || got != dropped {
				t.Errorf("fails %q: %v, did %q, dropped: %v; want %v, %q, %v", fail, err, did, got, want, steps, dropped)
			}
			is(t, "open", a.Stats().TxOpen, 0)
		}
		mine := errors.New("mine")
		f("", nil, nil, "begin commit", true)
		f("begin", nil, errBoom, "begin", false)
		f("commit", nil, errBoom, "begin commit", true)
		f("", mine, mine, "begin rollback", false)
		f("rollback", mine, mine, "begin rollback", true)
		f("rollback", mine, errBoom, "begin rollback", true)

		// ErrPending always means that the database committed.
		err, _ := run(t.Context(), "", func(context.Context) error { return &PendingError{Keys: []string{"k"}, Err: errBoom} })
		if err == nil || errors.Is(err, ErrPending) {
			t.Errorf("f's own pending drop comes back as %v", err)
		}

		err, _ = run(t.Context(), "", func(ctx context.Context) error {
			return a.InTx(ctx, db, func(context.Context) error { t.Error("nested"); return nil })
		})
		if !errors.Is(err, ErrTxOpen) {
			t.Errorf("nested: %v", err)
		}

		// The rollback has time of its own.
		ctx, cancel := context.WithCancel(t.Context())
		db.Rollback = func(ctx context.Context) error {
			if end, ok := ctx.Deadline(); ctx.Err() != nil || !ok || time.Until(end) > rollbackTime {
				t.Errorf("the rollback's context: %v", ctx)
			}
			did = append(did, "rollback")
			return nil
		}
		err, dropped := run(ctx, "", func(ctx context.Context) error { cancel(); return ctx.Err() })
		if !errors.Is(err, context.Canceled) || dropped {
			t.Errorf("canceled: %v, dropped %v", err, dropped)
		}

		// Panics and Goexit.
		func() {
			defer func() { is(t, "the panic", recover(), any("p")) }()
			run(t.Context(), "", func(context.Context) error { panic("p") })
		}()
		is(t, "steps", strings.Join(did, " "), "begin rollback")
		done := make(chan bool)
		go func() {
			defer close(done)
			run(t.Context(), "", func(context.Context) error { runtime.Goexit(); return nil })
		}()
		<-done
		is(t, "steps", strings.Join(did, " "), "begin rollback")
		is(t, "open", a.Stats().TxOpen, 0)

		before := l.head(t)
		db.Commit = func(context.Context) error { panic("c") }
		func() {
			defer func() { is(t, "the panic", recover(), any("c")) }()
			run(t.Context(), "", func(context.Context) error { return nil })
		}()
		if l.head(t) == before {
			t.Error("nothing was dropped after a panic of the commit")
		}

		// The client is closed meanwhile: the database must not commit what nobody would drop.
		db.Commit = step("commit")
		did = nil
		err = a.InTx(t.Context(), db, func(context.Context) error { return a.Close() })
		if !errors.Is(err, ErrClosed) || strings.Join(did, " ") != "begin rollback" {
			t.Errorf("closed: %v, did %q", err, did)
		}
	})
}
