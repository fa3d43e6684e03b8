package redisx

import "strings"

// Slots is how many parts the keys of a Cluster are divided into.
const Slots = 16384

// SlotOf is the slot of a key: CRC-16 (XMODEM) of its hash tag if it has one, else of the
// whole of it.
func SlotOf(key string) uint16 {
	if tag := tagOf(key); tag != "" {
		key = tag
	}
	var crc uint16
	for i := range len(key) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^key[i]]
	}
	return crc % Slots
}

// HasTag reports whether only a part of the key, its hash tag, says where it lives.
func HasTag(key string) bool { return tagOf(key) != "" }

// tagOf is what stands between the first '{' and the first '}' after it.
func tagOf(key string) string {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if i := strings.IndexByte(rest, '}'); i > 0 {
			return rest[:i]
		}
	}
	return ""
}

var crcTable = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i) << 8
		for range 8 {
			if c&0x8000 != 0 {
				c = c<<1 ^ 0x1021
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}()
