package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What the origin sees is the same for a load and for a request that passes.
func TestRequestFields(t *testing.T) {
	var seen http.Header
	var host string
	origin := func(w http.ResponseWriter, req *http.Request) {
		seen, host = req.Header, req.Host
		fmt.Fprint(w, "x")
	}
	for _, method := range []string{"GET", "POST"} {
		r := newRig(t, rigOptions{}, origin)
		r.do(method, "/a",
			"Host: API.example",
			"X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6", "X-Forwarded-Port: 6",
			"Connection: X-Hop", "X-Hop: 1", "Keep-Alive: 1", "Te: trailers", "Proxy-Connection: close",
			"If-None-Match: \"1\"", "X-Mine: 1", "X-Mine: 2", "Accept-Language: de", "User-Agent: me",
		)
		f := func(name string, want ...string) {
			t.Helper()
			if got := seen[name]; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %s is %q; want %q", method, name, got, want)
			}
		}
		if host != "api.example" {
			t.Errorf("%s: Host is %q", method, host)
		}
		f("X-Forwarded-For", "127.0.0.1")
		f("X-Forwarded-Host", "api.example")
		f("X-Forwarded-Proto", "http")
		f("X-Forwarded-Port")
		f("Forwarded")
		f("X-Hop")
		f("Keep-Alive")
		f("Proxy-Connection")
		f("X-Mine", "1", "2")
		f("Accept-Language", "de")
		f("User-Agent", "me")
		if method == "GET" {
			f("If-None-Match")
			f("Accept-Encoding", "identity")
		} else {
			f("If-None-Match", `"1"`)
			f("Accept-Encoding")
		}
	}

	r := newRig(t, rigOptions{rewrite: true}, origin)
	r.do("GET", "/a", "Host: api.example", "User-Agent: ")
	if want := strings.TrimPrefix(r.origin.URL, "http://"); host != want || seen.Get("X-Forwarded-Host") != "api.example" {
		t.Errorf("rewritten: Host %q, X-Forwarded-Host %q; want %q and the client's", host, seen.Get("X-Forwarded-Host"), want)
	}
	if ua, ok := seen["User-Agent"]; ok {
		t.Errorf("User-Agent made up: %q", ua)
	}
}

func TestAnswerFields(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("X-Mine", "1")
		h.Add("X-Mine", "2")
		h.Set("Cache-Status", `inner; hit; ttl=5`)
		fmt.Fprint(w, "x")
	})
	for _, want := range []string{"inner; hit; ttl=5, " + stored, "inner; hit; ttl=5, " + hit, "inner; hit; ttl=5, " + hit} {
		rep := r.get("/a", "x", want)
		for _, name := range []string{"X-Hop", "Keep-Alive", "Proxy-Authenticate", "Connection"} {
			if v := rep.header[name]; v != nil {
				t.Errorf("%s: %q; want it gone", name, v)
			}
		}
		if got := rep.header["X-Mine"]; fmt.Sprint(got) != "[1 2]" {
			t.Errorf("X-Mine: %q", got)
		}
		if got := rep.header["Cache-Status"]; len(got) != 1 {
			t.Errorf("Cache-Status: %q; want one line", got)
		}
	}
}

func TestOriginWithBadCacheStatus(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Status", "HIT from (somewhere")
		fmt.Fprint(w, "x")
	})
	r.get("/a", "x", stored)
	r.get("/a", "x", hit)
}

func TestEventsAreFlushed(t *testing.T) {
	for _, accept := range []string{"text/event-stream", "*/*"} {
		next := make(chan string)
		r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			for s := range next {
				fmt.Fprintf(w, "data: %s\n\n", s)
				w.(http.Flusher).Flush()
			}
		})
		req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url+"/a", nil)
		req.Header.Set("Accept", accept)
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(resp.Body)
		for _, want := range []string{"one", "two"} {
			next <- want
			if line, err := lines.ReadString('\n'); err != nil || line != "data: "+want+"\n" {
				t.Errorf("%s: %q, %v", accept, line, err)
			}
			_, _ = lines.ReadString('\n')
		}
		close(next)
		resp.Body.Close()
	}
}

func TestUpgrade(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Upgrade") != "echo" {
			t.Errorf("Upgrade: %q", req.Header.Get("Upgrade"))
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, "you said "+line)
		_ = rw.Flush()
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%+v, %v; want 101", resp, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := in.ReadString('\n'); line != "you said hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	conn.Close()
	if x := r.exchange(0); x.Status != 101 || x.Outcome != Pass || x.Reason != ReasonUpgrade {
		t.Errorf("exchange: %+v", x)
	}
}

func TestTrailersAndInterimAnswersPass(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "x")
		w.Header().Set("X-Sum", "1")
	})
	for range 2 {
		resp, err := r.client.Get(r.url + "/a")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := resp.Trailer.Get("X-Sum"); got != "1" {
			t.Errorf("trailer: %q; want 1", got)
		}
	}
	r.asked(2)
}

func TestBrokenPassIsAborted(t *testing.T) {
	u, _ := rawOrigin(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nSet-Cookie: a=b\r\n\r\nhello")
	r := &rig{t: t}
	r.start(rigOptions{}, u)
	if rep, err := r.try("GET", "/a", nil); err == nil && rep.err == nil {
		t.Errorf("%+v; want a broken body to show", rep)
	}
	if x := r.exchange(0); !x.Aborted {
		t.Errorf("exchange: %+v; want it aborted", x)
	}
}

func TestRequestBodiesPass(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) { _, _ = io.Copy(w, req.Body) })
	for _, method := range []string{"POST", "PUT", "GET"} {
		rep, err := r.try(method, "/a", strings.NewReader("hello"))
		if err != nil || rep.body != "hello" {
			t.Errorf("%s: %+v, %v", method, rep, err)
		}
	}
	r.get("/a", "", stored) // the GET with a body has not made it "hello"
}

// The origin sees the query as it was sent, however odd, whether the request passes or not.
func TestOddQueries(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, req.RequestURI) })
	for _, uri := range []string{"/a?", "/a?x=1;y=2", "/a?x=%zz", "/a?&&x", "/%61?%78=1"} {
		for _, method := range []string{"GET", "POST"} {
			if rep := r.do(method, uri); rep.body != uri {
				t.Errorf("%s %s: the origin saw %s", method, uri, rep.body)
			}
		}
	}
}

func TestAbsoluteForm(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprint(w, req.Host, req.URL, req.Header.Get("Authorization"))
	})
	w := httptest.NewRecorder()
	req := httptest.NewRequest("GET", "http://user:secret@a.example/x", nil)
	r.proxy.ServeHTTP(w, req)
	if got := w.Body.String(); got != "a.example/x" {
		t.Errorf("%q; want the origin to see a.example/x", got)
	}
	r.get("/x", "a.example/x", hit, "Host: a.example")
}
