package limit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/freshetdev/freshet/internal/deadline"
)

// correctionTimeouts is how many times Options.Timeout a correction may take: nobody's request waits for it, and
// a correction that is lost isn't tried again.
const correctionTimeouts = 10

// deadline is ctx with so many timeouts. Its cause is then ErrTimeout, and not what ended the caller's.
func (l *Limiter) deadline(ctx context.Context, timeouts time.Duration) (context.Context, context.CancelFunc) {
	if l.direct || l.opts.Timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, timeouts*l.opts.Timeout, ErrTimeout)
}

// take decides one charge: by what is remembered, by what was taken ahead, or by the store.
func (l *Limiter) take(ctx context.Context, c *Charge, s *Status) (err error) {
	switch {
	case l.remembered(c, s):
	case l.advances.takes(c):
		*s, err = l.advances.take(ctx, c)
	default:
		*s, err = l.askInTime(ctx, c)
	}
	return err
}

// remembered answers c in s, if it is remembered that it was refused.
func (l *Limiter) remembered(c *Charge, s *Status) bool {
	return l.refusals.remembers(c) && l.refusals.find(l.refusals.set(c.Key), c, l.now(), s)
}

// askInTime is askOne with the deadline of a decision.
func (l *Limiter) askInTime(ctx context.Context, c *Charge) (Status, error) {
	if l.direct || l.opts.Timeout == 0 {
		return l.askOne(ctx, c)
	}
	d := deadline.New(ctx, l.opts.Timeout, ErrTimeout)
	defer d.Cancel()
	return l.askOne(d, c)
}

// askOne asks the store, and remembers a refusal. ctx has the deadline.
func (l *Limiter) askOne(ctx context.Context, c *Charge) (Status, error) {
	began := l.now()
	round, err := l.breaker.begin(began)
	if err != nil {
		return Status{}, err
	}
	var set *refusedSet
	var mark uint64
	if l.refusals.remembers(c) {
		set = l.refusals.set(c.Key)
		mark = set.round.Load()
	}
	var s Status
	if l.prompt {
		s, err = l.store.Take(ctx, *c)
	} else {
		s, err = l.takeGuarded(ctx, *c)
	}
	if err = l.ended(ctx, "decide", c.Policy, began, round, err); err != nil {
		return Status{}, err
	}
	if set != nil && !s.Fits {
		l.refusals.remember(set, mark, c, s, began)
	}
	return s, nil
}

// takeGuarded is Take of a store that may not keep the deadline.
func (l *Limiter) takeGuarded(ctx context.Context, c Charge) (Status, error) {
	type answer struct {
		s   Status
		err error
	}
	done := make(chan answer, 1)
	if !l.spawn(func() {
		s, err := l.store.Take(ctx, c)
		done <- answer{s, err}
	}) {
		return Status{}, ErrClosed
	}
	select {
	case a := <-done:
		return a.s, a.err
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

// call is askOne for all other operations. After an error f may still be running, so what it writes must not be read.
func (l *Limiter) call(ctx context.Context, op string, p *Policy, f func(context.Context) error) error {
	if l.direct {
		return f(ctx)
	}
	began := l.now()
	round, err := l.breaker.begin(began)
	if err != nil {
		return err
	}
	if l.prompt {
		err = f(ctx)
	} else {
		done := make(chan error, 1)
		guarded := func() { done <- f(ctx) }
		if !l.spawn(guarded) { // Close gives back
			go guarded()
		}
		select {
		case err = <-done:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return l.ended(ctx, op, p, began, round, err)
}

// ended notes how an operation ended, and returns its error.
func (l *Limiter) ended(ctx context.Context, op string, p *Policy, began time.Duration, round uint64, err error) error {
	v := storeWell
	if err != nil && !errors.Is(err, ErrLeaseLost) {
		v = storeIll
		switch cause := context.Cause(ctx); {
		case cause == nil:
		case errors.Is(cause, ErrTimeout):
			if !errors.Is(err, ErrTimeout) {
				err = fmt.Errorf("%w: %w", ErrTimeout, err)
			}
		case l.now()-began < cmp.Or(l.opts.Timeout, defaultTimeout)/4:
			// The caller went away, before the store had time to answer. Had it waited longer, we would hold it against the store: callers
			// whose own deadline is short would never open the breaker otherwise.
			v = provesNothing
		}
		if errors.Is(err, ErrConnecting) {
			v = provesNothing
		}
	}
	if v == storeIll {
		l.counters.add(countFailures)
		if l.opts.Hooks.Failed != nil {
			l.opts.Hooks.Failed(Failed{Op: op, Policy: p.name, Err: err})
		}
	}
	if changed, open := l.breaker.end(l.now(), round, v, err); changed && l.opts.Hooks.Breaker != nil {
		l.opts.Hooks.Breaker(Breaker{Open: open, Cause: err})
	}
	if err != nil {
		return fmt.Errorf("limit: %s by %q: %w", op, p.name, err)
	}
	return nil
}

// callerGone is the error of a decision whose caller's ctx ended before the store answered.
func (l *Limiter) callerGone(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("limit: %w", cause)
	}
	if end, ok := ctx.Deadline(); ok && errors.Is(err, context.DeadlineExceeded) && !time.Now().Before(end) {
		return fmt.Errorf("limit: %w", context.DeadlineExceeded)
	}
	return nil
}

// abandon ends the lease that a failed charge may have made. Its caller knows nothing of it, so it would hold its place for a TTL.
func (l *Limiter) abandon(c *Charge, err error) {
	if c.Lease == (ID{}) || l.direct || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrConnecting) || errors.Is(err, ErrClosed) {
		return // there is none
	}
	s, lease := Status{Policy: c.Policy, Key: c.Key}, c.Lease
	l.spawn(func() {
		ctx, cancel := l.deadline(context.Background(), correctionTimeouts)
		defer cancel()
		_ = l.release(ctx, &s, lease) // told to Hooks.Failed
	})
}

// outage decides a charge that the store couldn't.
func (l *Limiter) outage(ctx context.Context, c *Charge) Status {
	p := c.Policy
	s := Status{Policy: p, Key: c.Key, Cost: c.Cost, Shadow: c.Shadow, Source: FromOutage}
	switch p.spec.OnOutage {
	case OutageAllow:
		s.Fits = true
	case OutageLocal:
		local := *c
		local.Policy = p.local
		if got, err := l.opts.Local.Take(ctx, local); err == nil {
			got.Source = FromLocal
			return got
		}
		fallthrough // there is nobody left to ask
	default:
		s.RetryAfter = l.opts.BreakFor
	}
	return s
}
