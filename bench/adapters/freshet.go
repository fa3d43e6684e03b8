package adapters

import (
	"context"
	"time"

	"github.com/bytedance/sonic"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/bench/profile"
	"github.com/freshetdev/freshet/codec"
)

// freshetDefault is freshet as the README shows it: a typed get-or-load, one tag per key,
// trust checked on every hit, defaults otherwise.
var freshetDefault = Adapter{
	Name: "freshet", Kind: Ours, Redis: true, Layer: true, Refreshes: true,
	New: func(cfg Config) (Cache, error) { return newFreshet(cfg, nil) },
}

// freshetSonic has a faster codec than encoding/json.
var freshetSonic = Adapter{
	Name: "freshet, sonic", Kind: Ours, Redis: true,
	New: func(cfg Config) (Cache, error) { return newFreshet(cfg, sonicCodec{}) },
}

type freshetCache struct {
	client *freshet.Client
	cache  *freshet.Cache[string, profile.Profile]
}

func newFreshet(cfg Config, c codec.Codec[profile.Profile]) (*freshetCache, error) {
	var o freshet.Options
	if cfg.Patient {
		o.StoreBudget, o.StaleAtMost = 10*time.Second, time.Minute
	}
	client, err := freshet.Open(context.Background(), "redis://"+cfg.Addr, o)
	if err != nil {
		return nil, err
	}
	f := freshet.Config[string, profile.Profile]{
		Name:       "bench",
		TTL:        cfg.TTL,
		L1TTL:      cfg.L1TTL,
		MaxEntries: cfg.L1,
		Codec:      c,
		Tags:       func(key string) []string { return []string{freshet.Tag("users", key)} },
		Load: func(ctx context.Context, key string, _ *freshet.Load) (profile.Profile, error) {
			return cfg.Load(ctx, key)
		},
	}
	if cfg.Exact {
		f.Jitter, f.EarlyRefresh = -1, -1
	}
	if cfg.Refresh > 0 {
		f.TTL, f.Stale.WhileRevalidate = cfg.Refresh, cfg.TTL-cfg.Refresh
	}
	cache, err := freshet.NewCache(client, f)
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	return &freshetCache{client, cache}, nil
}

func (c *freshetCache) Get(ctx context.Context, key string) (profile.Profile, error) {
	return c.cache.Get(ctx, key)
}

func (c *freshetCache) Del(ctx context.Context, key string) error { return c.cache.Drop(ctx, key) }
func (c *freshetCache) Close() error                              { return c.client.Close() }

type sonicCodec struct{}

func (sonicCodec) Name() string { return "sonic" }

func (sonicCodec) Append(dst []byte, p profile.Profile) ([]byte, error) {
	b, err := sonic.ConfigStd.Marshal(p)
	if err != nil {
		return dst, err
	}
	return append(dst, b...), nil
}

func (sonicCodec) Decode(data []byte) (p profile.Profile, err error) {
	err = sonic.ConfigStd.Unmarshal(data, &p)
	return p, err
}
