package limit

import (
	"reflect"
	"testing"
	"time"
)

// The arithmetic of each kind, on states, at times: what other languages must agree with. The suite of limittest has more, through stores.
func TestGCRAArithmetic(t *testing.T) {
	r := MustPolicy("p", Spec{Limit: 10, Period: time.Second, Burst: 3, Debt: 2}).Rule()
	if r.Interval != 100_000 || r.Tolerance != 300_000 || r.Cap != 500_000 {
		t.Fatalf("%+v; want an interval of 100 ms, 3 and 5 of them", r)
	}
	const now = 1_000_000_000
	f := func(tat, cost int64, want View) {
		t.Helper()
		s := State{TAT: tat}
		r.Clean(&s, now)
		if got := r.View(&s, now, cost); got != want {
			t.Errorf("TAT in %d, cost %d: %+v; want %+v", tat-now, cost, got, want)
		}
	}
	full := View{Room: 3, Fits: true}
	f(0, 1, full)
	f(now, 3, full)
	f(now, 0, full)
	f(now, 4, View{Room: 3, Retry: Never})
	f(now+1, 1, View{Room: 2, More: 1, Reset: 1, Fits: true})
	f(now+1, 3, View{Room: 2, Retry: 1, More: 1, Reset: 1})
	f(now+200_000, 1, View{Room: 1, More: 100_000, Reset: 200_000, Fits: true})
	f(now+200_001, 1, View{Room: 0, Retry: 1, More: 1, Reset: 200_001})
	f(now+300_000, 1, View{Retry: 100_000, More: 100_000, Reset: 300_000})
	f(now+300_000, 0, View{Retry: 100_000, More: 100_000, Reset: 300_000})
	f(now+500_000, 2, View{Retry: 400_000, More: 300_000, Reset: 500_000})
	f(now+1e12, 2, View{Retry: 400_000, More: 300_000, Reset: 500_000}) // capped
}

// A charge in two steps is the same as in three, and what is given back is what was charged.
func TestTakeGCRA(t *testing.T) {
	p := MustPolicy("p", Spec{Limit: 7, Period: time.Second, Burst: 4})
	r := p.Rule()
	const now = 1_000_000_000
	for tat := int64(now - 10); tat < now+2_000_000; tat += 37_123 {
		for cost := range int64(6) {
			s := State{TAT: tat}
			cell := Cell{Charge: Charge{Policy: p, Key: "k", Cost: cost}, State: &s, Now: now}
			TakeCells([]Cell{cell})
			cells := []Cell{{Charge: cell.Charge, State: &State{TAT: tat}, Now: now}}
			TakeCells(cells)
			next, fits, write := r.TakeGCRA(tat, now, cost)
			var st Status
			r.AnswerGCRA(&st, &cell.Charge, next-now, fits, fits && cost > 0)
			if st != cells[0].Status || write != cells[0].WriteState || write && next != cells[0].State.TAT {
				t.Fatalf("TAT in %d, cost %d: %+v, next in %d, write %v; want %+v, next in %d, write %v", tat-now, cost, st, next-now, write,
					cells[0].Status, cells[0].State.TAT-now, cells[0].WriteState)
			}
			if st.Charged {
				before := max(tat, now)
				s = State{TAT: next}
				if r.Adjust(&s, now, -cost, 0); s.TAT != before {
					t.Fatalf("given back: TAT in %d; want %d", s.TAT-now, before-now)
				}
			}
		}
	}
}

func TestStrictArithmetic(t *testing.T) {
	log := MustPolicy("p", Spec{Kind: Strict, Limit: 10, Period: time.Second, Debt: 3}).Rule()
	f := func(spent []Spent, do func(s *State), want []Spent) {
		t.Helper()
		s := State{Spent: spent}
		do(&s)
		if len(s.Spent)+len(want) > 0 && !reflect.DeepEqual(s.Spent, want) {
			t.Errorf("%v; want %v", s.Spent, want)
		}
	}
	const now = 5_000_000
	charge := func(units int64) func(*State) {
		return func(s *State) { log.Clean(s, now); log.Charge(s, now, units, ID{}) }
	}
	adjust := func(units, at int64) func(*State) {
		return func(s *State) { log.Clean(s, now); log.Adjust(s, now, units, at) }
	}
	f(nil, charge(2), []Spent{{now, 2}})
	f([]Spent{{now, 3}}, charge(2), []Spent{{now, 5}})
	f([]Spent{{now - 1_000_000, 3}, {now - 999_999, 4}}, charge(1), []Spent{{now - 999_999, 4}, {now, 1}})
	f([]Spent{{now - 5, 1}, {now + 5, 3}, {now + 9, 4}}, charge(1), []Spent{{now - 5, 1}, {now, 8}}) // the clock stepped back
	f([]Spent{{now, 1}, {now + 9, 4}}, charge(1), []Spent{{now, 6}})
	f([]Spent{{now - 9, 2}, {now - 5, 4}, {now - 1, 4}}, adjust(-3, now-5), []Spent{{now - 9, 2}, {now - 5, 1}, {now - 1, 4}})
	f([]Spent{{now - 9, 2}, {now - 5, 4}, {now - 1, 4}}, adjust(-3, 0), []Spent{{now - 5, 3}, {now - 1, 4}})
	f([]Spent{{now - 9, 2}}, adjust(-3, now-1_000_000), []Spent{{now - 9, 2}}) // what is given back counts no more
	f([]Spent{{now - 9, 2}}, adjust(-3, now-8), []Spent{{now - 9, 2}})
	f([]Spent{{now - 9, 10}}, adjust(5, 0), []Spent{{now - 9, 10}, {now, 3}})
	f([]Spent{{now - 9, 20}}, adjust(5, 0), []Spent{{now - 9, 20}}) // a limit that was lowered: nothing is given back

	sub := MustPolicy("p", Spec{Kind: Strict, Limit: 1000, Period: time.Second}).Rule()
	if sub.Grain != 100_000 || sub.Span != 1_100_000 || log.Grain != 1 || log.Span != 1_000_000 || log.Keep != sub.Keep {
		t.Errorf("%+v, %+v", sub, log)
	}
	s := State{}
	for _, at := range []int64{4_999_999, 5_000_000, 5_099_999, 5_100_000} {
		sub.Charge(&s, at, 1, ID{})
	}
	if want := []Spent{{4_900_000, 1}, {5_000_000, 2}, {5_100_000, 1}}; !reflect.DeepEqual(s.Spent, want) {
		t.Errorf("%v; want %v", s.Spent, want)
	}
	if v := sub.View(&s, 5_999_999, 1000); v.Room != 996 || v.Retry != 200_001 || v.More != 1 {
		t.Errorf("%+v; want room for 996, the first back after 1 µs, all after 200,001", v)
	}
}

func TestFixedArithmetic(t *testing.T) {
	r := MustPolicy("p", Spec{Kind: Fixed, Limit: 10, Period: time.Second, Debt: 5}).Rule()
	f := func(start, used, now, room int64) *State {
		t.Helper()
		s := &State{Start: start, Used: used}
		r.Clean(s, now)
		if got := r.View(s, now, 1).Room; got != room {
			t.Errorf("%d used since %d, at %d: room for %d; want %d", used, start, now, got, room)
		}
		return s
	}
	f(0, 0, 7_500_000, 10)
	f(7_000_000, 4, 7_999_999, 6)
	f(7_000_000, 4, 8_000_000, 10)
	f(9_000_000, 4, 8_500_000, 6) // the clock stepped back
	f(7_000_000, 25, 7_500_000, 0)
	s := f(7_000_000, 8, 7_500_000, 2)
	r.Adjust(s, 7_500_000, 100, 0)
	if s.Used != 15 {
		t.Errorf("%d used; want 15, with the debt", s.Used)
	}
	s.Used = 20 // of a limit that was lowered
	if r.Adjust(s, 7_500_000, 1, 0); s.Used != 20 {
		t.Errorf("%d used; want 20 still", s.Used)
	}
	r.Adjust(s, 7_500_000, -3, 6_999_999) // of the window before
	r.Adjust(s, 7_500_000, -4, 7_000_000)
	if s.Used != 16 {
		t.Errorf("%d used; want 16", s.Used)
	}
}
