package codec

import (
	"cmp"
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Fingerprint returns a hash of how V looks in JSON. Values of a type are stored
// with it, and read back only by a program whose type has the same one. It is the same in
// every process, build and architecture.
//
// It changes with
//
//   - the name that a field has in JSON, its type, and the tag option "string",
//   - a field added or removed,
//   - a kind: int to int64, T to *T, [3]T to []T, map[string]T to map[int]T,
//   - the package path or name of a type with its own MarshalJSON, UnmarshalJSON,
//     MarshalText or UnmarshalText, on itself or its pointer.
//
// It doesn't change with
//
//   - the order of fields, or their Go names where a tag names them,
//   - unexported fields and those tagged "-",
//   - the name and package of other types, and their methods,
//   - fields moved into an embedded struct whose fields JSON treats as its own,
//   - the options omitempty and omitzero, which only matter to the writer,
//   - what such a method or a custom codec does: that needs a new type or codec name.
//
// A struct type used twice and two equal ones used once each may differ.
// Fingerprint walks over the type by reflection, so call it once and keep the result.
func Fingerprint[V any]() uint64 {
	p := printer{seen: make(map[reflect.Type]int), open: make(map[reflect.Type]int)}
	p.text = append(p.text, "1 "...) // the version of this description
	p.describe(reflect.TypeFor[V]())
	return xxhash.Sum64(p.text)
}

// A printer writes the description of a type that is hashed. A struct is written
// where it is met first and is a number afterwards: so recursion ends, and a type of many
// structs that mention each other takes no longer than its size.
type printer struct {
	text []byte
	seen map[reflect.Type]int // structs: their numbers
	open map[reflect.Type]int // other named types that are being described: how deep
}

func (p *printer) describe(t reflect.Type) {
	switch {
	case t == reflect.TypeFor[json.Number]():
		p.add("number")
		return
	case isCustom(t):
		p.add("custom ", fullName(t))
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		p.describeStruct(t)
	case reflect.Pointer:
		p.describeNested(t, "*")
	case reflect.Slice:
		p.describeNested(t, "[]")
	case reflect.Array:
		p.describeNested(t, "[", strconv.Itoa(t.Len()), "]")
	case reflect.Map:
		p.describeNested(t, "map ")
	case reflect.Interface:
		p.add("any") // its methods are nothing that JSON knows of
	default:
		p.add(t.Kind().String())
	}
}

// describeNested describes a type made of others. Such a type can be recursive
// without any struct: type Tree []Tree. Only named ones can.
func (p *printer) describeNested(t reflect.Type, parts ...string) {
	if t.Name() != "" {
		if n, ok := p.open[t]; ok {
			p.add("^", strconv.Itoa(n))
			return
		}
		p.open[t] = len(p.open)
		defer delete(p.open, t)
	}
	p.add(parts...)
	if t.Kind() == reflect.Map {
		p.describe(t.Key())
		p.add(" ")
	}
	p.describe(t.Elem())
}

func (p *printer) describeStruct(t reflect.Type) {
	if n, ok := p.seen[t]; ok {
		p.add("#", strconv.Itoa(n))
		return
	}
	p.seen[t] = len(p.seen)
	p.add("{")
	for _, f := range fieldsOf(t) {
		p.add(strconv.Quote(f.name), " ")
		if f.quoted {
			p.add("string ")
		}
		p.describe(f.typ)
		p.add(";")
	}
	p.add("}")
}

func (p *printer) add(parts ...string) {
	for _, s := range parts {
		p.text = append(p.text, s...)
	}
}

type field struct {
	name   string // in JSON
	typ    reflect.Type
	depth  int // of embedding
	quoted bool
}

// fieldsOf returns what encoding/json takes for the fields of t, those of embedded structs
// included, by name. It keeps fields that hide one another; the order tells them apart.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	inside := make(map[reflect.Type]bool) // the embedded structs we are in
	var collect func(t reflect.Type, depth int)
	collect = func(t reflect.Type, depth int) {
		if inside[t] {
			return
		}
		inside[t] = true
		for f := range t.Fields() {
			tag := f.Tag.Get("json")
			if tag == "-" {
				continue
			}
			name, options, _ := strings.Cut(tag, ",")
			if f.Anonymous && name == "" {
				embedded := f.Type
				if embedded.Kind() == reflect.Pointer {
					embedded = embedded.Elem()
				}
				if embedded.Kind() == reflect.Struct { // even an unexported one: its fields may be exported
					collect(embedded, depth+1)
					continue
				}
			}
			if !f.IsExported() {
				continue
			}
			fields = append(fields, field{
				name:   cmp.Or(name, f.Name),
				typ:    f.Type,
				depth:  depth,
				quoted: slices.Contains(strings.Split(options, ","), "string"),
			})
		}
		delete(inside, t)
	}
	collect(t, 0)
	slices.SortStableFunc(fields, func(a, b field) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.depth, b.depth))
	})
	return fields
}

var customs = [...]reflect.Type{
	reflect.TypeFor[json.Marshaler](),
	reflect.TypeFor[json.Unmarshaler](),
	reflect.TypeFor[encoding.TextMarshaler](),
	reflect.TypeFor[encoding.TextUnmarshaler](),
}

// isCustom reports whether t, or a pointer to it, has a say in its JSON.
func isCustom(t reflect.Type) bool {
	if t.Kind() == reflect.Interface {
		return false
	}
	if t.Kind() == reflect.Pointer && t.Name() == "" {
		return false // its element will say so
	}
	for _, c := range customs {
		if t.Implements(c) || reflect.PointerTo(t).Implements(c) {
			return true
		}
	}
	return false
}

// fullName is the package path and name of t. A struct that has its methods from an
// embedded field may have no name.
func fullName(t reflect.Type) string {
	if t.Name() == "" {
		return t.String()
	}
	return t.PkgPath() + "." + t.Name()
}
