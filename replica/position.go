package replica

import (
	"fmt"
	"strconv"
	"strings"
)

// A Position is a place in the log of a PostgreSQL. Its text is what package pgcdc writes into marks: "7312404012/1/0/16B3748".
type Position struct {
	System   uint64 // the system identifier: of a primary and all its replicas
	Timeline uint32 // a promotion begins a new one
	LSN      uint64
}

// String returns system identifier and timeline, decimal, and the LSN as PostgreSQL prints it.
func (p Position) String() string {
	return fmt.Sprintf("%d/%d/%X/%X", p.System, p.Timeline, p.LSN>>32, uint32(p.LSN))
}

// ParsePosition reads what String wrote, and nothing else.
func ParsePosition(text string) (Position, error) {
	p, err := parse(text, 10)
	if err != nil || p.String() != text { // leading zeros, signs, lower case
		return Position{}, fmt.Errorf("replica: position is %.60q; want system/timeline/LSN, as in 7312404012/1/0/16B3748", text)
	}
	return p, nil
}

// parse reads a position whose timeline is to a base.
func parse(text string, base int) (p Position, err error) {
	parts := strings.Split(text, "/")
	if len(parts) != 4 {
		return p, fmt.Errorf("%d parts; want 4", len(parts))
	}
	var n [4]uint64
	for i, of := range [4]struct{ base, bits int }{{10, 64}, {base, 32}, {16, 32}, {16, 32}} {
		if n[i], err = strconv.ParseUint(parts[i], of.base, of.bits); err != nil {
			return p, err
		}
	}
	return Position{n[0], uint32(n[1]), n[2]<<32 | n[3]}, nil
}

// shows reports whether a replica that has replayed up to p has everything up to end.
func (p Position) shows(end Position) bool {
	return p.System == end.System && p.Timeline == end.Timeline && p.LSN >= end.LSN
}

// What the primary is asked: system, timeline (hexadecimal), end of the log, size of its pages. It ends where the next record goes, flushed or
// not: with synchronous_commit=off a commit is visible before it is flushed.
const primarySQL = `SELECT c.system_identifier || '/' || left(pg_walfile_name(w.lsn), 8) || '/' || w.lsn || '/' || current_setting('wal_block_size')
FROM pg_current_wal_insert_lsn() AS w(lsn), pg_control_system() AS c`

// parsePrimary reads the answer.
func parsePrimary(text string) (Position, error) {
	text, size, _ := cutLast(text)
	p, err := parse(text, 16)
	page, pageErr := strconv.ParseUint(size, 10, 32)
	if err != nil || pageErr != nil || page == 0 {
		return Position{}, fmt.Errorf("replica: the primary's position is %.60q; want system/timeline/LSN/page", text+"/"+size)
	}
	// Where a page is full, the next record goes behind the header of the next one, which is 24 bytes, or 40 at the start of a file. What
	// a replica replays ends before that header.
	if header := p.LSN % page; header == 24 || header == 40 {
		p.LSN -= header
	}
	return p, nil
}

// What a standby is asked: system, timeline (hexadecimal), how far it has replayed, and what kind of transaction that was asked in. A server
// that isn't in recovery says "primary" instead: its replay position stands still.
//
// The timeline is the latest of those that the standby is known to follow. It follows another only if that begins after all it has replayed.
const replicaSQL = `SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(c.system_identifier || '/' ||
	to_hex(greatest(k.timeline_id, r.min_recovery_end_timeline, (SELECT max(received_tli) FROM pg_stat_wal_receiver))) || '/' ||
	pg_last_wal_replay_lsn(), 'nothing') ELSE 'primary' END || '/' || current_setting('transaction_isolation')
FROM pg_control_system() AS c, pg_control_checkpoint() AS k, pg_control_recovery() AS r`

// parseReplica reads the answer.
func parseReplica(text string) (p Position, isolation string, err error) {
	text, isolation, _ = cutLast(text)
	if text == "primary" {
		return p, "", fmt.Errorf("replica: the server is no standby")
	}
	if p, err = parse(text, 16); err != nil {
		return p, "", fmt.Errorf("replica: the standby's position is %.60q; want system/timeline/LSN", text)
	}
	return p, isolation, nil
}

func cutLast(s string) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
