package httplimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/memlimit"
)

// A shaky store can be away. It isn't in this process, as far as the Limiter knows.
type shaky struct {
	*memlimit.Store
	away  atomic.Bool
	apart bool // each policy has a slot of its own
}

var errAway = errors.New("connection refused")

func (s *shaky) Traits() limit.Traits { return limit.Traits{KeepsDeadline: true} }

func (s *shaky) Slot(p *limit.Policy, key string) int {
	if s.apart {
		return int(p.Name()[0])
	}
	return s.Store.Slot(p, key)
}

// err is also that of a caller who left, as it would be over a network.
func (s *shaky) err(ctx context.Context) error {
	if s.away.Load() {
		return errAway
	}
	return ctx.Err()
}

func (s *shaky) Take(ctx context.Context, c limit.Charge) (limit.Status, error) {
	if err := s.err(ctx); err != nil {
		return limit.Status{}, err
	}
	return s.Store.Take(ctx, c)
}

func (s *shaky) TakeAll(ctx context.Context, c []limit.Charge, out []limit.Status) error {
	if err := s.err(ctx); err != nil {
		return err
	}
	return s.Store.TakeAll(ctx, c, out)
}

func (s *shaky) Adjust(ctx context.Context, a []limit.Adjustment, out []limit.Status) error {
	if err := s.err(ctx); err != nil {
		return err
	}
	return s.Store.Adjust(ctx, a, out)
}

func (s *shaky) Renew(ctx context.Context, p *limit.Policy, key string, id limit.ID) error {
	if err := s.err(ctx); err != nil {
		return err
	}
	return s.Store.Renew(ctx, p, key, id)
}

func (s *shaky) Release(ctx context.Context, p *limit.Policy, key string, id limit.ID) error {
	if err := s.err(ctx); err != nil {
		return err
	}
	return s.Store.Release(ctx, p, key, id)
}

// A rig is a handler behind a Middleware.
type rig struct {
	t       testing.TB
	store   *shaky
	limiter *limit.Limiter
	limits  []Limit
	handler http.Handler
	served  atomic.Int64
	lost    atomic.Int64

	mu   sync.Mutex
	told []error // by Hooks.Failed; guarded by mu
}

func newRig(t testing.TB, o Options, lo limit.Options, handler http.HandlerFunc) *rig {
	t.Helper()
	g := &rig{t: t, store: &shaky{Store: memlimit.New(memlimit.Options{})}, limits: o.Limits}
	l, err := limit.New(g.store, lo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	g.limiter = l
	if o.Hooks.Failed == nil {
		o.Hooks.Failed = func(_ *http.Request, err error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.told = append(g.told, err)
		}
	}
	if o.Hooks.Lost == nil {
		o.Hooks.Lost = func(*http.Request, limit.Decision) { g.lost.Add(1) }
	}
	m, err := New(l, o)
	if err != nil {
		t.Fatal(err)
	}
	if handler == nil {
		handler = func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }
	}
	g.handler = m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.served.Add(1)
		handler(w, r)
	}))
	return g
}

// failed are the failures that were told of.
func (g *rig) failed() []error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.told)
}

// send answers r, and checks the answer.
func (g *rig) send(r *http.Request) *httptest.ResponseRecorder {
	g.t.Helper()
	w := httptest.NewRecorder()
	g.handler.ServeHTTP(w, r)
	if err := checkAnswer(r.Method, w.Code, w.Header(), w.Body.Bytes()); err != nil {
		g.t.Errorf("%s: %d: %v", r.Method, w.Code, err)
	}
	return w
}

// is sends a request of a client, and checks status and header fields, each "Name: value" or "Name:" for none.
func (g *rig) is(status int, key string, fields ...string) *httptest.ResponseRecorder {
	g.t.Helper()
	w := g.send(from("192.0.2.1:1", "Key: "+key))
	g.has(w, status, fields...)
	return w
}

func (g *rig) has(w *httptest.ResponseRecorder, status int, fields ...string) {
	g.t.Helper()
	if w.Code != status {
		g.t.Errorf("status %d: %s; want %d", w.Code, w.Body, status)
	}
	for _, f := range fields {
		name, want, _ := strings.Cut(f, ":")
		if got := strings.Join(w.Header()[http.CanonicalHeaderKey(name)], ", "); got != strings.TrimSpace(want) {
			g.t.Errorf("%s: %q; want %q", name, got, strings.TrimSpace(want))
		}
	}
}

func policy(name string, s limit.Spec) *limit.Policy { return limit.MustPolicy(name, s) }

// byKey counts by a field that stands for anything that was verified.
func byKey(r *http.Request) (string, bool) {
	key := r.Header.Get("Key")
	return key, key != ""
}

func TestDraftFields(t *testing.T) {
	f := func(wantPolicy, wantLimit string, s limit.Spec, unit string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, Options{Limits: []Limit{{Policy: policy("p", s), Unit: unit}}}, limit.Options{}, nil)
			g.is(200, "", "RateLimit-Policy: "+wantPolicy, "RateLimit: "+wantLimit, "Retry-After:", "X-RateLimit-Limit:", "Cache-Control:")
		})
	}
	f(`"p";q=100;w=60`, `"p";r=99;t=1`, limit.Spec{Limit: 100, Period: time.Minute}, "")
	f(`"p";q=100;w=60`, `"p";r=99;t=1`, limit.Spec{Limit: 100, Period: time.Minute}, "requests")
	f(`"p";q=100;w=60;freshet-burst=20`, `"p";r=19;t=1`, limit.Spec{Limit: 100, Period: time.Minute, Burst: 20}, "")
	f(`"p";q=10;w=3600`, `"p";r=9;t=360`, limit.Spec{Limit: 10, Period: time.Hour}, "")
	f(`"p";q=100;w=60`, `"p";r=99;t=60`, limit.Spec{Kind: limit.Strict, Limit: 100, Period: time.Minute}, "")
	f(`"p";q=100;w=86400;qu="content-bytes"`, `"p";r=99;t=86400`, limit.Spec{Kind: limit.Fixed, Limit: 100, Calendar: limit.Day}, "content-bytes") // the bubble begins at midnight
	f(`"p";q=100;w=604800`, `"p";r=99;t=172800`, limit.Spec{Kind: limit.Fixed, Limit: 100, Calendar: limit.Week}, "")                              // on a Saturday
	f(`"p";q=100`, `"p";r=99;t=2678400`, limit.Spec{Kind: limit.Fixed, Limit: 100, Calendar: limit.Month}, "")
	f(`"p";q=4;qu="concurrent-requests"`, `"p";r=3`, limit.Spec{Kind: limit.Concurrency, Limit: 4}, "")

	// No fractions of seconds: the shortest multiple.
	f(`"p";q=50;w=1`, `"p";r=4;t=1`, limit.Spec{Kind: limit.Strict, Limit: 5, Period: 100 * time.Millisecond}, "")
	f(`"p";q=4;w=3;freshet-burst=1`, `"p";r=0;t=1`, limit.Spec{Limit: 2, Period: 1500 * time.Millisecond, Burst: 1}, "")
	f(`"p";q=5`, `"p";r=4;t=2`, limit.Spec{Kind: limit.Strict, Limit: 5, Period: time.Second + time.Microsecond}, "")

	// Integers of structured fields have 15 digits at most.
	f(`"p";q=999999999999999;w=1`, `"p";r=999999999999999;t=2`, limit.Spec{Kind: limit.Strict, Limit: limit.MaxUnits, Period: time.Second}, "")
	f(`"p";q=999999999999999`, `"p";r=999999999999999;t=1`, limit.Spec{Kind: limit.Strict, Limit: limit.MaxUnits, Period: time.Millisecond}, "")
}

func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy("per-key", limit.Spec{Limit: 2, Period: 10 * time.Second})
		g := newRig(t, Options{Limits: []Limit{{Policy: p, By: byKey}}}, limit.Options{}, nil)
		g.is(200, "a", `RateLimit: "per-key";r=1;t=5`)
		time.Sleep(time.Millisecond)
		g.is(200, "a", `RateLimit: "per-key";r=0;t=5`) // 4.999 s
		w := g.is(429, "a", `RateLimit: "per-key";r=0;t=5`, `RateLimit-Policy: "per-key";q=2;w=10`, "Retry-After: 5",
			"Cache-Control: no-store", "Content-Type: application/problem+json")
		const want = `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":429,` +
			`"detail":"There is no room left in limit per-key; try again in 5 seconds.","violated-policies":["per-key"]}` + "\n"
		if w.Body.String() != want {
			t.Errorf("got  %swant %s", w.Body, want)
		}
		g.is(200, "b", `RateLimit: "per-key";r=1;t=5`) // another client
		time.Sleep(5*time.Second - 2*time.Millisecond)
		g.is(429, "a", "Retry-After: 1") // 1 ms; never 0
		time.Sleep(time.Millisecond)
		g.is(200, "a", "Retry-After:")
		if n := g.served.Load(); n != 4 {
			t.Errorf("the handler ran %d times; want 4", n)
		}
	})
}

// Who waits as long as Retry-After says is admitted; who waits as long as t says finds more.
func TestWaitsAreKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom([]limit.Kind{limit.GCRA, limit.Strict, limit.Fixed}).Draw(rt, "kind")
		spec := func(name string) limit.Spec {
			s := limit.Spec{Kind: kind, Limit: rapid.Int64Range(1, 300).Draw(rt, name), Period: time.Duration(rapid.Int64Range(1000, 40_000_000).Draw(rt, name+" µs")) * time.Microsecond}
			if kind == limit.GCRA {
				s.Burst = rapid.Int64Range(1, 50).Draw(rt, name+" burst")
			}
			return s
		}
		o := Options{
			Limits: []Limit{{Policy: policy("one", spec("one"))}, {Policy: policy("two", spec("two"))}},
			Jitter: time.Duration(rapid.IntRange(0, 3).Draw(rt, "jitter")) * time.Second,
		}
		var cost int64
		most := min(o.Limits[0].Policy.Rule().Most(), o.Limits[1].Policy.Rule().Most())
		for i := range o.Limits {
			o.Limits[i].Cost = func(*http.Request) int64 { return cost }
		}
		start := time.Duration(rapid.Int64Range(0, 1e9).Draw(rt, "start"))
		steps := rapid.SliceOfN(rapid.Int64Range(0, 1<<20), 10, 20).Draw(rt, "steps")
		var complaint string // rapid's own Fatalf is for its goroutine only
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(start)
			g := newRig(t, o, limit.Options{}, nil)
			for i, n := range steps {
				time.Sleep(time.Duration(n) * time.Microsecond)
				cost = n%most + 1
				w := g.send(from("192.0.2.1:1"))
				if w.Code == 200 {
					continue
				}
				if i%2 == 0 {
					waits, _ := checkLimits(w.Header()["Ratelimit"], []string{"one", "two"})
					for name, wait := range waits {
						before := g.remaining(name)
						time.Sleep(time.Duration(wait) * time.Second)
						if now := g.remaining(name); now <= before {
							complaint = fmt.Sprintf("%s: %d units left after t=%d; want more than %d", name, now, wait, before)
							return
						}
						break // the other may have changed meanwhile
					}
				}
				var after int64
				fmt.Sscan(w.Header().Get("Retry-After"), &after)
				time.Sleep(time.Duration(after) * time.Second)
				if w := g.send(from("192.0.2.1:1")); w.Code != 200 {
					complaint = fmt.Sprintf("refused after Retry-After %d: %v %s", after, w.Header(), w.Body)
					return
				}
			}
		})
		if complaint != "" {
			rt.Fatal(complaint)
		}
	})
}

// remaining is how much of a limit is left, for all together.
func (g *rig) remaining(name string) int64 {
	g.t.Helper()
	for _, lim := range g.limits {
		if lim.Policy.Name() == name {
			d, err := g.limiter.Peek(context.Background(), limit.Request{Policy: lim.Policy})
			if err != nil {
				g.t.Fatal(err)
			}
			return d.Remaining
		}
	}
	g.t.Fatalf("no limit %q", name)
	return 0
}

// Jitter is only ever added, at most doubles, and leaves Retry-After no earlier than t (which send checks).
func TestJitter(t *testing.T) {
	f := func(jitter, period time.Duration, least, most int64) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := policy("p", limit.Spec{Kind: limit.Strict, Limit: 1, Period: period})
			g := newRig(t, Options{Limits: []Limit{{Policy: p}}, Jitter: jitter, Headers: HeadersBoth, LegacyReset: ResetDelta}, limit.Options{}, nil)
			g.is(200, "")
			seen := map[int64]bool{}
			for range 500 {
				w := g.is(429, "")
				var again, reset int64
				fmt.Sscan(w.Header().Get("Retry-After"), &again)
				fmt.Sscan(w.Header().Get("X-RateLimit-Reset"), &reset)
				if again < least || again > most || reset != again {
					t.Fatalf("jitter %v of %v: Retry-After %d, X-RateLimit-Reset %d; want the same, %d to %d", jitter, period, again, reset, least, most)
				}
				seen[again] = true
			}
			if want := most - least; int64(len(seen)) < want {
				t.Errorf("jitter %v of %v: %d values; want about %d", jitter, period, len(seen), want)
			}
		})
	}
	f(0, time.Minute, 60, 60)
	f(10*time.Second, time.Minute, 60, 70)
	f(time.Hour, 4*time.Second, 4, 8)
}

func TestLegacyFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond) // 2000-01-01 00:00:00.3 UTC
		limits := []Limit{
			{Policy: policy("burst", limit.Spec{Limit: 60, Period: time.Minute, Burst: 3}), By: byKey},
			{Policy: policy("day", limit.Spec{Kind: limit.Fixed, Limit: 50, Calendar: limit.Day}), By: byKey},
			{Policy: policy("watched", limit.Spec{Limit: 1, Period: time.Hour, Shadow: true}), By: byKey},
		}
		g := newRig(t, Options{Limits: limits, Headers: HeadersLegacy}, limit.Options{}, nil)
		g.is(200, "a", "X-RateLimit-Limit: 3", "X-RateLimit-Remaining: 2", "X-RateLimit-Reset: 946684802", "RateLimit:", "RateLimit-Policy:", "Retry-After:")
		g.is(200, "a", "X-RateLimit-Limit: 3", "X-RateLimit-Remaining: 1", "X-RateLimit-Reset: 946684803")
		g.is(200, "a", "X-RateLimit-Remaining: 0")
		g.is(429, "a", "X-RateLimit-Limit: 3", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 946684804", "Retry-After: 1", "RateLimit:")

		g = newRig(t, Options{Limits: limits, Headers: HeadersBoth, LegacyReset: ResetDelta}, limit.Options{}, nil)
		g.is(200, "a", "X-RateLimit-Reset: 1", `RateLimit: "burst";r=2;t=1, "day";r=49;t=86400`)

		g = newRig(t, Options{Limits: limits, Headers: HeadersNone}, limit.Options{}, nil)
		for range 3 {
			g.is(200, "a", "X-RateLimit-Limit:", "RateLimit:", "RateLimit-Policy:")
		}
		g.is(429, "a", "X-RateLimit-Limit:", "RateLimit:", "RateLimit-Policy:", "Retry-After: 1")

		// When a place becomes free nobody knows.
		g = newRig(t, Options{Limits: []Limit{{Policy: policy("at-once", limit.Spec{Kind: limit.Concurrency, Limit: 2})}}, Headers: HeadersLegacy}, limit.Options{}, nil)
		g.is(200, "a", "X-RateLimit-Limit: 2", "X-RateLimit-Remaining: 1", "X-RateLimit-Reset:")
	})
}

func TestSeveralLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Options{Limits: []Limit{
			{Policy: policy("second", limit.Spec{Limit: 2, Period: time.Second}), By: byKey},
			{Policy: policy("day", limit.Spec{Kind: limit.Strict, Limit: 3, Period: 24 * time.Hour}), By: byKey},
			{Policy: policy("writes", limit.Spec{Limit: 1, Period: time.Minute}), When: func(r *http.Request) bool { return r.Method == "PUT" }},
		}}, limit.Options{}, nil)
		g.is(200, "a", `RateLimit: "second";r=1;t=1, "day";r=2;t=86400`, `RateLimit-Policy: "second";q=2;w=1, "day";q=3;w=86400`)
		g.is(200, "a", `RateLimit: "second";r=0;t=1, "day";r=1;t=86400`)
		// The refused request took nothing of the day. Its t would be after Retry-After, which the draft doesn't want.
		w := g.is(429, "a", "Retry-After: 1", `RateLimit: "second";r=0;t=1, "day";r=1`)
		if !strings.Contains(w.Body.String(), `"violated-policies":["second"]`) {
			t.Errorf("body %s; want only second violated", w.Body)
		}
		time.Sleep(time.Second)
		g.is(200, "a", `RateLimit: "second";r=1;t=1, "day";r=0;t=86399`)
		w = g.is(429, "a", "Retry-After: 86399", `RateLimit: "second";r=1;t=1, "day";r=0;t=86399`)
		if !strings.Contains(w.Body.String(), `"violated-policies":["day"]`) {
			t.Errorf("body %s; want only day violated", w.Body)
		}
		time.Sleep(time.Second)
		put := from("192.0.2.1:1", "Key: b")
		put.Method = "PUT"
		g.has(g.send(put), 200, `RateLimit: "second";r=1;t=1, "day";r=2;t=86400, "writes";r=0;t=60`)
		w = g.send(put)
		g.has(w, 429, "Retry-After: 60", `RateLimit: "second";r=1;t=1, "day";r=2, "writes";r=0;t=60`)
		g.is(200, "b") // reads go on
	})
}

// A limit that was not asked, since one before it refused, has no numbers and refused nothing.
func TestNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Options{Headers: HeadersBoth, Limits: []Limit{
			{Policy: policy("a", limit.Spec{Limit: 1, Period: time.Minute})}, {Policy: policy("b", limit.Spec{Limit: 2, Period: time.Minute})},
		}}, limit.Options{}, nil)
		g.store.apart = true
		g.is(200, "", `RateLimit: "a";r=0;t=60, "b";r=1;t=30`)
		w := g.is(429, "", `RateLimit: "a";r=0;t=60`, `RateLimit-Policy: "a";q=1;w=60, "b";q=2;w=60`, "X-RateLimit-Limit: 1", "Retry-After: 60")
		if !strings.Contains(w.Body.String(), `"violated-policies":["a"]`) {
			t.Errorf("body %s; want a alone", w.Body)
		}
	})
}

func TestMissingIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := limit.Spec{Limit: 1, Period: time.Minute}
		g := newRig(t, Options{Limits: []Limit{{Policy: policy("by-key", one), By: byKey}}}, limit.Options{}, nil)
		w := g.is(400, "", "RateLimit:", "RateLimit-Policy:", "Retry-After:", "Content-Type: application/problem+json")
		const want = `{"type":"about:blank","title":"Bad Request","status":400,"detail":"The request lacks what limit by-key identifies clients by."}` + "\n"
		if w.Body.String() != want {
			t.Errorf("got  %swant %s", w.Body, want)
		}
		if g.served.Load() != 0 {
			t.Error("the handler ran for a request without identity")
		}

		g = newRig(t, Options{Limits: []Limit{{Policy: policy("by-key", one), By: byKey, Missing: Share}}}, limit.Options{}, nil)
		g.is(200, "")
		g.is(429, "")
		g.is(200, "a")

		g = newRig(t, Options{Limits: []Limit{{Policy: policy("by-key", one), By: byKey, Missing: Exempt}, {Policy: policy("all", limit.Spec{Limit: 3, Period: time.Minute})}}}, limit.Options{}, nil)
		g.is(200, "", `RateLimit-Policy: "all";q=3;w=60`)
		g.is(200, "", `RateLimit: "all";r=1;t=20`)
		g.is(200, "a", `RateLimit: "by-key";r=0;t=60, "all";r=0;t=20`)
		g = newRig(t, Options{Limits: []Limit{{Policy: policy("by-key", one), By: byKey, Missing: Exempt}}}, limit.Options{}, nil)
		g.is(200, "", "RateLimit-Policy:") // nothing to decide

		// A policy in shadow mode refuses nothing.
		shadow := one
		shadow.Shadow = true
		g = newRig(t, Options{Limits: []Limit{{Policy: policy("by-key", shadow), By: byKey}}}, limit.Options{}, nil)
		g.is(200, "", "RateLimit-Policy:")
		g = newRig(t, Options{Limits: []Limit{{Policy: policy("by-key", one), By: byKey}}}, limit.Options{Shadow: true}, nil)
		g.is(200, "", "RateLimit-Policy:")
	})
}

func TestSkip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := []Limit{{Policy: policy("p", limit.Spec{Limit: 1, Period: time.Minute})}}
		g := newRig(t, Options{Limits: limits, Skip: func(r *http.Request) bool { return r.URL.Path == "/health" }}, limit.Options{}, nil)
		g.is(200, "")
		g.is(429, "")
		health := from("192.0.2.1:1")
		health.URL.Path = "/health"
		g.has(g.send(health), 200, "RateLimit:")

		preflight := from("192.0.2.1:1", "Origin: https://example.com", "Access-Control-Request-Method: PUT")
		preflight.Method = "OPTIONS"
		options := from("192.0.2.1:1", "Origin: https://example.com")
		options.Method = "OPTIONS"
		simple := from("192.0.2.1:1", "Origin: https://example.com", "Access-Control-Request-Method: PUT")
		g.has(g.send(preflight), 429)
		g = newRig(t, Options{Limits: limits, SkipPreflight: true}, limit.Options{}, nil)
		g.is(200, "")
		g.has(g.send(preflight), 200, "RateLimit:")
		g.has(g.send(options), 429)
		g.has(g.send(simple), 429)
	})
}

func TestHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Options{Limits: []Limit{{Policy: policy("p", limit.Spec{Limit: 1, Period: time.Minute})}}}, limit.Options{}, nil)
		r := from("192.0.2.1:1")
		r.Method = "HEAD"
		g.send(r)
		w := g.send(r)
		g.has(w, 429, "Retry-After: 60", "Content-Type: application/problem+json", `RateLimit: "p";r=0;t=60`)
		if w.Body.Len() > 0 || w.Header().Get("Content-Length") == "" {
			t.Errorf("HEAD: body %q, Content-Length %q; want no body, and its length", w.Body, w.Header().Get("Content-Length"))
		}
	})
}

func TestCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cost int64
		p := policy("p", limit.Spec{Limit: 10, Period: 10 * time.Second})
		g := newRig(t, Options{Limits: []Limit{{Policy: p, Cost: func(*http.Request) int64 { return cost }}}}, limit.Options{}, nil)
		f := func(c int64, status int, fields ...string) {
			t.Helper()
			cost = c
			g.is(status, "", fields...)
		}
		f(4, 200, `RateLimit: "p";r=6;t=1`)
		f(0, 200, `RateLimit: "p";r=6;t=1`) // free
		f(limit.Uncharged, 200, `RateLimit: "p";r=6;t=1`)
		f(7, 429, `RateLimit: "p";r=6;t=1`, "Retry-After: 1")
		f(11, 429, `RateLimit: "p";r=6;t=1`, "Retry-After:") // never
		cost = 1 << 62
		w := g.is(429, "", "Retry-After:")
		if !strings.Contains(w.Body.String(), "costs more than limit p ever has") {
			t.Errorf("body %s", w.Body)
		}
		f(6, 200, `RateLimit: "p";r=0;t=1`)
		f(0, 429, "Retry-After: 1") // free, but there is no room
		if len(g.failed()) > 0 {
			t.Errorf("failed: %v", g.failed())
		}

		f(-1, 500, "RateLimit:", "Retry-After:", "Content-Type: application/problem+json")
		if len(g.failed()) != 1 || !errors.Is(g.failed()[0], limit.ErrRequest) {
			t.Errorf("failed: %v; want ErrRequest", g.failed())
		}
	})
}

func TestShadowAndExempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var vip limit.Overrides
		p := policy("p", limit.Spec{Limit: 1, Period: time.Minute})
		watched := policy("watched", limit.Spec{Limit: 1, Period: time.Minute, Shadow: true})
		vip.Set(p, "free", nil)
		vip.Set(p, "large", policy("p", limit.Spec{Limit: 500, Period: time.Minute}))
		g := newRig(t, Options{Limits: []Limit{{Policy: p, By: byKey}, {Policy: watched, By: byKey}}, Headers: HeadersBoth}, limit.Options{Override: vip.Policy}, nil)
		g.is(200, "a", `RateLimit-Policy: "p";q=1;w=60`, `RateLimit: "p";r=0;t=60`)
		w := g.is(429, "a", `RateLimit: "p";r=0;t=60`)
		if !strings.Contains(w.Body.String(), `"violated-policies":["p"]`) {
			t.Errorf("body %s; want p alone", w.Body)
		}
		for range 3 {
			g.is(200, "free", "RateLimit-Policy:", "RateLimit:", "X-RateLimit-Limit:")
		}
		g.is(200, "large", `RateLimit-Policy: "p";q=500;w=60`, `RateLimit: "p";r=499;t=1`, "X-RateLimit-Limit: 500")
	})
}

func TestPenalty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy("p", limit.Spec{Limit: 1, Period: time.Second, Penalty: limit.Penalty{After: 2, Within: time.Minute, Block: 10 * time.Minute}})
		g := newRig(t, Options{Limits: []Limit{{Policy: p}}, Headers: HeadersBoth, LegacyReset: ResetDelta}, limit.Options{}, nil)
		g.is(200, "")
		w := g.is(429, "", "Retry-After: 1")
		if !strings.Contains(w.Body.String(), "#quota-exceeded") {
			t.Errorf("body %s", w.Body)
		}
		for i := range 2 {
			w = g.is(429, "", fmt.Sprintf("Retry-After: %d", 600-i), fmt.Sprintf(`RateLimit: "p";r=0;t=%d`, 600-i), "X-RateLimit-Remaining: 0", fmt.Sprintf("X-RateLimit-Reset: %d", 600-i))
			if !strings.Contains(w.Body.String(), "#abnormal-usage-detected") || !strings.Contains(w.Body.String(), "Blocked by limit p") {
				t.Errorf("body %s; want abnormal usage", w.Body)
			}
			time.Sleep(time.Second) // there is a unit now, but the key is blocked
		}
		time.Sleep(598 * time.Second)
		g.is(200, "")
	})
}

func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := limit.Spec{Limit: 10, Period: time.Minute, Share: 20}
		outage := func(name string, o limit.Outage) *limit.Policy {
			s := spec
			s.OnOutage = o
			if o != limit.OutageLocal {
				s.Share = 0
			}
			return policy(name, s)
		}
		away := func(limits ...Limit) *rig {
			g := newRig(t, Options{Limits: limits, Headers: HeadersBoth}, limit.Options{Local: memlimit.New(memlimit.Options{}), BreakFor: 3 * time.Second}, nil)
			g.store.away.Store(true)
			return g
		}
		g := away(Limit{Policy: outage("p", limit.OutageAllow)})
		g.is(200, "", `RateLimit-Policy: "p";q=10;w=60`, "RateLimit:", "X-RateLimit-Limit:")

		g = away(Limit{Policy: outage("p", limit.OutageDeny)})
		w := g.is(503, "", `RateLimit-Policy: "p";q=10;w=60`, "RateLimit:", "Retry-After: 3", "Cache-Control: no-store")
		const want = `{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Temporary Reduced Capacity","status":503,` +
			`"detail":"The server can't take the request now; try again in 3 seconds.","violated-policies":["p"]}` + "\n"
		if w.Body.String() != want {
			t.Errorf("got  %swant %s", w.Body, want)
		}

		// The numbers are those that hold now.
		g = away(Limit{Policy: outage("p", limit.OutageLocal)})
		g.is(200, "", `RateLimit-Policy: "p";q=2;w=60`, `RateLimit: "p";r=1;t=30`)
		g.is(200, "")
		g.is(429, "", "Retry-After: 30")
		if n := len(g.failed()); n > 0 {
			t.Errorf("%d steps failed: %v; want none: the Limiter tells", n, g.failed())
		}

		// Both the client and the store are short of something: the client's part is told.
		g = away(Limit{Policy: outage("p", limit.OutageLocal)}, Limit{Policy: outage("q", limit.OutageDeny)})
		w = g.is(503, "")
		if !strings.Contains(w.Body.String(), `"violated-policies":["q"]`) {
			t.Errorf("body %s; want q alone", w.Body)
		}
	})
}

// After Close there is nobody who could decide.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Options{Limits: []Limit{{Policy: policy("p", limit.Spec{Limit: 1, Period: time.Second})}}}, limit.Options{}, nil)
		g.limiter.Close()
		g.is(503, "", "Retry-After: 1")
		if len(g.failed()) != 1 || !errors.Is(g.failed()[0], limit.ErrClosed) {
			t.Errorf("failed: %v; want ErrClosed", g.failed())
		}
		// A client that left is nobody's failure.
		g = newRig(t, Options{Limits: []Limit{{Policy: policy("p", limit.Spec{Limit: 1, Period: time.Second})}}}, limit.Options{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		g.has(g.send(from("192.0.2.1:1").WithContext(ctx)), 503)
		if len(g.failed()) > 0 || g.served.Load() > 0 {
			t.Errorf("failed: %v, served: %d; want nothing", g.failed(), g.served.Load())
		}
	})
}

func TestRefuseOption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got Refusal
		g := newRig(t, Options{
			Limits: []Limit{{Policy: policy("p", limit.Spec{Limit: 1, Period: 90 * time.Second})}},
			Refuse: func(w http.ResponseWriter, _ *http.Request, f Refusal) { got = f; w.WriteHeader(http.StatusTeapot) },
		}, limit.Options{}, nil)
		g.is(200, "")
		g.is(http.StatusTeapot, "", `RateLimit: "p";r=0;t=90`)
		if got.Kind != QuotaExceeded || !slices.Equal(got.Violated, []string{"p"}) || got.RetryAfter != 90*time.Second || got.Kind.Status() != 429 {
			t.Errorf("refused %+v", got)
		}
	})
}

// Shedding uses the same document.
func TestRefusalWrite(t *testing.T) {
	f := func(want string, r Refusal) {
		t.Helper()
		w := httptest.NewRecorder()
		r.Write(w, httptest.NewRequest("GET", "/", nil))
		if err := checkAnswer("GET", w.Code, w.Header(), w.Body.Bytes()); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
		if got := fmt.Sprint(w.Code, " ", w.Header().Get("Retry-After"), " ", r.Kind, " ", r.detail()); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f("503 2 reduced-capacity The server can't take the request now; try again in 2 seconds.", Refusal{Kind: ReducedCapacity, RetryAfter: 1001 * time.Millisecond})
	f("503 1 reduced-capacity The server can't take the request now; try again in 1 second.", Refusal{Kind: ReducedCapacity, RetryAfter: 1})
	f("503  reduced-capacity The server can't take the request now.", Refusal{Kind: ReducedCapacity})
	f("429  quota-exceeded The request costs more than limits a, b ever has.", Refusal{Violated: []string{"a", "b"}})
	f("429 1 abnormal-usage Blocked by the limit after too many refused requests; try again in 1 second.", Refusal{Kind: AbnormalUsage, RetryAfter: time.Second})
	f("400  unidentified The request lacks what limit a identifies clients by.", Refusal{Kind: Unidentified, Violated: []string{"a"}})
	f("500  failed The server could not decide whether the request is within its limits.", Refusal{Kind: Failed, Violated: []string{"a"}})
	f("500  failed The server could not decide whether the request is within its limits.", Refusal{Kind: 99})
}

// Several around one handler: all limits are told of.
func TestStacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outer := newRig(t, Options{Limits: []Limit{{Policy: policy("all", limit.Spec{Limit: 9, Period: time.Minute})}}}, limit.Options{}, nil)
		inner, err := New(outer.limiter, Options{Limits: []Limit{{Policy: policy("route", limit.Spec{Limit: 5, Period: time.Minute}), By: byKey}}})
		if err != nil {
			t.Fatal(err)
		}
		m, err := New(outer.limiter, Options{Limits: outer.limits})
		if err != nil {
			t.Fatal(err)
		}
		outer.handler = m.Wrap(inner.Wrap(http.NotFoundHandler()))
		outer.is(404, "a", `RateLimit: "all";r=8;t=7, "route";r=4;t=12`, `RateLimit-Policy: "all";q=9;w=60, "route";q=5;w=60`)
	})
}

func TestDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var left int64
		g := newRig(t, Options{Limits: []Limit{{Policy: policy("p", limit.Spec{Limit: 7, Period: time.Minute})}}}, limit.Options{}, func(_ http.ResponseWriter, r *http.Request) {
			d, ok := Decided(r.Context())
			if !ok || d.Len() != 1 {
				t.Errorf("decided %+v, %v", d, ok)
			}
			left = d.At(0).Remaining
		})
		g.is(200, "")
		if left != 6 {
			t.Errorf("the handler sees %d units left; want 6", left)
		}
		if _, ok := Decided(t.Context()); ok {
			t.Error("decided, of a context that has nothing of it")
		}
	})
}

func TestIsField(t *testing.T) {
	for _, name := range []string{"RateLimit", "Ratelimit", "ratelimit-policy", "RateLimit-Limit", "RateLimit-Reset", "X-RateLimit-Remaining", "x-ratelimit-used", "X-Rate-Limit-Limit"} {
		if !IsField(name) {
			t.Errorf("%s is none; want one", name)
		}
	}
	for _, name := range []string{"", "Retry-After", "X-Rate", "RateLimited", "X-RateLimit", "Cache-Control"} {
		if IsField(name) {
			t.Errorf("%s is one; want none", name)
		}
	}
}

func TestOptions(t *testing.T) {
	l, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := func(want string, o Options) {
		t.Helper()
		if _, err := New(l, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", o, err, want)
		}
	}
	p := policy("p", limit.Spec{Limit: 1, Period: time.Second})
	at := policy("c", limit.Spec{Kind: limit.Concurrency, Limit: 1})
	good := []Limit{{Policy: p}}
	f("httplimit: Options.Limits are 0; want 1 to 16", Options{})
	f("Limits are 17; want 1 to 16", Options{Limits: make([]Limit, 17)})
	f("Limits[1] has no Policy", Options{Limits: []Limit{{Policy: p}, {}}})
	f(`Limits[0] and [1] both have a policy named "p"`, Options{Limits: []Limit{{Policy: p}, {Policy: p}}})
	f("Limits[0].Missing is 3; want Refuse, Share or Exempt", Options{Limits: []Limit{{Policy: p, Missing: 3}}})
	f("Limits[0].Settle is given; a Concurrency", Options{Limits: []Limit{{Policy: at, Settle: func(*http.Request, Response) (int64, bool) { return 0, false }}}})
	f("Limits[0].Unit is \"a b\"", Options{Limits: []Limit{{Policy: p, Unit: "a b"}}})
	f("Headers is 4; want", Options{Limits: good, Headers: 4})
	f("LegacyReset is 2; want ResetEpoch or ResetDelta", Options{Limits: good, LegacyReset: 2})
	f("Jitter is -1s; want zero or more", Options{Limits: good, Jitter: -time.Second})
	if _, err := New(nil, Options{Limits: good}); err == nil {
		t.Error("New without a Limiter: no error")
	}
}
