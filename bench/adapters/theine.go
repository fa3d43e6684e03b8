package adapters

import (
	"context"

	"github.com/Yiling-J/theine-go"
	"golang.org/x/sync/singleflight"

	"github.com/freshetdev/freshet/bench/profile"
)

var theineGoRedis = Adapter{
	Name: "by hand: theine+go-redis", Kind: ByHand, Module: "github.com/Yiling-J/theine-go", Redis: true, Layer: true,
	New: func(cfg Config) (Cache, error) {
		c := &theineHand{below: goRedis{cfg, newGoRedis(cfg)}}
		if cfg.L1 < 0 {
			return c, nil
		}
		var err error
		c.l1, err = theine.NewBuilder[string, profile.Profile](int64(cfg.L1)).BuildWithLoader(
			func(ctx context.Context, key string) (theine.Loaded[profile.Profile], error) {
				p, err := c.below.Get(ctx, key)
				return theine.Loaded[profile.Profile]{Value: p, Cost: 1, TTL: cfg.L1TTL}, err
			})
		return c, err
	},
}

type theineHand struct {
	below  goRedis
	l1     *theine.LoadingCache[string, profile.Profile] // nil: no process layer
	flight singleflight.Group                            // without theine, which merges callers itself
}

func (c *theineHand) Get(ctx context.Context, key string) (profile.Profile, error) {
	if c.l1 != nil {
		return c.l1.Get(ctx, key)
	}
	v, err, _ := c.flight.Do(key, func() (any, error) { return c.below.Get(ctx, key) })
	if err != nil {
		return profile.Profile{}, err
	}
	return v.(profile.Profile), nil
}

func (c *theineHand) Del(ctx context.Context, key string) error {
	err := c.below.Del(ctx, key)
	if c.l1 != nil {
		c.l1.Delete(key)
	}
	return err
}

func (c *theineHand) Close() error {
	if c.l1 != nil {
		c.l1.Close()
	}
	return c.below.Close()
}
