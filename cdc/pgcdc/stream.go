package pgcdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/freshetdev/freshet/cdc"
)

const (
	// beatEvery is the time between signs of life.
	beatEvery = time.Second

	// forceAfter is when a tick writes to the log: commits with synchronous_commit=off come out only when that is flushed,
	// up to 200 ms x 3 later. A database that is at rest answers sooner.
	forceAfter = 5 * time.Millisecond
)

// prefixTick is the prefix of the messages that ticks write.
const prefixTick = "freshet-tick"

// A stream is a slot that is being read. Its goroutines:
//
//	Next     reads the connection
//	beat     tells the server that we live, and notices when it doesn't
//	hasten   sees to it that a tick ends
//	watch    looks at the slot and the catalog
type stream struct {
	src   *Source
	side  *side
	start place
	conn  *pgconn.PgConn // hijacked: only its frontend is used, by Next for reading, under wmu for writing
	net   net.Conn
	heard *atomic.Int64 // when the server said something last, Unix nanoseconds
	pid   uint32

	calls   atomic.Uint64 // call of the Next that runs; zero if none does
	reading atomic.Int64  // since when Next waits for the server, Unix nanoseconds; zero if it doesn't
	nudge   chan uint64   // capacity 1: a tick for hasten
	life    context.Context
	end     context.CancelCauseFunc
	closing sync.Once
	wg      sync.WaitGroup

	// These belong to Next.
	watched  <-chan struct{} // Done of the context that ends Next
	call     uint64          // one more for each such context
	msg      message
	tx       cdc.Tx
	final    pglogrepl.LSN // of the transaction: where its commit record starts
	xid      uint32
	inTx     bool // between begin and commit of the server
	told     bool // Begin was delivered
	ending   bool // Commit is to be delivered
	queue    []queued
	next     int // in queue
	old, new []cdc.Value

	wmu sync.Mutex // one writer at a time; before mu

	mu       sync.Mutex    // guards what follows
	err      error         // why the stream ended
	unwatch  func() bool   // lets go of the context that ends Next
	at       pglogrepl.LSN // all up to here was delivered, or is of no interest
	acked    pglogrepl.LSN
	tick     uint64 // under way; zero: none
	tickAt   pglogrepl.LSN
	unseen   []begun      // transactions whose visibility nobody asked for yet, in order
	appeared []*cdc.Table // to tell of, since they were altered or published
	visible  int          // how many of those may be told of now

	// These belong to watch.
	tables      map[string]*table // by oid, as they were
	publication string            // oid
}

// A begun is a transaction that was begun by Next.
type begun struct {
	lsn pglogrepl.LSN // its position
	xid uint32
}

// A queued is a change that is to be delivered before anything else is read.
type queued struct {
	op    cdc.Op
	table *cdc.Table
	text  []byte
}

func newStream(s *Source, d *side, conn *pgconn.PgConn, heard *atomic.Int64, start place, acked pglogrepl.LSN, found *catalog) (*stream, error) {
	h, err := conn.Hijack()
	if err != nil {
		return nil, fmt.Errorf("pgcdc: %w", err)
	}
	st := &stream{
		src: s, side: d, start: start, conn: conn, net: h.Conn, heard: heard, pid: h.PID,
		nudge: make(chan uint64, 1),
		at:    start.lsn, acked: acked,
		tables: found.byOID(), publication: found.publication.oid,
	}
	st.life, st.end = context.WithCancelCause(context.Background())
	return st, nil
}

func (s *stream) run() {
	s.wg.Go(s.beat)
	s.wg.Go(s.hasten)
	s.wg.Go(s.watch)
}

// closeConn ends a connection that no stream has.
func closeConn(conn *pgconn.PgConn) {
	_ = conn.Conn().Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// Start returns where the stream begins.
func (s *stream) Start() cdc.Position { return s.start.position() }

func (s *stream) place(lsn pglogrepl.LSN) cdc.Position {
	return place{s.start.history, lsn}.position()
}

// after is the position after a transaction whose commit record starts at lsn. The server leaves out those that start before the
// place where replication begins, so one byte more is enough, and unlike the end of the record it is known at begin.
func after(lsn pglogrepl.LSN) pglogrepl.LSN { return lsn + 1 }

// Next waits for the next event.
//
//	server      state          delivered
//	begin       –              nothing yet: transactions without changes of interest are left out
//	change      not told       Begin, then the change
//	change      told           the change
//	commit      told           Commit
//	keep-alive  between        Ticked, if the tick under way is reached
func (s *stream) Next(ctx context.Context, ev *cdc.Event) error {
	s.watchOver(ctx)
	defer s.calls.Store(0)
	if ctx.Err() != nil {
		return s.fail(context.Cause(ctx))
	}
	for {
		if s.deliver(ev) {
			return nil
		}
		if err := s.failed(); err != nil {
			return err
		}
		if err := s.read(ctx); err != nil {
			return s.fail(err)
		}
	}
}

// watchOver ends the stream when ctx ends during this call of Next. It is set up once for all calls with the same context, as they are
// many. What ctx does between calls is of no interest.
func (s *stream) watchOver(ctx context.Context) {
	if done := ctx.Done(); done != s.watched {
		s.watched = done
		s.call++
		call := s.call
		unwatch := context.AfterFunc(ctx, func() {
			if s.calls.Load() == call {
				_ = s.fail(context.Cause(ctx))
			}
		})
		s.mu.Lock()
		unwatch, s.unwatch = s.unwatch, unwatch
		s.mu.Unlock()
		if unwatch != nil {
			unwatch()
		}
	}
	s.calls.Store(s.call)
}

// deliver writes what needs no reading to ev.
func (s *stream) deliver(ev *cdc.Event) bool {
	switch {
	case s.next < len(s.queue) && !s.told:
		s.told = true
		s.mu.Lock()
		s.unseen = append(s.unseen, begun{after(s.final), s.xid})
		s.mu.Unlock()
		*ev = cdc.Event{Kind: cdc.Begin, Tx: s.tx}
		return true
	case s.next < len(s.queue):
		q := s.queue[s.next]
		if s.next++; s.next == len(s.queue) {
			s.queue, s.next = s.queue[:0], 0
		}
		*ev = cdc.Event{Kind: cdc.Changed, Change: cdc.Change{Op: q.op, Table: q.table, Message: q.text}}
		switch q.op {
		case cdc.OpInsert:
			ev.Change.New = s.new
		case cdc.OpUpdate:
			ev.Change.Old, ev.Change.New = s.old, s.new
		case cdc.OpDelete:
			ev.Change.Old = s.old
		}
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
	if n := s.visible; n > 0 {
		// A transaction of our own. What it tells of is visible already.
		for _, t := range s.appeared[:n] {
			s.queue = append(s.queue, queued{op: cdc.OpSchema, table: t})
		}
		s.appeared, s.visible = s.appeared[n:], 0
		s.tx = cdc.Tx{ID: "catalog", Pos: s.place(s.at)}
		s.told, s.ending = true, true
		*ev = cdc.Event{Kind: cdc.Begin, Tx: s.tx}
		return true
	}
	if s.tick != 0 && s.at >= s.tickAt {
		*ev = cdc.Event{Kind: cdc.Ticked, Tick: s.tick, Pos: s.place(s.at)}
		s.tick = 0
		return true
	}
	return false
}

// read takes one message from the server.
func (s *stream) read(ctx context.Context) error {
	s.reading.Store(time.Now().UnixNano())
	msg, err := s.conn.Frontend().Receive()
	s.reading.Store(0)
	if err != nil {
		return fmt.Errorf("pgcdc: read: %w", err)
	}
	switch msg := msg.(type) {
	case *pgproto3.CopyData:
		return s.data(ctx, msg.Data)
	case *pgproto3.ErrorResponse:
		return broken(fmt.Errorf("pgcdc: read: %w", pgconn.ErrorResponseToPgError(msg)))
	case *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
		return fmt.Errorf("pgcdc: read: the server ended the stream: %w", io.EOF)
	}
	return nil // notices, parameters
}

// data takes what is in a message of the replication stream.
func (s *stream) data(ctx context.Context, b []byte) error {
	if len(b) == 0 {
		return gap("empty message")
	}
	switch b[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(b[1:])
		if err != nil {
			return gap("%w", err)
		}
		// Within a transaction it speaks of what came before that.
		s.reached(k.ServerWALEnd)
		if k.ReplyRequested {
			return s.status(false)
		}
		return nil
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(b[1:])
		if err != nil {
			return gap("%w", err)
		}
		if err := s.msg.decode(x.WALData); err != nil {
			return gap("%w", err)
		}
		return s.take(ctx)
	}
	return gap("no message of replication is of type %q", b[0])
}

// reached notes that nothing up to lsn is to come any more.
func (s *stream) reached(lsn pglogrepl.LSN) {
	s.mu.Lock()
	s.at = max(s.at, lsn)
	s.mu.Unlock()
}

// take makes events of the decoded message.
func (s *stream) take(ctx context.Context) (err error) {
	m := &s.msg
	switch m.kind {
	case 'B':
		if s.inTx {
			return gap("a transaction begins within another, at %v", m.lsn)
		}
		s.inTx, s.told = true, false
		s.final, s.xid = m.lsn, m.xid
		s.tx = cdc.Tx{ID: strconv.FormatUint(uint64(m.xid), 10), Pos: s.place(after(m.lsn)), Committed: m.at}
		return nil
	case 'C':
		if !s.inTx || m.lsn != s.final {
			return gap("commit of %v comes within the transaction of %v", m.lsn, s.final)
		}
		s.inTx, s.ending = false, s.told
		s.reached(m.end)
		return nil
	case 'M':
		return s.written(m)
	case 'O', 'Y':
		return nil
	}
	if !s.inTx {
		return gap("message %q comes outside of a transaction", m.kind)
	}
	switch m.kind {
	case 'R':
		return s.relation(ctx, m.rel)
	case 'T':
		for _, id := range m.tables {
			rel, err := s.src.known(id)
			if err != nil {
				return err
			}
			s.queue = append(s.queue, queued{op: cdc.OpTruncate, table: rel.table})
		}
		return nil
	}
	rel, err := s.src.known(m.table)
	if err != nil {
		return err
	}
	q := queued{table: rel.table}
	s.old, s.new = s.old[:0], s.new[:0]
	if m.kind == 'I' || m.kind == 'U' {
		q.op = cdc.OpInsert
		if s.new, err = rel.newRow(s.new, m.new); err != nil {
			return gap("%w", err)
		}
	}
	switch {
	case m.oldKind != 0:
		s.old, err = rel.oldRow(s.old, m.oldKind, m.old)
	case m.kind == 'U':
		s.old = rel.unsentRow(s.old, s.new)
	}
	if err != nil {
		return gap("%w", err)
	}
	switch m.kind {
	case 'U':
		q.op = cdc.OpUpdate
	case 'D':
		q.op = cdc.OpDelete
	}
	s.queue = append(s.queue, q)
	return nil
}

// written takes what a program wrote with pg_logical_emit_message. Outside of a transaction it is one by itself.
func (s *stream) written(m *message) error {
	switch {
	case m.inTx && !s.inTx:
		return gap("a message of a transaction comes outside of it, at %v", m.lsn)
	case string(m.prefix) != cdc.MessagePrefix:
		return nil
	case !m.inTx && s.inTx:
		return gap("a message without transaction comes within one, at %v", m.lsn)
	}
	if !m.inTx {
		s.tx = cdc.Tx{ID: "message", Pos: s.place(after(m.lsn))}
		s.reached(after(m.lsn))
		s.told, s.ending = false, true
		s.final, s.xid = m.lsn, 0
	}
	s.queue = append(s.queue, queued{op: cdc.OpMessage, text: m.text})
	return nil
}

// known returns what a table is.
func (s *Source) known(id uint32) (*relation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rel := s.tables[id]
	if rel == nil {
		return nil, gap("a change is of table %d, of which nothing was said", id)
	}
	return rel, nil
}

// relation takes what a table is from now on. If that is not what it was, or another table has its name, the old one
// was altered.
func (s *stream) relation(ctx context.Context, m relationMessage) error {
	rel, err := newRelation(ctx, s.side, m)
	if err != nil {
		return err
	}
	s.src.mu.Lock()
	defer s.src.mu.Unlock()
	altered := func(t *cdc.Table) {
		s.queue = append(s.queue, queued{op: cdc.OpSchema, table: t})
		s.src.stats.Altered++
	}
	was := s.src.tables[m.id]
	switch {
	case was == nil:
	case was.same(rel):
		rel.table = was.table
	default:
		altered(was.table)
		if was.schema != rel.schema || was.name != rel.name {
			altered(rel.table)
		}
	}
	for id, other := range s.src.tables {
		if id != m.id && other.schema == m.schema && other.name == m.name {
			altered(other.table)
			delete(s.src.tables, id)
		}
	}
	s.src.tables[m.id] = rel
	return nil
}

// Visible is the barrier. PostgreSQL sends a commit before it shows it: between the two it waits for synchronous standbys,
// without end if they don't come, and for its turn.
//
//	A: writes its commit to the log
//	   we read it, and drop
//	B: reads the old row, and stores it: nothing will ever drop it
//	A: is visible
//
// So all transactions are looked for in snapshots of the primary until none of them is under way. An LSN says nothing of that.
func (s *stream) Visible(ctx context.Context, pos cdc.Position) error {
	p, err := s.ours(pos)
	if err != nil {
		return err
	}
	s.mu.Lock()
	var look []uint32
	for _, b := range s.unseen {
		if b.lsn <= p.lsn && b.xid != 0 {
			look = append(look, b.xid)
		}
	}
	s.mu.Unlock()
	if p == s.start {
		if err := s.settled(ctx); err != nil {
			return err
		}
	}
	err = s.poll(ctx, func(snap *snapshot) bool {
		kept := look[:0]
		for _, xid := range look {
			if !snap.shows(xid) {
				kept = append(kept, xid)
			}
		}
		look = kept
		return len(look) == 0
	}, len(look) == 0)
	if err != nil {
		return err
	}
	s.forget(p.lsn)
	return nil
}

// forget lets go of transactions whose visibility is settled.
func (s *stream) forget(upTo pglogrepl.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(s.unseen) && s.unseen[n].lsn <= upTo {
		n++
	}
	s.unseen = append(s.unseen[:0], s.unseen[n:]...)
}

// settled returns when all transactions that have a number now have ended. Any that committed before has one: it waits for long ones
// that write, too, since one that waits for its standby can't be told from them.
func (s *stream) settled(ctx context.Context) error {
	r, err := s.ask(ctx, `select pg_current_xact_id()`)
	if err != nil {
		return err
	}
	limit, err := strconv.ParseUint(r[0], 10, 64)
	if err != nil {
		return fmt.Errorf("pgcdc: transaction id: %w", err)
	}
	return s.poll(ctx, func(snap *snapshot) bool { return snap.min >= limit }, false)
}

// poll asks for snapshots until one is good. The first pauses are short, since most commits are visible within a fraction of a
// millisecond; without them the asking would take the processor from the committers.
func (s *stream) poll(ctx context.Context, good func(*snapshot) bool, already bool) error {
	if already {
		return ctx.Err()
	}
	for wait := 150 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		r, err := s.ask(ctx, `select pg_current_snapshot()`)
		if err != nil {
			return err
		}
		snap, err := parseSnapshot(r[0])
		if err != nil {
			return err
		}
		if good(snap) {
			return nil
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// ask asks the primary, as long as the stream lives.
func (s *stream) ask(ctx context.Context, sql string) ([]string, error) {
	if err := s.failed(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })()
	r, err := s.side.ask(ctx, sql)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, fmt.Errorf("pgcdc: side connection: %w", err)
	}
	return r, nil
}

// A snapshot is which transactions have ended: all below min, and those below max that are not in open.
type snapshot struct {
	min, max uint64
	open     map[uint64]bool
}

// parseSnapshot reads a pg_snapshot: "min:max:open,open".
func parseSnapshot(text string) (*snapshot, error) {
	bad := func() (*snapshot, error) {
		return nil, fmt.Errorf("pgcdc: snapshot is %.60q; want min:max:list", text)
	}
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return bad()
	}
	var err1, err2 error
	snap := &snapshot{open: make(map[uint64]bool)}
	snap.min, err1 = strconv.ParseUint(parts[0], 10, 64)
	snap.max, err2 = strconv.ParseUint(parts[1], 10, 64)
	if err1 != nil || err2 != nil || snap.min > snap.max {
		return bad()
	}
	if parts[2] == "" {
		return snap, nil
	}
	for xid := range strings.SplitSeq(parts[2], ",") {
		n, err := strconv.ParseUint(xid, 10, 64)
		if err != nil {
			return bad()
		}
		snap.open[n] = true
	}
	return snap, nil
}

// shows reports whether a transaction has ended. Its number has 32 bits; the others are those of the one closest to the snapshot's
// end, as for PostgreSQL itself.
func (s *snapshot) shows(xid uint32) bool {
	full := s.max + uint64(int64(int32(xid-uint32(s.max))))
	return full < s.max && !s.open[full]
}

// Tick reads the end of the log and asks the server how far it is.
func (s *stream) Tick(ctx context.Context, n uint64) error {
	// What isn't flushed yet counts: with synchronous_commit=off it is visible before.
	end, err := endOfLog(ctx, s.ask, "insert")
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.tick, s.tickAt = n, end
	s.mu.Unlock()
	if err := s.status(true); err != nil {
		return err
	}
	select {
	case <-s.nudge:
	default:
	}
	s.nudge <- n
	return nil
}

// Ack tells the server up to where the log need not be kept. Keep-alives repeat it, and never say more.
func (s *stream) Ack(_ context.Context, pos cdc.Position) error {
	p, err := parsePlace(pos)
	if err != nil {
		return err
	}
	if p.history != s.start.history {
		return nil // this server keeps nothing for it
	}
	s.mu.Lock()
	s.acked = max(s.acked, p.lsn)
	s.mu.Unlock()
	s.forget(p.lsn)
	return s.status(false)
}

// ours parses a position of this stream's history.
func (s *stream) ours(pos cdc.Position) (place, error) {
	p, err := parsePlace(pos)
	if err == nil && p.history != s.start.history {
		err = fmt.Errorf("pgcdc: position %s is of another history than this stream, which began at %s", pos, s.Start())
	}
	return p, err
}

// status sends a status update. ask wants an answer: how far the server is.
func (s *stream) status(ask bool) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	at, acked, err := s.at, s.acked, s.err
	s.mu.Unlock()
	if err != nil {
		return err
	}
	err = s.net.SetWriteDeadline(time.Now().Add(s.src.opts.Timeout))
	if err == nil {
		// All three are given: pglogrepl takes one for another that is zero.
		err = pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, pglogrepl.StandbyStatusUpdate{
			WALWritePosition: max(at, acked), WALFlushPosition: acked, WALApplyPosition: acked, ReplyRequested: ask,
		})
	}
	if err != nil {
		return s.fail(fmt.Errorf("pgcdc: status: %w", err))
	}
	return nil
}

// beat shows that we live, whether Next is called or not, and ends the stream when the server is silent.
func (s *stream) beat() {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		select {
		case <-s.life.Done():
			return
		case <-t.C:
		}
		since := s.reading.Load()
		if since != 0 {
			silent := time.Since(time.Unix(0, max(since, s.heard.Load())))
			if silent > s.src.opts.Timeout {
				_ = s.fail(fmt.Errorf("pgcdc: the server has been silent for %v", silent.Round(time.Millisecond)))
				return
			}
		}
		// Nobody reads the answers while the pump waits for the store.
		if s.status(since != 0) != nil {
			return
		}
	}
}

// hasten waits for ticks that aren't delivered soon: it forces the log out, and asks again and again how far the server is.
func (s *stream) hasten() {
	for {
		select {
		case <-s.life.Done():
			return
		case n := <-s.nudge:
			if err := s.hastenOne(n); err != nil {
				_ = s.fail(err)
				return
			}
		}
	}
}

func (s *stream) hastenOne(n uint64) error {
	for i, wait := 0, forceAfter; ; i, wait = i+1, min(2*wait, time.Second) {
		if err := pause(s.life, wait); err != nil {
			return err
		}
		s.mu.Lock()
		over := s.tick != n
		s.mu.Unlock()
		if over {
			return nil
		}
		if i == 0 {
			if _, err := s.ask(s.life, `select pg_logical_emit_message(true, '`+prefixTick+`', '')`); err != nil {
				return err
			}
		}
		if s.reading.Load() == 0 && i > 0 {
			continue // nobody would hear the answer
		}
		if err := s.status(true); err != nil {
			return err
		}
	}
}

var errClosed = errors.New("pgcdc: the stream is closed")

// fail ends the stream, for the first reason given, and returns that.
func (s *stream) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.end(err)
		_ = s.net.Close() // wakes who reads or writes
	}
	return s.err
}

func (s *stream) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the stream. The server frees the slot when it notices, so that is waited for, as far as it can be seen.
func (s *stream) Close() error {
	s.closing.Do(func() {
		s.goodbye()
		_ = s.fail(errClosed)
		s.wg.Wait()
		s.mu.Lock()
		unwatch := s.unwatch
		s.mu.Unlock()
		if unwatch != nil {
			unwatch()
		}
		s.src.awaitFree(s.side, s.pid)
		s.side.close()
	})
	return nil
}

// goodbye tells the server that no more is wanted.
func (s *stream) goodbye() {
	if !s.wmu.TryLock() {
		return // a write hangs
	}
	defer s.wmu.Unlock()
	if s.failed() == nil && s.net.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = s.net.Write([]byte{'X', 0, 0, 0, 4})
	}
}
