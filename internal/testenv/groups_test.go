package testenv

import (
	"bytes"
	"strings"
	"testing"
)

func TestSentinelGroup(t *testing.T) {
	t.Parallel()
	g := Sentinel(t)
	old := g.Primary(t)
	old.CLI(t, "SET", "k", "v")
	g.Failover(t)
	if now := g.Primary(t); now == old || !strings.HasPrefix(now.CLI(t, "ROLE"), "master") {
		t.Error("the failover made no other primary")
	}
}

func TestClusterGroup(t *testing.T) {
	t.Parallel()
	g := Cluster(t)
	old := g.Primary(t, "k")
	old.CLI(t, "SET", "k", "v")
	old.CLI(t, "SET", "{k}2", "v")
	g.Migrate(t, "k", nil)
	now := g.Primary(t, "k")
	if now == old || now.CLI(t, "GET", "k") != "v" {
		t.Error("the slot did not move")
	}
	if g.Failover(t, now) != g.Primary(t, "k") {
		t.Error("the replica did not take over")
	}
}

// What a client sees through its view leads to its own proxies: those of others can be cut.
func TestViews(t *testing.T) {
	t.Parallel()
	f := func(name string, servers []*RedisServer, a, b *View, seed *FaultProxy, ask, want string) {
		t.Helper()
		if len(a.Servers) != len(servers) {
			t.Errorf("%s: %d proxies for %d servers", name, len(a.Servers), len(servers))
		}
		for _, p := range b.Proxies() {
			p.Cut()
		}
		for i, p := range a.Servers {
			if p.Addr() == servers[i].Addr() {
				t.Errorf("%s: a proxy has the server's own address %s", name, p.Addr())
			}
			c := dial(t, p.Addr())
			c.send("PING")
			c.want("+PONG")
		}
		c := dial(t, seed.Addr())
		c.send(ask)
		for line := ""; !strings.Contains(line, want); {
			var err error
			if line, err = c.r.ReadString('\n'); err != nil {
				t.Fatalf("%s: no %q in the answer to %s: %v", name, want, ask, err)
			}
			if strings.Contains(line, "127.0.0.1") {
				t.Errorf("%s: %s is answered with %q", name, ask, line)
			}
		}
	}
	g := Cluster(t)
	key, other := "k", ""
	for _, s := range g.Servers[:3] {
		if s != g.Primary(t, key) {
			other = s.Addr()
		}
	}
	a, b := g.View(t, 2), g.View(t, 3)
	for i, s := range g.Servers {
		if s.Addr() == other {
			f("cluster", g.Servers, a, b, a.Servers[i], "GET k", "MOVED "+s.CLI(t, "CLUSTER", "KEYSLOT", key)+" :")
		}
	}
	s := Sentinel(t)
	a, b = s.View(t, 2), s.View(t, 3)
	f("sentinel", s.Servers, a, b, a.Sentinels[1], "SENTINEL GET-MASTER-ADDR-BY-NAME mymaster", "127.0.0.2")
}

func TestRewriter(t *testing.T) {
	f := func(want string, in ...string) {
		t.Helper()
		r := rewriter{old: []byte("127.0.0.1"), new: []byte("127.0.0.7")}
		var got []byte
		for _, s := range in {
			got = append(got, r.feed([]byte(s))...)
		}
		if !bytes.Equal(got, []byte(want)) {
			t.Errorf("%q gave %q; want %q", in, got, want)
		}
	}
	f("$9\r\n127.0.0.7\r\n", "$9\r\n127.0.0.1\r\n")
	f("$9\r\n127.0.0.7\r\n$1\r\n1\r\n", "$9\r\n12", "7.0.", "", "0.1\r\n$1\r\n", "1\r\n")
	f("127.0.0.7 127.0.0.7 127.0.0.2 x", "127.0.0.1 127.0.0", ".1 127.0.0.2 x")
	f("1127.0.0.7\n", "1", "127.0.0.1\n")
}
