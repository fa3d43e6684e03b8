package limit

import (
	"math"
	"time"
)

// A Request asks for units of one limit.
type Request struct {
	Policy *Policy

	// Key is who or what is counted: a user, an address, a tenant and a route. Any bytes; the empty key is a key
	// like others. Of keys over MaxKey bytes only a hash is kept. Keys with the same {hash tag} share
	// a slot in a Redis Cluster, so they can be decided together.
	Key string

	// Cost is the number of units: 0 means 1. Uncharged asks whether there is room for 1, and takes nothing. Other
	// negative costs are an error: what was taken is given back by Refund, Settle or Credit.
	Cost int64
}

// Uncharged is the Cost of a request that only asks.
const Uncharged = math.MinInt64

// A Status is what one limit says. Times are by the store's clock, in whole microseconds.
type Status struct {
	Policy *Policy // the one that decided: an override, where there is one; the request's own if exempt
	Key    string  // as the store has it: a hash if it was long
	Cost   int64

	// Remaining is how many units could be taken now, after this decision. Never negative.
	Remaining int64

	// RetryAfter is, if the limit has no room for the cost, the time until it would have, if nobody else took anything; NeverRetry if the
	// cost is more than can ever be admitted. For Concurrency it is the time by which enough leases will have run
	// out; it may come earlier.
	RetryAfter time.Duration

	MoreAfter  time.Duration // until Remaining grows by one; 0 if it can't
	ResetAfter time.Duration // until nothing of what was used counts any more

	// At is the store's clock at the decision, in µs since 1970; 0 if the store needn't know it to give units back.
	At int64

	Fits    bool // the limit has room for the cost, or is exempt
	Charged bool // the cost was taken
	Blocked bool // by its penalty
	Shadow  bool // without room it doesn't refuse
	Source  Source
}

// NeverRetry is the RetryAfter of a cost that can't ever be admitted. It tells a client not to try again, so
// there is no header for it.
const NeverRetry time.Duration = -1

// A Source is who decided.
type Source uint8

// The sources of a decision.
const (
	FromStore   Source = iota
	FromRefused        // the Limiter remembers that the store refused the key, until when it might not
	FromAdvance        // units that the Limiter took ahead of need
	FromLocal          // Options.Local, in an outage
	FromOutage         // nobody: allowed or denied by the policy's OnOutage
	FromExempt         // nobody: the key is exempt
	NotAsked           // nobody: another limit refused before this one was asked, so there are no numbers
)

// String returns "store", "refused", "advance", "local", "outage", "exempt" or "not asked".
func (s Source) String() string {
	return [...]string{"store", "refused", "advance", "local", "outage", "exempt", "not asked"}[min(s, NotAsked)]
}

// A Decision is the answer to some requests. Its Status is that of the binding limit: of those that refused, the one
// whose retry is the longest (NeverRetry is longest of all), else the one with the fewest units remaining, the first of equals.
// Exempt ones, those admitted in an outage without being counted, and those that only watch (shadow mode) bind only if there are no others. The zero Decision is a refusal.
type Decision struct {
	Status

	// Allowed is the decision: every limit fits, but those in shadow mode.
	Allowed bool

	// Shadowed: it would have been refused, but for shadow mode.
	Shadowed bool

	// Degraded: the store couldn't decide, at least for one limit. Err says why.
	Degraded bool
	Err      error

	// Lease names the leases that it holds of Concurrency policies: see Limiter.Renew and Limiter.Release.
	Lease ID

	all []Status // of several requests
}

// Len is the number of limits decided, one for each request.
func (d *Decision) Len() int {
	if d.all == nil {
		return 1
	}
	return len(d.all)
}

// At is the status of the i-th request.
func (d *Decision) At(i int) Status {
	if d.all == nil && i == 0 {
		return d.Status
	}
	return d.all[i]
}
