package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"

	fastjson2 "github.com/go-json-experiment/json"
	fastjson "github.com/go-json-experiment/json/v1"
)

// JSON returns the codec that writes values with encoding/json: compact, without
// HTML escapes and without a newline at the end. Its name is "json".
//
// It reads them with the implementation of encoding/json that Go 1.27 has, which takes half the time, and leaves
// what that refuses, and types that it would read differently (those with a json.Number in them), to encoding/json itself.
//
// What encoding/json leaves out is lost: unexported fields, and the difference between nil
// and empty where omitempty is set. An UnmarshalJSON method of V must copy
// what it keeps, as its own contract says.
func JSON[V any]() Codec[V] {
	return jsonCodec[V]{slow: differs(reflect.TypeFor[V](), make(map[reflect.Type]bool))}
}

type jsonCodec[V any] struct {
	slow bool // by encoding/json alone
}

var (
	number   = reflect.TypeFor[json.Number]()
	fromJSON = reflect.TypeFor[fastjson2.UnmarshalerFrom]()
)

// differs reports whether values of type t can hold, without an interface in between, what the two
// implementations read in their own ways: json.Number, types with the new methods, and fields with the new options.
func differs(t reflect.Type, seen map[reflect.Type]bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	if t == number || t.Implements(fromJSON) || reflect.PointerTo(t).Implements(fromJSON) {
		return true
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return differs(t.Elem(), seen)
	case reflect.Map:
		return differs(t.Key(), seen) || differs(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			_, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			for o := range strings.SplitSeq(options, ",") {
				if o != "" && o != "omitempty" && o != "omitzero" && o != "string" {
					return true
				}
			}
			if differs(f.Type, seen) {
				return true
			}
		}
	}
	return false
}

func (jsonCodec[V]) Name() string { return "json" }

func (jsonCodec[V]) Append(dst []byte, v V) ([]byte, error) {
	w := jsonWriters.Get().(*jsonWriter)
	w.dst = dst
	err := w.encoder.Encode(v)
	out := w.dst
	w.dst = nil
	jsonWriters.Put(w)
	if err != nil {
		return dst, fmt.Errorf("codec: encode %v as json: %w", reflect.TypeFor[V](), err)
	}
	return bytes.TrimSuffix(out, []byte("\n")), nil
}

func (c jsonCodec[V]) Decode(data []byte) (V, error) {
	var v V
	err := c.DecodeInto(&v, data)
	return v, err
}

// DecodeInto implements [IntoDecoder].
func (c jsonCodec[V]) DecodeInto(v *V, data []byte) error {
	if !c.slow && fastjson.Unmarshal(data, v) == nil {
		return nil
	}
	var zero V
	*v = zero // a part may have been filled
	if err := json.Unmarshal(data, v); err != nil {
		*v = zero
		return fmt.Errorf("codec: decode %v from %d bytes of json: %w", reflect.TypeFor[V](), len(data), err)
	}
	return nil
}

// A jsonWriter appends what its encoder writes to dst. An encoder writes a value
// as a whole or not at all, and is dear to make.
type jsonWriter struct {
	dst     []byte
	encoder *json.Encoder
}

func (w *jsonWriter) Write(p []byte) (int, error) {
	w.dst = append(w.dst, p...)
	return len(p), nil
}

var jsonWriters = sync.Pool{New: func() any {
	w := new(jsonWriter)
	w.encoder = json.NewEncoder(w)
	w.encoder.SetEscapeHTML(false)
	return w
}}
