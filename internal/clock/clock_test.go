package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestNowFollowsTheSystem(t *testing.T) {
	c := New(false)
	for range 50 {
		a := c.Exact()
		time.Sleep(2 * time.Millisecond)
		if d := c.Now() - a; d < int64(2*time.Millisecond)-int64(time.Millisecond) || d > int64(time.Second) {
			t.Fatalf("after 2 ms the clock went on by %v", time.Duration(d))
		}
	}
}

// The first reading after a pause must be the real one, however long nobody asked.
func TestFirstReadingAfterAPause(t *testing.T) {
	c := New(false)
	c.Now()
	before := bootTime()
	time.Sleep(30 * time.Millisecond)
	if got := c.Now(); got < before+int64(29*time.Millisecond) {
		t.Errorf("the first reading is %v behind", time.Duration(bootTime()-got))
	}
}

func TestNeverGoesBack(t *testing.T) {
	c := New(false)
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			last := int64(0)
			for range 200_000 {
				now := c.Now()
				if now < last {
					t.Errorf("went back by %d ns", last-now)
					return
				}
				last = now
			}
		}()
	}
	for range 4 {
		<-done
	}
}

func TestExactFollowsABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(true)
		a := c.Now()
		time.Sleep(time.Hour)
		if d := c.Now() - a; d != int64(time.Hour) {
			t.Errorf("the clock went on by %v; want 1h", time.Duration(d))
		}
	})
}

func BenchmarkNow(b *testing.B) {
	c := New(false)
	for b.Loop() {
		c.Now()
	}
}

func BenchmarkExact(b *testing.B) {
	c := New(false)
	for b.Loop() {
		c.Exact()
	}
}

func BenchmarkFine(b *testing.B) {
	f := NewFine()
	for b.Loop() {
		f.Now()
	}
}

func BenchmarkSince(b *testing.B) {
	start := time.Now()
	for b.Loop() {
		_ = time.Since(start)
	}
}
