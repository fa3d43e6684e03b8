package model

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// A system is a bounded world. States must be plain: structs and arrays of uint8 and bool, so that they are
// compared and hashed as bytes.
type system[S comparable] interface {
	// start is the state in which everything begins.
	start() S

	// next calls step for each successor of s. actor says who does it.
	next(s S, step func(actor, what string, to S))

	// broken names the promise that s breaks; empty if it keeps all.
	broken(s S) string
}

// A Result is what exploring a variant brought.
type Result struct {
	States int
	Cut    bool   // the limit was reached: there may be more states
	Broken string // the promise that a state breaks; empty if none does
	Trace  []string
}

// String is one line for each step of the counterexample.
func (r Result) String() string {
	if r.Broken == "" {
		return fmt.Sprintf("no counterexample in %d states", r.States)
	}
	var b strings.Builder
	for i, step := range r.Trace {
		fmt.Fprintf(&b, "%3d  %s\n", i+1, step)
	}
	fmt.Fprintf(&b, "     => %s", r.Broken)
	return b.String()
}

// explore visits the states of m breadth first, so the first counterexample found is a shortest one. States
// are compared whole: no two are ever taken for one.
func explore[S comparable](m system[S], limit int) Result {
	seen := set[S]{seed: maphash.MakeSeed()}
	seen.add(m.start(), 0)
	bad, why := -1, ""
	for i := 0; i < seen.n && bad < 0; i++ {
		if seen.n > limit {
			return Result{States: seen.n, Cut: true}
		}
		m.next(*seen.state(i), func(_, _ string, to S) {
			if bad >= 0 || !seen.add(to, i) {
				return
			}
			if p := m.broken(to); p != "" {
				bad, why = seen.n-1, p
			}
		})
	}
	r := Result{States: seen.n, Broken: why}
	for at := bad; at > 0; at = int(seen.from[at]) {
		to, found := *seen.state(at), false
		m.next(*seen.state(int(seen.from[at])), func(actor, what string, s S) {
			if !found && s == to {
				found = true
				r.Trace = append(r.Trace, fmt.Sprintf("%-6s %s", actor, what))
			}
		})
	}
	for i, j := 0, len(r.Trace)-1; i < j; i, j = i+1, j-1 {
		r.Trace[i], r.Trace[j] = r.Trace[j], r.Trace[i]
	}
	return r
}

// A set holds states in the order in which they were added, each with the number of the one it came from.
type set[S comparable] struct {
	seed   maphash.Seed
	n      int
	chunks [][]S // so that nothing is copied as it grows
	from   []int32
	table  []int32 // number of a state plus one, by hash; its length is a power of two
}

const perChunk = 1 << 12

func (t *set[S]) state(i int) *S { return &t.chunks[i/perChunk][i%perChunk] }

func (t *set[S]) add(s S, from int) bool {
	if 2*t.n >= len(t.table) {
		t.table = make([]int32, max(1<<12, 4*len(t.table)))
		for i := range t.n {
			t.table[t.slot(t.state(i))] = int32(i + 1)
		}
	}
	at := t.slot(&s)
	if t.table[at] != 0 {
		return false
	}
	if t.n%perChunk == 0 {
		t.chunks = append(t.chunks, make([]S, perChunk))
	}
	*t.state(t.n) = s
	t.from = append(t.from, int32(from))
	t.n++
	t.table[at] = int32(t.n)
	return true
}

// slot is where s is, or where it would go.
func (t *set[S]) slot(s *S) uint64 {
	mask := uint64(len(t.table) - 1)
	for at := maphash.Comparable(t.seed, *s) & mask; ; at = (at + 1) & mask {
		if n := t.table[at]; n == 0 || *t.state(int(n - 1)) == *s {
			return at
		}
	}
}
