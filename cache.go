package freshet

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/clock"
	"github.com/freshetdev/freshet/internal/flight"
	"github.com/freshetdev/freshet/internal/keys"
	"github.com/freshetdev/freshet/internal/near"
	"github.com/freshetdev/freshet/observe"
)

// A Cache answers Get from memory, from the shared store, or by loading, and forgets what is
// dropped. Safe for concurrent use.
//
// Values are shared: every caller gets the same pointer, slice or map, and must not change
// what it leads to, unless Config.Clone is given.
type Cache[K comparable, V any] struct {
	client  *Client
	cfg     Config[K, V]
	key     func(K) string
	coarse  string // the tag that Clear drops
	near    *near.Map[K, entry[K, V], *entry[K, V]]
	flights flight.Group[callState[K, V], outcome[K, V]]
	loads   *loadGate
	source  breaker

	// For the path of a hit, so that it follows no pointers.
	clock       *clock.Clock
	version     *atomic.Uint64
	hits        *striped
	scoped      *atomic.Int64
	staleAtMost int64
	thoughtful  bool      // every hit must think: hooks, clones or checks ask for it
	verifier    *verifier // nil: no hit is verified

	// marks count the drops of keys by hash, so that a read or load that a drop
	// overtook is not put into L1.
	seed  maphash.Seed
	marks [1024]atomic.Uint32
}

// NewCache defines a cache. A client has one cache of each name.
func NewCache[K comparable, V any](c *Client, cfg Config[K, V]) (*Cache[K, V], error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	cache := &Cache[K, V]{
		client: c, cfg: cfg, coarse: cfg.Name + "!", loads: c.loads, seed: maphash.MakeSeed(),
		clock: c.clock, version: c.mirror.VersionOf(), hits: &c.stats.hitsL1, scoped: &c.scoped, staleAtMost: int64(c.opts.StaleAtMost),
		thoughtful: c.hooks.Hit != nil || cfg.Clone != nil || cfg.CheckMutation,
		source:     breaker{after: cfg.BreakAfter, pause: cfg.BreakFor},
		verifier:   newVerifier(cfg.Verify),
	}
	if cfg.MaxLoads > 0 {
		room := cfg.MaxQueued
		if room == 0 {
			room = c.opts.MaxQueued
		}
		cache.loads = newLoadGate(cfg.MaxLoads, room)
	}
	if cfg.Key != nil {
		cache.key = func(k K) string { return cfg.Name + ":" + cfg.Key(k) }
	} else if cache.key, err = keys.Builder[K](cfg.Name); err != nil {
		return nil, fmt.Errorf("freshet: cache %q: %w", cfg.Name, err)
	}
	if cfg.MaxEntries > 0 {
		if cache.near, err = near.New[K, entry[K, V]](cfg.MaxEntries, cfg.MaxBytes); err != nil {
			return nil, fmt.Errorf("freshet: cache %q: %w", cfg.Name, err)
		}
	}
	if err := c.register(cache); err != nil {
		return nil, err
	}
	return cache, nil
}

// A Result is a value with where it came from.
type Result[V any] struct {
	Value V

	// Level is where the value came from; Joined says that another caller's load brought it.
	Level  observe.Level
	Joined bool

	// Age is the time since the value's load began, TTL how long it is fresh yet; negative
	// when Stale, which says that it was served past its time.
	Age   time.Duration
	TTL   time.Duration
	Stale bool

	// Reason says why the cache could not answer with a fresh value; none for a fresh hit.
	Reason observe.Reason

	// Stored says that a loaded value is in the shared level now. If it isn't, Refused says why.
	Stored  bool
	Refused observe.Reason

	// Err is the source's error that a stale value was served for, if it was.
	Err error
}

// Get returns the value of k: from L1 (no allocation), from the shared level, or by loading it. Errors are
// ErrNotFound, a *LoadError (the source failed, or was not asked: ErrOverloaded, ErrSourceDown), ErrClosed, or
// the end of ctx. That the store fails is no error.
func (c *Cache[K, V]) Get(ctx context.Context, k K) (V, error) {
	if e, ok := c.calm(ctx, k); ok {
		if c.verifier != nil {
			c.verify(ctx, e, observe.LevelL1, nil)
		}
		return e.value, nil
	}
	r, err := c.lookup(ctx, k, nil)
	return r.Value, err
}

// GetFunc is Get with a loader of this call's own. Callers of one key at the same time
// share one load, whichever brought it.
func (c *Cache[K, V]) GetFunc(ctx context.Context, k K, load func(context.Context, *Load) (V, error)) (V, error) {
	if e, ok := c.calm(ctx, k); ok {
		if c.verifier != nil {
			c.verify(ctx, e, observe.LevelL1, load)
		}
		return e.value, nil
	}
	r, err := c.lookup(ctx, k, load)
	return r.Value, err
}

// Lookup is Get with where the value came from.
func (c *Cache[K, V]) Lookup(ctx context.Context, k K) (Result[V], error) {
	return c.lookup(ctx, k, nil)
}

// LookupFunc is Lookup with a loader of this call's own.
func (c *Cache[K, V]) LookupFunc(ctx context.Context, k K, load func(context.Context, *Load) (V, error)) (Result[V], error) {
	return c.lookup(ctx, k, load)
}

// calm is the path of a hit: a fresh entry about which nothing happened since it was found valid, and a link
// proven recently enough. Everything else thinks in lookup.
func (c *Cache[K, V]) calm(ctx context.Context, k K) (*entry[K, V], bool) {
	if c.near == nil || c.thoughtful || c.scoped.Load() != 0 && c.client.bound(ctx) {
		return nil, false
	}
	now := c.clock.Now()
	e, ok := c.near.Get(k, turnAt(now))
	if !ok {
		return nil, false
	}
	if now >= e.calm || now-e.trust.AsOf() > c.staleAtMost || e.checked.Load() != c.version.Load() {
		return nil, false
	}
	c.hits.add()
	return e, true
}

// turnAt is the turn, of 67 ms, in which a full L1 counts the hits of one entry once.
func turnAt(now int64) uint32 { return uint32(now >> 26) }

// name returns the string key of k.
func (c *Cache[K, V]) name(k K) string { return c.key(k) }

func (c *Cache[K, V]) cacheName() string { return c.cfg.Name }
func (c *Cache[K, V]) plain() bool       { return c.cfg.Plain }

func (c *Cache[K, V]) owns(key string) bool {
	n := len(c.cfg.Name)
	return len(key) > n && key[n] == ':' && strings.HasPrefix(key, c.cfg.Name)
}

func (c *Cache[K, V]) mark(key string) *atomic.Uint32 {
	return &c.marks[maphash.String(c.seed, key)%uint64(len(c.marks))]
}

// forget makes whatever this instance has, reads or loads of key invalid.
func (c *Cache[K, V]) forget(key string) {
	// The order matters: who puts an entry into L1 looks at the mark once it can be found here.
	c.mark(key).Add(1)
	if c.near != nil {
		if e, ok := c.near.ByString(key); ok {
			e.void()
			if old, ok := c.near.Peek(e.Key); ok {
				old.void() // e is about to take its place
			}
		}
	}
	if call := c.flights.Find(key); call != nil {
		if old := call.State.old.Load(); old != nil {
			old.void() // it need not be in L1
		}
		call.State.poke()
		if !call.State.waiting.Load() {
			c.flights.Forget(call)
		}
	}
}

// admit puts an entry into L1 unless a drop of its key came since mark was read.
func (c *Cache[K, V]) admit(e *entry[K, V], mark uint32) {
	if c.near == nil {
		return
	}
	c.near.Put(e.Key, e, func() bool {
		if c.mark(e.name).Load() != mark {
			e.void()
			return false
		}
		return true
	})
}

func (c *Cache[K, V]) distrust() {
	if c.near == nil {
		return
	}
	// Reads and loads under way are distrusted too: they took their trust before.
	for i := range c.marks {
		c.marks[i].Add(1)
	}
}

func (c *Cache[K, V]) sweep(now int64) {
	if c.near == nil {
		return
	}
	for k, e := range c.near.All() {
		if e.checked.Load() == markVoid || now >= max(e.fresh, e.stale, e.failed) {
			c.near.Remove(k, e)
		}
	}
}

func (c *Cache[K, V]) size() (int, int64) {
	if c.near == nil {
		return 0, 0
	}
	return c.near.Len(), c.near.Weight()
}

func (c *Cache[K, V]) sourceOpen() bool { return c.source.open() }

func (c *Cache[K, V]) shut() {
	if c.near != nil {
		c.near.Clear()
	}
}
