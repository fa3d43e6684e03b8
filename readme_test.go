//go:build unix

package freshet_test

import (
	"testing"

	"github.com/freshetdev/freshet/internal/readme"
)

// TestReadme runs every block of the README: what it shows must work as it stands. How to
// say what a block needs is in the package comment of internal/readme.
func TestReadme(t *testing.T) {
	if err := readme.Check(t.Context(), "README.md", readme.Options{Root: ".", Log: t.Logf}); err != nil {
		t.Error(err)
	}
}
