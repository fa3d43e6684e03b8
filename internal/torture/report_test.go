package torture

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// TestDocument: docs/faults.md is what the record gives, so it can't go stale when a fault is
// added or renamed. Run make torture to write it.
func TestDocument(t *testing.T) {
	rec, err := ReadRecord(recordFile)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != rec.Document() {
		t.Error("docs/faults.md is not what testdata/faults.json gives; make torture writes it")
	}
	for _, c := range rec.Cells {
		known := slices.ContainsFunc(Faults, func(f Fault) bool { return f.Name == c.Fault && slices.Contains(f.On, c.Topology) })
		if !known {
			t.Errorf("the record has a cell %s/%s, which there isn't", c.Topology, c.Fault)
		}
	}
	for _, topo := range Topologies {
		_, table, ok := strings.Cut(string(text), "\n## "+topo.What+"\n")
		if !ok {
			t.Errorf("docs/faults.md has no %q", topo.What)
		}
		table, _, _ = strings.Cut(table, "\n## ")
		var got, want []string
		for line := range strings.Lines(table) {
			if cells := strings.Split(line, "|"); len(cells) > 2 && !strings.HasPrefix(line, "|--") {
				got = append(got, strings.TrimSuffix(strings.TrimSpace(cells[1]), " *"))
			}
		}
		for _, f := range Faults {
			want = append(want, f.Name)
		}
		if len(got) == 0 || !slices.Equal(got[1:], want) {
			t.Errorf("%s: rows are %v; want %v", topo.What, got, want)
		}
	}
}

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	file, doc := filepath.Join(dir, "r.json"), filepath.Join(dir, "r.md")
	for seed := range uint64(3) {
		rec, err := ReadRecord(file)
		if err != nil {
			t.Fatal(err)
		}
		v := new(Verdict)
		v.Checks[P2] = 1000
		v.Late = time.Duration(seed) * time.Millisecond
		if seed == 2 {
			v.broken(P2, 0, "boom")
		}
		rec.Cell(Sentinel, "stop").Add(7+seed, "2026-01-02", &History{Length: time.Second, TrustBack: 5 * time.Millisecond}, v)
		if err := rec.Write(file, doc); err != nil {
			t.Fatal(err)
		}
	}
	text, _ := os.ReadFile(doc)
	for _, want := range []string{
		"| stop * | 0 | 3,000 **1 broken** | 0 | 0 | 0 | 2.0 | 0.0 | 5.0 | 3s |",
		"**1 violations** in 3,000 checks, 3s of load in 3 rounds, seeds 7 to 9, 2026-01-02 to 2026-01-02",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the document has no %q:\n%s", want, text)
		}
	}
}

// Figures tell of the reads of a round, by when and how they were answered.
func TestFigures(t *testing.T) {
	const ms = time.Millisecond
	rec := new(Record)
	read := func(due, start, end time.Duration, level observe.Level) Read {
		return Read{Due: due * ms, Start: start * ms, End: end * ms, Version: 1, Level: level}
	}
	h := &History{
		Limits: limits, ReadFor: 2 * time.Second, MostLoads: 7, Hit: []Window{{100 * ms, 200 * ms}},
		Failovers: []Failover{{Killed: 110 * ms, Promoted: 150 * ms, Trusted: 180 * ms}},
		Reads: []Read{
			read(40, 50, 51, observe.LevelL1), read(60, 60, 63, observe.LevelL1), read(90, 90, 110, observe.LevelL1),
			read(120, 130, 141, observe.LevelSource), read(150, 150, 152, observe.LevelL1), read(210, 210, 211, observe.LevelL2),
			{Start: 130 * ms, End: 131 * ms, Version: 1, Stale: true, Level: observe.LevelL1}, {Batch: true, Start: 1, End: 900 * ms}, {Last: true, Start: 1, End: 900 * ms},
		},
		Writes: []Write{{Asked: 99 * ms}, {Asked: 100 * ms}, {Asked: 199 * ms}, {Asked: 200 * ms}, {Asked: 150 * ms, Instance: Foreign}},
	}
	broken := new(Verdict)
	broken.broken(P2, 0, "boom")
	rec.Cell(Cluster, "failover-load").Add(1, "2026-01-02", h, broken)
	h.ReadFor, h.Failovers[0].Trusted = time.Second, 160*ms
	h.Reads[0].Err = errors.New("boom")
	for range 2 {
		rec.Cell(Tracking, "long-stop").Add(1, "2026-01-02", h, new(Verdict))
		rec.Cell(Cluster, "failover-load").Add(2, "2026-01-02", h, new(Verdict))
	}
	rec.Cell(Tracking, "stop").Add(1, "2026-01-02", h, new(Verdict))
	text := rec.Document()
	for _, want := range []string{
		"| sentinel | not run | | | | | | | |",
		"| cluster | 3 | 3 | 21 | 2 | 1 | 40.0 | 70.0 | 21.0 |",
		"| from L1, or stale | before | 2 | 3.000 | 3.000 | 3.0 |",
		"| from L1, or stale | during | 2 | 2.000 | 2.000 | 2.0 |",
		"| otherwise | during | 1 | 11.000 | 11.000 | 11.0 |",
		"| otherwise | after | 1 | 1.000 | 1.000 | 1.0 |",
		"Errors: 2 in 14 reads. Loads at once on an instance: 7 of 8 allowed (MaxLoads). Drops asked for meanwhile: 2 in the last round",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the document has no %q:\n%s", want, text)
		}
	}
	if rec.Cell(Tracking, "stop").Figures != nil {
		t.Error("a fault without a round of its own has figures")
	}
}
