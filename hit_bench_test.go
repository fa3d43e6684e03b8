package freshet

import (
	"context"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/freshetdev/freshet/store/memstore"
)

type profile struct {
	A, B, C, D, E string
	F, G, H       int64
	I             [5]int64
}

// BenchmarkHit compares a hit with the bare map underneath.
func BenchmarkHit(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		names := make([]string, n)
		for i := range names {
			names[i] = "user:" + strconv.Itoa(i)
		}
		z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.01, 1, uint64(n-1))
		idx := make([]uint32, 1<<16)
		for i := range idx {
			idx[i] = uint32(z.Uint64())
		}
		c, err := New(memstore.NewServer(memstore.Options{MaxBytes: 1 << 30}).Connect(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		c.mirror.WaitSynced(b.Context())
		cache, err := NewCache(c, Config[string, profile]{
			Name: "user", TTL: time.Hour, MaxEntries: 2 * n,
			Tags: func(k string) []string { return []string{"users:" + k} },
			Load: func(context.Context, string, *Load) (profile, error) { return profile{A: "x"}, nil },
		})
		if err != nil {
			b.Fatal(err)
		}
		hand := otter.Must(&otter.Options[string, profile]{MaximumSize: 2 * n, ExpiryCalculator: otter.ExpiryWriting[string, profile](time.Hour)})
		bare := otter.Must(&otter.Options[string, *profile]{MaximumSize: 2 * n})
		for _, k := range names {
			if _, err := cache.Get(b.Context(), k); err != nil {
				b.Fatal(err)
			}
			hand.Set(k, profile{A: "x"})
			bare.Set(k, &profile{A: "x"})
		}
		ctx := b.Context()
		b.Run("freshet/"+strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				v, err := cache.Get(ctx, names[idx[i&0xffff]])
				if err != nil || v.A != "x" {
					b.Fatal(err)
				}
			}
		})
		b.Run("otter-struct-ttl/"+strconv.Itoa(n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				if v, ok := hand.GetIfPresent(names[idx[i&0xffff]]); !ok || v.A != "x" {
					b.Fatal()
				}
			}
		})
		b.Run("otter-pointer/"+strconv.Itoa(n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				if v, ok := bare.GetIfPresent(names[idx[i&0xffff]]); !ok || v.A != "x" {
					b.Fatal()
				}
			}
		})
		b.StopTimer()
		b.Log(c.Stats().HitsL1, c.Stats().MissesL1)
		c.Close()
	}
}
