package feedtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
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

// busy takes processors from everybody until the test ends: n processes that only count. They end with this one.
func busy(t *testing.T, n int) {
	t.Helper()
	for range n {
		cmd := exec.Command("sh", "-c", fmt.Sprintf("while kill -0 %d; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done", os.Getpid()))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
}

// RacingLoads has writers, loaders of the very rows that are written, and others who take the processors from all of them, three for
// each. After each hundred writes all comes to rest, and then no cached value may differ from its row.
//
// FRESHET_CDC_WRITES is the number of writes; the others are then processes of their own, which the database and Redis feel too (in
// the short form that would disturb tests beside this one). FRESHET_CDC_BLIND leaves the barrier out.
func RacingLoads(t *testing.T, d Database) {
	const rows, writers, readers = 100, 4, 4
	writes, spinners := 1500, 3*runtime.GOMAXPROCS(0)
	if n, err := strconv.Atoi(os.Getenv("FRESHET_CDC_WRITES")); err == nil {
		busy(t, spinners)
		writes, spinners = n, 0
	}
	var values []string
	for id := range rows {
		values = append(values, fmt.Sprintf("(%d, '0')", id))
	}
	d.Exec("create table t (id int primary key, v text); insert into t values " + strings.Join(values, ", "))
	f := NewFleet(t, d, cdc.Rule{Table: d.Schema() + ".t", Tags: []string{"t:{id}"}})
	src := d.Source(f.Rules.Match)
	if os.Getenv("FRESHET_CDC_BLIND") != "" {
		src = blindSource{src}
	}
	p, _ := f.Pump(src, cdc.Hooks{})
	Await(t, "the pump", func() bool { return p.Stats().State == cdc.Running })
	caches := []*freshet.Cache[int, string]{f.Instance(), f.Instance()}
	var sessions []func(string) (string, error)
	for range writers {
		sessions = append(sessions, d.Session())
	}

	var stop atomic.Bool
	var idle sync.WaitGroup
	var at [writers]atomic.Int64 // the row that each writes
	for i := range readers {
		cache := caches[i%len(caches)]
		idle.Go(func() {
			for n := i; !stop.Load(); n++ {
				_, _ = cache.Get(context.Background(), int(at[n%writers].Load())) // what comes of it is looked at when all is at rest
				time.Sleep(20 * time.Microsecond)
			}
		})
	}
	stale := 0
	for round := range writes / rows {
		var written atomic.Bool
		var spin, work sync.WaitGroup
		for range spinners {
			spin.Go(func() {
				for !written.Load() {
					for range 1000 {
					}
				}
			})
		}
		for w, run := range sessions {
			work.Go(func() {
				for id := w; id < rows; id += writers {
					at[w].Store(int64(id))
					if _, err := run(fmt.Sprintf("update t set v = '%d' where id = %d", round+1, id)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		work.Wait()
		written.Store(true)
		spin.Wait()
		f.Settle(p)
		for id := range rows {
			for i, cache := range caches {
				if got := Get(t, cache, id); got != strconv.Itoa(round+1) {
					stale++
					t.Errorf("round %d: instance %d has version %s of row %d", round+1, i, got, id)
				}
			}
		}
		if t.Failed() {
			break
		}
	}
	stop.Store(true)
	idle.Wait()
	st := p.Stats()
	t.Logf("%d writes at most, %d transactions applied, barrier p50 %v p99 %v max %v, %d stale", writes, st.Txs, st.Barrier.Quantile(0.5), st.Barrier.Quantile(0.99), st.Barrier.Max, stale)
}
