// Package keys builds the string keys and tags that entries are known by.
//
// Different keys have different strings: two users must never share an entry, so what
// can't be told apart reliably is refused when the cache is made. The strings are part of
// the wire format. Other programs drop them, so for plain keys they look as one would
// write them by hand: "user:123".
//
// # Escapes
//
// Percent, braces (they choose the slot in a Redis Cluster), blanks and control
// characters, all of them ASCII, are written as % and two upper-case hex digits. In what has
// several parts the colon is, too, since it joins them. All other bytes stay as they are.
package keys

import (
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Builder returns the function that builds the key of a K: name, a colon, and
//
//	string kinds       the string, escaped, with its colons
//	integer kinds      decimal
//	bool kinds         true or false
//	TextMarshaler      its text, escaped, with its colons
//	[N]byte            hex
//	struct             its fields in order, escaped, joined by colons; fields of structs
//	                   inside it likewise, exported or not, without those named _
//
// A type is taken by the first line that fits, so an integer with a text is
// written as an integer, and a UUID by its text. Different values have different
// keys, as long as a TextMarshaler has different texts for them. That holds within a
// name: key "b:1" of "a" is key "1" of "a:b".
//
// Other types are an error that names the field. The function panics if a TextMarshaler
// fails: any key made up instead could be another's.
func Builder[K any](name string) (func(K) string, error) {
	if err := ValidName(name); err != nil {
		return nil, err
	}
	prefix := name + ":"

	t := reflect.TypeFor[K]()
	switch t.Kind() { // the common kinds are built with a single allocation
	case reflect.String:
		return func(k K) string { return prefix + escape(reflect.ValueOf(k).String()) }, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(k K) string { return decimal(prefix, reflect.ValueOf(k).Int()) }, nil
	}

	appendKey, err := appenderOf(t, ":", t.String(), true)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return func(k K) string {
		var buf [64]byte
		// Through the pointer, methods with a pointer receiver are found.
		return string(appendKey(append(buf[:0], prefix...), reflect.ValueOf(&k).Elem()))
	}, nil
}

// ValidName reports what is wrong with the name of a cache.
func ValidName(name string) error {
	if name == "" {
		return errors.New("keys: the name is empty")
	}
	for i := range len(name) {
		if c := name[i]; c == '!' || c != ':' && unsafeByte[c] {
			return fmt.Errorf("keys: name %q has %q at byte %d; want no blanks, control characters, braces, %% and exclamation marks", name, c, i)
		}
	}
	if strings.HasSuffix(name, ":") {
		return fmt.Errorf("keys: name %q ends with a colon; want it without, since keys add one", name)
	}
	return nil
}

func decimal(prefix string, n int64) string {
	var buf [64]byte
	return string(strconv.AppendInt(append(buf[:0], prefix...), n, 10))
}

// An appender appends the text of a value of one type.
type appender func(dst []byte, v reflect.Value) []byte

// appenderOf returns the appender of t, for addressable values. keep are bytes that stay unescaped:
// the colon, or none in a part of several. path names what is of type t, readable tells
// whether its methods may be called: reflection forbids it behind unexported fields.
func appenderOf(t reflect.Type, keep string, path string, readable bool) (appender, error) {
	switch t.Kind() {
	case reflect.String:
		return func(dst []byte, v reflect.Value) []byte { return appendEscaped(dst, v.String(), keep) }, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(dst []byte, v reflect.Value) []byte { return strconv.AppendInt(dst, v.Int(), 10) }, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return func(dst []byte, v reflect.Value) []byte { return strconv.AppendUint(dst, v.Uint(), 10) }, nil
	case reflect.Bool:
		return func(dst []byte, v reflect.Value) []byte { return strconv.AppendBool(dst, v.Bool()) }, nil
	}

	hasText := reflect.PointerTo(t).Implements(textMarshaler)
	switch {
	case t.Kind() == reflect.Pointer, t.Kind() == reflect.Interface:
		// Even with a text: caches compare them by address or by dynamic type, not by text.
	case hasText && !readable:
		return nil, fmt.Errorf("%s of type %v is unexported, so its MarshalText can't be called: export it or set Config.Key", path, t)
	case hasText && mayBorrowText(t):
		return nil, fmt.Errorf("%s of type %v may have its MarshalText from an embedded field, without the other fields: "+
			"give that field a name or set Config.Key", path, t)
	case hasText:
		return func(dst []byte, v reflect.Value) []byte { return appendText(dst, v, keep) }, nil
	case t.Kind() == reflect.Array && t.Elem().Kind() == reflect.Uint8:
		return appendHex, nil
	case t.Kind() == reflect.Struct:
		return structAppender(t, path, readable)
	}
	return nil, fmt.Errorf("%s of type %v has no text that is surely its own: "+
		"want strings, integers, bools, byte arrays, TextMarshalers or structs of them, or set Config.Key", path, t)
}

// mayBorrowText reports whether a struct may have MarshalText from an embedded field:
//
//	struct { time.Time; Tenant int }
//
// The text is the time alone, and the tenants would share their entries.
func mayBorrowText(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	fields, embedded := 0, false
	for f := range t.Fields() {
		if f.Name != "_" {
			fields++
		}
		if f.Anonymous && (f.Type.Implements(textMarshaler) || reflect.PointerTo(f.Type).Implements(textMarshaler)) {
			embedded = true
		}
	}
	return embedded && fields > 1
}

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

func structAppender(t reflect.Type, path string, readable bool) (appender, error) {
	type part struct {
		field  int
		append appender
	}
	var parts []part
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Name == "_" {
			continue // == ignores it as well
		}
		a, err := appenderOf(f.Type, "", path+"."+f.Name, readable && f.IsExported())
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{i, a})
	}
	return func(dst []byte, v reflect.Value) []byte {
		for i, p := range parts {
			if i > 0 {
				dst = append(dst, ':')
			}
			dst = p.append(dst, v.Field(p.field))
		}
		return dst
	}, nil
}

func appendText(dst []byte, v reflect.Value, keep string) []byte {
	text, err := v.Addr().Interface().(encoding.TextMarshaler).MarshalText()
	if err != nil {
		panic(fmt.Sprintf("keys: MarshalText of a key of type %v: %v", v.Type(), err))
	}
	return appendEscaped(dst, string(text), keep)
}

func appendHex(dst []byte, v reflect.Value) []byte { return hex.AppendEncode(dst, v.Bytes()) }
