package adapters

import (
	"context"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/eko/gocache/lib/v4/cache"
	"github.com/eko/gocache/lib/v4/marshaler"
	"github.com/eko/gocache/lib/v4/store"
	redisstore "github.com/eko/gocache/store/redis/v4"
	ristrettostore "github.com/eko/gocache/store/ristretto/v4"
	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/freshetdev/freshet/bench/profile"
)

// gocache is eko/gocache: a marshaler over a loadable cache over a chain of ristretto and
// Redis. An entry that comes back from Redis gets Redis' time in process, too.
var gocache = Adapter{
	Name: "eko/gocache", Kind: Peer, Module: "github.com/eko/gocache/lib/v4", Redis: true, Layer: true,
	New: func(cfg Config) (Cache, error) {
		client := newGoRedis(cfg)
		var lower cache.CacheInterface[any] = cache.New[any](redisstore.NewRedis(client, store.WithExpiration(cfg.TTL)))
		if cfg.L1 >= 0 {
			r, err := ristretto.NewCache(&ristretto.Config[string, any]{
				NumCounters: int64(cfg.L1) * 10, MaxCost: int64(cfg.L1), BufferItems: 64, IgnoreInternalCost: true,
			})
			if err != nil {
				return nil, err
			}
			l1 := cache.New[any](ristrettostore.NewRistretto(anyKeys{r}, store.WithCost(1), store.WithExpiration(cfg.L1TTL)))
			lower = cache.NewChain[any](l1, cache.New[any](redisstore.NewRedis(client, store.WithExpiration(cfg.TTL))))
		}
		loadable := cache.NewLoadable[any](func(ctx context.Context, key any) (any, []store.Option, error) {
			p, err := cfg.Load(ctx, key.(string))
			if err != nil {
				return nil, nil, err
			}
			b, err := msgpack.Marshal(p)
			return b, nil, err
		}, lower)
		return &gocached{marshaler.New(loadable), loadable, client}, nil
	},
}

type gocached struct {
	cache    *marshaler.Marshaler
	loadable *cache.LoadableCache[any]
	client   *redis.Client
}

func (c *gocached) Get(ctx context.Context, key string) (p profile.Profile, err error) {
	_, err = c.cache.Get(ctx, key, &p)
	return p, err
}

func (c *gocached) Del(ctx context.Context, key string) error { return c.cache.Delete(ctx, key) }

func (c *gocached) Close() error {
	_ = c.loadable.Close()
	return c.client.Close()
}

// anyKeys gives ristretto the signature that the store asks for: ristretto's own keys are typed
// since its second version.
type anyKeys struct{ r *ristretto.Cache[string, any] }

func (a anyKeys) Get(key any) (any, bool) { return a.r.Get(key.(string)) }
func (a anyKeys) Del(key any)             { a.r.Del(key.(string)) }
func (a anyKeys) Clear()                  { a.r.Clear() }
func (a anyKeys) Wait()                   { a.r.Wait() }

func (a anyKeys) SetWithTTL(key, value any, cost int64, ttl time.Duration) bool {
	return a.r.SetWithTTL(key.(string), value, cost, ttl)
}
