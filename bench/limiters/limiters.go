// Package limiters puts the rate limiters of the comparison behind one small interface: each used as its documentation
// shows, with the defaults of its client.
package limiters

import (
	"context"
	_ "embed" // for the script
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	throttledredis "github.com/throttled/throttled/v2/store/goredisstore.v9"
	throttledmemory "github.com/throttled/throttled/v2/store/memstore"
	ulule "github.com/ulule/limiter/v3"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"
	"golang.org/x/time/rate"

	"github.com/freshetdev/freshet/bench/adapters"
	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/memlimit"
	"github.com/freshetdev/freshet/limit/redislimit"
)

// A Limiter is one instance.
type Limiter struct {
	// Allow takes one unit of key.
	Allow func(ctx context.Context, key string) (bool, error)

	// AllowThree takes one unit of three limits of key, all or nothing; nil where that can't be.
	AllowThree func(ctx context.Context, key string) (bool, error)

	Close func()
}

// A Config is what a scenario asks of a limiter.
type Config struct {
	Addr string

	// Scarce allows one unit an hour; otherwise there are more than anybody can take: a million a second, and
	// a burst of a hundred million.
	Scarce bool
}

func (c Config) rate() (units int, per time.Duration, burst int) {
	if c.Scarce {
		return 1, time.Hour, 1
	}
	return 1_000_000, time.Second, 100_000_000
}

type contestant struct {
	adapters.Adapter
	new func(Config) (Limiter, error)
}

// The names that targets are about.
const (
	Script       = "rueidis, the same script"
	RedisRate    = "redis_rate"
	Ours         = "freshet"
	Unremembered = "freshet, refusals not remembered"
	Ahead        = "freshet, 10,000 ahead"
	Memory       = "freshet, in process"
)

var contestants = []contestant{
	{adapters.Adapter{Name: "x/time/rate in sync.Map", Kind: adapters.Peer, Module: "golang.org/x/time", Layer: true}, newXTime},
	{adapters.Adapter{Name: "ulule, memory", Kind: adapters.Peer, Module: "github.com/ulule/limiter/v3", Layer: true}, newUluleMemory},
	{adapters.Adapter{Name: "throttled, memory", Kind: adapters.Peer, Module: "github.com/throttled/throttled/v2", Layer: true}, newThrottledMemory},
	{adapters.Adapter{Name: "go-limiter", Kind: adapters.Peer, Module: "github.com/sethvargo/go-limiter", Layer: true}, newGoLimiter},
	{adapters.Adapter{Name: Memory, Kind: adapters.Ours, Layer: true}, newMemory},
	{adapters.Adapter{Name: Script, Kind: adapters.Yardstick, Module: "github.com/redis/rueidis", Redis: true}, newScript},
	{adapters.Adapter{Name: Ours, Kind: adapters.Ours, Redis: true}, func(c Config) (Limiter, error) { return newFreshet(c, limit.Options{}, 0) }},
	{adapters.Adapter{Name: Unremembered, Kind: adapters.Ours, Redis: true}, func(c Config) (Limiter, error) { return newFreshet(c, limit.Options{RefusedKeys: -1}, 0) }},
	{adapters.Adapter{Name: Ahead, Kind: adapters.Ours, Redis: true}, func(c Config) (Limiter, error) { return newFreshet(c, limit.Options{}, 10_000) }},
	{adapters.Adapter{Name: RedisRate, Kind: adapters.Peer, Module: "github.com/go-redis/redis_rate/v10", Redis: true}, newRedisRate},
	{adapters.Adapter{Name: "ulule, Redis", Kind: adapters.Peer, Module: "github.com/ulule/limiter/v3", Redis: true}, newUluleRedis},
	{adapters.Adapter{Name: "throttled, Redis", Kind: adapters.Peer, Module: "github.com/throttled/throttled/v2", Redis: true}, newThrottledRedis},
}

// All are the limiters, in the order of the tables.
func All() (all []adapters.Adapter) {
	for _, c := range contestants {
		all = append(all, c.Adapter)
	}
	return all
}

// New makes a limiter.
func New(name string, cfg Config) (Limiter, error) {
	for _, c := range contestants {
		if c.Name == name {
			l, err := c.new(cfg)
			if l.Close == nil {
				l.Close = func() {}
			}
			return l, err
		}
	}
	return Limiter{}, fmt.Errorf("no limiter %q", name)
}

func newXTime(c Config) (Limiter, error) {
	units, per, burst := c.rate()
	var all sync.Map
	return Limiter{Allow: func(_ context.Context, key string) (bool, error) {
		l, ok := all.Load(key)
		if !ok {
			l, _ = all.LoadOrStore(key, rate.NewLimiter(rate.Every(per/time.Duration(units)), burst))
		}
		return l.(*rate.Limiter).Allow(), nil
	}}, nil
}

func newUluleMemory(c Config) (Limiter, error) { return newUlule(c, ululememory.NewStore(), nil) }

func newUluleRedis(c Config) (Limiter, error) {
	client := redis.NewClient(&redis.Options{Addr: c.Addr})
	store, err := ululeredis.NewStore(client)
	if err != nil {
		return Limiter{}, err
	}
	return newUlule(c, store, func() { _ = client.Close() })
}

func newUlule(c Config, store ulule.Store, end func()) (Limiter, error) {
	r := ulule.Rate{Period: time.Hour, Limit: math.MaxInt32}
	if c.Scarce {
		r.Limit = 1
	}
	l := ulule.New(store, r)
	return Limiter{Close: end, Allow: func(ctx context.Context, key string) (bool, error) {
		res, err := l.Get(ctx, key)
		return err == nil && !res.Reached, err
	}}, nil
}

func newThrottledMemory(c Config) (Limiter, error) {
	store, err := throttledmemory.NewCtx(0)
	if err != nil {
		return Limiter{}, err
	}
	return newThrottled(c, store, nil)
}

func newThrottledRedis(c Config) (Limiter, error) {
	client := redis.NewClient(&redis.Options{Addr: c.Addr})
	store, err := throttledredis.NewCtx(client, "throttled:")
	if err != nil {
		return Limiter{}, err
	}
	return newThrottled(c, store, func() { _ = client.Close() })
}

func newThrottled(c Config, store throttled.GCRAStoreCtx, end func()) (Limiter, error) {
	units, _, burst := c.rate()
	quota := throttled.RateQuota{MaxRate: throttled.PerSec(units), MaxBurst: burst}
	if c.Scarce {
		quota = throttled.RateQuota{MaxRate: throttled.PerHour(1)}
	}
	l, err := throttled.NewGCRARateLimiterCtx(store, quota)
	if err != nil {
		return Limiter{}, err
	}
	return Limiter{Close: end, Allow: func(ctx context.Context, key string) (bool, error) {
		limited, _, err := l.RateLimitCtx(ctx, key, 1)
		return err == nil && !limited, err
	}}, nil
}

func newGoLimiter(c Config) (Limiter, error) {
	tokens := uint64(math.MaxInt32)
	if c.Scarce {
		tokens = 1
	}
	store, err := memorystore.New(&memorystore.Config{Tokens: tokens, Interval: time.Hour})
	if err != nil {
		return Limiter{}, err
	}
	return Limiter{
		Close: func() { _ = store.Close(context.Background()) },
		Allow: func(ctx context.Context, key string) (bool, error) {
			_, _, _, ok, err := store.Take(ctx, key)
			return ok, err
		},
	}, nil
}

func newRedisRate(c Config) (Limiter, error) {
	units, per, burst := c.rate()
	client := redis.NewClient(&redis.Options{Addr: c.Addr})
	l := redis_rate.NewLimiter(client)
	at := redis_rate.Limit{Rate: units, Period: per, Burst: burst}
	return Limiter{
		Close: func() { _ = client.Close() },
		Allow: func(ctx context.Context, key string) (bool, error) {
			res, err := l.Allow(ctx, key, at)
			return err == nil && res.Allowed > 0, err
		},
	}, nil
}

// gcra is the script of redislimit: a copy, since one module can't embed another's files. A test compares them.
//
//go:embed gcra.lua
var gcra string

// newScript is what one would write by hand with rueidis.
func newScript(c Config) (Limiter, error) {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{c.Addr}, DisableCache: true})
	if err != nil {
		return Limiter{}, err
	}
	units, per, burst := c.rate()
	interval := per.Microseconds() / int64(units)
	tolerance := interval * int64(burst)
	args := []string{strconv.FormatInt(interval, 10), strconv.FormatInt(tolerance-interval, 10), strconv.FormatInt(2*tolerance, 10)}
	script := rueidis.NewLuaScript(gcra)
	return Limiter{
		Close: client.Close,
		Allow: func(ctx context.Context, key string) (bool, error) {
			debt, err := script.Exec(ctx, client, []string{"script:" + key}, args).AsInt64()
			return debt >= 0, err
		},
	}, nil
}

var errDegraded = errors.New("degraded")

// newFreshet is a Limiter over redislimit. Its timeout is long: a busy machine shall show as a slow decision, not as none.
func newFreshet(c Config, o limit.Options, ahead int64) (Limiter, error) {
	store, err := redislimit.Open("redis://"+c.Addr, redislimit.Options{})
	if err != nil {
		return Limiter{}, err
	}
	l, err := newOurs(c, store, o, ahead)
	for range 500 { // it connects in the background
		if _, err = l.Allow(context.Background(), "warm"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return l, err
}

func newMemory(c Config) (Limiter, error) {
	return newOurs(c, memlimit.New(memlimit.Options{}), limit.Options{}, 0)
}

func newOurs(c Config, store limit.Store, o limit.Options, ahead int64) (Limiter, error) {
	o.Timeout, o.BreakAfter = time.Second, -1
	l, err := limit.New(store, o)
	if err != nil {
		return Limiter{}, err
	}
	units, per, burst := c.rate()
	var policies [3]*limit.Policy
	for i, name := range []string{"user", "plan", "tenant"} {
		if policies[i], err = limit.NewPolicy(name, limit.Spec{Limit: int64(units), Period: per, Burst: int64(burst), Advance: ahead}); err != nil {
			return Limiter{}, err
		}
	}
	answer := func(d limit.Decision, err error) (bool, error) {
		if err == nil && d.Degraded {
			err = errors.Join(errDegraded, d.Err)
		}
		return err == nil && d.Allowed, err
	}
	return Limiter{
		Close: func() { _ = l.Close() },
		Allow: func(ctx context.Context, key string) (bool, error) {
			return answer(l.Decide(ctx, limit.Request{Policy: policies[0], Key: key}))
		},
		AllowThree: func(ctx context.Context, key string) (bool, error) {
			return answer(l.Decide(ctx, limit.Request{Policy: policies[0], Key: key}, limit.Request{Policy: policies[1], Key: key}, limit.Request{Policy: policies[2], Key: key}))
		},
	}, nil
}
