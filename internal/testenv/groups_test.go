package testenv

import (
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
