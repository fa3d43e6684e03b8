package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
)

// A counter is an origin whose GET answers with the number of writes so far.
func counter(w http.ResponseWriter, req *http.Request, n *atomic.Int64) {
	switch req.Method {
	case "GET", "HEAD":
		fmt.Fprintf(w, "v%d", n.Load())
	default:
		status := 200
		_, _ = fmt.Sscan(req.Header.Get("X-Status"), &status)
		if status < 400 || status >= 500 {
			n.Add(1)
		}
		for _, name := range []string{"Location", "Content-Location"} {
			if v := req.Header.Get("X-" + name); v != "" {
				w.Header().Set(name, v)
			}
		}
		w.WriteHeader(status)
	}
}

func TestWritesDrop(t *testing.T) {
	var n atomic.Int64
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) { counter(w, req, &n) })
	warm := func() string {
		t.Helper()
		r.do("GET", "/a")
		r.do("HEAD", "/a")
		r.do("GET", "/a", "Accept-Encoding: gzip")
		body := r.do("GET", "/a").body
		r.get("/a", body, hit)
		r.get("/a", body, hit, "Accept-Encoding: gzip")
		return body
	}
	f := func(drops bool, method string, fields ...string) {
		t.Helper()
		before := warm()
		r.do(method, "/a", fields...)
		after := r.do("GET", "/a")
		if got := after.cacheStatus() != hit; got != drops {
			t.Errorf("%s %q: then %q; want it dropped: %v", method, fields, after.cacheStatus(), drops)
		}
		if drops && after.body == before {
			t.Errorf("%s %q: still %q", method, fields, after.body)
		}
		if drops {
			for _, fields := range [][]string{{"Accept-Encoding: gzip"}} {
				if rep := r.do("GET", "/a", fields...); rep.cacheStatus() == hit {
					t.Errorf("%s: the form for %q is still there", method, fields)
				}
			}
			if rep := r.do("HEAD", "/a"); rep.cacheStatus() == hit {
				t.Errorf("%s: HEAD is still there", method)
			}
		}
	}
	for _, method := range []string{"PUT", "POST", "PATCH", "DELETE", "FROBNICATE"} {
		f(true, method)
	}
	f(true, "PUT", "X-Status: 204")
	f(true, "PUT", "X-Status: 303")
	f(true, "PUT", "Authorization: ann")
	f(false, "PUT", "X-Status: 404")
	f(false, "PUT", "X-Status: 409")
	for _, status := range []string{"500", "501", "502", "503", "504"} {
		f(true, "PUT", "X-Status: "+status) // it may have failed after the change
	}
	f(false, "OPTIONS")

	x := r.exchange(0)
	for i := 0; x.Method != "PUT"; i++ {
		x = r.exchange(i)
	}
	if x.Dropped != "/a" || x.Outcome != Pass || x.Err != nil {
		t.Errorf("exchange of a write: %+v", x)
	}
}

// A write that reached nobody drops nothing.
func TestUnsentWrites(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // an idle one may be used, and found broken too late to tell
		fmt.Fprint(w, "v0")
	})
	r.get("/a", "v0", stored)
	r.origin.Close()
	if rep := r.do("PUT", "/a"); rep.status != 502 || rep.cacheStatus() != "freshet; fwd=method; detail=origin-unreachable" {
		t.Errorf("%+v; want 502, and no connection", rep)
	}
	r.get("/a", "v0", hit)
}

func TestWritesDropWhatTheyName(t *testing.T) {
	var n atomic.Int64
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) { counter(w, req, &n) })
	f := func(drops bool, field string) {
		t.Helper()
		r.do("GET", "/users/7?full=1")
		r.do("POST", "/users", field)
		if rep := r.do("GET", "/users/7?full=1"); (rep.cacheStatus() != hit) != drops {
			t.Errorf("%s: then %q; want it dropped: %v", field, rep.cacheStatus(), drops)
		}
	}
	f(true, "X-Location: /users/7?full=1")
	f(true, "X-Location: users/7?full=1")
	f(true, "X-Content-Location: "+r.url+"/users/7?full=1")
	f(false, "X-Location: /users/7")
	f(false, "X-Location: http://other.example/users/7?full=1")
	f(false, "X-Location: ::")
}

// An answer that was on its way when the write came is not stored.
func TestWriteDuringALoad(t *testing.T) {
	var n atomic.Int64
	reading, release := make(chan struct{}, 1), make(chan struct{})
	var first atomic.Bool
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		if req.Method == "GET" {
			v := n.Load()
			if first.CompareAndSwap(false, true) {
				reading <- struct{}{}
				<-release
			}
			fmt.Fprintf(w, "v%d", v)
			return
		}
		counter(w, req, &n)
	})
	slow := make(chan reply)
	go func() {
		rep, _ := r.try("GET", "/a", nil)
		slow <- rep
	}()
	<-reading
	r.do("PUT", "/a")
	r.get("/a", "v1", "freshet; fwd=uri-miss; stored; ttl=30") // does not join the old load
	close(release)
	if rep := <-slow; rep.body != "v0" || strings.Contains(rep.cacheStatus(), "stored") {
		t.Errorf("the old load: %q, %q; want v0, unstored", rep.body, rep.cacheStatus())
	}
	r.get("/a", "v1", hit)
}

// The write may have happened although no answer came.
func TestBrokenWriteDrops(t *testing.T) {
	var n atomic.Int64
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		if req.Method == "PUT" {
			n.Add(1)
			panic(http.ErrAbortHandler)
		}
		counter(w, req, &n)
	})
	r.get("/a", "v0", stored)
	if rep := r.do("PUT", "/a"); rep.status != 502 || rep.cacheStatus() != "freshet; fwd=method; detail=origin-aborted" || !strings.Contains(rep.body, `"code":"origin-aborted"`) {
		t.Errorf("%+v; want 502, and that the connection broke", rep)
	}
	if x := r.exchange(1); x.Dropped != "/a" || x.Outcome != Error || x.Err == nil || x.DropErr != nil {
		t.Errorf("exchange: %+v; want an error, and a drop", x)
	}
	if rep := r.do("GET", "/a"); rep.body != "v1" {
		t.Errorf("after the write: %+v; want v1", rep)
	}
}

// Two gateways on one Redis: a write through one is seen by the other at once, and one load serves both.
func TestTwoGateways(t *testing.T) {
	redis := testenv.Redis(t)
	var n, calls atomic.Int64
	origin := func(w http.ResponseWriter, req *http.Request) {
		calls.Add(1)
		if req.Method == "GET" {
			time.Sleep(20 * time.Millisecond)
		}
		counter(w, req, &n)
	}
	a := newRig(t, rigOptions{store: redis.URL()}, origin)
	b := newRig(t, rigOptions{store: redis.URL()}, origin)
	const host = "Host: api.example"

	// One load for both, however many ask.
	var wg sync.WaitGroup
	for i := range 40 {
		r := [...]*rig{a, b}[i%2]
		wg.Go(func() {
			if rep, err := r.try("GET", "/a", nil, host); err != nil || rep.body != "v0" {
				t.Errorf("%+v, %v", rep, err)
			}
		})
	}
	wg.Wait()
	if got := calls.Load(); got != 1 {
		t.Errorf("the origins were asked %d times; want once", got)
	}

	var slowest time.Duration
	for i := range 20 {
		a.get("/a", fmt.Sprintf("v%d", i), a.do("GET", "/a", host).cacheStatus(), host)
		b.get("/a", fmt.Sprintf("v%d", i), b.do("GET", "/a", host).cacheStatus(), host)
		writer, reader := a, b
		if i%2 == 1 {
			writer, reader = b, a
		}
		writer.do("PUT", "/a", host)
		written := time.Now()
		want := fmt.Sprintf("v%d", i+1)
		eventually(t, "the other gateway sees the write", func() bool { return reader.do("GET", "/a", host).body == want })
		slowest = max(slowest, time.Since(written))
	}
	if slowest > time.Second { // typically the 20 ms of the load and a few more
		t.Errorf("slowest write took %v to be seen by the other gateway", slowest)
	}
	t.Logf("slowest write took %v to be seen by the other gateway, a load of 20ms included", slowest)
}

// As docs/operations.md says: a URL can be dropped by deleting its keys.
func TestKeysCanBeDeletedByHand(t *testing.T) {
	redis := testenv.Redis(t)
	var n atomic.Int64
	r := newRig(t, rigOptions{store: redis.URL()}, func(w http.ResponseWriter, req *http.Request) { counter(w, req, &n) })
	const host = "Host: API.example"
	for _, accept := range []string{"Accept-Encoding: identity", "Accept-Encoding: gzip"} {
		r.do("GET", "/a?b=1", host, accept)
		r.get("/a?b=1", fmt.Sprintf("v%d", n.Load()), hit, host, accept)
	}
	n.Add(1)
	if got := redis.CLI(t, "DEL", "http:GET http://api.example/a?b=1", "http:GET+gzip http://api.example/a?b=1"); got != "2" {
		t.Errorf("DEL found %s keys; want 2", got)
	}
	for _, accept := range []string{"Accept-Encoding: identity", "Accept-Encoding: gzip"} {
		eventually(t, "it is read anew", func() bool { return r.do("GET", "/a?b=1", host, accept).body == "v1" })
	}
}

// Without Redis the gateway still answers, and says that the drop is pending.
func TestRedisGoesAway(t *testing.T) {
	redis := testenv.Redis(t)
	var n atomic.Int64
	r := newRig(t, rigOptions{store: redis.URL()}, func(w http.ResponseWriter, req *http.Request) { counter(w, req, &n) })
	r.get("/a", "v0", stored)
	redis.Kill()
	rep := r.do("PUT", "/a")
	if rep.status != 200 {
		t.Errorf("PUT without Redis: %+v", rep)
	}
	if x := r.exchange(1); x.DropErr == nil || !strings.Contains(x.DropErr.Error(), "waits for the store") {
		t.Errorf("exchange: %+v; want it to say that the drop is pending", x)
	}
	if rep := r.do("GET", "/a"); rep.body != "v1" {
		t.Errorf("GET after it: %+v; want v1", rep)
	}
	redis.Restart()
	for i := 0; !strings.Contains(r.do("GET", fmt.Sprintf("/%d", i)).cacheStatus(), "stored"); i++ {
		time.Sleep(10 * time.Millisecond)
	}
}
