package limit

import (
	"context"
	"errors"
)

// Errors that a store returns, wrapped with the step that failed.
var (
	// ErrUnavailable is returned without asking the server: it is known to be away.
	ErrUnavailable = errors.New("limit: store unavailable")

	// ErrConnecting is returned when the end of ctx came while the store was connecting for the first time. It isn't known to be away yet: the breaker
	// doesn't count it.
	ErrConnecting = errors.New("limit: the store isn't connected yet")

	// ErrTimeout is why a decision is degraded that the store didn't answer in Options.Timeout.
	ErrTimeout = errors.New("limit: the store took too long")

	// ErrClosed is returned after Close.
	ErrClosed = errors.New("limit: closed")

	// ErrLeaseLost is returned by Renew when the lease ran out, was released or was lost. What was
	// admitted with it no longer counts, and others may have been admitted in its place.
	ErrLeaseLost = errors.New("limit: lease lost")
)

// A Store keeps what was used. It does what [Rule] says, by its own clock, and nothing else: it has no policy. All methods are safe for
// concurrent use. limittest.Run is the contract in executable form.
//
// After any error of a method that changes something, the change may have been made or not; the store never
// repeats it by itself. A store with a server returns by the deadline of ctx (see [Traits]). Slices given to a method
// belong to the caller again when it returns.
type Store interface {
	// Take decides one charge.
	Take(ctx context.Context, c Charge) (Status, error)

	// TakeAll decides several charges, all of one slot, as one: if all that aren't Shadow fit, all that fit are charged, else
	// none is. out has their length; out[i] is what c[i] found, after the charge. No two charges have the same policy name, kind and key.
	TakeAll(ctx context.Context, c []Charge, out []Status) error

	// Peek says what TakeAll would find, of charges of one slot, and writes nothing at all.
	Peek(ctx context.Context, c []Charge, out []Status) error

	// Adjust charges more, or gives back, for adjustments of one slot, each by itself: see [Rule.Adjust]. out[i] is
	// what a charge of cost 1 would find after it.
	Adjust(ctx context.Context, a []Adjustment, out []Status) error

	// Renew makes a Concurrency lease last for another TTL, only if it is still held: else ErrLeaseLost.
	Renew(ctx context.Context, p *Policy, key string, id ID) error

	// Release ends a Concurrency lease. One that isn't held is no error.
	Release(ctx context.Context, p *Policy, key string, id ID) error

	// Reset forgets all of a key: what was used, its leases, and its penalty.
	Reset(ctx context.Context, p *Policy, key string) error

	// Slot is where a key lives: charges can be decided together if they have the same slot. A store in one
	// place has but one, 0; in a Redis Cluster it is the hash slot, and keys share it by a {hash tag}.
	Slot(p *Policy, key string) int

	// Traits says how the store waits. The answer is always the same.
	Traits() Traits

	// Close releases everything. Operations in flight may fail with ErrClosed.
	Close() error
}

// Traits are what a Limiter need not take care of.
type Traits struct {
	// InProcess: no method ever waits for anything but locks, so it gets no deadline and no breaker.
	InProcess bool

	// KeepsDeadline: every method returns within a few milliseconds of the deadline of ctx, whatever the server does. Without
	// it each call gets a goroutine of its own, which the Limiter stops waiting for.
	KeepsDeadline bool
}

// A GCRATaker is a Store in this process that can say less, and so faster, what Take does of a policy of kind GCRA without
// a Penalty: the debt after the decision, which [Rule.AnswerGCRA] makes a Status of, and whether it fits; it is charged then, unless the cost is 0. If ok is
// false, nothing was done, and Take is to be asked.
type GCRATaker interface {
	Store
	TakeGCRA(p *Policy, key string, cost int64) (debt int64, fits, ok bool)
}

// A Charge is a request as a store sees it.
type Charge struct {
	Policy *Policy
	Key    string // at most MaxKey bytes (longer ones came hashed); any bytes, may be empty
	Cost   int64  // 0 to MaxUnits; 0 asks for room for 1 and charges nothing
	Shadow bool   // without room it isn't charged, and doesn't keep others from it
	Lease  ID     // Concurrency: of the lease to make
}

// An Adjustment corrects what was charged before.
type Adjustment struct {
	Policy *Policy
	Key    string
	Units  int64 // charged in addition; negative: given back
	At     int64 // Status.At of the decision that charged what is given back; 0: not known
}

// An ID names a lease: unique, never reused.
type ID [16]byte
