package codec

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
)

// Errors of [Unpack].
var (
	// ErrPacked is returned for bytes that Pack didn't write.
	ErrPacked = errors.New("codec: corrupt s2 block")

	// ErrTooLarge is returned when the bytes say that they unpack to more than the
	// limit. Nothing was allocated for them.
	ErrTooLarge = errors.New("codec: unpacked size is over the limit")
)

// Pack compresses data with S2 if it is longer than over bytes and that makes it
// smaller. A negative over never compresses.
//
// If packed, out is in the memory of dst (its length doesn't matter, its capacity
// does) or in new memory. If not, out is data itself. dst and data must not overlap.
func Pack(dst, data []byte, over int) (out []byte, packed bool) {
	if over < 0 || len(data) <= over || s2.MaxEncodedLen(len(data)) < 0 {
		return data, false
	}
	out = s2.Encode(dst, data)
	if len(out) >= len(data) {
		return data, false
	}
	return out, true
}

// Unpack returns what Pack compressed, if it has at most limit bytes. A few bytes may
// claim to be gigabytes: the limit is checked before anything is allocated.
//
// The result is in the memory of dst, if its capacity suffices, or in new memory. dst
// and data must not overlap.
func Unpack(dst, data []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %d bytes without a length", ErrPacked, len(data))
	}
	if n > limit {
		return nil, fmt.Errorf("%w: %d bytes; want at most %d", ErrTooLarge, n, limit)
	}
	out, err := s2.Decode(dst, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %d bytes that should unpack to %d: %w", ErrPacked, len(data), n, err)
	}
	return out, nil
}
