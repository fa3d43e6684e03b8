package mysqlcdc

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/freshetdev/freshet/cdc"
)

// messageTable is the name of tables whose new rows are messages; messageColumn is the column.
const (
	messageTable  = cdc.MessagePrefix + "_messages"
	messageColumn = "message"
)

// mapTable takes what a table is that the next rows are of.
func (s *stream) mapTable(ctx context.Context, b []byte) error {
	e, err := s.parse(b)
	if err != nil {
		return err
	}
	m, ok := e.(*replication.TableMapEvent)
	if !ok || !s.inTx {
		return gap("the table map at %v is out of place", s.at)
	}
	name := tableName{string(m.Schema), string(m.Table)}
	message := name.name == messageTable
	wanted := message || s.src.opts.Match(name.schema, name.name)
	_, deletes := s.cascades.deleted[name]
	_, updates := s.cascades.updated[name]
	if !wanted && !deletes && !updates {
		delete(s.byID, m.TableID)
		return nil
	}
	if wanted && s.prepare && !slices.Contains(s.touched, name) {
		s.touched = append(s.touched, name)
	}
	print := s.fingerprint(b)
	known := s.tables[name]
	if known != nil && known.same(print) && (len(known.columns) > 0 || known.broken) && !known.partly() {
		s.byID[m.TableID] = known
		return nil
	}
	var infos []columnInfo
	if needsCatalog(m, s.server.mariadb) {
		if infos, err = s.proven(ctx, name, m); err != nil {
			return err
		}
	}
	t := newTable(name, m, infos, s.sets, s.server.mariadb)
	t.wanted, t.message, t.print = wanted, message, bytes.Clone(print)
	switch {
	case known == nil:
	case known.same(print) && slices.EqualFunc(known.columns, t.columns, func(a, b column) bool { return a.name == b.name && a.form == b.form }):
		t = known
	case !known.same(print) && wanted && !message:
		// Altered, and nobody said so.
		s.change(cdc.OpSchema, known.told, nil)
		s.src.count(func(n *Stats) { n.Altered++ })
	}
	s.tables[name] = t
	s.byID[m.TableID] = t
	return nil
}

// fingerprint is what a table map event says, but for the number of the table, which changes with every FLUSH TABLES.
func (s *stream) fingerprint(b []byte) []byte {
	if s.summed {
		b = b[:len(b)-replication.BinlogChecksumLength]
	}
	return b[min(replication.EventHeaderSize+6, len(b)):]
}

// partly reports whether columns are unclear that the catalog could tell more of.
func (t *table) partly() bool {
	return slices.ContainsFunc(t.columns, func(c column) bool { return c.form == unclear && (c.width == 16 || c.width == 4) })
}

// proven returns what information_schema said of a table, if it said so of the time of this transaction.
//
// It is asked now, and answers of now. Since DDL waits for transactions that use the table, and holds them up until it is in the binary log, what was
// read before the log ended at E is true of what was written after E, up to the next DDL of the table in the log:
//
//	   ... rows of t, as it was         unproven: DDL may lie between them and the reading
//	A: ALTER TABLE t, not logged yet
//	   we read the columns of t, then the end E
//	A: ALTER TABLE is logged            found in the log, and all is asked anew
//	   rows of t
func (s *stream) proven(ctx context.Context, name tableName, m *replication.TableMapEvent) ([]columnInfo, error) {
	in, ok := s.infos[name]
	if ok && !s.first.before(in.from) && !fits(m, in.columns) && time.Since(s.asked) > time.Second {
		ok, s.asked = false, time.Now()
	}
	if !ok {
		columns, err := readColumns(ctx, s.side, name)
		if err != nil {
			return nil, err
		}
		end, err := s.server.end(ctx, s.side)
		if err != nil {
			return nil, err
		}
		in = info{columns, end.spot}
		s.infos[name] = in
	}
	if s.first.before(in.from) || len(in.columns) == 0 {
		return nil, nil
	}
	return in.columns, nil
}

// decodeRows reads the rows of an event if somebody wants them.
func (s *stream) decodeRows(e *replication.RowsEvent, data []byte) error {
	at, err := e.DecodeHeader(data)
	if err != nil {
		return err
	}
	t := s.byID[e.TableID]
	if t == nil || t.broken || s.skip || s.prepare {
		return nil
	}
	if err := e.DecodeData(at, data); err != nil {
		// Of the table, something changed.
		e.Rows, e.SkippedColumns = nil, nil
	}
	return nil
}

// takeRows takes rows of a table.
func (s *stream) takeRows(b []byte, op cdc.Op) error {
	parsed, err := s.parse(b)
	if err != nil {
		return err
	}
	e, ok := parsed.(*replication.RowsEvent)
	if !ok || !s.inTx {
		return gap("rows at %v are out of place", s.at)
	}
	t := s.byID[e.TableID]
	switch {
	case t == nil:
		return nil
	case s.prepare:
		s.touches(t, op)
		return nil
	case s.skip:
		return nil
	}
	s.cascade(t, e, op)
	per := 1
	if op == cdc.OpUpdate {
		per = 2
	}
	switch unread := len(e.Rows) == 0 || len(e.Rows)%per != 0 || len(e.SkippedColumns) != len(e.Rows); {
	case t.message:
		s.messages(t, e, op, unread)
	case !t.wanted:
	case unread:
		s.src.count(func(n *Stats) { n.Unreadable++ })
		s.change(cdc.OpTruncate, t.told, nil)
	default:
		if len(t.columns) == 0 {
			s.src.count(func(n *Stats) { n.Unnamed++ })
		}
		s.rows, s.rowsOp, s.row, s.of = e, op, 0, t
	}
	return nil
}

// touches notes what a transaction changes that is only prepared, as far as foreign keys reach.
func (s *stream) touches(t *table, op cdc.Op) {
	tables := s.cascades.deleted[t.name]
	if op == cdc.OpUpdate {
		tables = nil
		for _, c := range s.cascades.updated[t.name] {
			tables = append(tables, c.tables...)
		}
	}
	if op == cdc.OpInsert {
		return
	}
	for _, c := range tables {
		if !slices.Contains(s.touched, c) {
			s.touched = append(s.touched, c)
		}
	}
}

// cascade tells of tables whose rows a foreign key changes with these.
func (s *stream) cascade(t *table, e *replication.RowsEvent, op cdc.Op) {
	tell := func(tables []tableName) {
		for _, c := range tables {
			s.change(cdc.OpTruncate, s.described(c), nil)
			s.src.count(func(n *Stats) { n.Cascades++ })
		}
	}
	switch op {
	case cdc.OpDelete:
		tell(s.cascades.deleted[t.name])
	case cdc.OpUpdate:
		for _, c := range s.cascades.updated[t.name] {
			if t.mayChange(e, c.columns) {
				tell(c.tables)
			}
		}
	}
}

// mayChange reports whether any of the columns may differ between the images of a row.
func (t *table) mayChange(e *replication.RowsEvent, columns []string) bool {
	if len(e.Rows) == 0 || len(e.Rows)%2 != 0 || len(e.SkippedColumns) != len(e.Rows) {
		return true
	}
	for _, name := range columns {
		i := slices.IndexFunc(t.columns, func(c column) bool { return c.name == name })
		if i < 0 {
			return true
		}
		for r := 0; r < len(e.Rows); r += 2 {
			if slices.Contains(e.SkippedColumns[r+1], i) {
				continue // not changed
			}
			if slices.Contains(e.SkippedColumns[r], i) || !sameValue(e.Rows[r][i], e.Rows[r+1][i]) {
				return true
			}
		}
	}
	return false
}

func sameValue(a, b any) bool {
	if x, ok := a.([]byte); ok {
		y, ok := b.([]byte)
		return ok && bytes.Equal(x, y)
	}
	if _, ok := b.([]byte); ok {
		return false
	}
	return a == b
}

// messages takes what programs wrote to a table of messages. One that can't be found is empty, which the pump doesn't understand, so it drops everything.
func (s *stream) messages(t *table, e *replication.RowsEvent, op cdc.Op, unread bool) {
	if op != cdc.OpInsert {
		return
	}
	if unread {
		s.change(cdc.OpMessage, nil, nil)
		return
	}
	at := slices.IndexFunc(t.columns, func(c column) bool { return c.name == messageColumn })
	for i := range e.Rows {
		var text []byte
		if at >= 0 && e.Rows[i][at] != nil {
			if b, ok := t.columns[at].text(nil, e.Rows[i][at]); ok {
				text = b
			}
		}
		s.change(cdc.OpMessage, nil, text)
	}
}
