package rls

import (
	"context"
	"errors"

	"github.com/freshetdev/freshet/limit"
)

// A verdict is the decision about all asks of a request.
type verdict struct {
	allowed   bool
	shadowed  bool
	degraded  bool
	undecided error // the store's, if a limit with on_outage error couldn't be decided

	binding limit.Status
	bound   bool // binding is one: there was a limit

	all []found // of the asks
}

// A found is what the limiter says of an ask.
type found struct {
	limit.Status
	known bool // else there is nothing but the code
	lost  bool // a refund that the store couldn't do
}

// decide gives back what is to be given back, and decides the rest.
func (s *Server) decide(ctx context.Context, asks []ask) (verdict, error) {
	v := verdict{allowed: true, all: make([]found, len(asks))}
	for i := range asks {
		if asks[i].does == givesBack {
			f, err := s.giveBack(ctx, &asks[i])
			if err != nil {
				return v, err
			}
			v.all[i] = f
		}
	}
	reqs := group(asks)
	if len(reqs) == 0 {
		return v, nil
	}
	statuses := make([]limit.Status, len(reqs))
	known := make([]bool, len(reqs))
	decided, err := s.decideReqs(ctx, reqs, statuses, known, &v)
	if err != nil {
		return v, err
	}
	for i := range asks {
		a := &asks[i]
		if a.does != charges {
			continue
		}
		st := statuses[a.group]
		v.all[i] = found{Status: st, known: known[a.group]}
		if st.Source == limit.FromOutage && a.rule.outageError && decided.Err != nil {
			v.undecided = decided.Err
		}
	}
	return v, nil
}

// giveBack gives the units of a back. An outage isn't an error: the refund is lost, and the answer says so.
func (s *Server) giveBack(ctx context.Context, a *ask) (found, error) {
	req := limit.Request{Policy: a.policy, Key: a.key, Cost: a.cost}
	var st limit.Status
	var err error
	if a.cost == 0 { // to a Request that would be 1
		req.Cost = limit.Uncharged
		var d limit.Decision
		d, err = s.limiter.Peek(ctx, req)
		st = d.Status
	} else {
		st, err = s.limiter.Credit(ctx, req)
	}
	switch {
	case err == nil:
		return found{Status: st, known: true}, nil
	case ctx.Err() != nil, callersMistake(err):
		return found{}, err
	}
	return found{lost: true}, nil
}

// group makes the requests to the Limiter. Descriptors that count alike are one request, with the sum of their hits: of different
// limits the lowest holds, and one that can refuse goes before one in shadow mode.
func group(asks []ask) []limit.Request {
	reqs := make([]limit.Request, 0, min(len(asks), limit.MaxRequests))
	var at map[counts]int // only if there are several
	for i := range asks {
		a := &asks[i]
		if a.does != charges {
			continue
		}
		of := counts{a.policy.Name(), a.policy.Rule().Kind, a.key}
		j, found := at[of]
		if !found {
			if at == nil && len(asks) > 1 {
				at = map[counts]int{}
			}
			if at != nil {
				at[of] = len(reqs)
			}
			a.group = len(reqs)
			reqs = append(reqs, limit.Request{Policy: a.policy, Key: a.key, Cost: a.cost})
			continue
		}
		a.group = j
		r := &reqs[j]
		if stricter(a.policy, r.Policy) {
			r.Policy = a.policy
		}
		switch {
		case r.Cost == limit.Uncharged:
			r.Cost = a.cost
		case a.cost != limit.Uncharged:
			r.Cost = min(r.Cost+a.cost, limit.MaxUnits)
		}
	}
	return reqs
}

// counts is what a limit's count belongs to.
type counts struct {
	policy string
	kind   limit.Kind
	key    string
}

// stricter reports whether a refuses more than b, which has the same period.
func stricter(a, b *limit.Policy) bool {
	x, y := a.Spec(), b.Spec()
	if x.Shadow != y.Shadow {
		return y.Shadow
	}
	return a.Rule().Most() < b.Rule().Most() || a.Rule().Most() == b.Rule().Most() && x.Limit < y.Limit
}

// decideReqs decides all or none. The Limiter decides limit.MaxRequests at a time; what was charged is given back if it then refuses
// others, as it does itself for keys of several slots.
func (s *Server) decideReqs(ctx context.Context, reqs []limit.Request, statuses []limit.Status, known []bool, v *verdict) (limit.Decision, error) {
	var charged []limit.Decision
	// Whatever becomes of the caller, what was charged for nothing is given back. A failure was told to the Limiter's Hooks.
	giveBack := func() {
		for _, d := range charged {
			_ = s.limiter.Refund(context.WithoutCancel(ctx), d)
		}
	}
	var last, degraded limit.Decision
	for first := 0; first < len(reqs); first += limit.MaxRequests {
		part := reqs[first:min(first+limit.MaxRequests, len(reqs))]
		d, err := s.limiter.Decide(ctx, part...)
		if err != nil {
			giveBack()
			return d, err
		}
		for i := range part {
			statuses[first+i], known[first+i] = d.At(i), true
		}
		if v.bind(d); d.Degraded {
			degraded = d
		}
		if last = d; !d.Allowed {
			giveBack()
			s.peek(ctx, reqs, statuses, known, first)
			break
		}
		charged = append(charged, d)
	}
	v.allowed = last.Allowed
	return degraded, nil
}

// bind takes a part's decision into the verdict.
func (v *verdict) bind(d limit.Decision) {
	v.shadowed = v.shadowed || d.Shadowed
	v.degraded = v.degraded || d.Degraded
	exempt := d.Source == limit.FromExempt
	switch {
	case !v.bound, !d.Allowed,
		!exempt && v.binding.Source == limit.FromExempt,
		!exempt && d.Remaining < v.binding.Remaining:
		v.binding, v.bound = d.Status, true
	}
}

// peek finds out what holds for the parts other than that at refused, of which nothing was charged in the end. What it can't find
// out isn't known.
func (s *Server) peek(ctx context.Context, reqs []limit.Request, statuses []limit.Status, known []bool, refused int) {
	for first := 0; first < len(reqs); first += limit.MaxRequests {
		if first == refused {
			continue
		}
		part := reqs[first:min(first+limit.MaxRequests, len(reqs))]
		d, err := s.limiter.Peek(ctx, part...)
		for i := range part {
			if known[first+i] = err == nil; err == nil {
				statuses[first+i] = d.At(i)
			}
		}
	}
}

// callersMistake reports whether an error of the Limiter is anything but the store's.
func callersMistake(err error) bool {
	return errors.Is(err, limit.ErrRequest) || errors.Is(err, limit.ErrClosed)
}
