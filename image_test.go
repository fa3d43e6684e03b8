package freshet

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/codec"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

func TestCompression(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		f := func(over, size int, packed store.Packing) {
			t.Helper()
			value := strings.Repeat("freshet ", size/8)
			cfg := Config[string, string]{TTL: time.Minute, Codec: codec.String(), CompressOver: over,
				Load: func(context.Context, string, *Load) (string, error) { return value, nil }}
			a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
			if err := a.Drop(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			tick()
			if v, err := a.Get(t.Context(), "k"); v != value || err != nil {
				t.Fatal("loaded something else", err)
			}
			image, _ := l.srv.Get("n:k")
			is(t, "packing", l.record("n:k").Packed, packed)
			if packed == store.PackS2 && len(image) > size/4 {
				t.Errorf("the image has %d bytes; want much less than %d", len(image), size)
			}
			r, err := b.Lookup(t.Context(), "k")
			if r.Value != value || r.Level != observe.LevelL2 || err != nil {
				t.Errorf("%d bytes came back as %d, %v", size, len(r.Value), err)
			}
		}
		f(0, 4088, store.PackNone)
		f(0, 4096, store.PackS2)
		f(0, 1<<20, store.PackS2)
		f(100, 800, store.PackS2)
		f(-1, 1<<20, store.PackNone)
	})
}

// What other programs left at a key is a miss with its reason, and replaced.
func TestUnusableImages(t *testing.T) {
	type old struct{ A int }
	type changed struct{ A, B int }
	inLab(t, func(t *testing.T, l *lab) {
		ca, cb := l.client(), l.client()
		cacheIn(t, ca, Config[string, old]{TTL: time.Minute, Load: func(context.Context, string, *Load) (old, error) { return old{1}, nil }}).Get(t.Context(), "k")
		good, _ := l.srv.Get("n:k")
		c := cacheIn(t, cb, Config[string, changed]{TTL: time.Minute, Load: func(context.Context, string, *Load) (changed, error) { return changed{1, 2}, nil }})
		f := func(image []byte, want observe.Reason) {
			t.Helper()
			if err := c.Drop(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			tick()
			l.srv.Set("n:k", image, time.Minute)
			r := expect(t, c, "k", "{1 2} source")
			is(t, "reason", r.Reason, want)
			if got := l.record("n:k"); got == nil || string(got.Payload) != `{"A":1,"B":2}` {
				t.Errorf("%s: the key holds %+v", want, got)
			}
		}
		f(good, observe.ReasonSchema)
		f([]byte("something else"), observe.ReasonCorrupt)
		f(good[:len(good)-1], observe.ReasonCorrupt)
		damaged := append([]byte{}, good...)
		damaged[len(damaged)-10] ^= 1
		f(damaged, observe.ReasonCorrupt)
		later := append([]byte{}, good...)
		later[3] = 2
		f(later, observe.ReasonVersion)
		f([]byte{}, observe.ReasonCorrupt)

		// Config.Schema takes the place of the fingerprint.
		x := cacheIn(t, ca, Config[string, old]{Name: "x", TTL: time.Minute, Schema: 7, Load: func(context.Context, string, *Load) (old, error) { return old{5}, nil }})
		y := cacheIn(t, cb, Config[string, changed]{Name: "x", TTL: time.Minute, Schema: 7})
		expect(t, x, "k", "{5} source")
		r, ok := y.Peek(t.Context(), "k")
		if !ok || r.Value != (changed{5, 0}) {
			t.Errorf("got %+v, %v; want the same schema to be read", r, ok)
		}
	})
}
