package limit

import (
	"context"
	"errors"
)

// MaxRequests is the largest number of requests of one decision.
const MaxRequests = 16

// ErrRequest is wrapped by errors that say what is wrong with a request: it is the caller's mistake, and was not decided.
var ErrRequest = errors.New("limit: bad request")

// A Limiter decides by policies over one store. It is safe for concurrent use.
type Limiter struct {
	store Store
	opts  Options
}

// New makes a Limiter. It takes the store over: Close closes it.
func New(store Store, opts Options) (*Limiter, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Limiter{store: store, opts: opts}, nil
}

// Allow takes one unit, and reports whether there was one. A bad request is refused.
func (l *Limiter) Allow(ctx context.Context, p *Policy, key string) bool {
	d, err := l.Decide(ctx, Request{Policy: p, Key: key})
	return err == nil && d.Allowed
}

// Decide takes the units of all requests, or none: a refused decision costs nothing. The error is ErrRequest, wrapped, ErrClosed, or that of a
// ctx that ended; the decision is then a refusal. A store that fails is no error: each policy's
// OnOutage decides, and the decision is Degraded.
//
// Requests whose keys share a slot of the store (see [Store].Slot) are decided as one. For others the slots are asked one after the other, in the order of the
// requests, and what was taken is given back when a later one refuses: so for the time of a
// round trip or two, others may be refused by units that are then given back, and if this process dies in between, they stay charged. Put
// the limit that refuses most often first.
//
// The requests must be of different limits: 1 to MaxRequests, no two of the same policy name, kind and key.
func (l *Limiter) Decide(ctx context.Context, reqs ...Request) (Decision, error) {
	panic("TODO")
}

// Peek says what Decide would, as far as the store knows, and changes nothing. It is no decision: it isn't counted, and
// an outage is an error.
func (l *Limiter) Peek(ctx context.Context, reqs ...Request) (Decision, error) { panic("TODO") }

// Refund gives back all that d charged, and releases its leases: once. It does nothing for a decision that charged nothing. What can't
// be given back any more (the window ended) isn't.
func (l *Limiter) Refund(ctx context.Context, d Decision) error { panic("TODO") }

// Settle makes cost what s charged, when the real cost is known after a decision on an estimate: more is charged even without
// room, up to Spec.Debt; less is given back. It returns the status after it. A status that wasn't charged stays so: a
// refused one, one that was decided without the store.
func (l *Limiter) Settle(ctx context.Context, s Status, cost int64) (Status, error) { panic("TODO") }

// Credit gives units of a limit back without the decision that charged them: as many as were used, at most. With the decision at hand, Refund
// is more exact: Credit can't know whether the units still counted.
func (l *Limiter) Credit(ctx context.Context, req Request) (Status, error) { panic("TODO") }

// Reset forgets all that was used of a limit, its leases, and its penalty.
func (l *Limiter) Reset(ctx context.Context, p *Policy, key string) error { panic("TODO") }

// Renew makes the leases of d last for another Spec.TTL. ErrLeaseLost says that at least one is no longer held: others may have been
// admitted in its place. Renew at least twice in a TTL.
func (l *Limiter) Renew(ctx context.Context, d Decision) error { panic("TODO") }

// Release ends the leases of d. Units of other limits stay charged.
func (l *Limiter) Release(ctx context.Context, d Decision) error { panic("TODO") }

// Stats are the counts.
func (l *Limiter) Stats() Stats { panic("TODO") }

// Close gives back what was taken ahead of need, ends all background work, and closes the store.
func (l *Limiter) Close() error { panic("TODO") }
