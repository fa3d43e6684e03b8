package freshet

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/store/memstore"
)

func TestOptionsErrors(t *testing.T) {
	f := func(o Options, want string) {
		t.Helper()
		s := memstore.NewServer(memstore.Options{}).Connect()
		c, err := New(s, o)
		if err == nil {
			c.Close()
			t.Errorf("%+v is taken; want %q", o, want)
			return
		}
		if err.Error() != want {
			t.Errorf("got  %q\nwant %q", err, want)
		}
	}
	f(Options{StaleAtMost: 49 * time.Millisecond}, "freshet: Options.StaleAtMost is 49ms; want at least 50ms")
	f(Options{StaleAtMost: -time.Second}, "freshet: Options.StaleAtMost is -1s; want at least 50ms")
	f(Options{MaxLoads: -1}, "freshet: Options.MaxLoads is -1; want more than zero")
	f(Options{MaxPending: -1}, "freshet: Options.MaxPending is -1; want more than zero")
	f(Options{MaxKey: -1}, "freshet: Options.MaxKey is -1; want more than zero")
	f(Options{Pending: 3}, "freshet: Options.Pending is 3; want PendingReturn, PendingWait or PendingFail")
	f(Options{StoreBudget: time.Microsecond}, "freshet: Options.StoreBudget is 1µs; want at least 1ms")
	f(Options{Prefix: "a{b"}, `freshet: Options.Prefix is "a{b"; want no braces and no white space`)
	f(Options{Prefix: "a b"}, `freshet: Options.Prefix is "a b"; want no braces and no white space`)
	f(Options{Name: "a b"}, `freshet: Options.Name is "a b"; want letters, digits and -._ only`)
	f(Options{Name: "a:b"}, `freshet: Options.Name is "a:b"; want letters, digits and -._ only`)
}

func TestOpenErrors(t *testing.T) {
	f := func(url string, want string) {
		t.Helper()
		c, err := Open(t.Context(), url, Options{})
		if err == nil {
			c.Close()
			t.Errorf("%q is taken; want %q", url, want)
			return
		}
		if err.Error() != want {
			t.Errorf("got  %q\nwant %q", err, want)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q shows the password", err)
		}
	}
	f("", `freshet: store url "": no scheme; want memory:, redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://`)
	f("localhost", `freshet: store url "localhost": no scheme; want memory:, redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://`)
	f("http://me:secret@host", `freshet: store url "http://me:xxxxx@host": unknown scheme "http"; want memory, redis, rediss or unix, or redis or rediss with +sentinel or +cluster`)
	f("me:secret@host", `freshet: store url "…@host": unknown scheme "me"; want memory, redis, rediss or unix, or redis or rediss with +sentinel or +cluster`)
	f("me:secret@ho st:%zz", `freshet: store url "…@ho st:%zz": unknown scheme "me"; want memory, redis, rediss or unix, or redis or rediss with +sentinel or +cluster`)
	f("memory:x", `freshet: store url "memory:x": want memory: alone`)
	if _, err := Open(t.Context(), "redis://me:secret@host:6379/0?tll=1", Options{}); err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "tll") {
		t.Errorf("got %v; want an error that names tll and not the password", err)
	}
	if _, err := Open(t.Context(), "memory:", Options{MaxLoads: -1}); err == nil {
		t.Error("bad options are taken")
	}
}

func TestOpenMemory(t *testing.T) {
	for _, url := range []string{"memory:", "memory://"} {
		c, err := Open(t.Context(), url, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s := c.Stats()
		if !s.LinkUp || s.StaleFor < 0 || s.StaleFor > time.Second {
			t.Errorf("Open returned before the log was read: %+v", s)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	c, err := New(memstore.NewServer(memstore.Options{}).Connect(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := func(cfg Config[string, int], want string) {
		t.Helper()
		_, err := NewCache(c, cfg)
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	type cfg = Config[string, int]
	f(cfg{}, `freshet: Config.Name is empty; want a name such as "user"`)
	f(cfg{Name: "a b"}, `freshet: cache "a b": Name has other characters than letters, digits and -._`)
	f(cfg{Name: "a:b"}, `freshet: cache "a:b": Name has other characters than letters, digits and -._`)
	f(cfg{Name: "a", TTL: -1}, `freshet: cache "a": TTL is -1ns; want more than zero (a load can set another for its entry)`)
	f(cfg{Name: "a"}, `freshet: cache "a": TTL is 0s; want more than zero (a load can set another for its entry)`)
	f(cfg{Name: "a", TTL: 1, Jitter: 1}, `freshet: cache "a": Jitter is 1; want less than 1`)
	f(cfg{Name: "a", TTL: 1, Jitter: math.NaN()}, `freshet: cache "a": Jitter is NaN; want less than 1`)
	f(cfg{Name: "a", TTL: 1, Stale: Stale{WhileRevalidate: -1, RetryAfter: 1}}, `freshet: cache "a": Stale has a negative duration: -1ns, 0s, 1ns`)
	f(cfg{Name: "a", TTL: 1, Stale: Stale{IfError: -time.Second}}, `freshet: cache "a": Stale has a negative duration: 0s, -1s, 1s`)
	f(cfg{Name: "a", TTL: 1, LoadTimeout: 1, SoftTimeout: -1}, `freshet: cache "a": negative LoadTimeout, SoftTimeout, LeaseTime or L1TTL: 1ns, -1ns, 1.000000001s, 0s`)
	f(cfg{Name: "a", TTL: 1, Verify: 1.5}, `freshet: cache "a": Verify is 1.5; want a share of the hits, from 0 to 1`)
	f(cfg{Name: "a", TTL: 1, Verify: math.NaN()}, `freshet: cache "a": Verify is NaN; want a share of the hits, from 0 to 1`)
	f(cfg{Name: "a", TTL: 1, MaxLoads: -2}, `freshet: cache "a": MaxLoads is -2; want zero or more`)
	f(cfg{Name: "a", TTL: 1, Plain: true, Tags: func(string) []string { return nil }}, `freshet: cache "a": Plain and Tags exclude each other: freshet: not possible in a plain namespace`)
	f(cfg{Name: "a", TTL: 1, Plain: true, Stale: Stale{IfError: 1}}, `freshet: cache "a": Plain and Stale exclude each other: freshet: not possible in a plain namespace`)
	if _, err := NewCache(c, cfg{Name: "a", TTL: 1, Plain: true, Stale: Stale{IfError: 1}}); !errors.Is(err, ErrPlain) {
		t.Errorf("%v is not ErrPlain", err)
	}
	if _, err := NewCache(c, cfg{Name: "twice", TTL: 1}); err != nil {
		t.Error(err)
	}
	f(cfg{Name: "twice", TTL: 1}, `freshet: cache "twice" exists already on this client`)
	_, err = NewCache(c, Config[float64, int]{Name: "f", TTL: 1})
	if want := `freshet: cache "f": keys: float64 of type float64 has no text that is surely its own: want strings, integers, bools, byte arrays, TextMarshalers or structs of them, or set Config.Key`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, err := NewCache(c, Config[float64, int]{Name: "f", TTL: 1, Key: func(float64) string { return "x" }}); err != nil {
		t.Error(err)
	}
}

// Keys as other programs see them.
func TestStringKeys(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		c := l.client()
		type pair struct {
			Tenant string
			ID     int
		}
		var got string
		see := func(_ context.Context, l *Load) (int, error) { got = l.Key(); return 1, nil }
		is := func(want string) {
			t.Helper()
			if got != want {
				t.Errorf("key %q; want %q", got, want)
			}
			if l.record(want) == nil {
				t.Errorf("nothing is at %q", want)
			}
		}
		text := cacheIn(t, c, Config[string, int]{Name: "text", TTL: time.Minute})
		text.GetFunc(t.Context(), "12:profile", see)
		is("text:12:profile")
		text.GetFunc(t.Context(), "a b{c}%", see)
		is("text:a%20b%7Bc%7D%25")
		text.GetFunc(t.Context(), "", see)
		is("text:")
		number := cacheIn(t, c, Config[int64, int]{Name: "number", TTL: time.Minute})
		number.GetFunc(t.Context(), -7, see)
		is("number:-7")
		pairs := cacheIn(t, c, Config[pair, int]{Name: "pair", TTL: time.Minute})
		pairs.GetFunc(t.Context(), pair{"a:b", 1}, see)
		is("pair:a%3Ab:1")
		own := cacheIn(t, c, Config[pair, int]{Name: "own", TTL: time.Minute, Key: func(p pair) string { return p.Tenant }})
		own.GetFunc(t.Context(), pair{"acme", 1}, see)
		is("own:acme")

		// A drop by string key finds the cache, and L1, that it belongs to.
		tick()
		if err := c.DropKeys(t.Context(), "pair:a%3Ab:1", "number:-7", "nobody:1", "text"); err != nil {
			t.Fatal(err)
		}
		if _, ok := pairs.Peek(t.Context(), pair{"a:b", 1}); ok {
			t.Error("the pair is still there")
		}
		if _, ok := number.Peek(t.Context(), -7); ok {
			t.Error("the number is still there")
		}
		if _, ok := own.Peek(t.Context(), pair{"acme", 1}); !ok {
			t.Error("another cache lost its entry")
		}
	})
}
