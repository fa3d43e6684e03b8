package adapters

import (
	"context"

	"github.com/redis/rueidis"
	"golang.org/x/sync/singleflight"

	"github.com/freshetdev/freshet/bench/profile"
)

// rueidisDoCache is rueidis' own process layer, kept fresh by Redis' tracking. It holds
// bytes, so every hit decodes. Its layer is bounded by bytes per connection, not by entries.
var rueidisDoCache = Adapter{
	Name: "by hand: rueidis DoCache + JSON", Kind: ByHand, Module: "github.com/redis/rueidis", Redis: true, Layer: true,
	New: func(cfg Config) (Cache, error) {
		client, err := newRueidis(cfg)
		return &doCache{cfg: cfg, client: client}, err
	},
}

type doCache struct {
	cfg    Config
	client rueidis.Client
	flight singleflight.Group
}

func (c *doCache) Get(ctx context.Context, key string) (profile.Profile, error) {
	b, err := c.client.DoCache(ctx, c.client.B().Get().Key(key).Cache(), c.cfg.l1TTL()).AsBytes()
	if err == nil {
		return decode(b)
	}
	v, err, _ := c.flight.Do(key, func() (any, error) {
		p, err := c.cfg.Load(ctx, key)
		if err != nil {
			return p, err
		}
		if b, err := encode(p); err == nil {
			_ = c.client.Do(ctx, c.client.B().Set().Key(key).Value(rueidis.BinaryString(b)).Px(c.cfg.TTL).Build()).Error()
		}
		return p, nil
	})
	if err != nil {
		return profile.Profile{}, err
	}
	return v.(profile.Profile), nil
}

func (c *doCache) Del(ctx context.Context, key string) error {
	return c.client.Do(ctx, c.client.B().Del().Key(key).Build()).Error()
}

func (c *doCache) Close() error {
	c.client.Close()
	return nil
}
