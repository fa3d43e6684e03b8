package model

import (
	"os"
	"strings"
	"testing"
)

// limit is far above what any variant needs: reaching it is a failure.
const limit = 60_000_000

// TestVariants explores each variant. With -v it prints the counterexamples; FRESHET_MODEL=large adds
// the variants that take minutes.
func TestVariants(t *testing.T) {
	for _, v := range Variants() {
		t.Run(v.World+"/"+strings.ReplaceAll(v.Name, " ", "_"), func(t *testing.T) {
			if v.Large && os.Getenv("FRESHET_MODEL") != "large" {
				t.Skip("explored by make model")
			}
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
			t.Logf("%d states, %d steps\n%v", r.States, len(r.Trace), r)
		})
	}
}
