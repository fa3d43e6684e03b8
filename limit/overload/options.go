package overload

import (
	"cmp"
	"fmt"
	"time"
)

// Options of a Limiter. Zero values are defaults.
type Options struct {
	// Initial is the limit to begin with. It needn't be near the right one. Default 20, or the nearest that Min and Max allow.
	Initial int

	// Min and Max bound the limit. Default 1 and 1000.
	Min, Max int

	// MaxQueued bounds the requests that wait for a place. Beyond it, the lowest priority is shed. Default: as many as
	// may be in flight at the time; -1: none wait.
	MaxQueued int

	// MaxWait is the longest time that a request waits; then it is shed. Who waits for long
	// in front of an origin that is busy has no patience left for its answer, so keep it short. Default 200 ms.
	MaxWait time.Duration

	// Tolerance is how many times as long as without a queue requests may take in the origin before the limit goes
	// down: 1 to 10. Lower values mean shorter queues, and a limit that is too low where latency varies for
	// other reasons. Default 1.5.
	Tolerance float64

	// Samples is the number of ended requests after which the limit is adjusted: as many as the limit if that is more, and no more than ten
	// times the limit. At the start and after an outage, while the limit doubles, a fifth will do. Default 50; at least 10.
	Samples int

	// Hooks are told what happens.
	Hooks Hooks
}

func (o Options) withDefaults() (Options, error) {
	var err error
	bad := func(format string, args ...any) {
		if err == nil {
			err = fmt.Errorf("overload: "+format, args...)
		}
	}
	if o.Min < 0 || o.Max < 0 || o.Initial < 0 {
		bad("Options.Min, Max and Initial are %d, %d and %d; want 1 or more, or 0 for the default", o.Min, o.Max, o.Initial)
	}
	o.Min = cmp.Or(o.Min, 1)
	o.Max = cmp.Or(o.Max, max(1000, o.Min))
	if o.Min > o.Max {
		bad("Options.Min is %d; want at most Max, which is %d", o.Min, o.Max)
	}
	if o.Initial == 0 {
		o.Initial = min(max(20, o.Min), o.Max)
	}
	if o.Initial < o.Min || o.Initial > o.Max {
		bad("Options.Initial is %d; want %d to %d, which are Min and Max", o.Initial, o.Min, o.Max)
	}
	if o.MaxQueued < -1 {
		bad("Options.MaxQueued is %d; want 1 or more, 0 for as many as may be in flight, or -1 for none", o.MaxQueued)
	}
	if o.MaxWait < 0 {
		bad("Options.MaxWait is %v; want more than zero, or 0 for 200ms", o.MaxWait)
	}
	o.MaxWait = cmp.Or(o.MaxWait, 200*time.Millisecond)
	o.Tolerance = cmp.Or(o.Tolerance, 1.5)
	if !(o.Tolerance >= 1 && o.Tolerance <= 10) {
		bad("Options.Tolerance is %v; want 1 to 10, or 0 for 1.5", o.Tolerance)
	}
	o.Samples = cmp.Or(o.Samples, 50)
	if o.Samples < 10 {
		bad("Options.Samples is %d; want 10 or more, or 0 for 50", o.Samples)
	}
	return o, err
}

// Hooks are called synchronously, by the request that they tell of or by the one that made it happen, and should return fast. Any may
// be nil. They may call the Limiter.
type Hooks struct {
	Limit func(from, to int)    // the limit changed
	Shed  func(Priority, error) // a request was turned away; the error is ErrShed, wrapped
}
