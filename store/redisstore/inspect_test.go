package redisstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/freshetdev/freshet/internal/testenv"
)

func TestInspect(t *testing.T) {
	redis := testenv.Redis(t, testenv.Args("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"))
	s := open(t, redis.URL(), roomy)
	servers, err := s.Inspect(t.Context())
	if err != nil || len(servers) != 1 {
		t.Fatalf("%v, %v; want one server", servers, err)
	}
	if got := servers[0]; got.Version == "" || got.Policy != "allkeys-lru" || got.MaxMemory != 100<<20 || got.UsedMemory == 0 || got.Evicted != 0 || got.Addr != "" {
		t.Errorf("the server is %+v", got)
	}
	redis.Kill()
	eventually(t, "the link is down", func() bool { return !s.linked() })
	if _, err := s.Inspect(t.Context()); err == nil {
		t.Error("a server that is gone was inspected")
	}
}

func TestCounters(t *testing.T) {
	redis := testenv.Redis(t)
	s := open(t, redis.URL(), Options{Budget: roomy.Budget, Prefix: "app:"})
	for _, command := range []string{
		"SET stuck:1 57", "SET app:stuck:2 -3", "SET good:1 57 EX 100", "SET text x", "SET padded 007", "SET long " + strings.Repeat("1", 30), "LPUSH list 1", "HSET hash a 1",
		"SET app:{freshet:0}:partitions 8", "SET app:freshet:lease:x 1",
	} {
		redis.CLI(t, strings.Fields(command)...)
	}
	found, looked, err := s.Counters(t.Context(), 100_000)
	slices.SortFunc(found, func(a, b Counter) int { return strings.Compare(a.Key, b.Key) })
	if want := []Counter{{"app:stuck:2", -3}, {"stuck:1", 57}}; err != nil || !slices.Equal(found, want) || looked < 10 {
		t.Errorf("found %v among %d, %v; want %v", found, looked, err, want)
	}

	// No more than was asked for, about.
	args := []string{"MSET"}
	for i := range 5000 {
		args = append(args, fmt.Sprintf("many:%d", i), "1")
	}
	redis.CLI(t, args...)
	if found, looked, err = s.Counters(t.Context(), 2000); err != nil || looked < 2000 || looked > 3500 || len(found) < 1900 {
		t.Errorf("%d found among %d, %v; want about 2,000", len(found), looked, err)
	}

	// A right that is missing is told.
	redis.CLI(t, "ACL", "SETUSER", "default", "-pttl")
	if _, _, err := s.Counters(t.Context(), 2000); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("without the right to PTTL: %v", err)
	}
}

// In a Cluster, all servers are asked.
func TestInspectCluster(t *testing.T) {
	g := testenv.Cluster(t)
	s := open(t, g.URL(), roomy)
	servers, err := s.Inspect(t.Context())
	if err != nil || len(servers) != 3 {
		t.Fatalf("%v, %v; want three servers", servers, err)
	}
	for _, server := range servers {
		if server.Addr == "" || server.Version == "" {
			t.Errorf("a server is %+v", server)
		}
	}
	const keys = 30
	for i := range keys {
		key := fmt.Sprintf("counter:%d", i)
		c, err := s.begin(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.do(s.build.Incr().Key(key).Build())
		if c.end(); err != nil || res[0].Error() != nil {
			t.Fatal(err, res)
		}
	}
	if found, looked, err := s.Counters(t.Context(), 100_000); err != nil || len(found) != keys || looked < keys {
		t.Errorf("%d found among %d, %v; want %d", len(found), looked, err, keys)
	}
}
