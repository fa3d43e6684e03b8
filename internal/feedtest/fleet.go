package feedtest

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store/redisstore"
)

// A Fleet is instances and pumps over a database, and their Redis.
type Fleet struct {
	Redis *testenv.RedisServer
	Rules *cdc.Rules

	t       *testing.T
	d       Database
	clients []*freshet.Client
}

// NewFleet starts a Redis.
func NewFleet(t *testing.T, d Database, rules ...cdc.Rule) *Fleet {
	t.Helper()
	made, err := cdc.NewRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	return &Fleet{Redis: testenv.Redis(t), Rules: made, t: t, d: d}
}

// Instance is a process that caches what is in the column v of t, under "v:<id>" with the tag "t:<id>".
func (f *Fleet) Instance() *freshet.Cache[int, string] {
	f.t.Helper()
	c, err := freshet.Open(f.t.Context(), f.Redis.URL(), freshet.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	f.clients = append(f.clients, c)
	sessions := make(chan func(string) (string, error), 4)
	for range cap(sessions) {
		sessions <- f.d.Session()
	}
	cache, err := freshet.NewCache(c, freshet.Config[int, string]{
		Name: "v", TTL: time.Hour,
		Tags: func(id int) []string { return []string{freshet.Tag("t", id)} },
		Load: func(_ context.Context, id int, _ *freshet.Load) (string, error) {
			run := <-sessions
			defer func() { sessions <- run }()
			return run("select v from t where id = " + strconv.Itoa(id))
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return cache
}

// Settle waits until all instances know of all that is visible in the database now.
func (f *Fleet) Settle(p *cdc.Pump) {
	f.t.Helper()
	Certified(f.t, p)
	ctx, cancel := context.WithTimeout(f.t.Context(), Patience)
	defer cancel()
	for _, c := range f.clients {
		if err := c.CatchUp(ctx); err != nil {
			f.t.Fatal(err)
		}
	}
}

// Pump starts a pump, which ends with the test or by stop.
func (f *Fleet) Pump(src cdc.Source, hooks cdc.Hooks) (p *cdc.Pump, stop func()) {
	f.t.Helper()
	st, err := redisstore.Open(f.Redis.URL(), redisstore.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	a, err := cdc.NewApplier(st)
	if err != nil {
		f.t.Fatal(err)
	}
	p, err = cdc.NewPump(src, a, cdc.Options{Name: "db", Rules: f.Rules, Hooks: hooks})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("pump: %v", err)
		}
		if err := st.Close(); err != nil {
			f.t.Errorf("store: %v", err)
		}
	})
	f.t.Cleanup(stop)
	return p, stop
}

// Get reads a row through a cache.
func Get(t *testing.T, c *freshet.Cache[int, string], id int) string {
	t.Helper()
	v, err := c.Get(t.Context(), id)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	return v
}

// Certified waits for a certificate of what is visible now.
func Certified(t *testing.T, p *cdc.Pump) {
	t.Helper()
	now := time.Now()
	Await(t, "a certificate", func() bool { return p.Stats().LastTick.After(now) })
}
