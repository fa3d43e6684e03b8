package store

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
)

// The layout is in the comment of [Record] and, with test vectors, in docs/wire.md.

const (
	fixedSize = 68
	sumSize   = 8
	minSize   = fixedSize + 3 + sumSize // empty codec name, no dependencies, empty payload
	minDep    = 18                      // partition 0, no tags

	maxPart = math.MaxInt32 // fits an int everywhere
	maxPos  = 1<<53 - 1     // exact as a float64, which is what Lua has
)

// AppendRecord appends the bytes of r to dst. Of a lease it writes only the ID.
//
// Times are cut to milliseconds and are at least the first one of 1970; the zero
// Time is written as 0. Cost is cut to microseconds and to 71 minutes. AppendRecord doesn't
// check r: a kind, packing, partition or position out of range is written as it
// is, and DecodeRecord refuses it.
func AppendRecord(dst []byte, r *Record) []byte {
	start := len(dst)
	dst = slices.Grow(dst, size(r))
	if r.Kind == KindLease {
		dst = dst[:start+leaseSize]
		putHeader(dst[start:], KindLease, PackNone, r.ID)
		return dst
	}

	dst = dst[:start+fixedSize]
	b := dst[start:]
	putHeader(b, r.Kind, r.Packed, r.ID)
	le := binary.LittleEndian
	le.PutUint64(b[24:], millis(r.Created))
	le.PutUint64(b[32:], millis(r.Fresh))
	le.PutUint64(b[40:], millis(r.Stale))
	le.PutUint64(b[48:], millis(r.Error))
	le.PutUint32(b[56:], uint32(min(max(r.Cost.Microseconds(), 0), math.MaxUint32)))
	le.PutUint64(b[60:], r.Schema)

	dst = appendString(dst, r.Codec)
	dst = binary.AppendUvarint(dst, uint64(len(r.Deps)))
	for i := range r.Deps {
		d := &r.Deps[i]
		dst = binary.AppendUvarint(dst, uint64(d.Part))
		dst = le.AppendUint64(dst, d.Epoch)
		dst = le.AppendUint64(dst, uint64(d.Read))
		dst = binary.AppendUvarint(dst, uint64(len(d.Tags)))
		for _, tag := range d.Tags {
			dst = appendString(dst, tag)
		}
	}
	dst = appendString(dst, r.Payload)
	return le.AppendUint64(dst, xxhash.Sum64(dst[start:]))
}

// DecodeRecord decodes what a key holds. It accepts exactly what AppendRecord writes of
// a valid Record: of all other bytes, be they cut, changed or extended, the error says what came
// and what was wanted.
//
// Payload is a part of image. The strings are copies.
func DecodeRecord(image []byte) (*Record, error) {
	r := new(Record)
	if err := DecodeInto(r, image); err != nil {
		return nil, err
	}
	return r, nil
}

// DecodeInto is DecodeRecord into r. It overwrites the memory of r.Deps and of the Tags in it,
// so nobody else may hold them. After an error r is of no use but for another DecodeInto.
func DecodeInto(r *Record, image []byte) error {
	if err := checkHeader(image); err != nil {
		return err
	}
	*r = Record{
		Kind:   Kind(image[4]),
		Packed: Packing(image[5]),
		ID:     ID(image[idOffset:]),
		Deps:   r.Deps[:0],
	}
	if r.Kind == KindLease {
		return nil
	}
	body, err := checkSum(image)
	if err != nil {
		return err
	}

	le := binary.LittleEndian
	for i, t := range [...]*time.Time{&r.Created, &r.Fresh, &r.Stale, &r.Error} {
		at := 24 + 8*i
		ms := le.Uint64(body[at:])
		if ms > math.MaxInt64 {
			return fmt.Errorf("%w: time at byte %d is %#x; want less than 2^63", ErrCorrupt, at, ms)
		}
		if ms != 0 {
			*t = time.UnixMilli(int64(ms))
		}
	}
	r.Cost = time.Duration(le.Uint32(body[56:])) * time.Microsecond
	r.Schema = le.Uint64(body[60:])

	// The names are walked over twice: once to check them and to find their end, once
	// to cut them out of one string. That string is a copy, since a tag is kept for longer
	// than the entry and must not keep its payload in memory.
	c := cursor{body: body, at: fixedSize}
	c.skipNames()
	names := cursor{body: body, at: fixedSize}
	end := c.at
	r.Payload = c.bytes("payload length")
	if c.err != nil {
		return c.err
	}
	if c.at != len(body) {
		return fmt.Errorf("%w: %d bytes after the payload; want none", ErrCorrupt, len(body)-c.at)
	}
	names.readNames(r, string(body[fixedSize:end]))
	return nil
}

// checkHeader checks the first 24 bytes, and that a lease ends there.
func checkHeader(image []byte) error {
	if len(image) < 4 || image[0] != 0xF5 || image[1] != 'F' || image[2] != 'R' {
		return fmt.Errorf("%w: %d bytes begin with %x; want f54652 and a version", ErrNotRecord, len(image), image[:min(len(image), 3)])
	}
	if image[3] != recordVersion {
		return fmt.Errorf("%w: %d; want %d", ErrVersion, image[3], recordVersion)
	}
	if len(image) < leaseSize {
		return fmt.Errorf("%w: %d bytes; want at least %d", ErrCorrupt, len(image), leaseSize)
	}
	kind, packed := Kind(image[4]), Packing(image[5])
	switch {
	case kind != KindValue && kind != KindNegative && kind != KindLease:
		return fmt.Errorf("%w: kind %#x; want 'V', 'N' or 'L'", ErrCorrupt, byte(kind))
	case packed > PackS2 || kind == KindLease && packed != PackNone:
		return fmt.Errorf("%w: compression %d of kind %q; want 0, or 1 unless it is a lease", ErrCorrupt, packed, byte(kind))
	case image[6] != 0 || image[7] != 0:
		return fmt.Errorf("%w: reserved bytes %x; want zero", ErrCorrupt, image[6:8])
	case kind == KindLease && len(image) != leaseSize:
		return fmt.Errorf("%w: a lease of %d bytes; want %d", ErrCorrupt, len(image), leaseSize)
	}
	return nil
}

// checkSum checks the hash at the end and returns what comes before it.
func checkSum(image []byte) ([]byte, error) {
	if len(image) < minSize {
		return nil, fmt.Errorf("%w: %d bytes; want at least %d", ErrCorrupt, len(image), minSize)
	}
	end := len(image) - sumSize
	got, want := xxhash.Sum64(image[:end]), binary.LittleEndian.Uint64(image[end:])
	if got != want {
		return nil, fmt.Errorf("%w: %d bytes hash to %016x; want %016x", ErrCorrupt, end, got, want)
	}
	return image[:end], nil
}

// A cursor reads the fields of variable size. The hash has been checked, yet it is no signature:
// a cursor believes no length and stops at the first error.
type cursor struct {
	body []byte
	at   int
	err  error
}

// skipNames walks from the codec to the payload and checks all on the way.
func (c *cursor) skipNames() {
	c.bytes("codec length")
	for range c.uvarint("number of dependencies", uint64(len(c.body)-c.at)/minDep) {
		c.uvarint("partition", maxPart)
		c.uint64("epoch", math.MaxUint64)
		c.uint64("read position", maxPos)
		for range c.uvarint("number of tags", uint64(len(c.body)-c.at)) {
			c.bytes("tag length")
			if c.err != nil {
				return
			}
		}
		if c.err != nil {
			return
		}
	}
}

// readNames fills r with what skipNames walked over. names is that part of the
// body as a string.
func (c *cursor) readNames(r *Record, names string) {
	base := c.at
	next := func() string {
		n := len(c.bytes("name length"))
		end := c.at - base
		return names[end-n : end]
	}
	r.Codec = next()
	n := int(c.uvarint("number of dependencies", math.MaxInt))
	r.Deps = slices.Grow(r.Deps, n)[:n]
	for i := range r.Deps {
		d := &r.Deps[i]
		d.Part = int(c.uvarint("partition", maxPart))
		d.Epoch = c.uint64("epoch", math.MaxUint64)
		d.Read = Pos(c.uint64("read position", maxPos))
		n := int(c.uvarint("number of tags", math.MaxInt))
		d.Tags = slices.Grow(d.Tags[:0], n)[:n]
		for j := range d.Tags {
			d.Tags[j] = next()
		}
	}
}

func (c *cursor) uvarint(what string, limit uint64) uint64 {
	if c.err != nil {
		return 0
	}
	if c.at < len(c.body) { // most are a single byte
		if v := uint64(c.body[c.at]); v < 0x80 && v <= limit {
			c.at++
			return v
		}
	}
	v, n := binary.Uvarint(c.body[c.at:])
	switch {
	case n <= 0:
		c.err = fmt.Errorf("%w: %s at byte %d is no varint", ErrCorrupt, what, c.at)
	case n > 1 && c.body[c.at+n-1] == 0: // one number, one form: what decodes encodes to the same bytes
		c.err = fmt.Errorf("%w: %s at byte %d is a varint of %d bytes; want the shortest form", ErrCorrupt, what, c.at, n)
	case v > limit:
		c.err = fmt.Errorf("%w: %s at byte %d is %d; want at most %d", ErrCorrupt, what, c.at, v, limit)
	default:
		c.at += n
		return v
	}
	return 0
}

func (c *cursor) uint64(what string, limit uint64) uint64 {
	if c.err != nil {
		return 0
	}
	if len(c.body)-c.at < 8 {
		c.err = fmt.Errorf("%w: %d bytes left for %s at byte %d; want 8", ErrCorrupt, len(c.body)-c.at, what, c.at)
		return 0
	}
	v := binary.LittleEndian.Uint64(c.body[c.at:])
	if v > limit {
		c.err = fmt.Errorf("%w: %s at byte %d is %d; want at most %d", ErrCorrupt, what, c.at, v, limit)
		return 0
	}
	c.at += 8
	return v
}

// bytes reads a length and that many bytes. Their capacity ends with them.
func (c *cursor) bytes(what string) []byte {
	n := c.uvarint(what, math.MaxUint64)
	if c.err != nil {
		return nil
	}
	if left := len(c.body) - c.at; n > uint64(left) {
		c.err = fmt.Errorf("%w: %s before byte %d is %d; want at most the %d left", ErrCorrupt, what, c.at, n, left)
		return nil
	}
	c.at += int(n)
	return c.body[c.at-int(n) : c.at : c.at]
}

func appendString[S string | []byte](dst []byte, s S) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func millis(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(t.UnixMilli(), 1))
}

// size is the size of r's bytes, so that encoding grows its memory once.
func size(r *Record) int {
	if r.Kind == KindLease {
		return leaseSize
	}
	n := fixedSize + stringSize(len(r.Codec)) + varintSize(len(r.Deps)) + stringSize(len(r.Payload)) + sumSize
	for i := range r.Deps {
		d := &r.Deps[i]
		n += varintSize(d.Part) + 8 + 8 + varintSize(len(d.Tags))
		for _, tag := range d.Tags {
			n += stringSize(len(tag))
		}
	}
	return n
}

func stringSize(n int) int { return varintSize(n) + n }

func varintSize(n int) int { return (bits.Len64(uint64(n)|1) + 6) / 7 }
