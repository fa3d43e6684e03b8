package freshet

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/store/memstore"
)

func TestUseAfterClose(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		client := l.client()
		c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, Load: src.load})
		expect(t, c, "k", "1 source")
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Errorf("the second Close says %v; want nothing", err)
		}
		ctx := t.Context()
		for name, call := range map[string]func() error{
			"Get": func() error { _, err := c.Get(ctx, "k"); return err },
			"GetFunc": func() error {
				_, err := c.GetFunc(ctx, "k", func(context.Context, *Load) (int, error) { return 1, nil })
				return err
			},
			"Lookup": func() error { _, err := c.Lookup(ctx, "x"); return err },
			"LookupFunc": func() error {
				_, err := c.LookupFunc(ctx, "x", func(context.Context, *Load) (int, error) { return 1, nil })
				return err
			},
			"GetMany":  func() error { _, err := c.GetMany(ctx, []string{"k", "x"}); return err },
			"Set":      func() error { return c.Set(ctx, "k", 1) },
			"Drop":     func() error { return c.Drop(ctx, "k") },
			"Clear":    func() error { return c.Clear(ctx) },
			"DropTags": func() error { return client.DropTags(ctx, "t") },
			"DropKeys": func() error { return client.DropKeys(ctx, "n:k") },
			"Explain":  func() error { _, err := client.Explain(ctx, "n:k"); return err },
			"NewCache": func() error {
				_, err := NewCache(client, Config[string, int]{Name: "later", TTL: time.Hour})
				return err
			},
		} {
			if err := call(); !errors.Is(err, ErrClosed) {
				t.Errorf("%s after Close says %v; want ErrClosed", name, err)
			}
		}
		if r, ok := c.Peek(ctx, "k"); ok {
			t.Errorf("Peek after Close found %+v", r)
		}
		client.Stats()
		is(t, "loads", src.loads.Load(), 1)
		is(t, "entries", client.Stats().Caches["n"].Entries, 0)
	})
}

// Close ends the loads under way and returns after their loaders have.
func TestCloseWaitsForLoads(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		client := l.client()
		returned := make(chan time.Time, 3)
		load := func(ctx context.Context, _ string, _ *Load) (int, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // it takes its time to tidy up
			returned <- time.Now()
			return 0, ctx.Err()
		}
		c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, Load: load})
		m := cacheIn(t, client, Config[string, int]{Name: "m", TTL: time.Hour, LoadMany: func(ctx context.Context, ks []string, _ *BatchLoad[string]) (map[string]int, error) {
			_, err := load(ctx, "", nil)
			return nil, err
		}})
		one := inBackground(t.Context(), c, "k")
		many := make(chan error, 1)
		go func() { _, err := m.GetMany(t.Context(), []string{"a", "b"}); many <- err }()
		time.Sleep(time.Second)
		if d := took(func() { client.Close() }); d != time.Second {
			t.Errorf("Close took %v; want the second that the loaders need", d)
		}
		is(t, "loaders that returned", len(returned), 2)
		is(t, "answer", one(), `error freshet: load "n:k": context canceled`)
		if err := <-many; !errors.Is(err, context.Canceled) {
			t.Errorf("the batch got %v", err)
		}
	})
}

// Reads that overlap Close end, with a value or an error, and nothing panics.
func TestCloseMeetsReads(t *testing.T) {
	for range 20 {
		client, err := New(memstore.NewServer(memstore.Options{}).Connect(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		client.mirror.WaitSynced(t.Context()) // otherwise drops are pending
		c := cacheIn(t, client, Config[int, int]{TTL: time.Hour, Load: func(_ context.Context, k int, _ *Load) (int, error) { return k, nil }})
		done := make(chan struct{})
		for g := range 4 {
			go func() {
				defer func() { done <- struct{}{} }()
				for i := 0; ; i++ {
					if _, err := c.GetMany(t.Context(), []int{i % 100, i % 7, g}); errors.Is(err, ErrClosed) {
						return
					}
					if _, err := c.Get(t.Context(), i%50); errors.Is(err, ErrClosed) {
						return
					}
					c.Drop(t.Context(), i%10)
				}
			}()
		}
		time.Sleep(5 * time.Millisecond)
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		for range 4 {
			<-done
		}
	}
}

// Drops that could not be delivered are tried once more, and what is lost is told.
func TestCloseWithPendingDrops(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		for _, back := range []bool{true, false} {
			client := l.client()
			cut := client.store.(interface {
				Cut()
				Mend()
			})
			other := cacheIn(t, l.client(), Config[string, int]{TTL: time.Hour, Load: src.load})
			before, err := other.Get(t.Context(), "k")
			if err != nil {
				t.Fatal(err)
			}
			cut.Cut()
			if err := client.DropKeys(t.Context(), "n:k"); !errors.Is(err, ErrPending) {
				t.Fatalf("got %v; want a pending drop", err)
			}
			if back {
				cut.Mend()
			}
			err = client.Close()
			synctest.Wait()
			after, _ := other.Get(t.Context(), "k")
			if back != (err == nil) || back == (before == after) {
				t.Errorf("store back %v: Close says %v; the others had %d and have %d", back, err, before, after)
			}
			var pe *PendingError
			if !back && (!errors.As(err, &pe) || len(pe.Keys) != 1 || pe.Keys[0] != "n:k" || err.Error() != `freshet: drop of key "n:k" pending: memstore: drop: store: unavailable`) {
				t.Errorf("Close says %v", err)
			}
		}
	})
}

// However many drops are pending, Close sends all of them.
func TestCloseWithManyPendingDrops(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		const n = 2*maxPending + 5
		client := l.client(func(o *Options) { o.MaxPending = n })
		cut := client.store.(interface {
			Cut()
			Mend()
		})
		cut.Cut()
		for i := range n {
			if err := client.DropKeys(t.Context(), fmt.Sprint("foreign:", i)); !errors.Is(err, ErrPending) {
				t.Fatalf("got %v; want a pending drop", err)
			}
		}
		l.srv.Set("foreign:0", []byte("old"), time.Hour)
		l.srv.Set(fmt.Sprint("foreign:", n-1), []byte("old"), time.Hour)
		cut.Mend()
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		for _, k := range []string{"foreign:0", fmt.Sprint("foreign:", n-1)} {
			if _, there := l.srv.Get(k); there {
				t.Errorf("%s is still there", k)
			}
		}
	})
}
