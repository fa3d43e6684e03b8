package adapters

import (
	"context"

	"github.com/dgraph-io/ristretto/v2"
	"golang.org/x/sync/singleflight"

	"github.com/freshetdev/freshet/bench/profile"
)

var ristrettoGoRedis = Adapter{
	Name: "by hand: ristretto+go-redis", Kind: ByHand, Module: "github.com/dgraph-io/ristretto/v2", Redis: true, Layer: true,
	New: func(cfg Config) (Cache, error) {
		c := &ristrettoHand{below: goRedis{cfg, newGoRedis(cfg)}}
		if cfg.L1 < 0 {
			return c, nil
		}
		var err error
		c.l1, err = ristretto.NewCache(&ristretto.Config[string, profile.Profile]{
			NumCounters: int64(cfg.L1) * 10, MaxCost: int64(cfg.L1), BufferItems: 64, IgnoreInternalCost: true,
		})
		return c, err
	},
}

type ristrettoHand struct {
	below  goRedis
	l1     *ristretto.Cache[string, profile.Profile] // nil: no process layer
	flight singleflight.Group
}

func (c *ristrettoHand) Get(ctx context.Context, key string) (profile.Profile, error) {
	if c.l1 != nil {
		if p, ok := c.l1.Get(key); ok {
			return p, nil
		}
	}
	v, err, _ := c.flight.Do(key, func() (any, error) {
		p, err := c.below.Get(ctx, key)
		if err == nil && c.l1 != nil {
			c.l1.SetWithTTL(key, p, 1, c.below.cfg.L1TTL)
		}
		return p, err
	})
	if err != nil {
		return profile.Profile{}, err
	}
	return v.(profile.Profile), nil
}

func (c *ristrettoHand) Del(ctx context.Context, key string) error {
	err := c.below.Del(ctx, key)
	if c.l1 != nil {
		c.l1.Del(key)
	}
	return err
}

func (c *ristrettoHand) Close() error {
	if c.l1 != nil {
		c.l1.Close()
	}
	return c.below.Close()
}
