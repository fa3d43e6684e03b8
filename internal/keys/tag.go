package keys

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// MaxTag is the size of the longest tag: each is a key of its own in Redis, and stands in every
// entry that depends on it.
const MaxTag = 512

// Tag joins parts with colons: Tag("users", 12) is "users:12". The first part is the
// name of a table or of whatever the others belong to. Each part is written as in the key of a
// struct with such a field; a pointer as what it points to, nil as nothing, and
// what has no such form as fmt.Sprint writes it, escaped. Tag panics if a MarshalText fails.
//
// Strings that differ are told apart, values of different types need not be:
// Tag("users", 12) is Tag("users", "12").
func Tag(parts ...any) string {
	var buf [64]byte
	dst := buf[:0]
	for i, part := range parts {
		if i > 0 {
			dst = append(dst, ':')
		}
		switch p := part.(type) {
		case string:
			dst = appendEscaped(dst, p, "")
		case int:
			dst = strconv.AppendInt(dst, int64(p), 10)
		case int64:
			dst = strconv.AppendInt(dst, p, 10)
		default:
			dst = appendPart(dst, part)
		}
	}
	return string(dst)
}

// partAppenders has an appender for each type that was a part of a tag: a program has few.
var partAppenders sync.Map // reflect.Type -> appender

func appendPart(dst []byte, part any) []byte {
	v := reflect.ValueOf(part)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if !v.IsValid() || v.Kind() == reflect.Pointer {
		return dst
	}
	a, ok := partAppenders.Load(v.Type())
	if !ok {
		a, _ = partAppenders.LoadOrStore(v.Type(), partAppender(v.Type()))
	}
	return a.(appender)(dst, v)
}

func partAppender(t reflect.Type) appender {
	a, err := appenderOf(t, "", t.String(), true)
	if err != nil {
		return func(dst []byte, v reflect.Value) []byte {
			return appendEscaped(dst, fmt.Sprint(v.Interface()), "")
		}
	}
	return func(dst []byte, v reflect.Value) []byte {
		if !v.CanAddr() { // appenders ask for it
			c := reflect.New(t).Elem()
			c.Set(v)
			v = c
		}
		return a(dst, v)
	}
}

// Coarse returns the tag of everything that tag belongs to, "users!" for "users:12" and for "users".
// It is empty if tag is such a tag itself.
func Coarse(tag string) string {
	if strings.HasSuffix(tag, "!") && !strings.Contains(tag, ":") {
		return ""
	}
	name, _, _ := strings.Cut(tag, ":")
	return name + "!"
}

// ValidTag reports what is wrong with a tag. Those of Tag can only be empty or too long.
func ValidTag(tag string) error {
	if tag == "" {
		return errors.New("keys: the tag is empty")
	}
	if len(tag) > MaxTag {
		return fmt.Errorf("keys: tag %q... has %d bytes; want at most %d", tag[:64], len(tag), MaxTag)
	}
	for i := range len(tag) {
		if c := tag[i]; c <= ' ' || c == 0x7f {
			return fmt.Errorf("keys: tag %q has %q at byte %d; want no blanks or control characters", tag, c, i)
		}
	}
	return nil
}
