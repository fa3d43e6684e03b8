package freshet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/store/memstore"
)

// TestSoak is half a day of two instances, in which an hour has five minutes: reads of ever new keys, drops, evictions, outages long enough to
// fill the outbox, lost announcements, an emptied store and a source that fails. What it takes
// at the end is what it took after six hours. FRESHET_SOAK is a number of days instead.
func TestSoak(t *testing.T) {
	hours := 12
	if s := os.Getenv("FRESHET_SOAK"); s != "" {
		days, err := strconv.Atoi(s)
		if err != nil || days < 1 {
			t.Fatalf("FRESHET_SOAK is %q; want a number of days, 1 or more", s)
		}
		hours = 24 * days
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, srv: memstore.NewServer(memstore.Options{MaxBytes: 1 << 20})}
		soak(t, l, hours, rand.New(rand.NewPCG(seed, 0)))
	})
}

func soak(t *testing.T, l *lab, hours int, rnd *rand.Rand) {
	var ill atomic.Bool
	load := func(ctx context.Context, k int, ld *Load) (string, error) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
		switch {
		case ill.Load():
			return "", errBoom
		case k%17 == 0:
			return "", ErrNotFound
		}
		ld.Tag(Tag("late", k%500))
		return strings.Repeat(strconv.Itoa(k), 1+k%30), nil
	}
	type instance struct {
		client      *Client
		tags, plain *Cache[int, string]
	}
	var all []instance
	for range 2 {
		c := l.client(func(o *Options) { o.MaxPending, o.MaxLoads, o.MaxQueued = 100, 8, 8 })
		all = append(all, instance{c,
			cacheIn(t, c, Config[int, string]{
				Name: "tags", TTL: 20 * time.Second, Stale: Stale{WhileRevalidate: 5 * time.Second, IfError: 40 * time.Second}, NegativeTTL: 5 * time.Second,
				MaxEntries: 300, BreakAfter: 5, Load: load, Tags: func(k int) []string { return []string{Tag("row", k), Tag("group", k%50)} },
			}),
			cacheIn(t, c, Config[int, string]{Name: "plain", TTL: 20 * time.Second, Plain: true, MaxBytes: 10_000, Load: load}),
		})
	}
	known := func(err error) bool {
		return err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrPending) || errors.Is(err, ErrNotKept) ||
			errors.Is(err, errBoom) || errors.Is(err, ErrOverloaded) || errors.Is(err, context.Canceled)
	}
	check := func(what string, err error) {
		if !known(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	hour := func(h int) {
		var mend func()
		for step := range 60 {
			switch {
			case step == 10 && h%3 == 0:
				mend = cut(all[h%2].client)
			case step == 20 && mend != nil:
				mend()
				mend = nil
			case step == 30:
				l.srv.Evict(rnd.IntN(100))
				l.srv.LoseNext(rnd.IntN(3))
			case step == 40 && h%6 == 0:
				l.srv.FlushAll()
			}
			ill.Store(step/5 == 9)
			var wg sync.WaitGroup
			for range 12 {
				in, k, d := all[rnd.IntN(2)], h*100+rnd.IntN(500), rnd.IntN(40)
				short := rnd.IntN(4) == 0
				wg.Go(func() {
					ctx, cancel := t.Context(), func() {}
					if short {
						ctx, cancel = context.WithCancel(ctx)
						time.AfterFunc(10*time.Millisecond, cancel)
					}
					defer cancel()
					_, err := in.tags.Get(ctx, k)
					check("Get", err)
					_, err = in.plain.Get(ctx, k)
					check("Get", err)
					_, err = in.tags.GetMany(ctx, []int{k, k + 1, k + 2, k + 3})
					check("GetMany", err)
					switch d {
					case 0:
						check("Clear", in.tags.Clear(ctx))
					case 1, 2, 3:
						check("Drop", in.plain.Drop(ctx, k))
						check("Drop", in.tags.Drop(ctx, k))
					case 4, 5, 6:
						check("DropTags", in.client.DropTags(ctx, Tag("group", k%50), Tag(fmt.Sprint("table", k), 1)))
					case 7:
						check("Set", in.tags.Set(ctx, k, "set", "extra"))
					case 8:
						tx := in.client.Tx()
						in.tags.Drop(tx.Context(ctx), k)
						err := tx.Commit(ctx, func(context.Context) error { return errBoom })
						check("Commit", err)
					case 9, 10, 11, 12:
						for i := range 30 {
							check("DropKeys", in.client.DropKeys(ctx, fmt.Sprint("foreign:", h, ":", k, ":", i)))
						}
					}
				})
			}
			wg.Wait()
			time.Sleep(5 * time.Second)
		}
	}
	type sample struct {
		goroutines int
		heap       uint64
	}
	take := func(h int) sample {
		time.Sleep(2 * time.Minute) // what has a time has ended
		synctest.Wait()
		for _, in := range all {
			if err := in.client.WaitDelivered(t.Context()); err != nil {
				t.Error(err)
			}
			s := in.client.Stats()
			if tags := s.Caches["tags"].Entries; tags > 300 {
				t.Errorf("hour %d: %d entries; want at most 300", h, tags)
			}
			if w := s.Caches["plain"].Weight; w > 10_000 {
				t.Errorf("hour %d: %d bytes; want at most 10,000", h, w)
			}
			is(t, "loads under way", in.client.loads.under, 0)
		}
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return sample{runtime.NumGoroutine(), m.HeapAlloc}
	}
	var morning sample
	for h := range hours {
		hour(h)
		switch h {
		case 5:
			morning = take(h)
		case hours - 1:
			evening := take(h)
			t.Logf("after 6 hours %+v, after %d %+v", morning, hours, evening)
			if evening.goroutines > morning.goroutines+5 {
				t.Errorf("%d goroutines, and %d in the end", morning.goroutines, evening.goroutines)
			}
			if evening.heap > morning.heap+morning.heap/4+1<<20 {
				t.Errorf("%d bytes of memory, and %d in the end", morning.heap, evening.heap)
			}
		}
	}
	for i, in := range all {
		s := in.client.Stats()
		t.Logf("%d: %d loads, %d failed, shed %v; hits %d + %d, stale %d; drops %d, pending %d, coarser %d, not kept %d; epochs %d, gaps %d; source opened %d",
			i, s.Loads, s.LoadErrors, s.Shed, s.HitsL1, s.HitsL2, s.HitsStale, s.Drops, s.DropsPending, s.DropsCoarser, s.DropsNotKept, s.Epochs, s.Gaps, s.SourceOpened)
		if s.Loads == 0 || s.HitsL1 == 0 || s.HitsL2 == 0 || s.DropsPending == 0 || s.DropsCoarser == 0 || s.DropsNotKept == 0 || s.SourceOpened == 0 {
			t.Errorf("instance %d has not seen all that the day was to bring", i)
		}
	}
}
