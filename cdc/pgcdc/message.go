package pgcdc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// A message is one message of pgoutput, protocol version 1 (PostgreSQL documentation, "Logical Replication Message Formats").
// It is decoded in place: texts point into what was received, and a message is used again for the next, so that
// a row costs no allocation. (pglogrepl decodes the same, but panics on messages that are cut short, and makes several
// allocations for each column.)
//
//	B  lsn xid at              begin; lsn is the start of the commit record
//	C  lsn end at              commit
//	R  rel                     what a table is, before its first change and after it was altered
//	I  table new               insert
//	U  table [old] new         update
//	D  table old               delete
//	T  tables                  truncate
//	M  lsn flags prefix text   written by pg_logical_emit_message
//	O  Y                       origin, type: of no interest
type message struct {
	kind     byte
	lsn, end pglogrepl.LSN
	at       time.Time
	xid      uint32
	rel      relationMessage
	table    uint32
	oldKind  byte // 'K' columns of the key, 'O' all; 0 none
	old, new []cell
	tables   []uint32
	inTx     bool // of M: it is part of its transaction
	prefix   []byte
	text     []byte
}

// A cell is one column of a row: kind is 'n' null, 'u' unchanged and not sent, 't' text.
type cell struct {
	kind byte
	text []byte
}

type relationMessage struct {
	id           uint32
	schema, name string
	identity     byte // as in pg_class.relreplident
	columns      []columnMessage
}

type columnMessage struct {
	name string
	key  bool // part of the replica identity
	typ  uint32
	mod  int32
}

// decode reads a message. What b holds must stay as it is while m is used.
func (m *message) decode(b []byte) error {
	*m = message{old: m.old[:0], new: m.new[:0], tables: m.tables[:0]}
	r := reader{b: b}
	m.kind = r.u8()
	switch m.kind {
	case 'B':
		m.lsn = pglogrepl.LSN(r.u64())
		m.at = r.time()
		m.xid = r.u32()
	case 'C':
		r.u8() // flags, none so far
		m.lsn = pglogrepl.LSN(r.u64())
		m.end = pglogrepl.LSN(r.u64())
		m.at = r.time()
	case 'R':
		m.rel = r.relation()
	case 'I':
		m.table = r.u32()
		r.want('N')
		m.new = r.row(m.new)
	case 'U':
		m.table = r.u32()
		if kind := r.u8(); kind != 'N' {
			m.oldKind = r.oldKind(kind)
			m.old = r.row(m.old)
			r.want('N')
		}
		m.new = r.row(m.new)
	case 'D':
		m.table = r.u32()
		m.oldKind = r.oldKind(r.u8())
		m.old = r.row(m.old)
	case 'T':
		n := int(r.u32())
		r.u8() // cascade, restart identity: the tables are listed all the same
		if n > len(r.b)/4 {
			r.fail("%d tables in %d bytes", n, len(r.b))
		}
		for i := 0; i < n && r.err == nil; i++ {
			m.tables = append(m.tables, r.u32())
		}
	case 'M':
		m.inTx = r.u8()&1 != 0
		m.lsn = pglogrepl.LSN(r.u64())
		m.prefix = r.str()
		m.text = r.bytes(int(r.u32()))
	case 'O':
		r.u64()
		r.str()
	case 'Y':
		r.u32()
		r.str()
		r.str()
	default:
		r.fail("no message is of type %q", m.kind)
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return fmt.Errorf("pgcdc: message %q of %d bytes: %w", m.kind, len(b), r.err)
	}
	return nil
}

// A reader takes values from the front of b. After an error all are zero.
type reader struct {
	b   []byte
	err error
}

var errShort = errors.New("cut short")

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		if r.err == nil {
			r.err = errShort
		}
		r.b = nil
		return nil
	}
	got := r.b[:n:n]
	r.b = r.b[n:]
	return got
}

func (r *reader) u8() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// y2k is PostgreSQL's zero of time, in microseconds.
const y2k = 946684800 * 1e6

func (r *reader) time() time.Time {
	us := int64(r.u64())
	if r.err != nil {
		return time.Time{}
	}
	return time.UnixMicro(us + y2k)
}

// str reads a text that ends with a zero byte.
func (r *reader) str() []byte {
	n := bytes.IndexByte(r.b, 0)
	if n < 0 {
		r.bytes(len(r.b) + 1)
		return nil
	}
	s := r.bytes(n)
	r.bytes(1)
	return s
}

func (r *reader) want(kind byte) {
	if got := r.u8(); got != kind && r.err == nil {
		r.fail("row of type %q; want %q", got, kind)
	}
}

func (r *reader) oldKind(kind byte) byte {
	if kind != 'K' && kind != 'O' && r.err == nil {
		r.fail("row of type %q; want 'K' or 'O'", kind)
	}
	return kind
}

func (r *reader) row(cells []cell) []cell {
	for n := int(r.u16()); n > 0 && r.err == nil; n-- {
		c := cell{kind: r.u8()}
		switch c.kind {
		case 'n', 'u':
		case 't':
			c.text = r.bytes(int(int32(r.u32())))
		default:
			if r.err == nil {
				r.fail("value of type %q; want 'n', 'u' or 't'", c.kind)
			}
		}
		cells = append(cells, c)
	}
	return cells
}

func (r *reader) relation() (m relationMessage) {
	m.id = r.u32()
	m.schema = string(r.str())
	m.name = string(r.str())
	m.identity = r.u8()
	if m.schema == "" {
		m.schema = "pg_catalog"
	}
	for n := int(r.u16()); n > 0 && r.err == nil; n-- {
		flags := r.u8()
		c := columnMessage{key: flags&1 != 0, name: string(r.str())}
		c.typ = r.u32()
		c.mod = int32(r.u32())
		m.columns = append(m.columns, c)
	}
	return m
}
