package store

import "crypto/sha1"

// An Identity tells two states of a key apart: the 16 bytes of a record's id, or the
// 40 hex digits of the SHA-1 of anything that is not a record of this version.
// The empty Identity is an absent key.
type Identity string

// IdentityOf returns the identity of what a key holds.
func IdentityOf(image []byte) Identity {
	if len(image) == 0 {
		return ""
	}
	if id, ok := RecordID(image); ok {
		return Identity(id[:])
	}
	return hashIdentity(sha1.Sum(image))
}

func hashIdentity(sum [sha1.Size]byte) Identity {
	const digits = "0123456789abcdef"
	var b [2 * sha1.Size]byte
	for i, c := range sum {
		b[2*i], b[2*i+1] = digits[c>>4], digits[c&15]
	}
	return Identity(b[:])
}
