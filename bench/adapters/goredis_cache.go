package adapters

import (
	"context"

	"github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"

	"github.com/freshetdev/freshet/bench/profile"
)

// goRedisCache is go-redis/cache with its TinyLFU and its own encoding (msgpack, s2).
var goRedisCache = Adapter{
	Name: "go-redis/cache", Kind: Peer, Module: "github.com/go-redis/cache/v9", Redis: true, Layer: true,
	New: func(cfg Config) (Cache, error) {
		client := newGoRedis(cfg)
		o := &cache.Options{Redis: client}
		if cfg.L1 >= 0 {
			o.LocalCache = cache.NewTinyLFU(cfg.L1, cfg.L1TTL)
		}
		return &goRedisCached{cfg, client, cache.New(o)}, nil
	},
}

type goRedisCached struct {
	cfg    Config
	client *redis.Client
	cache  *cache.Cache
}

func (c *goRedisCached) Get(ctx context.Context, key string) (p profile.Profile, err error) {
	err = c.cache.Once(&cache.Item{
		Ctx: ctx, Key: key, Value: &p, TTL: c.cfg.TTL,
		Do: func(*cache.Item) (any, error) { return c.cfg.Load(ctx, key) },
	})
	return p, err
}

func (c *goRedisCached) Del(ctx context.Context, key string) error { return c.cache.Delete(ctx, key) }
func (c *goRedisCached) Close() error                              { return c.client.Close() }
