package codec

import (
	"encoding/json"
	"math/big"
	"net/netip"
	"testing"
	"time"
)

// Entries in Redis carry these numbers: when one changes, every entry of the type is
// a miss after the next deployment. Change them only with the description's version.
func TestFingerprintIsStable(t *testing.T) {
	f := func(got, want uint64) {
		t.Helper()
		if got != want {
			t.Errorf("fingerprint %#016x; want %#016x", got, want)
		}
	}
	f(Fingerprint[string](), 0x67894870170b0cdb)
	f(Fingerprint[account](), 0x868f230286c9c575)
	f(Fingerprint[tree](), 0x613a1a973f52f783)
}

type account struct {
	ID      int64             `json:"id"`
	Name    string            `json:"name,omitempty"`
	Created time.Time         `json:"created"`
	Addr    netip.Addr        `json:"addr"`
	Limits  map[string]uint32 `json:"limits"`
	Friends []*account        `json:"friends"`
	Matrix  [3][3]float32
	secret  string
}

type tree struct {
	Left, Right *tree
	Leaves      leaves
}

type leaves []leaves

type (
	point       struct{ X, Y int }
	otherPoint  struct{ Y, X int }
	hidden      struct{ X, Y, z int }
	embedding   struct{ embedded }
	embedded    struct{ X, Y int }
	embeddedPtr struct {
		*embedded
		Y int
	}
	loop     struct{ *loop2 }
	loop2    struct{ *loop }
	stamped  struct{ time.Time }
	enum     int
	textEnum int
)

func (textEnum) MarshalText() ([]byte, error) { return nil, nil }
func (*otherPoint) Area() int                 { return 0 }

func TestFingerprintIgnores(t *testing.T) {
	f := func(what string, a, b uint64) {
		t.Helper()
		if a != b {
			t.Errorf("%s changes the fingerprint", what)
		}
	}
	f("the order of fields, a type's name, a method", Fingerprint[point](), Fingerprint[otherPoint]())
	f("having no name", Fingerprint[point](), Fingerprint[struct{ X, Y int }]())
	f("an unexported field", Fingerprint[point](), Fingerprint[hidden]())
	f("embedding", Fingerprint[point](), Fingerprint[embedding]())
	f("a field tagged -", Fingerprint[point](), Fingerprint[struct {
		X, Y int
		Z    int `json:"-"`
	}]())
	f("a Go name under a tag", Fingerprint[struct {
		A int `json:"X"`
		B int `json:"Y"`
	}](), Fingerprint[point]())
	f("omitempty", Fingerprint[struct {
		X int `json:",omitempty"`
		Y int `json:"Y,omitzero"`
	}](), Fingerprint[point]())
	f("another tag", Fingerprint[struct {
		X int `db:"x"`
		Y int
	}](), Fingerprint[point]())
	f("a named kind", Fingerprint[enum](), Fingerprint[int]())
	f("a named slice", Fingerprint[struct{ A, B sliceOfInts }](), Fingerprint[struct{ A, B []int }]())
}

type sliceOfInts []int

func TestFingerprintTellsApart(t *testing.T) {
	all := map[uint64]string{}
	f := func(what string, h uint64) {
		t.Helper()
		if other, ok := all[h]; ok {
			t.Errorf("%s has the fingerprint of %s", what, other)
		}
		all[h] = what
	}
	f("point", Fingerprint[point]())
	f("*point", Fingerprint[*point]())
	f("[]point", Fingerprint[[]point]())
	f("[2]point", Fingerprint[[2]point]())
	f("[3]point", Fingerprint[[3]point]())
	f("map[string]point", Fingerprint[map[string]point]())
	f("map[int]point", Fingerprint[map[int]point]())
	f("any", Fingerprint[any]())
	f("int", Fingerprint[int]())
	f("int64", Fingerprint[int64]())
	f("uint64", Fingerprint[uint64]())
	f("float64", Fingerprint[float64]())
	f("string", Fingerprint[string]())
	f("[]byte", Fingerprint[[]byte]())
	f("bool", Fingerprint[bool]())
	f("json.Number", Fingerprint[json.Number]())
	f("json.RawMessage", Fingerprint[json.RawMessage]())
	f("time.Time", Fingerprint[time.Time]())
	f("big.Int", Fingerprint[big.Int]())
	f("textEnum", Fingerprint[textEnum]())
	f("stamped", Fingerprint[stamped]())
	f("tree", Fingerprint[tree]())
	f("leaves", Fingerprint[leaves]())
	f("loop", Fingerprint[loop]())
	f("a field less", Fingerprint[struct{ X int }]())
	f("a field more", Fingerprint[struct{ X, Y, Z int }]())
	f("another type", Fingerprint[struct {
		X int
		Y int32
	}]())
	f("another name", Fingerprint[struct{ X, Z int }]())
	f("a tag", Fingerprint[struct {
		X int
		Y int `json:"y"`
	}]())
	f("string option", Fingerprint[struct {
		X int
		Y int `json:",string"`
	}]())
	f("a field that hides", Fingerprint[embeddedPtr]())
	f("a name with punctuation", Fingerprint[struct {
		X int `json:"X int;Y"`
	}]())
	f("a field named -", Fingerprint[struct {
		X int
		Y int `json:"-,"`
	}]())
	f("exchanged types", Fingerprint[struct {
		A point
		B struct{ Z int }
	}]())
	f("exchanged types, other way", Fingerprint[struct {
		B point
		A struct{ Z int }
	}]())
}
