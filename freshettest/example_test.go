package freshettest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/freshettest"
)

// names is the code under test: a service with a cache, over a database that is a map here.
func names(t *testing.T, client *freshet.Client, load func(context.Context, int, *freshet.Load) (string, error)) *freshet.Cache[int, string] {
	t.Helper()
	cache, err := freshet.NewCache(client, freshet.Config[int, string]{
		Name: "user", TTL: time.Hour, Load: load, Jitter: -1, EarlyRefresh: -1, // exact times
		Stale: freshet.Stale{IfError: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func want(t *testing.T, cache *freshet.Cache[int, string], name string) {
	t.Helper()
	if got, err := cache.Get(t.Context(), 7); err != nil || got != name {
		t.Errorf("got %q, %v; want %q", got, err, name)
	}
}

// Hours pass in no time.
func TestExampleTTL(t *testing.T) {
	freshettest.Run(t, func(t *testing.T, s *freshettest.Store) {
		rows := map[int]string{7: "Ada"}
		source := freshettest.Count(func(_ context.Context, id int, _ *freshet.Load) (string, error) {
			return rows[id], nil
		})
		users := names(t, s.Open(), source.Load)

		want(t, users, "Ada")
		rows[7] = "Grace" // and nobody drops it
		freshettest.Pass(time.Hour - 1)
		want(t, users, "Ada") // a nanosecond before the end of its TTL
		source.Want(t, 1)
		freshettest.Pass(1)
		want(t, users, "Grace")

		source.Fail(errors.New("no database"))
		freshettest.Pass(90 * time.Minute)
		want(t, users, "Grace") // stale, and better than an error
		freshettest.Pass(30 * time.Minute)
		if _, err := users.Get(t.Context(), 7); err == nil {
			t.Error("got a value past Stale.IfError; want the error of the source")
		}
	})
}

// Two instances, as behind a load balancer.
func TestExampleTwoInstances(t *testing.T) {
	freshettest.Run(t, func(t *testing.T, s *freshettest.Store) {
		rows := map[int]string{7: "Ada"}
		source := freshettest.Count(func(_ context.Context, id int, _ *freshet.Load) (string, error) {
			return rows[id], nil
		})
		a, b := s.Open(), s.Open()
		here, there := names(t, a, source.Load), names(t, b, source.Load)
		want(t, here, "Ada")
		want(t, there, "Ada")
		source.Want(t, 1) // the second had it from the store

		rows[7] = "Grace"
		if err := here.Drop(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		s.Settle() // the other has been told
		want(t, there, "Grace")

		s.Down(a) // a loses its connection, b doesn't
		rows[7] = "Barbara"
		if err := here.Drop(t.Context(), 7); !errors.Is(err, freshet.ErrPending) {
			t.Errorf("Drop: %v; want ErrPending", err)
		}
		want(t, here, "Barbara")
		want(t, there, "Grace") // it can't know
		s.Restore(a)
		s.Settle()
		want(t, there, "Barbara")
	})
}

// Without a bubble, for tests that talk to a real database: the same, in real time.
func TestExampleRealTime(t *testing.T) {
	s := freshettest.NewStore(t)
	source := freshettest.Count(func(context.Context, int, *freshet.Load) (string, error) { return "Ada", nil })
	users := names(t, s.Open(), source.Load)
	want(t, users, "Ada")
	s.Hang()
	want(t, users, "Ada") // memory answers for StaleAtMost
	source.Want(t, 1)
}
