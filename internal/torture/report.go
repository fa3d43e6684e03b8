package torture

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// A Cell adds up the rounds of one fault on one topology.
type Cell struct {
	Topology Topology
	Fault    string

	Rounds      int
	Time        time.Duration
	First, Last uint64 // seeds
	Since, Till string // days

	Checks [promises]int64
	Broken [promises]int64

	Late, Get, TrustBack time.Duration // at worst

	Figures *Figures `json:",omitempty"` // of faults with a round of their own
}

// A Record adds up everything that was ever run. It is kept as JSON, from which docs/faults.md is made.
type Record struct {
	Cells []*Cell
}

// ReadRecord reads a record; one that isn't there is empty.
func ReadRecord(path string) (*Record, error) {
	r := new(Record)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Write writes a record and the document made of it.
func (r *Record) Write(path, doc string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(doc, []byte(r.Document()), 0o644)
}

// Cell returns the cell of a fault on a topology. It makes one if there is none.
func (r *Record) Cell(t Topology, fault string) *Cell {
	for _, c := range r.Cells {
		if c.Topology == t && c.Fault == fault {
			return c
		}
	}
	c := &Cell{Topology: t, Fault: fault}
	r.Cells = append(r.Cells, c)
	return c
}

// Add adds a round. Day is the date, as 2006-01-02.
func (c *Cell) Add(seed uint64, day string, h *History, v *Verdict) {
	if c.Rounds == 0 {
		c.First, c.Last, c.Since = seed, seed, day
	}
	c.Rounds++
	c.Time += h.Length
	c.First, c.Last, c.Till = min(c.First, seed), max(c.Last, seed), day
	for p := range promises {
		c.Checks[p] += v.Checks[p]
		c.Broken[p] += v.Broken[p]
	}
	c.Late, c.Get, c.TrustBack = max(c.Late, v.Late), max(c.Get, v.Get), max(c.TrustBack, h.TrustBack)
	if FaultNamed(c.Fault).Once != nil {
		if c.Figures == nil {
			c.Figures = new(Figures)
		}
		c.Figures.add(h)
	}
}

// Document is docs/faults.md.
func (r *Record) Document() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }

	var total Cell
	for _, c := range r.Cells {
		if total.Rounds == 0 {
			total.First, total.Last, total.Since, total.Till = c.First, c.Last, c.Since, c.Till
		}
		total.Rounds += c.Rounds
		total.Time += c.Time
		total.First, total.Last = min(total.First, c.First), max(total.Last, c.Last)
		total.Since, total.Till = min(total.Since, c.Since), max(total.Till, c.Till)
		for i := range promises {
			total.Checks[i] += c.Checks[i]
			total.Broken[i] += c.Broken[i]
		}
	}
	p("# What was broken, and what held\n\n")
	p("Four instances read and drop 46 rows of all kinds (by key, by tag, by late tag, by `Clear`, by a foreign `DEL`; negative, plain, batches, short-lived, revalidated)\n")
	p("while Redis and the links to it are broken on purpose. Everything they see is recorded on one clock and checked against the [promises](../doc.go) P1 to P5.\n")
	p("This page is written by `make torture`, which goes on where it stopped; `make torture CELL=10m CELLS=sentinel/` gives each cell of Sentinel ten minutes more.\n\n")
	broken := int64(0)
	for _, n := range total.Broken {
		broken += n
	}
	if total.Rounds == 0 {
		p("Nothing was run yet.\n\n")
	} else {
		p("So far: **%s violations** in %s checks, %v of load in %d rounds, seeds %d to %d, %s to %s.\n\n", count(broken), count(sum(total.Checks)),
			total.Time.Round(time.Second), total.Rounds, total.First, total.Last, total.Since, total.Till)
	}
	p("## How to read it\n\n")
	p("Numbers under P1 to P5 are checks; violations would stand beside them. `StaleAtMost` is 250 ms, the budget of an operation 100 ms, the lease time 400 ms, and a load takes up to 40 ms.\n\n")
	p("| | checked |\n|---|---|\n")
	p("| P1 | a read doesn't bring what an own drop ended that returned before, acknowledged or pending; one that came from the store not what an acknowledged drop of the key ended; one from the source not what was over before. When all has settled, every instance reads the present version of every row |\n")
	p("| P2 | a read doesn't bring what a drop ended that was acknowledged more than `StaleAtMost` before it began |\n")
	p("| P3 | a load doesn't begin while another of its row is under way: on the same instance never, in the fleet while Redis answers, but for a drop in between, late word of another instance's fill (which looks like a foreign write), or a lease that ran out; never more than `MaxLoads` |\n")
	p("| P4 | what is read was once written, whole, under that key, and not later than it was read |\n")
	p("| P5 | no error while the source works. No read takes longer than two loads and two budgets, and two lease times more where an operation of the store failed a while before (nobody gave a lease back), plus what the machine was late by, as a goroutine that only sleeps found (the exact bound is tested in virtual time). Trust comes back, and pending drops are delivered |\n")
	p("| late | the longest that a read missed an acknowledged drop, in ms |\n")
	p("| read | the longest read, in ms |\n")
	p("| trust | the longest from the end of a fault until every instance had a new proof, in ms |\n\n")
	p("**Less is checked** in rows with a *: acknowledged drops may be lost there by asynchronous replication, or with an old snapshot. While the fault lasts and until all instances have looked at the log of the new primary and\n")
	p("1.5 s more, reads are judged by what their own instance dropped, not by what others did, and `Plain` caches not at all, nor are there foreign writes to others. Afterwards nothing that was dropped may be there.\n\n")
	p("Links are those between one instance and the servers: each instance has a proxy for each server, sentinels included, on a loopback address of its own. Nodes of the Cluster name no address\n")
	p("(`cluster-preferred-endpoint-type unknown-endpoint`), so that every redirection leads to a proxy of the same instance; in what sentinels say, the proxies put that address. Two times in three all links of an\n")
	p("instance break, else some. The servers among themselves are linked without a proxy.\n\n")
	p("The tests run a short form with other seeds each time. What the checks find when a defense is taken out by hand: `internal/torture` was shown ten of them on one server, and reported each; and of those that the links of a group,\n")
	p("old snapshots and long outages are up to:\n\n")
	p("| without it | cell | broken |\n|---|---|---|\n")
	for _, d := range []string{
		"trust ends `StaleAtMost` after the last proof | sentinel/freeze, cluster/cut | P2; P1 and P2",
		"an announcement that doesn't follow waits for the log | cluster/swallow | P2",
		"trust ends with its link | sentinel/reset | P1, P2",
		"a log that lost its end begins a new epoch | tracking/rewind, sentinel/failover-load | P1",
		"the outbox repeats what failed | tracking/long-stop | P1, P2",
		"`MaxLoads` | tracking/long-stop | P3",
	} {
		p("| %s |\n", d)
	}
	p("\n")
	p("## Faults\n\n| fault | what it does |\n|---|---|\n")
	for _, f := range Faults {
		p("| %s | %s |\n", f.Name, f.What)
	}
	for _, t := range Topologies {
		p("\n## %s\n\n", t.What)
		p("| fault | P1 | P2 | P3 | P4 | P5 | late | read | trust | time |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
		for _, f := range Faults {
			name := f.Name
			if f.IsLossy(t.Name) {
				name += " *"
			}
			c := r.find(t.Name, f.Name)
			switch {
			case !slices.Contains(f.On, t.Name):
				p("| %s | – | – | – | – | – | | | | not made here |\n", name)
			case c == nil:
				p("| %s | – | – | – | – | – | | | | not run |\n", name)
			default:
				p("| %s |", name)
				for i := range promises {
					p(" %s", count(c.Checks[i]))
					if c.Broken[i] > 0 {
						p(" **%s broken**", count(c.Broken[i]))
					}
					p(" |")
				}
				trust := ""
				if c.TrustBack > 0 {
					trust = ms(c.TrustBack)
				}
				p(" %s | %s | %s | %v |\n", ms(c.Late), ms(c.Get), trust, c.Time.Round(time.Second))
			}
		}
	}
	b.WriteString(r.figures())
	return b.String()
}

func (r *Record) find(t Topology, fault string) *Cell {
	for _, c := range r.Cells {
		if c.Topology == t && c.Fault == fault && c.Rounds > 0 {
			return c
		}
	}
	return nil
}

func sum(ns [promises]int64) (total int64) {
	for _, n := range ns {
		total += n
	}
	return total
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e6) }

// count writes a number with its thousands apart.
func count(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
