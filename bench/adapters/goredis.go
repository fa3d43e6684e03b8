package adapters

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/freshetdev/freshet/bench/profile"
)

// goRedisPlain is what most tutorials show: GET, and on a miss load and SET. Nothing merges callers.
var goRedisPlain = Adapter{
	Name: "by hand: go-redis, no single flight", Kind: ByHand, Module: "github.com/redis/go-redis/v9", Redis: true,
	New: func(cfg Config) (Cache, error) { return &goRedis{cfg, newGoRedis(cfg)}, nil },
}

// goRedis is also the lower half of the caches by hand that keep values in process.
type goRedis struct {
	cfg    Config
	client *redis.Client
}

func newGoRedis(cfg Config) *redis.Client { return redis.NewClient(&redis.Options{Addr: cfg.Addr}) }

// Get asks Redis, then the source. Redis' errors are misses.
func (c *goRedis) Get(ctx context.Context, key string) (profile.Profile, error) {
	if b, err := c.client.Get(ctx, key).Bytes(); err == nil {
		return decode(b)
	}
	p, err := c.cfg.Load(ctx, key)
	if err != nil {
		return p, err
	}
	if b, err := encode(p); err == nil {
		_ = c.client.Set(ctx, key, b, c.cfg.TTL).Err()
	}
	return p, nil
}

func (c *goRedis) Del(ctx context.Context, key string) error { return c.client.Del(ctx, key).Err() }
func (c *goRedis) Close() error                              { return c.client.Close() }
