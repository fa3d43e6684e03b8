package overload_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit/overload"
)

func newLimiter(t *testing.T, o overload.Options) *overload.Limiter {
	t.Helper()
	l, err := overload.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// fixed is a Limiter whose limit stays n.
func fixed(t *testing.T, n int, o overload.Options) *overload.Limiter {
	t.Helper()
	o.Min, o.Max = n, n
	return newLimiter(t, o)
}

// take acquires what must be free.
func take(t *testing.T, l *overload.Limiter) func(overload.Outcome) {
	t.Helper()
	release, err := l.Acquire(t.Context(), overload.Normal)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

func TestOptionsAreChecked(t *testing.T) {
	f := func(want string, o overload.Options) {
		t.Helper()
		if _, err := overload.New(o); err == nil || err.Error() != want {
			t.Errorf("%+v: %v; want %s", o, err, want)
		}
	}
	f("overload: Options.Min, Max and Initial are -1, 0 and 0; want 1 or more, or 0 for the default", overload.Options{Min: -1})
	f("overload: Options.Min is 9; want at most Max, which is 8", overload.Options{Min: 9, Max: 8})
	f("overload: Options.Initial is 5; want 6 to 1000, which are Min and Max", overload.Options{Min: 6, Initial: 5})
	f("overload: Options.MaxQueued is -2; want 1 or more, 0 for as many as may be in flight, or -1 for none", overload.Options{MaxQueued: -2})
	f("overload: Options.MaxWait is -1s; want more than zero, or 0 for 200ms", overload.Options{MaxWait: -time.Second})
	f("overload: Options.Tolerance is 0.9; want 1 to 10, or 0 for 1.5", overload.Options{Tolerance: 0.9})
	f("overload: Options.Samples is 9; want 10 or more, or 0 for 50", overload.Options{Samples: 9})
	for _, o := range []overload.Options{{}, {Min: 2000}, {Min: 50}, {Max: 5}, {Min: 3, Max: 3}} {
		if _, err := overload.New(o); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// A story is requests in a bubble, each in a goroutine of its own; what they meet is written down in order.
type story struct {
	t   *testing.T
	l   *overload.Limiter
	mu  sync.Mutex
	log []string // guarded by mu
	rel map[string]func(overload.Outcome)
}

// ask lets a request come, and waits until it is admitted, waits or is turned away.
func (s *story) ask(ctx context.Context, name string, p overload.Priority) {
	go func() {
		release, err := s.l.Acquire(ctx, p)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			s.log = append(s.log, name+": "+err.Error())
			return
		}
		s.log = append(s.log, name)
		s.rel[name] = release
	}()
	synctest.Wait()
}

func (s *story) release(name string) {
	s.mu.Lock()
	release := s.rel[name]
	s.mu.Unlock()
	release(overload.OK)
	synctest.Wait()
}

// saw checks what happened since the last look.
func (s *story) saw(want ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if fmt.Sprint(s.log) != fmt.Sprint(want) {
		s.t.Errorf("got %q; want %q", s.log, want)
	}
	s.log = nil
}

func tell(t *testing.T, o overload.Options, f func(s *story)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &story{t: t, rel: map[string]func(overload.Outcome){}}
		s.l = fixed(t, 1, o)
		f(s)
		if st := s.l.Stats(); st.InFlight != 0 || st.Queued != 0 {
			t.Errorf("at the end: %+v", st)
		}
	})
}

const (
	background, normal, critical = overload.Background, overload.Normal, overload.Critical

	full      = "overload: shed: the queue is full"
	displaced = "overload: shed: a higher priority took its place in the queue"
	waited    = "overload: shed: no place in time"
)

func TestQueueGoesByPriorityThenAge(t *testing.T) {
	tell(t, overload.Options{MaxQueued: 6}, func(s *story) {
		s.ask(s.t.Context(), "first", background)
		for _, n := range []string{"b1", "n1", "c1", "b2", "n2", "c2"} {
			s.ask(s.t.Context(), n, map[byte]overload.Priority{'b': background, 'n': normal, 'c': critical}[n[0]])
		}
		s.saw("first")
		for _, step := range [][2]string{{"first", "c1"}, {"c1", "c2"}, {"c2", "n1"}, {"n1", "n2"}, {"n2", "b1"}, {"b1", "b2"}} {
			s.release(step[0])
			s.saw(step[1])
		}
		s.release("b2")
	})
}

func TestQueueFull(t *testing.T) {
	tell(t, overload.Options{MaxQueued: 2}, func(s *story) {
		s.ask(s.t.Context(), "first", normal)
		s.ask(s.t.Context(), "n1", normal)
		s.ask(s.t.Context(), "n2", normal)
		s.ask(s.t.Context(), "n3", normal)
		s.ask(s.t.Context(), "b1", background)
		s.saw("first", "n3: "+full, "b1: "+full)
		s.ask(s.t.Context(), "c1", critical) // the youngest of the lowest priority goes
		s.saw("n2: " + displaced)
		s.ask(s.t.Context(), "c2", critical)
		s.saw("n1: " + displaced)
		s.ask(s.t.Context(), "c3", critical)
		s.saw("c3: " + full)
		st := s.l.Stats()
		if st.Queued != 2 || st.Critical != (overload.Counts{Queued: 2, Shed: 1}) || st.Normal != (overload.Counts{Admitted: 1, Shed: 3}) ||
			st.Background != (overload.Counts{Shed: 1}) {
			t.Errorf("%+v", st)
		}
		s.release("first")
		s.release("c1")
		s.release("c2")
		s.saw("c1", "c2")
	})
}

func TestNoQueue(t *testing.T) {
	tell(t, overload.Options{MaxQueued: -1}, func(s *story) {
		s.ask(s.t.Context(), "first", background)
		s.ask(s.t.Context(), "c", critical)
		s.saw("first", "c: "+full)
		s.release("first")
	})
}

func TestMaxWait(t *testing.T) {
	tell(t, overload.Options{MaxQueued: 2, MaxWait: time.Second}, func(s *story) {
		s.ask(s.t.Context(), "first", normal)
		s.ask(s.t.Context(), "n", normal)
		time.Sleep(time.Second - 1)
		synctest.Wait()
		s.saw("first")
		time.Sleep(1)
		synctest.Wait()
		s.saw("n: " + waited)
		s.release("first")
		s.ask(s.t.Context(), "next", normal) // the place was not given to one who left
		s.saw("next")
		s.release("next")
	})
}

// A caller that gives up while queued leaves no place behind, whether it was its turn by then or not.
func TestGivingUp(t *testing.T) {
	tell(t, overload.Options{MaxQueued: 2}, func(s *story) {
		ctx, cancel := context.WithCancel(s.t.Context())
		s.ask(s.t.Context(), "first", normal)
		s.ask(ctx, "n", normal)
		cancel()
		synctest.Wait()
		s.saw("first", "n: context canceled")
		if st := s.l.Stats(); st.Normal != (overload.Counts{Admitted: 1, GaveUp: 1}) {
			t.Errorf("%+v", st)
		}
		s.ask(ctx, "late", normal)
		s.saw("late: context canceled") // not even a look at the queue
		s.release("first")
		s.ask(s.t.Context(), "next", normal)
		s.saw("next")
		s.release("next")
	})
}

// The place comes and ctx ends at the same time: whatever Acquire returns, no place is lost.
func TestGivingUpWhenAdmitted(t *testing.T) {
	l := fixed(t, 1, overload.Options{MaxWait: time.Minute})
	var gone, got int
	for range 1000 {
		release := take(t, l)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			r, err := l.Acquire(ctx, overload.Normal)
			if err == nil {
				r(overload.OK)
			}
			done <- err
		}()
		for l.Stats().Queued == 0 {
			time.Sleep(time.Microsecond)
		}
		go cancel()
		release(overload.OK)
		switch err := <-done; {
		case err == nil:
			got++
		case errors.Is(err, context.Canceled):
			gone++
		default:
			t.Fatal(err)
		}
		if s := l.Stats(); s.InFlight != 0 || s.Queued != 0 {
			t.Fatalf("%+v; want nothing in flight or queued", s)
		}
	}
	s := l.Stats().Normal
	if s.Admitted != int64(1000+got) || s.GaveUp != int64(gone) || s.Shed != 0 {
		t.Errorf("%+v; want %d admitted, %d gave up", s, 1000+got, gone)
	}
	t.Logf("%d admitted, %d gave up", got, gone)
}

func TestReleaseCountsOnce(t *testing.T) {
	l := fixed(t, 2, overload.Options{MaxQueued: -1})
	one, two := take(t, l), take(t, l)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { one(overload.OK) })
	}
	wg.Wait()
	if n := l.Stats().InFlight; n != 1 {
		t.Errorf("%d in flight after one of two was released ten times; want 1", n)
	}
	two(overload.OK)
}

// Never more than the limit are in flight, with many requests that leave, wait and are displaced; and in the end, none is.
func TestNeverMoreThanTheLimit(t *testing.T) {
	for _, most := range []int{1, 7} {
		var inFlight, peak atomic.Int64
		l := fixed(t, most, overload.Options{MaxQueued: 10, MaxWait: 3 * time.Millisecond})
		var wg sync.WaitGroup
		for worker := range 32 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(worker), 1))
				for range 300 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(2000))*time.Microsecond)
					release, err := l.Acquire(ctx, overload.Priority(rng.IntN(3)-1))
					if err == nil {
						n := inFlight.Add(1)
						for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
						}
						if rng.IntN(2) == 0 {
							time.Sleep(time.Duration(rng.IntN(100)) * time.Microsecond)
						}
						inFlight.Add(-1)
						release(overload.Outcome(rng.IntN(3)))
						release(overload.OK)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		s := l.Stats()
		if peak.Load() != int64(most) || s.InFlight != 0 || s.Queued != 0 {
			t.Errorf("limit %d: %d in flight at most; at the end %+v", most, peak.Load(), s)
		}
		var ended int64
		for _, c := range []overload.Counts{s.Background, s.Normal, s.Critical} {
			ended += c.Admitted + c.Shed + c.GaveUp
		}
		if ended > 32*300 { // a ctx that had ended before isn't counted
			t.Errorf("limit %d: %d ended of %d; counts %+v", most, ended, 32*300, s)
		}
	}
}

// When the limit goes down, what is in flight stays, and nobody is admitted until there is room; when it goes up, those who wait are.
func TestLimitChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes [][2]int
		var l *overload.Limiter
		l = newLimiter(t, overload.Options{Initial: 20, Samples: 10, MaxQueued: 100, MaxWait: time.Hour, Hooks: overload.Hooks{
			Limit: func(from, to int) { changes = append(changes, [2]int{from, to}); l.Stats() }, // it may call the Limiter
		}})
		var held []func(overload.Outcome)
		for range 20 {
			held = append(held, take(t, l))
		}
		time.Sleep(time.Second)
		for len(changes) == 0 { // all time out
			held[0](overload.Dropped)
			if held = held[1:]; len(changes) == 0 {
				held = append(held, take(t, l))
			}
		}
		s := l.Stats()
		if s.Limit >= 20 || s.InFlight <= s.Limit {
			t.Fatalf("%+v; want a limit that was lowered below what is in flight", s)
		}
		admitted := make(chan func(overload.Outcome), 1)
		go func() {
			r, err := l.Acquire(t.Context(), overload.Normal)
			if err != nil {
				t.Error(err)
			}
			admitted <- r
		}()
		synctest.Wait()
		for l.Stats().InFlight > l.Stats().Limit {
			select {
			case <-admitted:
				t.Fatalf("admitted over the limit: %+v", l.Stats())
			default:
			}
			held[0](overload.Ignored)
			held = held[1:]
		}
		if len(admitted) > 0 {
			t.Fatal("admitted at the limit")
		}
		held[0](overload.Ignored)
		held = held[1:]
		(<-admitted)(overload.OK)
		for _, r := range held {
			r(overload.Ignored)
		}
		if s := l.Stats(); s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestShedHook(t *testing.T) {
	type shed struct {
		p   overload.Priority
		err string
	}
	var mu sync.Mutex
	var got []shed
	tell(t, overload.Options{MaxQueued: 1, MaxWait: time.Second, Hooks: overload.Hooks{Shed: func(p overload.Priority, err error) {
		mu.Lock()
		defer mu.Unlock()
		if !errors.Is(err, overload.ErrShed) {
			t.Errorf("%v; want ErrShed", err)
		}
		got = append(got, shed{p, err.Error()})
	}}}, func(s *story) {
		s.ask(s.t.Context(), "first", normal)
		s.ask(s.t.Context(), "b", background)
		s.ask(s.t.Context(), "b2", background)
		s.ask(s.t.Context(), "c", critical)
		time.Sleep(time.Second)
		synctest.Wait()
		s.release("first")
	})
	if want := []shed{{background, full}, {background, displaced}, {critical, waited}}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v; want %v", got, want)
	}
}

func TestPrioritiesBeyondTheRange(t *testing.T) {
	tell(t, overload.Options{MaxQueued: 2}, func(s *story) {
		s.ask(s.t.Context(), "first", normal)
		s.ask(s.t.Context(), "low", -100)
		s.ask(s.t.Context(), "high", 100)
		s.release("first")
		s.release("high")
		s.saw("first", "high", "low")
		s.release("low")
		if st := s.l.Stats(); st.Critical.Admitted != 1 || st.Background.Admitted != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func BenchmarkAcquire(b *testing.B) {
	l, err := overload.New(overload.Options{Min: 100, Max: 100})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		release, err := l.Acquire(b.Context(), overload.Normal)
		if err != nil {
			b.Fatal(err)
		}
		release(overload.OK)
	}
}
