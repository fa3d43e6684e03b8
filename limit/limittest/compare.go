package limittest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/freshetdev/freshet/limit"
)

// A Pair is two stores with the same time.
type Pair struct {
	A, B limit.Store

	// Advance moves the time of both by d.
	Advance func(d time.Duration)

	// Steps makes d negative sometimes. Then what expired may be there again, so it is only for stores that write exactly when
	// [limit.Rule] says, and forget only then.
	Steps bool
}

// Compare does the same random operations on both stores of pairs that open makes, of policies that change under live keys, and wants
// the same answers, number for number. The stores begin empty. It closes none of them.
func Compare(t *testing.T, open func() Pair) {
	rapid.Check(t, func(rt *rapid.T) {
		pair := open()
		policies := map[string]*limit.Policy{}
		times := map[string]limit.Spec{}
		leases := []limit.ID{lease(0)}
		ats := []int64{0}
		names := rapid.SampledFrom([]string{"a", "b", "c"})
		keys := rapid.SampledFrom([]string{"", "{t}", "{t}x", "{t}y"})

		policy := func() *limit.Policy {
			name := names.Draw(rt, "name")
			if policies[name] == nil || rapid.IntRange(0, 9).Draw(rt, "change") == 0 {
				policies[name] = randomPolicy(rt, name, times)
			}
			return policies[name]
		}
		charge := func() limit.Charge {
			p := policy()
			most := min(p.Rule().Most()+2, limit.MaxUnits)
			c := limit.Charge{Policy: p, Key: keys.Draw(rt, "key"), Shadow: rapid.IntRange(0, 7).Draw(rt, "shadow") == 0, Lease: lease(len(leases))}
			switch rapid.IntRange(0, 3).Draw(rt, "cost") {
			case 0:
				c.Cost = rapid.Int64Range(0, most).Draw(rt, "any cost")
			case 1:
				c.Cost = min(rapid.Int64Range(0, 3).Draw(rt, "small cost"), most)
			default:
				c.Cost = 1
			}
			leases = append(leases, c.Lease)
			return c
		}
		charges := func() []limit.Charge {
			var all []limit.Charge
			for range rapid.IntRange(1, 4).Draw(rt, "charges") {
				c := charge()
				if !slices.ContainsFunc(all, func(o limit.Charge) bool {
					return o.Key == c.Key && o.Policy.Name() == c.Policy.Name()
				}) {
					all = append(all, c)
				}
			}
			return all
		}
		same := func(what string, a, b []limit.Status, errA, errB error) {
			if (errA == nil) != (errB == nil) || errors.Is(errA, limit.ErrLeaseLost) != errors.Is(errB, limit.ErrLeaseLost) {
				rt.Fatalf("%s: error %v, and %v", what, errA, errB)
			}
			for i := range a {
				if !reflect.DeepEqual(a[i], b[i]) {
					rt.Fatalf("%s, %d of %d, policy %s:\n%+v, and\n%+v", what, i, len(a), describe(a[i].Policy), a[i], b[i])
				}
				if a[i].At != 0 {
					ats = append(ats, a[i].At)
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"take": func(*rapid.T) {
				c := charge()
				a, errA := pair.A.Take(bg, c)
				b, errB := pair.B.Take(bg, c)
				same("take", []limit.Status{a}, []limit.Status{b}, errA, errB)
			},
			"take all": func(*rapid.T) {
				c := charges()
				a, b := make([]limit.Status, len(c)), make([]limit.Status, len(c))
				errA, errB := pair.A.TakeAll(bg, c, a), pair.B.TakeAll(bg, c, b)
				same("take all", a, b, errA, errB)
			},
			"peek": func(*rapid.T) {
				c := charges()
				a, b := make([]limit.Status, len(c)), make([]limit.Status, len(c))
				errA, errB := pair.A.Peek(bg, c, a), pair.B.Peek(bg, c, b)
				same("peek", a, b, errA, errB)
			},
			"adjust": func(rt *rapid.T) {
				p := policy()
				most := min(2*p.Rule().Most()+2, limit.MaxUnits)
				adjust := []limit.Adjustment{{
					Policy: p, Key: keys.Draw(rt, "key"), Units: rapid.Int64Range(-most, most).Draw(rt, "units"),
					At: rapid.SampledFrom(ats).Draw(rt, "at"),
				}}
				a, b := make([]limit.Status, 1), make([]limit.Status, 1)
				errA, errB := pair.A.Adjust(bg, adjust, a), pair.B.Adjust(bg, adjust, b)
				same(fmt.Sprintf("adjust by %d, at %d", adjust[0].Units, adjust[0].At), a, b, errA, errB)
			},
			"renew": func(rt *rapid.T) {
				p, key, id := policy(), keys.Draw(rt, "key"), rapid.SampledFrom(leases).Draw(rt, "lease")
				same("renew", nil, nil, pair.A.Renew(bg, p, key, id), pair.B.Renew(bg, p, key, id))
			},
			"release": func(rt *rapid.T) {
				p, key, id := policy(), keys.Draw(rt, "key"), rapid.SampledFrom(leases).Draw(rt, "lease")
				same("release", nil, nil, pair.A.Release(bg, p, key, id), pair.B.Release(bg, p, key, id))
			},
			"reset": func(rt *rapid.T) {
				p, key := policy(), keys.Draw(rt, "key")
				same("reset", nil, nil, pair.A.Reset(bg, p, key), pair.B.Reset(bg, p, key))
			},
			"advance": func(rt *rapid.T) {
				d := time.Duration(rapid.Int64Range(1, 3_000_000).Draw(rt, "µs")) * time.Microsecond
				switch rapid.IntRange(0, 9).Draw(rt, "how far") {
				case 0:
					d *= 100
				case 1:
					d *= 10_000
				case 2:
					if pair.Steps {
						d *= -1
					}
				case 3, 4:
					d /= 1000
				}
				pair.Advance(d / time.Microsecond * time.Microsecond)
			},
		})
	})
}

// randomPolicy is one with small numbers, so that keys are often at their limit, or with the largest. Its times are always the same for a name and
// kind: when they get longer, a store may have forgotten what another knows.
func randomPolicy(rt *rapid.T, name string, times map[string]limit.Spec) *limit.Policy {
	duration := func(what string) time.Duration {
		return time.Duration(rapid.Int64Range(1, 5_000_000).Draw(rt, what)) * time.Microsecond
	}
	s := limit.Spec{
		Kind:  rapid.SampledFrom([]limit.Kind{limit.GCRA, limit.GCRA, limit.Strict, limit.Fixed, limit.Concurrency}).Draw(rt, "kind"),
		Limit: rapid.Int64Range(0, 20).Draw(rt, "limit"),
	}
	if rapid.IntRange(0, 4).Draw(rt, "large") == 0 {
		s.Limit = rapid.SampledFrom([]int64{limit.LogMax, limit.LogMax + 1, 1000, 1_000_000, limit.MaxUnits}).Draw(rt, "large limit")
	}
	id := name + s.Kind.String()
	if _, known := times[id]; !known {
		var at limit.Spec
		switch {
		case s.Kind == limit.Concurrency:
			at.TTL = duration("ttl")
		case s.Kind == limit.Fixed && rapid.Bool().Draw(rt, "calendar"):
			at.Calendar = limit.Calendar(rapid.IntRange(int(limit.Minute), int(limit.Year)).Draw(rt, "window"))
		default:
			at.Period = duration("period")
		}
		times[id] = at
	}
	if _, known := times[name]; !known {
		times[name] = limit.Spec{Penalty: limit.Penalty{Within: duration("within"), Block: duration("block")}}
	}
	s.TTL, s.Calendar, s.Period = times[id].TTL, times[id].Calendar, times[id].Period
	if s.Kind == limit.GCRA {
		s.Limit = min(s.Limit, s.Period.Microseconds())
		if s.Limit > 0 {
			s.Burst = rapid.Int64Range(0, 30).Draw(rt, "burst")
		}
	}
	if s.Kind != limit.Concurrency {
		s.Debt = rapid.Int64Range(-1, 5).Draw(rt, "debt")
	}
	if rapid.IntRange(0, 2).Draw(rt, "penalty") == 0 {
		s.Penalty = times[name].Penalty
		s.Penalty.After = rapid.Int64Range(1, 4).Draw(rt, "after")
	}
	p, err := limit.NewPolicy(name, s)
	if err != nil {
		rt.Fatalf("%+v: %v", s, err)
	}
	return p
}

func describe(p *limit.Policy) string { return fmt.Sprintf("%q %+v", p.Name(), p.Spec()) }
