package freshet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// cut takes the store away from a client until mend is called.
func cut(c *Client) (mend func()) {
	s := c.store.(interface {
		Cut()
		Mend()
	})
	s.Cut()
	return s.Mend
}

// What a drop does while the store is away is the caller's choice.
func TestPendingIsAChoice(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		client, other := l.client(), cacheIn(t, l.client(), Config[string, int]{TTL: time.Hour, Load: src.load})
		c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, Load: src.load})
		expect(t, c, "k", "1 source")
		expect(t, other, "k", "1 l2")

		mend := cut(client)
		fail := WithPending(t.Context(), PendingFail)
		var lost *NotKeptError
		err := c.Drop(fail, "k")
		if !errors.As(err, &lost) || !errors.Is(err, ErrNotKept) || errors.Is(err, ErrPending) || !slices.Equal(lost.Keys, []string{"n:k"}) {
			t.Errorf("PendingFail: %v", err)
		}
		is(t, "error", fmt.Sprint(err), `freshet: drop of key "n:k" not kept: memstore: drop: store: unavailable`)
		is(t, "pending", client.Stats().PendingNow, 0)
		is(t, "not kept", client.Stats().DropsNotKept, 1)
		expect(t, c, "k", "2 source refused no-lease") // L1 forgot it

		d := took(func() { err = c.Drop(t.Context(), "k") })
		is(t, "PendingReturn", errors.Is(err, ErrPending), true)
		is(t, "time", d, 0)

		wait := WithPending(t.Context(), PendingWait)
		short, cancel := context.WithTimeout(wait, 3*time.Second)
		defer cancel()
		d = took(func() { err = c.Drop(short, "k", "x") })
		if !errors.Is(err, ErrPending) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNotKept) {
			t.Errorf("PendingWait, ctx over: %v", err)
		}
		is(t, "time", d, 3*time.Second)
		is(t, "pending", client.Stats().PendingNow, 2)
		is(t, "pending for", client.Stats().PendingFor, 3*time.Second)

		go func() { time.Sleep(5 * time.Second); mend() }()
		d = took(func() { err = c.Drop(wait, "k", "y") })
		if err != nil || d < 5*time.Second || d > 6*time.Second {
			t.Errorf("PendingWait: %v after %v; want nil after 5 s and a little", err, d)
		}
		synctest.Wait()
		expect(t, other, "k", "3 source")
		if err := client.WaitDelivered(t.Context()); err != nil {
			t.Error(err)
		}
		is(t, "pending for", client.Stats().PendingFor, 0)
		if err := c.Drop(fail, "k"); err != nil {
			t.Error(err)
		}
		if err := c.Clear(wait); err != nil {
			t.Error(err)
		}
	})
}

// Options.Pending is for calls that say nothing else.
func TestPendingOption(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		client := l.client(func(o *Options) { o.Pending = PendingFail })
		mend := cut(client)
		if err := client.DropTags(t.Context(), "t"); !errors.Is(err, ErrNotKept) {
			t.Errorf("got %v", err)
		}
		if err := client.DropTags(WithPending(t.Context(), PendingReturn), "t"); !errors.Is(err, ErrPending) {
			t.Errorf("got %v", err)
		}
		// What is committed can't be undone, so its drops are kept.
		tx := client.Tx()
		client.DropTags(tx.Context(t.Context()), "u")
		if err := tx.Commit(t.Context(), nil); !errors.Is(err, ErrPending) {
			t.Errorf("Commit: %v", err)
		}
		is(t, "pending", client.Stats().PendingNow, 2)
		mend()
		tx = client.Tx()
		client.DropTags(tx.Context(t.Context()), "u")
		if err := tx.Commit(WithPending(t.Context(), PendingWait), nil); err != nil {
			t.Errorf("Commit: %v", err)
		}
	})
}

// Who waits for a delivery when the client is closed learns what became of it.
func TestPendingWaitMeetsClose(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		for _, back := range []bool{true, false} {
			client := l.client()
			mend := cut(client)
			got := make(chan error, 1)
			go func() { got <- client.DropTags(WithPending(t.Context(), PendingWait), "t") }()
			time.Sleep(50 * time.Millisecond)
			if back {
				mend()
			}
			closed := client.Close()
			err := <-got
			if back != (closed == nil) || back && err != nil || !back && (!errors.Is(err, ErrNotKept) || !errors.Is(err, ErrClosed)) {
				t.Errorf("store back %v: Close says %v, Drop says %v", back, closed, err)
			}
		}
	})
}

// What Close delivered was delivered, and so was what arrived as the caller's time ran out.
func TestDeliveredAtTheEnd(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		for _, delivered := range []bool{true, false} {
			f := func(what string, end func(*Client, context.CancelFunc), want error) {
				client := l.client()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				mend := cut(client)
				k := client.keep(names{keys: []string{"k"}, tags: []string{"t"}}, client.clock.Exact(), errBoom)
				if delivered {
					mend()
					want = nil
				}
				end(client, cancel)
				if err := client.awaitDelivery(ctx, k); !errors.Is(err, want) {
					t.Errorf("%s, delivered %v: got %v; want %v", what, delivered, err, want)
				}
			}
			f("closed", func(c *Client, _ context.CancelFunc) { c.Close() }, ErrClosed)
			f("canceled", func(c *Client, cancel context.CancelFunc) {
				time.Sleep(10 * time.Second)
				cancel()
			}, context.Canceled)
		}
	})
}

// A noDrops store can be read, and doesn't take drops.
type noDrops struct {
	store.Store
	slow atomic.Int64 // how long a read takes
}

func (s *noDrops) Drop(context.Context, int, store.Drop, store.Head) (store.LogEntry, error) {
	return store.LogEntry{}, store.ErrTimeout
}

func (s *noDrops) Read(ctx context.Context, keys []string, plain bool) ([]store.Value, error) {
	vals, err := s.Store.Read(ctx, keys, plain)
	time.Sleep(time.Duration(s.slow.Load()))
	return vals, err
}

// A drop for which there was no room holds here from when there is. What was read before, or is being
// read, comes from the store, which has not heard of it.
func TestDropThatWaitedForRoomHoldsHere(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: time.Hour, Load: src.load, Tags: func(k string) []string { return []string{"of-" + k} }}
		expect(t, cacheIn(t, l.client(), cfg), "read", "1 source")
		late := cfg
		late.Name, late.Tags = "late", nil
		late.Load = func(ctx context.Context, k string, l *Load) (int, error) {
			l.Tag("of-" + k)
			return src.load(ctx, k, l)
		}
		expect(t, cacheIn(t, l.client(), late), "read", "2 source")

		s := &noDrops{Store: l.srv.Connect()}
		client, err := New(s, Options{ExactClock: true, MaxPending: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		synctest.Wait()
		tick()
		c, d := cacheIn(t, client, cfg), cacheIn(t, client, late)
		for _, tag := range []string{"a", "b"} { // the second became "b!", and there is no room for a third
			if err := client.DropTags(t.Context(), tag); !errors.Is(err, ErrPending) {
				t.Fatalf("drop of %q: %v", tag, err)
			}
		}
		go client.DropTags(WithPending(t.Context(), PendingWait), "of-read")
		time.Sleep(100 * time.Millisecond)
		expect(t, c, "read", "1 l2") // nobody has heard of the drop yet
		client.outbox.settle(nil, []string{"a"}, client.clock.Exact())
		time.Sleep(300 * time.Millisecond)
		s.slow.Store(int64(300 * time.Millisecond))
		reading := inBackground(t.Context(), d, "read") // its tag is not known here before the answer
		s.slow.Store(0)
		time.Sleep(200 * time.Millisecond)
		is(t, "pending", client.Stats().PendingNow, 2)
		client.outbox.settle(nil, []string{"b!"}, client.clock.Exact())
		is(t, "pending for", client.Stats().PendingFor, 600*time.Millisecond) // since it was asked for
		expect(t, c, "read", "3 source refused no-lease")
		is(t, "read before there was room, and answered after", reading(), "4 source refused no-lease")
		expect(t, d, "read", "4 l1")
	})
}

// A value that had to wait for its drop is not stored: another may have been written and dropped meanwhile.
func TestSetThatHadToWait(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		client := l.client()
		c := cacheIn(t, client, Config[string, int]{TTL: time.Hour, Load: src.load})
		mend := cut(client)
		go func() { time.Sleep(time.Second); mend() }()
		if err := c.Set(WithPending(t.Context(), PendingWait), "k", 77); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the link is well again
		expect(t, c, "k", "1 source")
		if err := c.Set(t.Context(), "k", 78); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "k", "78 l1")
	})
}

// The outbox keeps to its bounds whatever is dropped: what has a coarser tag becomes that, and of the rest the
// caller is told.
func TestOutboxIsBounded(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		const limit = 10
		var src source
		var d diary
		client := l.client(func(o *Options) {
			o.MaxPending, o.MaxKey = limit, 20
			o.Hooks.Overflow = func(e observe.Overflow) { d.note("%v %v to %v", e.Keys, e.Tags, e.To) }
		})
		other := l.client()
		own := cacheIn(t, client, Config[string, int]{Name: "own", TTL: time.Hour, Load: src.load})
		far := cacheIn(t, other, Config[string, int]{Name: "own", TTL: time.Hour, Load: src.load})
		plain := cacheIn(t, client, Config[string, int]{Name: "plain", TTL: time.Hour, Plain: true, Load: src.load})
		expect(t, far, "over", "1 source")
		mend := cut(client)
		says := func(err error, want error, names ...string) {
			t.Helper()
			var lost *NotKeptError
			if !errors.Is(err, want) || want == ErrPending && errors.Is(err, ErrNotKept) {
				t.Errorf("got %v; want %v", err, want)
			} else if errors.As(err, &lost) && !slices.Equal(append(lost.Keys, lost.Tags...), names) {
				t.Errorf("lost are %v; want %v", err, names)
			}
		}
		for i := range limit {
			says(client.DropKeys(t.Context(), fmt.Sprint("foreign:", i)), ErrPending)
		}
		is(t, "overflows", d.took(), "")
		says(client.DropKeys(t.Context(), "foreign:0"), ErrPending) // is there
		says(client.DropKeys(t.Context(), "foreign:x"), ErrNotKept, "foreign:x")
		is(t, "overflows", d.took(), "[foreign:x] [] to []")
		says(plain.Drop(t.Context(), "x"), ErrNotKept, "plain:x")
		is(t, "overflows", d.took(), "[plain:x] [] to []")
		says(own.Drop(t.Context(), "over", "more"), ErrPending)
		is(t, "overflows", d.took(), "[own:over own:more] [] to [own!]")
		says(client.DropKeys(t.Context(), "own:over", "foreign:0", "foreign:y"), ErrNotKept, "foreign:y") // the rest is pending
		d.took()
		is(t, "pending", client.Stats().PendingNow, limit+1)

		for i := range limit - 1 {
			says(client.DropTags(t.Context(), Tag("t", i)), ErrPending)
		}
		says(client.DropTags(t.Context(), Tag("t", "x")), ErrPending)
		is(t, "overflows", d.took(), "[] [t:x] to [t!]")
		for i := range limit - 1 { // another table each time
			says(client.DropTags(t.Context(), Tag(fmt.Sprint("t", i), 1)), ErrPending)
		}
		d.took()
		says(client.DropTags(t.Context(), "u:1", "t:0"), ErrNotKept, "u:1")
		is(t, "overflows", d.took(), "[] [u:1] to []")
		is(t, "pending", client.Stats().PendingNow, 3*limit)
		is(t, "made coarser", client.Stats().DropsCoarser, 3+1+limit-1)
		is(t, "not kept", client.Stats().DropsNotKept, 4)

		long := strings.Repeat("x", 21)
		mend()
		if err := client.WaitDelivered(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, far, "over", "2 source") // own! reached the other instance
		if err := client.DropKeys(t.Context(), long); err != nil {
			t.Errorf("a long key: %v; want no error while the store answers", err)
		}
		cut(client)
		says(client.DropKeys(t.Context(), long), ErrNotKept, long)
	})
}

// With PendingWait nothing is lost: who finds the outbox full waits for room.
func TestPendingWaitsForRoom(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		client := l.client(func(o *Options) { o.MaxPending, o.Pending = 2, PendingWait })
		for i := range 6 {
			l.srv.Set(fmt.Sprint("foreign:", i), []byte("old"), time.Hour)
		}
		mend := cut(client)
		got := make(chan error, 6)
		for i := range 6 {
			go func() { got <- client.DropKeys(t.Context(), fmt.Sprint("foreign:", i)) }()
		}
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := client.DropKeys(short, "foreign:x"); !errors.Is(err, ErrNotKept) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no room until ctx is over: %v", err)
		}
		is(t, "answers so far", len(got), 0)
		is(t, "pending", client.Stats().PendingNow, 2)
		mend()
		for range 6 {
			if err := <-got; err != nil {
				t.Error(err)
			}
		}
		for i := range 6 {
			if _, there := l.srv.Get(fmt.Sprint("foreign:", i)); there {
				t.Errorf("foreign:%d is still there", i)
			}
		}
	})
}

// What a transaction collects is bounded, too.
func TestTxIsBounded(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		client := l.client(func(o *Options) { o.MaxPending = 3 })
		tx := client.Tx()
		ctx := tx.Context(t.Context())
		err := client.DropKeys(ctx, "a", "b", "c", "d", "a")
		var lost *NotKeptError
		if !errors.As(err, &lost) || !slices.Equal(lost.Keys, []string{"d"}) {
			t.Errorf("got %v; want d not kept", err)
		}
		for i := range 20 {
			err = client.DropTags(ctx, Tag(fmt.Sprint("t", i), 1))
		}
		if !errors.Is(err, ErrNotKept) {
			t.Errorf("got %v", err)
		}
		keys, tags := tx.Collected()
		is(t, "collected", len(keys)*100+len(tags), 306)
		// Nobody knows whether it committed: repeated, within the bound.
		for range 3 {
			tx := client.Tx()
			ctx := tx.Context(t.Context())
			client.DropKeys(ctx, "a", "b")
			tx.Commit(t.Context(), func(context.Context) error { return errBoom })
			time.Sleep(200 * time.Millisecond)
		}
		n := 0
		client.again.mu.Lock()
		for _, b := range client.again.batches {
			n += len(b.drops.keys) + len(b.drops.tags)
		}
		client.again.mu.Unlock()
		is(t, "names to be dropped again", n, 3)
		tx.Rollback()
		// f's own drop is no word of a commit.
		err = client.InTx(t.Context(), TxFuncs{
			Begin:    func(context.Context) error { return nil },
			Rollback: func(context.Context) error { return nil },
		}, func(ctx context.Context) error { return client.DropKeys(ctx, "a", "b", "c", "d") })
		if err == nil || errors.Is(err, ErrNotKept) {
			t.Errorf("rolled back, and the error is %v; want one that doesn't look like a commit", err)
		}
	})
}

// A partial store is one of a Cluster of which a node is away: it takes no drops of one partition, and no leases of some keys back.
type partialStore struct {
	store.Store
	away     atomic.Int64 // partition; negative: none
	slow     atomic.Int64 // how long it takes to refuse a lease
	refused  atomic.Int64
	released sync.Map
}

func (s *partialStore) Drop(ctx context.Context, part int, d store.Drop, known store.Head) (store.LogEntry, error) {
	if int64(part) == s.away.Load() {
		return store.LogEntry{}, store.ErrTimeout
	}
	return s.Store.Drop(ctx, part, d, known)
}

func (s *partialStore) Release(ctx context.Context, l store.Lease) error {
	if s.away.Load() >= 0 && strings.HasPrefix(l.Key, "away") {
		s.refused.Add(1)
		time.Sleep(time.Duration(s.slow.Load()))
		return store.ErrTimeout
	}
	s.released.Store(l.Key, true)
	return nil
}

// What one node can't take holds up nothing that others can: neither drops nor leases.
func TestOneNodeAwayHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const parts = 4
		srv := memstore.NewServer(memstore.Options{Partitions: parts})
		s := &partialStore{Store: srv.Connect()}
		s.away.Store(-1)
		c, err := New(s, Options{ExactClock: true})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		tick()
		s.away.Store(1)
		var stuck, free []string
		for i := 0; len(stuck) < 300 || len(free) < 300; i++ {
			tag := fmt.Sprint("t", i)
			if store.PartitionOf(tag, parts) == 1 {
				stuck = append(stuck, tag)
			} else {
				free = append(free, tag)
			}
		}
		c.outbox.add(nil, stuck, c.clock.Exact())
		time.Sleep(5 * time.Second)
		c.outbox.add(nil, free, c.clock.Exact())
		for range 20 {
			c.owe(store.Lease{Key: "away"}, time.Hour)
		}
		c.owe(store.Lease{Key: "here"}, time.Hour)
		time.Sleep(5 * time.Second)
		if c.outbox.concerns("", free) {
			t.Error("drops of partitions that answer are pending")
		}
		if !c.outbox.concerns("", stuck[:1]) || !c.outbox.concerns("", stuck[len(stuck)-1:]) {
			t.Error("drops of a partition that doesn't answer are not pending")
		}
		if _, ok := s.released.Load("here"); !ok {
			t.Error("a lease that could be given back was not")
		}
		s.slow.Store(int64(c.opts.StoreBudget))
		before := s.refused.Load()
		time.Sleep(5 * time.Second)
		if n := s.refused.Load() - before; n == 0 || n > 25 {
			t.Errorf("%d leases were refused slowly in 5 s, for which drops wait; want one or two in each of about 10 rounds", n)
		}
		s.away.Store(-1)
		time.Sleep(5 * time.Second)
		if _, ok := s.released.Load("away"); !ok || !c.outbox.empty() {
			t.Error("something is left")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
