package model

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// limit is far above what any variant needs: reaching it is a failure.
const limit = 60_000_000

// TestVariants explores each variant. With -v it prints the counterexamples; FRESHET_MODEL=large adds
// the variants that take minutes.
func TestVariants(t *testing.T) {
	text, err := os.ReadFile("../../docs/freshness.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range Variants() {
		if v.Large && os.Getenv("FRESHET_MODEL") != "large" {
			continue // explored by make model
		}
		t.Run(v.World+"/"+strings.ReplaceAll(v.Name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			r := v.Run(limit)
			switch {
			case r.Cut:
				t.Fatalf("not explored to the end after %d states", r.States)
			case v.Want == Keeps && r.Broken != "":
				t.Fatalf("a promise is broken:\n%v", r)
			case v.Want != Keeps && r.Broken == "":
				t.Fatalf("no counterexample in %d states; want one", r.States)
			}
			t.Logf("%s: %s: %d states, %d steps\n%v", v.World, v.Name, r.States, len(r.Trace), r)
			if row := fmt.Sprintf("| %s | %s | %d |", v.World, v.Name, len(r.Trace)); v.Want != Keeps && !strings.Contains(string(text), row) {
				t.Errorf("docs/freshness.md has no row %q", row)
			}
		})
	}
}

// TestExplore: a counter that must not reach three, by steps of one or two.
func TestExplore(t *testing.T) {
	f := func(m counter, limit int, broken string, states, steps int, cut bool) {
		t.Helper()
		r := explore(m, limit)
		if r.Broken != broken || r.States != states || len(r.Trace) != steps || r.Cut != cut {
			t.Errorf("explored %+v: %+v; want %q, %d states, %d steps, cut: %v", m, r, broken, states, steps, cut)
		}
	}
	f(counter{top: 200, bad: 201}, 1000, "", 201, 0, false)
	f(counter{top: 200, bad: 201}, 100, "", 101, 0, true)
	f(counter{top: 200, bad: 7}, 1000, "too far", 8, 4, false) // 2, 2, 2 and 1
}

type counter struct{ top, bad uint8 }

func (counter) start() uint8 { return 0 }

func (c counter) next(s uint8, step func(actor, what string, to uint8)) {
	for by := uint8(1); by <= 2; by++ {
		if s+by <= c.top {
			step("it", "counts", s+by)
		}
	}
}

func (c counter) broken(s uint8) string {
	if s == c.bad {
		return "too far"
	}
	return ""
}
