package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/storetest"
)

func TestSlots(t *testing.T) {
	for key, want := range map[string]uint16{
		"123456789": 12739, "": 0, "foo": 12182, "{foo}bar": 12182, "a{foo}{bar}": 12182, "foo{}": 5542, "{": 4092,
	} {
		if got := redisx.SlotOf(key); got != want {
			t.Errorf("slot of %q is %d; want %d", key, got, want)
		}
	}
}

// clusterForeigner is a client of a Cluster without any notion of freshet.
type clusterForeigner struct {
	t *testing.T
	c rueidis.Client
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
	for _, n := range f.c.Nodes() {
		if err := n.Do(context.Background(), n.B().Flushall().Build()).Error(); err != nil && !strings.Contains(err.Error(), "READONLY") {
			f.t.Fatal(err)
		}
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

// One Cluster serves many tests, since to start one takes seconds.
func TestCluster(t *testing.T) {
	t.Parallel()
	g := testenv.Cluster(t)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{g.Servers[0].Addr()}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := &clusterForeigner{c: c, t: t}
	t.Run("contract", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Fixture {
			f.t = t
			f.FlushAll()
			return storetest.Fixture{
				New:     func() store.Store { return open(t, g.URL(), Options{Budget: 5 * time.Second}) },
				Foreign: f,
			}
		})
	})
	for _, c := range []struct {
		name string
		test func(t *testing.T, g *testenv.ClusterGroup)
	}{
		{"many keys", testClusterManyKeys},
		{"partitions", testClusterPartitions},
		{"migration", testClusterMigration},
		{"redo", testClusterRedo},
		{"failover", testClusterFailover},
	} {
		f.t = t
		f.FlushAll()
		t.Run(c.name, func(t *testing.T) { c.test(t, g) })
	}
}

// startLogs begins an epoch in every partition.
func startLogs(t *testing.T, s *Store) {
	t.Helper()
	for i := range s.Partitions() {
		if _, err := s.NewEpoch(t.Context(), i, store.Head{}, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// keyOn returns a key that a server has, or one that it doesn't have.
func keyOn(t *testing.T, g *testenv.ClusterGroup, s *testenv.RedisServer, has bool, name func(i int) string) (key string, i int) {
	t.Helper()
	for i := range 100 {
		if key := name(i); (g.Primary(t, key) == s) == has {
			return key, i
		}
	}
	t.Fatal("no key found")
	return "", 0
}

func testClusterManyKeys(t *testing.T, g *testenv.ClusterGroup) {
	s := open(t, g.URL(), roomy)
	startLogs(t, s)
	ctx := t.Context()
	var keys []string
	var reqs []store.ClaimRequest
	for i := range 300 {
		keys = append(keys, fmt.Sprint("k", i))
		reqs = append(reqs, store.ClaimRequest{Key: keys[i], ID: newID(), TTL: time.Minute, Plain: true})
	}
	var fills []store.FillRequest
	for i, c := range s.Claim(ctx, reqs) {
		if c.Outcome != store.Leased {
			t.Fatalf("claim of %s is %+v; want leased", keys[i], c)
		}
		fills = append(fills, store.FillRequest{Lease: c.Lease, Image: []byte(keys[i]), TTL: time.Minute})
	}
	for i, err := range s.Fill(ctx, fills) {
		if err != nil {
			t.Fatalf("fill of %s: %v", keys[i], err)
		}
	}
	check := func(want bool) {
		t.Helper()
		vals, err := s.Read(ctx, keys, true)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range vals {
			if (string(v.Image) == keys[i] && v.TTL > 0) != want {
				t.Fatalf("%s holds %q for %v", keys[i], v.Image, v.TTL)
			}
		}
	}
	check(true)
	if _, err := s.Drop(ctx, 3, store.Drop{Keys: keys}, store.Head{}); err != nil {
		t.Fatal(err)
	}
	check(false)
}

func testClusterFailover(t *testing.T, g *testenv.ClusterGroup) {
	s := open(t, g.URL(), roomy)
	startLogs(t, s)
	ctx := t.Context()
	d := watch(t, s)
	if err := s.Write(ctx, "k", record("v"), time.Minute); err != nil {
		t.Fatal(err)
	}
	works := func() bool {
		if !s.linked() {
			return false
		}
		v, err := s.Read(ctx, []string{"k"}, false)
		if err != nil || v[0].Image == nil {
			return false
		}
		for i := range s.Partitions() {
			if _, err := s.Head(ctx, i); err != nil {
				return false
			}
			if _, err := s.Drop(ctx, i, store.Drop{Tags: []string{"t"}}, store.Head{}); err != nil {
				return false
			}
		}
		return true
	}
	// By hand: nothing is lost, and reads go on by redirections.
	old := g.Primary(t, "k")
	now := g.Failover(t, old)
	eventually(t, "reads are served", func() bool {
		v, err := s.Read(ctx, []string{"k"}, false)
		return err == nil && v[0].Image != nil
	})
	eventually(t, "all is served", works)
	if !d.has(func(d *diary) bool { return slices.ContainsFunc(d.links, func(l store.Link) bool { return !l.Up }) })() {
		t.Error("no loss was told, though keys have moved")
	}

	// A crash.
	now.WaitReplicas(t, g.Replica(t, now))
	now.Kill()
	began := time.Now()
	g.WaitPrimary(t, old)
	eventually(t, "all is served again", works)
	t.Logf("the crash took %v", time.Since(began))
	now.Restart()
	g.Settle(t, 3)
	eventually(t, "all is served still", works)
}

// A primary dies and takes along a deletion, of which the log is on another node.
func testClusterRedo(t *testing.T, g *testenv.ClusterGroup) {
	s := open(t, g.URL(), roomy)
	startLogs(t, s)
	ctx := t.Context()
	old := g.Servers[0]
	_, part := keyOn(t, g, old, false, func(i int) string { return newPartition("", i, 0).log })
	var keys []string
	for i := range 100 {
		if key := fmt.Sprint("k", i); g.Primary(t, key) == old {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if err := s.Write(ctx, key, record("old"), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	drop := func(d store.Drop) {
		t.Helper()
		if _, err := s.Drop(ctx, part, d, store.Head{}); err != nil {
			t.Fatal(err)
		}
	}
	// A link that is lost to a server that isn't another needs nothing again.
	unlinked := func() string { return between(old.CLI(t, "INFO", "commandstats"), "cmdstat_unlink:calls=", ",") }
	drop(store.Drop{Keys: keys[:1]})
	before := unlinked()
	node, err := s.nodeOf(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	l := node.gate.linked()
	l.Fail(errors.New("for a test"))
	eventually(t, "the link is another", func() bool { n := node.gate.linked(); return n != nil && n != l })
	if now := unlinked(); now != before || before == "" {
		t.Errorf("UNLINK was called %s times, and %s after a new link to the same server; want no more", before, now)
	}

	replica := g.Replica(t, old)
	old.WaitReplicas(t, replica)
	cutReplicas(t, old, replica)
	for i, key := range keys {
		drop(store.Drop{Keys: []string{key}})
		for range 3 * redoChunk / len(keys) {
			drop(store.Drop{Tags: []string{fmt.Sprint("t", i)}})
		}
	}
	old.Kill()
	replica.Resume()
	eventually(t, "the keys are asked for", func() bool {
		vals, err := s.Read(ctx, keys, false)
		for i, v := range vals {
			if err == nil && v.Image != nil {
				t.Fatalf("%s, which was dropped, is back", keys[i])
			}
		}
		return err == nil
	})
	if g.Primary(t, keys[0]) != replica {
		t.Error("the replica is no primary")
	}
	old.Restart()
	g.Settle(t, 3)
}

// between returns what is between two texts, or nothing.
func between(s, from, to string) string {
	_, rest, ok := strings.Cut(s, from)
	if !ok {
		return ""
	}
	text, _, _ := strings.Cut(rest, to)
	return text
}

// Calls go on while a slot is on its way to another node.
func testClusterMigration(t *testing.T, g *testenv.ClusterGroup) {
	s := open(t, g.URL(), roomy)
	other := open(t, g.URL(), roomy)
	startLogs(t, s)
	ctx := t.Context()
	d := watch(t, s)
	log := newPartition("", 2, 0).log
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprintf("{freshet-test}%d", i))
	}
	check := func(want string) {
		t.Helper()
		for _, k := range keys {
			v, err := relinked(func() ([]store.Value, error) { return s.Read(ctx, []string{k}, false) })
			if err != nil || string(v[0].Image) != want {
				t.Fatalf("%s holds %q, %v; want %q", k, v, err, want)
			}
		}
		vals, err := relinked(func() ([]store.Value, error) { return s.Read(ctx, keys, false) })
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range vals {
			if string(v.Image) != want {
				t.Fatalf("%s holds %q; want %q", keys[i], v.Image, want)
			}
		}
	}
	for _, k := range keys {
		if _, err := relinked(func() (struct{}, error) { return struct{}{}, s.Write(ctx, k, []byte("v"), time.Minute) }); err != nil {
			t.Fatal(err)
		}
	}
	check("v")
	g.Migrate(t, keys[0], func() {
		check("v")
		// A drop finds its keys on either side.
		if _, err := relinked(func() (store.LogEntry, error) { return other.Drop(ctx, 0, store.Drop{Keys: keys[:10]}, store.Head{}) }); err != nil {
			t.Error(err)
		}
		for _, k := range keys[:10] {
			if v, err := relinked(func() ([]store.Value, error) { return s.Read(ctx, []string{k}, false) }); err != nil || v[0].Image != nil {
				t.Errorf("%s holds %q, %v after its drop", k, v, err)
			}
		}
		for _, k := range keys[:10] {
			if _, err := relinked(func() (struct{}, error) { return struct{}{}, s.Write(ctx, k, []byte("v"), time.Minute) }); err != nil {
				t.Error(err)
			}
		}
	})
	check("v")
	for _, k := range keys {
		c, _ := relinked(func() (store.Claim, error) {
			c := s.Claim(ctx, []store.ClaimRequest{{Key: k, ID: newID(), TTL: time.Minute}})[0]
			return c, c.Err
		})
		if c.Outcome != store.Held {
			t.Fatalf("claim of %s is %+v; want held", k, c)
		}
	}

	// A log moves, too: drops may have to wait, and are announced at its new place.
	head, err := relinked(func() (store.Head, error) { return s.Head(ctx, 2) })
	if err != nil {
		t.Fatal(err)
	}
	g.Migrate(t, log, func() {
		if h, err := relinked(func() (store.Head, error) { return s.Head(ctx, 2) }); err != nil || h != head {
			t.Errorf("head of a log on its way: %v, %v; want %v", h, err, head)
		}
	})
	drop := func() (store.LogEntry, error) { return other.Drop(ctx, 2, store.Drop{Tags: []string{"t"}}, head) }
	e, err := relinked(drop)
	if err != nil || e.Prev != head.Pos {
		t.Fatalf("drop: %+v, %v; want a link to %v", e, err, head)
	}
	if h, err := relinked(func() (store.Head, error) { return s.Head(ctx, 2) }); err != nil || h != e.Head {
		t.Errorf("head is %v, %v; want %v", h, err, e.Head)
	}
	eventually(t, "the store listens at the new place", func() bool {
		n, err := s.nodeOf(log)
		if err != nil || n.addr != g.Primary(t, log).Addr() {
			return false
		}
		l := n.gate.linked()
		return l != nil && slices.Contains(l.parts, 2) && s.linked()
	})
	if e, err = relinked(drop); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the drop is announced", d.has(func(d *diary) bool {
		return slices.ContainsFunc(d.logged, func(l store.LogEntry) bool { return l.Head == e.Head })
	}))
}

// relinked repeats f while the store makes a new link, since slots moved.
func relinked[T any](f func() (T, error)) (v T, err error) {
	for range 1000 {
		if v, err = f(); !errors.Is(err, store.ErrUnavailable) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return v, err
}

// All clients must count the partitions alike.
func testClusterPartitions(t *testing.T, g *testenv.ClusterGroup) {
	s := open(t, g.URL()+"?partitions=3", roomy)
	if n := s.Partitions(); n != 3 {
		t.Errorf("%d partitions; want 3", n)
	}
	startLogs(t, s)
	wrong, err := Open(g.URL(), roomy)
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	eventually(t, "the difference is told", func() bool {
		_, err = wrong.Head(t.Context(), 0)
		return err != nil && strings.Contains(err.Error(), `"3" partitions, as {freshet:0}:partitions says; want 8`)
	})
	if !errors.Is(err, store.ErrUnavailable) || wrong.linked() {
		t.Errorf("got %v; want unavailable", err)
	}
	for i := range wrong.Partitions() {
		if _, err := wrong.Drop(t.Context(), i, store.Drop{Tags: []string{"t"}}, store.Head{}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("drop in partition %d: %v; want unavailable", i, err)
		}
	}

	// All was deleted, and somebody else came first.
	g.Primary(t, "{freshet:0}").CLI(t, "SET", "{freshet:0}:partitions", "4")
	if _, err := s.Head(t.Context(), 0); err == nil {
		t.Error("another number of partitions was not noticed")
	}
	eventually(t, "nothing is taken", func() bool {
		for i := range s.Partitions() {
			if _, err := s.Drop(t.Context(), i, store.Drop{Tags: []string{"t"}}, store.Head{}); err == nil {
				return false
			}
		}
		return true
	})
	g.Primary(t, "{freshet:0}").CLI(t, "SET", "{freshet:0}:partitions", "3")
	up(t, s)
	other := open(t, g.URL()+"?partitions=3", roomy)
	if h, err := other.Head(t.Context(), 2); err != nil || h.Pos == 0 {
		t.Errorf("head: %v, %v", h, err)
	}
}

// Before Redis 7 there is no sharded Pub/Sub.
func TestClusterPlainPubSub(t *testing.T) {
	t.Parallel()
	g := testenv.Cluster(t, testenv.Args("--rename-command", "SSUBSCRIBE", "", "--rename-command", "SPUBLISH", ""))
	s := open(t, g.URL(), roomy)
	startLogs(t, s)
	d := watch(t, s)
	for i := range s.Partitions() {
		e, err := s.Drop(t.Context(), i, store.Drop{Tags: []string{"t"}}, store.Head{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Head(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		if !d.has(func(d *diary) bool {
			return slices.ContainsFunc(d.logged, func(l store.LogEntry) bool { return l.Head == e.Head })
		})() {
			t.Errorf("the drop in partition %d was not told before the head came", i)
		}
	}
}

func TestClusterStartsWithoutServer(t *testing.T) {
	t.Parallel()
	s, err := Open("redis+cluster://127.0.0.1:1,127.0.0.1:2", Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := watch(t, s)
	for name, call := range map[string]func() error{
		"head": func() error { _, err := s.Head(t.Context(), 0); return err },
		"read": func() error { _, err := s.Read(t.Context(), []string{"a", "b"}, false); return err },
		"drop": func() error {
			_, err := s.Drop(t.Context(), 0, store.Drop{Keys: []string{"a"}}, store.Head{})
			return err
		},
	} {
		if err := call(); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v; want unavailable", name, err)
		}
	}
	eventually(t, "the breaker is told", d.has(func(d *diary) bool { return slices.Equal(d.breaker, []bool{true}) }))
	s.Close()
	if _, err := s.Read(t.Context(), []string{"a"}, false); !errors.Is(err, store.ErrClosed) {
		t.Errorf("read: %v; want closed", err)
	}
}
