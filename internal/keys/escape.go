package keys

import "strings"

// unsafeByte are the bytes that appendEscaped may escape.
var unsafeByte = func() (t [256]bool) {
	for c := range byte(' ' + 1) {
		t[c] = true
	}
	for _, c := range []byte("%{}:\x7f") {
		t[c] = true
	}
	return t
}()

// escape escapes s and keeps its colons.
func escape(s string) string {
	for i := range len(s) {
		if unsafeByte[s[i]] && s[i] != ':' {
			return string(appendEscaped(make([]byte, 0, len(s)+16), s, ":"))
		}
	}
	return s
}

// Escapes reports whether s has bytes that are escaped in a key or tag of several parts.
func Escapes[S string | []byte](s S) bool {
	for i := range len(s) {
		if unsafeByte[s[i]] {
			return true
		}
	}
	return false
}

// AppendEscaped appends one part of a key or tag, and escapes what must be, but the bytes in keep.
func AppendEscaped[S string | []byte](dst []byte, s S, keep string) []byte {
	return appendEscaped(dst, s, keep)
}

// appendEscaped appends s and escapes its unsafe bytes, but those in keep.
func appendEscaped[S string | []byte](dst []byte, s S, keep string) []byte {
	const digits = "0123456789ABCDEF"
	start := 0
	for i := range len(s) {
		c := s[i]
		if !unsafeByte[c] || strings.IndexByte(keep, c) >= 0 {
			continue
		}
		dst = append(dst, s[start:i]...)
		dst = append(dst, '%', digits[c>>4], digits[c&15])
		start = i + 1
	}
	return append(dst, s[start:]...)
}
