package torture

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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
