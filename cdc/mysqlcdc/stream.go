package mysqlcdc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/freshetdev/freshet/cdc"
)

// A stream is a binary log that is being read. Its goroutines:
//
//	receive  takes events from the feed
//	Next     makes changes of them
type stream struct {
	src     *Source
	server  *server
	side    *side
	feed    *feed
	start   place
	sets    map[uint64]string // character sets by collation
	packets chan packet       // from receive
	wake    chan struct{}     // capacity 1: there is a tick to deliver

	life    context.Context
	end     context.CancelCauseFunc
	closing sync.Once
	wg      sync.WaitGroup

	// These belong to Next.
	parser   *replication.BinlogParser
	at       spot   // after the last event
	created  uint32 // of the file
	summed   bool   // its events have checksums
	first    spot   // where the transaction begins
	tx       cdc.Tx
	gtid     string
	inTx     bool // between its GTID and its end
	alone    bool // the transaction is one statement, without BEGIN and COMMIT
	prepare  bool // it is an XA transaction that is only prepared
	skip     bool // it was delivered before
	told     bool // Begin was delivered
	ending   bool // Commit is to be delivered
	queue    []queued
	next     int // in queue
	rows     *replication.RowsEvent
	rowsOp   cdc.Op
	row      int // in rows
	of       *table
	old, new []cdc.Value
	buf      []byte
	infos    map[tableName]info
	tables   map[tableName]*table
	byID     map[uint64]*table // in this group of row events
	cascades cascades
	touched  []tableName            // by a transaction that is only prepared
	prepared map[string][]tableName // by XA id
	asked    time.Time              // when information_schema was last asked since it didn't fit

	mu     sync.Mutex // guards what follows
	err    error      // why the stream ended
	seen   spot       // all up to here was read
	inFly  bool       // a transaction is being read
	tick   uint64     // under way; zero: none
	tickAt spot
	ticked time.Time // when it was asked for
	unseen []begun   // transactions whose visibility nobody asked for yet, in order
}

// An info is what information_schema says of a table.
type info struct {
	columns []columnInfo
	from    spot // it holds for transactions that begin there or later, until DDL of the table
}

// A begun is a transaction that was begun by Next.
type begun struct {
	at   spot
	gtid string
}

// A queued is a change that is to be delivered before anything else is read.
type queued struct {
	op    cdc.Op
	table *cdc.Table
	text  []byte
}

// A packet is an event of the feed, or why there are no more.
type packet struct {
	b   []byte
	err error
}

func (s *stream) run() {
	s.life, s.end = context.WithCancelCause(context.Background())
	s.wg.Go(s.receive)
}

// receive takes events until the feed ends. A server that is silent is taken for dead: it has something to say every second.
func (s *stream) receive() {
	for {
		if err := s.feed.net.SetReadDeadline(time.Now().Add(s.src.opts.Timeout)); err != nil {
			_ = s.fail(fmt.Errorf("mysqlcdc: read: %w", err))
			return
		}
		b, err := s.feed.packet(s.life)
		if errors.Is(err, errEndOfLog) {
			err = errors.New("mysqlcdc: the server ended the feed")
		}
		var timeout interface{ Timeout() bool }
		if errors.As(err, &timeout) && timeout.Timeout() || err != nil && strings.Contains(err.Error(), "i/o timeout") {
			silent := time.Since(time.Unix(0, s.feed.last.Load()))
			err = fmt.Errorf("mysqlcdc: the server has been silent for %v", silent.Round(time.Millisecond))
		}
		select {
		case s.packets <- packet{b, err}:
		case <-s.life.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// Start returns where the stream begins.
func (s *stream) Start() cdc.Position { return s.start.position() }

// Next waits for the next event.
//
//	log                    state            delivered
//	GTID                   –                nothing yet: transactions without changes of interest are left out
//	rows, DDL              not told         Begin, then the change
//	rows, DDL              told             the change
//	XID, COMMIT            told             Commit
//	any                    between          Ticked, if the tick under way is reached
func (s *stream) Next(ctx context.Context, ev *cdc.Event) error {
	for {
		if s.deliver(ev) {
			return nil
		}
		if err := s.failed(); err != nil {
			return err
		}
		select {
		case p := <-s.packets:
			err := p.err
			if err == nil {
				err = s.take(ctx, p.b)
			}
			if err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				return s.fail(err)
			}
		case <-s.wake:
		case <-ctx.Done():
			return s.fail(context.Cause(ctx))
		case <-s.life.Done():
		}
	}
}

// deliver writes what needs no reading to ev.
func (s *stream) deliver(ev *cdc.Event) bool {
	pending := s.next < len(s.queue) || s.rows != nil
	switch {
	case pending && !s.told:
		s.told = true
		s.mu.Lock()
		s.unseen = append(s.unseen, begun{s.first, s.gtid})
		s.mu.Unlock()
		*ev = cdc.Event{Kind: cdc.Begin, Tx: s.tx}
		return true
	case s.next < len(s.queue):
		q := s.queue[s.next]
		if s.next++; s.next == len(s.queue) {
			s.queue, s.next = s.queue[:0], 0
		}
		*ev = cdc.Event{Kind: cdc.Changed, Change: cdc.Change{Op: q.op, Table: q.table, Message: q.text}}
		return true
	case s.rows != nil:
		s.deliverRow(ev)
		return true
	case s.ending:
		s.ending, s.told = false, false
		*ev = cdc.Event{Kind: cdc.Commit, Tx: s.tx}
		return true
	case s.inTx:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tick != 0 && !s.at.before(s.tickAt) {
		pos := place{server: s.server.id, spot: s.at, created: s.created}
		*ev = cdc.Event{Kind: cdc.Ticked, Tick: s.tick, Pos: pos.position()}
		s.tick = 0
		return true
	}
	return false
}

// deliverRow delivers the next row of an event.
func (s *stream) deliverRow(ev *cdc.Event) {
	e, t := s.rows, s.of
	s.old, s.new, s.buf = s.old[:0], s.new[:0], s.buf[:0]
	c := cdc.Change{Op: s.rowsOp, Table: t.told}
	// Not nil, even if the table has no columns that have names.
	if s.old == nil {
		s.old, s.new = make([]cdc.Value, 0, 16), make([]cdc.Value, 0, 16)
	}
	switch s.rowsOp {
	case cdc.OpInsert: // a column that isn't there has its default
		s.new, s.buf = t.row(s.new, s.buf, e.Rows[s.row], e.SkippedColumns[s.row], nil, cdc.Unknown)
		c.New = s.new
		s.row++
	case cdc.OpDelete:
		s.old, s.buf = t.row(s.old, s.buf, e.Rows[s.row], e.SkippedColumns[s.row], nil, cdc.Unknown)
		c.Old = s.old
		s.row++
	case cdc.OpUpdate:
		s.old, s.buf = t.row(s.old, s.buf, e.Rows[s.row], e.SkippedColumns[s.row], nil, cdc.Unknown)
		s.new, s.buf = t.row(s.new, s.buf, e.Rows[s.row+1], e.SkippedColumns[s.row+1], s.old, cdc.Unchanged)
		c.Old, c.New = s.old, s.new
		s.row += 2
	}
	if s.row >= len(e.Rows) {
		s.rows, s.row = nil, 0
	}
	*ev = cdc.Event{Kind: cdc.Changed, Change: c}
}

// parse decodes an event. What go-mysql can't read, it often panics at.
func (s *stream) parse(b []byte) (e replication.Event, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = gap("event of type %d at %v: %v", b[4], s.at, p)
		}
	}()
	ev, err := s.parser.Parse(b)
	if err != nil {
		return nil, gap("event of type %d at %v: %.300v", b[4], s.at, err)
	}
	return ev.Event, nil
}

func artificial(b []byte) bool {
	return binary.LittleEndian.Uint16(b[17:])&replication.LOG_EVENT_ARTIFICIAL_F != 0 || binary.LittleEndian.Uint32(b[13:]) == 0 && b[4] == byte(replication.ROTATE_EVENT)
}

// advance moves on by an event. Its offset has 32 bits, and in MariaDB 11.4 and later may be missing within a transaction; its size always counts.
func (s *stream) advance(b []byte) {
	if artificial(b) {
		return
	}
	size, low := uint64(binary.LittleEndian.Uint32(b[9:])), binary.LittleEndian.Uint32(b[13:])
	off := s.at.off + size
	if low != 0 && uint32(off) != low {
		// Something was not sent.
		if off = s.at.off&^0xffffffff | uint64(low); off < s.at.off {
			off += 1 << 32
		}
	}
	s.at.off = off
}

// reached publishes how far it is.
func (s *stream) reached() {
	s.mu.Lock()
	s.seen, s.inFly = s.at, s.inTx
	s.mu.Unlock()
}

// take makes changes of an event.
func (s *stream) take(ctx context.Context, b []byte) error {
	from := s.at
	typ := replication.EventType(b[4])
	switch typ {
	case replication.HEARTBEAT_EVENT, replication.HEARTBEAT_LOG_EVENT_V2:
		return s.beat(b)
	case replication.ROTATE_EVENT:
		return s.rotate(b)
	}
	s.advance(b)
	defer s.reached()
	switch typ {
	case replication.FORMAT_DESCRIPTION_EVENT:
		if s.inTx {
			return gap("transaction %s at %v has no end: the server crashed", s.gtid, s.first)
		}
		s.created = binary.LittleEndian.Uint32(b)
		clear(s.byID)
		return s.describe(b)
	case replication.GTID_EVENT, replication.MARIADB_GTID_EVENT:
		return s.begins(b, from)
	case replication.ANONYMOUS_GTID_EVENT:
		return gap("the transaction at %v has no GTID: gtid_mode was switched off", from)
	case replication.GTID_TAGGED_LOG_EVENT:
		return gap("the transaction at %v has a GTID with a tag, which isn't read", from)
	case replication.TRANSACTION_PAYLOAD_EVENT:
		return gap("transaction %s at %v is compressed: want binlog_transaction_compression=OFF in all sessions", s.gtid, s.first)
	case replication.INCIDENT_EVENT:
		return gap("the server lost events at %v (incident)", from)
	case replication.QUERY_EVENT, replication.MARIADB_QUERY_COMPRESSED_EVENT:
		e, err := s.parse(b)
		if err != nil {
			return err
		}
		q, ok := e.(*replication.QueryEvent)
		if !ok {
			return gap("event of type %d at %v is no query", typ, from)
		}
		return s.query(ctx, string(q.Query), string(q.Schema))
	case replication.XID_EVENT:
		return s.ends()
	case replication.XA_PREPARE_LOG_EVENT:
		return s.prepares(b)
	case replication.TABLE_MAP_EVENT:
		return s.mapTable(ctx, b)
	case replication.STOP_EVENT, replication.PREVIOUS_GTIDS_EVENT, replication.ROWS_QUERY_EVENT, replication.IGNORABLE_EVENT,
		replication.TRANSACTION_CONTEXT_EVENT, replication.VIEW_CHANGE_EVENT, // of group replication
		replication.INTVAR_EVENT, replication.RAND_EVENT, replication.USER_VAR_EVENT, // before a statement, which is judged itself
		replication.MARIADB_ANNOTATE_ROWS_EVENT, replication.MARIADB_BINLOG_CHECKPOINT_EVENT, replication.MARIADB_GTID_LIST_EVENT, replication.MARIADB_START_ENCRYPTION_EVENT:
		return nil
	}
	if op := rowsOp(typ); op != 0 {
		return s.takeRows(b, op)
	}
	if binary.LittleEndian.Uint16(b[17:])&replication.LOG_EVENT_IGNORABLE_F != 0 {
		return nil
	}
	return gap("event of type %d at %v isn't known", typ, from)
}

func rowsOp(t replication.EventType) cdc.Op {
	switch t {
	case replication.WRITE_ROWS_EVENTv0, replication.WRITE_ROWS_EVENTv1, replication.WRITE_ROWS_EVENTv2, replication.MARIADB_WRITE_ROWS_COMPRESSED_EVENT_V1:
		return cdc.OpInsert
	case replication.UPDATE_ROWS_EVENTv0, replication.UPDATE_ROWS_EVENTv1, replication.UPDATE_ROWS_EVENTv2, replication.MARIADB_UPDATE_ROWS_COMPRESSED_EVENT_V1,
		replication.PARTIAL_UPDATE_ROWS_EVENT:
		return cdc.OpUpdate
	case replication.DELETE_ROWS_EVENTv0, replication.DELETE_ROWS_EVENTv1, replication.DELETE_ROWS_EVENTv2, replication.MARIADB_DELETE_ROWS_COMPRESSED_EVENT_V1:
		return cdc.OpDelete
	}
	return 0
}

// beat takes a sign of life. The server sends it when it has sent all that is there, so a tick whose end doesn't come then never will: the feed is of a
// file that the log is not written to any more (RESET MASTER).
func (s *stream) beat(b []byte) error {
	if low := uint64(binary.LittleEndian.Uint32(b[13:])); !s.inTx && s.at.off < 1<<32 && low > s.at.off {
		s.at.off = low // events that aren't sent
	}
	s.reached()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tick != 0 && s.at.before(s.tickAt) && time.Since(s.ticked) > s.src.opts.Timeout {
		return gap("the feed stays at %v, and the binary log ends at %v: it began anew", s.at, s.tickAt)
	}
	return nil
}

// rotate goes on to another file.
func (s *stream) rotate(b []byte) error {
	body := b[replication.EventHeaderSize:]
	if len(body) < 9 {
		return gap("the event that names the next file has %d bytes", len(b))
	}
	// It may carry a checksum, which only the description of the file tells of that comes next.
	name := string(body[8:])
	base := s.at.file[:strings.LastIndexByte(s.at.file, '.')+1]
	digits := 0
	for rest := strings.TrimPrefix(name, base); digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9'; digits++ {
	}
	switch extra := len(name) - len(base) - digits; {
	case !strings.HasPrefix(name, base) || digits == 0 || extra != 0 && extra > 4:
		return gap("the next file is %.60q; want one that begins with %s", name, base)
	case extra > 0: // of the checksum, some bytes looked like digits
		name = name[:len(name)-4]
	case s.summed && digits > 4+len(s.at.file)-len(base)-1:
		name = name[:len(name)-4]
	}
	if !validFile(name) {
		return gap("the next file is %.60q; want a name that ends with digits", name)
	}
	next := spot{name, binary.LittleEndian.Uint64(body)}
	switch {
	case next.file == s.at.file:
		return nil // where it is already
	case next.before(s.at):
		return gap("after file %s comes %s: the binary log began anew", s.at.file, next.file)
	}
	s.at = next
	s.reached()
	return nil
}

// describe takes the description of a file.
func (s *stream) describe(b []byte) error {
	e, err := s.parse(b)
	if err != nil {
		return err
	}
	f, ok := e.(*replication.FormatDescriptionEvent)
	if !ok {
		return gap("event of type %d at %v describes no file", b[4], s.at)
	}
	s.summed = f.ChecksumAlgorithm == replication.BINLOG_CHECKSUM_ALG_CRC32
	return nil
}

// begins takes the GTID of a transaction.
func (s *stream) begins(b []byte, at spot) error {
	if s.inTx {
		return gap("a transaction begins at %v within that at %v", at, s.first)
	}
	e, err := s.parse(b)
	if err != nil {
		return err
	}
	s.alone, s.prepare = true, false
	s.first, s.touched = at, nil
	s.tx = cdc.Tx{}
	switch e := e.(type) {
	case *replication.GTIDEvent:
		s.gtid = mysqlGTID(e)
		if us := e.ImmediateCommitTimestamp; us != 0 {
			s.tx.Committed = time.UnixMicro(int64(us))
		}
	case *replication.MariadbGTIDEvent:
		s.gtid = e.GTID.String()
		s.alone = e.IsStandalone()
		s.prepare = e.Flags&flagPreparedXA != 0
	default:
		return gap("event of type %d at %v is no GTID", b[4], at)
	}
	s.tx.ID = s.gtid
	s.tx.Pos = place{server: s.server.id, spot: at, created: s.created, gtid: s.gtid}.position()
	s.inTx = true
	return nil
}

// flagPreparedXA is set by MariaDB for a group that ends with XA PREPARE.
const flagPreparedXA = 64

// ends ends a transaction.
func (s *stream) ends() error {
	if !s.inTx {
		return gap("at %v ends a transaction that didn't begin", s.at)
	}
	s.inTx, s.skip, s.prepare = false, false, false
	s.ending = s.told || s.next < len(s.queue) || s.rows != nil
	return nil
}

// change queues a change, unless the transaction was delivered before.
func (s *stream) change(op cdc.Op, t *cdc.Table, text []byte) {
	if !s.skip {
		s.queue = append(s.queue, queued{op, t, text})
	}
}

// described returns the table as it was told of last, or its name alone.
func (s *stream) described(t tableName) *cdc.Table {
	if known := s.tables[t]; known != nil {
		return known.told
	}
	return &cdc.Table{Schema: t.schema, Name: t.name}
}

// query takes a statement.
func (s *stream) query(ctx context.Context, text, schema string) error {
	st := parseStatement(text, schema)
	if !s.inTx {
		if st.kind == harmless {
			return nil
		}
		return gap("at %v there is a statement outside of a transaction: %.60q", s.at, text)
	}
	switch st.kind {
	case begins:
		s.alone = false
		return nil
	case commits, rollsBack:
		// What is rolled back but logged was written to tables without transactions, or may have been.
		return s.ends()
	case xaStarts:
		s.alone, s.prepare = false, true
		return nil
	case xaCommits:
		tables, ok := s.prepared[st.xid]
		if !ok && !s.skip {
			return gap("transaction %s commits XA %.60s, which was prepared before the stream began", s.gtid, st.xid)
		}
		delete(s.prepared, st.xid)
		for _, t := range tables {
			s.change(cdc.OpTruncate, s.described(t), nil)
		}
	case xaRollsBack:
		delete(s.prepared, st.xid)
	case alters:
		if err := s.alters(ctx, st); err != nil {
			return err
		}
	case truncates:
		for _, t := range st.tables {
			t = s.server.fold(t)
			if s.src.opts.Match(t.schema, t.name) {
				s.change(cdc.OpTruncate, s.described(t), nil)
			}
		}
	case harmless:
	default:
		return gap("transaction %s has a statement from which changes can't be told: %.80q", s.gtid, text)
	}
	if s.alone {
		return s.ends()
	}
	return nil
}

// alters takes DDL. What was known of the tables isn't, from here on.
func (s *stream) alters(ctx context.Context, st statement) error {
	for _, t := range st.tables {
		t = s.server.fold(t)
		if s.src.opts.Match(t.schema, t.name) {
			s.change(cdc.OpSchema, s.described(t), nil)
			s.src.count(func(n *Stats) { n.Altered++ })
		}
		delete(s.tables, t)
		delete(s.infos, t)
	}
	if st.foreign {
		return s.learnKeys(ctx)
	}
	return nil
}

// prepares takes the end of a group that XA PREPARE wrote, or XA COMMIT ONE PHASE.
func (s *stream) prepares(b []byte) error {
	body := b[replication.EventHeaderSize:]
	xid, onePhase, ok := readXID(body)
	if !ok || !s.inTx {
		return gap("XA PREPARE at %v can't be read", s.at)
	}
	switch {
	case onePhase:
		for _, t := range s.touched {
			s.change(cdc.OpTruncate, s.described(t), nil)
		}
	case len(s.prepared) >= maxPrepared:
		return gap("more than %d XA transactions are prepared", maxPrepared)
	default:
		s.prepared[xid] = s.touched
	}
	return s.ends()
}

// maxPrepared bounds the XA transactions that are remembered until they commit.
const maxPrepared = 10000

// readXID reads the event of XA PREPARE: a byte for ONE PHASE, the format, the lengths of the two parts, all of 4 bytes, and those.
func readXID(b []byte) (xid string, onePhase, ok bool) {
	if len(b) < 13 {
		return "", false, false
	}
	format, first, second := binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint32(b[5:]), binary.LittleEndian.Uint32(b[9:])
	onePhase = b[0] != 0
	if b = b[13:]; first > 64 || second > 64 || len(b) < int(first+second) {
		return "", false, false
	}
	return fmt.Sprintf("x'%x',x'%x',%d", b[:first], b[first:first+second], int32(format)), onePhase, true
}

// Tick reads the end of the binary log. It comes with what is read, or is there already.
func (s *stream) Tick(ctx context.Context, n uint64) error {
	s.mu.Lock()
	seen := s.seen
	s.mu.Unlock()
	ctx, stop := s.alive(ctx)
	defer stop()
	end, err := s.server.end(ctx, s.side)
	if err != nil {
		return s.cause(err)
	}
	if end.before(seen) {
		return s.fail(gap("the binary log ends at %v, before %v that was read: it began anew", end.spot, seen))
	}
	s.mu.Lock()
	s.tick, s.tickAt, s.ticked = n, end.spot, time.Now()
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// Ack does nothing: the server keeps its binary log for as long as it is told to (binlog_expire_logs_seconds).
func (s *stream) Ack(_ context.Context, pos cdc.Position) error {
	p, err := parsePlace(pos)
	if err != nil {
		return err
	}
	if p.server == s.server.id {
		s.forget(p.spot)
	}
	return nil
}

// alive is ctx for as long as the stream lives.
func (s *stream) alive(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// cause is why a question wasn't answered: that the stream ended, if it did.
func (s *stream) cause(err error) error {
	if e := s.failed(); e != nil {
		return e
	}
	return err
}

var errClosed = errors.New("mysqlcdc: the stream is closed")

// fail ends the stream, for the first reason given, and returns that.
func (s *stream) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.end(err)
		_ = s.feed.close() // wakes who reads
	}
	return s.err
}

func (s *stream) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the stream.
func (s *stream) Close() error {
	s.closing.Do(func() {
		_ = s.fail(errClosed)
		s.wg.Wait()
		s.side.close()
	})
	return nil
}
