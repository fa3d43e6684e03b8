package stats

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
	"github.com/freshetdev/freshet/observe"
)

func TestSummaryText(t *testing.T) {
	f := func(want, advice string, play func(*Stats)) {
		t.Helper()
		s := new(Stats)
		play(s)
		if got := s.Summary().Text(advice); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	done := func(s *Stats, n int, x proxy.Exchange) {
		for range n {
			s.Done(x)
		}
	}
	get := func(path string, o proxy.Outcome, took time.Duration) proxy.Exchange {
		return proxy.Exchange{Method: "GET", Path: path, Outcome: o, Took: took, Stored: o == proxy.Miss}
	}
	ms := time.Millisecond

	f("no requests\n", "", func(*Stats) {})

	f("1 request · 0 % hits · origin calls 1 instead of 1\n", "", func(s *Stats) {
		done(s, 1, get("/a", proxy.Miss, 250*ms))
		s.Origin(250*ms, nil)
	})

	f(`61 requests · 82 % hits · origin calls 11 instead of 61 · hit p50 0.08 ms, miss 250 ms · saved 12.5 s
  most missed: GET /search 6 times (query "ts" differs every time)
               GET /a 2 times
  next:        freshet init
`, "freshet init", func(s *Stats) {
		done(s, 50, get("/a", proxy.Hit, 80*time.Microsecond))
		done(s, 2, get("/a", proxy.Miss, 250*ms))
		done(s, 1, get("/b", proxy.Miss, 250*ms))
		for i := range 6 {
			x := get("/search", proxy.Miss, 250*ms)
			x.Query = fmt.Sprintf("q=shoes&ts=%d", i)
			s.Done(x)
		}
		done(s, 2, proxy.Exchange{Method: "PUT", Path: "/a", Outcome: proxy.Pass, Reason: proxy.ReasonMethod, Took: ms})
		for range 11 {
			s.Origin(ms, nil)
		}
	})

	f(`12 requests · 17 % hits · origin calls 3 instead of 12 · hit p50 0.99 ms, miss 100 ms · saved 198 ms · 1 shared a load · 1 served stale · 1 error
  not stored:  7 × answer has Set-Cookie
               1 × request has Authorization
`, "", func(s *Stats) {
		done(s, 1, get("/a", proxy.Hit, ms))
		done(s, 1, get("/a", proxy.Stale, ms))
		joined := get("/a", proxy.Miss, 100*ms)
		joined.Joined = true
		done(s, 1, joined)
		done(s, 7, proxy.Exchange{Method: "GET", Path: "/c", Outcome: proxy.Pass, Reason: proxy.ReasonSetCookie, Took: 100 * ms})
		done(s, 1, proxy.Exchange{Method: "GET", Path: "/c", Outcome: proxy.Pass, Reason: proxy.ReasonAuthorization, Took: 100 * ms})
		done(s, 1, proxy.Exchange{Method: "GET", Path: "/d", Outcome: proxy.Error, Reason: proxy.ReasonUnreachable})
		for range 3 {
			s.Origin(ms, nil)
		}
	})

	// Those over a limit are no misses, and no matter for the cache.
	f("30 requests · 90 % hits · origin calls 1 instead of 30 · hit p50 0.99 ms, miss 100 ms · saved 891 ms · 20 over a limit\n", "", func(s *Stats) {
		done(s, 9, get("/a", proxy.Hit, ms))
		done(s, 1, get("/a", proxy.Miss, 100*ms))
		done(s, 20, proxy.Exchange{Method: "GET", Path: "/a", Outcome: proxy.Limit, Reason: proxy.ReasonOverLimit, Took: ms})
		s.Origin(ms, nil)
	})
	f("2 requests · 100 % hits · origin calls 3 instead of 2 · hit p50 0.99 ms · saved 0.00 ms · 2 served stale · 2 refreshes failed\n", "", func(s *Stats) {
		done(s, 2, get("/a", proxy.Stale, ms))
		for _, err := range []error{errors.New("down"), errors.New("down"), nil} {
			s.Origin(ms, err)
			s.Refreshed(proxy.Refresh{Err: err})
		}
	})
	f("1 request · 0 % hits · origin calls 0 instead of 1 · 1 over a limit\n", "", func(s *Stats) {
		done(s, 1, proxy.Exchange{Method: "GET", Path: "/a", Outcome: proxy.Limit, Reason: proxy.ReasonOverLimit})
	})
}

func TestSummaryTextShed(t *testing.T) {
	s := Summary{Requests: 5, Errors: 2, Origin: 3, Shed: 2, Limit: 24}
	if got, want := s.Text(""), "5 requests · 0 % hits · origin calls 3 instead of 5 · 2 errors · 2 shed (limit 24 at a time)\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNothingStored(t *testing.T) {
	s := new(Stats)
	f := func(want observe.Reason, x proxy.Exchange) {
		t.Helper()
		s.Done(x)
		if got := s.NothingStored(); got != want {
			t.Errorf("after %+v: %q; want %q", x, got, want)
		}
	}
	cookie := proxy.Exchange{Outcome: proxy.Miss, Reason: proxy.ReasonSetCookie}
	f("", proxy.Exchange{Outcome: proxy.Pass, Reason: proxy.ReasonMethod})
	f("", cookie)
	f("", proxy.Exchange{Outcome: proxy.Pass, Reason: proxy.ReasonCookie})
	f(proxy.ReasonSetCookie, cookie)
	f("", cookie) // once is enough

	s = new(Stats)
	f("", proxy.Exchange{Outcome: proxy.Miss, Stored: true})
	for range 5 {
		f("", cookie)
	}
}

func TestNoisyParameter(t *testing.T) {
	f := func(want string, queries ...string) {
		t.Helper()
		var q queryStats
		for _, s := range queries {
			q.add(s)
		}
		if got := q.noisy(); got != want {
			t.Errorf("%q: %q; want %q", queries, got, want)
		}
	}
	f("")
	f("", "a=1", "a=2", "a=3") // too few to tell
	f("a", "a=1", "a=2", "a=3", "a=4", "a=5")
	f("a", "b=1&a=1", "b=1&a=2", "a=3&b=1", "a=4", "a=5&b=1")
	f("", "a=1&b=1", "a=2&b=2", "a=3&b=3", "a=4&b=4", "a=5&b=5") // which one?
	f("", "a=1", "a=1", "a=2", "a=2", "a=1")
	f("", "", "", "", "", "")
}
