package limit

import (
	"fmt"
	"sync/atomic"
	"time"
)

// A Kind is how a policy counts.
type Kind uint8

// The kinds. N is Spec.Limit, W is Spec.Period, any window is half open: [t, t+W).
//
//	kind         admits in any window of W, at worst         example: 100 a minute
//	GCRA         Burst + N − 1                               199 (Burst 100), 109 (Burst 10), 100 (Burst 1)
//	Strict       N                                           100
//	Fixed        2N, N in each window of its own             200
//	Concurrency  no bound in time; at most N at one instant  –
//
// Windows of a calendar differ in length. So Fixed by one admits 2N at worst in any time that is no longer than the shortest window it
// touches, but 3N in 24 hours with a day of 23 hours inside (clocks go forward), and in 31 days with a February inside.
//
// Costs other than 1 count as that many units. What Settle charges beyond the limit, and what is given back, is
// not in these numbers; nor is what Spec.Advance adds, nor what a store forgets when it loses state (one more Burst for
// GCRA, N for the others).
const (
	// GCRA is the generic cell rate algorithm (ITU-T I.371), the token bucket in one number: Limit units
	// flow back per Period, one at a time, and at most Burst can be taken at once.
	GCRA Kind = iota

	// Strict never admits more than Limit units in any window of Period. Up to LogMax units
	// every admission is noted with its time; above that they are noted in sub-windows of a tenth of Period, each of
	// which counts in full until its last moment is a Period old. That refuses some more: a constant flood
	// gets N per 1.0 to 1.1 Period.
	Strict

	// Fixed admits Limit units in each window of the calendar (Spec.Calendar in Spec.Location), or in
	// each window of Period counted from 1970-01-01T00:00Z. Nothing flows back before the window ends.
	Fixed

	// Concurrency admits Limit units at a time. What is admitted holds a lease until it is released,
	// or until Spec.TTL after it was taken or renewed for the last time.
	Concurrency
)

// String returns "gcra", "strict", "fixed" or "concurrency".
func (k Kind) String() string {
	switch k {
	case GCRA:
		return "gcra"
	case Strict:
		return "strict"
	case Fixed:
		return "fixed"
	case Concurrency:
		return "concurrency"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// An Outage says what happens to requests that the store can't decide: it failed, was too slow, or isn't
// asked because it failed before.
type Outage uint8

// What to do in an outage. Such decisions are marked [Decision].Degraded, and counted.
const (
	OutageAllow Outage = iota // admit, charge nothing
	OutageDeny                // refuse
	OutageLocal               // decide in Options.Local, by Spec.Share percent of the limit
)

// String returns "allow", "deny" or "local".
func (o Outage) String() string {
	switch o {
	case OutageAllow:
		return "allow"
	case OutageDeny:
		return "deny"
	case OutageLocal:
		return "local"
	}
	return fmt.Sprintf("Outage(%d)", uint8(o))
}

// The largest numbers. All arithmetic stays below 2^53, which the Lua of Redis needs.
const (
	MaxUnits  = 1e15                  // Limit, Burst, Debt, Cost
	MaxPeriod = 366 * 24 * time.Hour  // Period, TTL, Penalty.Within, Penalty.Block
	MaxSpan   = 3660 * 24 * time.Hour // the time in which Burst plus Debt flow back
	MaxName   = 64                    // bytes of a policy's name
	LogMax    = 128                   // the largest Limit for which Strict keeps every admission
)

// A Spec is what [NewPolicy] makes a policy of. Zero values are defaults.
type Spec struct {
	Kind Kind // default GCRA

	// Limit is the number of units per Period, per window of the calendar, or at a time (Concurrency).
	// Zero refuses everything.
	Limit int64

	// Period is the time for Limit, in whole microseconds. GCRA, Strict and, unless it has a Calendar, Fixed need it.
	//
	// GCRA needs at least a microsecond a unit, so at most a million units a second: count kilobytes
	// instead of bytes. The time of a unit is Period/Limit, rounded up to a microsecond: 7/s is really
	// 6.99996/s, and close to a million the rate can be half of what was asked.
	Period time.Duration

	// Burst is how many units GCRA gives at once after a pause. Default Limit; at most what flows
	// back in MaxSpan. The other kinds have none.
	Burst int64

	// Debt is how many units beyond the limit Settle can charge. What goes beyond that is forgiven. Default Burst for GCRA,
	// Limit for Strict and Fixed; -1 for none. Concurrency has none.
	Debt int64

	// Calendar and Location are the windows of Fixed. Default: windows of Period; UTC.
	Calendar Calendar
	Location *time.Location

	// TTL is how long a Concurrency lease lasts without being renewed: what a crashed holder blocks. Default 30 s.
	TTL time.Duration

	// Penalty blocks keys that go on after they were refused. Default: none, refused requests have no effect.
	Penalty Penalty

	// Shadow decides and counts, but never refuses. A shadow limit without room isn't charged, and others
	// are decided as if it weren't there.
	Shadow bool

	// OnOutage is what happens when the store can't decide. Default OutageAllow.
	OnOutage Outage

	// Share is the part of Limit and Burst, in percent, that OutageLocal admits in this process: for four instances that get equal
	// shares of the requests, 25. Rounded down, but at least 1 unit if the limit has any. Default 100.
	Share int

	// Advance is how many units of a key a Limiter may take from the store ahead of need, so that most
	// decisions ask nobody. It takes no more than a tenth of what the store last said is left, so others are not kept from the rest. Per Limiter, Advance more units
	// can be admitted in a window: those taken before it and used in it; Fixed admits no more, since they end with their window. Decisions of several
	// limits, those of a store in this process, shadow mode, and policies with a Penalty take nothing ahead. GCRA and Fixed only. Default: none.
	Advance int64
}

// A Penalty blocks a key for longer, once it was refused After times Within (counted from the first refusal).
// While it is blocked it is refused, whatever room the limit has, and
// refusals neither count nor make the block longer. Zero After means no penalty; otherwise all three must be given. A decision that is
// refused by what the Limiter remembers of one of its limits counts for no penalty of the others.
type Penalty struct {
	After  int64
	Within time.Duration
	Block  time.Duration
}

// A Policy is a limit, checked and ready for use: see [Spec]. It never changes, and is safe for concurrent use.
//
// What a store knows of a key belongs to the policy's name, its kind and the key. So a changed policy of the same name and kind
// goes on with what was used: see [Rule] for what that means to each kind. Two policies that
// count apart need different names.
type Policy struct {
	name    string
	spec    Spec // as given
	rule    Rule
	version uint64  // unique in this process
	local   *Policy // by Share; nil without OutageLocal
}

var versions atomic.Uint64

// NewPolicy checks spec and makes a policy of it. The name stands in keys of stores, in metrics and headers: 1 to MaxName of
// a–z, A–Z, 0–9, '.', '_' and '-'.
func NewPolicy(name string, spec Spec) (*Policy, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	full, err := spec.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("limit: policy %q: %w", name, err)
	}
	p := &Policy{name: name, spec: spec, rule: ruleOf(full), version: versions.Add(1)}
	if spec.OnOutage == OutageLocal {
		share := full.shared()
		p.local = &Policy{name: name, spec: share, rule: ruleOf(share), version: versions.Add(1)}
	}
	return p, nil
}

// MustPolicy is NewPolicy for policies written in the program: it panics if the spec is wrong.
func MustPolicy(name string, spec Spec) *Policy {
	p, err := NewPolicy(name, spec)
	if err != nil {
		panic(err)
	}
	return p
}

// Name is the policy's name.
func (p *Policy) Name() string { return p.name }

// Spec is what the policy was made of: change it to make another policy.
func (p *Policy) Spec() Spec { return p.spec }

// Rule is the policy as stores see it. It must not be changed.
func (p *Policy) Rule() *Rule { return &p.rule }

// Version tells policies of one process apart, those of the same name too.
func (p *Policy) Version() uint64 { return p.version }

func checkName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("limit: policy name %q has %d bytes; want 1 to %d", name, len(name), MaxName)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("limit: policy name %q contains %q; want letters, digits, '.', '_' and '-'", name, c)
		}
	}
	return nil
}

// withDefaults fills the defaults in, and says what is wrong.
func (s Spec) withDefaults() (Spec, error) {
	none := func(what string, given bool) error {
		if given {
			return fmt.Errorf("%s is given; %v has none", what, s.Kind)
		}
		return nil
	}
	units := func(what string, n int64) error {
		if n < 0 || n > MaxUnits {
			return fmt.Errorf("%s is %d; want 0 to %d", what, n, int64(MaxUnits))
		}
		return nil
	}
	span := func(what string, d time.Duration) error {
		if d < time.Microsecond || d > MaxPeriod || d%time.Microsecond != 0 {
			return fmt.Errorf("%s is %v; want whole microseconds, 1µs to %v", what, d, MaxPeriod)
		}
		return nil
	}
	var wrong error // the first
	check := func(err error) {
		if wrong == nil {
			wrong = err
		}
	}
	if s.Kind > Concurrency {
		return s, fmt.Errorf("Kind is %d; want GCRA, Strict, Fixed or Concurrency", s.Kind)
	}
	if s.OnOutage > OutageLocal {
		return s, fmt.Errorf("OnOutage is %d; want OutageAllow, OutageDeny or OutageLocal", s.OnOutage)
	}
	check(units("Limit", s.Limit))

	if s.Kind == Concurrency {
		check(none("Period", s.Period != 0))
		if s.TTL == 0 {
			s.TTL = 30 * time.Second
		}
		check(span("TTL", s.TTL))
	} else {
		check(none("TTL", s.TTL != 0))
	}
	if s.Kind == Fixed {
		if s.Location == nil {
			s.Location = time.UTC
		}
		switch {
		case s.Calendar > Year:
			return s, fmt.Errorf("Calendar is %d; want Minute, Hour, Day, Week, Month or Year", s.Calendar)
		case s.Calendar != 0 && s.Period != 0:
			return s, fmt.Errorf("both Calendar (%v) and Period (%v) are given; want one of them", s.Calendar, s.Period)
		}
	} else {
		check(none("Calendar", s.Calendar != 0))
		check(none("Location", s.Location != nil))
	}
	if s.Kind != Concurrency && s.Calendar == 0 {
		check(span("Period", s.Period))
	}
	if wrong != nil {
		return s, wrong
	}
	if s.Kind == GCRA {
		if s.Burst == 0 {
			s.Burst = s.Limit
		}
		check(units("Burst", s.Burst))
		if s.Limit == 0 && s.Burst != 0 {
			return s, fmt.Errorf("the Burst is %d with a Limit of 0; want 0", s.Burst)
		}
		if s.Limit > s.Period.Microseconds() {
			return s, fmt.Errorf("the Limit is %d per %v, less than a microsecond a unit; want larger units (kilobytes instead of bytes)", s.Limit, s.Period)
		}
	} else {
		check(none("Burst", s.Burst != 0))
	}
	switch {
	case s.Kind == Concurrency:
		check(none("Debt", s.Debt > 0))
		s.Debt = 0
	case s.Debt == -1:
		s.Debt = 0
	case s.Debt == 0 && s.Kind == GCRA:
		s.Debt = s.Burst
	case s.Debt == 0:
		s.Debt = s.Limit
	default:
		check(units("Debt", s.Debt))
	}
	if s.Penalty != (Penalty{}) {
		if s.Penalty.After < 1 || s.Penalty.After > MaxUnits {
			check(fmt.Errorf("Penalty.After is %d; want 1 to %d", s.Penalty.After, int64(MaxUnits)))
		}
		check(span("Penalty.Within", s.Penalty.Within))
		check(span("Penalty.Block", s.Penalty.Block))
	}
	if s.Share == 0 {
		s.Share = 100
	}
	if s.Share < 1 || s.Share > 100 {
		check(fmt.Errorf("the Share is %d; want 1 to 100 percent", s.Share))
	}
	if s.Advance != 0 {
		check(units("Advance", s.Advance))
		check(none("Advance", s.Kind == Strict || s.Kind == Concurrency))
	}
	if wrong != nil {
		return s, wrong
	}
	if s.Kind == GCRA && s.Limit > 0 {
		// Burst and Debt are at most 1e15 each, so the quotient is the safe side to compare.
		if most := MaxSpan.Microseconds() / intervalOf(s); s.Burst+s.Debt > most {
			return s, fmt.Errorf("the Burst plus the Debt are %d units, which flow back in more than %v; want at most %d", s.Burst+s.Debt, MaxSpan, most)
		}
	}
	return s, nil
}

// shared is s at Share percent.
func (s Spec) shared() Spec {
	part := func(n int64) int64 {
		if n == 0 {
			return 0
		}
		return max(1, n/100*int64(s.Share)+n%100*int64(s.Share)/100)
	}
	s.Limit, s.Burst = part(s.Limit), part(s.Burst)
	if s.Kind == GCRA && s.Limit > 0 {
		// A lower rate takes longer to give the same units back.
		s.Debt = min(s.Debt, MaxSpan.Microseconds()/intervalOf(s)-s.Burst)
		if s.Debt < 0 {
			s.Burst, s.Debt = s.Burst+s.Debt, 0
		}
	}
	s.Advance, s.OnOutage = 0, OutageAllow
	return s
}

// intervalOf is the time of one unit in µs, rounded up.
func intervalOf(s Spec) int64 { return (s.Period.Microseconds() + s.Limit - 1) / s.Limit }
