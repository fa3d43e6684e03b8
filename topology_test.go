package freshet_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
)

// A failover is a way to change the primary while A reads and B drops.
type failover struct {
	name string
	do   func()
}

// outlive drops before, while and after each failover. No read may bring what was dropped longer ago
// than the bound; drops that are not acknowledged may be late.
func (r *staleRig) outlive(failovers ...failover) {
	for _, f := range failovers {
		stop := r.read()
		r.drops(200*time.Millisecond, 5*time.Millisecond)
		done := make(chan struct{})
		go func() { defer close(done); f.do() }()
		for over := false; !over; {
			select {
			case <-done:
				over = true
			default:
				r.drops(20*time.Millisecond, 5*time.Millisecond)
			}
		}
		faultEventually(r.t, "A trusts its link after "+f.name, 10*time.Second, r.trusted)
		r.delivered()
		r.drops(200*time.Millisecond, 5*time.Millisecond)
		stop()
		r.t.Logf("%s: %d epochs, at worst %v", f.name, r.a.Stats().Epochs, r.worst)
	}
}

func (r *staleRig) delivered() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.b.WaitDelivered(ctx); err != nil {
		r.t.Errorf("drops are pending still: %v", err)
	}
}

// lose drops all rows while no replica hears of it, kills the primary, and lets a
// replica take its place: what was acknowledged is lost on the server.
func (r *staleRig) lose(primary *testenv.RedisServer, replicas []*testenv.RedisServer, promoted func()) {
	r.t.Helper()
	for _, s := range replicas {
		s.Pause()
	}
	primary.CLI(r.t, "CLIENT", "KILL", "TYPE", "replica")
	var want [rows]int64
	for row := range r.rows {
		h := &r.rows[row]
		old := h.change()
		want[row] = old + 1
		if err := r.drop(row); err != nil {
			r.t.Fatalf("drop: %v", err)
		}
		h.ended[old].Store(faultNow())
	}
	time.Sleep(r.bound) // A has heard of it
	stop := r.read()
	primary.Kill()
	for _, s := range replicas {
		s.Resume()
	}
	promoted()
	faultEventually(r.t, "A trusts its link after a loss", 20*time.Second, r.trusted)
	time.Sleep(r.bound)
	stop()
	for row := range r.rows {
		for i := range 2 {
			if v, err := r.cache(i, row).Get(context.Background(), row); err != nil || v != want[row] {
				r.t.Errorf("instance %d has %d, %v in row %d after the failover; want %d", i, v, err, row, want[row])
			}
		}
	}
}

func (r *staleRig) fill() {
	for row := range r.rows {
		for i := range 2 {
			if _, err := r.cache(i, row).Get(context.Background(), row); err != nil {
				r.t.Error(err)
			}
		}
	}
}

func TestSentinelFailovers(t *testing.T) {
	g := testenv.Sentinel(t)
	r := rigOver(t, 2*faultBound, [2]string{g.URL(), g.URL()}, nil)
	r.fill()
	r.outlive(failover{"a planned failover", func() { g.Failover(t) }})
	old := g.Primary(t)
	replicas := g.Replicas(t)
	r.fill()
	old.WaitReplicas(t, replicas...)
	epochs := r.a.Stats().Epochs + r.b.Stats().Epochs
	r.lose(old, replicas, func() { g.WaitFailover(t, old) })
	if now := r.a.Stats().Epochs + r.b.Stats().Epochs; now == epochs {
		t.Error("no epoch began, though acknowledged drops were lost")
	}
	r.report()
}

func TestClusterFailovers(t *testing.T) {
	g := testenv.Cluster(t)
	r := rigOver(t, 2*faultBound, [2]string{g.URL(), g.URL() + "?partitions=8"}, nil)
	r.fill()
	key := "some:" + strconv.Itoa(byKey)
	r.outlive(
		failover{"a planned failover", func() { g.Failover(t, g.Primary(t, key)) }},
		failover{"a migration", func() { g.Migrate(t, key, nil) }},
		failover{"a migration of a log", func() { g.Migrate(t, "{freshet:1}:log", nil) }},
	)
	old := g.Primary(t, key)
	replica := g.Replica(t, old)
	r.fill()
	old.WaitReplicas(t, replica)
	r.lose(old, []*testenv.RedisServer{replica}, func() { g.WaitPrimary(t, replica) })
	r.report()
}

func TestOpenNamesSchemes(t *testing.T) {
	for url, want := range map[string]string{
		"redis+sentinel://h": `redis url "redis+sentinel://h": no option "master"; want the name that the sentinels know, like ?master=mymaster`,
		"redis+ring://h":     `freshet: store url "redis+ring://h": unknown scheme "redis+ring"; want memory, redis, rediss or unix, or redis or rediss with +sentinel or +cluster`,
	} {
		if _, err := freshet.Open(t.Context(), url, freshet.Options{}); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", url, err, want)
		}
	}
}
