package freshet_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// What internal/model found: failovers that lose a drop of which an instance knows that still runs. doc.go promises a new
// epoch. Row 0 was stored before the drop; whoever reads it afterwards got an undone drop.
func TestLostDropsOfWhoKnows(t *testing.T) {
	f := func(name string, story func(w *failoverWorld)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &failoverWorld{T: t, srv: memstore.NewServer(memstore.Options{})}
				w.begin()
				w.begin()
				w.get(0) // row 0 is stored
				story(w)
				time.Sleep(10 * time.Second) // all have looked at the log
				if v := w.get(w.begin()); v != 1 {
					t.Errorf("an instance that begins now reads row %d; want 1", v)
				}
				for _, c := range w.clients {
					c.Close()
				}
			})
		})
	}
	f("a second failover brings back the first epoch", func(w *failoverWorld) {
		back := w.srv.Snapshot()
		w.write(0)
		w.failover(back)
		again := w.srv.Snapshot() // before the new epoch begins
		time.Sleep(10 * time.Second)
		w.failover(again)
	})
	f("a lost log and a failover", func(w *failoverWorld) {
		back := w.srv.Snapshot()
		w.srv.FlushAll()
		time.Sleep(10 * time.Second)
		w.write(0)
		w.failover(back)
	})
	f("a failover, and the log is cut before who knew looks", func(w *failoverWorld) {
		back := w.srv.Snapshot()
		w.srv.LoseNext(1)
		w.write(0)
		w.conns[0].Cut()
		back()
		w.conns[1].Cut()
		w.conns[1].Mend()
		for range 5 {
			w.drop(1, "blue")
		}
		w.srv.TrimLog(1)
		w.conns[0].Mend()
	})
	f("a drop acknowledged before those ahead of it were heard of", func(w *failoverWorld) {
		back := w.srv.Snapshot()
		w.srv.LoseNext(2)
		w.drop(1, "blue") // its announcement is lost, and who dropped dies
		w.clients[1].Close()
		w.write(0)
		w.failover(back)
	})
}

// A key's partition is another than those of its tags. What is lost there is the drop of the key, and its deletion: nothing in
// the logs of its tags tells of that.
func TestALostDropOfAKeyWithTagsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parts := 2
		for p := store.PartitionOf; p("users:1", parts) == p("red", parts) || p("users:1", parts) == p("users!", parts); {
			parts++
		}
		w := &failoverWorld{T: t, srv: memstore.NewServer(memstore.Options{Partitions: parts})}
		w.begin()
		w.begin()
		w.get(0)
		back := w.srv.Snapshot()
		w.row++
		if err := w.caches[0].Drop(t.Context(), 1); err != nil {
			t.Error(err)
		}
		w.failover(back)
		if v := w.get(0); v != 1 {
			t.Errorf("who dropped reads row %d at once; want 1", v)
		}
		time.Sleep(10 * time.Second) // all have looked at the logs
		for i := range w.clients {
			if v := w.get(i); v != 1 {
				t.Errorf("instance %d reads row %d; want 1", i, v)
			}
		}
		if v := w.get(w.begin()); v != 1 {
			t.Errorf("an instance that begins now reads row %d; want 1", v)
		}
		for _, c := range w.clients {
			c.Close()
		}
	})
}

type failoverWorld struct {
	*testing.T
	srv     *memstore.Server
	row     int
	conns   []*memstore.Store
	clients []*freshet.Client
	caches  []*freshet.Cache[int, int]
}

// begin begins an instance.
func (w *failoverWorld) begin() int {
	conn := w.srv.Connect()
	client, err := freshet.New(conn, freshet.Options{ExactClock: true})
	if err != nil {
		w.Fatal(err)
	}
	cache, err := freshet.NewCache(client, freshet.Config[int, int]{
		Name: "users", TTL: time.Hour,
		Tags: func(int) []string { return []string{"red"} },
		Load: func(context.Context, int, *freshet.Load) (int, error) { return w.row, nil },
	})
	if err != nil {
		w.Fatal(err)
	}
	time.Sleep(time.Second)
	w.conns, w.clients, w.caches = append(w.conns, conn), append(w.clients, client), append(w.caches, cache)
	return len(w.clients) - 1
}

func (w *failoverWorld) drop(i int, tag string) {
	if err := w.clients[i].DropTags(w.Context(), tag); err != nil {
		w.Error(err)
	}
}

func (w *failoverWorld) write(i int) {
	w.row++
	w.drop(i, "red")
}

// failover brings an earlier state of the server back, over new links.
func (w *failoverWorld) failover(back func()) {
	for _, c := range w.conns {
		c.Cut()
	}
	back()
	for _, c := range w.conns {
		c.Mend()
	}
}

func (w *failoverWorld) get(i int) int {
	v, err := w.caches[i].Get(w.Context(), 1)
	if err != nil {
		w.Error(err)
	}
	return v
}
