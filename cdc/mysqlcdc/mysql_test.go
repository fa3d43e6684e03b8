package mysqlcdc

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	speaks "github.com/go-mysql-org/go-mysql/server"

	"github.com/freshetdev/freshet/cdc"
)

const uuidA = "3e11fa47-71ca-11e1-9e33-c80aa9429562"

// A fakeMySQL speaks for a MySQL 8 server as far as a source asks, with a binary log that the test writes event by event.
type fakeMySQL struct {
	t   *testing.T
	lis net.Listener
	wg  sync.WaitGroup

	mu       sync.Mutex
	vars     map[string]string
	executed map[string]bool // gtid_executed, one by one
	owned    string          // gtid_owned
	log      []byte          // of the only file, without the four bytes that it begins with
	grown    chan struct{}
	conns    []net.Conn
	feeds    map[string]bool // connections that dump
	compound string          // the set that was asked for last
}

func newFakeMySQL(t *testing.T) *fakeMySQL {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeMySQL{
		t: t, lis: lis, executed: map[string]bool{}, grown: make(chan struct{}), feeds: map[string]bool{},
		vars: map[string]string{
			"version": "8.0.40", "log_bin": "ON", "binlog_format": "ROW", "binlog_row_image": "FULL", "binlog_row_metadata": "FULL", "server_id": "1", "server_uuid": uuidA,
			"gtid_mode": "ON", "read_only": "OFF", "lower_case_table_names": "0", "binlog_transaction_compression": "OFF", "binlog_row_value_options": "",
		},
	}
	fde := make([]byte, 57)
	binary.LittleEndian.PutUint16(fde, 4)
	copy(fde[2:], "8.0.40")
	fde[56] = replication.EventHeaderSize
	lengths := make([]byte, 41)
	for i := range lengths {
		lengths[i] = 8
	}
	m.write(replication.FORMAT_DESCRIPTION_EVENT, append(append(fde, lengths...), 0, 0, 0, 0, 0)) // no checksums
	m.wg.Go(m.serve)
	t.Cleanup(func() {
		_ = lis.Close()
		m.mu.Lock()
		for _, c := range m.conns {
			_ = c.Close()
		}
		m.mu.Unlock()
		m.wg.Wait()
	})
	return m
}

func (m *fakeMySQL) serve() {
	def := speaks.NewServer("8.0.40", mysql.DEFAULT_COLLATION_ID, mysql.AUTH_NATIVE_PASSWORD, nil, nil)
	users := speaks.NewInMemoryProvider()
	users.AddUser("freshet", "")
	for {
		conn, err := m.lis.Accept()
		if err != nil {
			return
		}
		m.mu.Lock()
		m.conns = append(m.conns, conn)
		m.mu.Unlock()
		m.wg.Go(func() {
			h := &fakeConn{fakeMySQL: m}
			c, err := def.NewCustomizedConn(conn, users, h)
			if err != nil {
				return
			}
			h.conn = c
			for c.HandleCommand() == nil {
			}
		})
	}
}

// write appends an event.
func (m *fakeMySQL) write(typ replication.EventType, body []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := make([]byte, replication.EventHeaderSize, replication.EventHeaderSize+len(body))
	binary.LittleEndian.PutUint32(b, 1767225600)
	b[4] = byte(typ)
	binary.LittleEndian.PutUint32(b[5:], 1)
	binary.LittleEndian.PutUint32(b[9:], uint32(cap(b)))
	binary.LittleEndian.PutUint32(b[13:], uint32(4+len(m.log)+cap(b)))
	m.log = append(m.log, append(b, body...)...)
	close(m.grown)
	m.grown = make(chan struct{})
}

func (m *fakeMySQL) gtid(n uint64) {
	sid, _ := hex.DecodeString(strings.ReplaceAll(uuidA, "-", ""))
	b := append([]byte{1}, sid...)
	b = binary.LittleEndian.AppendUint64(b, n)
	b = append(b, replication.LogicalTimestampTypeCode)
	b = append(b, make([]byte, 16)...)
	us := uint64(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixMicro())
	for i := range 7 {
		b = append(b, byte(us>>(8*i)))
	}
	m.write(replication.GTID_EVENT, b)
}

func (m *fakeMySQL) query(text string) {
	b := make([]byte, 13)
	b[8] = byte(len("shop"))
	b = append(b, "shop\x00"...)
	m.write(replication.QUERY_EVENT, append(b, text...))
}

func (m *fakeMySQL) xid() { m.write(replication.XID_EVENT, make([]byte, 8)) }

// table is shop.users (id bigint unsigned primary key, name varchar(80), doc json).
func (m *fakeMySQL) table() {
	b := []byte{7, 0, 0, 0, 0, 0, 1, 0}
	b = append(b, "\x04shop\x00\x05users\x00"...)
	b = append(b, 3, mysql.MYSQL_TYPE_LONGLONG, mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_JSON)
	b = append(b, 3, 80, 0, 4) // lengths of the types' own data
	b = append(b, 0b110)       // may be null
	b = append(b, replication.TABLE_MAP_OPT_META_SIGNEDNESS, 1, 0x80)
	b = append(b, replication.TABLE_MAP_OPT_META_DEFAULT_CHARSET, 1, 45)
	b = append(b, replication.TABLE_MAP_OPT_META_COLUMN_NAME, 12)
	b = append(b, "\x02id\x04name\x03doc"...)
	m.write(replication.TABLE_MAP_EVENT, b)
}

func rowsBody(bitmaps []byte, images ...[]byte) []byte {
	b := []byte{7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3}
	b = append(b, bitmaps...)
	for _, i := range images {
		b = append(b, i...)
	}
	return b
}

func cell(id uint64, name string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, id)
	return append(append(b, byte(len(name))), name...)
}

// A fakeConn is one connection.
type fakeConn struct {
	speaks.EmptyReplicationHandler
	*fakeMySQL
	conn *speaks.Conn
}

func result(names []string, rows ...[]any) (*mysql.Result, error) {
	r, err := mysql.BuildSimpleTextResultset(names, rows)
	return mysql.NewResult(r), err
}

// none is a result without rows.
func none() *mysql.Result {
	r := mysql.NewResultset(1)
	r.Fields[0] = &mysql.Field{Name: []byte("none"), Type: mysql.MYSQL_TYPE_VAR_STRING}
	return mysql.NewResult(r)
}

// HandleQuery answers what a source asks.
func (c *fakeConn) HandleQuery(q string) (*mysql.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q = strings.ToLower(strings.Join(strings.Fields(q), " "))
	switch {
	case strings.HasPrefix(q, "set "):
		return mysql.NewResultReserveResultset(0), nil
	case strings.HasPrefix(q, "show global variables"):
		var rows [][]any
		for name, value := range c.vars {
			rows = append(rows, []any{name, value})
		}
		return result([]string{"Variable_name", "Value"}, rows...)
	case q == "show master status":
		return result([]string{"File", "Position", "Binlog_Do_DB", "Binlog_Ignore_DB", "Executed_Gtid_Set"}, []any{"binlog.000001", fmt.Sprint(4 + len(c.log)), "", "", ""})
	case strings.Contains(q, "information_schema.collations"):
		return result([]string{"id", "cs"}, []any{"45", "utf8mb4"}, []any{"255", "utf8mb4"})
	case strings.Contains(q, "information_schema.processlist"):
		return result([]string{"id", "command"}, []any{"1", "Binlog Dump"})
	case strings.Contains(q, "information_schema.tables"), strings.Contains(q, "information_schema.referential_constraints"), strings.Contains(q, "information_schema.key_column_usage"), strings.Contains(q, "information_schema.columns"):
		return none(), nil
	case q == "select @@global.gtid_owned":
		return result([]string{"owned"}, []any{c.owned})
	case strings.HasPrefix(q, "select gtid_subset('"):
		set, _, _ := strings.Cut(strings.TrimPrefix(q, "select gtid_subset('"), "'")
		c.compound = set
		want, err := mysql.ParseMysqlGTIDSet(set)
		if err != nil {
			return nil, err
		}
		all := "1"
		for _, s := range want.(*mysql.MysqlGTIDSet).Sets {
			for _, i := range s.Intervals {
				for n := i.Start; n < i.Stop; n++ {
					if !c.executed[fmt.Sprintf("%s:%d", s.SID, n)] {
						all = "0"
					}
				}
			}
		}
		return result([]string{"subset"}, []any{all})
	}
	c.t.Errorf("the source asks a MySQL server: %s", q)
	return nil, errors.New("not understood")
}

// HandleBinlogDump sends the log, and never ends.
func (c *fakeConn) HandleBinlogDump(pos mysql.Position) (*replication.BinlogStreamer, error) {
	send := func(b []byte) error {
		return c.conn.WritePacket(append([]byte{0, 0, 0, 0, mysql.OK_HEADER}, b...))
	}
	at := 0
	first := true
	for {
		c.mu.Lock()
		grown := c.grown
		var events [][]byte
		for at < len(c.log) {
			n := int(binary.LittleEndian.Uint32(c.log[at+9:]))
			if first || at+4 >= int(pos.Pos) {
				events = append(events, append([]byte(nil), c.log[at:at+n]...))
			}
			if first { // the description comes first, marked as none of the place asked for
				binary.LittleEndian.PutUint32(events[0][13:], 0)
				binary.LittleEndian.PutUint16(events[0][17:], replication.LOG_EVENT_ARTIFICIAL_F)
			}
			first = false
			at += n
		}
		c.mu.Unlock()
		for _, e := range events {
			if err := send(e); err != nil {
				return nil, err
			}
		}
		select {
		case <-grown:
		case <-time.After(time.Second):
			beat := make([]byte, replication.EventHeaderSize)
			beat[4] = byte(replication.HEARTBEAT_EVENT)
			binary.LittleEndian.PutUint32(beat[9:], replication.EventHeaderSize)
			binary.LittleEndian.PutUint16(beat[17:], replication.LOG_EVENT_ARTIFICIAL_F)
			if err := send(beat); err != nil {
				return nil, err
			}
		}
	}
}

// TestMySQL reads what a MySQL 8 server writes, from events made by its manual.
func TestMySQL(t *testing.T) {
	m := newFakeMySQL(t)
	s, err := New("mysql://freshet@"+m.lis.Addr().String()+"/", Options{Match: func(schema, _ string) bool { return schema == "shop" }})
	if err != nil {
		t.Fatal(err)
	}
	d := &db{t: t, name: "shop"}
	r := d.open(s, "")
	start := r.Start()
	if p, err := parsePlace(start); err != nil || p.server != "mysql-"+uuidA {
		t.Errorf("starts at %s, %v", start, err)
	}
	read := func(what string, want ...string) {
		t.Helper()
		got, err := r.Read()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		same(t, what, got, want...)
	}
	m.gtid(1)
	m.query("BEGIN")
	m.table()
	m.write(replication.WRITE_ROWS_EVENTv2, rowsBody([]byte{0b111}, []byte{0b100}, cell(1<<63, "ada")))
	m.xid()
	read("insert", "[", "insert users (id=9223372036854775808 name=ada doc=~)", "]")
	m.gtid(2)
	m.query("BEGIN")
	m.table()
	m.write(replication.UPDATE_ROWS_EVENTv2, rowsBody([]byte{0b001, 0b010}, []byte{0}, cell(7, "")[:8], []byte{0}, []byte("\x03bob")))
	m.write(replication.DELETE_ROWS_EVENTv2, rowsBody([]byte{0b011}, []byte{0}, cell(7, "bob")))
	m.xid()
	read("row image MINIMAL", "[", "update users (id=7 name=? doc=?) (id=7 name=bob doc==)", "delete users (id=7 name=bob doc=?)", "]")

	// JSON changed in part: $.a is set to 5.
	diff := append([]byte{0 /* replace */, 3}, "$.a"...)
	diff = append(diff, 3, 5 /* int16 */, 5, 0)
	doc := append(binary.LittleEndian.AppendUint32(nil, uint32(len(diff))), diff...)
	old := []byte{0, 0, 0, 0} // an empty document, which is null
	m.gtid(3)
	m.query("BEGIN")
	m.table()
	m.write(replication.PARTIAL_UPDATE_ROWS_EVENT, rowsBody([]byte{0b111, 0b111}, []byte{0}, cell(7, "a"), old, []byte{1 /* partial JSON */, 1}, []byte{0}, cell(7, "a"), doc))
	m.xid()
	read("partial JSON", "[", "update users (id=7 name=a doc=null) (id=7 name=a doc=?)", "]")
	after := r.Start()
	m.gtid(4)
	m.query("ALTER TABLE users ADD COLUMN x int")
	read("DDL, a transaction without BEGIN", "[", "schema users", "]")
	m.gtid(5)
	m.query("truncate `users`")
	read("truncate", "[", "truncate users", "]")
	m.gtid(6)
	m.query("XA START X'61',X'',1")
	m.table()
	m.write(replication.WRITE_ROWS_EVENTv2, rowsBody([]byte{0b111}, []byte{0b100}, cell(1, "x")))
	m.query("XA END X'61',X'',1")
	m.write(replication.XA_PREPARE_LOG_EVENT, []byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 'a'})
	read("XA PREPARE")
	m.gtid(7)
	m.query("XA COMMIT X'61',X'',1")
	read("XA COMMIT", "[", "truncate users", "]")
	m.gtid(8)
	m.query("XA START X'62',X'',1")
	m.table()
	m.write(replication.WRITE_ROWS_EVENTv2, rowsBody([]byte{0b111}, []byte{0b100}, cell(1, "x")))
	m.query("XA END X'62',X'',1")
	m.write(replication.XA_PREPARE_LOG_EVENT, []byte{1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 'b'})
	read("XA COMMIT ONE PHASE", "[", "truncate users", "]")

	// The barrier, over a set of what was begun.
	m.gtid(9)
	m.query("BEGIN")
	m.table()
	m.write(replication.WRITE_ROWS_EVENTv2, rowsBody([]byte{0b111}, []byte{0b100}, cell(1, "x")))
	m.xid()
	pos := r.Commit()
	r.Stream.(*stream).mu.Lock()
	seen := len(r.Stream.(*stream).unseen)
	r.Stream.(*stream).mu.Unlock()
	visible := func(pos cdc.Position, d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return r.Visible(ctx, pos)
	}
	set := func(f func()) {
		m.mu.Lock()
		defer m.mu.Unlock()
		f()
	}
	for n := range 8 {
		set(func() { m.executed[fmt.Sprintf("%s:%d", uuidA, n+1)] = true })
	}
	if err := visible(pos, 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("visible before it is executed: %v; %d begun", err, seen)
	}
	set(func() {
		if want := uuidA + ":1-5," + uuidA + ":7-9"; m.compound != want {
			t.Errorf("asked for %s; want %s", m.compound, want)
		}
		m.executed[uuidA+":9"] = true
	})
	if err := visible(pos, patience); err != nil {
		t.Errorf("visible: %v", err)
	}
	// The start: who owns a GTID has written, or may yet.
	set(func() { m.owned = strings.ToUpper(uuidA) + ":10#7:12#8, 4e11fa47-71ca-11e1-9e33-c80aa9429562:1#9" })
	if err := visible(after, 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the start is visible while transactions commit: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- visible(after, patience) }()
	time.Sleep(50 * time.Millisecond)
	set(func() { m.owned = uuidA + ":13#7" }) // a later one
	if err := <-done; err != nil {
		t.Errorf("the start: %v", err)
	}

	// A position is proven by its transaction.
	r.Close()
	r = d.open(s, pos)
	m.gtid(10)
	m.query("create table other (id int)")
	read("after the last", "[", "schema other", "]")
	p, _ := parsePlace(pos)
	p.gtid = uuidA + ":77"
	if _, err := d.tryOpen(s, p.position()); !errors.Is(err, cdc.ErrGap) {
		t.Errorf("another GTID at that place: %v; want ErrGap", err)
	}
	m.write(replication.ANONYMOUS_GTID_EVENT, make([]byte, 42))
	_, err = r.Read()
	isGap(t, "no GTID", err, "gtid_mode was switched off")
	for _, bad := range []replication.EventType{replication.TRANSACTION_PAYLOAD_EVENT, replication.GTID_TAGGED_LOG_EVENT, replication.INCIDENT_EVENT, replication.EXECUTE_LOAD_QUERY_EVENT, 99, replication.XID_EVENT} {
		r.Close()
		r = d.open(s, "")
		m.write(bad, make([]byte, 42))
		_, err = r.Read()
		isGap(t, fmt.Sprint("event of type ", bad), err, "")
	}
	// The server crashed within a transaction.
	r.Close()
	r = d.open(s, "")
	m.gtid(11)
	m.query("BEGIN")
	m.write(replication.FORMAT_DESCRIPTION_EVENT, make([]byte, 42))
	_, err = r.Read()
	isGap(t, "no end", err, uuidA+":11 at binlog.000001")
	set(func() {
		m.vars["gtid_mode"], m.vars["binlog_transaction_compression"], m.vars["binlog_row_value_options"] = "OFF", "ON", "PARTIAL_JSON"
	})
	_, err = d.tryOpen(s, "")
	for _, want := range []string{"gtid_mode is OFF; want ON", "SET GLOBAL binlog_transaction_compression = OFF;"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("open: %v; want %q", err, want)
		}
	}
}

// TestUnfit has a catalog that can't be of the table in the log: nothing of it is used.
func TestUnfit(t *testing.T) {
	m := &replication.TableMapEvent{ColumnCount: 2, ColumnType: []byte{mysql.MYSQL_TYPE_LONG, mysql.MYSQL_TYPE_VARCHAR}, ColumnMeta: []uint16{0, 40}, NullBitmap: []byte{2}}
	id, name := columnInfo{name: "id", dataType: "int", typ: "int(11)"}, columnInfo{name: "name", dataType: "varchar", typ: "varchar(10)", charset: "utf8mb4"}
	f := func(want int, infos ...columnInfo) {
		t.Helper()
		table := newTable(tableName{"d", "t"}, m, infos, nil, true)
		if len(table.columns) != want || len(table.told.Columns) != want {
			t.Errorf("with %+v: %d columns; want %d", infos, len(table.columns), want)
		}
	}
	f(2, id, name)
	f(0)
	f(0, id)
	f(0, name, id)
	f(0, id, id)
	f(0, id, name, name)
	m.ColumnType[1] = 140 // VARCHAR COMPRESSED of MariaDB
	f(0, id, name)
}
