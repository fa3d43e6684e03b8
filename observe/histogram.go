package observe

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"
)

// A Histogram counts durations in 320 buckets: one for each microsecond below 8 µs, and above that eight for each power of two, so
// that what is read off it is at most an eighth off. It is a copy: see [Recorder].
type Histogram struct {
	Count   uint64
	Sum     time.Duration
	Max     time.Duration
	Buckets [histBuckets]uint64 // by the lower end of each: see Bound
}

const (
	histSteps   = 8              // buckets for each power of two
	histBuckets = 40 * histSteps // the last holds what is longer than 12 days
)

// bucketOf: above the first numbers, the leading bit and the three after it name the bucket.
func bucketOf(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	if us < histSteps {
		return int(us)
	}
	exp := bits.Len64(us) - 4
	return min(histSteps*exp+int(us>>exp), histBuckets-1)
}

// Bound is the lower end of bucket i: it counts durations from there to below Bound(i+1).
func (h Histogram) Bound(i int) time.Duration { return lowerBound(i) }

func lowerBound(i int) time.Duration {
	if i < 2*histSteps {
		return time.Duration(i) * time.Microsecond
	}
	exp := i/histSteps - 1
	return time.Duration(uint64(histSteps+i%histSteps)<<exp) * time.Microsecond
}

// Below counts the durations in buckets that end at or below d.
func (h Histogram) Below(d time.Duration) (n uint64) {
	for i, c := range h.Buckets {
		if lowerBound(i+1) > d {
			break
		}
		n += c
	}
	return n
}

// Quantile returns about the duration below which a part q (0 to 1) of all lies; zero if there are none.
func (h Histogram) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.Count))
	var seen uint64
	for i, n := range h.Buckets {
		if seen += n; n > 0 && seen > rank {
			return min((lowerBound(i)+lowerBound(i+1))/2, h.Max)
		}
	}
	return h.Max
}

// String sums it up: "3 of 200µs p50, 1ms p99, 1ms at most"; "none".
func (h Histogram) String() string {
	if h.Count == 0 {
		return "none"
	}
	return fmt.Sprintf("%d of %v p50, %v p99, %v at most", h.Count, h.Quantile(0.5), h.Quantile(0.99), h.Max)
}

// Add adds what another histogram counted.
func (h *Histogram) Add(o *Histogram) {
	h.Count += o.Count
	h.Sum += o.Sum
	h.Max = max(h.Max, o.Max)
	for i, n := range o.Buckets {
		h.Buckets[i] += n
	}
}

// A Recorder makes a [Histogram] of durations, without a lock or an allocation. The zero Recorder is ready; safe for concurrent use.
type Recorder struct {
	sum, max atomic.Int64
	buckets  [histBuckets]atomic.Uint64
}

// Record counts d; a negative one, which clocks that differ make, as zero.
func (r *Recorder) Record(d time.Duration) {
	d = max(d, 0)
	r.buckets[bucketOf(d)].Add(1)
	r.sum.Add(int64(d))
	for {
		most := r.max.Load()
		if int64(d) <= most || r.max.CompareAndSwap(most, int64(d)) {
			return
		}
	}
}

// Histogram returns what was counted so far. What is recorded meanwhile may be in it in part.
func (r *Recorder) Histogram() (h Histogram) {
	for i := range r.buckets {
		h.Buckets[i] = r.buckets[i].Load()
		h.Count += h.Buckets[i]
	}
	h.Sum, h.Max = time.Duration(r.sum.Load()), time.Duration(r.max.Load())
	return h
}
