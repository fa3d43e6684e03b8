package adapters

import (
	"context"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/freshetdev/freshet/bench/profile"
)

// otterStruct is otter as everybody would use it, without Redis.
var otterStruct = Adapter{
	Name: "otter, struct", Kind: Yardstick, Module: "github.com/maypok86/otter/v2", Layer: true,
	New: func(cfg Config) (Cache, error) {
		c, err := otter.New(&otter.Options[string, profile.Profile]{
			MaximumSize:      cfg.l1Size(),
			ExpiryCalculator: otter.ExpiryWriting[string, profile.Profile](cfg.l1TTL()),
		})
		return &bareOtter{c, otter.LoaderFunc[string, profile.Profile](cfg.Load)}, err
	},
}

type bareOtter struct {
	cache *otter.Cache[string, profile.Profile]
	load  otter.Loader[string, profile.Profile]
}

func (c *bareOtter) Get(ctx context.Context, key string) (profile.Profile, error) {
	return c.cache.Get(ctx, key, c.load)
}

func (c *bareOtter) Del(_ context.Context, key string) error {
	c.cache.Invalidate(key)
	return nil
}

func (c *bareOtter) Close() error { return nil }

// otterPointer is the fastest that otter can be: a pointer to an immutable value, and
// a clock that is read once a millisecond.
var otterPointer = Adapter{
	Name: "otter, pointer, coarse clock", Kind: Yardstick, Module: "github.com/maypok86/otter/v2", Layer: true,
	New: func(cfg Config) (Cache, error) {
		c, err := otter.New(&otter.Options[string, *profile.Profile]{
			MaximumSize:      cfg.l1Size(),
			ExpiryCalculator: otter.ExpiryWriting[string, *profile.Profile](cfg.l1TTL()),
			Clock:            otter.NewCoarseClock(time.Millisecond),
		})
		load := func(ctx context.Context, key string) (*profile.Profile, error) {
			p, err := cfg.Load(ctx, key)
			return &p, err
		}
		return &pointerOtter{c, otter.LoaderFunc[string, *profile.Profile](load)}, err
	},
}

type pointerOtter struct {
	cache *otter.Cache[string, *profile.Profile]
	load  otter.Loader[string, *profile.Profile]
}

func (c *pointerOtter) Get(ctx context.Context, key string) (profile.Profile, error) {
	p, err := c.cache.Get(ctx, key, c.load)
	if err != nil {
		return profile.Profile{}, err
	}
	return *p, nil
}

func (c *pointerOtter) Del(_ context.Context, key string) error {
	c.cache.Invalidate(key)
	return nil
}

func (c *pointerOtter) Close() error { return nil }
