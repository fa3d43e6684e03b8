package observe_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet/observe"
)

func TestHistogram(t *testing.T) {
	for b := range len(observe.Histogram{}.Buckets) - 1 {
		var r observe.Recorder
		h := r.Histogram()
		r.Record(h.Bound(b))
		r.Record(h.Bound(b+1) - 1)
		if h = r.Histogram(); h.Buckets[b] != 2 {
			t.Fatalf("bucket %d is from %v to below %v, and counts %d of its ends; want 2", b, h.Bound(b), h.Bound(b+1), h.Buckets[b])
		}
	}
	var r observe.Recorder
	if h := r.Histogram(); h.Quantile(0.5) != 0 {
		t.Errorf("median of nothing: %v", h.Quantile(0.5))
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	var sum time.Duration
	for range 10_000 {
		d := time.Duration(rnd.ExpFloat64() * float64(50*time.Millisecond))
		r.Record(d)
		sum += d
		all = append(all, d)
	}
	slices.Sort(all)
	h := r.Histogram()
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99} {
		got, want := h.Quantile(q), all[int(q*float64(len(all)))]
		if ratio := float64(got) / float64(want); ratio < 0.86 || ratio > 1.14 {
			t.Errorf("quantile %v is %v; want about %v", q, got, want)
		}
	}
	if last := all[len(all)-1]; h.Count != 10_000 || h.Sum != sum || h.Max != last || h.Quantile(1) != last {
		t.Errorf("count %d, sum %v, max %v, quantile 1 %v; want 10000, %v, %v twice", h.Count, h.Sum, h.Max, h.Quantile(1), sum, last)
	}
	at := 32768 * time.Microsecond // the end of a bucket
	n, _ := slices.BinarySearch(all, at)
	if got := h.Below(at); got != uint64(n) {
		t.Errorf("%d below %v; want %d", got, at, n)
	}

	var few observe.Recorder
	few.Record(time.Millisecond)
	if got, want := fmt.Sprintf("%+v %v", struct{ A, B observe.Histogram }{A: few.Histogram()}, observe.Histogram{}), "{A:1 of 992µs p50, 992µs p99, 1ms at most B:none} none"; got != want {
		t.Errorf("printed as %q; want %q", got, want)
	}

	r.Record(-time.Second)
	r.Record(1 << 62)
	twice := r.Histogram()
	if twice.Count != 10_002 || twice.Buckets[0] == 0 || twice.Sum-h.Sum != 1<<62 {
		t.Errorf("with one that is negative and one that is too long: count %d, sum %v more; want 10002, and the long one", twice.Count, twice.Sum-h.Sum)
	}
	h.Add(&h)
	if h.Count != 20_000 || h.Sum != 2*sum || h.Max != all[len(all)-1] || h.Below(at) != 2*uint64(n) {
		t.Errorf("added to itself: count %d, sum %v, %d below %v; want twice of all", h.Count, h.Sum, h.Below(at), at)
	}
}

func TestRecorderIsShared(t *testing.T) {
	var r observe.Recorder
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 1000 {
				r.Record(time.Duration(i*1000+n) * time.Microsecond)
			}
		})
	}
	wg.Wait()
	if h := r.Histogram(); h.Count != 4000 || h.Max != 3999*time.Microsecond || h.Sum != 3999*4000/2*time.Microsecond {
		t.Errorf("count %d, max %v, sum %v; want 4000, 3.999ms, 7.998s", h.Count, h.Max, h.Sum)
	}
	if n := testing.AllocsPerRun(100, func() { r.Record(time.Millisecond) }); n != 0 {
		t.Errorf("Record makes %v allocations; want none", n)
	}
}
