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

func TestSlots(t *testing.T) {
	for key, want := range map[string]uint16{
		"123456789": 12739, "": 0, "foo": 12182, "{foo}bar": 12182, "a{foo}{bar}": 12182, "foo{}": 5542, "{": 4092,
	} {
		if got := slotOf(key); got != want {
			t.Errorf("slot of %q is %d; want %d", key, got, want)
		}
	}
}

// clusterForeigner is a client of a Cluster without any notion of freshet.
type clusterForeigner struct {
	t     *testing.T
	nodes []*testenv.RedisServer
	c     rueidis.Client
}

func (f *clusterForeigner) do(args ...string) rueidis.RedisResult {
	f.t.Helper()
	cmd := f.c.B().Arbitrary(args[0]).Keys(args[1]).Args(args[2:]...).Build()
	res := f.c.Do(context.Background(), cmd)
	if err := res.Error(); err != nil && !rueidis.IsRedisNil(err) {
		f.t.Fatalf("%q: %v", args, err)
	}
	return res
}

func (f *clusterForeigner) Get(key string) (val []byte, ok bool) {
	val, err := f.do("GET", key).AsBytes()
	return val, err == nil
}

func (f *clusterForeigner) Set(key string, val []byte, ttl time.Duration) {
	args := []string{"SET", key, string(val)}
	if ttl > 0 {
		args = append(args, "PX", millis(ttl))
	}
	f.do(args...)
}

func (f *clusterForeigner) Del(keys ...string) (n int) {
	for _, k := range keys {
		m, _ := f.do("DEL", k).AsInt64()
		n += int(m)
	}
	return n
}

func (f *clusterForeigner) FlushAll() {
	for _, s := range f.nodes {
		s.CLI(f.t, "FLUSHALL")
	}
}

func (f *clusterForeigner) EvictStamp(tag string) {
	for i := range 8 {
		f.do("DEL", newPartition("", i, 0).stamp+tag)
	}
}

func (f *clusterForeigner) TrimLog(keep int) {
	for i := range 8 {
		f.do("XTRIM", newPartition("", i, 0).log, "MAXLEN", "=", millis(time.Duration(keep)*time.Millisecond))
	}
}

func TestClusterContract(t *testing.T) {
	t.Parallel()
	g := testenv.Cluster(t)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{g.Servers[0].Addr()}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := &clusterForeigner{c: c, nodes: g.Servers[:3]}
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		f.t = t
		f.FlushAll()
		return storetest.Fixture{
			New:     func() store.Store { return open(t, g.URL(), Options{Budget: 5 * time.Second}) },
			Foreign: f,
		}
	})
}
