package proxy

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	stored = "freshet; fwd=uri-miss; stored; ttl=30"
	hit    = "freshet; hit; ttl=30"
)

func TestMissThenHit(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, "hello")
	})
	first := r.get("/a?x=1", "hello", stored)
	second := r.get("/a?x=1", "hello", hit)
	r.asked(1)
	if age := first.header["Age"]; age != nil {
		t.Errorf("Age of a fresh answer: %q; want none", age)
	}
	if got := second.header.Get("Age"); got != "0" {
		t.Errorf("Age of a hit: %q; want 0", got)
	}
	for _, name := range []string{"Content-Type", "Etag", "Content-Length", "Date"} {
		if a, b := first.header.Get(name), second.header.Get(name); a != b || a == "" {
			t.Errorf("%s: %q, then %q; want the same", name, a, b)
		}
	}
	if x := r.exchange(0); x.Outcome != Miss || !x.Stored || x.Status != 200 || x.Bytes != 5 || x.Path != "/a" {
		t.Errorf("first exchange: %+v", x)
	}
	if x := r.exchange(1); x.Outcome != Hit || x.Reason != "" || x.Status != 200 || x.Bytes != 5 {
		t.Errorf("second exchange: %+v", x)
	}
}

func TestKeyIsMethodHostAndURL(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprint(w, req.Host, req.RequestURI)
	})
	n := int64(0)
	one := func(path, host string) {
		t.Helper()
		n++
		r.get(path, host+path, stored, "Host: "+host)
		r.get(path, host+path, hit, "Host: "+host)
		r.asked(n)
	}
	one("/a", "a.example")
	one("/a", "b.example")
	one("/a", "a.example:81")
	one("/a?", "a.example")
	one("/a?x", "a.example")
	one("/a?x=1;y=2", "a.example") // ReverseProxy alone would take the semicolon away
	one("/a?x=1&x=2", "a.example")
	one("/a?x=2&x=1", "a.example")
	one("/a?x=%zz", "a.example")
	one("/a/", "a.example")
	one("//a", "a.example")
	one("/%61", "a.example")
	one("/a%2fb", "a.example")
	one("/a/b", "a.example")
	one("/a/../b", "a.example")
	one("/a/%2e%2e/b", "a.example")
	one("/a;v=1", "a.example")
	r.get("/a", "a.example/a", hit, "Host: A.Example") // hosts have no case
	r.asked(n)
}

func TestBasePath(t *testing.T) {
	r := newRig(t, rigOptions{path: "/v1"}, func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, req.RequestURI) })
	r.get("/a%2fb?x=1", "/v1/a%2fb?x=1", stored)
	r.get("/a%2fb?x=1", "/v1/a%2fb?x=1", hit)
}

func TestHeadHasItsOwnEntry(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Length", "5")
		if req.Method == http.MethodGet {
			fmt.Fprint(w, "hello")
		}
	})
	for _, want := range []string{stored, hit} {
		rep := r.do("HEAD", "/a")
		if rep.status != 200 || rep.header.Get("Content-Length") != "5" || rep.body != "" || rep.cacheStatus() != want {
			t.Errorf("HEAD: %+v; want %q", rep, want)
		}
	}
	r.asked(1)
	r.get("/a", "hello", stored) // never the bodiless one
	r.get("/a", "hello", hit)
	r.asked(2)
}

func TestPassUncached(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, "for ", req.Header.Get("Authorization")) })
	f := func(status string, fields ...string) {
		t.Helper()
		before := r.calls.Load()
		for range 2 {
			r.get("/a", "for "+strings.TrimPrefix(strings.Join(fields, ""), "Authorization: "), status, fields...)
		}
		r.asked(before + 2)
	}
	f("freshet; fwd=bypass; detail=authorization", "Authorization: ann")
	f("freshet; fwd=bypass; detail=authorization", "Authorization: bob")
	r.get("/a", "for ", "freshet; fwd=bypass; detail=cookie", "Cookie: x=1")
	r.get("/a", "for ", stored)
	r.get("/a", "for ann", "freshet; fwd=bypass; detail=authorization", "Authorization: ann") // not even with a copy at hand
}

func TestNotStored(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		q := req.URL.Query()
		for name, values := range q {
			if name != "status" {
				w.Header()[name] = values
			}
		}
		if q.Get("status") != "" {
			w.WriteHeader(404)
		}
		fmt.Fprint(w, "body")
	})
	f := func(query, detail string) {
		t.Helper()
		before := r.calls.Load()
		for range 3 {
			rep := r.do("GET", "/a?"+query)
			if want := "freshet; fwd=uri-miss; detail=" + detail; rep.cacheStatus() != want || rep.body != "body" {
				t.Errorf("%s: %q, Cache-Status %q; want %q", query, rep.body, rep.cacheStatus(), want)
			}
		}
		r.asked(before + 3)
	}
	f("Set-Cookie=a%3Db", "set-cookie")
	f("Cache-Control=private", "private")
	f("Cache-Control=no-store", "no-store")
	f("Cache-Control=no-cache", "no-cache")
	f("Cache-Control=max-age%3D0", "outdated")
	f("Vary=Origin", "vary")
	f("Content-Type=text/event-stream", "streaming")
	f("status=404", "status")
}

func TestSecondAnswerMayBeStored(t *testing.T) {
	var open bool
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		if !open {
			w.Header().Set("Cache-Control", "private")
		}
		fmt.Fprint(w, "x")
	})
	r.get("/a", "x", "freshet; fwd=uri-miss; detail=private")
	open = true
	r.get("/a", "x", "freshet; fwd=uri-miss; detail=private") // this answer shows that it could
	r.get("/a", "x", stored)
	r.get("/a", "x", hit)
}

func TestOriginShortensTTL(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60, s-maxage=7")
		w.Header().Set("Age", "2")
		fmt.Fprint(w, "x")
	})
	if rep := r.get("/a", "x", "freshet; fwd=uri-miss; stored; ttl=5"); rep.header.Get("Age") != "2" {
		t.Errorf("Age: %q; want 2", rep.header.Get("Age"))
	}
	if rep := r.get("/a", "x", "freshet; hit; ttl=5"); rep.header.Get("Age") != "2" {
		t.Errorf("Age: %q; want 2", rep.header.Get("Age"))
	}
}

func TestExpiry(t *testing.T) {
	r := newRig(t, rigOptions{ttl: 300 * time.Millisecond}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") })
	r.get("/a", "x", "freshet; fwd=uri-miss; stored; ttl=0")
	time.Sleep(350 * time.Millisecond)
	if rep := r.do("GET", "/a"); !strings.Contains(rep.cacheStatus(), "; stored;") {
		t.Errorf("after the TTL: %q; want it loaded anew", rep.cacheStatus())
	}
	r.asked(2)
}

func TestConditionalRequests(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("If-None-Match") != "" || req.Header.Get("If-Modified-Since") != "" {
			w.WriteHeader(http.StatusNotModified) // the load must ask for the whole
			return
		}
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Last-Modified", "Sun, 22 Nov 2026 20:00:00 GMT")
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, "hello")
	})
	not := func(want string, fields ...string) {
		t.Helper()
		rep := r.do("GET", "/a", fields...)
		if rep.status != 304 || rep.body != "" || rep.header.Get("Etag") != `"1"` || rep.header.Get("Content-Length") != "" || rep.cacheStatus() != want {
			t.Errorf("%q: %+v; want 304, %q", fields, rep, want)
		}
	}
	not(stored, `If-None-Match: "1"`) // the client's copy is right, and ours is complete
	not(hit, `If-None-Match: W/"1", "2"`)
	not(hit, "If-Modified-Since: Sun, 22 Nov 2026 20:00:00 GMT")
	r.get("/a", "hello", hit)
	r.get("/a", "hello", hit, `If-None-Match: "2"`)
	r.asked(1)
}

func TestRangesPass(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		http.ServeContent(w, req, "x.txt", time.Time{}, strings.NewReader("hello"))
	})
	rep := r.do("GET", "/a", "Range: bytes=1-2")
	if rep.status != 206 || rep.body != "el" || rep.cacheStatus() != "freshet; fwd=bypass; detail=range" {
		t.Errorf("range: %+v", rep)
	}
	r.get("/a", "hello", stored)
	r.get("/a", "hello", hit)
}

func TestEncodingsAreKeptApart(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Vary", "Accept-Encoding")
		if req.Header.Get("Accept-Encoding") != "gzip" {
			fmt.Fprint(w, req.Header.Get("Accept-Encoding"))
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprint(z, "packed")
		z.Close()
	})
	unpack := func(fields ...string) string {
		t.Helper()
		rep := r.do("GET", "/a", fields...)
		if rep.header.Get("Content-Encoding") != "gzip" {
			return rep.body
		}
		z, err := gzip.NewReader(strings.NewReader(rep.body))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := io.Copy(&b, z); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for range 2 {
		for fields, want := range map[string]string{
			"":                                   "identity",
			"Accept-Encoding: br":                "identity",
			"Accept-Encoding: gzip, deflate, br": "packed",
			"Accept-Encoding: x-gzip":            "packed",
		} {
			var all []string
			if fields != "" {
				all = []string{fields}
			}
			if got := unpack(all...); got != want {
				t.Errorf("%q: %q; want %q", fields, got, want)
			}
		}
	}
	r.asked(2)
}

func TestUpstreamProblems(t *testing.T) {
	nobody := &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	r := &rig{t: t}
	r.start(rigOptions{}, nobody)
	f := func(method string, status int, cacheStatus string) {
		t.Helper()
		rep := r.do(method, "/a")
		if rep.status != status || rep.cacheStatus() != cacheStatus || rep.header.Get("Content-Type") != "application/problem+json" || rep.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %+v; want %d, %q", method, rep, status, cacheStatus)
		}
		if strings.Contains(rep.body, "127.0.0.1") {
			t.Errorf("%s tells strangers what is behind the gateway: %s", method, rep.body)
		}
		if method != "HEAD" && !strings.Contains(rep.body, `"code":"origin-unreachable"`) {
			t.Errorf("%s: body %s", method, rep.body)
		}
	}
	f("GET", 502, "freshet; fwd=uri-miss; detail=origin-unreachable")
	f("GET", 502, "freshet; fwd=uri-miss; detail=origin-unreachable")
	f("HEAD", 502, "freshet; fwd=uri-miss; detail=origin-unreachable")
	f("POST", 502, "freshet; fwd=method; detail=origin-unreachable")
	if x := r.exchange(0); x.Err == nil || strings.Contains(x.Err.Error(), "/a") || strings.Contains(x.Err.Error(), "unreachable") {
		t.Errorf("error %v; want the cause alone", x.Err)
	}
}

// A connection that breaks before the answer isn't one that never was.
func TestUpstreamBreaksBeforeTheAnswer(t *testing.T) {
	u, _ := rawOrigin(t, "")
	r := &rig{t: t}
	r.start(rigOptions{}, u)
	f := func(method, cacheStatus string, fields ...string) {
		t.Helper()
		if rep := r.do(method, "/a", fields...); rep.status != 502 || rep.cacheStatus() != cacheStatus {
			t.Errorf("%s %q: %+v; want 502, %q", method, fields, rep, cacheStatus)
		}
	}
	f("GET", "freshet; fwd=uri-miss; detail=origin-aborted")
	f("GET", "freshet; fwd=bypass; detail=origin-aborted", "Authorization: ann")
	f("POST", "freshet; fwd=method; detail=origin-aborted")
}

func TestUpstreamTimeout(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, rigOptions{timeout: 100 * time.Millisecond}, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	rep := r.do("GET", "/a")
	if rep.status != 504 || !strings.Contains(rep.body, `"code":"origin-timeout"`) {
		t.Errorf("%+v; want 504", rep)
	}
}

func TestErrorsOfTheOriginComeAsTheyAre(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(503)
		fmt.Fprint(w, "overloaded")
	})
	for range 2 {
		rep := r.do("GET", "/a")
		if rep.status != 503 || rep.body != "overloaded" || rep.header.Get("Retry-After") != "7" || rep.cacheStatus() != "freshet; fwd=uri-miss; detail=origin-status" {
			t.Errorf("%+v", rep)
		}
	}
	r.asked(2)
}

func TestLoop(t *testing.T) {
	r := &rig{t: t}
	upstream := &url.URL{Scheme: "http"}
	r.start(rigOptions{}, upstream)
	upstream.Host = strings.TrimPrefix(r.url, "http://")
	rep := r.do("GET", "/a")
	if rep.status != 508 || !strings.Contains(rep.body, `"code":"loop"`) {
		t.Errorf("%+v; want 508", rep)
	}
}
