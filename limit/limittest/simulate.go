package limittest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/freshetdev/freshet/limit"
)

// A Clock is a server's clock for a [Model], in µs since 1970. The zero Clock stands at 1970.
type Clock struct {
	mu  sync.Mutex
	now int64 // guarded by mu
}

// Now is the time.
func (c *Clock) Now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Set sets the time, back too.
func (c *Clock) Set(us int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = us
}

// A Simulation measures what a policy admits, by the arithmetic and a clock of its own, so that an hour takes no time.
type Simulation struct {
	Policy *limit.Policy
	Period time.Duration // W: the window that all is measured in

	// Lost is asked before each request, with its time since the pattern began (µs): whether the store lost its state just now.
	Lost func(at int64) bool
}

// A Result is what was admitted at worst, over all hostile patterns.
type Result struct {
	W, W2, W10, W100 int     // units in any window of W, W/2, W/10, W/100
	Over             float64 // the shortest span with one unit more than N, in W
	Flood            float64 // admitted of a flood of 37 times the limit over 20 W, as a part of the limit
	Refused          float64 // the part refused of a Poisson stream at 90 % of the limit
}

func (r Result) String() string {
	return fmt.Sprintf("W %d, W/2 %d, W/10 %d, W/100 %d, over in %.3f W, flood %.3f, refused %.1f %%", r.W, r.W2, r.W10, r.W100, r.Over, r.Flood, 100*r.Refused)
}

// Worst runs all patterns. N is the limit that Over, Flood and Refused are measured by. The same seed gives the same result.
func (s Simulation) Worst(n int, seed uint64) Result {
	r := s.Windows(n, seed)
	w := s.Period.Microseconds()
	flood := even(0, 20*w, 37*20*n)
	r.Flood = float64(len(s.admitted(flood))) / float64(20*n)

	rng := rand.New(rand.NewPCG(seed, 90))
	var poisson []int64
	for at := 0.0; at < float64(200*w); at += rng.ExpFloat64() * float64(w) / (0.9 * float64(n)) {
		poisson = append(poisson, int64(at))
	}
	r.Refused = 1 - float64(len(s.admitted(poisson)))/float64(len(poisson))
	return r
}

// Windows is Worst without Flood and Refused, which take most of the time.
func (s Simulation) Windows(n int, seed uint64) Result {
	w := s.Period.Microseconds()
	r := Result{Over: 1e9}
	for _, pattern := range hostile(w, n, seed) {
		at := s.admitted(pattern)
		r.W = max(r.W, most(at, w))
		r.W2 = max(r.W2, most(at, w/2))
		r.W10 = max(r.W10, most(at, w/10))
		r.W100 = max(r.W100, most(at, w/100))
		for i := n; i < len(at); i++ {
			r.Over = min(r.Over, float64(at[i]-at[i-n])/float64(w))
		}
	}
	return r
}

// admitted returns the times of a pattern that were admitted.
func (s Simulation) admitted(pattern []int64) []int64 {
	// Long after 1970, at the beginning of a window.
	const epoch = 1_790_000_000_000_000
	start := epoch - epoch%s.Period.Microseconds()
	var state limit.State
	cells := []limit.Cell{{Charge: limit.Charge{Policy: s.Policy, Cost: 1}, State: &state}}
	var at []int64
	for _, t := range pattern {
		if s.Lost != nil && s.Lost(t) {
			state = limit.State{}
		}
		cells[0].Now = start + t
		if limit.TakeCells(cells); cells[0].Status.Fits {
			at = append(at, t)
		}
	}
	return at
}

// most is the largest number of times in any window [t, t+w).
func most(at []int64, w int64) int {
	best, from := 0, 0
	for i, t := range at {
		for t-at[from] >= w {
			from++
		}
		best = max(best, i-from+1)
	}
	return best
}

// even is n requests, evenly over a time.
func even(from, to int64, n int) []int64 {
	at := make([]int64, n)
	for i := range at {
		at[i] = from + int64(float64(to-from)*float64(i)/float64(n))
	}
	return at
}

// hostile are patterns that try to get more than n in a window of w: bursts at every place of a window and after every
// pause, alone and with a flood between them, floods that begin or pause at every place, polling at every pace, and random mixtures.
func hostile(w int64, n int, seed uint64) [][]int64 {
	burst := func(at int64, n int) []int64 {
		b := make([]int64, n)
		for i := range b {
			b[i] = at
		}
		return b
	}
	var all [][]int64
	add := func(parts ...[]int64) {
		p := slices.Concat(parts...)
		slices.Sort(p)
		all = append(all, p)
	}
	const places = 20
	for i := range int64(places) {
		at := w * i / places
		// A burst, then another after each pause.
		for j := range int64(places) {
			gap := w * (j + 1) / places * 3 / 2
			add(burst(at, n), burst(at+gap, n), burst(at+2*gap, n))
		}
		add(burst(w+at-1, n), burst(w+at, n), burst(2*w+at-1, n))
		for _, edge := range []int64{-1, 0, 1} { // around the ends of windows and sub-windows
			add(burst(w+at+edge, n), burst(2*w+at+edge, n), burst(2*w+at+w/10+edge, n))
			add(burst(w+edge, n), burst(w+at+edge, n), burst(2*w+edge, n))
		}
		add(burst(at, n), even(at, at+3*w, 6*n))
		add(even(at, at+w/2, 2*n), even(at+w, at+2*w, 3*n))
		add(burst(at, 1), even(at+w-w/100, at+w+w/100, 4*n)) // opens a window, and floods its end
		add(even(at, at+3*w, 3*n+int(i)), burst(at+w+w/2, n))
		add(even(at, at+3*w, n*(int(i)+1)/10+1))
		for _, part := range []int{2, 3, 10} {
			add(burst(at, n/part), even(at+w/20, at+w, n), burst(at+w, n), burst(at+w+w/10, n))
		}
	}
	rng := rand.New(rand.NewPCG(seed, 5))
	for range 200 {
		var p []int64
		for range 2 + rng.IntN(8) {
			at := rng.Int64N(3 * w)
			if rng.IntN(2) == 0 {
				p = append(p, burst(at, 1+rng.IntN(n))...)
			} else {
				p = append(p, even(at, at+1+rng.Int64N(w), 1+rng.IntN(2*n))...)
			}
		}
		add(p)
	}
	return all
}
