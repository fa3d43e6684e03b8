package store

import (
	"errors"
	"time"
)

// A Kind says what a record is.
type Kind byte

// The kinds of record.
const (
	KindValue    Kind = 'V'
	KindNegative Kind = 'N' // the source said that there is nothing
	KindLease    Kind = 'L' // somebody is loading
)

// A Record is an entry as the shared level keeps it. docs/wire.md describes the
// bytes field by field, with test vectors:
//
//	offset size  field
//	0      3     magic F5 'F' 'R'
//	3      1     version, 1
//	4      1     kind: 'V' value, 'N' negative, 'L' lease
//	5      1     compression of the payload: 0 none, 1 s2
//	6      2     reserved, zero
//	8      16    id of the record or lease
//	24           end of a lease record
//
//	24     8     created: start of the load, Unix milliseconds of the store's clock
//	32     8     fresh until, likewise
//	40     8     stale until (while-revalidate), likewise
//	48     8     error until (if-error), likewise
//	56     4     cost of the load in microseconds, saturating
//	60     8     schema fingerprint
//	68     v+n   codec name
//	..     v     number of dependencies, and for each
//	             v partition, 8 epoch, 8 read position, v number of tags, each v+n
//	..     v+n   payload
//	..     8     xxHash64 of everything before it
//
// Fixed integers are little endian; v is an unsigned varint, v+n a varint
// length and that many bytes.
type Record struct {
	Kind    Kind
	ID      ID
	Created time.Time
	Fresh   time.Time // fresh until
	Stale   time.Time // may be served while it is refreshed until
	Error   time.Time // may be served when the source fails until
	Cost    time.Duration
	Schema  uint64
	Codec   string
	Packed  Packing
	Deps    []Dep
	Payload []byte
}

// A Dep is what an entry depends on in one partition. The entry is valid only while the
// partition is in Epoch and no tag's stamp is above Read.
type Dep struct {
	Part  int
	Epoch uint64
	Read  Pos // every drop up to here was visible to the load
	Tags  []string
}

// A Packing is how a payload was compressed.
type Packing byte

// The packings.
const (
	PackNone Packing = 0
	PackS2   Packing = 1
)

// Errors of [DecodeRecord]. All but ErrNotRecord mean that the bytes are ours and unusable.
var (
	ErrNotRecord = errors.New("store: not a record")
	ErrVersion   = errors.New("store: unknown record version")
	ErrCorrupt   = errors.New("store: corrupt record")
)

const (
	recordVersion = 1
	idOffset      = 8
	leaseSize     = 24
)

// RecordID returns the id of a record of this version, a lease included, without
// looking further than its header.
func RecordID(image []byte) (ID, bool) {
	var id ID
	if len(image) < leaseSize || image[0] != 0xF5 || image[1] != 'F' || image[2] != 'R' || image[3] != recordVersion {
		return id, false
	}
	copy(id[:], image[idOffset:])
	return id, true
}

// IsLease reports whether image is a lease record.
func IsLease(image []byte) bool {
	_, ok := RecordID(image)
	return ok && len(image) == leaseSize && Kind(image[4]) == KindLease
}

// LeaseImage returns the record that marks a key as leased.
func LeaseImage(id ID) []byte {
	b := make([]byte, leaseSize)
	putHeader(b, KindLease, PackNone, id)
	return b
}

func putHeader(b []byte, k Kind, p Packing, id ID) {
	b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7] = 0xF5, 'F', 'R', recordVersion, byte(k), byte(p), 0, 0
	copy(b[idOffset:], id[:])
}
