// Package torture breaks Redis under a fleet of instances and checks, from a record of everything that the
// instances read, wrote and loaded, whether the promises P1 to P5 of package freshet were kept.
//
// It has four parts. A [Script] is a list of faults with times, drawn from a seed. A world (in the tests,
// since it needs servers) plays one: instances read and drop what a source in memory holds in versions, while the faults
// happen. What they see is a [History], on one clock. [Check] judges it; it
// knows nothing of the cache. A [Record] adds up the verdicts and prints docs/faults.md.
//
// The seed fixes the faults and what each goroutine does next, not how the goroutines interleave. So a seed that
// failed may pass the next time; [Shrink] takes that into account by trying a script more than once.
//
// # What is not checked
//
// Where a failover or an old snapshot may lose drops that Redis had acknowledged, reads while it happens aren't judged by other
// instances' drops, and Plain caches not at all ([Fault.Lossy]): package freshet promises nothing there. An
// instance's own drops count at all times.
package torture

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A Topology is how Redis is set up.
type Topology string

const (
	Tracking Topology = "tracking" // one server that tells of foreign writes
	Blind    Topology = "blind"    // one server that refuses CLIENT TRACKING
	Sentinel Topology = "sentinel"
	Cluster  Topology = "cluster"
)

// Topologies are all, with what they are.
var Topologies = []struct {
	Name Topology
	What string
}{
	{Tracking, "One server, with tracking"},
	{Blind, "One server that refuses tracking"},
	{Sentinel, "Sentinel: a primary, two replicas, three sentinels"},
	{Cluster, "Cluster: three primaries with a replica each"},
}

// A Fault is a way to break things.
type Fault struct {
	Name string
	What string
	On   []Topology

	// Lossy says where acknowledged drops may be lost: reads while the fault lasts and until
	// all instances have looked are only judged by what the instance knew itself.
	Lossy []Topology

	// Answers says that Redis answers everybody meanwhile, so that one load in the fleet is promised.
	Answers bool

	// Links is set for faults of the links of some instances.
	Links bool

	// From and To bound how long the fault lasts. Zero: a moment, or as long as it takes.
	From, To time.Duration

	// Most bounds how often it happens in a script. Zero: as often as there is time.
	Most int

	// Readers are the readers of an instance, which pause for a while after each read. Zero: four. Rate, if
	// positive, is the reads per second of all instances together in their place, on a clock that doesn't wait for answers.
	Readers, Rate int

	// Once is set for faults with figures of their own, which aren't part of a mix. It tells what happens in a
	// round of about d.
	Once func(d time.Duration) Script
}

var (
	everywhere = []Topology{Tracking, Blind, Sentinel, Cluster}
	alone      = []Topology{Tracking, Blind}
	tracking   = []Topology{Tracking}
	groups     = []Topology{Sentinel, Cluster}
)

// Faults are the rows of docs/faults.md.
var Faults = []Fault{
	{Name: "none", What: "nothing breaks", On: everywhere, Answers: true},
	{Name: "cut", What: "the links of some instances are closed, and refused until they are restored", On: everywhere, Links: true, From: 5 * time.Millisecond, To: 1200 * time.Millisecond},
	{Name: "freeze", What: "the links of some instances are half-open: nothing passes, nobody is told", On: everywhere, Links: true, From: 5 * time.Millisecond, To: 1200 * time.Millisecond},
	{Name: "reset", What: "the links of some instances are closed again and again, and accepted at once", On: everywhere, Links: true, From: 5 * time.Millisecond, To: 600 * time.Millisecond},
	{Name: "delay", What: "the links of some instances get slow, by up to 60 ms each way, and change all the time", On: everywhere, Links: true, From: 100 * time.Millisecond, To: 1500 * time.Millisecond, Answers: true},
	{Name: "swallow", What: "two of three announcements, and of the pushes for keys that the log announces too, are lost", On: everywhere, Links: true, From: 200 * time.Millisecond, To: 1500 * time.Millisecond, Answers: true},
	{Name: "double", What: "every announcement and push comes twice", On: everywhere, Links: true, From: 200 * time.Millisecond, To: 1500 * time.Millisecond, Answers: true},
	{Name: "stop", What: "a server is stopped (SIGSTOP), and goes on (SIGCONT)", On: everywhere, Lossy: groups, From: 5 * time.Millisecond, To: 1500 * time.Millisecond},
	{Name: "kill", What: "the server is killed (kill -9), and starts again empty", On: alone, To: 800 * time.Millisecond},
	{Name: "rewind", What: "a primary is killed, and starts again with an older snapshot: entries and log go back in time together", On: everywhere, Lossy: everywhere, From: 20 * time.Millisecond, To: 900 * time.Millisecond, Most: 2},
	{Name: "flush", What: "FLUSHALL", On: everywhere},
	{Name: "evict", What: "keys of ours are deleted at random: stamps, heads, logs, entries, leases", On: everywhere, From: 50 * time.Millisecond, To: 600 * time.Millisecond},
	{Name: "failover", What: "another server is made the primary, by hand (SENTINEL FAILOVER, CLUSTER FAILOVER)", On: groups, Lossy: []Topology{Sentinel}, Most: 1},
	{Name: "failover-kill", What: "a primary loses its replicas, is killed 250 ms later, and a replica takes over: what was acknowledged meanwhile is lost", On: groups, Lossy: groups, Most: 1},
	{Name: "migrate", What: "a slot with entries, or with a log, moves to another primary", On: []Topology{Cluster}, Most: 3},
	{Name: "contention", What: "three busy goroutines per CPU take the time", On: everywhere, Answers: true, From: 200 * time.Millisecond, To: time.Second},
	{Name: "mix", What: "all of these in random order (on one server without `rewind`)", On: everywhere, Lossy: groups},
	{Name: "failover-load", What: "as `failover-kill`, while the four instances are asked 5,000 times a second in all", On: groups, Lossy: groups, Rate: 5000,
		Once: func(d time.Duration) Script {
			return Script{{After: d / 3, Fault: "failover-kill"}, {After: d / 3, Fault: "none"}}
		}},
	{Name: "long-stop", What: "as `stop`, for ten seconds, with 64 readers", On: tracking, Readers: 16,
		Once: func(d time.Duration) Script {
			return Script{{After: d / 2, Fault: "stop", For: d * 10 / 6}, {After: d / 2, Fault: "none"}}
		}},
}

// FaultNamed returns a fault.
func FaultNamed(name string) Fault {
	for _, f := range Faults {
		if f.Name == name {
			return f
		}
	}
	panic("torture: no fault " + name)
}

// IsLossy reports whether f may lose acknowledged drops on t.
func (f Fault) IsLossy(t Topology) bool { return slices.Contains(f.Lossy, t) }

// A Step is one fault of a script.
type Step struct {
	After time.Duration // since the step before was over
	For   time.Duration
	Fault string
	On    []int  // instances whose links break
	N     uint64 // decides what the fault leaves open
}

func (s Step) String() string {
	text := fmt.Sprintf("after %v %s", s.After, s.Fault)
	if len(s.On) > 0 {
		text += fmt.Sprintf(" of instances %v", s.On)
	}
	if s.For > 0 {
		text += fmt.Sprintf(" for %v", s.For)
	}
	return text
}

// A Script is what happens in one round.
type Script []Step

func (s Script) String() string {
	lines := make([]string, len(s))
	for i, step := range s {
		lines[i] = "\t" + step.String()
	}
	return strings.Join(lines, "\n")
}

// Draw makes the script of a seed, about as long as d.
func Draw(seed uint64, t Topology, fault string, d time.Duration, instances int) Script {
	whole := FaultNamed(fault)
	switch {
	case fault == "none":
		return Script{{After: d, Fault: "none"}}
	case whole.Once != nil:
		s := whole.Once(d)
		s[0].N = seed
		return s
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	between := func(a, b time.Duration) time.Duration {
		if b <= a {
			return a
		}
		return (a + time.Duration(rng.Int64N(int64(b-a)))).Round(time.Millisecond)
	}
	var choice []Fault
	for _, f := range Faults {
		wanted := f.Name == fault
		if fault == "mix" {
			wanted = f.Name != "none" && f.Name != "mix" && f.Once == nil && (whole.IsLossy(t) || !f.IsLossy(t))
		}
		if wanted && slices.Contains(f.On, t) {
			choice = append(choice, f)
		}
	}
	var s Script
	count := make(map[string]int)
	for sum := time.Duration(0); sum < d; {
		f := choice[rng.IntN(len(choice))]
		step := Step{After: between(100*time.Millisecond, 700*time.Millisecond), Fault: f.Name, N: rng.Uint64()}
		// Most are short: what happens within the bound and the budget is as interesting as what outlasts them.
		if step.For = between(f.From, f.To); rng.IntN(3) == 0 {
			step.For = between(f.From, min(f.To, f.From+100*time.Millisecond))
		}
		if f.Links {
			for i := range instances {
				if rng.IntN(2) == 0 {
					step.On = append(step.On, i)
				}
			}
			if len(step.On) == 0 {
				step.On = []int{rng.IntN(instances)}
			}
		}
		sum += step.After + max(step.For, 100*time.Millisecond)
		// With a server gone for good, there is nobody left to hand over to.
		if f.Most > 0 && count[f.Name] == f.Most || f.On[0] != Tracking && count["failover-kill"] > 0 {
			step.Fault, step.For = "none", 0
		}
		count[f.Name]++
		s = append(s, step)
	}
	return s
}

// Shrink takes steps out of a script that fails, as long as it goes on failing, in at most that many tries.
func Shrink(s Script, tries int, fails func(Script) bool) Script {
	for i := len(s) - 1; i >= 0 && len(s) > 1; i-- {
		if tries--; tries < 0 {
			break
		}
		shorter := slices.Delete(slices.Clone(s), i, i+1)
		if fails(shorter) {
			s = shorter
		}
	}
	return s
}
