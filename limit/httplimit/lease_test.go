package httplimit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit"
)

func atOnce(n int64, ttl time.Duration) *limit.Policy {
	return policy("at-once", limit.Spec{Kind: limit.Concurrency, Limit: n, TTL: ttl})
}

// A place is held from before the handler until after it, however it ends.
func TestPlaceIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inside func(r *http.Request)
		g := newRig(t, Options{Limits: []Limit{{Policy: atOnce(1, 0), By: byKey}}}, limit.Options{}, func(_ http.ResponseWriter, r *http.Request) {
			if inside != nil {
				inside(r)
			}
		})
		for _, end := range []struct {
			how string
			f   func(*http.Request)
		}{
			{"returns", func(*http.Request) {}},
			{"panics", func(*http.Request) { panic("oops") }},
			{"aborts", func(*http.Request) { panic(http.ErrAbortHandler) }},
			{"exits", nil},
		} {
			if end.f == nil {
				// runtime.Goexit, as t.FailNow of somebody's handler under test does.
				var wg sync.WaitGroup
				wg.Go(func() {
					inside = func(*http.Request) { runtime.Goexit() }
					g.handler.ServeHTTP(httptest.NewRecorder(), from("192.0.2.1:1", "Key: a"))
				})
				wg.Wait()
			} else {
				inside = func(r *http.Request) {
					inside = nil
					g.is(429, "a", "Retry-After: 1", `RateLimit: "at-once";r=0`) // not the 30 s that the lease has
					g.is(200, "b")
					end.f(r)
				}
				func() {
					defer func() { _ = recover() }()
					g.is(200, "a", `RateLimit: "at-once";r=0`)
				}()
			}
			inside = nil
			if w := g.is(200, "a"); w.Code != 200 {
				t.Errorf("when the handler %s, its place is not free: %s", end.how, w.Body)
			}
		}
		if len(g.failed()) > 0 || g.lost.Load() > 0 {
			t.Errorf("failed %v, lost %d; want none", g.failed(), g.lost.Load())
		}
	})
}

// A handler may run for longer than the lease's TTL: it is renewed, also when its client left.
func TestPlaceIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		g := newRig(t, Options{Limits: []Limit{{Policy: atOnce(1, 8*time.Second)}}}, limit.Options{}, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/quick" {
				return
			}
			leave()
			time.Sleep(time.Minute)
		})
		var wg sync.WaitGroup
		wg.Go(func() { g.send(from("192.0.2.1:1").WithContext(ctx)) })
		quick := from("192.0.2.1:1")
		quick.URL.Path = "/quick"
		for range 59 {
			time.Sleep(time.Second)
			g.has(g.send(quick), 429)
		}
		wg.Wait()
		g.has(g.send(quick), 200)
		if len(g.failed()) > 0 || g.lost.Load() > 0 {
			t.Errorf("failed %v, lost %d; want none", g.failed(), g.lost.Load())
		}
	})
}

// Three renewals may fail before the place is lost. Then the handler goes on, and the hook tells, once.
func TestPlaceIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Options{Limits: []Limit{{Policy: atOnce(1, 8*time.Second)}}}, limit.Options{BreakAfter: -1}, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/quick" {
				time.Sleep(time.Minute)
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() { g.has(g.send(from("192.0.2.1:1")), 200) })
		quick := from("192.0.2.1:1")
		quick.URL.Path = "/quick"

		time.Sleep(time.Second)
		g.store.away.Store(true)
		time.Sleep(6 * time.Second) // the renewals at 2, 4 and 6 s fail; that at 8 s, the last moment, too late
		g.store.away.Store(false)
		if n := len(g.failed()); n != 3 || g.lost.Load() > 0 {
			t.Errorf("%d renewals failed, %d lost: %v; want 3 and none", n, g.lost.Load(), g.failed())
		}
		time.Sleep(10 * time.Second)
		if g.lost.Load() != 1 {
			t.Errorf("lost %d times; want once", g.lost.Load())
		}
		g.has(g.send(quick), 200)
		wg.Wait()
		g.has(g.send(quick), 200)
		if g.lost.Load() != 1 || len(g.failed()) != 3 {
			t.Errorf("lost %d, failed %v; want what was before", g.lost.Load(), g.failed())
		}
	})
}

// A place that is lost doesn't take the request's other places with it.
func TestOtherPlaceIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours := policy("ours", limit.Spec{Kind: limit.Concurrency, Limit: 1, TTL: 8 * time.Second})
		g := newRig(t, Options{Limits: []Limit{{Policy: atOnce(2, 8*time.Second)}, {Policy: ours}}}, limit.Options{}, func(http.ResponseWriter, *http.Request) {
			time.Sleep(time.Minute)
		})
		var wg sync.WaitGroup
		wg.Go(func() { g.send(from("192.0.2.1:1")) })
		time.Sleep(time.Second)
		if err := g.limiter.Reset(t.Context(), g.limits[0].Policy, ""); err != nil {
			t.Fatal(err)
		}
		for range 29 {
			time.Sleep(2 * time.Second)
			if d, err := g.limiter.Peek(t.Context(), limit.Request{Policy: ours}); err != nil || d.Remaining != 0 {
				t.Errorf("%d places, %v; want none: the handler still runs", d.Remaining, err)
				break
			}
		}
		wg.Wait()
		if g.lost.Load() != 1 || len(g.failed()) > 0 {
			t.Errorf("lost %d, failed %v; want it told once", g.lost.Load(), g.failed())
		}
	})
}

// Two failures are survived.
func TestPlaceSurvivesOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Options{Limits: []Limit{{Policy: atOnce(1, 8*time.Second)}}}, limit.Options{BreakAfter: -1}, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/quick" {
				time.Sleep(time.Minute)
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() { g.has(g.send(from("192.0.2.1:1")), 200) })
		quick := from("192.0.2.1:1")
		quick.URL.Path = "/quick"
		time.Sleep(time.Second)
		g.store.away.Store(true)
		time.Sleep(4 * time.Second) // the renewals at 2 and 4 s fail
		g.store.away.Store(false)
		for range 50 {
			time.Sleep(time.Second)
			g.has(g.send(quick), 429)
		}
		wg.Wait()
		g.has(g.send(quick), 200)
		if g.lost.Load() > 0 || len(g.failed()) != 2 {
			t.Errorf("lost %d, failed %v; want none lost, two failed", g.lost.Load(), g.failed())
		}
	})
}

// A renewal that is under way when the handler returns neither keeps the place nor is taken for a loss.
func TestRenewalMeetsRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Options{Limits: []Limit{{Policy: atOnce(1, 8*time.Second)}}}, limit.Options{}, nil)
		slow := &slowRenewals{shaky: g.store}
		l, err := limit.New(slow, limit.Options{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		lost := 0
		m, err := New(l, Options{Limits: g.limits, Hooks: Hooks{
			Failed: func(_ *http.Request, err error) { t.Errorf("failed: %v", err) },
			Lost:   func(*http.Request, limit.Decision) { lost++ },
		}})
		if err != nil {
			t.Fatal(err)
		}
		g.handler = m.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(2500 * time.Millisecond) }))
		began := time.Now()
		g.is(200, "")
		if took := time.Since(began); took != 2500*time.Millisecond {
			t.Errorf("took %v; want 2.5 s: nobody waits for the renewal", took)
		}
		d, err := l.Peek(t.Context(), limit.Request{Policy: g.limits[0].Policy})
		if err != nil || d.Remaining != 1 || lost > 0 {
			t.Errorf("%d places, %v, lost %d; want 1, none lost", d.Remaining, err, lost)
		}
	})
}

// slowRenewals takes a second for one, as long as somebody waits for it.
type slowRenewals struct{ *shaky }

func (s *slowRenewals) Renew(ctx context.Context, p *limit.Policy, key string, id limit.ID) error {
	select {
	case <-time.After(time.Second):
		return s.shaky.Renew(ctx, p, key, id)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A connection that was taken over holds its place until its handler returns.
func TestUpgrade(t *testing.T) {
	g := newRig(t, Options{Limits: []Limit{{Policy: atOnce(1, 0)}}}, limit.Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, line)
		rw.Flush()
	})
	server := httptest.NewServer(g.handler)
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v, %v", resp, err)
	}
	g.is(429, "")
	fmt.Fprint(conn, "hello\n")
	if line, _ := br.ReadString('\n'); line != "hello\n" {
		t.Errorf("echo %q", line)
	}
	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) { // the handler is about to return
		t.Errorf("read: %v", err)
	}
	for range 1000 {
		if w := g.send(from("192.0.2.1:1")); w.Code == 200 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the place of the closed connection is not free")
}

func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got Response
		perByte := func(_ *http.Request, res Response) (int64, bool) {
			got = res
			return res.Bytes, !res.Aborted
		}
		p := policy("bytes", limit.Spec{Limit: 100, Period: 100 * time.Second})
		answer := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }
		g := newRig(t, Options{Limits: []Limit{{Policy: p, By: byKey, Cost: func(*http.Request) int64 { return 10 }, Settle: perByte, Unit: "content-bytes"}, {Policy: atOnce(1, 0)}}},
			limit.Options{}, func(w http.ResponseWriter, r *http.Request) { answer(w, r) })
		left := func(want int64) {
			t.Helper()
			d, err := g.limiter.Peek(t.Context(), limit.Request{Policy: p, Key: "a"})
			if err != nil || d.Remaining != want {
				t.Errorf("%d units left, %v; want %d", d.Remaining, err, want)
			}
		}
		g.is(200, "a", `RateLimit: "bytes";r=90;t=1, "at-once";r=0`) // what is known when it is sent
		left(95)
		if got.Status != 200 || got.Bytes != 5 || got.Aborted || got.Took != 0 || got.Header.Get("Ratelimit") == "" {
			t.Errorf("settled by %+v", got)
		}

		// More than was asked for, and more than there is.
		answer = func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, strings.Repeat("x", 60))
			io.Copy(w, strings.NewReader(strings.Repeat("x", 60)))
		}
		g.is(201, "a")
		left(0)
		if got.Status != 201 || got.Bytes != 120 || got.Took != time.Second {
			t.Errorf("settled by %+v", got)
		}
		g.is(429, "a")

		// The client is gone, or the handler fails: it is settled all the same.
		time.Sleep(200 * time.Second)
		ctx, leave := context.WithCancel(t.Context())
		answer = func(http.ResponseWriter, *http.Request) { leave() }
		g.send(from("192.0.2.1:1", "Key: a").WithContext(ctx))
		left(100)
		if got.Status != 200 || got.Bytes != 0 {
			t.Errorf("settled by %+v", got)
		}
		answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204); panic("oops") }
		func() {
			defer func() {
				if recover() != "oops" {
					t.Error("the panic is gone")
				}
			}()
			g.is(200, "a")
		}()
		left(90) // false: it stays
		if got.Status != 204 || !got.Aborted {
			t.Errorf("settled by %+v", got)
		}

		// A store that fails is told of.
		answer = func(http.ResponseWriter, *http.Request) { g.store.away.Store(true) }
		g.is(200, "a")
		g.store.away.Store(false)
		if len(g.failed()) != 2 || !errors.Is(g.failed()[0], errAway) || !strings.Contains(g.failed()[0].Error(), `settle policy "bytes"`) || !strings.Contains(g.failed()[1].Error(), "release") {
			t.Errorf("failed: %v; want the settling and the release", g.failed())
		}
	})
}

// What handlers may do with a writer they may do with a recorded one.
func TestRecorder(t *testing.T) {
	var got Response
	settle := func(_ *http.Request, res Response) (int64, bool) { got = res; return 0, false }
	var handler http.HandlerFunc
	g := newRig(t, Options{Limits: []Limit{{Policy: policy("p", limit.Spec{Limit: 100, Period: time.Second}), Settle: settle}}}, limit.Options{},
		func(w http.ResponseWriter, r *http.Request) { handler(w, r) })
	done := make(chan bool, 1)
	outer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { done <- true }()
		g.handler.ServeHTTP(w, r)
	})
	for _, h2 := range []bool{false, true} {
		server := httptest.NewUnstartedServer(outer)
		server.EnableHTTP2 = h2
		server.StartTLS()
		get := func() string {
			t.Helper()
			resp, err := server.Client().Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || (resp.ProtoMajor == 2) != h2 {
				t.Fatalf("%s: %v", resp.Proto, err)
			}
			<-done
			return string(b)
		}
		handler = func(w http.ResponseWriter, _ *http.Request) {
			_, flushes := w.(http.Flusher)
			_, hijacks := w.(http.Hijacker)
			_, reads := w.(io.ReaderFrom)
			_, pushes := w.(http.Pusher)
			if !flushes || hijacks == h2 || reads == h2 || pushes != h2 {
				t.Errorf("HTTP/2 %v: flushes %v, hijacks %v, reads %v, pushes %v; want what the server's own can", h2, flushes, hijacks, reads, pushes)
			}
			w.WriteHeader(http.StatusEarlyHints)
			io.WriteString(w, "one ")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("flush: %v", err)
			}
			io.Copy(w, strings.NewReader("two"))
		}
		if body := get(); body != "one two" || got.Status != 200 || got.Bytes != 7 {
			t.Errorf("HTTP/2 %v: body %q, settled by %+v", h2, body, got)
		}
		if !h2 {
			handler = func(w http.ResponseWriter, _ *http.Request) {
				conn, rw, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				fmt.Fprint(rw, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nraw")
				rw.Flush()
			}
			if body := get(); body != "raw" || got.Status != 101 {
				t.Errorf("hijacked: body %q, settled by %+v", body, got)
			}
		}
		server.Client().CloseIdleConnections()
		server.Close()
	}

	// And writers of tests and middlewares that can less.
	handler = func(w http.ResponseWriter, _ *http.Request) {
		if _, ok := w.(http.Hijacker); ok {
			t.Error("hijacks, which the writer below can't")
		}
		if err := http.NewResponseController(w).EnableFullDuplex(); err == nil {
			t.Error("full duplex, which the writer below can't")
		}
	}
	outer(httptest.NewRecorder(), from("192.0.2.1:1"))
	<-done
	outer(struct{ http.ResponseWriter }{httptest.NewRecorder()}, from("192.0.2.1:1"))
	<-done
	type flushHijack struct {
		http.ResponseWriter
		http.Flusher
		http.Hijacker
	}
	handler = func(w http.ResponseWriter, _ *http.Request) {
		if _, ok := w.(http.Hijacker); !ok {
			t.Error("doesn't hijack, which the writer below can")
		}
	}
	rec := httptest.NewRecorder()
	outer(flushHijack{rec, rec, hijackOnly{}}, from("192.0.2.1:1"))
	<-done
}

type hijackOnly struct{}

func (hijackOnly) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.ErrUnsupported
}
