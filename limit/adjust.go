package limit

import (
	"context"
	"errors"
	"fmt"
)

// Refund gives back all that d charged, and releases its leases: once. It does nothing for a decision that charged nothing. What can't
// be given back any more (the window ended) isn't. After an error, some of it may have been given back.
func (l *Limiter) Refund(ctx context.Context, d Decision) error {
	if l.closed.Load() {
		return ErrClosed
	}
	var back []Status
	for i := range d.Len() {
		if s := d.At(i); s.Charged {
			back = append(back, s)
		}
	}
	if len(back) == 0 {
		return nil
	}
	ctx, cancel := l.deadline(ctx, correctionTimeouts)
	defer cancel()
	return l.refund(ctx, back, d.Lease)
}

// refund gives back what was charged.
func (l *Limiter) refund(ctx context.Context, back []Status, lease ID) error {
	var errs []error
	var units, local []Adjustment
	for _, s := range back {
		switch a := (Adjustment{Policy: s.Policy, Key: s.Key, Units: -s.Cost, At: s.At}); {
		case s.Policy.rule.Kind == Concurrency:
			errs = append(errs, l.release(ctx, &s, lease))
		case s.Source == FromLocal:
			local = append(local, a)
		default:
			units = append(units, a)
		}
	}
	for len(units) > 0 { // slot by slot
		slot := l.store.Slot(units[0].Policy, units[0].Key)
		var now, later []Adjustment
		for _, a := range units {
			if l.store.Slot(a.Policy, a.Key) == slot {
				now = append(now, a)
			} else {
				later = append(later, a)
			}
		}
		errs = append(errs, l.adjust(ctx, now, make([]Status, len(now))))
		units = later
	}
	if len(local) > 0 {
		errs = append(errs, l.opts.Local.Adjust(ctx, local, make([]Status, len(local))))
	}
	return errors.Join(errs...)
}

// adjust adjusts in the store, and forgets refusals that may hold no more.
func (l *Limiter) adjust(ctx context.Context, a []Adjustment, out []Status) error {
	err := l.call(ctx, "adjust", a[0].Policy, func(ctx context.Context) error { return l.store.Adjust(ctx, a, out) })
	for i := range a {
		if a[i].Units < 0 {
			l.refusals.forget(a[i].Key) // after an error too: it may have been done
		}
	}
	return err
}

// giveBack returns units that were taken ahead.
func (l *Limiter) giveBack(p *Policy, key string, units, at int64) {
	ctx, cancel := l.deadline(context.Background(), correctionTimeouts)
	defer cancel()
	_ = l.adjust(ctx, []Adjustment{{Policy: p, Key: key, Units: -units, At: at}}, make([]Status, 1)) // told to Hooks.Failed
}

// Settle makes cost what s charged, when the real cost is known after a decision on an estimate: more is charged even without
// room, up to Spec.Debt; less is given back. It returns the status after it, which can be settled again, or refunded. A status that
// wasn't charged stays as it is: one that was refused, settled with 0, or admitted without the store. Concurrency can't be settled.
//
// What was forgiven, since it went beyond Debt, isn't known to the status: settled lower afterwards, it gives that back too.
func (l *Limiter) Settle(ctx context.Context, s Status, cost int64) (Status, error) {
	switch {
	case l.closed.Load():
		return s, ErrClosed
	case cost < 0 || cost > MaxUnits:
		return s, fmt.Errorf("%w: settle with a cost of %d; want 0 to %d", ErrRequest, cost, int64(MaxUnits))
	case !s.Charged || cost == s.Cost:
		return s, nil
	case s.Policy.rule.Kind == Concurrency:
		return s, fmt.Errorf("%w: settle of policy %q, which is of kind concurrency", ErrRequest, s.Policy.name)
	}
	after, err := l.correct(ctx, Adjustment{Policy: s.Policy, Key: s.Key, Units: cost - s.Cost, At: s.At}, s.Source == FromLocal)
	if err != nil {
		return s, err
	}
	after.Cost, after.Charged, after.Fits, after.RetryAfter = cost, cost > 0, true, 0
	after.At, after.Shadow, after.Source = s.At, s.Shadow, s.Source
	return after, nil
}

// Credit gives units of a limit back without the decision that charged them: as many as were used, at most. With the decision at hand, Refund
// is more exact: Credit can't know whether the units still counted.
func (l *Limiter) Credit(ctx context.Context, req Request) (Status, error) {
	if err := l.begin(ctx); err != nil {
		return Status{}, err
	}
	var c Charge
	exempt, err := l.charge(&req, &c)
	switch {
	case err != nil:
		return Status{}, err
	case exempt:
		return exempted(&c), nil
	case c.Cost == 0:
		return Status{}, fmt.Errorf("%w: credit with the cost Uncharged, policy %q; want 0 to %d", ErrRequest, c.Policy.name, int64(MaxUnits))
	case c.Policy.rule.Kind == Concurrency:
		return Status{}, fmt.Errorf("%w: credit of policy %q, which is of kind concurrency; want Release", ErrRequest, c.Policy.name)
	}
	return l.correct(ctx, Adjustment{Policy: c.Policy, Key: c.Key, Units: -c.Cost}, false)
}

func (l *Limiter) correct(ctx context.Context, a Adjustment, local bool) (Status, error) {
	as, out := []Adjustment{a}, make([]Status, 1)
	if local {
		err := l.opts.Local.Adjust(ctx, as, out)
		return out[0], err
	}
	ctx, cancel := l.deadline(ctx, correctionTimeouts)
	defer cancel()
	if err := l.adjust(ctx, as, out); err != nil {
		return Status{}, err
	}
	return out[0], nil
}

// Reset forgets all that was used of a limit, its leases, and its penalty; in Options.Local too. With an override, it is that of the override
// that is forgotten.
func (l *Limiter) Reset(ctx context.Context, p *Policy, key string) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	var c Charge
	exempt, err := l.charge(&Request{Policy: p, Key: key}, &c)
	if err != nil || exempt {
		return err
	}
	ctx, cancel := l.deadline(ctx, correctionTimeouts)
	defer cancel()
	err = l.call(ctx, "reset", c.Policy, func(ctx context.Context) error { return l.store.Reset(ctx, c.Policy, c.Key) })
	l.advances.forget(c.Key)
	l.refusals.forget(c.Key)
	if l.opts.Local != nil {
		err = errors.Join(err, l.opts.Local.Reset(ctx, c.Policy, c.Key))
	}
	return err
}

// Renew makes the leases of d last for another Spec.TTL. ErrLeaseLost says that at least one is no longer held: others may have been
// admitted in its place. Renew at least twice in a TTL.
func (l *Limiter) Renew(ctx context.Context, d Decision) error {
	return l.leased(ctx, d, l.renew)
}

// Release ends the leases of d. Units of other limits stay charged. Without it, leases end with their TTL.
func (l *Limiter) Release(ctx context.Context, d Decision) error {
	return l.leased(ctx, d, l.release)
}

// leased does f for each lease of d.
func (l *Limiter) leased(ctx context.Context, d Decision, f func(ctx context.Context, s *Status, id ID) error) error {
	if l.closed.Load() {
		return ErrClosed
	}
	ctx, cancel := l.deadline(ctx, correctionTimeouts)
	defer cancel()
	var errs []error
	for i := range d.Len() {
		if s := d.At(i); s.Charged && s.Policy.rule.Kind == Concurrency {
			errs = append(errs, f(ctx, &s, d.Lease))
		}
	}
	return errors.Join(errs...)
}

func (l *Limiter) renew(ctx context.Context, s *Status, id ID) error {
	if s.Source == FromLocal {
		return l.opts.Local.Renew(ctx, s.Policy, s.Key, id)
	}
	return l.call(ctx, "renew", s.Policy, func(ctx context.Context) error { return l.store.Renew(ctx, s.Policy, s.Key, id) })
}

func (l *Limiter) release(ctx context.Context, s *Status, id ID) error {
	if s.Source == FromLocal {
		return l.opts.Local.Release(ctx, s.Policy, s.Key, id)
	}
	return l.call(ctx, "release", s.Policy, func(ctx context.Context) error { return l.store.Release(ctx, s.Policy, s.Key, id) })
}
