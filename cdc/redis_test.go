package cdc_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/redisstore"
)

func openRedis(t *testing.T, url, prefix string) *redisstore.Store {
	t.Helper()
	s, err := redisstore.Open(url, redisstore.Options{Prefix: prefix, Budget: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// A row is changed, and every client of Redis notices: keys with freshet's prefix and without, patterns, messages.
func TestRedis(t *testing.T) {
	srv := testenv.Redis(t)
	for _, prefix := range []string{"", "shop:"} {
		t.Run("prefix="+prefix, func(t *testing.T) {
			srv.CLI(t, "FLUSHALL")
			d := cdctest.NewDatabase(items)
			r := newRig(t, d,
				cdc.Rule{Table: "items", Tags: []string{"item:{id}"}, Keys: []string{"item:{id}:page", "shop:item:{id}"}},
				cdc.Rule{Table: "items", Publish: []cdc.Publish{{Channel: "items", Payload: "{id}"}}},
			)
			s := openRedis(t, srv.URL(), prefix)
			c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{srv.Addr()}, ForceSingleClient: true, DisableCache: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			heard := make(chan string, 100)
			ctx, cancel := context.WithCancel(t.Context())
			var listening sync.WaitGroup
			listening.Go(func() {
				c.Receive(ctx, c.B().Subscribe().Channel("items").Build(), func(m rueidis.PubSubMessage) { heard <- m.Message })
			})
			defer listening.Wait()
			defer cancel()
			eventually(t, "the listener is there", func() bool { return srv.CLI(t, "PUBSUB", "NUMSUB", "items") == "items\n1" })

			srv.CLI(t, "SET", "item:1:page", "from before")
			p := r.pumpOn(s, d.Source(true), cdc.Options{Again: -1})
			r.settle()
			srv.CLI(t, "MSET", "item:7:page", "x", "shop:item:7", "x", "item:8:page", "y", "other", "z")
			d.Commit(put(nil, 7, "ada"))
			r.settle()
			for key, want := range map[string]string{"item:7:page": "0", "shop:item:7": "0", "item:8:page": "1", "other": "1", "item:1:page": "0"} {
				if got := srv.CLI(t, "EXISTS", key); got != want {
					t.Errorf("EXISTS %s: %q; want %q", key, got, want)
				}
			}
			d.Commit(cdc.Change{Op: cdc.OpTruncate, Table: items})
			r.settle()
			if got := srv.CLI(t, "EXISTS", "item:8:page", "other"); got != "1" {
				t.Errorf("after TRUNCATE %q of the keys are left; want the one that isn't ours", got)
			}
			for _, want := range []string{"*", "7", "*"} {
				if got := <-heard; got != want {
					t.Errorf("heard %q; want %q", got, want)
				}
			}
			m, err := s.Mark(t.Context(), 0, "db")
			if err != nil || m.Pos != "1/2" || m.Cert == 0 || m.Tick < m.Cert {
				t.Errorf("mark %+v, %v; want position 1/2 and certificates", m, err)
			}
			if got := srv.CLI(t, "HGET", prefix+"{freshet:0}:source:db", "pos"); got != "1/2" {
				t.Errorf("the mark lies elsewhere: pos is %q", got)
			}
			r.stop()
			if st := p.Stats(); st.Errors != 0 {
				t.Errorf("%d errors", st.Errors)
			}
		})
	}
}

// Redis is frozen, loses its connections, and restarts empty, under readers and writers: nothing is stale for good.
func TestRedisBreaks(t *testing.T) {
	srv := testenv.Redis(t)
	d := cdctest.NewDatabase(items)
	d.SetLag(time.Millisecond)
	r := newRig(t, d, itemRules, cdc.Rule{Table: "items", Keys: []string{"page:{id}"}})
	p := r.pumpOn(openRedis(t, srv.URL(), ""), d.Source(true), cdc.Options{Again: 50 * time.Millisecond, Retry: 20 * time.Millisecond})
	r.settle()
	c := newReader(openRedis(t, srv.URL(), ""), d)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	pause := func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(rnd.IntN(3000)) * time.Microsecond
	}
	for _, fault := range []func(){
		func() { srv.Pause(); time.Sleep(3 * time.Second); srv.Resume() },
		func() { srv.CLI(t, "CLIENT", "KILL", "TYPE", "normal") },
		func() { srv.Kill(); time.Sleep(500 * time.Millisecond); srv.Restart() },
		func() { srv.CLI(t, "FLUSHALL") },
		func() { srv.CLI(t, "DEL", "{freshet:0}:source:db") },
		func() { srv.CLI(t, "DEL", "{freshet:0}:head") },
	} {
		var faults sync.WaitGroup
		faults.Go(func() { time.Sleep(50 * time.Millisecond); fault() })
		load(d, []*reader{c}, 100, pause)
		faults.Wait()
		r.settle()
		if bad := c.stale(); len(bad) > 0 {
			t.Errorf("stale for good:\n%s\n%+v", lines(bad), p.Stats())
		}
	}
	if p.Stats().Moved == 0 || p.Stats().Gaps < 3 {
		t.Errorf("moved %d times, %d gaps; want some, and three at least", p.Stats().Moved, p.Stats().Gaps)
	}
	r.stop()
}

// In a Cluster each partition has its mark, and lags by itself.
func TestRedisCluster(t *testing.T) {
	g := testenv.Cluster(t)
	d := cdctest.NewDatabase(items)
	r := newRig(t, d, itemRules, cdc.Rule{Table: "items", Keys: []string{"page:{id}"}})
	url := g.URL() + "?partitions=5"
	s := openRedis(t, url, "")
	p := r.pumpOn(s, d.Source(true), cdc.Options{Again: -1})
	r.settle()
	c := newReader(openRedis(t, url, ""), d)
	other := openRedis(t, url, "")
	eventually(t, "the other client is connected", func() bool { return other.Write(t.Context(), "page:0", []byte("old"), time.Hour) == nil })
	for round := range 3 {
		for id := range 20 {
			eventually(t, "a reader can register", func() bool { _, _, _, err := c.lookup(id); return err == nil })
			c.get(id, func() {})
			if err := other.Write(t.Context(), "page:"+strconv.Itoa(id), []byte("old"), time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(c.at); n != 20 {
			t.Fatalf("%d rows are cached", n)
		}
		for id := range 20 {
			d.Commit(put(nil, id, fmt.Sprint("round ", round)))
		}
		r.settle()
		if bad := c.stale(); len(bad) > 0 {
			t.Error(lines(bad))
		}
		for id := range 20 {
			vs, err := other.Read(t.Context(), []string{"page:" + strconv.Itoa(id)}, false)
			if err != nil || vs[0].Image != nil {
				t.Errorf("page:%d holds %q, %v", id, vs[0].Image, err)
			}
		}
	}
	marks := make(map[store.Mark]int)
	for part := range s.Partitions() {
		m, err := s.Mark(t.Context(), part, "db")
		if err != nil || m.Pos == "" {
			t.Errorf("mark of partition %d: %+v, %v", part, m, err)
		}
		marks[m]++
	}
	// One node loses its marks: the pump begins anew where the others still know.
	g.Primary(t, "{freshet:0}:head").CLI(t, "DEL", "{freshet:0}:source:db")
	r.settle()
	if st := p.Stats(); st.Moved == 0 || st.Gaps != 2 {
		t.Errorf("moved %d times, %d gaps; want a gap: what that node had is not known", st.Moved, st.Gaps)
	}
	r.stop()
}
