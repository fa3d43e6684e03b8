package adapters

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/viccon/sturdyc"

	"github.com/freshetdev/freshet/bench/profile"
)

// sturdycGoRedis is sturdyc with its distributed storage over go-redis. It has no way to
// keep nothing in process, so that S2 gives it a millisecond.
var sturdycGoRedis = Adapter{
	Name: "sturdyc+go-redis", Kind: Peer, Module: "github.com/viccon/sturdyc", Redis: true, Layer: true, Refreshes: true,
	New: func(cfg Config) (Cache, error) {
		storage := sturdycRedis{newGoRedis(cfg), cfg.TTL}
		options := []sturdyc.Option{sturdyc.WithDistributedStorage(storage)}
		if cfg.Refresh > 0 {
			options = []sturdyc.Option{
				sturdyc.WithDistributedStorageEarlyRefreshes(storage, cfg.Refresh),
				sturdyc.WithEarlyRefreshes(cfg.Refresh, cfg.Refresh+cfg.Refresh/10, cfg.TTL, 10*time.Millisecond),
			}
		}
		client := sturdyc.New[profile.Profile](cfg.l1Size(), 16, cfg.l1TTL(), 10, options...)
		return &sturdycCache{cfg, client, storage}, nil
	},
}

type sturdycCache struct {
	cfg     Config
	client  *sturdyc.Client[profile.Profile]
	storage sturdycRedis
}

func (c *sturdycCache) Get(ctx context.Context, key string) (profile.Profile, error) {
	return c.client.GetOrFetch(ctx, key, func(ctx context.Context) (profile.Profile, error) {
		return c.cfg.Load(ctx, key)
	})
}

func (c *sturdycCache) Del(ctx context.Context, key string) error {
	err := c.storage.client.Del(ctx, key).Err()
	c.client.Delete(key)
	return err
}

func (c *sturdycCache) Close() error { return c.storage.client.Close() }

type sturdycRedis struct {
	client *redis.Client
	ttl    time.Duration
}

func (s sturdycRedis) Get(ctx context.Context, key string) ([]byte, bool) {
	b, err := s.client.Get(ctx, key).Bytes()
	return b, err == nil
}

func (s sturdycRedis) Set(ctx context.Context, key string, value []byte) {
	_ = s.client.Set(ctx, key, value, s.ttl).Err()
}

func (s sturdycRedis) GetBatch(ctx context.Context, keys []string) map[string][]byte {
	values, err := s.client.MGet(ctx, keys...).Result()
	if err != nil {
		return nil
	}
	found := make(map[string][]byte, len(keys))
	for i, v := range values {
		if v, ok := v.(string); ok {
			found[keys[i]] = []byte(v)
		}
	}
	return found
}

func (s sturdycRedis) SetBatch(ctx context.Context, records map[string][]byte) {
	for key, value := range records {
		s.Set(ctx, key, value)
	}
}

func (s sturdycRedis) Delete(ctx context.Context, key string) { _ = s.client.Del(ctx, key).Err() }

func (s sturdycRedis) DeleteBatch(ctx context.Context, keys []string) {
	_ = s.client.Del(ctx, keys...).Err()
}
