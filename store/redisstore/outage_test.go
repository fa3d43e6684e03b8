package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
)

// slack is what two noisy cores may add to a budget.
const slack = 250 * time.Millisecond

// A server that hangs costs each caller the budget at most, and after a few of them nothing.
func TestHungServer(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), Options{})
	d := watch(t, s)
	var worst atomic.Int64
	var failed, late atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprint("k", i%100)
				began := time.Now()
				var err error
				switch (g + i) % 5 {
				case 0:
					c := s.Claim(context.Background(), []store.ClaimRequest{{Key: key, ID: newID(), TTL: time.Second}})[0]
					err = c.Err
				case 1:
					ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
					_, err = s.Read(ctx, []string{key}, false)
					cancel()
				case 2:
					_, err = s.Head(context.Background(), 0)
				default:
					_, err = s.Read(context.Background(), []string{key, "x"}, i%2 == 0)
				}
				took := time.Since(began)
				for w := worst.Load(); int64(took) > w && !worst.CompareAndSwap(w, int64(took)); w = worst.Load() {
				}
				if took > 50*time.Millisecond+slack {
					late.Add(1)
				}
				if err != nil && !errors.Is(err, store.ErrNoLog) {
					failed.Add(1)
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	srv.Pause()
	eventually(t, "the breaker opens", d.has(func(d *diary) bool { return slices.Contains(d.breaker, true) }))
	time.Sleep(2500 * time.Millisecond) // long enough for the connection to be given up
	began := time.Now()
	if _, err := s.Read(context.Background(), []string{"k"}, false); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a read while the server hangs: %v; want unavailable", err)
	}
	if took := time.Since(began); took > 20*time.Millisecond {
		t.Errorf("it took %v to be refused", took)
	}
	eventually(t, "the link is declared lost", d.has(func(d *diary) bool {
		return len(d.links) > 1 && !d.links[1].Up && d.links[1].Err != nil
	}))
	srv.Resume()
	began = time.Now()
	up(t, s)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("up again after %v; want less than 2s", took)
	}
	close(stop)
	wg.Wait()
	t.Logf("worst call %v; %d failed", time.Duration(worst.Load()), failed.Load())
	if late.Load() > 0 {
		t.Errorf("%d calls were late; the worst took %v", late.Load(), time.Duration(worst.Load()))
	}
	d.has(func(d *diary) bool {
		if b := d.breaker; len(b) < 2 || !b[0] || b[len(b)-1] {
			t.Errorf("the breaker went %v; want open first, closed last", b)
		}
		return true
	})()
}

func TestCallerMayLeave(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), Options{Budget: time.Minute})
	srv.Pause()
	defer srv.Resume()
	var wg sync.WaitGroup
	for range 32 { // some lead, some wait
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := s.Read(ctx, []string{"k"}, false); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v; want the caller's own deadline", err)
			}
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, cancel)
			if _, err := s.Head(ctx, 0); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v; want canceled", err)
			}
		})
	}
	wg.Wait()
	if s.one.gate.live.Load() == nil {
		t.Error("callers that left took the link with them")
	}
}

// Readers whose leader leaves are asked for again.
func TestLeaderMayLeave(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	srv.CLI(t, "SET", "k", "v")
	s := open(t, srv.URL(), Options{Budget: 20 * time.Second})
	srv.Pause()
	var wg sync.WaitGroup
	ctx, leave := context.WithCancel(t.Context())
	for range readGroups { // the leaders
		wg.Go(func() { s.Read(ctx, []string{"k"}, false) })
	}
	eventually(t, "eight groups", func() bool {
		s.one.reads.mu.Lock()
		defer s.one.reads.mu.Unlock()
		return s.one.reads.groups == readGroups
	})
	for range 50 {
		wg.Go(func() {
			vals, err := s.Read(t.Context(), []string{"k"}, false)
			if err != nil || string(vals[0].Image) != "v" {
				t.Errorf("got %q, %v; want v", vals, err)
			}
		})
	}
	ctx2, leave2 := context.WithCancel(t.Context())
	for range 50 {
		wg.Go(func() { s.Read(ctx2, []string{"k"}, false) })
	}
	time.Sleep(20 * time.Millisecond)
	leave()
	time.Sleep(20 * time.Millisecond)
	leave2()
	time.Sleep(20 * time.Millisecond)
	srv.Resume()
	wg.Wait()
	if s.one.reads.groups != 0 {
		t.Errorf("%d groups are left", s.one.reads.groups)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), roomy)
	d := watch(t, s)
	for range 3 {
		srv.Kill()
		eventually(t, "the loss is noticed", func() bool { return s.one.gate.live.Load() == nil })
		if _, err := s.Read(t.Context(), []string{"k"}, false); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("got %v; want unavailable", err)
		}
		srv.Restart()
		began := time.Now()
		up(t, s)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("up again after %v", took)
		}
		// Its scripts are gone, the log too.
		if _, err := s.Head(t.Context(), 0); !errors.Is(err, store.ErrNoLog) {
			t.Errorf("head: %v; want no log", err)
		}
		if _, err := s.NewEpoch(t.Context(), 0, store.Head{}, 0); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "all events", d.has(func(d *diary) bool {
		var links []bool
		for _, l := range d.links {
			links = append(links, l.Up)
		}
		return slices.Equal(links, []bool{true, false, true, false, true, false, true}) &&
			slices.Equal(d.breaker, []bool{true, false, true, false, true, false}) && len(d.logged) == 3
	}))
	seen := map[string]bool{"": true}
	for _, l := range d.links {
		if l.Up && seen[l.Server] {
			t.Errorf("the server is %q again, or not known", l.Server)
		}
		if l.Up {
			seen[l.Server] = true
		}
	}
}

// A link that was cut and comes back finds the same server.
func TestSameServer(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	p := testenv.Proxy(t, srv.Addr())
	s := open(t, "redis://"+p.Addr(), Options{})
	d := watch(t, s)
	p.Cut()
	eventually(t, "the link is lost", d.has(func(d *diary) bool { return len(d.links) > 1 }))
	p.Restore()
	eventually(t, "the link is up", d.has(func(d *diary) bool { return d.links[len(d.links)-1].Up }))
	if a, b := d.links[0].Server, d.links[len(d.links)-1].Server; a == "" || a != b {
		t.Errorf("the server is %q, then %q; want the same", a, b)
	}
}

func TestHalfOpenLink(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	p := testenv.Proxy(t, srv.Addr())
	s := open(t, "redis://"+p.Addr(), Options{})
	d := watch(t, s)
	p.Freeze() // nobody calls: the link must notice by itself
	began := time.Now()
	eventually(t, "the link is declared lost", d.has(func(d *diary) bool { return len(d.links) == 2 }))
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("noticed after %v", took)
	}
	p.Restore()
	eventually(t, "the link is up", d.has(func(d *diary) bool { return len(d.links) == 3 && d.links[2].Up }))
}

func TestStartsWithoutServer(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	srv.Kill()
	s, err := Open(srv.URL(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d := watch(t, s)
	if _, err := s.Head(t.Context(), 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v; want unavailable", err)
	}
	eventually(t, "the breaker is told", d.has(func(d *diary) bool { return slices.Equal(d.breaker, []bool{true}) }))
	srv.Restart()
	up(t, s)
}

// Why a store can't connect is told once the first try has failed, once, and again when it is something else.
func TestTellsWhyItCannotConnect(t *testing.T) {
	t.Parallel()
	locked := testenv.Redis(t, testenv.Args("--requirepass", "right"))
	free := testenv.Redis(t)
	impatient := func(t *testing.T, url string) *Store {
		s, err := Open(url, Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		s.events.mu.Lock()
		s.events.pause = 0
		s.events.mu.Unlock()
		return s
	}
	f := func(url, want string) {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			s := impatient(t, url)
			d := watch(t, s)
			eventually(t, "the reason is told", d.has(func(d *diary) bool { return len(d.links) > 0 }))
			if _, err := s.Head(t.Context(), 0); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), want) {
				t.Errorf("head: %v; want it unavailable for %q", err, want)
			}
			if strings.Contains(want, "no answer") {
				time.Sleep(3 * time.Second) // more tries
			} else {
				time.Sleep(500 * time.Millisecond)
			}
			d.has(func(d *diary) bool {
				if len(d.links) != 1 || d.links[0].Up || !strings.Contains(fmt.Sprint(d.links[0].Err), want) {
					t.Errorf("told %v; want that it is down for %q, once", d.links, want)
				}
				return true
			})()
			late := watch(t, s)
			if l := late.links; len(l) != 1 || l[0].Up || !strings.Contains(fmt.Sprint(l[0].Err), want) {
				t.Errorf("who comes later is told %v; want that it is down for %q", l, want)
			}
		})
	}
	f(locked.URL(), "NOAUTH")
	f(strings.Replace(locked.URL(), "://", "://:wr0ng@", 1), "WRONGPASS")
	f(free.URL()+"/99", "DB index is out of range")
	f("redis://no-such-host.invalid", "lookup no-such-host.invalid")
	f("redis://127.0.0.1:1", "connection refused")
	frozen := []*testenv.FaultProxy{testenv.Proxy(t, free.Addr()), testenv.Proxy(t, free.Addr())}
	for _, p := range frozen {
		p.Freeze()
	}
	f("redis+sentinel://"+frozen[0].Addr()+","+frozen[1].Addr()+"/?master=m", "no answer in time")
	f("redis+cluster://"+frozen[0].Addr()+","+frozen[1].Addr(), "no answer in time")
	f("redis+sentinel://127.0.0.1:1,127.0.0.1:2/?master=m", "sentinel 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused")
	f("redis+cluster://127.0.0.1:1,127.0.0.1:2", "view of 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused")

	t.Run("another reason", func(t *testing.T) {
		t.Parallel()
		p := testenv.Proxy(t, locked.Addr())
		p.Cut()
		s := impatient(t, "redis://"+p.Addr())
		d := watch(t, s)
		eventually(t, "the cut is told", d.has(func(d *diary) bool { return len(d.links) == 1 && d.links[0].Err != nil }))
		p.Restore()
		eventually(t, "the missing password is told", d.has(func(d *diary) bool {
			return strings.Contains(fmt.Sprint(d.links[len(d.links)-1].Err), "NOAUTH")
		}))
		time.Sleep(500 * time.Millisecond)
		d.has(func(d *diary) bool {
			if n := len(d.links); strings.Contains(fmt.Sprint(d.links[n-2].Err), "NOAUTH") {
				t.Errorf("told %v; want the missing password once", d.links)
			}
			return true
		})()
	})
}

// A store that connects at its first try was never down.
func TestHealthyStart(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	c := testenv.Cluster(t)
	for _, url := range []string{srv.URL(), c.URL()} {
		s, err := Open(url, Options{})
		if err != nil {
			t.Fatal(err)
		}
		d := watch(t, s)
		eventually(t, "the link is told", d.has(func(d *diary) bool { return len(d.links) > 0 }))
		d.has(func(d *diary) bool {
			if len(d.links) != 1 || !d.links[0].Up || len(d.breaker) > 0 {
				t.Errorf("told of links %v, breaker open %v; want one link that is up", d.links, d.breaker)
			}
			return true
		})()
		s.Close()
	}
}

// Who watches is told at once that the store is down, also if one node couldn't be linked since another is not yet.
func TestWatchAfterAFailedTry(t *testing.T) {
	h := newHub("")
	var told []store.Link
	w := store.Watcher{Link: func(l store.Link) { told = append(told, l) }}
	defer h.watch(w)()
	if len(told) > 0 {
		t.Errorf("told %+v before the first try", told)
	}
	h.lost(nil, nil, fmt.Errorf("redo: %w: %w", store.ErrUnavailable, errNotYet))
	defer h.watch(w)()
	if len(told) != 1 || told[0].Up || told[0].Err == nil {
		t.Errorf("told %+v; want once that it is down", told)
	}
}

func TestGist(t *testing.T) {
	f := func(a, b string, same bool) {
		t.Helper()
		if got := gist(errors.New(a)) == gist(errors.New(b)); got != same {
			t.Errorf("%q is as %q: %v; want %v", a, b, got, same)
		}
	}
	f("read tcp 127.0.0.1:4711->127.0.0.1:6379: reset", "read tcp 127.0.0.1:4712->127.0.0.1:6379: reset", true)
	f("read tcp [::1]:4711->[::1]:6379: reset", "read tcp [::1]:4712->[::1]:6379: reset", true)
	f("read tcp 127.0.0.1:4711->127.0.0.1:6379: reset", "read tcp 127.0.0.1:4711->127.0.0.1:6380: reset", false)
}

func TestClose(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	srv.Pause()
	defer srv.Resume()
	s, _ := Open(srv.URL(), Options{}) // closed while it greets a hung server
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	s.Close()
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("closing took %v", took)
	}

	srv.Resume()
	s = open(t, srv.URL(), roomy)
	srv.Pause()
	errs := make(chan error)
	for range 20 {
		go func() { _, err := s.Read(t.Context(), []string{"k"}, false); errs <- err }()
		go func() { _, err := s.Head(t.Context(), 0); errs <- err }()
	}
	time.Sleep(50 * time.Millisecond)
	s.Close()
	s.Close()
	for range 40 {
		if err := <-errs; !errors.Is(err, store.ErrClosed) {
			t.Errorf("a call in flight: %v; want closed", err)
		}
	}
	if err := s.Write(t.Context(), "k", []byte("v"), time.Second); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a call afterwards: %v; want closed", err)
	}
}

// A server that refuses tracking is used without.
func TestNoTracking(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	srv.CLI(t, "ACL", "SETUSER", "bob", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
	s := open(t, strings.Replace(srv.URL(), "://", "://bob:secret@", 1), roomy)
	d := watch(t, s)
	if !d.has(func(d *diary) bool { return len(d.links) == 1 && d.links[0].Up && !d.links[0].Tracks })() {
		t.Errorf("links are %v; want up without tracking", d.links)
	}
	if _, err := s.NewEpoch(t.Context(), 0, store.Head{}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Head(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if !d.has(func(d *diary) bool { return len(d.logged) == 1 })() {
		t.Error("the new epoch was not told before the head came")
	}
}

// A proxy that speaks RESP2 only: messages have a connection of their own, and Head's
// promise holds all the same.
func TestRESP2(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t, testenv.Args("--rename-command", "HELLO", ""))
	s := open(t, srv.URL(), roomy)
	if l := s.one.gate.live.Load(); l.tracks || !l.split {
		t.Fatalf("tracks %v, split %v; want a second connection without tracking", l.tracks, l.split)
	}
	d := watch(t, s)
	e, err := s.NewEpoch(t.Context(), 0, store.Head{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if e, err = s.Drop(t.Context(), 0, store.Drop{Keys: []string{"k"}}, e.Head); err != nil {
			t.Fatal(err)
		}
		if h, err := s.Head(t.Context(), 0); err != nil || h != e.Head {
			t.Fatalf("head is %v, %v; want %v", h, err, e.Head)
		}
		if !d.has(func(d *diary) bool { return len(d.logged) == i+2 })() {
			t.Fatal("a message came after the head")
		}
	}
	srv.CLI(t, "CLIENT", "KILL", "TYPE", "pubsub")
	eventually(t, "the loss is noticed", d.has(func(d *diary) bool { return len(d.links) == 3 && d.links[2].Up }))
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t, testenv.Args("--requirepass", "right"))
	s, err := Open(strings.Replace(srv.URL(), "://", "://:wr0ng@", 1), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "the refusal is told", func() bool {
		_, err = s.Head(t.Context(), 0)
		return strings.Contains(err.Error(), "WRONGPASS")
	})
	if strings.Contains(err.Error(), "wr0ng") || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v; want unavailable, without the password", err)
	}
	open(t, strings.Replace(srv.URL(), "://", "://:right@", 1), roomy)
}

func TestUnixSocketAndDatabase(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, "unix://"+srv.Socket()+"?db=3&name=tester", roomy)
	if err := s.Write(t.Context(), "k", []byte("v"), time.Minute); err != nil {
		t.Fatal(err)
	}
	if got := srv.CLI(t, "-n", "3", "GET", "k"); got != "v" {
		t.Errorf("database 3 has %q; want v", got)
	}
	if list := srv.CLI(t, "CLIENT", "LIST"); strings.Count(list, "name=tester") != 1 {
		t.Errorf("want one connection named tester in:\n%s", list)
	}
}

func TestPausesStayShort(t *testing.T) {
	for try := range 100 {
		most := earlyPause
		if try >= earlyTries {
			most = latePause
		}
		if d := pause(try); d <= 0 || d > most {
			t.Errorf("pause %d is %v; want up to %v", try, d, most)
		}
	}
}
