package keys

import (
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestTag(t *testing.T) {
	n, id := 12, userID(7)
	f := func(want string, parts ...any) {
		t.Helper()
		got := Tag(parts...)
		if got != want {
			t.Errorf("Tag(%q) = %q; want %q", parts, got, want)
		}
		if want != "" {
			if err := ValidTag(got); err != nil {
				t.Errorf("Tag(%q) is not valid: %v", parts, err)
			}
		}
	}
	f("")
	f("users", "users")
	f("users!", "users!")
	f("users:12", "users", 12)
	f("users:12", "users", "12")
	f("users:12", "users", &n)
	f("users:7", "users", id)
	f("users:7", "users", &id)
	f("users:-3:true:x%3Ay", "users", int64(-3), true, "x:y")
	f("app%3Ausers:1", "app:users", 1)
	f("users:", "users", "")
	f("users:", "users", nil)
	f("users:", "users", (*int)(nil))
	f("users::x", "users", "", "x")
	f("users:255", "users", uint8(255))
	f("users:0001abff", "users", digest{0, 1, 0xab, 0xff})
	f("users:0000000000000000-0000000000000001", "users", uuid{15: 1})
	f("net:%3A%3A1", "net", netip.MustParseAddr("::1"))
	f("n:123", "n", big.NewInt(123))
	f("p:<x>", "p", ptrText{"x"})
	f("p:acme:1", "p", pair{"acme", 1})
	f("day:1970-01-01T00%3A00%3A00Z", "day", time.Unix(0, 0).UTC())
	f("price:1.5", "price", 1.5)
	f("list:[a%20b]", "list", []string{"a", "b"})
}

func TestCoarse(t *testing.T) {
	f := func(tag, want string) {
		t.Helper()
		if got := Coarse(tag); got != want {
			t.Errorf("Coarse(%q) = %q; want %q", tag, got, want)
		}
	}
	f("users:12", "users!")
	f("users:12:posts", "users!")
	f("users:", "users!")
	f("users:12!", "users!")
	f("users", "users!")
	f("users!", "")
	f("users!:12", "users!!")
	f(Tag("app:users", 1), "app%3Ausers!")
}

func TestValidTag(t *testing.T) {
	f := func(tag string, valid bool) {
		t.Helper()
		if err := ValidTag(tag); (err == nil) != valid {
			t.Errorf("ValidTag(%q) = %v; want valid %v", tag, err, valid)
		}
	}
	f("users:12", true)
	f("users!", true)
	f("\xff{größe}%", true)
	f(strings.Repeat("x", 512), true)
	f(strings.Repeat("x", 513), false)
	f("", false)
	for _, bad := range []string{" ", "\n", "\t", "\x00", "\x7f"} {
		f("us"+bad+"ers", false)
	}
}
