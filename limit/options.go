package limit

import (
	"fmt"
	"time"
)

// Options of a Limiter. Zero values are defaults.
type Options struct {
	// Timeout is the longest time that a decision waits for the store; then each policy's OnOutage decides. What was asked of the store may
	// still be charged. Default 20 ms; -1 for none. Corrections (Refund, Settle, Credit, Reset, Renew, Release) and Peek wait for at
	// most ten times that.
	Timeout time.Duration

	// Local decides in an outage for policies with OutageLocal, by their Share. It must be in this process (memlimit), is not closed by the Limiter, and
	// is needed if a policy says OutageLocal: without it that is an error of each such decision.
	Local Store

	// Override finds the policy that holds for a key: p itself, another one, or nil to exempt the key: then it is admitted, and
	// nothing is charged. It is called for every request, must be fast and safe for concurrent use, and
	// can change its mind at any time: see [Overrides]. Default: p itself.
	Override func(p *Policy, key string) *Policy

	// Shadow puts all policies in shadow mode.
	Shadow bool

	// RefusedKeys is how many refused keys the Limiter remembers, so that it can refuse them again without asking the store,
	// until they might be admitted. It is exact, but for what another Limiter resets or gives back meanwhile: that is seen after RefusedFor at
	// the latest. Concurrency and shadow mode aren't remembered, nor is a policy with a Penalty before it blocks. With a store in this process, nothing
	// is. Default 16384; -1 for none.
	RefusedKeys int

	// RefusedFor is the longest time for which a refusal is remembered. Default 1 s.
	RefusedFor time.Duration

	// AdvanceKeys is how many keys the Limiter holds units for ahead of need (Spec.Advance); others ask the store each time. Default 1024; -1 for none.
	AdvanceKeys int

	// AdvanceFor is how long units taken ahead of need are held without being used; then they are given back. Default 1 s.
	AdvanceFor time.Duration

	// BreakAfter failures in a row (timeouts too) open the breaker: the store isn't asked for BreakFor, and then by
	// one decision at a time until one succeeds. Defaults 5 and 1 s; BreakAfter -1 means it never opens.
	BreakAfter int
	BreakFor   time.Duration

	// Hooks are told what happens.
	Hooks Hooks
}

const defaultTimeout = 20 * time.Millisecond

func (o Options) withDefaults() (Options, error) {
	var err error
	number := func(what string, n *int, def int) {
		switch {
		case *n == 0:
			*n = def
		case *n == -1:
			*n = 0
		case *n < 0 && err == nil:
			err = fmt.Errorf("limit: Options.%s is %d; want 1 or more, 0 for %d, or -1 for none", what, *n, def)
		}
	}
	span := func(what string, d *time.Duration, def time.Duration) {
		switch {
		case *d == 0:
			*d = def
		case *d < 0 && err == nil:
			err = fmt.Errorf("limit: Options.%s is %v; want more than zero, or 0 for %v", what, *d, def)
		}
	}
	if o.Timeout == -1 {
		o.Timeout = 0
	} else {
		span("Timeout", &o.Timeout, defaultTimeout)
	}
	number("RefusedKeys", &o.RefusedKeys, 16384)
	span("RefusedFor", &o.RefusedFor, time.Second)
	number("AdvanceKeys", &o.AdvanceKeys, 1024)
	span("AdvanceFor", &o.AdvanceFor, time.Second)
	number("BreakAfter", &o.BreakAfter, 5)
	span("BreakFor", &o.BreakFor, time.Second)
	if o.Local != nil && !o.Local.Traits().InProcess && err == nil {
		err = fmt.Errorf("limit: Options.Local is a %T, which isn't in this process; want a memlimit.Store", o.Local)
	}
	return o, err
}

// Hooks are called synchronously, by the decision that they tell of, and should return fast. Any may be nil. They must not call the Limiter.
type Hooks struct {
	Decided func(Decision) // every decision; those of Peek aren't decisions
	Breaker func(Breaker)
	Failed  func(Failed)
}

// A Breaker is the breaker of a Limiter's store opening or closing.
type Breaker struct {
	Open  bool
	Cause error // the last failure
}

// A Failed is an operation that the store couldn't do.
type Failed struct {
	Op     string // "decide", "peek", "adjust", "reset", "renew" or "release"
	Policy string // of one of the limits concerned
	Err    error
}

// Stats are counts since the Limiter was made. A decision counts once, whatever the number of limits.
type Stats struct {
	Allowed, Refused int64 // their sum is all decisions
	Shadowed         int64 // of Allowed: would have been refused but for shadow mode
	Degraded         int64 // of both: the store couldn't decide
	Remembered       int64 // of Refused: without asking the store
	Advanced         int64 // of Allowed: of units taken ahead of need
	Exempt           int64 // of Allowed: of an exempt key
	Blocked          int64 // of Refused: by a penalty
	Failures         int64 // of the store, operations that are no decisions included
	Opened           int64 // times that the breaker opened
	BreakerOpen      bool  // now
}
