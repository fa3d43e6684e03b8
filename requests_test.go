package freshet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet/codec"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// A wire is a store at some distance: each call takes a round trip, and counts. Once it hangs, calls take the
// whole budget and fail.
type wire struct {
	store.Store
	rtt, budget time.Duration

	mu    sync.Mutex
	calls map[string]int
	left  int  // calls before it hangs; negative: it doesn't
	deaf  bool // it isn't told the head of the log
}

func (w *wire) travel(call string) error {
	w.mu.Lock()
	w.calls[call]++
	hangs := w.left == 0
	if w.left > 0 {
		w.left--
	}
	w.mu.Unlock()
	if hangs {
		time.Sleep(w.budget)
		return fmt.Errorf("wire: %s: %w", call, store.ErrTimeout)
	}
	time.Sleep(w.rtt)
	return nil
}

// hang lets n more calls through. Negative: it answers again.
func (w *wire) hang(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = n
}

func (w *wire) counted() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.calls
	w.calls = make(map[string]int)
	return c
}

func (w *wire) Read(ctx context.Context, keys []string, plain bool) ([]store.Value, error) {
	if err := w.travel("read"); err != nil {
		return nil, err
	}
	return w.Store.Read(ctx, keys, plain)
}

func (w *wire) Claim(ctx context.Context, reqs []store.ClaimRequest, regs ...*store.Registration) []store.Claim {
	if err := w.travel("claim"); err != nil {
		for _, r := range regs {
			r.Err = err
		}
		claims := make([]store.Claim, len(reqs))
		for i := range claims {
			claims[i].Err = err
		}
		return claims
	}
	return w.Store.Claim(ctx, reqs, regs...)
}

func (w *wire) Fill(ctx context.Context, reqs []store.FillRequest) []error {
	if err := w.travel("fill"); err != nil {
		errs := make([]error, len(reqs))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	return w.Store.Fill(ctx, reqs)
}

func (w *wire) Register(ctx context.Context, part int, tags []string) (store.Head, []store.Pos, error) {
	if err := w.travel("register"); err != nil {
		return store.Head{}, nil, err
	}
	return w.Store.Register(ctx, part, tags)
}

func (w *wire) Head(ctx context.Context, part int) (store.Head, error) {
	w.mu.Lock()
	deaf := w.deaf
	w.mu.Unlock()
	if deaf {
		return store.Head{}, fmt.Errorf("wire: head: %w", store.ErrUnavailable)
	}
	return w.Store.Head(ctx, part)
}

// wired makes an instance at the end of a wire.
func (l *lab) wired() (*Client, *wire) {
	l.t.Helper()
	w := &wire{Store: l.srv.Connect(), rtt: time.Millisecond, budget: 50 * time.Millisecond, calls: make(map[string]int), left: -1}
	c, err := New(w, Options{ExactClock: true, Name: fmt.Sprint("wired", l.n)})
	if err != nil {
		l.t.Fatal(err)
	}
	l.n++
	l.t.Cleanup(func() { c.Close() })
	time.Sleep(10 * time.Millisecond)
	return c, w
}

func itemConfig(load time.Duration, late bool) Config[string, int] {
	return Config[string, int]{
		TTL: time.Minute, Stale: Stale{IfError: time.Hour},
		Tags: func(k string) []string { return []string{Tag("items", k)} },
		Load: func(_ context.Context, k string, l *Load) (int, error) {
			if late {
				l.Tag(Tag("late", k))
			}
			time.Sleep(load)
			return 7, nil
		},
		LoadMany: func(_ context.Context, ks []string, l *BatchLoad[string]) (map[string]int, error) {
			m := make(map[string]int)
			for _, k := range ks {
				if late {
					l.For(k).Tag(Tag("late", k))
				}
				m[k] = 7
			}
			time.Sleep(load)
			return m, nil
		},
	}
}

// A hit in the shared level is one read; a load is a read, a claim with which the tags travel, and a fill;
// and that holds for a batch of any size.
func TestRequests(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		ac, aw := l.wired()
		bc, bw := l.wired()
		a := cacheIn(t, ac, itemConfig(0, false))
		b := cacheIn(t, bc, itemConfig(0, false))
		ks := make([]string, 100)
		for i := range ks {
			ks[i] = fmt.Sprint("many", i)
		}
		f := func(what string, w *wire, trips int, want map[string]int, get func()) {
			t.Helper()
			w.counted()
			is(t, "time of "+what, took(get), time.Duration(trips)*w.rtt)
			if got := w.counted(); !maps.Equal(got, want) {
				t.Errorf("%s asked %v; want %v", what, got, want)
			}
		}
		cold := map[string]int{"read": 1, "claim": 1, "fill": 1}
		f("a cold key", aw, 3, cold, func() { expect(t, a, "k", "7 source") })
		f("its hit on another instance", bw, 1, map[string]int{"read": 1}, func() { expect(t, b, "k", "7 l2") })
		f("a hit in L1", bw, 0, nil, func() { expect(t, b, "k", "7 l1") })
		if err := ac.DropKeys(t.Context(), "n:k"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		f("a dropped key", aw, 3, map[string]int{"read": 1, "claim": 1, "fill": 1}, func() { expect(t, a, "k", "7 source") })
		f("a cold batch", aw, 3, cold, func() {
			if m, err := a.GetMany(t.Context(), ks); len(m) != len(ks) || err != nil {
				t.Errorf("got %d values, %v", len(m), err)
			}
		})
		f("a batch of hits", bw, 1, map[string]int{"read": 1}, func() {
			if m, err := b.GetMany(t.Context(), ks); len(m) != len(ks) || err != nil {
				t.Errorf("got %d values, %v", len(m), err)
			}
		})
		f("a set", aw, 1+1, map[string]int{"claim": 1, "fill": 1}, func() {
			if err := a.Set(t.Context(), "k", 8); err != nil {
				t.Error(err)
			}
		})
		expect(t, a, "k", "8 l1")
	})
}

// Wherever a store begins to hang, a Get waits for it once.
func TestOneBudget(t *testing.T) {
	const load = 20 * time.Millisecond
	for _, late := range []bool{false, true} {
		for _, batch := range []bool{false, true} {
			for _, known := range []string{"nothing", "the tags", "a dropped entry", "an unproven entry", "what another stored", "a lapsed trust"} {
				for n := range 6 {
					t.Run(fmt.Sprintf("late %v/batch %v/%s/after %d", late, batch, known, n), func(t *testing.T) {
						inLab(t, func(t *testing.T, l *lab) {
							c, w := l.wired()
							a := cacheIn(t, c, itemConfig(load, late))
							switch known {
							case "the tags":
								expect(t, a, "k", "7 source")
								if err := a.Drop(t.Context(), "k"); err != nil {
									t.Fatal(err)
								}
							case "a dropped entry":
								expect(t, a, "k", "7 source")
								if err := l.client().DropTags(t.Context(), Tag("items", "k")); err != nil {
									t.Fatal(err)
								}
							case "an unproven entry":
								expect(t, a, "k", "7 source")
								w.Store.(*memstore.Store).Cut()
								time.Sleep(2 * time.Second)
								w.Store.(*memstore.Store).Mend()
								time.Sleep(time.Second)
							case "a lapsed trust":
								expect(t, a, "k", "7 source")
								expect(t, a, "other", "7 source")
								w.mu.Lock()
								w.deaf = true
								w.mu.Unlock()
								time.Sleep(2 * time.Second)
							case "what another stored":
								expect(t, cacheIn(t, l.client(), itemConfig(0, late)), "k", "7 source")
							}
							w.hang(n)
							d := took(func() {
								if !batch {
									if r, err := a.Lookup(t.Context(), "k"); r.Value != 7 || err != nil {
										t.Errorf("got %v", show(r, err))
									}
								} else if m, err := a.GetMany(t.Context(), []string{"k", "other"}); m["k"] != 7 || m["other"] != 7 || err != nil {
									t.Errorf("got %v, %v", m, err)
								}
							})
							if limit := load + w.budget + time.Duration(n)*w.rtt; d > limit {
								t.Errorf("took %v; want at most %v: asked %v", d, limit, w.counted())
							}
							w.hang(-1)
						})
					})
				}
			}
		}
	}
}

// Who leaves while stamps are asked for says nothing about the store: those who joined get what it has.
func TestLeaderLeavesWhileStampsAreAskedFor(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		c, w := l.wired()
		a := cacheIn(t, c, itemConfig(0, false))
		time.Sleep(time.Second)
		other := cacheIn(t, l.client(), itemConfig(0, false))
		for i := range 5000 { // so that the mirror can't know the stamp
			if err := other.client.DropTags(t.Context(), Tag("filler", i)); err != nil {
				t.Fatal(err)
			}
		}
		expect(t, other, "k", "7 source")
		for i := range 5000 {
			if err := other.client.DropTags(t.Context(), Tag("filler", i)); err != nil {
				t.Fatal(err)
			}
		}
		w.rtt = 10 * time.Millisecond
		w.counted()
		ctx, cancel := context.WithCancel(t.Context())
		first := inBackground(ctx, a, "k")
		time.Sleep(15 * time.Millisecond) // the read is back, the stamps are asked for
		joined := inBackground(t.Context(), a, "k")
		cancel()
		if got := joined(); got != "7 l2" && got != "7 l2 joined" {
			t.Errorf("who joined got %q; want what the store has: asked %v", got, w.counted())
		}
		_ = first()
		is(t, "loads", c.Stats().Loads, 0)
		is(t, "store errors", c.Stats().StoreErrors, 0)
	})
}

// A codec that calls back while it decodes.
type tellingCodec struct {
	codec.Codec[int]
	decoding *func()
}

func (c tellingCodec) Decode(b []byte) (int, error) {
	if f := *c.decoding; f != nil {
		f()
	}
	return c.Codec.Decode(b)
}

// A key is dropped between the read of its entry and the refresh of it: nobody who comes later gets the entry while
// the refresh is under way.
func TestDropBetweenReadAndRefresh(t *testing.T) {
	for _, l1 := range []int{0, -1} {
		inLab(t, func(t *testing.T, l *lab) {
			var src source
			cfg := Config[string, int]{TTL: time.Minute, Stale: Stale{WhileRevalidate: time.Hour}, MaxEntries: l1, Load: src.load}
			other := l.client()
			expect(t, cacheIn(t, other, cfg), "k", "1 source")
			time.Sleep(2 * time.Minute)

			client, _ := l.wired()
			var decoding func()
			cfg.Codec = tellingCodec{codec.JSON[int](), &decoding}
			c := cacheIn(t, client, cfg)
			decoding = func() {
				decoding = nil
				if err := other.DropKeys(t.Context(), "n:k"); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Millisecond) // it is known here
			}
			expect(t, c, "k", "1 l2 stale") // who was there before it may have it
			r, err := c.Lookup(t.Context(), "k")
			if r.Value != 2 || err != nil || r.Stale {
				t.Errorf("L1 of %d entries: who came after the drop got %q; want what is loaded then", l1, show(r, err))
			}
		})
	}
}

// In an outage, an own drop of a late tag counts for those who come while the value is about to be handed over.
func TestOwnDropOfALateTagBeforeTheHandOver(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		var c *Cache[string, int]
		var client *Client
		var joined func() string
		client = l.client(func(o *Options) {
			o.Hooks.Fill = func(observe.Fill) {
				if joined != nil {
					return
				}
				if err := client.DropTags(t.Context(), "late:k"); !errors.Is(err, ErrPending) {
					t.Errorf("got %v; want a pending drop", err)
				}
				tick()
				got := make(chan string, 1)
				joined = func() string { return <-got }
				go func() {
					r, err := c.Lookup(t.Context(), "k")
					got <- show(r, err)
				}()
				time.Sleep(time.Millisecond) // it has joined
			}
		})
		c = cacheIn(t, client, Config[string, int]{TTL: time.Minute, Load: func(ctx context.Context, k string, l *Load) (int, error) {
			l.Tag("late:k")
			return src.load(ctx, k, l)
		}})
		client.store.(*memstore.Store).Cut()
		time.Sleep(2 * time.Second)
		expect(t, c, "k", "1 source refused no-lease")
		is(t, "who came after the drop", joined(), "2 source refused no-lease")
	})
}

// A delivery settles what was asked for before it, whatever the order in which failures are noted.
func TestOutboxKeepsTheLatestIntent(t *testing.T) {
	o := newOutbox(maxPending, 1000, func(string) (string, bool) { return "", false })
	o.add([]string{"k"}, []string{"t"}, 12)
	o.add([]string{"k"}, []string{"t"}, 10)
	o.settle([]string{"k"}, []string{"t"}, 11)
	if n, asked := o.next(10, nil); len(n.keys) != 1 || len(n.tags) != 1 || asked != 12 {
		t.Errorf("pending are %v of %d; want both of 12", n, asked)
	}
	for range 1000 {
		o.add([]string{"k"}, nil, 13)
	}
	if len(o.queue) > 10 {
		t.Errorf("the queue has %d places for two intents", len(o.queue))
	}
	o.settle([]string{"k"}, []string{"t"}, 13)
	if n, _ := o.next(10, nil); !n.empty() || !o.empty() {
		t.Errorf("pending are %v; want none", n)
	}
}
