package freshet

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/codec"
)

// In a plain namespace the key holds the bare value, as SET key value EX would leave it.
func TestPlain(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		type user struct {
			Name string `json:"name"`
		}
		n := 0
		took := time.Second
		cfg := Config[int, user]{Name: "user", TTL: 10 * time.Second, Plain: true, Load: func(context.Context, int, *Load) (user, error) {
			n++
			time.Sleep(took)
			return user{"ada"}, nil
		}}
		ca, cb := l.client(), l.client()
		a, b := cacheIn(t, ca, cfg), cacheIn(t, cb, cfg)
		holds := func(want string) {
			t.Helper()
			got, ok := l.srv.Get("user:7")
			if !ok {
				got = []byte("nothing")
			}
			is(t, "the key", string(got), want)
		}
		loading := inBackground(t.Context(), a, 7)
		holds("") // an empty placeholder: "if (cached)" is false
		is(t, "answer", loading(), "{ada} source")
		holds(`{"name":"ada"}`)
		r := expect(t, b, 7, "{ada} l2")
		if r.TTL > 9*time.Second || r.TTL < 9*time.Second-2*time.Millisecond {
			t.Errorf("TTL %v; want what the key has left, 9s", r.TTL)
		}
		expect(t, b, 7, "{ada} l1")

		// Another program writes and deletes.
		l.srv.Set("user:7", []byte(`{"name":"bob"}`), time.Minute)
		expect(t, a, 7, "{bob} l2")
		expect(t, b, 7, "{bob} l2")
		l.srv.Del("user:7")
		took = 0
		expect(t, a, 7, "{ada} source")
		l.srv.Set("user:7", []byte(`{"name":"eve"}`), 0) // for ever
		r = expect(t, a, 7, "{eve} l2")
		is(t, "ttl", r.TTL, 10*time.Second) // not for ever here
		l.srv.Set("user:7", []byte("no json"), time.Minute)
		expect(t, a, 7, "{ada} source")
		holds(`{"name":"ada"}`)

		if err := b.Drop(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		tick()
		holds("nothing")
		expect(t, a, 7, "{ada} source")
		if err := b.Set(t.Context(), 7, user{"joe"}); err != nil {
			t.Fatal(err)
		}
		tick()
		holds(`{"name":"joe"}`)
		expect(t, a, 7, "{joe} l2")

		// A drop during a load is not undone.
		a.Drop(t.Context(), 7)
		took = time.Second
		loading = inBackground(t.Context(), a, 7)
		l.srv.Del("user:7")
		is(t, "answer", loading(), "{ada} source refused lease-lost")
		holds("nothing")
	})
}

func TestPlainRefusals(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		client := l.client()
		absent := true
		c := cacheIn(t, client, Config[string, string]{TTL: time.Minute, Plain: true, Codec: codec.String(),
			Load: func(context.Context, string, *Load) (string, error) {
				if absent {
					return "", ErrNotFound
				}
				return "", nil
			}})
		if err := c.Clear(t.Context()); !errors.Is(err, ErrPlain) || err.Error() != `freshet: clear "n": freshet: not possible in a plain namespace` {
			t.Errorf("Clear says %v", err)
		}
		if err := c.Set(t.Context(), "k", "v", "tag"); !errors.Is(err, ErrPlain) || err.Error() != `freshet: set "n:k": freshet: not possible in a plain namespace` {
			t.Errorf("Set says %v", err)
		}
		// Nothing that could be taken for a value is left for what is not there.
		expect(t, c, "k", "not found source refused no-store")
		absent = false
		expect(t, c, "k", " source refused encode-error")
		synctest.Wait()
		if v, ok := l.srv.Get("n:k"); ok {
			t.Errorf("the key holds %q", v)
		}
	})
}
