package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/limit/overload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A rig is a gateway over real TCP in front of an origin.
type rig struct {
	t         *testing.T
	url       string // of the gateway
	proxy     *Proxy
	cache     *Cache
	client    *http.Client
	calls     *atomic.Int64 // of the origin's handler
	origin    *httptest.Server
	transport *http.Transport

	mu   sync.Mutex
	done []Exchange // guarded by mu
}

type rigOptions struct {
	store   string
	ttl     time.Duration
	grace   time.Duration
	timeout time.Duration
	maxBody int64
	rewrite bool
	path    string // base path of the upstream
	limiter *overload.Limiter
	hooks   Hooks // but Done
}

// newRig starts a gateway in front of origin.
func newRig(t *testing.T, o rigOptions, origin http.HandlerFunc) *rig {
	t.Helper()
	r := &rig{t: t, calls: new(atomic.Int64)}
	r.origin = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.calls.Add(1)
		origin(w, req)
	}))
	t.Cleanup(r.origin.Close)
	u, err := url.Parse(r.origin.URL + o.path)
	if err != nil {
		t.Fatal(err)
	}
	r.start(o, u)
	return r
}

func (r *rig) start(o rigOptions, upstream *url.URL) {
	t := r.t
	t.Helper()
	if o.store == "" {
		o.store = "memory:"
	}
	if o.ttl == 0 {
		o.ttl = 30 * time.Second
	}
	if o.timeout == 0 {
		o.timeout = 10 * time.Second
	}
	engine, err := freshet.Open(t.Context(), o.store, freshet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	r.cache, err = NewCache(engine, CacheOptions{TTL: o.ttl, Grace: o.grace, Timeout: o.timeout})
	if err != nil {
		t.Fatal(err)
	}
	o.hooks.Done = func(x Exchange) {
		r.mu.Lock()
		r.done = append(r.done, x)
		r.mu.Unlock()
	}
	transport := NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	r.proxy, err = New(Options{
		Cache: r.cache, Upstream: upstream, TTL: o.ttl, MaxBody: o.maxBody, RewriteHost: o.rewrite, Transport: transport, Overload: o.limiter, Hooks: o.hooks,
	})
	if err != nil {
		t.Fatal(err)
	}
	gateway := httptest.NewServer(r.proxy)
	t.Cleanup(gateway.Close)
	r.url = gateway.URL
	r.transport = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100}
	t.Cleanup(r.transport.CloseIdleConnections)
	r.client = &http.Client{Transport: r.transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// A reply is a response with its body read.
type reply struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

// cacheStatus is the Cache-Status, but for a second that a busy machine may have lost of 30.
func (r reply) cacheStatus() string {
	return strings.Replace(r.header.Get("Cache-Status"), "ttl=29", "ttl=30", 1)
}

// do sends a request; fields are given as "Name: value".
func (r *rig) do(method, path string, fields ...string) reply {
	r.t.Helper()
	rep, err := r.try(method, path, nil, fields...)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return rep
}

func (r *rig) try(method, path string, body io.Reader, fields ...string) (reply, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, r.url+path, body)
	if err != nil {
		return reply{}, err
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b), err}, nil
}

// get is do for GET that must be answered 200 with the body.
func (r *rig) get(path, body, cacheStatus string, fields ...string) reply {
	r.t.Helper()
	rep := r.do("GET", path, fields...)
	if rep.status != 200 || rep.body != body || rep.cacheStatus() != cacheStatus {
		r.t.Errorf("GET %s %q: %d %q, Cache-Status %q; want 200 %q, %q", path, fields, rep.status, rep.body, rep.cacheStatus(), body, cacheStatus)
	}
	return rep
}

// asked checks how often the origin was asked so far.
func (r *rig) asked(want int64) {
	r.t.Helper()
	if got := r.calls.Load(); got != want {
		r.t.Errorf("the origin was asked %d times; want %d", got, want)
	}
}

// exchange waits for exchange number n and returns it: the client may be quicker than the hook.
func (r *rig) exchange(n int) Exchange {
	r.t.Helper()
	for range 500 {
		r.mu.Lock()
		if len(r.done) > n {
			x := r.done[n]
			r.mu.Unlock()
			return x
		}
		r.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("no exchange %d", n)
	return Exchange{}
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

// rawOrigin answers every connection's first request with the given bytes and closes it, as a server that
// crashes would.
func rawOrigin(t *testing.T, answer string) (*url.URL, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	calls := new(atomic.Int64)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				calls.Add(1)
				_, _ = io.WriteString(conn, answer)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return &url.URL{Scheme: "http", Host: l.Addr().String()}, calls
}
