package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBrokenBodiesAreNeverStored(t *testing.T) {
	f := func(name, answer string) {
		t.Helper()
		u, calls := rawOrigin(t, answer)
		r := &rig{t: t}
		r.start(rigOptions{}, u)
		for n := int64(1); n <= 2; n++ {
			rep, err := r.try("GET", "/a", nil)
			clean := err == nil && rep.err == nil && rep.status == 200
			if clean && !strings.Contains(answer, "\r\n\r\n"+rep.body) {
				t.Errorf("%s: %+v", name, rep)
			}
			if clean && name != "no length" {
				t.Errorf("%s: the client sees a clean 200 %q", name, rep.body)
			}
			if got := calls.Load(); got != n {
				t.Errorf("%s: origin asked %d times; want %d", name, got, n)
			}
		}
	}
	f("short", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
	f("chunks without end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	f("broken chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")
	f("bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello")
	f("header only", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n")
	f("nothing", "")
	f("no length", "HTTP/1.1 200 OK\r\n\r\nhello") // passes, but is it whole?
}

func TestTooLongAnswerIsCutAtItsLength(t *testing.T) {
	u, _ := rawOrigin(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
	r := &rig{t: t}
	r.start(rigOptions{}, u)
	r.get("/a", "hello", stored)
	r.get("/a", "hello", hit)
	// net/http closes a connection on which more came than was asked for, as soon as it looks; who takes the connection
	// in the microseconds before would get the rest.
	time.Sleep(100 * time.Millisecond)
	r.get("/b", "hello", stored)
}

func TestUnannouncedTrailers(t *testing.T) {
	u, _ := rawOrigin(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
	r := &rig{t: t}
	r.start(rigOptions{}, u)
	if rep := r.do("GET", "/a"); strings.Contains(rep.cacheStatus(), "hit") {
		t.Errorf("%+v", rep)
	}
}

func TestLargeBodiesAreStreamed(t *testing.T) {
	const limit = 64 << 10
	var chunked bool
	r := newRig(t, rigOptions{maxBody: limit}, func(w http.ResponseWriter, req *http.Request) {
		size := 0
		_, _ = fmt.Sscan(req.URL.Query().Get("size"), &size)
		if !chunked {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		half := bytes.Repeat([]byte("x"), size/2)
		_, _ = w.Write(half)
		if chunked {
			w.(http.Flusher).Flush()
		}
		_, _ = w.Write(half)
	})
	f := func(size int, want string) {
		t.Helper()
		for range 2 {
			rep := r.do("GET", fmt.Sprintf("/a?size=%d&chunked=%v", size, chunked))
			if rep.err != nil || len(rep.body) != size || rep.cacheStatus() != want {
				t.Errorf("size %d, chunked %v: %d bytes, %v, %q; want %q", size, chunked, len(rep.body), rep.err, rep.cacheStatus(), want)
			}
			if strings.Contains(want, "stored") {
				want = hit
			}
		}
	}
	const tooLarge = "freshet; fwd=uri-miss; detail=too-large"
	f(limit, stored)
	f(limit+2, tooLarge)
	f(10*limit, tooLarge)
	chunked = true
	f(limit, stored)
	f(limit+2, tooLarge)
	f(10*limit, tooLarge)
}

// A body of unknown length that takes its time is sent on as it comes.
func TestSlowBodiesAreStreamed(t *testing.T) {
	next := make(chan string)
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		for s := range next {
			fmt.Fprint(w, s)
			w.(http.Flusher).Flush()
		}
	})
	go func() { next <- "one" }()
	resp, err := r.client.Get(r.url + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, want := resp.Header.Get("Cache-Status"), "freshet; fwd=uri-miss; detail=streaming"; got != want {
		t.Errorf("Cache-Status %q; want %q", got, want)
	}
	b := make([]byte, 10)
	for _, want := range []string{"one", "two", "three"} {
		if want != "one" {
			next <- want
		}
		n, err := resp.Body.Read(b)
		if err != nil || string(b[:n]) != want {
			t.Fatalf("%q, %v; want %q", b[:n], err, want)
		}
	}
	close(next)
	if _, err := resp.Body.Read(b); err != io.EOF {
		t.Errorf("end: %v; want EOF", err)
	}
}

func TestClientLeavesAStream(t *testing.T) {
	ended := make(chan struct{})
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-req.Context().Done()
		close(ended)
	})
	resp, err := r.client.Get(r.url + "/a") // without Accept, so it's the answer that shows what it is
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the origin was not told that the client left")
	}
}

// A slowReader yields a chunk after each pause.
type slowReader struct {
	chunks []string
	pause  time.Duration
	err    error
	closed chan struct{}
}

func (s *slowReader) Read(p []byte) (int, error) {
	select {
	case <-time.After(s.pause):
	case <-s.closed:
		return 0, errors.New("closed")
	}
	if len(s.chunks) == 0 {
		return 0, s.err
	}
	n := copy(p, s.chunks[0])
	s.chunks = s.chunks[1:]
	return n, nil
}

func (s *slowReader) Close() error { close(s.closed); return nil }

func TestReadBody(t *testing.T) {
	type result struct {
		whole, rest string
		reason, err string
	}
	f := func(want result, pause time.Duration, end error, limit int64, chunks ...string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			t.Helper()
			body := &slowReader{chunks: chunks, pause: pause, err: end, closed: make(chan struct{})}
			whole, rest, reason, err := readBody(t.Context(), body, -1, limit)
			got := result{whole: string(whole), reason: string(reason)}
			if err != nil {
				got.err = err.Error()
			}
			if rest != nil {
				b, err := io.ReadAll(rest)
				got.rest = string(b)
				if err != nil {
					got.err = err.Error()
				}
				rest.Close()
			}
			if got != want {
				t.Errorf("pause %v, limit %d, %q: %+v; want %+v", pause, limit, chunks, got, want)
			}
			select {
			case <-body.closed:
			default:
				t.Error("the body was left open")
			}
		})
	}
	broken := errors.New("broken")
	f(result{whole: "abc"}, 0, io.EOF, 3, "a", "b", "c")
	f(result{rest: "abc", reason: "too-large"}, 0, io.EOF, 2, "a", "b", "c")
	f(result{rest: "abcd", reason: "too-large"}, 0, io.EOF, 1, "ab", "cd")
	f(result{err: "broken"}, 0, broken, 3, "a", "b")
	f(result{rest: "abc", reason: "too-large", err: "broken"}, 0, broken, 2, "abc")
	f(result{whole: "abc"}, 300*time.Millisecond, io.EOF, 9, "a", "bc")
	f(result{rest: "abc", reason: "streaming"}, 300*time.Millisecond, io.EOF, 9, "a", "b", "c")
	f(result{rest: "a", reason: "streaming", err: "broken"}, 700*time.Millisecond, broken, 9, "a")
	f(result{}, 0, io.EOF, 9)
}
