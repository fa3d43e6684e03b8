package adapters

import (
	"context"

	"github.com/redis/rueidis"
	aside "github.com/redis/rueidis/rueidisaside"

	"github.com/freshetdev/freshet/bench/profile"
)

// rueidisaside is DoCache with a lease in Redis: no stale set, one load per fleet, and a
// decode on every hit. Its time in process is its time in Redis.
var rueidisaside = Adapter{
	Name: "rueidisaside + JSON", Kind: Peer, Module: "github.com/redis/rueidis/rueidisaside", Redis: true, Layer: true,
	New: func(cfg Config) (Cache, error) {
		client, err := aside.NewClient(aside.ClientOption{
			// Without its process layer DoCache is a plain GET.
			ClientOption: rueidis.ClientOption{InitAddress: []string{cfg.Addr}, DisableCache: cfg.L1 < 0},
		})
		return &asideCache{cfg, client}, err
	},
}

type asideCache struct {
	cfg    Config
	client aside.CacheAsideClient
}

func (c *asideCache) Get(ctx context.Context, key string) (profile.Profile, error) {
	s, err := c.client.Get(ctx, c.cfg.TTL, key, func(ctx context.Context, key string) (string, error) {
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

func (c *asideCache) Del(ctx context.Context, key string) error { return c.client.Del(ctx, key) }

func (c *asideCache) Close() error {
	c.client.Close()
	return nil
}
