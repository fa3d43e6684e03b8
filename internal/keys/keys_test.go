package keys

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type (
	sku     string
	userID  int64
	flag    bool
	enum    int // has a text, and is an integer all the same
	uuid    [16]byte
	digest  [4]byte
	badText struct{ s string }
	ptrText struct{ s string } // MarshalText has a pointer receiver
)

func (enum) MarshalText() ([]byte, error)       { return []byte("always the same"), nil }
func (u uuid) MarshalText() ([]byte, error)     { return fmt.Appendf(nil, "%x-%x", u[:8], u[8:]), nil }
func (badText) MarshalText() ([]byte, error)    { return nil, errors.New("no text today") }
func (p *ptrText) MarshalText() ([]byte, error) { return []byte("<" + p.s + ">"), nil }

type pair struct {
	Tenant string
	ID     int
}

type nested struct {
	Pair pair
	_    int
	Addr netip.Addr
	hash digest
	on   flag
}

func build[K any](t testing.TB, name string) func(K) string {
	t.Helper()
	b, err := Builder[K](name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestKeys(t *testing.T) {
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("key %q; want %q", got, want)
		}
	}
	f(build[string](t, "user")("ada"), "user:ada")
	f(build[string](t, "user")(""), "user:")
	f(build[string](t, "user")("12:profile"), "user:12:profile")
	f(build[string](t, "user")("a b{c}%\n\x7fé"), "user:a%20b%7Bc%7D%25%0A%7Fé")
	f(build[string](t, "app:user")("1"), "app:user:1")
	f(build[sku](t, "sku")("a:b c"), "sku:a:b%20c")
	f(build[int](t, "user")(-12), "user:-12")
	f(build[int64](t, "user")(1<<62), "user:4611686018427387904")
	f(build[int32](t, "user")(7), "user:7")
	f(build[int8](t, "user")(-128), "user:-128")
	f(build[userID](t, "user")(7), "user:7")
	f(build[uint8](t, "user")(255), "user:255")
	f(build[uint64](t, "user")(1<<63), "user:9223372036854775808")
	f(build[bool](t, "on")(true), "on:true")
	f(build[flag](t, "on")(false), "on:false")
	f(build[enum](t, "e")(3), "e:3")
	f(build[digest](t, "d")(digest{0, 1, 0xab, 0xff}), "d:0001abff")
	f(build[[0]byte](t, "d")([0]byte{}), "d:")
	f(build[uuid](t, "u")(uuid{15: 1}), "u:0000000000000000-0000000000000001")
	f(build[netip.Addr](t, "ip")(netip.MustParseAddr("::1")), "ip:::1")
	f(build[ptrText](t, "p")(ptrText{"x y"}), "p:<x%20y>")
	f(build[time.Time](t, "at")(time.Unix(0, 0).UTC()), "at:1970-01-01T00:00:00Z")
	f(build[struct{ time.Time }](t, "at")(struct{ time.Time }{time.Unix(0, 0).UTC()}), "at:1970-01-01T00:00:00Z")

	f(build[struct{}](t, "all")(struct{}{}), "all:")
	f(build[pair](t, "user")(pair{"acme", 12}), "user:acme:12")
	f(build[pair](t, "user")(pair{"a:b", 0}), "user:a%3Ab:0")
	f(build[struct{ A, B string }](t, "s")(struct{ A, B string }{"", "x"}), "s::x")
	f(build[struct{ A, B string }](t, "s")(struct{ A, B string }{"x", ""}), "s:x:")
	f(build[nested](t, "n")(nested{
		Pair: pair{"acme", 1},
		Addr: netip.MustParseAddr("::1"),
		hash: digest{1, 2, 3, 4},
		on:   true,
	}), "n:acme:1:%3A%3A1:01020304:true")
}

func TestUnfitTypes(t *testing.T) {
	f := func(err error, wants ...string) {
		t.Helper()
		for _, want := range append(wants, "Config.Key") {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v; want %q in it", err, want)
			}
		}
	}
	f(unfit[float64](), "float64")
	f(unfit[*int](), "*int")
	f(unfit[*ptrText](), "*keys.ptrText") // a text, but compared by address
	f(unfit[any](), "interface")
	f(unfit[fmt.Stringer](), "fmt.Stringer")
	f(unfit[[]byte](), "[]uint8")
	f(unfit[map[string]int](), "map")
	f(unfit[complex128](), "complex128")
	f(unfit[[2]int](), "[2]int")
	f(unfit[struct {
		ID    int
		Where struct{ Lat float64 }
	}](), ".Where.Lat of type float64")
	f(unfit[struct{ at time.Time }](), ".at of type time.Time is unexported")
	f(unfit[struct{ p struct{ T time.Time } }](), ".p.T of type time.Time is unexported")
	f(unfit[struct {
		time.Time
		Tenant int
	}](), "embedded field")
}

func unfit[K any]() error {
	_, err := Builder[K]("x")
	return err
}

func TestNames(t *testing.T) {
	f := func(name string, valid bool) {
		t.Helper()
		if _, err := Builder[int](name); (err == nil) != valid {
			t.Errorf("name %q: error %v; want valid %v", name, err, valid)
		}
	}
	f("user", true)
	f("app:user", true)
	f("größe", true)
	f("a-b_c.d/e", true)
	f("", false)
	f("user:", false)
	for _, bad := range []string{" ", "\n", "\x00", "\x7f", "{", "}", "!", "%"} {
		f("us"+bad+"er", false)
	}
}

func TestAKeyWithoutTextPanics(t *testing.T) {
	b := build[badText](t, "x")
	defer func() {
		if p := fmt.Sprint(recover()); !strings.Contains(p, "keys.badText") || !strings.Contains(p, "no text today") {
			t.Errorf("panic %q; want the type and the cause", p)
		}
	}()
	b(badText{})
}

// The fields can be read back from the key, so no two values share one.
func TestStructKeysCanBeReadBack(t *testing.T) {
	type key struct {
		A string
		N int16
		B struct{ X, Y string }
		H digest
	}
	b := build[key](t, "k")
	rapid.Check(t, func(t *rapid.T) {
		var k key
		k.A, k.B.X, k.B.Y = anyString().Draw(t, "A"), anyString().Draw(t, "X"), anyString().Draw(t, "Y")
		k.N = rapid.Int16().Draw(t, "N")
		k.H = digest(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "H"))
		got := b(k)
		parts := strings.Split(strings.TrimPrefix(got, "k:"), ":")
		if len(parts) != 5 {
			t.Fatalf("%q has %d parts; want 5", got, len(parts))
		}
		for i, want := range []string{k.A, fmt.Sprint(k.N), k.B.X, k.B.Y, fmt.Sprintf("%x", k.H[:])} {
			if back, err := url.PathUnescape(parts[i]); err != nil || back != want {
				t.Fatalf("part %d of %q is %q, %v; want %q", i, got, back, err, want)
			}
		}
		requireClean(t, got)
	})
}

func TestStringKeysCanBeReadBack(t *testing.T) {
	b := build[string](t, "k")
	rapid.Check(t, func(t *rapid.T) {
		k := anyString().Draw(t, "key")
		got := b(k)
		if back, err := url.PathUnescape(strings.TrimPrefix(got, "k:")); err != nil || back != k {
			t.Fatalf("%q reads back as %q, %v; want %q", got, back, err, k)
		}
		requireClean(t, got)
	})
}

// anyString draws strings that are rich in what is escaped.
func anyString() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		pieces := rapid.SliceOf(rapid.OneOf(
			rapid.SampledFrom([]string{":", "%", "%3A", "%%", "{", "}", " ", "\n", "\x00", "\x7f", "\xff", "!", "a", "3A"}),
			rapid.String(),
		)).Draw(t, "pieces")
		return strings.Join(pieces, "")
	})
}

func requireClean(t *rapid.T, key string) {
	t.Helper()
	if i := strings.IndexFunc(key, func(r rune) bool { return r <= ' ' || r == '{' || r == '}' || r == 0x7f }); i >= 0 {
		t.Fatalf("key %q has %q", key, key[i])
	}
}

func FuzzDistinct(f *testing.F) {
	f.Add("a", "b:c", "a:b", "c")
	f.Add("", "x", "x", "")
	f.Add("%3A", "", ":", "")
	type two struct{ A, B string }
	pairs, plain := build[two](f, "k"), build[string](f, "k")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		same := a == c && b == d
		if k, l := pairs(two{a, b}), pairs(two{c, d}); (k == l) != same {
			t.Errorf("%q, %q and %q, %q have keys %q and %q", a, b, c, d, k, l)
		}
		if k, l := Tag(a, b), Tag(c, d); (k == l) != same {
			t.Errorf("%q, %q and %q, %q have tags %q and %q", a, b, c, d, k, l)
		}
		if k, l := plain(a), plain(c); (k == l) != (a == c) {
			t.Errorf("%q and %q have keys %q and %q", a, c, k, l)
		}
	})
}

func TestKeyAllocations(t *testing.T) {
	f := func(what string, build func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, build); n > 1 {
			t.Errorf("a key of %s takes %v allocations; want one, the string", what, n)
		}
	}
	s, n, id := build[sku](t, "user"), build[int64](t, "user"), build[userID](t, "user")
	f("a string type", func() { s("12345678") })
	f("int64", func() { n(12345678) })
	f("an integer type", func() { id(12345678) })
}

func BenchmarkKey(b *testing.B) {
	run := func(name string, build func() string) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				build()
			}
		})
	}
	s, n, id := build[string](b, "user"), build[int64](b, "user"), build[userID](b, "user")
	p, addr := build[pair](b, "user"), build[netip.Addr](b, "ip")
	ip := netip.MustParseAddr("192.0.2.1")
	run("string", func() string { return s("12345678") })
	run("escaped", func() string { return s("1234 5678") })
	run("int64", func() string { return n(12345678) })
	run("named", func() string { return id(12345678) })
	run("struct", func() string { return p(pair{"acme", 12345678}) })
	run("text", func() string { return addr(ip) })
	run("tag", func() string { return Tag("users", 12345678) })
}
