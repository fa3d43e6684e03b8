package freshet

import (
	"context"
	"testing"
	"time"

	"github.com/freshetdev/freshet/store/memstore"
)

// A calm hit allocates nothing, whatever the keys, with tags and all.
func TestHitAllocatesNothing(t *testing.T) {
	type pair struct {
		Tenant string
		ID     int64
	}
	client, err := New(memstore.NewServer(memstore.Options{}).Connect(), Options{StaleAtMost: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.mirror.WaitSynced(t.Context())
	time.Sleep(20 * time.Millisecond) // the first proof
	hitAllocs(t, client, "string", "some key", 0)
	hitAllocs(t, client, "verified", "some key", 1e-9) // none will be picked
	hitAllocs(t, client, "int64", int64(123456789), 0)
	hitAllocs(t, client, "struct", pair{"acme", 7}, 0)
}

func hitAllocs[K comparable](t *testing.T, client *Client, name string, k K, verify float64) {
	t.Helper()
	type value struct {
		A, B string
		N    [8]int
	}
	cfg := Config[K, value]{Name: name, TTL: time.Hour, Verify: verify, Tags: func(K) []string { return []string{Tag("t", 1), Tag("u", 2)} },
		Load: func(context.Context, K, *Load) (value, error) { return value{A: "a"}, nil }}
	c := cacheIn(t, client, cfg)
	cfg.Name, cfg.MaxEntries = name+"-no-l1", -1
	noL1 := cacheIn(t, client, cfg)
	ctx := t.Context()
	get := func() {
		if v, err := c.Get(ctx, k); err != nil || v.A != "a" {
			t.Fatal(v, err)
		}
	}
	for range 3 {
		get()
		noL1.Get(ctx, k)
	}
	before := client.Stats()
	n := testing.AllocsPerRun(1000, get)
	if hits := client.Stats().HitsL1 - before.HitsL1; hits < 1000 {
		t.Errorf("%s: %d hits in L1; want all", name, hits)
	}
	if n != 0 {
		t.Errorf("%s: a hit makes %v allocations; want none", name, n)
	}
	n = testing.AllocsPerRun(200, func() { noL1.Get(ctx, k) })
	t.Logf("%s: a hit in the shared level (memstore, two tags, json) makes %v allocations", name, n)
}
