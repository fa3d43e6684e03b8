package profile

import (
	"encoding/json"
	"testing"
	"unsafe"
)

func TestSizes(t *testing.T) {
	f := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %d B; want %d", what, got, want)
		}
	}
	size := func(p Profile) int {
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return len(b)
	}
	f("a profile in memory", int(unsafe.Sizeof(Profile{})), 152)
	f("a profile as JSON", size(Of("user:1", 1)), 211)
	f("a large profile as JSON", size(LargeOf("user:1", 1)), 10018)
}
