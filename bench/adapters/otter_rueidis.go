package adapters

import (
	"context"

	"github.com/maypok86/otter/v2"
	"github.com/redis/rueidis"
	"golang.org/x/sync/singleflight"

	"github.com/freshetdev/freshet/bench/profile"
)

// otterRueidis is the best cache put together by hand: otter holding the struct, a
// single flight, JSON, rueidis. The other lines are measured against it.
var otterRueidis = Adapter{
	Name: "by hand: otter+rueidis", Kind: ByHand, Module: "github.com/maypok86/otter/v2",
	Redis: true, Layer: true, Refreshes: true,
	New: func(cfg Config) (Cache, error) {
		client, err := newRueidis(cfg)
		if err != nil {
			return nil, err
		}
		c := &handMade{cfg: cfg, client: client}
		c.loader = handLoader{c}
		if cfg.L1 >= 0 {
			o := &otter.Options[string, profile.Profile]{
				MaximumSize:      cfg.L1,
				ExpiryCalculator: otter.ExpiryWriting[string, profile.Profile](cfg.L1TTL),
			}
			if cfg.Refresh > 0 {
				o.RefreshCalculator = otter.RefreshWriting[string, profile.Profile](cfg.Refresh)
			}
			if c.l1, err = otter.New(o); err != nil {
				return nil, err
			}
		}
		return c, nil
	},
}

type handMade struct {
	cfg    Config
	client rueidis.Client
	l1     *otter.Cache[string, profile.Profile] // nil: no process layer
	loader otter.Loader[string, profile.Profile]
	flight singleflight.Group // without otter, whose Get merges callers itself
}

func (c *handMade) Get(ctx context.Context, key string) (profile.Profile, error) {
	if c.l1 != nil {
		return c.l1.Get(ctx, key, c.loader)
	}
	v, err, _ := c.flight.Do(key, func() (any, error) { return c.fetch(ctx, key) })
	if err != nil {
		return profile.Profile{}, err
	}
	return v.(profile.Profile), nil
}

// fetch asks Redis, then the source. Redis' errors are misses.
func (c *handMade) fetch(ctx context.Context, key string) (profile.Profile, error) {
	if b, err := c.client.Do(ctx, c.client.B().Get().Key(key).Build()).AsBytes(); err == nil {
		return decode(b)
	}
	return c.load(ctx, key)
}

func (c *handMade) load(ctx context.Context, key string) (profile.Profile, error) {
	p, err := c.cfg.Load(ctx, key)
	if err != nil {
		return p, err
	}
	if b, err := encode(p); err == nil {
		_ = c.client.Do(ctx, c.client.B().Set().Key(key).Value(rueidis.BinaryString(b)).Px(c.cfg.TTL).Build()).Error()
	}
	return p, nil
}

func (c *handMade) Del(ctx context.Context, key string) error {
	err := c.client.Do(ctx, c.client.B().Del().Key(key).Build()).Error()
	if c.l1 != nil {
		c.l1.Invalidate(key)
	}
	return err
}

func (c *handMade) Close() error {
	c.client.Close()
	return nil
}

// handLoader is what otter calls: a miss asks Redis first, a refresh goes to the source.
type handLoader struct{ c *handMade }

func (l handLoader) Load(ctx context.Context, key string) (profile.Profile, error) {
	return l.c.fetch(ctx, key)
}

func (l handLoader) Reload(ctx context.Context, key string, _ profile.Profile) (profile.Profile, error) {
	return l.c.load(ctx, key)
}
