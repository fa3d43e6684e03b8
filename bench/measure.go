package main

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A clientCost is what this process has used so far.
type clientCost struct {
	user, sys time.Duration
	mallocs   uint64
	bytes     uint64
}

func costNow() clientCost {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return clientCost{time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano()), m.Mallocs, m.TotalAlloc}
}

func (c clientCost) since(before clientCost) clientCost {
	return clientCost{c.user - before.user, c.sys - before.sys, c.mallocs - before.mallocs, c.bytes - before.bytes}
}

// A histogram counts durations in buckets of 3 % or less, for closed loops of unknown length.
// It is not safe for concurrent use: one per goroutine, merged at the end.
type histogram struct {
	counts [64 * 32]uint32
	n      uint64
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(uint64(max(d, 0)))]++
	h.n++
}

func (h *histogram) merge(o *histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
}

func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.n)))
	var seen uint64
	for i, c := range h.counts {
		if seen += uint64(c); seen >= rank && c > 0 {
			return time.Duration(bucketFloor(i))
		}
	}
	return 0
}

// bucket splits each power of two into 32.
func bucket(v uint64) int {
	if v < 32 {
		return int(v)
	}
	shift := bits.Len64(v) - 6
	return (shift+1)*32 + int(v>>shift) - 32
}

func bucketFloor(i int) uint64 {
	if i < 32 {
		return uint64(i)
	}
	shift := i/32 - 1
	return uint64(i%32+32) << shift
}

// quantile sorts d.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(math.Ceil(q*float64(len(d))))-1)]
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// zipf returns length draws from n keys with exponent 0.99, the popular ones spread over the
// whole range. (math/rand's Zipf wants an exponent above 1.)
func zipf(r *rand.Rand, n, length int) []uint32 {
	sums := make([]float64, n)
	var sum float64
	for i := range sums {
		sum += 1 / math.Pow(float64(i+1), 0.99)
		sums[i] = sum
	}
	place := r.Perm(n)
	draws := make([]uint32, length)
	for i := range draws {
		rank, _ := slices.BinarySearch(sums, r.Float64()*sum)
		draws[i] = uint32(place[min(rank, n-1)])
	}
	return draws
}

// A request is how one request of an open loop went.
type request struct {
	start time.Duration // since the loop began
	took  time.Duration
	value int64 // what do returned
	err   error
}

// openLoop starts one goroutine per request on schedule, so that slow answers don't hide the
// requests behind them, and returns when all have ended. A request's time counts from
// the start of its goroutine: the pace itself is as coarse as Go's sleeps.
func openLoop(rate int, d time.Duration, do func(i int) (int64, error)) []request {
	requests := make([]request, int(float64(rate)*d.Seconds()))
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range requests {
		due := time.Duration(float64(i) / float64(rate) * float64(time.Second))
		if wait := due - time.Since(begin); wait > 0 {
			time.Sleep(wait)
		}
		wg.Go(func() {
			r := &requests[i]
			r.start = time.Since(begin)
			r.value, r.err = do(i)
			r.took = time.Since(begin) - r.start
		})
	}
	wg.Wait()
	return requests
}

func latencies(requests []request) []time.Duration {
	d := make([]time.Duration, len(requests))
	for i, r := range requests {
		d[i] = r.took
	}
	return d
}

// failures counts, and tells the first: an unexpected error should not hide in a number.
func failures(requests []request) (n float64) {
	for _, r := range requests {
		if r.err == nil {
			continue
		}
		if n++; n == 1 {
			fmt.Fprintf(os.Stderr, "first error, at %v after %v: %v\n", r.start, r.took, r.err)
		}
	}
	return n
}
