package feedtest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
)

// A blindSource has no barrier: it says that everything is visible.
type blindSource struct{ cdc.Source }

type blindStream struct{ cdc.Stream }

func (s blindSource) Open(ctx context.Context, from cdc.Position) (cdc.Stream, error) {
	st, err := s.Source.Open(ctx, from)
	if err != nil {
		return nil, err
	}
	return blindStream{st}, nil
}

func (blindStream) Visible(context.Context, cdc.Position) error { return nil }

// Stalled has a commit that is in the log and not visible. A loader reads the old row meanwhile. Without the barrier (blind) its
// drop came before that, so the old row stays for ever.
func Stalled(t *testing.T, database func(t *testing.T) Database) {
	for _, blind := range []bool{false, true} {
		t.Run(fmt.Sprintf("blind=%v", blind), func(t *testing.T) {
			d := database(t)
			d.Exec("create table t (id int primary key, v text); insert into t values (1, 'old')")
			f := NewFleet(t, d, cdc.Rule{Table: d.Schema() + ".t", Tags: []string{"t:{id}"}})
			src := d.Source(f.Rules.Match)
			if blind {
				src = blindSource{src}
			}
			var applied atomic.Int64
			p, _ := f.Pump(src, cdc.Hooks{Applied: func(cdc.Applied) { applied.Add(1) }})
			Await(t, "the pump", func() bool { return p.Stats().State == cdc.Running })
			a := f.Instance()
			Get(t, a, 1)
			release := d.Stall()
			defer release()
			write := d.Session()
			wrote := make(chan error, 1)
			go func() {
				_, err := write("update t set v = 'new' where id = 1")
				wrote <- err
			}()
			if blind {
				Await(t, "the drop", func() bool { return applied.Load() == 1 })
			} else {
				Await(t, "the change is read", func() bool { return p.Stats().Pending == 1 })
			}
			Await(t, "the old row is in memory", func() bool { return Get(t, a, 1) == "old" })
			release()
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
			Await(t, "the change is applied", func() bool { return applied.Load() == 1 })
			Certified(t, p)
			time.Sleep(2 * time.Second) // longer than an instance may be behind
			got := Get(t, a, 1)
			if want := map[bool]string{true: "old", false: "new"}[blind]; got != want {
				t.Errorf("the row is %q for readers; want %q", got, want)
			}
		})
	}
}

// RacingLoads has writers, loaders, and programs that take the processor from all of them. Once all is at rest, no cached value may
// differ from its row. FRESHET_CDC_WRITES is the number of writes, FRESHET_CDC_BLIND leaves the barrier out.
func RacingLoads(t *testing.T, d Database) {
	writes := 1500
	if n, err := strconv.Atoi(os.Getenv("FRESHET_CDC_WRITES")); err == nil {
		writes = n
	}
	const rows, writers, readers = 20, 4, 4
	var values []string
	for id := range rows {
		values = append(values, fmt.Sprintf("(%d, 0)", id))
	}
	d.Exec("create table t (id int primary key, v int); insert into t values " + strings.Join(values, ", "))
	f := NewFleet(t, d, cdc.Rule{Table: d.Schema() + ".t", Tags: []string{"t:{id}"}})
	src := d.Source(f.Rules.Match)
	if os.Getenv("FRESHET_CDC_BLIND") != "" {
		src = blindSource{src}
	}
	p, _ := f.Pump(src, cdc.Hooks{})
	Await(t, "the pump", func() bool { return p.Stats().State == cdc.Running })
	caches := []*freshet.Cache[int, string]{f.Instance(), f.Instance()}

	var stop atomic.Bool
	var idle, work sync.WaitGroup
	for range 3 * runtime.GOMAXPROCS(0) {
		idle.Go(func() {
			for !stop.Load() {
				for range 1000 {
				}
			}
		})
	}
	for i := range readers {
		cache := caches[i%len(caches)]
		idle.Go(func() {
			for n := i; !stop.Load(); n++ {
				_, _ = cache.Get(context.Background(), n%rows) // what comes of it is looked at when all is at rest
			}
		})
	}
	var wrote atomic.Int64
	for i := range writers {
		run := d.Session()
		work.Go(func() {
			for n := i; wrote.Add(1) <= int64(writes); n++ {
				if _, err := run("update t set v = v + 1 where id = " + strconv.Itoa(n%rows)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	Certified(t, p)
	stop.Store(true)
	idle.Wait()
	time.Sleep(2 * time.Second)
	stale := 0
	read := d.Session()
	for id := range rows {
		want, err := read("select v from t where id = " + strconv.Itoa(id))
		if err != nil {
			t.Fatal(err)
		}
		for i, cache := range caches {
			if got := Get(t, cache, id); got != want {
				stale++
				t.Errorf("instance %d has version %s of row %d; the row is at %s", i, got, id, want)
			}
		}
	}
	st := p.Stats()
	t.Logf("%d writes, %d transactions applied, barrier p50 %v p99 %v max %v, %d stale", writes, st.Txs, st.Barrier.Quantile(0.5), st.Barrier.Quantile(0.99), st.Barrier.Max, stale)
}
