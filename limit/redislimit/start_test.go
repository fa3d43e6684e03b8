package redislimit

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
)

var denied = limit.MustPolicy("denied", limit.Spec{Limit: 1000, Period: long, OnOutage: limit.OutageDeny})

// TestDecidesAtOnce: the first decision after Open is the store's, in each kind of place.
func TestDecidesAtOnce(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{"single": testenv.Redis(t).URL(), "sentinel": testenv.Sentinel(t).URL(), "cluster": testenv.Cluster(t).URL()} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(url, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for _, key := range []string{"a", "b", "c", "d", "e", "f"} { // in a Cluster they lie on all nodes
				if _, err := s.Take(t.Context(), limit.Charge{Policy: denied, Key: key, Cost: 1}); err != nil {
					t.Errorf("%s: %v; want it decided", key, err)
				}
			}
		})
	}
}

// TestFirstTry: decisions wait by their deadline while the store connects for the first time, and open no breaker.
func TestFirstTry(t *testing.T) {
	t.Parallel()
	proxy := testenv.Proxy(t, testenv.Redis(t).Addr())
	proxy.Freeze()
	s, err := openWith("redis://"+proxy.Addr(), Options{}, ourScripts)
	if err != nil {
		t.Fatal(err)
	}
	l, err := limit.New(s, limit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var early, patient sync.WaitGroup
	for range 4 * maxFlights {
		early.Go(func() {
			began := time.Now()
			d, err := l.Decide(t.Context(), limit.Request{Policy: denied, Key: "early"})
			if took := time.Since(began); err != nil || !errors.Is(d.Err, limit.ErrConnecting) || took < 15*time.Millisecond {
				t.Errorf("%+v, %v after %v; want it degraded after 20ms, for the store is connecting", d, err, took)
			}
		})
		patient.Go(func() {
			if _, err := s.Take(t.Context(), limit.Charge{Policy: denied, Key: "patient", Cost: 1}); err != nil {
				t.Errorf("%v; want it decided once the store is connected", err)
			}
		})
	}
	early.Wait()
	proxy.Thaw()
	patient.Wait()
	if d, err := l.Decide(t.Context(), limit.Request{Policy: denied, Key: "late"}); err != nil || d.Degraded || l.Stats().Opened != 0 {
		t.Errorf("%+v, %v, %+v; want it decided, and no open breaker", d, err, l.Stats())
	}
}

// TestOpenWaits: Open waits for a server that hangs, half a second at most, and for one that refuses as long as that takes.
func TestOpenWaits(t *testing.T) {
	t.Parallel()
	proxy := testenv.Proxy(t, testenv.Redis(t).Addr())
	proxy.Freeze()
	f := func(url string, least, most time.Duration) {
		t.Helper()
		began := time.Now()
		s, err := Open(url, Options{})
		took := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if took < least || took > most {
			t.Errorf("Open took %v; want %v to %v", took, least, most)
		}
	}
	f("redis://127.0.0.1:1", 0, slack)
	f("redis+sentinel://127.0.0.1:1/?master=m", 0, slack)
	f("redis+cluster://127.0.0.1:1", 0, slack)
	f("redis://"+proxy.Addr(), openTime, openTime+slack)
	f("redis+sentinel://"+proxy.Addr()+"/?master=m", openTime, openTime+slack)
	f("redis+cluster://"+proxy.Addr(), openTime, openTime+slack)
}

// TestCloseWhileConnecting: Close ends those who wait for the first try.
func TestCloseWhileConnecting(t *testing.T) {
	t.Parallel()
	proxy := testenv.Proxy(t, testenv.Redis(t).Addr())
	proxy.Freeze()
	for _, url := range []string{"redis://ADDR", "redis+sentinel://ADDR/?master=m", "redis+cluster://ADDR"} {
		s, err := openWith(strings.Replace(url, "ADDR", proxy.Addr(), 1), Options{}, ourScripts)
		if err != nil {
			t.Fatal(err)
		}
		var waiting sync.WaitGroup
		for _, p := range []*limit.Policy{denied, limit.MustPolicy("strict", limit.Spec{Kind: limit.Strict, Limit: 5, Period: long})} {
			for range 2 * maxFlights {
				waiting.Go(func() {
					if _, err := s.Take(t.Context(), limit.Charge{Policy: p, Key: "k", Cost: 1}); !errors.Is(err, limit.ErrClosed) {
						t.Errorf("%s: %v; want ErrClosed", url, err)
					}
				})
			}
		}
		time.Sleep(50 * time.Millisecond)
		began := time.Now()
		s.Close()
		waiting.Wait()
		if took := time.Since(began); took > slack {
			t.Errorf("%s: closing took %v", url, took)
		}
	}
}
