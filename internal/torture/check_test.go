package torture

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// TestCheck judges small histories made by hand: the checker must find each thing that it says it checks, and
// must not find anything in what is allowed.
func TestCheck(t *testing.T) {
	const ms = time.Millisecond
	at := func(r Read, start, end time.Duration) Read {
		r.Start, r.End = start*ms, end*ms
		return r
	}
	// Row 0 is changed by instance 0 at 100 ms, and that is acknowledged at 110 ms.
	write := Write{Instance: 0, Row: 0, Version: 2, Drop: "key", Began: 100 * ms, Committed: 100 * ms, Asked: 101 * ms, Returned: 110 * ms, Acked: 110 * ms}
	pending := write
	pending.Acked = 0
	tag := write
	tag.Drop = "tag"
	old, new2 := Read{Version: 1}, Read{Version: 2}
	of := func(r Read, instance int) Read { r.Instance = instance; return r }
	from := func(r Read, l observe.Level) Read { r.Level = l; return r }
	load := func(instance int, start, end time.Duration) Load {
		return Load{Instance: instance, Row: 3, Start: start * ms, End: end * ms}
	}

	f := func(name string, want string, what ...any) {
		t.Helper()
		h := &History{Limits: limits, Rows: []Row{{Cache: "key", Key: "key:0"}, {Cache: "plain", Key: "plain:1", Plain: true}, {Cache: "neg", Key: "neg:2", Odd: true}, {Cache: "brief", Key: "brief:3"}}}
		for _, x := range what {
			switch x := x.(type) {
			case Read:
				h.Reads = append(h.Reads, x)
			case Write:
				h.Writes = append(h.Writes, x)
			case Load:
				h.Loads = append(h.Loads, x)
			case Trouble:
				h.Trouble = append(h.Trouble, x)
			case Stall:
				h.Stalls = append(h.Stalls, x)
			case []Window:
				h.Broken = x
			case Window:
				h.Losing, h.Lossy = append(h.Losing, x), true
			case Violation:
				h.Noticed = append(h.Noticed, x)
			}
		}
		v := Check(h)
		var got []string
		for _, broken := range v.Violations {
			got = append(got, fmt.Sprint("P", broken.Promise+1))
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %q; want %q\n%v", name, got, want, v.Violations)
		}
		if v.OK() != (want == "") {
			t.Errorf("%s: OK is %v", name, v.OK())
		}
	}

	f("the old version before the drop", "", write, of(old, 1), at(of(old, 1), 90, 105))
	f("the old version within the bound", "", write, at(of(old, 1), 300, 301))
	f("the old version at the clock's error", "", write, at(of(old, 1), 362, 363))
	f("the old version after the bound", "P2", write, at(of(old, 1), 363, 364))
	f("a stale old version after the bound", "P2", write, at(of(Read{Version: 1, Stale: true}, 1), 400, 401))
	f("served because the source failed", "", write, at(of(Read{Version: 1, Stale: true, Failed: true}, 1), 400, 401))
	f("the new version", "", write, at(of(new2, 1), 400, 401))
	f("the old version, never acknowledged", "", pending, at(of(old, 1), 900, 901))
	f("the own drop", "P1", write, at(old, 111, 112))
	f("the own drop had not returned", "", write, at(old, 109, 112))
	f("the own pending drop", "P1", pending, at(old, 111, 112))
	f("from the store after the drop of the key", "P1", write, at(of(from(old, observe.LevelL2), 1), 111, 112))
	f("from the store after the drop of a tag", "", tag, at(of(from(old, observe.LevelL2), 1), 111, 112))
	f("from the store, joined", "", write, at(of(Read{Version: 1, Level: observe.LevelL2, Joined: true}, 1), 111, 112))
	f("from the source after the commit", "P1", write, at(of(from(old, observe.LevelSource), 1), 101, 112))
	f("the last read", "P1 P2", write, at(of(Read{Version: 1, Last: true}, 1), 900, 901))
	f("the last read after a drop that was never delivered", "P1", pending, at(of(Read{Version: 1, Last: true}, 1), 900, 901))
	f("while drops may be lost", "", write, Window{300 * ms, 500 * ms}, at(of(old, 1), 400, 401))
	f("the own drop, while drops may be lost", "P1", write, Window{300 * ms, 500 * ms}, at(old, 400, 401))
	f("after drops may have been lost", "P2", write, Window{300 * ms, 500 * ms}, at(of(old, 1), 501, 502))
	plain := write
	plain.Row = 1
	f("a plain row", "P2", plain, at(Read{Instance: 1, Row: 1, Version: 1}, 900, 901))
	f("a plain row, where drops may be lost", "", plain, Window{300 * ms, 500 * ms}, at(Read{Instance: 1, Row: 1, Version: 1}, 900, 901))

	f("a version of the future", "P4", write, at(of(new2, 1), 90, 99))
	f("a version that never was", "P4", write, at(of(Read{Version: 3}, 1), 400, 401))
	f("rubbish", "P4", Read{Corrupt: true})
	f("absent, and never was", "P4", Read{Absent: true})
	neg := write
	neg.Row = 2
	f("absent, before", "", neg, at(Read{Row: 2, Instance: 1, Absent: true}, 90, 91))
	f("absent, after the bound", "P2", neg, at(Read{Row: 2, Instance: 1, Absent: true}, 400, 401))
	f("there, though that version is absent", "P4", at(Read{Row: 2, Version: 1}, 1, 2))

	f("an error", "P5", Read{Err: errors.New("boom")})
	f("a read as slow as two loads and two operations", "", at(Read{Version: 1}, 1000, 1280))
	f("a slow read", "P5", at(Read{Version: 1}, 1000, 1281))
	f("a slow read on a slow machine", "", at(Read{Version: 1}, 1000, 1680), Stall{At: 1001 * ms, Late: 20 * ms}, Stall{At: 1450 * ms, Late: 30 * ms})
	f("a slow read on a machine that is not that slow", "P5", at(Read{Version: 1}, 1000, 1681), Stall{At: 1001 * ms, Late: 20 * ms}, Stall{At: 1450 * ms, Late: 30 * ms})
	f("a slow read between stalls", "P5", at(Read{Version: 1}, 1000, 1300), Stall{At: 999 * ms, Late: 50 * ms}, Stall{At: 1400 * ms, Late: 50 * ms})
	f("leases that nobody gave back", "", at(Read{Version: 1}, 1000, 2080), Trouble{At: 200 * ms})
	f("longer than these leases", "P5", at(Read{Version: 1}, 1000, 2081), Trouble{At: 200 * ms})
	f("leases, and nobody had a reason to keep them", "P5", at(Read{Version: 1}, 1000, 1300), Trouble{At: 199 * ms})
	f("while Redis doesn't answer", "", at(Read{Version: 1}, 1000, 2080), []Window{{1100 * ms, 1200 * ms}})
	f("noticed", "P3", Violation{P3, "too many loads"})

	f("one load after the other", "", load(0, 1000, 1010), load(1, 1010, 1020))
	f("two loads in the fleet", "P3", load(0, 1000, 1010), load(1, 1009, 1020))
	f("two loads of an instance", "P3", load(0, 1000, 1010), load(0, 1009, 1020))
	f("the lease ran out", "", load(0, 1000, 1500), load(1, 1401, 1420))
	brief := write
	brief.Row = 3
	late := load(1, 105, 120)
	f("a drop in between", "", brief, load(0, 100, 110), late)
	clears := write
	clears.Wide = true
	f("a drop of another cache", "P3", clears, load(0, 100, 110), late)
	early := Write{Instance: 0, Row: 3, Version: 2, Drop: "key", Began: 50 * ms, Committed: 50 * ms, Asked: 51 * ms, Returned: 60 * ms, Acked: 60 * ms}
	f("a drop long before", "P3", early, load(0, 2000, 2010), load(1, 2005, 2020))
	f("a drop long before, on a slow machine", "", early, load(0, 2000, 2010), load(1, 2005, 2020), Stall{At: 1900 * ms, Late: 200 * ms})
	f("the store failed", "", load(0, 1000, 1010), load(1, 1009, 1020), Trouble{Instance: 2, At: 950 * ms})
	f("the store failed, and one instance loads twice", "P3", load(0, 1000, 1010), load(0, 1009, 1020), Trouble{At: 950 * ms})
	away := []Window{{900 * ms, 1008 * ms}}
	f("two loads in the fleet, while Redis doesn't answer", "", away, load(0, 1000, 1010), load(1, 1009, 1020))
	f("two loads of an instance, while Redis doesn't answer", "P3", away, load(0, 1000, 1010), load(0, 1009, 1020))
	f("late word of another's fill", "", away, load(1, 900, 950), load(0, 1000, 1010), load(0, 1009, 1020))
	f("late word of another's fill, after the store failed", "", load(1, 900, 950), load(0, 1000, 1010), load(0, 1009, 1020), Trouble{At: 950 * ms})
	f("one instance lost its view", "", load(0, 1000, 1010), load(0, 1009, 1020), Trouble{At: 950 * ms, Reset: true})
}

func TestDraw(t *testing.T) {
	for _, topo := range Topologies {
		for _, f := range Faults {
			if !slices.Contains(f.On, topo.Name) {
				continue
			}
			for seed := range uint64(40) {
				s := Draw(seed, topo.Name, f.Name, 3*time.Second, 4)
				if s.String() != Draw(seed, topo.Name, f.Name, 3*time.Second, 4).String() {
					t.Fatalf("%s/%s: seed %d makes two scripts", topo.Name, f.Name, seed)
				}
				gone := false
				for _, step := range s {
					is := FaultNamed(step.Fault)
					switch {
					case step.Fault == "mix", f.Name != "mix" && f.Once == nil && step.Fault != f.Name && step.Fault != "none":
						t.Errorf("%s/%s, seed %d has %v", topo.Name, f.Name, seed, step)
					case !slices.Contains(is.On, topo.Name):
						t.Errorf("%s can't have %v", topo.Name, step)
					case is.Links != (len(step.On) > 0):
						t.Errorf("%v: want instances for faults of links", step)
					case gone && (step.Fault == "migrate" || step.Fault == "failover"):
						t.Errorf("%s/%s, seed %d: %v with a server gone for good", topo.Name, f.Name, seed, step)
					}
					gone = gone || step.Fault == "failover-kill"
				}
			}
		}
	}
}

func TestShrink(t *testing.T) {
	s := Script{{Fault: "cut"}, {Fault: "kill"}, {Fault: "flush"}, {Fault: "evict"}}
	has := func(s Script, fault string) bool {
		return slices.ContainsFunc(s, func(x Step) bool { return x.Fault == fault })
	}
	f := func(tries int, want string) {
		t.Helper()
		n := 0
		short := Shrink(s, tries, func(s Script) bool { n++; return has(s, "cut") && has(s, "flush") })
		var got []string
		for _, step := range short {
			got = append(got, step.Fault)
		}
		if strings.Join(got, " ") != want || n > tries {
			t.Errorf("%d tries: got %v after %d; want %s", tries, got, n, want)
		}
	}
	f(0, "cut kill flush evict")
	f(1, "cut kill flush")
	f(9, "cut flush")
}
