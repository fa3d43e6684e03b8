package freshet

import (
	"context"
	"testing"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// With Clone every caller has a value of its own.
func TestClone(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		load := func(context.Context, string, *Load) ([]int, error) {
			time.Sleep(time.Second)
			return []int{1, 2, 3}, nil
		}
		cfg := Config[string, []int]{TTL: time.Hour, Load: load, CheckMutation: true,
			Clone: func(v []int) []int { return append([]int{}, v...) }}
		client := l.client(func(o *Options) {
			o.Hooks.Mutated = func(m observe.Mutated) { t.Errorf("%+v", m) }
		})
		a, b := cacheIn(t, client, cfg), cacheIn(t, l.client(), cfg)
		ruin := func(v []int, err error) {
			t.Helper()
			if err != nil || len(v) != 3 || v[0] != 1 {
				t.Fatalf("got %v, %v; want 1 2 3", v, err)
			}
			v[0] = 99
		}
		done := make(chan bool)
		for range 2 { // leader and joiner
			go func() { ruin(a.Get(t.Context(), "k")); done <- true }()
		}
		<-done
		<-done
		ruin(a.Get(t.Context(), "k"))
		ruin(b.Get(t.Context(), "k"))
		ruin(b.Get(t.Context(), "k"))
		for range 2 {
			m, err := a.GetMany(t.Context(), []string{"k"})
			ruin(m["k"], err)
			r, ok := a.Peek(t.Context(), "k")
			is(t, "found", ok, true)
			ruin(r.Value, nil)
			r, err = a.Lookup(t.Context(), "k")
			ruin(r.Value, err)
		}
		is(t, "mutated", client.Stats().Mutated, 0)
	})
}

// Without Clone the callers share one value.
func TestSharedValues(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		c := cacheIn(t, l.client(), Config[string, *int]{TTL: time.Hour, Load: func(context.Context, string, *Load) (*int, error) { return new(int), nil }})
		a, _ := c.Get(t.Context(), "k")
		b, _ := c.Get(t.Context(), "k")
		if a == nil || a != b {
			t.Errorf("got %p and %p; want the same", a, b)
		}
	})
}

// CheckMutation finds out who changed a shared value, at the next hit, and gets a good one.
func TestCheckMutation(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var told []observe.Mutated
		client := l.client(func(o *Options) {
			o.Hooks.Mutated = func(m observe.Mutated) { told = append(told, m) }
		})
		loads := 0
		c := cacheIn(t, client, Config[string, []int]{TTL: time.Hour, CheckMutation: true,
			Load: func(context.Context, string, *Load) ([]int, error) { loads++; return []int{1, 2, 3}, nil }})
		ruin := func(want string) {
			t.Helper()
			r := expect(t, c, "k", want)
			r.Value[0] = 99
		}
		ruin("[1 2 3] source")
		ruin("[1 2 3] l2") // found out, and read again
		ruin("[1 2 3] l2")
		expect(t, c, "k", "[1 2 3] l2")
		expect(t, c, "k", "[1 2 3] l1")
		is(t, "loads", loads, 1)
		is(t, "mutated", client.Stats().Mutated, 3)
		if len(told) != 3 || told[0] != (observe.Mutated{Cache: "n", Key: "n:k"}) {
			t.Errorf("the hook was told %v", told)
		}
	})
}
