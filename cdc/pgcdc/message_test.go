package pgcdc

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"

	"github.com/freshetdev/freshet/cdc"
)

// encode writes a message as pgoutput does.
func (m *message) encode() (b []byte) {
	u16 := func(n int) { b = binary.BigEndian.AppendUint16(b, uint16(n)) }
	u32 := func(n uint32) { b = binary.BigEndian.AppendUint32(b, n) }
	u64 := func(n uint64) { b = binary.BigEndian.AppendUint64(b, n) }
	str := func(s string) { b = append(append(b, s...), 0) }
	row := func(kind byte, cells []cell) {
		b = append(b, kind)
		u16(len(cells))
		for _, c := range cells {
			b = append(b, c.kind)
			if c.kind == 't' {
				u32(uint32(len(c.text)))
				b = append(b, c.text...)
			}
		}
	}
	b = append(b, m.kind)
	at := uint64(m.at.UnixMicro() - y2k)
	switch m.kind {
	case 'B':
		u64(uint64(m.lsn))
		u64(at)
		u32(m.xid)
	case 'C':
		b = append(b, 0)
		u64(uint64(m.lsn))
		u64(uint64(m.end))
		u64(at)
	case 'R':
		u32(m.rel.id)
		str(m.rel.schema)
		str(m.rel.name)
		b = append(b, m.rel.identity)
		u16(len(m.rel.columns))
		for _, c := range m.rel.columns {
			flags := byte(0)
			if c.key {
				flags = 1
			}
			b = append(b, flags)
			str(c.name)
			u32(c.typ)
			u32(uint32(c.mod))
		}
	case 'I', 'U', 'D':
		u32(m.table)
		if m.oldKind != 0 {
			row(m.oldKind, m.old)
		}
		if m.kind != 'D' {
			row('N', m.new)
		}
	case 'T':
		u32(uint32(len(m.tables)))
		b = append(b, 0)
		for _, id := range m.tables {
			u32(id)
		}
	case 'M':
		flags := byte(0)
		if m.inTx {
			flags = 1
		}
		b = append(b, flags)
		u64(uint64(m.lsn))
		str(string(m.prefix))
		u32(uint32(len(m.text)))
		b = append(b, m.text...)
	case 'O':
		u64(0)
		str("elsewhere")
	case 'Y':
		u32(7)
		str("public")
		str("mood")
	}
	return b
}

// samples are one message of each kind.
func samples() (all []message) {
	one := message{at: (&reader{b: make([]byte, 8)}).time()}
	add := func(change func(m *message)) {
		m := one
		change(&m)
		all = append(all, m)
	}
	old := []cell{{'t', []byte("7")}, {kind: 'n'}}
	row := []cell{{'t', []byte("8")}, {kind: 'u'}}
	add(func(m *message) { m.kind, m.lsn, m.xid = 'B', 0x16B3748, 4_000_000_000 })
	add(func(m *message) { m.kind, m.lsn, m.end = 'C', 1, 2 })
	add(func(m *message) {
		m.kind = 'R'
		m.rel = relationMessage{id: 16400, schema: "public", name: "t", identity: 'd', columns: []columnMessage{{"id", true, 23, -1}, {"name", false, 25, -1}}}
	})
	add(func(m *message) { m.kind, m.table, m.new = 'I', 16400, row })
	add(func(m *message) { m.kind, m.table, m.new = 'U', 16400, row })
	add(func(m *message) { m.kind, m.table, m.oldKind, m.old, m.new = 'U', 16400, 'K', old, row })
	add(func(m *message) { m.kind, m.table, m.oldKind, m.old = 'D', 16400, 'O', old })
	add(func(m *message) { m.kind, m.tables = 'T', []uint32{16400, 16401} })
	add(func(m *message) {
		m.kind, m.inTx, m.lsn, m.prefix, m.text = 'M', true, 5, []byte("freshet"), []byte(`{"tags":["a"]}`)
	})
	add(func(m *message) { m.kind = 'O' })
	add(func(m *message) { m.kind = 'Y' })
	return all
}

func TestMessageDecode(t *testing.T) {
	var m message
	for _, want := range samples() {
		b := want.encode()
		if err := m.decode(b); err != nil {
			t.Errorf("%q: %v", want.kind, err)
			continue
		}
		if got := m.encode(); !bytes.Equal(got, b) {
			t.Errorf("%q: decoded and encoded again it is\n%q; want\n%q", want.kind, got, b)
		}
		for n := range b {
			if err := m.decode(b[:n]); err == nil {
				t.Errorf("%q cut to %d of %d bytes is taken", want.kind, n, len(b))
			}
		}
		if err := m.decode(append(b, 0)); err == nil {
			t.Errorf("%q with a byte too many is taken", want.kind)
		}
	}
	f := func(b, want string) {
		t.Helper()
		if err := m.decode([]byte(b)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", b, err, want)
		}
	}
	f("S", `no message is of type 'S'`)
	f("I\x00\x00\x00\x01O", `row of type 'O'; want 'N'`)
	f("D\x00\x00\x00\x01N", `row of type 'N'; want 'K' or 'O'`)
	f("I\x00\x00\x00\x01N\x00\x01b", `value of type 'b'`)
	f("T\x7f\x00\x00\x00\x00", `2130706432 tables in 0 bytes`)
}

// pglogrepl must read the same in what both can read.
func TestMessageAsPglogrepl(t *testing.T) {
	for _, want := range samples() {
		got, err := pglogrepl.Parse(want.encode())
		if err != nil {
			t.Errorf("%q: %v", want.kind, err)
			continue
		}
		switch m := got.(type) {
		case *pglogrepl.BeginMessage:
			if m.FinalLSN != want.lsn || m.Xid != want.xid || !m.CommitTime.Equal(want.at) {
				t.Errorf("begin is %+v; want %+v", m, want)
			}
		case *pglogrepl.CommitMessage:
			if m.CommitLSN != want.lsn || m.TransactionEndLSN != want.end {
				t.Errorf("commit is %+v; want %+v", m, want)
			}
		case *pglogrepl.UpdateMessage:
			if m.OldTupleType != want.oldKind || m.NewTuple.Columns[1].DataType != 'u' || string(m.NewTuple.Columns[0].Data) != "8" {
				t.Errorf("update is %+v; want %+v", m, want)
			}
		case *pglogrepl.LogicalDecodingMessage:
			if !m.Transactional || m.Prefix != string(want.prefix) || !bytes.Equal(m.Content, want.text) {
				t.Errorf("message is %+v; want %+v", m, want)
			}
		}
	}
}

func TestMessageAllocates(t *testing.T) {
	var m message
	b := (&message{kind: 'U', oldKind: 'K', old: []cell{{'t', []byte("7")}}, new: []cell{{'t', []byte("8")}}}).encode()
	if n := testing.AllocsPerRun(100, func() { m.decode(b) }); n != 0 {
		t.Errorf("decoding a row makes %v allocations; want none", n)
	}
}

func FuzzMessage(f *testing.F) {
	for _, m := range samples() {
		f.Add(m.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again message
		if m.decode(b) != nil {
			return
		}
		if m.kind == 'O' || m.kind == 'Y' {
			return // skipped, and not kept
		}
		c := m.encode()
		if err := again.decode(c); err != nil {
			t.Fatalf("%q is decoded and encoded to %q: %v", b, c, err)
		}
		if d := again.encode(); !bytes.Equal(c, d) {
			t.Fatalf("%q, then %q", c, d)
		}
	})
}

func FuzzPosition(f *testing.F) {
	for _, s := range []string{"7312404012/1/0/16B3748", "0/0/0/0", "18446744073709551615/4294967295/FFFFFFFF/FFFFFFFF", "1/1/0/0a", "1/1/0/a", "", "+1/1/0/0", "a/b/c/d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePlace(cdc.Position(s))
		if err == nil && string(p.position()) != s {
			t.Fatalf("%q is read as %q", s, p.position())
		}
	})
}

func TestPosition(t *testing.T) {
	p := place{history{7312404012, 3}, 0xA_016B3748}
	if got := p.position(); got != "7312404012/3/A/16B3748" {
		t.Errorf("position is %q", got)
	}
	for _, bad := range []cdc.Position{"", "x", "7/1/0", "7/1/0/g", "7/1/0/0A", "7/01/0/A", "7/1/0/a", "7/1/100000000/0", "7/1/0/0/0", "-7/1/0/0", "7/1/0/ A"} {
		if p, err := parsePlace(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, p)
		}
	}
}

func TestSnapshot(t *testing.T) {
	f := func(text string, xid uint32, want bool) {
		t.Helper()
		s, err := parseSnapshot(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.shows(xid); got != want {
			t.Errorf("%s shows %d: %v; want %v", text, xid, got, want)
		}
	}
	f("10:20:", 9, true)
	f("10:20:", 19, true)
	f("10:20:", 20, false) // not begun, or ended later
	f("10:20:", 25, false)
	f("10:20:10,15", 15, false)
	f("10:20:10,15", 14, true)
	// Beyond 32 bits: 4294967296 is 1<<32.
	f("4294967290:4294967306:4294967295", 4294967295, false)
	f("4294967290:4294967306:4294967295", 4294967294, true)
	f("4294967290:4294967306:4294967299", 3, false)
	f("4294967290:4294967306:4294967299", 4, true)
	f("4294967290:4294967306:", 10, false)
	f("4294967200:4294967295:", 3, false) // of the next round
	for _, bad := range []string{"", "1:2", "2:1:", "a:b:", "1:2:x", "1:2:3:4"} {
		if _, err := parseSnapshot(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzSnapshot(f *testing.F) {
	f.Add("10:20:10,15", uint32(3))
	f.Fuzz(func(t *testing.T, text string, xid uint32) {
		if s, err := parseSnapshot(text); err == nil && s.shows(xid) && s.open[uint64(xid)] && s.max < 1<<32 {
			t.Fatalf("%q shows %d, which is open", text, xid)
		}
	})
}
