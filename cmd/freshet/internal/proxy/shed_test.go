package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/limit/overload"
	"github.com/freshetdev/freshet/observe"
)

// A busyRig is a gateway whose origin has as much to do as the limiter allows: one request, for /busy, until free is called.
func newBusyRig(t *testing.T, o rigOptions) (r *rig, free func()) {
	t.Helper()
	l, err := overload.New(overload.Options{Min: 1, Max: 1, MaxQueued: -1})
	if err != nil {
		t.Fatal(err)
	}
	o.limiter = l
	entered, done := make(chan struct{}), make(chan struct{})
	r = newRig(t, o, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/busy" {
			entered <- struct{}{}
			<-done
		}
		fmt.Fprint(w, "answer to "+req.Method)
	})
	r.do("GET", "/stored")
	r.do("GET", "/old")
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		_, _ = r.try("GET", "/busy", nil)
	}()
	<-entered
	free = func() {
		close(done)
		<-waiting
	}
	return r, free
}

func TestShed(t *testing.T) {
	var calls atomic.Int64
	r, free := newBusyRig(t, rigOptions{hooks: Hooks{Origin: func(time.Duration, error) { calls.Add(1) }}})
	before := r.calls.Load()

	r.get("/stored", "answer to GET", "freshet; hit; ttl=30") // what the cache has isn't limited
	for _, method := range []string{"GET", "POST"} {
		rep := r.do(method, "/stored?x=1")
		var p problem
		if err := json.Unmarshal([]byte(rep.body), &p); err != nil {
			t.Errorf("%s: %q: %v", method, rep.body, err)
		}
		after := rep.header.Get("Retry-After")
		if rep.status != 503 || p.Status != 503 || p.Code != "overload" || p.Type != overload.ProblemType ||
			after != "1" && after != "2" && after != "3" || rep.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %+v; want 503 with the problem and Retry-After", method, rep)
		}
		fwd := map[string]string{"GET": "uri-miss", "POST": "method"}[method]
		if cs := rep.cacheStatus(); cs != "freshet; fwd="+fwd+"; detail=overload" {
			t.Errorf("%s: Cache-Status %q", method, cs)
		}
	}
	// A write that was shed didn't happen, so it drops nothing.
	r.do("PUT", "/stored")
	r.get("/stored", "answer to GET", "freshet; hit; ttl=30")
	r.asked(before)
	if n := calls.Load(); n != 2 { // /busy is still on its way
		t.Errorf("%d calls of the origin were counted; want 2", n)
	}

	free()
	if rep := r.do("PUT", "/stored"); rep.status != 200 {
		t.Errorf("%+v; want 200, with room again", rep)
	}
	if rep := r.do("GET", "/stored"); strings.Contains(rep.cacheStatus(), "hit") {
		t.Errorf("%+v; want a miss after the write", rep)
	}
}

// What may be served stale is, instead of 503: while it is refreshed, and when the refresh was shed.
func TestShedServesStale(t *testing.T) {
	r, free := newBusyRig(t, rigOptions{ttl: 100 * time.Millisecond, grace: time.Minute})
	before := r.calls.Load()
	time.Sleep(150 * time.Millisecond)
	for range 10 {
		if rep := r.do("GET", "/old"); rep.status != 200 || rep.body != "answer to GET" || !strings.Contains(rep.cacheStatus(), "detail=stale") ||
			strings.Contains(rep.cacheStatus(), "fwd") {
			t.Errorf("%+v; want the stale answer", rep)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if rep := r.do("GET", "/never-seen"); rep.status != 503 {
		t.Errorf("%+v; want 503", rep)
	}
	r.asked(before)
	free()
}

func TestPriorityOf(t *testing.T) {
	f := func(method, field string, ctx context.Context, want overload.Priority) {
		t.Helper()
		r := httptest.NewRequest(method, "/", nil).WithContext(ctx)
		if field != "" {
			r.Header.Set("Priority", field)
		}
		if got := priorityOf(r); got != want {
			t.Errorf("%s, Priority %q: %v; want %v", method, field, got, want)
		}
	}
	ctx := t.Context()
	f("GET", "", ctx, overload.Normal)
	f("HEAD", "", ctx, overload.Normal)
	f("POST", "", ctx, overload.Critical)
	f("DELETE", "u=7", ctx, overload.Critical)
	f("GET", "u=7", ctx, overload.Background)
	f("GET", "i, u=7;x=1", ctx, overload.Background)
	f("GET", "u=0", ctx, overload.Normal) // a client can't raise it
	f("GET", "u=6", ctx, overload.Normal)
	f("GET", "u=7.0", ctx, overload.Normal)
	f("GET", "u=(7)", ctx, overload.Normal)
	f("GET", "u=7;;", ctx, overload.Normal)
	f("GET", "", inBackground(ctx), overload.Background)
}

// A refresh that nobody waits for is shed first.
func TestRefreshIsBackground(t *testing.T) {
	l, err := overload.New(overload.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, rigOptions{ttl: 50 * time.Millisecond, grace: time.Minute, limiter: l}, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "x")
	})
	r.do("GET", "/a")
	time.Sleep(100 * time.Millisecond)
	r.do("GET", "/a")
	eventually(t, "a refresh", func() bool { return l.Stats().Background.Admitted > 0 })
	if s := l.Stats(); s.Normal.Admitted != 1 {
		t.Errorf("%+v; want one normal load", s)
	}
}

// Cache-Status says that a request went forward in vain only if it went.
func TestShedDidNotGoForward(t *testing.T) {
	r := newRig(t, rigOptions{}, func(http.ResponseWriter, *http.Request) {})
	for reason, forwarded := range map[observe.Reason]bool{observe.ReasonOverload: false, ReasonTimeout: true} {
		var x Exchange
		r.proxy.answer(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), &x, "k", freshet.Result[*Response]{
			Value: &Response{Header: http.Header{}}, Stale: true, Err: &OriginError{Reason: reason, Err: context.DeadlineExceeded},
		})
		if x.Outcome != Stale || x.Reason != ReasonIfError || x.Forwarded != forwarded {
			t.Errorf("%s: %+v; want stale, forwarded: %v", reason, x, forwarded)
		}
	}
}
