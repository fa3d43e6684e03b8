package freshet

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestCatchUp(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		a := l.client()
		conn := l.srv.Connect()
		b, err := New(conn, Options{ExactClock: true, Name: "b"})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		is(t, "CatchUp at the start", b.CatchUp(t.Context()), nil)
		cfg := Config[string, int]{TTL: time.Hour, Load: src.load}
		ca, cb := cacheIn(t, a, cfg), cacheIn(t, b, cfg)
		expect(t, cb, "x", "1 source")
		l.srv.LoseNext(1) // of DropTags, nothing but the announcement tells
		is(t, "Clear", ca.Clear(t.Context()), nil)
		expect(t, cb, "x", "1 l1")
		is(t, "CatchUp", b.CatchUp(t.Context()), nil)
		tick()
		expect(t, cb, "x", "2 source")

		// It waits for an outage to end.
		conn.Cut()
		is(t, "Clear", ca.Clear(t.Context()), nil)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errBoom)
		defer cancel()
		is(t, "CatchUp in an outage", b.CatchUp(ctx), errBoom)
		time.AfterFunc(time.Minute, conn.Mend)
		is(t, "CatchUp over an outage", b.CatchUp(t.Context()), nil)
		expect(t, cb, "x", "3 source")

		l.srv.FlushAll()
		is(t, "CatchUp after a loss", b.CatchUp(t.Context()), nil)
		synctest.Wait()
		b.Close()
		if err := b.CatchUp(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}
