package testenv

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
)

// A View is what one client sees of a group: each server through a proxy of its own, so that this
// client's links can be broken and nobody else's. The servers among themselves use no proxy.
//
// The proxies listen at the servers' ports on another loopback address, 127.0.0.host, so only the address differs between
// views. What the group tells of itself must lead there, too:
//
//	Cluster     nodes tell no address (cluster-preferred-endpoint-type unknown-endpoint), which means the one that was
//	            asked: a client stays on the proxies that it began with, redirections included
//	Sentinel    the proxies of the sentinels put 127.0.0.host in place of 127.0.0.1 in what they say
//
// Linux answers on all of 127.0.0.0/8. Elsewhere the address must be made first.
type View struct {
	URL       string
	Servers   []*FaultProxy // in the group's order
	Sentinels []*FaultProxy
}

// Proxies are all of a view.
func (v *View) Proxies() []*FaultProxy {
	return append(v.Servers[:len(v.Servers):len(v.Servers)], v.Sentinels...)
}

// View makes a view of the Cluster. Host is from 2 to 9. From the first one on, the nodes tell no client an address.
func (g *ClusterGroup) View(t testing.TB, host int) *View {
	t.Helper()
	for _, s := range g.Servers {
		s.CLI(t, "CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
	}
	v := &View{Servers: proxiesAt(t, host, g.Servers)}
	v.URL = "redis+cluster://" + v.Servers[0].Addr() + "," + v.Servers[4].Addr() + "," + v.Servers[2].Addr()
	return v
}

// View makes a view of the group. Host is from 2 to 9.
func (g *SentinelGroup) View(t testing.TB, host int) *View {
	t.Helper()
	v := &View{Servers: proxiesAt(t, host, g.Servers), Sentinels: proxiesAt(t, host, g.Sentinels)}
	var hosts []string
	for _, p := range v.Sentinels {
		p.Rewrite("127.0.0.1", loopbackOf(host))
		hosts = append(hosts, p.Addr())
	}
	v.URL = "redis+sentinel://" + strings.Join(hosts, ",") + "?master=mymaster"
	return v
}

func loopbackOf(host int) string { return fmt.Sprint("127.0.0.", host) }

func proxiesAt(t testing.TB, host int, servers []*RedisServer) (ps []*FaultProxy) {
	t.Helper()
	if host < 2 || host > 9 {
		t.Fatalf("testenv: view on 127.0.0.%d; want 2 to 9", host)
	}
	for _, s := range servers {
		_, port, _ := net.SplitHostPort(s.Addr())
		lis, err := net.Listen("tcp", net.JoinHostPort(loopbackOf(host), port))
		if err != nil {
			t.Fatalf("testenv: view: %v (where only 127.0.0.1 is there: ifconfig lo0 alias %s)", err, loopbackOf(host))
		}
		ps = append(ps, proxyOn(t, lis, s.Addr()))
	}
	return ps
}

// A rewriter puts one text in place of another of the same length.
type rewriter struct {
	old, new []byte
	held     []byte // the end of what came, which may begin another
}

// feed returns what can be passed on. An answer of Redis ends with a line feed, which no address has in it, so
// none waits for what comes after it.
func (r *rewriter) feed(in []byte) []byte {
	b := bytes.ReplaceAll(append(r.held, in...), r.old, r.new)
	n := min(len(r.old)-1, len(b))
	for ; n > 0 && !bytes.HasSuffix(b, r.old[:n]); n-- {
	}
	r.held = bytes.Clone(b[len(b)-n:])
	return b[:len(b)-n]
}
