package adapters

import (
	"context"

	rocks "github.com/dtm-labs/rockscache"
	"github.com/redis/go-redis/v9"

	"github.com/freshetdev/freshet/bench/profile"
)

// rockscache keeps a stale load out of Redis by a lock in every entry. Every read is a Lua
// call, and it has no process layer.
var rockscache = Adapter{
	Name: "rockscache", Kind: Peer, Module: "github.com/dtm-labs/rockscache", Redis: true,
	New: func(cfg Config) (Cache, error) {
		client := newGoRedis(cfg)
		options := rocks.NewDefaultOptions()
		options.RandomExpireAdjustment = 0
		cfg.TTL += options.Delay // which it takes away again
		return &rocksCache{cfg, client, rocks.NewClient(client, options)}, nil
	},
}

type rocksCache struct {
	cfg    Config
	client *redis.Client
	cache  *rocks.Client
}

func (c *rocksCache) Get(ctx context.Context, key string) (profile.Profile, error) {
	s, err := c.cache.Fetch2(ctx, key, c.cfg.TTL, func() (string, error) {
		p, err := c.cfg.Load(ctx, key)
		if err != nil {
			return "", err
		}
		b, err := encode(p)
		return string(b), err
	})
	if err != nil {
		return profile.Profile{}, err
	}
	return decode([]byte(s))
}

func (c *rocksCache) Del(ctx context.Context, key string) error {
	return c.cache.TagAsDeleted2(ctx, key)
}

func (c *rocksCache) Close() error { return c.client.Close() }
