package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
)

// JSON returns the codec that writes values with encoding/json: compact, without
// HTML escapes and without a newline at the end. Its name is "json".
//
// What encoding/json leaves out is lost: unexported fields, and the difference between nil
// and empty where omitempty is set. An UnmarshalJSON method of V must copy
// what it keeps, as its own contract says.
func JSON[V any]() Codec[V] { return jsonCodec[V]{} }

type jsonCodec[V any] struct{}

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

func (jsonCodec[V]) Decode(data []byte) (V, error) {
	var v V
	if err := json.Unmarshal(data, &v); err != nil {
		var zero V // Unmarshal may have filled a part
		return zero, fmt.Errorf("codec: decode %v from %d bytes of json: %w", reflect.TypeFor[V](), len(data), err)
	}
	return v, nil
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
