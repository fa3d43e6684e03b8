package redisstore

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/storetest"
)

func TestSentinelContract(t *testing.T) {
	t.Parallel()
	g := testenv.Sentinel(t)
	for _, s := range g.Sentinels {
		// The suite knows one primary. A busy machine must not look like a dead one.
		s.CLI(t, "SENTINEL", "SET", "mymaster", "down-after-milliseconds", "60000")
	}
	f := newForeigner(t, g.Primary(t).Addr(), "")
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		f.t = t
		f.FlushAll()
		return storetest.Fixture{
			New:     func() store.Store { return open(t, g.URL(), Options{Budget: 5 * time.Second}) },
			Foreign: f,
		}
	})
}

// cutReplicas stops the replicas so that they get nothing of what comes.
func cutReplicas(t *testing.T, primary *testenv.RedisServer, replicas ...*testenv.RedisServer) {
	for _, r := range replicas {
		r.Pause()
	}
	primary.CLI(t, "CLIENT", "KILL", "TYPE", "replica")
}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	g := testenv.Sentinel(t)
	s := open(t, g.URL(), roomy)
	d := watch(t, s)
	ctx := t.Context()
	first, err := s.NewEpoch(ctx, 0, store.Head{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	g.Primary(t).WaitReplicas(t, g.Replicas(t)...)

	// By hand: nothing is lost, and the store follows.
	g.Failover(t)
	eventually(t, "the store is at the new primary", func() bool {
		l := s.one.gate.live.Load()
		return l != nil && l.to.Addr == g.Primary(t).Addr()
	})
	e, err := s.Drop(ctx, 0, store.Drop{Tags: []string{"a"}}, first.Head)
	if err != nil || e.Prev != first.Pos {
		t.Fatalf("drop: %+v, %v; want a link to %v", e, err, first)
	}
	if !d.has(func(d *diary) bool { return len(d.links) >= 3 && !d.links[1].Up && d.links[len(d.links)-1].Up })() {
		t.Errorf("links are %v; want a loss and a new one", d.links)
	}

	// A crash takes along a drop that was acknowledged.
	old := g.Primary(t)
	replicas := g.Replicas(t)
	old.WaitReplicas(t, replicas...)
	cutReplicas(t, old, replicas...)
	lost, err := s.Drop(ctx, 0, store.Drop{Tags: []string{"b"}}, e.Head)
	if err != nil {
		t.Fatal(err)
	}
	old.Kill()
	for _, r := range replicas {
		r.Resume()
	}
	g.WaitFailover(t, old)
	eventually(t, "the store is at the new primary", func() bool {
		h, err := s.Head(ctx, 0)
		return err == nil && h == e.Head
	})
	if _, err := s.Drop(ctx, 0, store.Drop{Tags: []string{"c"}}, lost.Head); !errors.Is(err, store.ErrBehind) {
		t.Errorf("drop by one who knows of the lost one: %v; want behind", err)
	}

	// The old one comes back as a replica, and nobody talks to it.
	old.Restart()
	eventually(t, "the old primary is a replica", func() bool { return strings.HasPrefix(old.CLI(t, "ROLE"), "slave") })
	if _, err := s.NewEpoch(ctx, 0, e.Head, 0); err != nil {
		t.Error(err)
	}
}

// A server that turns into a replica behind our back is left.
func TestDemoted(t *testing.T) {
	t.Parallel()
	g := testenv.Sentinel(t)
	s := open(t, g.URL(), roomy)
	if _, err := s.NewEpoch(t.Context(), 0, store.Head{}, 0); err != nil {
		t.Fatal(err)
	}
	l := s.one.gate.live.Load()
	for _, s := range g.Sentinels {
		s.Pause() // so that they don't undo it
	}
	host, port, _ := net.SplitHostPort(g.Servers[1].Addr())
	g.Servers[0].CLI(t, "REPLICAOF", host, port)
	if _, err := s.Head(t.Context(), 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("head of a replica: %v; want unavailable", err)
	}
	eventually(t, "the link is given up", func() bool { return s.one.gate.live.Load() != l })
	if _, err := s.Head(t.Context(), 0); err == nil {
		t.Error("a replica was taken for the primary")
	}
}

func TestSentinelsDisagree(t *testing.T) {
	t.Parallel()
	g := testenv.Sentinel(t)
	// A sentinel that was cut off names the primary of yesterday, one hangs, one never was.
	g.Sentinels[1].Pause()
	s, err := Open("redis+sentinel://127.0.0.1:1,"+strings.TrimPrefix(g.URL(), "redis+sentinel://"), roomy)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	up(t, s)
	g.Sentinels[1].Resume()

	s2, err := Open(strings.Replace(g.URL(), "mymaster", "other", 1), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	eventually(t, "the wrong name is told", func() bool {
		_, err := s2.Head(t.Context(), 0)
		return err != nil && strings.Contains(err.Error(), `no primary is known as "other"`)
	})
}
