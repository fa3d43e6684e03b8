package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPackOnlyWhatShrinks(t *testing.T) {
	text := []byte(strings.Repeat("abcd", 50))
	noise := make([]byte, 200)
	for i := range noise {
		noise[i] = byte(i)
	}
	f := func(data []byte, over int, want bool) {
		t.Helper()
		out, packed := Pack(nil, data, over)
		if packed != want {
			t.Fatalf("%d bytes over %d: packed %v; want %v", len(data), over, packed, want)
		}
		if !packed && len(data) > 0 && &out[0] != &data[0] {
			t.Error("what was not packed is not data itself")
		}
		if packed && len(out) >= len(data) {
			t.Errorf("packed %d bytes to %d", len(data), len(out))
		}
	}
	f(text, 0, true)
	f(text, 199, true)
	f(text, 200, false)
	f(text, -1, false)
	f(noise, 0, false)
	f([]byte("ab"), 0, false)
	f(nil, 0, false)
}

// The bytes are in docs/wire.md: a record holds them.
func TestUnpackOfTheGoldenBlock(t *testing.T) {
	got, err := Unpack(nil, []byte("\xc8\x01\x0cabcd\x11\x04\x15\x00\xb4"), 200)
	if want := strings.Repeat("abcd", 50); err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestUnpackRefuses(t *testing.T) {
	packed, _ := Pack(nil, bytes.Repeat([]byte("abcd"), 50), 0)
	f := func(data []byte, limit int, want error) {
		t.Helper()
		got, err := Unpack(nil, data, limit)
		if !errors.Is(err, want) || got != nil {
			t.Errorf("%x: got %d bytes, %v; want %v", data, len(got), err, want)
		}
	}
	f(packed, 199, ErrTooLarge)
	f(packed, 0, ErrTooLarge)
	f(binary.AppendUvarint(nil, math.MaxUint32), 1<<20, ErrTooLarge) // a bomb: 4 GiB in 5 bytes
	f(binary.AppendUvarint(nil, math.MaxUint64), math.MaxInt, ErrPacked)
	f(nil, 100, ErrPacked)
	f(packed[:len(packed)-1], 200, ErrPacked)
	f(append(bytes.Clone(packed), 0), 200, ErrPacked)
}

func TestPackUsesItsMemory(t *testing.T) {
	data := bytes.Repeat([]byte("abcd"), 50)
	dst, back := make([]byte, 0, 1024), make([]byte, 0, 1024)
	n := testing.AllocsPerRun(100, func() {
		out, _ := Pack(dst, data, 0)
		if _, err := Unpack(back, out, 200); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations; want none", n)
	}
}

func TestPackRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "piece")
		data := bytes.Repeat(piece, rapid.IntRange(0, 200).Draw(t, "times"))
		before := bytes.Clone(data)
		dst := make([]byte, rapid.IntRange(0, 9000).Draw(t, "dst"))
		out, packed := Pack(dst, data, rapid.IntRange(-1, 100).Draw(t, "over"))
		if packed {
			var err error
			if out, err = Unpack(nil, out, len(data)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(out, before) || !bytes.Equal(data, before) {
			t.Fatalf("packed %v: got %x; want %x", packed, out, before)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("\xc8\x01\x0cabcd\x11\x04\x15\x00\xb4"), 200)
	f.Add([]byte("\xff\xff\xff\xff\x0f"), 100)
	f.Fuzz(func(t *testing.T, data []byte, limit int) {
		limit = min(limit, 1<<20)
		out, err := Unpack(nil, data, limit)
		switch {
		case err != nil && !errors.Is(err, ErrPacked) && !errors.Is(err, ErrTooLarge):
			t.Fatalf("error %v is neither ErrPacked nor ErrTooLarge", err)
		case len(out) > max(limit, 0):
			t.Fatalf("%d bytes; the limit is %d", len(out), limit)
		}
	})
}
