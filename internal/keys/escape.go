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

// appendEscaped appends s and escapes its unsafe bytes, but those in keep.
func appendEscaped(dst []byte, s string, keep string) []byte {
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
