package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
	"github.com/freshetdev/freshet/observe"
)

var at = time.Date(2026, 11, 22, 20, 41, 7, 0, time.UTC)

func TestLine(t *testing.T) {
	f := func(want string, x proxy.Exchange) {
		t.Helper()
		x.Time, x.Query = at, "token=secret"
		if got := line(x, false); got != want+"\n" {
			t.Errorf("got  %swant %s", got, want)
		}
	}
	s, ms := time.Second, time.Millisecond
	f("20:41:07 GET /products/42?…           200  miss    251 ms  stored 30s",
		proxy.Exchange{Method: "GET", Path: "/products/42", Status: 200, Outcome: proxy.Miss, Took: 251 * ms, Stored: true, TTL: 30 * s, Reason: observe.ReasonAbsent})
	f("20:41:07 GET /products/42?…           200  miss    251 ms  stored 30s, shared a load",
		proxy.Exchange{Method: "GET", Path: "/products/42", Status: 200, Outcome: proxy.Miss, Took: 251 * ms, Stored: true, Joined: true, TTL: 30 * s})
	f("20:41:07 GET /products/42?…           200  hit    0.08 ms  age 2s",
		proxy.Exchange{Method: "GET", Path: "/products/42", Status: 200, Outcome: proxy.Hit, Took: 80 * time.Microsecond, Age: 2 * s})
	f("20:41:07 GET /products/42?…           200  stale  0.08 ms  stale since 12s: refreshing",
		proxy.Exchange{Method: "GET", Path: "/products/42", Status: 200, Outcome: proxy.Stale, Took: 80 * time.Microsecond, TTL: -12 * s, Reason: proxy.ReasonWhileRevalidate})
	f("20:41:07 PUT /products/42?…           200  pass     38 ms  dropped /products/42 (1.0 ms)",
		proxy.Exchange{Method: "PUT", Path: "/products/42", Status: 200, Outcome: proxy.Pass, Took: 38 * ms, Reason: proxy.ReasonMethod, Dropped: "/products/42", DropTook: ms})
	f("20:41:07 PUT /products/42?…           200  pass     38 ms  dropped /products/42 (1.0 ms), but Redis is away",
		proxy.Exchange{Method: "PUT", Path: "/products/42", Status: 200, Outcome: proxy.Pass, Took: 38 * ms, Dropped: "/products/42", DropTook: ms, DropErr: errors.New("Redis is away")})
	f("20:41:07 PUT /products/42?…           502  error    38 ms  upstream broke the connection: EOF, dropped /products/42 (1.0 ms)",
		proxy.Exchange{Method: "PUT", Path: "/products/42", Status: 502, Outcome: proxy.Error, Took: 38 * ms, Reason: proxy.ReasonAborted, Err: io.EOF, Dropped: "/products/42", DropTook: ms})
	f("20:41:07 OPTIONS /?…                  204  pass    1.0 ms",
		proxy.Exchange{Method: "OPTIONS", Path: "/", Status: 204, Outcome: proxy.Pass, Took: ms, Reason: proxy.ReasonMethod})
	f("20:41:07 GET /me?…                    200  pass     12 ms  not stored: request has Authorization",
		proxy.Exchange{Method: "GET", Path: "/me", Status: 200, Outcome: proxy.Pass, Took: 12 * ms, Reason: proxy.ReasonAuthorization})
	f("20:41:07 GET /me?…                    200  miss    1.25 s  not stored: answer has Set-Cookie",
		proxy.Exchange{Method: "GET", Path: "/me", Status: 200, Outcome: proxy.Miss, Took: 1250 * ms, Reason: proxy.ReasonSetCookie})
	f("20:41:07 GET /me?…                    429  limit  0.01 ms  over the limit ip-s x-api-key-d",
		proxy.Exchange{Method: "GET", Path: "/me", Status: 429, Outcome: proxy.Limit, Took: 10 * time.Microsecond, Reason: proxy.ReasonOverLimit, Limits: []string{"ip-s", "x-api-key-d"}})
	f("20:41:07 GET /me?…                    503  limit  0.01 ms  the store of limits did not answer ip-s",
		proxy.Exchange{Method: "GET", Path: "/me", Status: 503, Outcome: proxy.Limit, Took: 10 * time.Microsecond, Reason: proxy.ReasonLimitStore, Limits: []string{"ip-s"}})
	f("20:41:07 GET /me?…                    502  error   1.0 ms  upstream is unreachable: connection refused",
		proxy.Exchange{Method: "GET", Path: "/me", Status: 502, Outcome: proxy.Error, Took: ms, Reason: proxy.ReasonUnreachable, Err: errors.New("connection refused")})
	f("20:41:07 GET /me?…                    499  error   1.0 ms  client left",
		proxy.Exchange{Method: "GET", Path: "/me", Status: 499, Outcome: proxy.Error, Took: ms, Reason: proxy.ReasonClientGone, Err: errors.New("context canceled")})
	f("20:41:07 GET /big?…                   200  pass     12 ms  broke off after 3.5 KiB",
		proxy.Exchange{Method: "GET", Path: "/big", Status: 200, Outcome: proxy.Pass, Took: 12 * ms, Bytes: 3584, Aborted: true})
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	l := New(&b, Auto) // a buffer is no terminal
	l.Request(proxy.Exchange{
		Time: at, Method: "GET", Path: "/a", Query: "token=secret", Status: 200, Outcome: proxy.Stale, Took: 1500 * time.Microsecond,
		Age: 31 * time.Second, TTL: -time.Second, Reason: proxy.ReasonIfError, Err: errors.New("refused"), Bytes: 7,
	})
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%s: %v", &b, err)
	}
	delete(got, "time")
	text, _ := json.Marshal(got)
	want := `{"age_ms":31000,"bytes":7,"cache":{"reason":"stale-if-error","status":"stale"},"error":"refused","level":"WARN","method":"GET","msg":"request","path":"/a","query":true,"status":200,"took_ms":1.5,"ttl_ms":-1000}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestOff(t *testing.T) {
	var b bytes.Buffer
	l := New(&b, Off)
	l.Request(proxy.Exchange{Method: "GET"})
	if b.Len() > 0 {
		t.Errorf("a line: %s", &b)
	}
	l.Warn("careful", "why", "x")
	if !strings.Contains(b.String(), "careful") {
		t.Errorf("no warning: %s", &b)
	}
}

func TestUnits(t *testing.T) {
	f := func(want string, d time.Duration) {
		t.Helper()
		if got := Short(d); got != want {
			t.Errorf("%d: %q; want %q", d, got, want)
		}
	}
	f("0.00 ms", 0)
	f("0.08 ms", 80*time.Microsecond)
	f("3.2 ms", 3200*time.Microsecond)
	f("251 ms", 251*time.Millisecond)
	f("1.25 s", 1250*time.Millisecond)
	f("12.5 s", 12500*time.Millisecond)
	f("2 min 5 s", 125*time.Second)
	f("3 h 12 min", 3*time.Hour+12*time.Minute+30*time.Second)

	b := func(want string, n int64) {
		t.Helper()
		if got := Bytes(n); got != want {
			t.Errorf("%d: %q; want %q", n, got, want)
		}
	}
	b("512 B", 512)
	b("3.5 KiB", 3584)
	b("2 MiB", 2<<20)
}
