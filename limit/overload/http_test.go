package overload_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit/overload"
)

// roundTrip is a RoundTripper of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// body notes that it was closed.
type body struct {
	io.Reader
	closed bool
}

func (b *body) Close() error { b.closed = true; return nil }

func TestTransportSheds(t *testing.T) {
	l := fixed(t, 1, overload.Options{MaxQueued: -1})
	asked := 0
	rt := l.Transport(roundTrip(func(*http.Request) (*http.Response, error) { asked++; return &http.Response{StatusCode: 200}, nil }), nil)
	release := take(t, l)
	b := &body{Reader: strings.NewReader("x")}
	_, err := rt.RoundTrip(httptest.NewRequest("POST", "/", b))
	if !errors.Is(err, overload.ErrShed) || asked != 0 || !b.closed {
		t.Errorf("%v, asked %d times, body closed: %v; want ErrShed, not asked, closed", err, asked, b.closed)
	}
	release(overload.OK)
	resp, err := rt.RoundTrip(httptest.NewRequest("GET", "/", nil))
	if err != nil || resp.StatusCode != 200 || asked != 1 {
		t.Errorf("%v, %v, asked %d times", resp, err, asked)
	}
	if s := l.Stats(); s.InFlight != 0 { // its body is still open
		t.Errorf("%+v; want nothing in flight after the header", s)
	}
}

func TestTransportPriorities(t *testing.T) {
	l := fixed(t, 1, overload.Options{MaxQueued: -1})
	rt := l.Transport(roundTrip(func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 200}, nil }), func(r *http.Request) overload.Priority {
		return map[string]overload.Priority{"/b": overload.Background, "/c": overload.Critical, "/health": overload.Bypass}[r.URL.Path]
	})
	for path, counts := range map[string]func(overload.Stats) overload.Counts{
		"/b": func(s overload.Stats) overload.Counts { return s.Background },
		"/n": func(s overload.Stats) overload.Counts { return s.Normal },
		"/c": func(s overload.Stats) overload.Counts { return s.Critical },
	} {
		if _, err := rt.RoundTrip(httptest.NewRequest("GET", path, nil)); err != nil {
			t.Error(err)
		}
		if c := counts(l.Stats()); c.Admitted != 1 {
			t.Errorf("%s: %+v; want one admitted", path, l.Stats())
		}
	}
	defer take(t, l)(overload.OK)
	if _, err := rt.RoundTrip(httptest.NewRequest("GET", "/health", nil)); err != nil {
		t.Errorf("Bypass: %v", err)
	}
}

// What the limiter makes of answers shows in the limit after a window of them: it goes down for what was dropped.
func TestTransportOutcomes(t *testing.T) {
	f := func(name string, drops bool, base func(*http.Request) (*http.Response, error)) {
		t.Helper()
		l := newLimiter(t, overload.Options{Initial: 100, Samples: 10})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if name == "client gone" {
			base = func(*http.Request) (*http.Response, error) { cancel(); return nil, context.Canceled }
		}
		rt := l.Transport(roundTrip(base), nil)
		for range 100 {
			if name == "client gone" {
				ctx, cancel = context.WithCancel(t.Context())
			}
			_, _ = rt.RoundTrip(httptest.NewRequest("GET", "/", nil).WithContext(ctx))
			cancelIf(name == "client gone", cancel)
		}
		if s := l.Stats(); (s.Limit < 100) != drops || s.InFlight != 0 {
			t.Errorf("%s: %+v; want a lower limit: %v", name, s, drops)
		}
	}
	status := func(n int) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: n}, nil }
	}
	for n, drops := range map[int]bool{200: false, 404: false, 429: false, 500: false, 502: true, 503: true, 504: true} {
		f(http.StatusText(n), drops, status(n))
	}
	f("refused", true, func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") })
	f("timeout", true, func(*http.Request) (*http.Response, error) { return nil, context.DeadlineExceeded })
	f("client gone", false, nil)
}

func cancelIf(yes bool, cancel func()) {
	if yes {
		cancel()
	}
}

func TestTransportPanics(t *testing.T) {
	l := fixed(t, 1, overload.Options{})
	rt := l.Transport(roundTrip(func(*http.Request) (*http.Response, error) { panic("boom") }), nil)
	func() {
		defer func() { recover() }()
		_, _ = rt.RoundTrip(httptest.NewRequest("GET", "/", nil))
	}()
	if s := l.Stats(); s.InFlight != 0 {
		t.Errorf("%+v; want nothing in flight after a panic", s)
	}
}

// A slow upload says nothing of the origin.
func TestTransportSlowUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var upload time.Duration
		l := newLimiter(t, overload.Options{Initial: 15, Max: 15, MaxQueued: 15, MaxWait: time.Minute})
		rt := l.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(upload)
			httptrace.ContextClientTrace(r.Context()).WroteRequest(httptrace.WroteRequestInfo{}) // as http.Transport does
			time.Sleep(10 * time.Millisecond)
			return &http.Response{StatusCode: 200}, nil
		}), nil)
		round := func() {
			var wg sync.WaitGroup
			for range 15 {
				wg.Go(func() {
					if _, err := rt.RoundTrip(httptest.NewRequest("POST", "/", strings.NewReader("x"))); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		for range 10 {
			round()
		}
		upload = 150 * time.Millisecond
		lowest := 15
		for range 50 {
			round()
			lowest = min(lowest, l.Stats().Limit)
		}
		if lowest < 15 {
			t.Errorf("slow uploads brought the limit from 15 to %d", lowest)
		}
	})
}

func TestHandler(t *testing.T) {
	l := fixed(t, 1, overload.Options{MaxQueued: -1})
	h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("boom")
		}
		if s := l.Stats(); r.URL.Path == "/" && s.InFlight != 1 {
			t.Errorf("%+v in the handler; want one in flight", s)
		}
		w.(http.Flusher).Flush()
	}), func(r *http.Request) overload.Priority {
		if r.URL.Path == "/health" {
			return overload.Bypass
		}
		return overload.Normal
	})
	get := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w
	}
	if w := get("GET", "/"); w.Code != 200 || !w.Flushed {
		t.Errorf("%d, flushed %v", w.Code, w.Flushed)
	}
	func() {
		defer func() { recover() }()
		get("GET", "/panic")
	}()
	release := take(t, l) // or it would be shed, if the panic had kept the place
	w := get("GET", "/")
	resp := w.Result()
	var problem struct {
		Type, Title string
		Status      int
	}
	if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil {
		t.Errorf("%q: %v", w.Body, err)
	}
	after := resp.Header.Get("Retry-After")
	if resp.StatusCode != 503 || problem.Status != 503 || problem.Title == "" ||
		problem.Type != "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity" ||
		resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("Cache-Control") != "no-store" ||
		after != "1" && after != "2" && after != "3" {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, w.Body)
	}
	want := `{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Temporary Reduced Capacity","status":503,` +
		`"detail":"The server can't take the request now; try again in ` + after + ` seconds.","violated-policies":[]}` + "\n"
	if after == "1" {
		want = strings.Replace(want, "seconds", "second", 1)
	}
	if w.Body.String() != want { // that of httplimit
		t.Errorf("%s; want %s", w.Body, want)
	}
	if w := get("HEAD", "/"); w.Code != 503 || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d %q; want 503 without a body", w.Code, w.Body)
	}
	if w := get("GET", "/health"); w.Code != 200 {
		t.Errorf("Bypass: %d", w.Code)
	}
	release(overload.OK)
	if s := l.Stats(); s.InFlight != 0 || s.Normal.Shed != 2 {
		t.Errorf("%+v", s)
	}
}

// What a handler answers says of the origin what an answer to a Transport does.
func TestHandlerOutcomes(t *testing.T) {
	for status, drops := range map[int]bool{0: false, 200: false, 404: false, 500: false, 502: true, 503: true, 504: true} {
		for _, gone := range []bool{false, true} {
			l := newLimiter(t, overload.Options{Initial: 100, Samples: 10})
			var leave context.CancelFunc
			h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if status > 0 {
					w.WriteHeader(http.StatusEarlyHints)
					w.WriteHeader(status)
				}
				if gone {
					leave()
				}
			}), nil)
			for range 100 {
				var ctx context.Context
				ctx, leave = context.WithCancel(t.Context())
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
				leave()
			}
			if s := l.Stats(); (s.Limit < 100) != (drops && !gone) || s.InFlight != 0 {
				t.Errorf("%d, client gone %v: %+v; want a lower limit: %v", status, gone, s, drops && !gone)
			}
		}
	}
}

// A handler may take the connection over in each of the ways that are in use.
func TestHandlerHijacks(t *testing.T) {
	l := fixed(t, 1, overload.Options{})
	h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hijack := http.NewResponseController(w).Hijack
		if r.URL.Path == "/old" {
			hijack = w.(http.Hijacker).Hijack
		}
		conn, rw, err := hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		_ = rw.Flush()
	}), nil)
	server := httptest.NewServer(h)
	defer server.Close()
	for _, path := range []string{"/", "/old"} {
		resp, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Errorf("%s: %d; want what the handler wrote", path, resp.StatusCode)
		}
	}
	plain := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, _, err := w.(http.Hijacker).Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("%v; want http.ErrNotSupported", err)
		}
	}), nil)
	plain.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}
