package testenv

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A SentinelGroup is a primary with two replicas, and three sentinels that watch over them
// under the name "mymaster".
type SentinelGroup struct {
	Servers   []*RedisServer // the first began as the primary
	Sentinels []*RedisServer
}

// Sentinel starts a group, and returns when a failover could be done. A primary
// that hangs is replaced after about a second.
func Sentinel(t testing.TB, opts ...Option) *SentinelGroup {
	t.Helper()
	fast := Args("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
	g := &SentinelGroup{Servers: []*RedisServer{Redis(t, append(opts, fast)...)}}
	first := strconv.Itoa(g.Servers[0].port)
	for range 2 {
		of := Args("--replicaof", "127.0.0.1", first)
		g.Servers = append(g.Servers, Redis(t, append(opts, fast, of)...))
	}
	for range 3 {
		g.Sentinels = append(g.Sentinels, Redis(t, withConfig("sentinel monitor mymaster 127.0.0.1 "+first+" 2\n"+
			"sentinel down-after-milliseconds mymaster 500\n"+
			"sentinel failover-timeout mymaster 3000\n"), Args("--sentinel"), TLS(g.Servers[0].certs)))
	}
	for _, s := range g.Sentinels {
		s.CLI(t, "SENTINEL", "DEBUG", "info-period", "200", "publish-period", "100", "ask-period", "100")
	}
	for _, s := range g.Sentinels {
		await(t, "the sentinels know each other and the replicas", func() bool {
			f := s.fields("SENTINEL", "MASTER", "mymaster")
			return f["num-slaves"] == "2" && f["num-other-sentinels"] == "2" && f["flags"] == "master"
		})
	}
	for _, s := range g.Sentinels {
		// They undo a promotion that they haven't heard of within four periods, and a failover
		// takes over a second.
		s.CLI(t, "SENTINEL", "DEBUG", "publish-period", "700")
	}
	for _, s := range g.Servers[1:] {
		await(t, "the replicas have their data", func() bool {
			role, _ := s.cli("ROLE")
			return strings.Contains(role, "\nconnected\n")
		})
	}
	return g
}

// URL returns redis+sentinel://… for the group.
func (g *SentinelGroup) URL() string {
	var hosts []string
	for _, s := range g.Sentinels {
		hosts = append(hosts, s.Addr())
	}
	return g.Servers[0].certs.url("redis+sentinel", strings.Join(hosts, ","), "master=mymaster")
}

// Primary returns the server that the first sentinel names.
func (g *SentinelGroup) Primary(t testing.TB) *RedisServer {
	t.Helper()
	port := g.Sentinels[0].fields("SENTINEL", "MASTER", "mymaster")["port"]
	for _, s := range g.Servers {
		if strconv.Itoa(s.port) == port {
			return s
		}
	}
	t.Fatalf("testenv: the primary has port %q, which is none of ours", port)
	return nil
}

// Failover makes another server the primary, as an administrator would, and returns when
// it is.
func (g *SentinelGroup) Failover(t testing.TB) {
	t.Helper()
	old := g.Primary(t)
	await(t, "a failover begins", func() bool {
		_, err := g.Sentinels[0].cli("SENTINEL", "FAILOVER", "mymaster")
		return err == nil
	})
	g.WaitFailover(t, old)
}

// WaitFailover returns when another server than old is the primary.
func (g *SentinelGroup) WaitFailover(t testing.TB, old *RedisServer) {
	t.Helper()
	defer func() {
		if t.Failed() {
			for _, s := range g.Sentinels {
				t.Logf("sentinel %s:\n%s", s.Addr(), s.said())
			}
		}
	}()
	await(t, "there is another primary", func() bool {
		now := g.Primary(t)
		if now == old {
			return false
		}
		role, _ := now.cli("ROLE")
		return strings.HasPrefix(role, "master")
	})
}

// fields returns the answer to a command that lists names and values.
func (s *RedisServer) fields(args ...string) map[string]string {
	out, _ := s.cli(args...)
	lines := strings.Split(out, "\n")
	m := make(map[string]string)
	for i := 0; i+1 < len(lines); i += 2 {
		m[lines[i]] = lines[i+1]
	}
	return m
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(fmt.Sprint("testenv: waited in vain: ", what))
		}
	}
}

// WaitReplicas returns when replicas have all that s has now.
func (s *RedisServer) WaitReplicas(t testing.TB, replicas ...*RedisServer) {
	t.Helper()
	offset := func(of *RedisServer, field string) int64 {
		info, _ := of.cli("INFO", "replication")
		for line := range strings.Lines(info) {
			if v, ok := strings.CutPrefix(line, field+":"); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
				return n
			}
		}
		return -1
	}
	want := offset(s, "master_repl_offset")
	for _, r := range replicas {
		await(t, "a replica has it all", func() bool { return offset(r, "slave_repl_offset") >= want })
	}
}

// Replicas are the servers that aren't the primary.
func (g *SentinelGroup) Replicas(t testing.TB) (rs []*RedisServer) {
	t.Helper()
	primary := g.Primary(t)
	for _, s := range g.Servers {
		if s != primary {
			rs = append(rs, s)
		}
	}
	return rs
}
