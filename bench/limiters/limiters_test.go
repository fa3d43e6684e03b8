package limiters

import (
	"os"
	"testing"
)

// TestScript: the yardstick runs the script that redislimit runs.
func TestScript(t *testing.T) {
	theirs, err := os.ReadFile("../../limit/redislimit/lua/gcra.lua")
	if err != nil {
		t.Fatal(err)
	}
	if string(theirs) != gcra {
		t.Error("gcra.lua differs from that of redislimit; copy it again")
	}
}
