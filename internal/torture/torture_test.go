package torture

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	longFor = flag.Duration("for", 0, "the long form: give each cell that much load, and write the record and docs/faults.md")
	seedArg = flag.Uint64("seed", 0, "seed of the first round; default: a random one, in the long form the next")
	cellArg = flag.String("cells", "", "regular expression for the cells to run, such as ^sentinel/failover$; default: all, or some in the short form")
	roundOf = flag.Duration("round", 0, "length of a script; default: 1.2s, or 6s in the long form")
)

const (
	recordFile = "testdata/faults.json"
	document   = "../../docs/faults.md"

	round      = 6 * time.Second         // of the long form
	shortRound = 1200 * time.Millisecond // of the short form
	tries      = 6                       // to find a shorter script
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// short are the cells of the short form: most faults, and every topology. Groups of servers have the machine for themselves.
var short = []string{
	"cluster/migrate", "sentinel/failover-load", "cluster/failover-load", "sentinel/freeze", "cluster/cut", "cluster/rewind", "sentinel/rewind",
	"tracking/none", "tracking/cut", "tracking/freeze", "tracking/delay", "tracking/swallow", "tracking/double",
	"tracking/reset", "tracking/stop", "tracking/kill", "tracking/rewind", "tracking/flush", "tracking/evict", "tracking/contention", "tracking/mix",
	"tracking/long-stop", "blind/cut", "blind/mix",
}

// TestTorture is the short form as a part of all tests, and the long form under make torture.
func TestTorture(t *testing.T) {
	which, err := regexp.Compile(*cellArg)
	if err != nil {
		t.Fatal(err)
	}
	if *longFor > 0 {
		longForm(t, which)
		return
	}
	limits.Slack = 250 * time.Millisecond
	for _, name := range cells() {
		if *cellArg == "" && !slices.Contains(short, name) || !which.MatchString(name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			topo, fault, _ := strings.Cut(name, "/")
			if topo == string(Tracking) || topo == string(Blind) {
				t.Parallel() // groups of servers are enough for two cores by themselves
			}
			seed := *seedArg
			if seed == 0 {
				seed = uint64(rand.Uint32())
			}
			h, v := torment(t, Topology(topo), fault, seed, cmp.Or(*roundOf, shortRound))
			t.Logf("%d reads, %d writes, %d loads, %v; checks %v; late %v, longest %v (%v), trust back %v",
				len(h.Reads), len(h.Writes), len(h.Loads), h.Length.Round(time.Millisecond), v.Checks, v.Late, v.Get, v.Slow, h.TrustBack)
			if v.Checks[P2] < 100 {
				t.Errorf("only %d checks of P2; this proves nothing", v.Checks[P2])
			}
		})
	}
}

// cells are all that can be, in the order of docs/faults.md but for the slowest topologies, which come first.
func cells() (names []string) {
	for _, topo := range slices.Backward(Topologies) {
		for _, f := range Faults {
			if slices.Contains(f.On, topo.Name) {
				names = append(names, string(topo.Name)+"/"+f.Name)
			}
		}
	}
	return names
}

// longForm gives each cell its time, cell by cell and round by round, and keeps the record after each.
func longForm(t *testing.T, which *regexp.Regexp) {
	for _, name := range cells() {
		if which.MatchString(name) {
			topo, fault, _ := strings.Cut(name, "/")
			t.Run(name, func(t *testing.T) {
				for done, n := time.Duration(0), uint64(0); done < *longFor; n++ {
					rec, err := ReadRecord(recordFile)
					if err != nil {
						t.Fatal(err)
					}
					c := rec.Cell(Topology(topo), fault)
					seed := c.Last + 1
					if *seedArg != 0 {
						seed = *seedArg + n
					}
					ok := t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
						h, v := torment(t, Topology(topo), fault, seed, cmp.Or(*roundOf, round))
						t.Logf("%v: checks %v; late %v, longest %v (%v), trust back %v", h.Length.Round(time.Millisecond), v.Checks, v.Late, v.Get, v.Slow, h.TrustBack)
						c.Add(seed, time.Now().Format(time.DateOnly), h, v)
						done += h.Length
					})
					if c.Last < seed {
						return // the round could not be played
					}
					if err := rec.Write(recordFile, document); err != nil {
						t.Fatal(err)
					}
					if !ok {
						t.Log("going on")
					}
				}
			})
		}
	}
}

// torment plays one round. If it breaks a promise, it says so, and looks for a shorter script that does.
func torment(t *testing.T, topo Topology, fault string, seed uint64, d time.Duration) (*History, *Verdict) {
	s := Draw(seed, topo, fault, d, limits.Instances)
	play := func(t *testing.T, s Script) (*History, *Verdict) {
		h := newWorld(t, topo, FaultNamed(fault), seed).play(s)
		return h, Check(h)
	}
	h, v := play(t, s)
	checkFigures(t, fault, h)
	if v.OK() {
		return h, v
	}
	t.Errorf("%s/%s breaks promises: %v violations of P1 to P5\nagain: go test ./internal/torture -run TestTorture -cells '^%s/%s$' -seed %d -round %v\n%v", topo, fault, v.Broken, topo, fault, seed, d, s)
	for _, broken := range v.Violations {
		t.Log(broken)
	}
	n := 0
	shortest := Shrink(s, tries, func(s Script) (fails bool) {
		n++
		t.Run(fmt.Sprint("shorter", n), func(t *testing.T) {
			_, v := play(t, s)
			fails = !v.OK()
		})
		return fails
	})
	t.Logf("the shortest script found that fails, in %d tries:\n%v", n, shortest)
	return h, v
}

// checkFigures looks at what a fault with a round of its own is about. How fast things are is for docs/faults.md; a bound that
// Redis's absence must not break is checked with room for the race detector and for other work on the machine.
func checkFigures(t *testing.T, fault string, h *History) {
	t.Helper()
	if FaultNamed(fault).Once == nil {
		return
	}
	var f Figures
	f.add(h)
	t.Logf("%.0f reads/s, %d errors, longest %v; failovers %v; %d loads at once", f.Rate, f.Errors, f.Worst, h.Failovers, f.MostLoads)
	for phase, when := range []string{"before", "during", "after"} {
		t.Logf("%s: from L1 or stale %v, otherwise %v", when, f.Near[phase], f.Rest[phase])
		least := 50
		if phase == Before {
			least = 5 // the fault comes soon
		}
		if f.Near[phase].N < least || f.Rest[phase].N < least/2 {
			t.Errorf("%d and %d reads %s the fault; this proves nothing", f.Near[phase].N, f.Rest[phase].N, when)
		}
	}
	if f.Drops < 10 {
		t.Errorf("%d drops during the fault; this proves nothing", f.Drops)
	}
	switch fault {
	case "failover-load":
		if len(h.Failovers) != 1 {
			t.Errorf("%d failovers; want 1", len(h.Failovers))
		}
	case "long-stop":
		may := h.LongestLoad + h.Budget + 500*time.Millisecond + perHop*h.worstStall()
		if got := f.Rest[During].P99; got > may {
			t.Errorf("while Redis was stopped, one in a hundred misses took %v; want less than %v", got, may)
		}
	}
}
