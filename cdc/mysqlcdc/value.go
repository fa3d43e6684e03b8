package mysqlcdc

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// text appends the text of a value as go-mysql gives it; false if it isn't known.
func (c *column) text(b []byte, v any) ([]byte, bool) {
	switch c.form {
	case integer, middleInt:
		n, bits, ok := signed(v)
		switch {
		case !ok:
			return b, false
		case !c.unsigned:
			return strconv.AppendInt(b, n, 10), true
		case c.form == middleInt:
			bits = 24
		}
		return strconv.AppendUint(b, uint64(n)&(1<<(bits-1)<<1-1), 10), true
	case year:
		n, _, ok := signed(v)
		if ok && n == 0 {
			return append(b, "0000"...), true
		}
		return strconv.AppendInt(b, n, 10), ok
	case float:
		f, ok := v.(float32)
		return appendFloat(b, float64(f), 32), ok
	case double:
		f, ok := v.(float64)
		return appendFloat(b, f, 64), ok
	case bit:
		n, _, ok := signed(v)
		return strconv.AppendUint(b, uint64(n), 10), ok
	case decimal, moment:
		s, ok := v.(string)
		return append(b, s...), ok
	case clock:
		s, ok := v.(string)
		b = append(b, s...)
		if c.digits > 0 && !strings.Contains(s, ".") {
			b = append(append(b, '.'), "000000"[:min(c.digits, 6)]...)
		}
		return b, ok
	case enum:
		n, _, ok := signed(v)
		switch {
		case !ok || n < 0 || n > int64(len(c.labels)):
			return b, false
		case n == 0:
			return b, true // what MySQL makes of a value that isn't one
		}
		return append(b, c.labels[n-1]...), c.labels[n-1] != ""
	case set:
		n, _, ok := signed(v)
		if !ok || len(c.labels) < 64 && uint64(n)>>len(c.labels) != 0 {
			return b, false
		}
		from := len(b)
		for i, l := range c.labels {
			if uint64(n)>>i&1 == 0 {
				continue
			}
			if len(b) > from {
				b = append(b, ',')
			}
			if b = append(b, l...); l == "" {
				return b, false
			}
		}
		return b, true
	case letters:
		s, ok := raw(v)
		if !ok {
			return b, false
		}
		return inUTF8(b, c.charset, s)
	case document:
		s, ok := raw(v) // a change of a part (*replication.JsonDiff) isn't
		if ok && s == "" {
			s = "null"
		}
		return append(b, s...), ok
	case octets:
		s, ok := raw(v)
		return hex.AppendEncode(b, []byte(s)), ok
	case fixed, uuid, inet4, inet6:
		s, ok := raw(v)
		if !ok || len(s) > c.width {
			return b, false
		}
		// Zeros at the end aren't in the log.
		s += strings.Repeat("\x00", c.width-len(s))
		switch c.form {
		case uuid:
			return appendUUID(b, s)
		case inet4, inet6:
			a, ok := netip.AddrFromSlice([]byte(s))
			if !ok || a.Is4In6() || a.Is6() && strings.HasPrefix(s, strings.Repeat("\x00", 12)) && s[12:14] != "\x00\x00" {
				return b, false // the server prints these in a form of its own
			}
			return a.AppendTo(b), true
		}
		return hex.AppendEncode(b, []byte(s)), true
	}
	return b, false
}

// signed returns an integer, and its size in bits.
func signed(v any) (n int64, bits int, ok bool) {
	switch v := v.(type) {
	case int8:
		return int64(v), 8, true
	case int16:
		return int64(v), 16, true
	case int32:
		return int64(v), 32, true
	case int64:
		return v, 64, true
	case int:
		return int64(v), 64, true
	}
	return 0, 64, false
}

func raw(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case []byte:
		return string(v), true
	}
	return "", false
}

// appendFloat writes the fewest digits that are that number.
func appendFloat(b []byte, f float64, bits int) []byte {
	if a := max(f, -f); a == 0 || a >= 1e-15 && a < 1e15 {
		return strconv.AppendFloat(b, f, 'f', -1, bits)
	}
	return append(b, strings.Replace(strconv.FormatFloat(f, 'e', -1, bits), "e+", "e", 1)...)
}

// appendUUID writes a UUID as MariaDB keeps it: those of versions 1 to 5 with their parts turned around, so that they sort by time.
//
//	kept    node (6), clock (2), time high (2), time mid (2), time low (4)
//	printed low-mid-high-clock-node
//
// Others, those of versions 6 and later and those of another variant, are kept as printed (MariaDB 10.11.5 and later).
func appendUUID(b []byte, s string) ([]byte, bool) {
	if len(s) != 16 {
		return b, false
	}
	if turned(s) {
		s = s[12:16] + s[10:12] + s[8:10] + s[6:8] + s[0:6]
	}
	h := hex.EncodeToString([]byte(s))
	return append(b, h[:8]+"-"+h[8:12]+"-"+h[12:16]+"-"+h[16:20]+"-"+h[20:]...), true
}

// inUTF8 appends a text of a character set in UTF-8; false if it isn't known how. Those that have ASCII in it are known as far as they are ASCII.
func inUTF8(b []byte, charset, s string) ([]byte, bool) {
	switch charset {
	case "utf8mb4", "utf8mb3", "utf8", "ascii":
		return append(b, s...), utf8.ValidString(s)
	case "binary":
		return append(b, s...), true
	case "latin1":
		for _, c := range []byte(s) {
			if c >= 0x80 && c < 0xa0 {
				b = utf8.AppendRune(b, windows1252[c-0x80])
			} else {
				b = utf8.AppendRune(b, rune(c))
			}
		}
		return b, true
	case "ucs2", "utf16", "utf16le":
		if len(s)%2 != 0 {
			return b, false
		}
		units := make([]uint16, len(s)/2)
		for i := range units {
			if units[i] = binary.BigEndian.Uint16([]byte(s[2*i:])); charset == "utf16le" {
				units[i] = units[i]>>8 | units[i]<<8
			}
		}
		for _, r := range utf16.Decode(units) {
			if r == utf8.RuneError {
				return b, false
			}
			b = utf8.AppendRune(b, r)
		}
		return b, true
	case "utf32":
		if len(s)%4 != 0 {
			return b, false
		}
		for i := 0; i < len(s); i += 4 {
			r := rune(binary.BigEndian.Uint32([]byte(s[i:])))
			if !utf8.ValidRune(r) {
				return b, false
			}
			b = utf8.AppendRune(b, r)
		}
		return b, true
	case "", "swe7", "filename":
		return b, false // of which not even the ASCII part is ASCII
	}
	for i := range len(s) {
		if s[i] >= 0x80 || s[i] == '\\' || s[i] == '~' { // those two differ in sjis
			return b, false
		}
	}
	return append(b, s...), true
}

// windows1252 are the letters of 0x80 to 0x9f; MySQL's latin1 is this, with the five that it lacks as they are.
var windows1252 = [32]rune{
	'€', 0x81, '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', 0x8d, 'Ž', 0x8f,
	0x90, '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', 0x9d, 'ž', 'Ÿ',
}

// turned reports whether a UUID is kept with its parts turned around: then the variant is in byte 6, and the version, 1 to 5, in byte 8.
func turned(s string) bool { return s[6]&0x80 != 0 && s[8] >= 0x10 && s[8] < 0x60 }
