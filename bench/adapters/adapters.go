// Package adapters puts the caches of the comparison behind one small interface.
//
// Each file is one cache, used as its documentation shows and with its default client
// options. The caches "by hand" are what a good team writes in a day; they are the real
// competition. A loader is always given at construction, and every Get is a
// get-or-load.
package adapters

import (
	"context"
	"encoding/json"
	"time"

	"github.com/freshetdev/freshet/bench/profile"
)

// A Cache is one instance of a cache.
type Cache interface {
	// Get returns the profile of key, loading it if no level has it.
	Get(ctx context.Context, key string) (profile.Profile, error)

	// Del is what a writer calls after it changed the row.
	Del(ctx context.Context, key string) error

	Close() error
}

// A Loader is the database.
type Loader func(ctx context.Context, key string) (profile.Profile, error)

// A Config is what a scenario asks of a cache.
type Config struct {
	Addr  string // host:port of Redis
	Load  Loader
	TTL   time.Duration // in Redis, or in process for a cache without Redis
	L1    int           // entries kept in process; negative: no process layer
	L1TTL time.Duration // in process

	// Refresh is the age from which an entry is reloaded in the background while it
	// is served; zero means never. Only where Adapter.Refreshes.
	Refresh time.Duration

	// Exact switches off whatever moves an expiry of its own accord (jitter, early refresh),
	// where the cache has such a thing by default.
	Exact bool

	// Patient keeps a busy machine from looking like an outage of Redis, where the cache watches
	// for such a thing: for tests of what does not depend on time.
	Patient bool
}

// A Kind says what a line of a table is.
type Kind string

// The kinds.
const (
	Ours      Kind = "ours"
	Peer      Kind = "peer"
	ByHand    Kind = "by hand"
	Yardstick Kind = "yardstick" // not a cache one would deploy: a bound, printed in italics
)

// An Adapter makes caches of one sort.
type Adapter struct {
	Name      string
	Kind      Kind
	Module    string // that it compares, for the table of versions
	Redis     bool   // keeps values in Redis
	Layer     bool   // keeps values in process
	Refreshes bool   // knows Config.Refresh
	Protected bool   // has a limit of its own around Redis calls (S6)
	New       func(Config) (Cache, error)
}

// All returns every adapter, in the order of the tables.
func All() []Adapter {
	return []Adapter{
		harness, otterStruct, otterPointer,
		rueidisJSON, rueidisSonic,
		freshetDefault, freshetSonic,
		otterRueidis, otterRueidisGuarded, ristrettoGoRedis, theineGoRedis, rueidisDoCache, goRedisPlain,
		sturdycGoRedis, goRedisCache, gocache, rueidisaside, rockscache,
	}
}

// Named returns the adapter of that name.
func Named(name string) (Adapter, bool) {
	for _, a := range All() {
		if a.Name == name {
			return a, true
		}
	}
	return Adapter{}, false
}

// noLayer is the time in process for a cache that can't be told to keep nothing there.
const noLayer = time.Millisecond

func (cfg Config) l1TTL() time.Duration {
	if cfg.L1 < 0 {
		return noLayer
	}
	return cfg.L1TTL
}

func (cfg Config) l1Size() int { return max(cfg.L1, 16) }

func encode(p profile.Profile) ([]byte, error) { return json.Marshal(p) }

func decode(b []byte) (p profile.Profile, err error) {
	err = json.Unmarshal(b, &p)
	return p, err
}
