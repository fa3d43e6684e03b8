package testenv

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// A ClusterGroup is a Redis Cluster of three primaries with a replica each. Server i+3 began as
// the replica of server i.
type ClusterGroup struct {
	Servers []*RedisServer
	ids     []string
}

// Cluster starts a Cluster, and returns when every node has the same view of it. A primary
// that hangs is replaced after some seconds.
func Cluster(t testing.TB, opts ...Option) *ClusterGroup {
	t.Helper()
	g := new(ClusterGroup)
	for range 6 {
		bus, err := freePort()
		if err != nil {
			t.Fatalf("testenv: %v", err)
		}
		// Its default is 10,000 above the other, where outgoing connections have their ports.
		s := Redis(t, append(opts, Args("--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
			"--cluster-port", strconv.Itoa(bus), "--cluster-config-file", "nodes.conf",
			"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"))...)
		g.Servers = append(g.Servers, s)
		g.ids = append(g.ids, s.CLI(t, "CLUSTER", "MYID"))
		s.CLI(t, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(len(g.Servers)))
		if len(g.Servers) > 1 {
			g.Servers[0].CLI(t, "CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(s.port), strconv.Itoa(bus))
		}
	}
	for i, first := range []int{0, 5461, 10923} {
		last := []int{5460, 10922, 16383}[i]
		g.Servers[i].CLI(t, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last))
	}
	for i := range 3 {
		await(t, "the nodes have met", func() bool {
			_, err := g.Servers[i+3].cli("CLUSTER", "REPLICATE", g.ids[i])
			return err == nil
		})
	}
	g.Settle(t, 3)
	return g
}

// Settle waits until all living nodes agree: all slots are served, and this many replicas are in sync.
func (g *ClusterGroup) Settle(t testing.TB, replicas int) {
	t.Helper()
	await(t, "the cluster is in order", func() bool {
		inSync := 0
		var view string
		for _, s := range g.Servers {
			if !s.proc.alive() {
				continue
			}
			info, _ := s.cli("CLUSTER", "INFO")
			if !strings.Contains(info, "cluster_state:ok") {
				return false
			}
			slots, err := s.cli("CLUSTER", "SLOTS")
			if err != nil || view != "" && len(slots) != len(view) {
				return false
			}
			view = slots
			if role, _ := s.cli("ROLE"); strings.Contains(role, "\nconnected\n") {
				inSync++
			}
		}
		return inSync >= replicas
	})
}

// URL returns redis+cluster://… with some of the nodes.
func (g *ClusterGroup) URL() string {
	return g.Servers[0].certs.url("redis+cluster", g.Servers[0].Addr()+","+g.Servers[4].Addr()+","+g.Servers[2].Addr(), "")
}

// Primary returns the server that serves the slot of key.
func (g *ClusterGroup) Primary(t testing.TB, key string) *RedisServer {
	t.Helper()
	var found *RedisServer
	await(t, "the slot of "+key+" is served", func() bool {
		for _, s := range g.Servers {
			if !s.proc.alive() {
				continue
			}
			// A replica says MOVED.
			if _, err := s.cli("EXISTS", key); err == nil {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

// Replica returns the replica of a primary.
func (g *ClusterGroup) Replica(t testing.TB, of *RedisServer) *RedisServer {
	t.Helper()
	for _, s := range g.Servers {
		if s.proc.alive() && strings.HasPrefix(s.CLI(t, "ROLE"), "slave\n127.0.0.1\n"+strconv.Itoa(of.port)) {
			return s
		}
	}
	t.Fatal("testenv: no replica of that server")
	return nil
}

// Failover makes the replica of a primary take its place, and returns when it has.
func (g *ClusterGroup) Failover(t testing.TB, old *RedisServer) *RedisServer {
	t.Helper()
	s := g.Replica(t, old)
	s.CLI(t, "CLUSTER", "FAILOVER")
	g.WaitPrimary(t, s)
	return s
}

// WaitPrimary returns when s is a primary, and the others know it.
func (g *ClusterGroup) WaitPrimary(t testing.TB, s *RedisServer) {
	t.Helper()
	await(t, "a replica is primary", func() bool { return strings.HasPrefix(s.CLI(t, "ROLE"), "master") })
	g.Settle(t, 0)
}

// Migrate moves the slot of key to another primary, with all its keys. During is called
// when half of them are there.
func (g *ClusterGroup) Migrate(t testing.TB, key string, during func()) {
	t.Helper()
	slot := g.Servers[0].CLI(t, "CLUSTER", "KEYSLOT", key)
	from := g.Primary(t, key)
	var to *RedisServer
	for _, s := range g.Servers {
		if s != from && s.proc.alive() && strings.HasPrefix(s.CLI(t, "ROLE"), "master") {
			to = s
		}
	}
	to.CLI(t, "CLUSTER", "SETSLOT", slot, "IMPORTING", from.CLI(t, "CLUSTER", "MYID"))
	from.CLI(t, "CLUSTER", "SETSLOT", slot, "MIGRATING", to.CLI(t, "CLUSTER", "MYID"))
	n, _ := strconv.Atoi(from.CLI(t, "CLUSTER", "COUNTKEYSINSLOT", slot))
	move := func(count int) {
		if count == 0 {
			return
		}
		out := from.CLI(t, "CLUSTER", "GETKEYSINSLOT", slot, strconv.Itoa(count))
		if out == "" {
			return
		}
		args := []string{"MIGRATE", "127.0.0.1", strconv.Itoa(to.port), "", "0", "5000", "KEYS"}
		from.CLI(t, append(args, strings.Split(out, "\n")...)...)
	}
	move((n + 1) / 2)
	if during != nil {
		during()
	}
	for {
		left, err := strconv.Atoi(from.CLI(t, "CLUSTER", "COUNTKEYSINSLOT", slot))
		if err != nil {
			t.Fatal(fmt.Sprint("testenv: ", err))
		}
		if left == 0 {
			break
		}
		move(left)
	}
	id := to.CLI(t, "CLUSTER", "MYID")
	for _, s := range []*RedisServer{to, from} {
		s.CLI(t, "CLUSTER", "SETSLOT", slot, "NODE", id)
	}
}
