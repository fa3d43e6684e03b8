package proxy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
)

// BenchmarkHit is a hit without the network: judging, key, lookup, header and body.
func BenchmarkHit(b *testing.B) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, strings.Repeat("x", 1024))
	}))
	defer origin.Close()
	engine, err := freshet.Open(b.Context(), "memory:", freshet.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	cache, err := NewCache(engine, CacheOptions{TTL: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	u, _ := url.Parse(origin.URL)
	transport := NewTransport()
	defer transport.CloseIdleConnections()
	p, err := New(Options{Cache: cache, Upstream: u, TTL: time.Hour, Transport: transport})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest("GET", "http://api.example/users/1?full=1", nil)
	for _, f := range []string{"Accept", "Accept-Language", "User-Agent", "Accept-Encoding"} {
		r.Header.Set(f, "x")
	}
	w := &discard{header: http.Header{}}
	p.ServeHTTP(w, r)
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		p.ServeHTTP(w, r)
	}
	if got := w.header.Get("Cache-Status"); !strings.Contains(got, "hit") {
		b.Fatalf("not a hit: %q", got)
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
