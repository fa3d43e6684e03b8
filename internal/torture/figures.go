package torture

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// Figures are what a fault with a round of its own is about, beside the promises.
type Figures struct {
	Rounds int
	Reads  int64 // calls
	Errors int64
	Rate   float64 // reads per second, in the round that had the fewest

	// After a primary was killed, at worst.
	Promoted time.Duration `json:",omitempty"` // until another server was primary, and the rest knew
	Trusted  time.Duration `json:",omitempty"` // until every instance had a new proof

	Worst time.Duration // the longest read, from when it was due

	// Of the last round: before, during and after the fault.
	Near, Rest [3]Spread
	Drops      int // asked for during the fault
	MostLoads  int // under way at once on an instance, in all rounds
	MaxLoads   int

	Load, Budget time.Duration // the longest load, and of a store operation
}

// A Spread tells how long some reads took.
type Spread struct {
	N             int
	P50, P99, Max time.Duration
}

func spreadOf(took []time.Duration) (s Spread) {
	if s.N = len(took); s.N == 0 {
		return s
	}
	slices.Sort(took)
	return Spread{s.N, took[s.N/2], took[s.N*99/100], took[s.N-1]}
}

// Before, During and After are indices of what is told by phase.
const (
	Before = iota
	During
	After
)

// phase tells when a read began. A read that began before the fault and ended in it is of neither.
func (h *History) phase(r Read) (phase int, ok bool) {
	hit := h.Hit[0]
	switch {
	case r.End < hit.From:
		return Before, true
	case r.Start >= hit.From && r.Start < hit.To:
		return During, true
	case r.Start >= hit.To:
		return After, true
	}
	return 0, false
}

// add adds a round of one fault.
func (f *Figures) add(h *History) {
	var near, rest [3][]time.Duration
	f.Rounds++
	f.Drops = 0
	calls := int64(0)
	for _, r := range h.Reads {
		if r.Last || r.Batch {
			continue
		}
		calls++
		if r.Err != nil {
			f.Errors++
		}
		due := r.Start
		if r.Due != 0 {
			due = r.Due
		}
		f.Worst = max(f.Worst, r.End-due)
		// Only Lookup tells where an answer came from.
		if phase, ok := h.phase(r); ok && r.Level != observe.LevelNone {
			to := &rest
			if r.Level == observe.LevelL1 || r.Stale {
				to = &near
			}
			to[phase] = append(to[phase], r.End-r.Start)
		}
	}
	f.Reads += calls
	if rate := float64(calls) / h.ReadFor.Seconds(); f.Rate == 0 || rate < f.Rate {
		f.Rate = rate
	}
	for i := range near {
		f.Near[i], f.Rest[i] = spreadOf(near[i]), spreadOf(rest[i])
	}
	for _, w := range h.Writes {
		if w.Instance != Foreign && w.Asked >= h.Hit[0].From && w.Asked < h.Hit[0].To {
			f.Drops++
		}
	}
	for _, over := range h.Failovers {
		f.Promoted = max(f.Promoted, over.Promoted-over.Killed)
		f.Trusted = max(f.Trusted, over.Trusted-over.Killed)
	}
	f.MostLoads, f.MaxLoads = max(f.MostLoads, h.MostLoads), h.MaxLoads
	f.Load, f.Budget = h.LongestLoad, h.Budget
}

// figures are the parts of docs/faults.md about the faults with a round of their own.
func (r *Record) figures() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	find := func(t Topology, fault string) *Figures {
		if c := r.find(t, fault); c != nil {
			return c.Figures
		}
		return nil
	}
	p("\n## A failover at 5,000 reads a second\n\n")
	p("A primary is killed while the four instances are asked 5,000 times a second in all, by a clock that doesn't wait for answers; a read that begins late counts from when it was due. They drop as many\n")
	p("rows as in all other rounds. Times in ms, at worst, after the kill: *primary*, until another server was primary and the rest knew (the patience of sentinels and nodes, 500 and 1,000 ms here, included); *trust*, until every\n")
	p("instance had proven anew that it knows every drop. *Broken*: promises, as in the tables above (`failover-load`): a dropped value served as fresh would be one.\n\n")
	p("| | rounds | reads/s | reads | errors | broken | primary | trust | longest read |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, t := range groups {
		if f := find(t, "failover-load"); f != nil {
			p("| %s | %d | %s | %s | %s | %s | %s | %s | %s |\n", t, f.Rounds, count(int64(f.Rate)), count(f.Reads), count(f.Errors),
				count(sum(r.find(t, "failover-load").Broken)), ms(f.Promoted), ms(f.Trusted), ms(f.Worst))
		} else {
			p("| %s | not run | | | | | | | |\n", t)
		}
	}
	p("\n## Redis stops for ten seconds\n\n")
	f := find(Tracking, "long-stop")
	if f == nil {
		p("Not run yet.\n")
		return b.String()
	}
	c := r.find(Tracking, "long-stop")
	p("SIGSTOP, under 64 readers on four instances, which go on changing and dropping rows. How long a `Lookup` took, in ms, in the last of %d rounds. Other reads are answered by L2 or the source; at most a load (%.0f ms) and\n", f.Rounds, f.Load.Seconds()*1e3)
	p("the budget of an operation (%.0f ms) are due.\n\n", f.Budget.Seconds()*1e3)
	p("| answered | | reads | p50 | p99 | longest |\n|---|---|--:|--:|--:|--:|\n")
	row := func(what string, of [3]Spread) {
		for i, when := range []string{"before", "during", "after"} {
			p("| %s | %s | %s | %.3f | %.3f | %s |\n", what, when, count(int64(of[i].N)), of[i].P50.Seconds()*1e3, of[i].P99.Seconds()*1e3, ms(of[i].Max))
		}
	}
	row("from L1, or stale", f.Near)
	row("otherwise", f.Rest)
	p("\nErrors: %s in %s reads. Loads at once on an instance: %d of %d allowed (MaxLoads). Drops asked for meanwhile: %s in the last round; every one was delivered, and held afterwards, but for **%s** broken promises in all rounds.\n",
		count(f.Errors), count(f.Reads), f.MostLoads, f.MaxLoads, count(int64(f.Drops)), count(sum(c.Broken)))
	return b.String()
}
