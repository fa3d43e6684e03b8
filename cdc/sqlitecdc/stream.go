package sqlitecdc

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// Open begins to read after from. With an empty position it begins at the end of the outbox, since all that came before is dropped anyway.
// It makes the outbox and the triggers where they are missing.
//
//	the row of from                     then
//	is there, with its random number    begins there
//	is there, with another number       ErrGap: the file was restored, or replaced, and written to since
//	is beyond the end                   ErrGap: the file was set back
//	was deleted                         ErrGap: it was acknowledged, or the outbox became too long
//	is of another outbox                ErrGap
func (s *Source) Open(ctx context.Context, from cdc.Position) (cdc.Stream, error) {
	var want place
	if from != "" {
		var err error
		if want, err = parsePlace(from); err != nil {
			return nil, err
		}
	}
	f, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	st := &stream{src: s, file: f, wake: make(chan struct{}, 1), versions: make(map[int64]*version), dataSeen: -1}
	if err := st.begin(ctx, from != "", want); err != nil {
		return nil, errors.Join(err, f.close())
	}
	st.life, st.end = context.WithCancelCause(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakes[st.wake] = true
	s.stats.Opened++
	return st, nil
}

// A stream reads the outbox. It has no goroutines: Next waits, looks and reads.
//
//	wait    until Poll is over, Notify, Tick, or the end
//	look    one statement, so one snapshot: the schema's version, the end of the outbox, and whether the row that was read last is
//	        still there. An altered schema is seen to before anything is delivered or certified
//	read    the rows up to that end, in pages. No transaction is held meanwhile: rows that are committed don't change
//
// That order gives the promises: SQLite has one writer at a time, and a row of the outbox is a part of the transaction that made the change. So the order
// of ids is that of commits, and who sees the row sees the change. All that was visible before a look is before the end that it found.
type stream struct {
	src  *Source
	file *file
	wake chan struct{} // capacity 1
	life context.Context
	end  context.CancelCauseFunc

	using sync.Mutex // the connection file.a, by Next; Close waits for it
	side  sync.Mutex // the connection file.b, by Ack and by install

	// These belong to Next.
	history  string
	start    place
	schema   int64 // PRAGMA schema_version as it is seen to
	at       place // all up to here was delivered
	goal     place // of the group of transactions that is being delivered; its zero value if none is
	tx       cdc.Tx
	told     bool // Begin was delivered
	page     []row
	next     int // in page
	read     int64
	waiting  []row // rows "r", of which it isn't known yet whether they went
	queue    []row // to be delivered before the page goes on
	dataSeen int64 // PRAGMA data_version at the last look
	dueTick  uint64
	versions map[int64]*version
	old, new []cdc.Value
	buf      []byte

	mu   sync.Mutex // guards what follows
	err  error      // why the stream ended
	tick uint64     // asked for; zero: none
}

// A row is one of the outbox.
type row struct {
	id, ver  int64
	op       string
	old, new string
}

// begin finds where to begin.
func (s *stream) begin(ctx context.Context, resumes bool, want place) error {
	done, err := s.src.install(ctx, s.file.b)
	if err != nil {
		return err
	}
	s.history, s.schema = done.history, done.schema
	if err := exec(ctx, s.file.a, `PRAGMA query_only = 1`); err != nil {
		return err
	}
	if resumes && want.history != s.history {
		return gap("the position is of outbox %s; this one is %s", want.history, s.history)
	}
	for {
		v, err := s.view(ctx, want.id)
		switch {
		case isBusy(err) && ctx.Err() == nil:
			continue
		case err != nil:
			return fmt.Errorf("sqlitecdc: open: %w", err)
		case !resumes:
			s.at = v.end
		case v.last.Valid && v.last.Int64 == want.nonce:
			s.at = want
		case v.last.Valid:
			return gap("change %d is another than the one that was read: the file was restored, or replaced", want.id)
		case v.end.id < want.id:
			return gap("the outbox ends at change %d, before %d: the file was set back", v.end.id, want.id)
		default:
			return gap("the changes after %d aren't kept any more", want.id)
		}
		s.start = s.at
		return nil
	}
}

// A view is what one look saw.
type view struct {
	schema    int64
	end       place
	committed int64         // milliseconds since 1970; when the last change was made
	last      sql.NullInt64 // the random number of the row that was read last
	first     int64         // the oldest row
}

// view looks, in one statement.
func (s *stream) view(ctx context.Context, last int64) (v view, err error) {
	c := s.src.names.changes
	var id, nonce, at, first sql.NullInt64
	err = s.file.a.QueryRowContext(ctx, `SELECT (SELECT schema_version FROM pragma_schema_version), e.id, e.nonce, e.at,
	(SELECT nonce FROM `+c+` WHERE id = ?), (SELECT min(id) FROM `+c+`) FROM `+c+` AS e WHERE e.id = (SELECT max(id) FROM `+c+`)`, last).
		Scan(&v.schema, &id, &nonce, &at, &v.last, &first)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return v, gap("the outbox %s is empty: somebody emptied it", c)
	case err != nil:
		return v, err
	}
	v.end = place{s.history, id.Int64, nonce.Int64}
	v.committed, v.first = at.Int64, first.Int64
	return v, nil
}

// Start returns where the stream begins.
func (s *stream) Start() cdc.Position { return s.start.position() }

// Next waits for the next event.
func (s *stream) Next(ctx context.Context, ev *cdc.Event) error {
	for {
		if err := s.failed(); err != nil {
			return err
		}
		done, err := s.deliver(ctx, ev)
		if err == nil && done {
			return nil
		}
		if err == nil {
			err = s.wait(ctx)
		}
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx) // drivers have words of their own for that
			}
			return s.fail(err)
		}
	}
}

// deliver writes the next event to ev. It reports false if there is none for now.
func (s *stream) deliver(ctx context.Context, ev *cdc.Event) (bool, error) {
	for {
		switch {
		case len(s.queue) > 0:
			r := s.queue[0]
			if !s.told {
				s.told = true
				*ev = cdc.Event{Kind: cdc.Begin, Tx: s.tx}
				return true, nil
			}
			s.queue = s.queue[1:]
			return true, s.event(ctx, r, ev)
		case s.next < len(s.page):
			s.next++
			if err := s.take(ctx, s.page[s.next-1]); err != nil {
				return false, err
			}
		case s.goal.id > s.read:
			if err := s.readPage(ctx); err != nil {
				return false, err
			}
		case s.goal.id != 0: // all was delivered
			s.at, s.goal = s.goal, place{}
			s.waiting = s.waiting[:0] // no row took their places
			if s.told {
				*ev = cdc.Event{Kind: cdc.Commit, Tx: s.tx}
				return true, nil
			}
		case s.dueTick != 0:
			*ev = cdc.Event{Kind: cdc.Ticked, Tick: s.dueTick, Pos: s.at.position()}
			s.dueTick = 0
			return true, nil
		default:
			if news, err := s.look(ctx); err != nil || !news {
				return false, err
			}
		}
	}
}

// look looks for what was committed, and reports whether there is anything to deliver.
func (s *stream) look(ctx context.Context) (news bool, err error) {
	ctx, done, err := s.use(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	s.mu.Lock()
	tick := s.tick
	s.mu.Unlock()
	if err := s.file.same(); err != nil {
		return false, err
	}
	var data int64
	err = s.file.a.QueryRowContext(ctx, `PRAGMA data_version`).Scan(&data)
	if err == nil && data == s.dataSeen && tick == 0 {
		return false, nil
	}
	var v view
	for try := 0; err == nil; try++ {
		v, err = s.view(ctx, s.at.id)
		if err != nil || v.schema == s.schema {
			break
		}
		if try == 10 {
			return false, errors.New("sqlitecdc: the schema changes all the time")
		}
		var made installed
		s.side.Lock()
		made, err = s.src.install(ctx, s.file.b)
		s.side.Unlock()
		if err == nil && made.history != s.history {
			err = gap("the outbox was made anew")
		}
		s.schema = made.schema
	}
	if err == nil {
		err = s.file.same() // what was read is what lay at the path then
	}
	switch {
	case isBusy(err) && ctx.Err() == nil:
		s.src.count(func(st *Stats) { st.Busy++ }) // nobody sees anything new meanwhile
		return false, nil
	case err != nil:
		return false, fmt.Errorf("sqlitecdc: look: %w", err)
	case !v.last.Valid && v.first > s.at.id:
		// If its changes are gone for the mark, too, Open says so.
		return false, fmt.Errorf("sqlitecdc: another reader acknowledged the changes up to %d; this one is at %d", v.first, s.at.id)
	case !v.last.Valid:
		return false, gap("the outbox ends at change %d, before %d: the file was set back", v.end.id, s.at.id)
	case v.last.Int64 != s.at.nonce:
		return false, gap("change %d is another than the one that was read: the file was restored", s.at.id)
	}
	s.dataSeen = data
	if tick != 0 {
		s.dueTick = tick
		s.mu.Lock()
		if s.tick == tick {
			s.tick = 0
		}
		s.mu.Unlock()
	}
	if v.end.id > s.at.id {
		s.goal, s.read, s.told = v.end, s.at.id, false
		s.tx = cdc.Tx{ID: strconv.FormatInt(s.at.id+1, 10), Pos: v.end.position()}
		if v.end.id > s.at.id+1 {
			s.tx.ID += "-" + strconv.FormatInt(v.end.id, 10)
		}
		if v.committed != 0 {
			s.tx.Committed = time.UnixMilli(v.committed)
		}
		return true, nil
	}
	return tick != 0, nil
}

// pageRows bounds what is held in memory of a transaction: a row is at most its columns, each maxValue.
const pageRows = 200

// readPage reads rows.
func (s *stream) readPage(ctx context.Context) error {
	ctx, done, err := s.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	s.page, s.next = s.page[:0], 0
	rows, err := s.file.a.QueryContext(ctx, `SELECT id, ver, op, old, new FROM `+s.src.names.changes+` WHERE id > ? AND id <= ? ORDER BY id LIMIT ?`, s.read, s.goal.id, pageRows)
	if err == nil {
		err = s.scan(rows)
	}
	switch {
	case isBusy(err) && ctx.Err() == nil:
		return s.rest(ctx, 10*time.Millisecond) // the page is read again
	case err != nil:
		return fmt.Errorf("sqlitecdc: read: %w", err)
	}
	for i, r := range s.page {
		if r.id != s.read+int64(i)+1 {
			return gap("the changes %d to %d aren't kept any more", s.read+int64(i)+1, r.id-1)
		}
	}
	if len(s.page) == 0 {
		return gap("the changes %d to %d aren't kept any more", s.read+1, s.goal.id)
	}
	s.read = s.page[len(s.page)-1].id
	return nil
}

func (s *stream) scan(rows *sql.Rows) error {
	defer rows.Close()
	for rows.Next() {
		var r row
		var ver sql.NullInt64
		var op, old, new sql.NullString
		if err := rows.Scan(&r.id, &ver, &op, &old, &new); err != nil {
			s.page = s.page[:0]
			return err
		}
		r.ver, r.op, r.old, r.new = ver.Int64, op.String, old.String, new.String
		s.page = append(s.page, r)
	}
	if err := rows.Err(); err != nil {
		s.page = s.page[:0]
		return err
	}
	return nil
}

// maxWaiting bounds the rows "r" that wait. Those that no row came for are told of, too: a drop more.
const maxWaiting = 64

// take puts what is to be delivered of a row into the queue. Rows "r" are in the way of a row that is inserted, or updated: they were deleted if that was
// a REPLACE, and weren't if it was an IGNORE or an upsert. What comes next in the same transaction tells:
//
//	r ... u, d   of the same row       it is told of by that
//	r ... i      or anything else      it may have been deleted: told as a delete
//	r            and nothing           it was not
func (s *stream) take(ctx context.Context, r row) error {
	if r.op != "m" && r.op != "b" {
		v, err := s.version(ctx, r.ver)
		if err != nil || !v.wanted {
			return err
		}
	}
	s.queue = s.queue[:0]
	if r.op == "r" {
		for _, w := range s.waiting {
			if w.ver == r.ver && w.old == r.old {
				return nil // by another key
			}
		}
		s.waiting = append(s.waiting, r)
		if len(s.waiting) > maxWaiting {
			s.queue = append(s.queue, s.waiting[0])
			s.waiting = s.waiting[1:]
		}
		return nil
	}
	for _, w := range s.waiting {
		if w.ver == r.ver && w.old == r.old {
			continue
		}
		s.queue = append(s.queue, w)
	}
	s.waiting = s.waiting[:0]
	if r.op != "b" && (r.op != "u" || strings.Trim(r.new, "=,") != "") { // an update that changed nothing is none
		s.queue = append(s.queue, r)
	}
	return nil
}

// event writes a row to ev.
func (s *stream) event(ctx context.Context, r row, ev *cdc.Event) (err error) {
	*ev = cdc.Event{Kind: cdc.Changed}
	c := &ev.Change
	if r.op == "m" {
		c.Op, c.Message = cdc.OpMessage, []byte(r.new)
		return nil
	}
	v, err := s.version(ctx, r.ver)
	if err != nil {
		return err
	}
	c.Table = &v.Table
	s.buf, s.old, s.new = s.buf[:0], s.old[:0], s.new[:0]
	read := func(text string, to *[]cdc.Value, old []cdc.Value) {
		if err == nil {
			*to, s.buf, err = v.decode(text, old, *to, s.buf)
		}
	}
	switch r.op {
	case "i":
		c.Op = cdc.OpInsert
		read(r.new, &s.new, nil)
		c.New = s.new
	case "u":
		c.Op = cdc.OpUpdate
		read(r.old, &s.old, nil)
		read(r.new, &s.new, s.old)
		c.Old, c.New = s.old, s.new
	case "d", "r":
		c.Op = cdc.OpDelete
		read(r.old, &s.old, nil)
		c.Old = s.old
	case "s":
		c.Op = cdc.OpSchema
	default:
		err = fmt.Errorf("operation %q", r.op)
	}
	if err != nil {
		return gap("change %d: %w", r.id, err)
	}
	return nil
}

// version returns the form of a table.
func (s *stream) version(ctx context.Context, ver int64) (*version, error) {
	if v := s.versions[ver]; v != nil {
		return v, nil
	}
	ctx, done, err := s.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	for {
		v, err := s.src.readVersion(ctx, s.file.a, ver)
		switch {
		case isBusy(err) && ctx.Err() == nil:
			if err := s.rest(ctx, 10*time.Millisecond); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, fmt.Errorf("sqlitecdc: read: %w", err)
		default:
			s.versions[ver] = v
			return v, nil
		}
	}
}

// use gives the connection to Next, for as long as ctx and the stream last.
func (s *stream) use(ctx context.Context) (_ context.Context, done func(), err error) {
	s.using.Lock()
	if s.file == nil {
		s.using.Unlock()
		return nil, nil, errClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })
	return ctx, func() {
		s.using.Unlock()
		stop()
		cancel(nil)
	}, nil
}

// wait waits until it is time to look again.
func (s *stream) wait(ctx context.Context) error {
	t := time.NewTimer(s.src.opts.Poll)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.wake:
	case <-s.life.Done():
		return context.Cause(s.life)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

func (s *stream) rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *stream) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// fail notes the first error.
func (s *stream) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return s.err
}

// errClosed is the error of a stream after Close.
var errClosed = errors.New("sqlitecdc: the stream is closed")

// Visible returns at once: a row of the outbox is visible exactly when its change is, and was read.
func (s *stream) Visible(ctx context.Context, _ cdc.Position) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.failed()
}

// Tick has Next look, and say so once it has delivered what it saw.
func (s *stream) Tick(ctx context.Context, n uint64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	err := s.err
	s.tick = n
	s.mu.Unlock()
	wake(s.wake)
	return err
}

// ackRows is how many rows are deleted at a time, so that writers don't wait for long.
const ackRows = 2000

// Ack deletes the rows before pos; the row itself stays, to prove that the history is the same. If a writer keeps it from that, a later call will do.
func (s *stream) Ack(ctx context.Context, pos cdc.Position) error {
	p, err := parsePlace(pos)
	if err != nil {
		return err
	}
	if p.history != s.history {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })()
	s.side.Lock()
	defer s.side.Unlock()
	if s.file == nil {
		return errClosed
	}
	c := s.src.names.changes
	for {
		res, err := s.file.b.ExecContext(ctx, `DELETE FROM `+c+` WHERE id < ?1 AND id < (SELECT min(id) FROM `+c+`) + ?2
	AND EXISTS (SELECT 1 FROM `+c+` WHERE id = ?1 AND nonce = ?3)`, p.id, ackRows, p.nonce)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isBusy(err):
			return nil
		case err != nil:
			return fmt.Errorf("sqlitecdc: acknowledge: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n < ackRows {
			return err
		}
	}
}

// Close ends the stream.
func (s *stream) Close() error {
	s.end(errClosed)
	_ = s.fail(errClosed)
	s.src.mu.Lock()
	delete(s.src.wakes, s.wake)
	s.src.mu.Unlock()
	s.using.Lock()
	defer s.using.Unlock()
	s.side.Lock()
	defer s.side.Unlock()
	f := s.file
	if f == nil {
		return nil
	}
	s.file = nil
	if err := f.close(); err != nil {
		return fmt.Errorf("sqlitecdc: close: %w", err)
	}
	return nil
}
