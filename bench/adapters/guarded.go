package adapters

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/redis/rueidis"
	"golang.org/x/sync/singleflight"

	"github.com/freshetdev/freshet/bench/profile"
)

// otterRueidisGuarded is otter+rueidis by somebody who has seen Redis hang: a limit of
// 50 ms that is not the caller's deadline around every Redis call, and a breaker.
var otterRueidisGuarded = Adapter{
	Name: "otter+rueidis, 50 ms limit and breaker", Kind: Yardstick, Module: "github.com/redis/rueidis",
	Redis: true, Layer: true, Protected: true,
	New: func(cfg Config) (Cache, error) {
		// AlwaysPipelining and no retries: a deadline that passes must not close the connection.
		client, err := rueidis.NewClient(rueidis.ClientOption{
			InitAddress: []string{cfg.Addr}, AlwaysPipelining: true, DisableRetry: true,
		})
		if err != nil {
			return nil, err
		}
		c := &guarded{cfg: cfg, client: client}
		c.loader = otter.LoaderFunc[string, profile.Profile](c.fetch)
		if cfg.L1 >= 0 {
			c.l1, err = otter.New(&otter.Options[string, profile.Profile]{
				MaximumSize:      cfg.L1,
				ExpiryCalculator: otter.ExpiryWriting[string, profile.Profile](cfg.L1TTL),
			})
		}
		return c, err
	},
}

const (
	guardLimit    = 50 * time.Millisecond
	guardFailures = 5                      // in a row open the breaker
	guardPause    = 200 * time.Millisecond // until one call may try again
)

var errOpen = errors.New("breaker is open")

type guarded struct {
	cfg    Config
	client rueidis.Client
	l1     *otter.Cache[string, profile.Profile]
	loader otter.Loader[string, profile.Profile]
	flight singleflight.Group

	failures atomic.Int32
	retryAt  atomic.Int64 // Unix ns; the breaker is open before it
}

func (c *guarded) Get(ctx context.Context, key string) (profile.Profile, error) {
	if c.l1 != nil {
		return c.l1.Get(ctx, key, c.loader)
	}
	v, err, _ := c.flight.Do(key, func() (any, error) { return c.fetch(ctx, key) })
	if err != nil {
		return profile.Profile{}, err
	}
	return v.(profile.Profile), nil
}

func (c *guarded) fetch(ctx context.Context, key string) (profile.Profile, error) {
	if b, err := c.do(ctx, c.client.B().Get().Key(key).Build()).AsBytes(); err == nil {
		return decode(b)
	}
	p, err := c.cfg.Load(ctx, key)
	if err != nil {
		return p, err
	}
	if b, err := encode(p); err == nil {
		_ = c.do(ctx, c.client.B().Set().Key(key).Value(rueidis.BinaryString(b)).Px(c.cfg.TTL).Build()).Error()
	}
	return p, nil
}

// do lets one call through at a time while the breaker is open and its pause is over.
func (c *guarded) do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if c.failures.Load() >= guardFailures {
		now, at := time.Now().UnixNano(), c.retryAt.Load()
		if now < at || !c.retryAt.CompareAndSwap(at, now+int64(guardPause)) {
			return rueidis.NewErrorResult(errOpen)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guardLimit)
	defer cancel()
	r := c.client.Do(ctx, cmd)
	if err := r.NonRedisError(); err == nil {
		c.failures.Store(0)
	} else if c.failures.Add(1) == guardFailures {
		c.retryAt.Store(time.Now().Add(guardPause).UnixNano())
	}
	return r
}

func (c *guarded) Del(ctx context.Context, key string) error {
	err := c.do(ctx, c.client.B().Del().Key(key).Build()).Error()
	if c.l1 != nil {
		c.l1.Invalidate(key)
	}
	return err
}

func (c *guarded) Close() error {
	c.client.Close()
	return nil
}
