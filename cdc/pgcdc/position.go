package pgcdc

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"

	"github.com/freshetdev/freshet/cdc"
)

// A history is one order of changes: a promotion begins another timeline, a new database another system.
type history struct {
	system   uint64
	timeline uint32
}

// A place is a position in a history.
type place struct {
	history
	lsn pglogrepl.LSN
}

// position returns the text of a place: system identifier and timeline, decimal, and the LSN as PostgreSQL prints it.
func (p place) position() cdc.Position {
	b := make([]byte, 0, 48)
	b = strconv.AppendUint(b, p.system, 10)
	b = append(b, '/')
	b = strconv.AppendUint(b, uint64(p.timeline), 10)
	b = append(b, '/')
	b = appendUpper(b, uint64(p.lsn)>>32)
	b = append(b, '/')
	b = appendUpper(b, uint64(p.lsn)&0xFFFFFFFF)
	return cdc.Position(b)
}

// appendUpper appends n in upper-case hexadecimal.
func appendUpper(b []byte, n uint64) []byte {
	at := len(b)
	b = strconv.AppendUint(b, n, 16)
	for i := at; i < len(b); i++ {
		if b[i] >= 'a' {
			b[i] -= 'a' - 'A'
		}
	}
	return b
}

// parsePlace reads what position wrote, and nothing else.
func parsePlace(pos cdc.Position) (p place, err error) {
	parts := strings.Split(string(pos), "/")
	bad := func() (place, error) {
		return place{}, fmt.Errorf("pgcdc: position is %.60q; want system/timeline/LSN, as in 7312404012/1/0/16B3748", string(pos))
	}
	if len(parts) != 4 {
		return bad()
	}
	var n [4]uint64
	for i, of := range [4]struct{ base, bits int }{{10, 64}, {10, 32}, {16, 32}, {16, 32}} {
		if n[i], err = strconv.ParseUint(parts[i], of.base, of.bits); err != nil {
			return bad()
		}
	}
	p = place{history{n[0], uint32(n[1])}, pglogrepl.LSN(n[2]<<32 | n[3])}
	if p.position() != pos { // leading zeros, signs, lower case
		return bad()
	}
	return p, nil
}
