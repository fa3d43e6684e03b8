// Package limittest is the contract of package limit's stores in executable form. Every store runs it:
//
//	func TestContract(t *testing.T) {
//		limittest.Run(t, limittest.Options{Bubble: true}, func(t *testing.T) limit.Store {
//			return memlimit.New(memlimit.Options{})
//		})
//	}
//
// [Compare] compares two stores decision for decision, over random operations; [Model] is a store to compare with.
// [Worst] measures what a policy admits at worst.
package limittest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit"
)

// Options say how a store is tested.
type Options struct {
	// Bubble runs every rule in a testing/synctest bubble, whose time the store must follow. Then times are checked to the
	// microsecond. Otherwise the rules sleep, and allow for late answers.
	Bubble bool

	// Parallel lets rules run side by side, so that they sleep together. Not in a bubble.
	Parallel bool
}

// Run checks every rule against a store of its own, empty, which it closes.
func Run(t *testing.T, opts Options, open func(t *testing.T) limit.Store) {
	groups := []struct {
		name  string
		rules []rule
	}{
		{"gcra", gcraRules},
		{"strict", strictRules},
		{"fixed", fixedRules},
		{"concurrency", concurrencyRules},
		{"several", severalRules},
		{"correct", correctRules},
		{"penalty", penaltyRules},
		{"change", changeRules},
		{"crowd", crowdRules},
		{"life", lifeRules},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, r := range g.rules {
				t.Run(r.name, func(t *testing.T) {
					check := func(t *testing.T) {
						e := &env{T: t, opts: opts, s: open(t)}
						defer func() { _ = e.s.Close() }()
						r.check(e)
					}
					if opts.Parallel && !opts.Bubble {
						t.Parallel()
					}
					if opts.Bubble {
						synctest.Test(t, check)
					} else {
						check(t)
					}
				})
			}
		})
	}
}

// A rule is one sentence of the contract.
type rule struct {
	name  string
	check func(e *env)
}

// env is what a rule works with: a store, and verbs that fail the test when the store fails.
type env struct {
	*testing.T
	opts Options
	s    limit.Store
	n    int // of keys and leases made up
}

var bg = context.Background()

const (
	ms    = time.Millisecond
	short = 400 * ms // a time that is waited for
	late  = 5 * time.Second
)

// policy makes a policy, named after the test's rule for a time.
func (e *env) policy(s limit.Spec) *limit.Policy {
	e.Helper()
	p, err := limit.NewPolicy("rule", s)
	if err != nil {
		e.Fatal(err)
	}
	return p
}

func (e *env) take(p *limit.Policy, key string, cost int64) limit.Status {
	e.Helper()
	s, err := e.s.Take(bg, e.charge(p, key, cost))
	if err != nil {
		e.Fatal(err)
	}
	e.same(&s, p, key, cost)
	return s
}

// charge is one with an own lease.
func (e *env) charge(p *limit.Policy, key string, cost int64) limit.Charge {
	e.n++
	return limit.Charge{Policy: p, Key: key, Cost: cost, Lease: lease(e.n)}
}

func lease(n int) (id limit.ID) {
	copy(id[:], fmt.Sprintf("lease %010d", n))
	return id
}

// same checks what holds for every status.
func (e *env) same(s *limit.Status, p *limit.Policy, key string, cost int64) {
	e.Helper()
	switch {
	case s.Policy != p || s.Key != key || s.Cost != cost:
		e.Errorf("status of policy %q, key %q, cost %d; want %q, %q, %d", s.Policy.Name(), s.Key, s.Cost, p.Name(), key, cost)
	case s.Remaining < 0, s.MoreAfter < 0, s.ResetAfter < 0, s.RetryAfter < limit.NeverRetry:
		e.Errorf("a number is negative: %+v", s)
	case s.Fits != (s.RetryAfter == 0):
		e.Errorf("fits is %v with a retry after %v", s.Fits, s.RetryAfter)
	case s.Charged && (!s.Fits || s.Cost == 0):
		e.Errorf("charged: %+v", s)
	case s.MoreAfter > s.ResetAfter:
		e.Errorf("more after %v, all after %v", s.MoreAfter, s.ResetAfter)
	case s.RetryAfter%time.Microsecond != 0 && s.RetryAfter != limit.NeverRetry, s.MoreAfter%time.Microsecond != 0, s.ResetAfter%time.Microsecond != 0:
		e.Errorf("a time isn't in whole microseconds: %+v", s)
	}
	if k := p.Rule().Kind; (k == limit.Strict || k == limit.Fixed) == (s.At == 0) {
		e.Errorf("at is %d for a policy of kind %v", s.At, k)
	}
}

// yes takes, and wants to get it with so many remaining.
func (e *env) yes(p *limit.Policy, key string, cost, remaining int64) limit.Status {
	e.Helper()
	s := e.take(p, key, cost)
	if !s.Fits || s.Charged != (cost > 0) || s.Remaining != remaining {
		e.Errorf("take %d of %q: fits %v, charged %v, %d remaining, retry after %v; want it with %d remaining", cost, key, s.Fits, s.Charged, s.Remaining, s.RetryAfter, remaining)
	}
	return s
}

// no takes, and wants to be refused, with so many remaining, until about retry.
func (e *env) no(p *limit.Policy, key string, cost, remaining int64, retry time.Duration) limit.Status {
	e.Helper()
	s := e.take(p, key, cost)
	if s.Fits || s.Charged || s.Remaining != remaining {
		e.Errorf("take %d of %q: fits %v, charged %v, %d remaining; want a refusal with %d remaining", cost, key, s.Fits, s.Charged, s.Remaining, remaining)
	}
	e.about("retry after", s.RetryAfter, retry)
	return s
}

// about checks a time that was right when it began to be asked for. Without a bubble, sleeps and answers may be late.
func (e *env) about(what string, got, want time.Duration) {
	e.Helper()
	slack := late
	if e.opts.Bubble || want == limit.NeverRetry || want == 0 {
		slack = 0
	}
	if got > want+slack || got < want-slack {
		e.Errorf("%s is %v; want %v", what, got, want)
	}
}

func (e *env) peek(p *limit.Policy, key string) limit.Status {
	e.Helper()
	out := make([]limit.Status, 1)
	if err := e.s.Peek(bg, []limit.Charge{{Policy: p, Key: key, Cost: 1}}, out); err != nil {
		e.Fatal(err)
	}
	e.same(&out[0], p, key, 1)
	return out[0]
}

// left wants so many remaining, by a peek.
func (e *env) left(p *limit.Policy, key string, want int64) {
	e.Helper()
	if s := e.peek(p, key); s.Remaining != want {
		e.Errorf("%q has %d remaining; want %d", key, s.Remaining, want)
	}
}

// all takes several as one, and wants each to fit or not.
func (e *env) all(want string, c ...limit.Charge) []limit.Status {
	e.Helper()
	out := make([]limit.Status, len(c))
	if err := e.s.TakeAll(bg, c, out); err != nil {
		e.Fatal(err)
	}
	got := ""
	for i := range out {
		e.same(&out[i], c[i].Policy, c[i].Key, c[i].Cost)
		switch {
		case out[i].Charged:
			got += "+" // fits and is charged
		case out[i].Fits:
			got += "." // would fit
		default:
			got += "-"
		}
	}
	if got != want {
		e.Errorf("take all: %s; want %s", got, want)
	}
	return out
}

func (e *env) adjust(p *limit.Policy, key string, units, at int64) limit.Status {
	e.Helper()
	out := make([]limit.Status, 1)
	if err := e.s.Adjust(bg, []limit.Adjustment{{Policy: p, Key: key, Units: units, At: at}}, out); err != nil {
		e.Fatal(err)
	}
	e.same(&out[0], p, key, 1)
	return out[0]
}

func (e *env) reset(p *limit.Policy, key string) {
	e.Helper()
	if err := e.s.Reset(bg, p, key); err != nil {
		e.Fatal(err)
	}
}

func (e *env) renew(p *limit.Policy, key string, id limit.ID, want error) {
	e.Helper()
	if err := e.s.Renew(bg, p, key, id); !errors.Is(err, want) {
		e.Errorf("renew: %v; want %v", err, want)
	}
}

func (e *env) release(p *limit.Policy, key string, id limit.ID) {
	e.Helper()
	if err := e.s.Release(bg, p, key, id); err != nil {
		e.Fatal(err)
	}
}

// crowd runs f in many goroutines, n times in all, and returns how often it was true.
func (e *env) crowd(n int, f func(i int) bool) int {
	const goroutines = 32
	var yes, next atomic.Int64
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if f(i) {
					yes.Add(1)
				}
			}
		})
	}
	all.Wait()
	return int(yes.Load())
}
