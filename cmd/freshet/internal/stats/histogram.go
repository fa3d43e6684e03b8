package stats

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram counts durations in buckets an eighth of a power of two wide, so a quantile is
// at most 13 % off. It needs no lock and 2.5 KiB.
type histogram struct {
	buckets [40 * 8]atomic.Uint64 // of microseconds; the last holds whatever is longer than 12 days
	count   atomic.Uint64
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucketOf(d)].Add(1)
	h.count.Add(1)
}

// bucketOf: numbers below 8 have a bucket each; above, the leading bit and the three after it
// name the bucket.
func bucketOf(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	if us < 8 {
		return int(us)
	}
	exp := bits.Len64(us) - 4
	return min(8*exp+int(us>>exp), len(histogram{}.buckets)-1)
}

// lowerBound is the smallest duration in a bucket.
func lowerBound(bucket int) time.Duration {
	if bucket < 16 {
		return time.Duration(bucket) * time.Microsecond
	}
	exp := bucket/8 - 1
	return time.Duration(uint64(8+bucket%8)<<exp) * time.Microsecond
}

// quantile returns the duration below which the share q of all lies; zero if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.count.Load()))
	var seen uint64
	for i := range h.buckets {
		n := h.buckets[i].Load()
		if seen += n; n > 0 && seen > rank {
			return (lowerBound(i) + lowerBound(i+1)) / 2
		}
	}
	return 0
}
