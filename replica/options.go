package replica

import (
	"cmp"
	"fmt"
	"time"
)

// Options of a [DB] or [Gate]. A field that is zero gets its default.
type Options struct {
	// Source is the name of the database as freshet's Options.Sources and cdc.Options.Name have it. Tokens need it; reads don't.
	Source string

	// Wait is how long a read waits for the replica to replay what the primary has. Default 20 ms; negative: not at all.
	Wait time.Duration

	// Timeout is how long the primary may take to tell its position, and the replica until its data is asked for. Default 1 s.
	Timeout time.Duration

	// Retry is how long a replica is left alone that could not be reached, or failed. Default 1 s; negative: not at all.
	Retry time.Duration

	// RepeatableRead has all statements of a read see one state of the database. See the package comment on poolers.
	RepeatableRead bool

	// Fallback is told of each read that went to the primary, and why. err is nil for Lagging and None. It must be quick.
	Fallback func(reason Reason, err error)
}

func (o Options) withDefaults() (Options, error) {
	if o.Source != "" && !validSource(o.Source) {
		return o, fmt.Errorf("replica: Source is %.110q; want 1 to 100 letters, digits, dots, dashes and underscores", o.Source)
	}
	if o.Timeout < 0 {
		return o, fmt.Errorf("replica: Timeout is %v; want zero or more", o.Timeout)
	}
	o.Wait = cmp.Or(o.Wait, 20*time.Millisecond)
	o.Timeout = cmp.Or(o.Timeout, time.Second)
	o.Retry = cmp.Or(o.Retry, time.Second)
	return o, nil
}

// A Reason says why a read went to the primary.
type Reason string

// The reasons.
const (
	None    Reason = "none"    // there is no replica
	Lagging Reason = "lagging" // it had not replayed enough after Wait
	Down    Reason = "down"    // it could not be reached in time or failed, now or less than Retry ago
	Unfit   Reason = "unfit"   // what answered is no standby of this primary, or of another timeline, or not in the transaction that was asked for
	Unknown Reason = "unknown" // the primary didn't tell its position
)

// Stats are counts since the start.
type Stats struct {
	Replica uint64 // reads that the replica answered
	Primary uint64 // reads that went to the primary: the sum of Fallbacks

	Fallbacks map[Reason]uint64

	Waits  uint64        // reads that waited for the replica, whatever came of it
	Waited time.Duration // all of them together

	Asked uint64 // times that the primary was asked for its position
}
