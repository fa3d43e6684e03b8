package codec

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

type user struct {
	ID    int64             `json:"id"`
	Name  string            `json:"name,omitempty"`
	Score float64           `json:"score"`
	Tags  []string          `json:"tags"`
	Props map[string]*user  `json:"props"`
	Raw   []byte            `json:"raw"`
	Other map[string]string `json:"-"`
}

func TestJSONBytes(t *testing.T) {
	f := func(v any, want string) {
		t.Helper()
		got, err := JSON[any]().Append([]byte("> "), v)
		if err != nil || string(got) != "> "+want {
			t.Errorf("Append(%v) = %q, %v; want %q", v, got, err, "> "+want)
		}
	}
	f(user{ID: 7, Name: "Ada"}, `{"id":7,"name":"Ada","score":0,"tags":null,"props":null,"raw":null}`)
	f("<a href=\"x\">&</a>\n", `"<a href=\"x\">&</a>\n"`)
	f(nil, "null")
	f("", `""`)
}

func TestJSONErrors(t *testing.T) {
	dst := []byte("kept")
	got, err := JSON[float64]().Append(dst, math.NaN())
	if err == nil || string(got) != "kept" || &got[0] != &dst[0] {
		t.Errorf("Append(NaN) = %q, %v; want dst as it was and an error", got, err)
	}
	if !strings.Contains(err.Error(), "encode float64 as json") {
		t.Errorf("error %q does not name the type", err)
	}
	for _, data := range []string{"", "{", `{"id":"x"}`, `{"id":1} x`, `{"id":1}{}`, "\xff"} {
		v, err := JSON[user]().Decode([]byte(data))
		if err == nil || !reflect.DeepEqual(v, user{}) {
			t.Errorf("Decode(%q) = %+v, %v; want the zero value and an error", data, v, err)
		}
	}
	// A failed encoding must not break the encoders that are shared.
	if got, err := JSON[int]().Append(nil, 1); err != nil || string(got) != "1" {
		t.Errorf("after an error Append(1) = %q, %v", got, err)
	}
}

func TestRaw(t *testing.T) {
	data := []byte{0, 0xff, '\n'}
	b, err := Bytes().Decode(data)
	if err != nil || !bytes.Equal(b, data) {
		t.Fatalf("Bytes decodes %q, %v", b, err)
	}
	s, _ := String().Decode(data)
	clear(data)
	if b[1] != 0xff || s != "\x00\xff\n" {
		t.Errorf("the values %q and %q changed with the data", b, s)
	}
	if b, err := Bytes().Decode(nil); b == nil || len(b) != 0 || err != nil {
		t.Errorf("Bytes decodes nothing to %v, %v; want an empty slice", b, err)
	}
	if Bytes().Name() != "raw" || String().Name() != "raw" || JSON[int]().Name() != "json" {
		t.Error("a codec has another name; stored entries know it by the old one")
	}
}

func TestRoundTrip(t *testing.T) {
	check(t, "json", JSON[user](), rapid.Custom(func(t *rapid.T) user {
		return user{
			ID:    rapid.Int64().Draw(t, "id"),
			Name:  rapid.String().Draw(t, "name"),
			Score: rapid.Float64().Draw(t, "score"),
			Tags:  rapid.SliceOf(rapid.String()).Draw(t, "tags"),
			Props: rapid.MapOf(rapid.String(), rapid.Just(&user{Tags: []string{}})).Draw(t, "props"),
			Raw:   rapid.SliceOf(rapid.Byte()).Draw(t, "raw"),
		}
	}))
	check(t, "bytes", Bytes(), rapid.SliceOf(rapid.Byte()))
	check(t, "string", String(), rapid.String())
}

// check: what was appended to any dst decodes to the value, and dst is still there.
func check[V any](t *testing.T, name string, c Codec[V], values *rapid.Generator[V]) {
	t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
		v := values.Draw(t, "value")
		dst := rapid.SliceOf(rapid.Byte()).Draw(t, "dst")
		out, err := c.Append(bytes.Clone(dst), v)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(out, dst) {
			t.Fatalf("%q does not begin with dst %q", out, dst)
		}
		data := out[len(dst):]
		got, err := c.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		clear(out) // the value must not be a part of it
		if !reflect.DeepEqual(got, v) {
			t.Fatalf("got %+v; want %+v", got, v)
		}
	}))
}

func TestJSONConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := JSON[[]int]()
			want := bytes.Repeat([]byte{'0' + byte(i)}, 1)
			for range 200 {
				got, err := c.Append(nil, []int{i})
				if err != nil || !bytes.Equal(got, append(append([]byte("["), want...), ']')) {
					t.Errorf("goroutine %d got %q, %v", i, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"id":1,"name":"Ada","props":{"x":{"score":1e300}},"raw":"AAE="}`))
	f.Add([]byte("{\"name\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := JSON[user]()
		v, err := c.Decode(data)
		if err != nil {
			return
		}
		again, err := c.Append(nil, v)
		if err != nil {
			t.Fatalf("%+v was decoded but not encoded: %v", v, err)
		}
		w, err := c.Decode(again)
		if err != nil {
			t.Fatalf("%q: %v", again, err)
		}
		if !reflect.DeepEqual(v, w) {
			t.Fatalf("%+v came back as %+v", v, w)
		}
	})
}

func BenchmarkJSON(b *testing.B) {
	c, v := JSON[user](), user{ID: 7, Name: "Ada", Tags: []string{"a", "b"}}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = c.Append(dst[:0], v)
	}
}
