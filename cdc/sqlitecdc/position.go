package sqlitecdc

import (
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// A place is a position: after a row of an outbox. The random number that each row has is what proves that the file still
// has the history that was read: one that was restored from a backup and written to again has the same ids, and other numbers.
type place struct {
	history string // 16 hexadecimal digits
	id      int64
	nonce   int64
}

// position returns the text of a place, "5f0c9d1e22a8b314/1042/8a3c...": the history, the id, and the number in hexadecimal.
func (p place) position() cdc.Position {
	return cdc.Position(p.history + "/" + strconv.FormatInt(p.id, 10) + "/" + strconv.FormatUint(uint64(p.nonce), 16))
}

// parsePlace reads what position wrote.
func parsePlace(pos cdc.Position) (place, error) {
	parts := strings.Split(string(pos), "/")
	if len(parts) != 3 || len(parts[0]) != 16 {
		return place{}, gap("position %q is none of an SQLite database", pos)
	}
	id, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return place{}, gap("position %q: %w", pos, err)
	}
	nonce, err := strconv.ParseUint(parts[2], 16, 64)
	if err != nil {
		return place{}, gap("position %q: %w", pos, err)
	}
	return place{parts[0], id, int64(nonce)}, nil
}
