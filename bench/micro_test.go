package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/bench/profile"
)

// The benchmarks below are freshet alone, on a Redis of their own: for comparing
// two commits with benchstat.

func microCache(b *testing.B, l1 int) (*freshet.Client, *freshet.Cache[int, profile.Profile]) {
	b.Helper()
	client, err := freshet.Open(b.Context(), "redis://"+redisFor(b), freshet.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	of := func(key int) profile.Profile { return profile.Of(fmt.Sprint(key), 1) }
	cache, err := freshet.NewCache(client, freshet.Config[int, profile.Profile]{
		Name:       "user",
		TTL:        time.Hour,
		MaxEntries: l1,
		Tags:       func(key int) []string { return []string{freshet.Tag("users", key)} },
		Load: func(_ context.Context, key int, _ *freshet.Load) (profile.Profile, error) {
			return of(key), nil
		},
		LoadMany: func(_ context.Context, keys []int, _ *freshet.BatchLoad[int]) (map[int]profile.Profile, error) {
			m := make(map[int]profile.Profile, len(keys))
			for _, key := range keys {
				m[key] = of(key)
			}
			return m, nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	return client, cache
}

const noL1 = -1

func BenchmarkL1Hit(b *testing.B)   { benchmarkHit(b, 10_000) }
func BenchmarkL2Hit(b *testing.B)   { benchmarkHit(b, noL1) }
func BenchmarkL1Hits(b *testing.B)  { benchmarkHits(b, 10_000) }
func BenchmarkL2Hits(b *testing.B)  { benchmarkHits(b, noL1) }
func BenchmarkL1Batch(b *testing.B) { benchmarkBatch(b, 10_000) }
func BenchmarkL2Batch(b *testing.B) { benchmarkBatch(b, noL1) }

// One caller, always the same key.
func benchmarkHit(b *testing.B, l1 int) {
	_, cache := microCache(b, l1)
	get(b, cache, 1)
	b.ReportAllocs()
	for b.Loop() {
		get(b, cache, 1)
	}
}

// 64 callers per core, 1,000 keys.
func benchmarkHits(b *testing.B, l1 int) {
	_, cache := microCache(b, l1)
	for key := range 1000 {
		get(b, cache, key)
	}
	b.ReportAllocs()
	b.SetParallelism(64)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for key := 0; pb.Next(); key++ {
			get(b, cache, key%1000)
		}
	})
}

// 64 keys at once.
func benchmarkBatch(b *testing.B, l1 int) {
	_, cache := microCache(b, l1)
	keys := batch(0)
	getMany(b, cache, keys)
	b.ReportAllocs()
	for b.Loop() {
		getMany(b, cache, keys)
	}
}

// 64 keys at once that nobody has loaded.
func BenchmarkFillBatch(b *testing.B) {
	_, cache := microCache(b, 10_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		getMany(b, cache, batch(i))
	}
}

// A key that nobody has loaded: claim, load, fill.
func BenchmarkFill(b *testing.B) {
	_, cache := microCache(b, 10_000)
	b.ReportAllocs()
	for key := 0; b.Loop(); key++ {
		get(b, cache, key)
	}
}

func BenchmarkDrop(b *testing.B) {
	_, cache := microCache(b, 10_000)
	b.ReportAllocs()
	for key := 0; b.Loop(); key++ {
		if err := cache.Drop(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
}

// A tag in use by one entry.
func BenchmarkTagDrop(b *testing.B) {
	client, cache := microCache(b, 10_000)
	get(b, cache, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := client.DropTags(b.Context(), freshet.Tag("users", 1)); err != nil {
			b.Fatal(err)
		}
	}
}

func get(b *testing.B, cache *freshet.Cache[int, profile.Profile], key int) {
	if _, err := cache.Get(b.Context(), key); err != nil {
		b.Error(err)
	}
}

func getMany(b *testing.B, cache *freshet.Cache[int, profile.Profile], keys []int) {
	if m, err := cache.GetMany(b.Context(), keys); err != nil || len(m) != len(keys) {
		b.Errorf("%d values, %v; want %d", len(m), err, len(keys))
	}
}

func batch(i int) []int {
	keys := make([]int, 64)
	for j := range keys {
		keys[j] = 64*i + j
	}
	return keys
}
