package memstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

var bg = context.Background()

func TestBytesStayBounded(t *testing.T) {
	const limit = 1 << 20
	srv := memstore.NewServer(memstore.Options{MaxBytes: limit})
	s := srv.Connect()
	image := make([]byte, 1000)
	hot := "hot"
	srv.Set(hot, image, 0)
	for i := range 10_000 {
		if err := s.Write(bg, fmt.Sprint("k", i), image, time.Hour); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(bg, []string{hot}, false); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	for i := range 10_000 {
		if _, ok := srv.Get(fmt.Sprint("k", i)); ok {
			kept++
		}
	}
	if kept < limit/1300 || kept > limit/1000 {
		t.Errorf("%d entries of 1000 bytes are kept in 1 MiB", kept)
	}
	if _, ok := srv.Get(hot); !ok {
		t.Error("the entry in constant use was evicted")
	}
}

func TestTooBigAnImageIsRefusedAndEvictsNobody(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{MaxBytes: 10_000})
	s := srv.Connect()
	srv.Set("small", []byte("v"), 0)
	srv.Set("k", []byte("old"), 0)
	if err := s.Write(bg, "k", make([]byte, 20_000), time.Hour); err == nil {
		t.Error("the write is taken")
	}
	if _, ok := srv.Get("k"); ok {
		t.Error("the old value outlived a write that was refused")
	}
	if _, ok := srv.Get("small"); !ok {
		t.Error("another key is gone")
	}
}

func TestExpiryInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memstore.NewServer(memstore.Options{})
		a, b := srv.Connect(), srv.Connect()
		var told []string
		defer a.Watch(store.Watcher{Changed: func(keys []string) { told = append(told, keys...) }})()
		claim := func(s *memstore.Store, id byte) store.Claim {
			return s.Claim(bg, []store.ClaimRequest{{Key: "k", ID: store.ID{id}, TTL: 2 * time.Second}})[0]
		}
		first := claim(a, 1) // its owner dies here
		if c := claim(b, 2); c.Outcome != store.Busy || c.Wait != 2*time.Second {
			t.Errorf("outcome %v, wait %v; want busy for 2s", c.Outcome, c.Wait)
		}
		time.Sleep(2*time.Second - 1)
		if c := claim(b, 2); c.Outcome != store.Busy || c.Wait != 1 {
			t.Errorf("outcome %v, wait %v; want busy for 1ns", c.Outcome, c.Wait)
		}
		time.Sleep(1)
		if c := claim(b, 2); c.Outcome != store.Leased {
			t.Errorf("outcome %v; want leased after the lease ran out", c.Outcome)
		}
		synctest.Wait()
		if len(told) == 0 {
			t.Error("the first was not told that its lease is gone")
		}
		if err := a.Fill(bg, []store.FillRequest{{Lease: first.Lease, Image: []byte("v"), TTL: time.Second}})[0]; !errors.Is(err, store.ErrLeaseLost) {
			t.Errorf("fill: %v; want ErrLeaseLost", err)
		}
	})
}

func TestTTLIsRoundedUpToMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.NewServer(memstore.Options{}).Connect()
		if err := s.Write(bg, "k", []byte("v"), time.Millisecond+1); err != nil {
			t.Fatal(err)
		}
		f := func(want time.Duration) {
			t.Helper()
			vals, err := s.Read(bg, []string{"k"}, true)
			if err != nil || vals[0].TTL != want || (vals[0].Image == nil) != (want == 0) {
				t.Errorf("%q, %v left, %v; want %v", vals[0].Image, vals[0].TTL, err, want)
			}
		}
		f(2 * time.Millisecond)
		time.Sleep(2*time.Millisecond - 1)
		f(1)
		time.Sleep(1)
		f(0)
	})
}

// The clock stands in a bubble, and positions grow all the same.
func TestPositionsGrowWithoutAClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memstore.NewServer(memstore.Options{})
		s := srv.Connect()
		var last store.Pos
		for range 3 {
			e, err := s.NewEpoch(bg, 0, store.Head{}, 0)
			if err != nil || e.Pos <= last {
				t.Fatalf("position %d after %d, %v", e.Pos, last, err)
			}
			d, err := s.Drop(bg, 0, store.Drop{}, e.Head)
			if err != nil || d.Pos <= e.Pos {
				t.Fatalf("position %d after %d, %v", d.Pos, e.Pos, err)
			}
			last = d.Pos
			srv.FlushAll()
		}
	})
}

func TestDropHasToldItsOwnWatchersWhenItReturns(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{})
	a, b := srv.Connect(), srv.Connect()
	var mu sync.Mutex
	var got []store.Pos
	defer a.Watch(store.Watcher{Logged: func(_ int, e store.LogEntry) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e.Pos)
	}})()
	defer b.Watch(store.Watcher{Logged: func(int, store.LogEntry) { runtime.Gosched() }})()
	if _, err := a.NewEpoch(bg, 0, store.Head{}, 0); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		e, err := a.Drop(bg, 0, store.Drop{Tags: []string{"t"}}, store.Head{})
		mu.Lock()
		if err != nil || got[len(got)-1] != e.Pos {
			t.Fatalf("entry %d, %v; told %d", e.Pos, err, got[len(got)-1])
		}
		mu.Unlock()
	}
}

func TestFaults(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{})
	a, b := srv.Connect(), srv.Connect()
	var logged []store.LogEntry
	var changed []string
	var links []store.Link
	defer a.Watch(store.Watcher{
		Logged:  func(_ int, e store.LogEntry) { logged = append(logged, e) },
		Changed: func(keys []string) { changed = append(changed, keys...) },
		Link:    func(l store.Link) { links = append(links, l) },
	})()
	drop := func(s *memstore.Store, known store.Head) (store.LogEntry, error) {
		return s.Drop(bg, 0, store.Drop{Tags: []string{"t"}}, known)
	}
	probe := func() {
		t.Helper()
		if _, err := a.Head(bg, 0); err != nil {
			t.Fatal(err)
		}
	}
	epoch, err := a.NewEpoch(bg, 0, store.Head{}, 0)
	if err != nil {
		t.Fatal(err)
	}

	srv.LoseNext(1)
	lost, _ := drop(b, store.Head{})
	next, _ := drop(b, store.Head{})
	probe()
	if len(logged) != 2 || logged[1].Head != next.Head || logged[1].Prev != lost.Pos {
		t.Errorf("told %+v; want the epoch and %+v, whose Prev shows the loss", logged, next)
	}

	revert := srv.Snapshot()
	srv.Set("k", []byte("v"), 0)
	later, _ := drop(a, store.Head{})
	revert()
	if h, _ := a.Head(bg, 0); h != next.Head {
		t.Errorf("head is %+v after the revert; want %+v", h, next.Head)
	}
	if _, ok := srv.Get("k"); ok {
		t.Error("a key outlived the revert")
	}
	if _, err := drop(a, later.Head); !errors.Is(err, store.ErrBehind) {
		t.Errorf("drop: %v; want ErrBehind", err)
	}
	if e, err := drop(b, epoch.Head); err != nil || e.Pos <= later.Pos {
		t.Errorf("after the revert position %d, %v; want above %d, which was used", e.Pos, err, later.Pos)
	}

	srv.Set("k", []byte("v"), 0)
	if _, err := a.Read(bg, []string{"k"}, false); err != nil {
		t.Fatal(err)
	}
	srv.Evict(1)
	if len(changed) != 1 || changed[0] != "k" {
		t.Errorf("told of changes of %q; want k, which was evicted", changed)
	}

	probe()
	told := len(logged)
	a.Cut()
	if _, err := a.Read(bg, []string{"k"}, false); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("read: %v; want ErrUnavailable", err)
	}
	if _, err := drop(b, store.Head{}); err != nil {
		t.Errorf("drop by the other: %v", err)
	}
	a.Mend()
	probe()
	if len(logged) != told {
		t.Errorf("told %d entries of the time without a link", len(logged)-told)
	}
	if len(links) != 3 || !links[0].Up || links[1].Up || links[1].Err == nil || !links[2].Up {
		t.Errorf("links are %+v; want up, down, up", links)
	}
}

func TestAbsentKeysAreForgottenWithAFalseAlarm(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{MaxAbsent: 100})
	s := srv.Connect()
	told := map[string]bool{}
	var mu sync.Mutex
	stop := s.Watch(store.Watcher{Changed: func(keys []string) {
		mu.Lock()
		defer mu.Unlock()
		for _, k := range keys {
			told[k] = true
		}
	}})
	for i := range 1000 {
		if _, err := s.Read(bg, []string{fmt.Sprint(i)}, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Head(bg, 0); !errors.Is(err, store.ErrNoLog) {
		t.Fatal(err)
	}
	if len(told) != 900 {
		t.Errorf("told of %d keys; want the 900 that were forgotten", len(told))
	}
	for i := range 1000 {
		srv.Set(fmt.Sprint(i), []byte("v"), 0)
	}
	if stop(); len(told) != 1000 {
		t.Errorf("told of %d keys; want all", len(told))
	}
}

func TestEveryOf100ConnectionsIsTold(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{}) // more than readers has bits
	told := make([]bool, 100)
	for i := range told {
		s := srv.Connect()
		s.Watch(store.Watcher{Changed: func([]string) { told[i] = true }})
		if _, err := s.Read(bg, []string{"k"}, false); err != nil {
			t.Fatal(err)
		}
	}
	srv.Set("k", []byte("v"), 0)
	for i, ok := range told {
		if !ok {
			t.Errorf("connection %d was not told", i)
		}
	}
}

func TestReadAllocatesOnlyItsAnswer(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{})
	srv.Set("k", bytes.Repeat([]byte("v"), 100), 0)
	s, keys := srv.Connect(), []string{"k"}
	if n := testing.AllocsPerRun(100, func() { s.Read(bg, keys, false) }); n > 1 {
		t.Errorf("a read makes %v allocations; want one", n)
	}
}

func BenchmarkRead(b *testing.B) {
	srv := memstore.NewServer(memstore.Options{})
	for i := range 10_000 {
		srv.Set(fmt.Sprint(i), make([]byte, 100), time.Hour)
	}
	s := srv.Connect()
	keys := []string{"4711"}
	b.ReportAllocs()
	for b.Loop() {
		s.Read(bg, keys, false)
	}
}

func BenchmarkReadParallel(b *testing.B) {
	srv := memstore.NewServer(memstore.Options{})
	srv.Set("k", make([]byte, 100), time.Hour)
	s := srv.Connect()
	b.RunParallel(func(pb *testing.PB) {
		keys := []string{"k"}
		for pb.Next() {
			s.Read(bg, keys, false)
		}
	})
}

func BenchmarkClaimFill(b *testing.B) {
	srv := memstore.NewServer(memstore.Options{})
	s := srv.Connect()
	image := make([]byte, 100)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key := fmt.Sprint(i)
		c := s.Claim(bg, []store.ClaimRequest{{Key: key, ID: store.ID{1}, TTL: time.Minute}})[0]
		if err := s.Fill(bg, []store.FillRequest{{Lease: c.Lease, Image: image, TTL: time.Minute}})[0]; err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDrop(b *testing.B) {
	srv := memstore.NewServer(memstore.Options{})
	s, other := srv.Connect(), srv.Connect()
	defer s.Watch(store.Watcher{Logged: func(int, store.LogEntry) {}})()
	defer other.Watch(store.Watcher{Logged: func(int, store.LogEntry) {}})()
	if _, err := s.NewEpoch(bg, 0, store.Head{}, 0); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s.Drop(bg, 0, store.Drop{Tags: []string{"t"}}, store.Head{})
	}
}

// BenchmarkOverhead shows what an entry costs beside its key and image; see itemOverhead.
func BenchmarkOverhead(b *testing.B) {
	const n = 200_000
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		srv := memstore.NewServer(memstore.Options{MaxBytes: 1 << 40})
		for i := range n {
			srv.Set(fmt.Sprintf("key:%012d", i), make([]byte, 64), time.Hour)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n-16-64, "B/entry")
		runtime.KeepAlive(srv)
	}
}
