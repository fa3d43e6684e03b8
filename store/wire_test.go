package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"
)

// golden are the records whose bytes are in testdata/records.
var golden = map[string]*Record{
	"lease": {Kind: KindLease, ID: idFrom(0)},
	"value": {
		Kind:    KindValue,
		ID:      idFrom(0),
		Created: noon,
		Fresh:   noon.Add(time.Hour),
		Stale:   noon.Add(time.Hour + 5*time.Minute),
		Error:   noon.Add(25 * time.Hour),
		Cost:    12500 * time.Microsecond,
		Schema:  0x0123456789abcdef,
		Codec:   "json",
		Deps:    []Dep{{Part: 0, Epoch: 0x1122334455667788, Read: 1772366400000000, Tags: []string{"user!", "users:12"}}},
		Payload: []byte(`{"id":12,"name":"Ada"}`),
	},
	"negative": {
		Kind:    KindNegative,
		ID:      idFrom(0xf0),
		Created: noon,
		Fresh:   noon.Add(30 * time.Second),
		Cost:    math.MaxUint32 * time.Microsecond,
	},
	"packed": {
		Kind:    KindValue,
		ID:      ID(bytes.Repeat([]byte{0xa5}, 16)),
		Created: noon,
		Fresh:   noon.Add(time.Second),
		Stale:   noon.Add(time.Second),
		Schema:  math.MaxUint64,
		Codec:   "raw",
		Packed:  PackS2,
		Deps: []Dep{
			{Part: 3, Epoch: 1, Read: 1<<53 - 1},
			{Part: 300, Epoch: math.MaxUint64, Read: 0, Tags: []string{"größe:1"}},
		},
		Payload: []byte("\xc8\x01\x0cabcd\x11\x04\x15\x00\xb4"),
	},
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123e6, time.UTC)

func idFrom(first byte) (id ID) {
	for i := range id {
		id[i] = first + byte(i)
	}
	return id
}

// vector reads one file of testdata/records: hex, and comments after #.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "records", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	image, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return image
}

func TestGoldenRecords(t *testing.T) {
	for name, want := range golden {
		image := vector(t, name)
		if got := AppendRecord(nil, want); !bytes.Equal(got, image) {
			t.Errorf("%s encodes to\n%x; want\n%x", name, got, image)
		}
		got, err := DecodeRecord(image)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		requireSame(t, got, want)
	}
}

func TestDocHasTheGoldenRecords(t *testing.T) {
	doc, err := os.ReadFile("../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob("testdata/records/*.hex")
	if len(files) != len(golden) {
		t.Errorf("testdata/records has %d vectors; want %d", len(files), len(golden))
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(doc, []byte("```\n"+string(text)+"```")) {
			t.Errorf("docs/wire.md lacks the text of %s", file)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	var reused Record
	rapid.Check(t, func(t *rapid.T) {
		want := anyRecord().Draw(t, "record")
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "dst")
		image := AppendRecord(bytes.Clone(prefix), want)
		if !bytes.HasPrefix(image, prefix) {
			t.Fatal("AppendRecord changed what was in dst")
		}
		image = image[len(prefix):]
		if len(image) != size(want) {
			t.Fatalf("%d bytes; size says %d", len(image), size(want))
		}
		got, err := DecodeRecord(image)
		if err != nil {
			t.Fatal(err)
		}
		requireSame(t, got, want)
		if err := DecodeInto(&reused, image); err != nil {
			t.Fatal(err)
		}
		requireSame(t, &reused, want)
	})
}

// anyRecord draws records in the precision that the wire keeps.
func anyRecord() *rapid.Generator[*Record] {
	return rapid.Custom(func(t *rapid.T) *Record {
		when := func(what string) time.Time {
			ms := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Min(1)).Draw(t, what)
			if ms == 0 {
				return time.Time{}
			}
			return time.UnixMilli(ms)
		}
		dep := rapid.Custom(func(t *rapid.T) Dep {
			return Dep{
				Part:  rapid.IntRange(0, maxPart).Draw(t, "part"),
				Epoch: rapid.Uint64().Draw(t, "epoch"),
				Read:  Pos(rapid.Uint64Max(maxPos).Draw(t, "read")),
				Tags:  rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "tags"),
			}
		})
		r := &Record{
			Kind: rapid.SampledFrom([]Kind{KindValue, KindNegative, KindLease}).Draw(t, "kind"),
			ID:   ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
		}
		if r.Kind == KindLease {
			return r
		}
		r.Created, r.Fresh, r.Stale, r.Error = when("created"), when("fresh"), when("stale"), when("error")
		r.Cost = time.Duration(rapid.Uint32().Draw(t, "cost")) * time.Microsecond
		r.Schema = rapid.Uint64().Draw(t, "schema")
		r.Codec = rapid.String().Draw(t, "codec")
		r.Packed = rapid.SampledFrom([]Packing{PackNone, PackS2}).Draw(t, "packed")
		r.Deps = rapid.SliceOfN(dep, 0, 3).Draw(t, "deps")
		r.Payload = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload")
		return r
	})
}

func requireSame(t interface {
	Helper()
	Fatalf(string, ...any)
}, got, want *Record) {
	t.Helper()
	if g, w := normal(got), normal(want); !reflect.DeepEqual(g, w) {
		t.Fatalf("got  %+v\nwant %+v", g, w)
	}
}

// normal makes equal records deeply equal: nil for empty, UTC for every zone.
func normal(r *Record) Record {
	n := *r
	for _, t := range []*time.Time{&n.Created, &n.Fresh, &n.Stale, &n.Error} {
		*t = t.UTC()
	}
	n.Deps, n.Payload = nil, append([]byte(nil), r.Payload...)
	for _, d := range r.Deps {
		d.Tags = append([]string(nil), d.Tags...)
		n.Deps = append(n.Deps, d)
	}
	return n
}

func TestEncodeLimits(t *testing.T) {
	f := func(change func(*Record), check func(*Record) bool) {
		t.Helper()
		r := *golden["value"]
		change(&r)
		got, err := DecodeRecord(AppendRecord(nil, &r))
		if err != nil {
			t.Error(err)
		} else if !check(got) {
			t.Errorf("decoded to %+v", got)
		}
	}
	fresh := func(at time.Time) func(*Record) { return func(r *Record) { r.Fresh = at } }
	cost := func(d time.Duration) func(*Record) { return func(r *Record) { r.Cost = d } }

	f(fresh(time.Time{}), func(r *Record) bool { return r.Fresh.IsZero() })
	f(fresh(time.Unix(0, 0)), func(r *Record) bool { return r.Fresh.UnixMilli() == 1 }) // not "none"
	f(fresh(time.Unix(-5, 0)), func(r *Record) bool { return r.Fresh.UnixMilli() == 1 })
	f(fresh(time.Unix(5, 1999999)), func(r *Record) bool { return r.Fresh.UnixMilli() == 5001 })
	f(cost(-time.Second), func(r *Record) bool { return r.Cost == 0 })
	f(cost(1999*time.Nanosecond), func(r *Record) bool { return r.Cost == time.Microsecond })
	f(cost(72*time.Minute), func(r *Record) bool { return r.Cost == math.MaxUint32*time.Microsecond })
}

// refusal is the error that an image must be refused with: the one of its first wrong field.
func refusal(image []byte) error {
	switch {
	case len(image) < 4 || !bytes.HasPrefix(image, []byte("\xf5FR")):
		return ErrNotRecord
	case image[3] != 1:
		return ErrVersion
	}
	return ErrCorrupt
}

func requireRefused(t *testing.T, image []byte, what string, at int) {
	t.Helper()
	r, err := DecodeRecord(image)
	if want := refusal(image); !errors.Is(err, want) || r != nil {
		t.Fatalf("%s %d: got %+v, %v; want %v", what, at, r, err, want)
	}
}

func TestEveryCutIsRefused(t *testing.T) {
	for name := range golden {
		image := vector(t, name)
		for n := range image {
			requireRefused(t, image[:n:n], name+" cut to", n)
		}
	}
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	for name, r := range golden {
		image := vector(t, name)
		for bit := range 8 * len(image) {
			if r.Kind == KindLease && bit/8 >= idOffset {
				continue // a lease is its id: the flip makes another lease
			}
			image[bit/8] ^= 1 << (bit % 8)
			requireRefused(t, image, name+" with flipped bit", bit)
			image[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestEveryExtensionIsRefused(t *testing.T) {
	for name := range golden {
		image := vector(t, name)
		for _, more := range [][]byte{{0}, {0xff}, make([]byte, 8), image} {
			requireRefused(t, append(bytes.Clone(image), more...), name+" extended by", len(more))
		}
	}
}

// What is wrong with these is not the hash: somebody made them so.
func TestWrongWithARightHash(t *testing.T) {
	seal := func(b []byte) []byte { return binary.LittleEndian.AppendUint64(b, xxhash.Sum64(b)) }
	fixed := vector(t, "negative")[:fixedSize]
	dep := func(part, read, tags string) string { return "\x00\x01" + part + "epoch..." + read + tags + "\x00" }
	const zero = "\x00\x00\x00\x00\x00\x00\x00\x00"

	f := func(want, tail string) {
		t.Helper()
		image := seal(append(bytes.Clone(fixed), tail...))
		_, err := DecodeRecord(image)
		if want == "" && err != nil {
			t.Errorf("refused with %v; want it decoded", err)
		}
		if want != "" && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v; want a corrupt record and %q", err, want)
		}
	}
	f("", "\x00\x00\x00")
	f("", dep("\x00", zero, "\x00"))
	f("3 bytes after the payload", "\x00\x00\x00abc")
	f("want the shortest form", "\x80\x00\x00\x00")
	f("codec length before byte 69 is 5; want at most the 2 left", "\x05ab")
	f("codec length at byte 68 is no varint", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00")
	f("number of dependencies at byte 69 is 1; want at most 0", "\x00\x01\x00")
	f("number of dependencies at byte 69 is 9223372036854775807", "\x00\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00")
	f("partition at byte 70 is 2147483648; want at most 2147483647", dep("\x80\x80\x80\x80\x08", zero, "\x00"))
	f("read position at byte 79 is 9007199254740992; want at most 9007199254740991", dep("\x00", "\x00\x00\x00\x00\x00\x00\x20\x00", "\x00"))
	f("number of tags at byte 87 is 3; want at most 2", dep("\x00", zero, "\x03"))
	f("tag length before byte 89 is 9; want at most the 1 left", dep("\x00", zero, "\x01\x09"))
	f("payload length at byte 71 is no varint", "\x01a\x00")
	f("payload length before byte 71 is 4; want at most the 2 left", "\x00\x00\x04ab")

	late := vector(t, "negative")
	late[39] = 0x80
	if _, err := DecodeRecord(seal(late[:len(late)-sumSize])); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a time of 2^63 ms: %v; want ErrCorrupt", err)
	}
	// 4 GiB of dependencies in 80 bytes must not be allocated before they are counted.
	var r Record
	huge := seal(append(bytes.Clone(fixed), "\x00\xff\xff\xff\xff\x0f\x00"...))
	if err := DecodeInto(&r, huge); err == nil || cap(r.Deps) != 0 {
		t.Errorf("an unchecked length led to %d dependencies (%v)", cap(r.Deps), err)
	}
}

func TestDecodedStringsAreCopies(t *testing.T) {
	image := vector(t, "value")
	r, err := DecodeRecord(image)
	if err != nil {
		t.Fatal(err)
	}
	clear(image)
	if r.Codec != "json" || r.Deps[0].Tags[1] != "users:12" {
		t.Errorf("strings changed with the image: %q, %q", r.Codec, r.Deps[0].Tags)
	}
	if r.Payload[0] != 0 || cap(r.Payload) != len(r.Payload) {
		t.Error("the payload must be a part of the image and must not reach beyond its end")
	}
}

func TestDecodeAllocations(t *testing.T) {
	image := vector(t, "value")
	var r Record
	var written []byte
	f := func(want float64, decode func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, decode); n > want {
			t.Errorf("%v allocations; want at most %v", n, want)
		}
	}
	f(4, func() { DecodeRecord(image) })   // record, dependencies, tags, one string for all names
	f(1, func() { DecodeInto(&r, image) }) // the string
	f(0, func() { written = AppendRecord(written[:0], &r) })
	f(0, func() { IsLease(image) })
}

func TestLeaseImage(t *testing.T) {
	id := idFrom(0)
	if got, want := LeaseImage(id), vector(t, "lease"); !bytes.Equal(got, want) {
		t.Errorf("LeaseImage = %x; want %x", got, want)
	}
	f := func(image []byte, wantID, wantLease bool) {
		t.Helper()
		_, ok := RecordID(image)
		if ok != wantID || IsLease(image) != wantLease {
			t.Errorf("%x: id %v, lease %v; want %v, %v", image, ok, IsLease(image), wantID, wantLease)
		}
	}
	f(vector(t, "lease"), true, true)
	f(vector(t, "value"), true, false)
	f(vector(t, "lease")[:23], false, false)
	f(nil, false, false)
	f([]byte("\xf5FR\x02L...................."), false, false) // of another version
}

func FuzzRecord(f *testing.F) {
	for name := range golden {
		image := vector(f, name)
		f.Add(image)
		if len(image) > leaseSize {
			f.Add(image[:len(image)-sumSize])
		}
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		check := func(image []byte) {
			r, err := DecodeRecord(image)
			if err != nil {
				if !errors.Is(err, refusal(image)) {
					t.Fatalf("refused with %v; want %v", err, refusal(image))
				}
				return
			}
			if again := AppendRecord(nil, r); !bytes.Equal(again, image) {
				t.Fatalf("%x decodes to %+v, which encodes to %x", image, r, again)
			}
		}
		check(image)
		// No fuzzer guesses a hash; with the right one it gets to the fields.
		check(binary.LittleEndian.AppendUint64(bytes.Clone(image), xxhash.Sum64(image)))
	})
}

func BenchmarkRecord(b *testing.B) {
	r := *golden["value"]
	r.Payload = bytes.Repeat([]byte("x"), 512)
	image := AppendRecord(nil, &r)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			image = AppendRecord(image[:0], &r)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DecodeRecord(image); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decodeInto", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := DecodeInto(&r, image); err != nil {
				b.Fatal(err)
			}
		}
	})
}
