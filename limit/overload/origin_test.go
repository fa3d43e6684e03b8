package overload_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit/overload"
)

// An origin is a queueing model: so many servers, one line, service times exponentially distributed. With more requests in it
// than servers, each takes longer (up to twice as long): it swaps, collects garbage, switches contexts. It works on what its
// client no longer waits for, as most do. So beyond its capacity, without a limiter, it soon does nothing that anybody waits for.
type origin struct {
	mu      sync.Mutex
	servers int             // guarded by mu, like the rest
	mean    time.Duration   // of a service time
	down    bool            // it refuses everything
	in      int             // being served, or in line
	busy    int             // being served
	line    []chan struct{} // those who wait for a server
	rng     *rand.Rand
}

// thrash is by how much service times grow, for each time that the servers are exceeded.
const thrash = 0.2

// backlog is how many requests the origin takes; it refuses more.
const backlog = 2000

func (o *origin) change(f func(*origin)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(o)
}

// serve is one request; false if it was refused.
func (o *origin) serve() bool {
	o.mu.Lock()
	if o.down || o.in >= backlog {
		o.mu.Unlock()
		time.Sleep(time.Millisecond)
		return false
	}
	o.in++
	if o.busy < o.servers {
		o.busy++
		o.mu.Unlock()
	} else {
		turn := make(chan struct{})
		o.line = append(o.line, turn)
		o.mu.Unlock()
		<-turn
	}
	o.mu.Lock()
	took := float64(o.mean) * o.rng.ExpFloat64()
	if over := float64(o.in-o.servers) / float64(o.servers); over > 0 {
		took *= 1 + min(thrash*over, 1)
	}
	o.mu.Unlock()
	time.Sleep(time.Duration(took))
	o.mu.Lock()
	o.in--
	o.busy--
	for o.busy < o.servers && len(o.line) > 0 {
		o.busy++
		close(o.line[0])
		o.line = o.line[1:]
	}
	o.mu.Unlock()
	return true
}

// A scenario is a load on an origin of 20 servers that take 100 ms: 200 requests a second.
type scenario struct {
	opts     overload.Options
	none     bool                               // no limiter
	leave    bool                               // clients who lose patience go away, and the limiter hears of no timeout
	seconds  int                                //
	load     func(second int) float64           // requests a second, arriving by chance
	at       map[int]func(*origin)              // what happens to the origin
	capacity func(second int) float64           // of the origin; default 200
	priority func(r float64) overload.Priority  // by chance, r is 0 to 1; default Normal
	watch    func(second int, s overload.Stats) // each second
}

// patience of clients.
const patience = time.Second

// A result sums seconds up.
type result struct {
	offered, good, shed int
	capacity            float64 // what could have been answered
	latency             time.Duration
	of                  map[overload.Priority]*[2]int // offered, good
	limits              []int                         // each second
	stats               overload.Stats                // at the end
}

// goodput is the share of what the origin could have answered in time that it did.
func (r result) goodput() float64 { return float64(r.good) / r.capacity }

func (r result) String() string {
	s := fmt.Sprintf("%.1f %% of what the origin could do (%d of %.0f, %d shed, mean latency %v)", 100*r.goodput(), r.good, r.capacity, r.shed, (r.latency / time.Duration(max(r.good, 1))).Round(time.Millisecond))
	for p := overload.Critical; p >= overload.Background; p-- {
		if n := r.of[p]; n != nil {
			s += fmt.Sprintf(", %v %.1f %%", p, 100*float64(n[1])/float64(n[0]))
		}
	}
	return s
}

// run plays a scenario, with what is counted from the second given on.
func (sc scenario) run(t *testing.T, seed uint64, from int) (r result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := &origin{servers: 20, mean: 100 * time.Millisecond, rng: rand.New(rand.NewPCG(seed, 1))}
		rng := rand.New(rand.NewPCG(seed, 2))
		l, err := overload.New(sc.opts)
		if err != nil {
			t.Fatal(err)
		}
		r.of = map[overload.Priority]*[2]int{}
		var mu sync.Mutex // guards r
		var wg sync.WaitGroup
		request := func(p overload.Priority, counts bool) {
			begun := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			count := func(f func()) {
				if counts {
					mu.Lock()
					f()
					mu.Unlock()
				}
			}
			count(func() {
				r.offered++
				if r.of[p] == nil {
					r.of[p] = new([2]int)
				}
				r.of[p][0]++
			})
			release := func(overload.Outcome) {}
			if !sc.none {
				var err error
				if release, err = l.Acquire(ctx, p); err != nil {
					count(func() { r.shed++ })
					return
				}
			}
			answered := make(chan bool, 1)
			wg.Go(func() { answered <- o.serve() })
			select {
			case ok := <-answered:
				if !ok {
					release(overload.Dropped)
					return
				}
				release(overload.OK)
				count(func() { r.good++; r.of[p][1]++; r.latency += time.Since(begun) })
			case <-ctx.Done():
				if sc.leave {
					release(overload.Ignored)
				} else {
					release(overload.Dropped)
				}
			}
		}
		for second := range sc.seconds {
			if f := sc.at[second]; f != nil {
				o.change(f)
			}
			s := l.Stats()
			r.limits = append(r.limits, s.Limit)
			if sc.watch != nil {
				sc.watch(second, s)
			}
			before := r.offered
			for end := time.Now().Add(time.Second); ; {
				time.Sleep(time.Duration(rng.ExpFloat64() / sc.load(second) * float64(time.Second)))
				if !time.Now().Before(end) {
					break
				}
				p := overload.Normal
				if sc.priority != nil {
					p = sc.priority(rng.Float64())
				}
				wg.Go(func() { request(p, second >= from) })
			}
			if second >= from {
				capacity := 200.0
				if sc.capacity != nil {
					capacity = sc.capacity(second)
				}
				mu.Lock()
				r.capacity += min(capacity, float64(r.offered-before))
				mu.Unlock()
			}
		}
		wg.Wait()
		r.stats = l.Stats()
		if r.stats.InFlight != 0 || r.stats.Queued != 0 {
			t.Errorf("at the end: %+v; want nothing in flight or queued", r.stats)
		}
	})
	t.Logf("%v; limits %v", r, r.limits)
	return r
}

func seedOf(t *testing.T) uint64 {
	seed := uint64(1)
	if s := os.Getenv("FRESHET_SEED"); s != "" {
		if _, err := fmt.Sscan(strings.TrimSpace(s), &seed); err != nil {
			t.Fatalf("FRESHET_SEED is %q: %v; want a number", s, err)
		}
	}
	t.Logf("seed %d", seed)
	return seed
}
