package redisstore

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/storetest"
)

func TestContract(t *testing.T) {
	srv := testenv.Redis(t)
	for _, prefix := range []string{"", "app:"} {
		t.Run("prefix="+prefix, func(t *testing.T) {
			f := newForeigner(t, srv.Addr(), prefix)
			storetest.Run(t, func(t *testing.T) storetest.Fixture {
				f.t = t
				f.FlushAll()
				return storetest.Fixture{
					New:     func() store.Store { return open(t, srv.URL(), Options{Prefix: prefix, Budget: 5 * time.Second}) },
					Foreign: f,
				}
			})
		})
	}
}

// A foreigner is a client without any notion of freshet.
type foreigner struct {
	t      *testing.T
	c      rueidis.Client
	prefix string
}

func newForeigner(t *testing.T, addr, prefix string) *foreigner {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &foreigner{t: t, c: c, prefix: prefix}
}

func (f *foreigner) do(args ...string) rueidis.RedisResult {
	f.t.Helper()
	res := f.c.Do(context.Background(), f.c.B().Arbitrary(args...).Build())
	if err := res.Error(); err != nil && !rueidis.IsRedisNil(err) {
		f.t.Fatalf("%q: %v", args, err)
	}
	return res
}

func (f *foreigner) Get(key string) (val []byte, ok bool) {
	val, err := f.do("GET", f.prefix+key).AsBytes()
	return val, err == nil
}

func (f *foreigner) Set(key string, val []byte, ttl time.Duration) {
	args := []string{"SET", f.prefix + key, string(val)}
	if ttl > 0 {
		args = append(args, "PX", millis(ttl))
	}
	f.do(args...)
}

func (f *foreigner) Del(keys ...string) int {
	args := []string{"DEL"}
	for _, k := range keys {
		args = append(args, f.prefix+k)
	}
	n, _ := f.do(args...).AsInt64()
	return int(n)
}

func (f *foreigner) FlushAll() { f.do("FLUSHALL") }

func (f *foreigner) EvictStamp(tag string) { f.do("DEL", f.prefix+"{freshet:0}:stamp:"+tag) }

func (f *foreigner) TrimLog(keep int) {
	f.do("XTRIM", f.prefix+"{freshet:0}:log", "MAXLEN", "=", millis(time.Duration(keep)*time.Millisecond))
}
