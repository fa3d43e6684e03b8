package cdc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/freshetdev/freshet/store"
)

// A session is one stream, from the mark to the first error. Three goroutines do its work:
//
//	read    Next, rules → the batch that is being filled
//	run     takes that batch, and starts another; barrier, apply, mark, tick
//	serve   what may hang without harm: Tick, Ack
//
// So what comes while the store is busy becomes the next batch: small when it is quick, larger when it isn't, and no timer
// delays anything.
type session struct {
	p      *Pump
	stream Stream
	ready  chan struct{} // capacity 1: there is something in filling, or the reader has ended
	space  chan struct{} // capacity 1: filling was taken
	ticks  chan uint64   // capacity 1: what serve is to ask for
	acks   chan Position // capacity 1: what serve is to tell

	mu      sync.Mutex
	filling *batch // guarded by mu
	err     error  // why the reader ended; guarded by mu

	// These belong to run.
	mark      store.Mark
	applied   Position
	again     []repeat
	repeats   int       // keys in again
	announced time.Time // when the tick under way was announced; zero if none is
}

// A batch is what was read since the last one was taken.
type batch struct {
	*collector
	barrier Position // of the last transaction begun
	pos     Position // after the last that is whole
	tick    uint64   // ticked, after all before it
	txs     int
	changes int
	message int
	commits []time.Time // of the transactions that end in it
	lastTx  Tx
	all     Why // everything is to be dropped
	bytes   int
	since   time.Time
}

// A repeat is what to delete once more, and the position that may be marked then.
type repeat struct {
	due  time.Time
	keys []string
	pos  Position
}

// session opens a stream and pumps until an error. ran says that it came to that.
func (p *Pump) session(ctx context.Context) (ran bool, err error) {
	p.setState(Opening)
	m, err := p.app.Mark(ctx, p.opts.Name)
	if err != nil {
		return false, at("mark", err)
	}
	if p.works(m.Owner, m.Seq) {
		return false, errStandby
	}
	if m.Owner != p.held.owner || m.Pos == "" || Position(m.Pos) != p.held.marked {
		p.held = heldBack{} // the store went back: the database must keep what is after the mark
	}

	gap := Gap{From: Position(m.Pos), Err: p.broken}
	first := m == store.Mark{} && p.sessions == 0
	if m.Pos == "" && !first {
		gap.Err = errors.Join(gap.Err, errorf("the store doesn't know how far %s was applied", p.opts.Name))
	}
	isGap := m.Pos == "" || p.broken != nil
	var stream Stream
	if !isGap {
		stream, err = p.src.Open(ctx, Position(m.Pos))
		if errors.Is(err, ErrGap) {
			isGap, gap.Err = true, err
		} else if err != nil {
			return false, at("open", err)
		}
	}
	if isGap {
		if p.opts.OnGap == GapStop && gap.Err != nil {
			return false, fmt.Errorf("%w: from %q: %w: %w", errStop, gap.From, ErrGap, gap.Err)
		}
		if stream, err = p.src.Open(ctx, ""); err != nil {
			if errors.Is(err, ErrGap) {
				err = errorf("the source knows no place to begin: %v", err) // so it is no gap of the next stream
			}
			return false, at("open", err)
		}
	}
	p.sessions++
	p.count(func(s *Stats) { s.Opened++ })
	s := &session{
		p: p, stream: stream,
		ready: make(chan struct{}, 1), space: make(chan struct{}, 1),
		ticks: make(chan uint64, 1), acks: make(chan Position, 1),
		filling: newBatch(),
		mark:    store.Mark{Owner: p.id + "/" + strconv.Itoa(p.sessions), Pos: m.Pos, Tick: m.Tick, Cert: m.Cert},
	}
	if isGap {
		s.mark.Pos = "" // until everything is dropped
	}
	s.applied = Position(s.mark.Pos)
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel(err)
		if e := stream.Close(); e != nil && err == nil {
			err = at("close", e)
		}
		wg.Wait()
		p.pending.Store(0)
	}()

	p.step("opened")
	if err := s.setMark(ctx); err != nil { // who had it before notices
		return false, err
	}
	p.step("claimed")
	if isGap {
		if err := s.dropAll(ctx, gap); err != nil {
			return false, err
		}
		p.broken = nil
	}
	p.setState(Running)
	wg.Go(func() { s.read(ctx) })
	wg.Go(func() { s.serve(ctx) })
	err = s.run(ctx)
	if ctx.Err() != nil && !p.src.Exclusive() {
		s.release()
	}
	return true, err
}

// release lets another pump take over at once.
func (s *session) release() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.mark.Owner = released
	_ = s.p.app.SetMark(ctx, s.p.opts.Name, s.mark) // if it fails, the other waits for TakeOver
}

// dropAll begins after a gap: what committed before the stream can't be had, so nothing from before is valid. The barrier
// comes first. Without it:
//
//	a change commits, not visible yet; the stream begins after it
//	new epoch
//	a loader reads the old row, in the new epoch; nothing will ever drop it
func (s *session) dropAll(ctx context.Context, gap Gap) error {
	p := s.p
	gap.To = s.stream.Start()
	if err := s.visible(ctx, gap.To); err != nil {
		return err
	}
	p.step("gap barrier")
	if err := p.insist(ctx, "epoch", func() error { return p.app.Epoch(ctx) }); err != nil {
		return err
	}
	p.step("gap epoch")
	e := newEvaluator(p.opts.Rules)
	e.out = newCollector()
	e.everything(WhyGap)
	if err := p.insist(ctx, "apply", func() error { return p.app.Apply(ctx, &e.out.Drops) }); err != nil {
		return err
	}
	p.step("gap applied")
	s.applied = gap.To
	s.mark.Pos = string(gap.To)
	if err := s.setMark(ctx); err != nil {
		return err
	}
	p.step("gap marked")
	p.note(e.out, Tx{}, func(st *Stats) { st.Gaps++ })
	if h := p.opts.Hooks.Gap; h != nil {
		h(gap)
	}
	return nil
}

// setMark sets s.mark, and holds its position back for the database.
func (s *session) setMark(ctx context.Context) error {
	p := s.p
	err := p.insist(ctx, "mark", func() error { return p.app.SetMark(ctx, p.opts.Name, s.mark) })
	if err != nil {
		return err
	}
	now := time.Now()
	p.held.owner = s.mark.Owner
	p.held.keep(Position(s.mark.Pos), now, p.opts.HoldBack)
	if pos := p.held.due(now, p.opts.HoldBack); pos != "" {
		select {
		case <-s.acks: // one that was not told yet: this one covers it
		default:
		}
		s.acks <- pos
	}
	return nil
}

// visible is the barrier.
func (s *session) visible(ctx context.Context, pos Position) error {
	if s.p.noBarrier {
		return nil
	}
	return at("barrier", s.stream.Visible(ctx, pos))
}

func newBatch() *batch { return &batch{collector: newCollector()} }

// full reports whether the reader must wait.
func (b *batch) full(limit int) bool {
	return b.Len() >= limit || b.txs >= limit || len(b.commits) >= limit || b.bytes >= 1024*limit
}

// read fills batches until an error.
func (s *session) read(ctx context.Context) {
	err := s.readAll(ctx)
	s.mu.Lock()
	s.err = at("read", err)
	s.mu.Unlock()
	wake(s.ready)
}

func (s *session) readAll(ctx context.Context) error {
	var (
		ev   Event
		tx   Tx
		open bool
		some bool // it has changes
		eval = newEvaluator(s.p.opts.Rules)
	)
	for {
		if err := s.stream.Next(ctx, &ev); err != nil {
			return err
		}
		s.mu.Lock()
		b := s.filling
		if b.since.IsZero() {
			b.since = time.Now()
		}
		before := len(b.touched)
		var err error
		switch {
		case ev.Kind == Begin && !open:
			tx, open, some = ev.Tx, true, false
		case ev.Kind == Changed && open:
			b.barrier, some = tx.Pos, true
			if !tx.Committed.IsZero() && (b.Committed.IsZero() || tx.Committed.Before(b.Committed)) {
				b.Committed = tx.Committed
			}
			b.changes++
			eval.out = b.collector
			s.change(eval, b, &ev.Change)
		case ev.Kind == Commit && open:
			open = false
			eval.end()
			b.pos, b.lastTx = tx.Pos, tx
			b.txs++
			if !tx.Committed.IsZero() && some {
				b.commits = append(b.commits, tx.Committed)
			}
		case ev.Kind == Ticked && !open:
			b.pos, b.tick = ev.Pos, max(b.tick, ev.Tick)
		default:
			err = fmt.Errorf("%w: event %d came out of order (within a transaction: %v)", ErrGap, ev.Kind, open)
		}
		for i := before; i < len(b.touched); i++ {
			b.touched[i].Tx = tx
			b.bytes += len(b.touched[i].Name)
		}
		full := b.full(s.p.opts.Batch)
		pending := b.Len()
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if ev.Kind == Begin {
			continue
		}
		if pending > 0 && s.p.pending.Swap(int64(pending)) == 0 {
			s.p.pendingSince.Store(b.since.UnixNano())
		}
		// Within a transaction the batch is handed over in large pieces, so that its commit time is in the same.
		if ev.Kind != Changed || full {
			wake(s.ready)
		}
		for full {
			select {
			case <-s.space:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			s.mu.Lock()
			full = s.filling.full(s.p.opts.Batch)
			s.mu.Unlock()
		}
	}
}

// change takes in one change.
func (s *session) change(eval *evaluator, b *batch, c *Change) {
	if c.Op != OpMessage {
		eval.change(c)
		return
	}
	b.message++
	d, err := ParseMessage(c.Message)
	if err != nil {
		b.all = WhyMessage
		b.counts[WhyMessage]++
		b.coarse = append(b.coarse, Coarse{Rule: -1, Op: OpMessage, Why: WhyMessage, Names: []string{err.Error()}})
		return
	}
	t := Touch{Op: OpMessage, Rule: -1}
	for _, tag := range d.Tags {
		b.add([]byte(string(rune(kindTag))+tag), t)
	}
	for _, key := range d.Keys {
		b.add([]byte(string(rune(kindKey))+key), t)
	}
	for _, m := range d.Publish {
		b.send([]byte(m.Channel), []byte(m.Payload))
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take takes the batch that is being filled, and the reader's error.
func (s *session) take() (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.filling
	s.filling = newBatch()
	wake(s.space)
	return b, s.err
}

// run applies batches, and ticks.
func (s *session) run(ctx context.Context) error {
	tick := time.NewTicker(s.p.opts.Tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.ready:
			b, failed := s.take()
			if err := s.apply(ctx, b); err != nil {
				return err
			}
			if failed != nil {
				return failed
			}
		case <-tick.C:
			if err := s.repeatDue(ctx); err != nil {
				return err
			}
			if err := s.tick(ctx); err != nil {
				return err
			}
		}
	}
}

// tick announces a tick, and then has the end of the feed read: in this order, so that whoever saw the mark without the
// tick knows that the end was read later.
func (s *session) tick(ctx context.Context) error {
	if !s.announced.IsZero() {
		return s.setNextMark(ctx) // still under way; but the store is to be looked at
	}
	now := time.Now()
	s.mark.Tick++
	if err := s.setNextMark(ctx); err != nil {
		return err
	}
	s.announced = now
	s.p.step("tick announced")
	s.ticks <- s.mark.Tick // there is room: one is under way at a time
	s.p.step("tick asked")
	return nil
}

// setNextMark notes what is applied, as far as nothing is to be repeated.
func (s *session) setNextMark(ctx context.Context) error {
	if len(s.again) == 0 {
		s.mark.Pos = string(s.applied)
	}
	return s.setMark(ctx)
}

// serve asks and tells the source what may take time.
func (s *session) serve(ctx context.Context) {
	for {
		var err error
		step := "tick"
		select {
		case <-ctx.Done():
			return
		case n := <-s.ticks:
			err = s.stream.Tick(ctx, n)
		case pos := <-s.acks:
			step = "ack"
			if err = s.stream.Ack(ctx, pos); err == nil {
				s.p.count(func(st *Stats) { st.Acked = pos })
			}
			s.p.step("acked")
		}
		if err != nil && ctx.Err() == nil {
			s.mu.Lock()
			if s.err == nil {
				s.err = at(step, err)
			}
			s.mu.Unlock()
			wake(s.ready)
			return
		}
	}
}

// apply applies one batch.
func (s *session) apply(ctx context.Context, b *batch) error {
	p := s.p
	var barrier, took time.Duration
	if b.Len() > 0 || b.all != "" {
		p.step("taken")
		began := time.Now()
		if err := s.visibleOrEarly(ctx, b); err != nil {
			return err
		}
		barrier = time.Since(began)
		p.step("visible")
		began = time.Now()
		if b.all != "" {
			if err := p.insist(ctx, "epoch", func() error { return p.app.Epoch(ctx) }); err != nil {
				return err
			}
			e := newEvaluator(p.opts.Rules)
			e.out = b.collector
			e.everything(b.all)
			p.step("epoch")
		}
		if err := p.insist(ctx, "apply", func() error { return p.app.Apply(ctx, &b.Drops) }); err != nil {
			return err
		}
		took = time.Since(began)
		p.step("applied")
		p.pending.Store(0)
	}
	now := time.Now()
	if b.pos != "" {
		s.applied = b.pos
	}
	if len(b.Keys) > 0 && p.opts.Again > 0 {
		s.again = append(s.again, repeat{now.Add(p.opts.Again), b.Keys, b.pos})
		s.repeats += len(b.Keys)
		for s.repeats > 10*p.opts.Batch { // sooner than meant, rather than without bound
			if err := s.repeatFirst(ctx); err != nil {
				return err
			}
		}
	} else if n := len(s.again); n > 0 && b.pos != "" {
		s.again[n-1].pos = b.pos
	}
	certified := b.tick != 0 && b.tick == s.mark.Tick && !s.announced.IsZero()
	if certified {
		s.mark.Cert = b.tick
	}
	if err := s.setNextMark(ctx); err != nil {
		return err
	}
	p.step("marked")
	var lag time.Duration
	p.note(b.collector, b.lastTx, func(st *Stats) {
		st.Txs += uint64(b.txs)
		st.Changes += uint64(b.changes)
		st.Messages += uint64(b.message)
		st.Pos = s.applied
		for _, t := range b.commits {
			d := now.Sub(t)
			p.lag.Record(d)
			lag = max(lag, d)
		}
		if took > 0 || barrier > 0 {
			p.barrier.Record(barrier)
			p.apply.Record(took)
		}
		if certified {
			p.certAt = s.announced
		}
	})
	if certified {
		s.announced = time.Time{}
	}
	if h := p.opts.Hooks.Applied; h != nil && b.Len() > 0 {
		h(Applied{
			Pos: s.applied, Txs: b.txs, Changes: b.changes, Tags: len(b.Tags), Keys: len(b.Keys), Sweeps: len(b.Patterns),
			Publish: len(b.Publish), Lag: lag, Barrier: barrier, Took: took,
		})
	}
	return nil
}

// repeatDue deletes once more what is due.
func (s *session) repeatDue(ctx context.Context) error {
	now := time.Now()
	for len(s.again) > 0 && !now.Before(s.again[0].due) {
		if err := s.repeatFirst(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) repeatFirst(ctx context.Context) error {
	r := s.again[0]
	if err := s.p.insist(ctx, "apply", func() error { return s.p.app.Apply(ctx, &Drops{Keys: r.keys}) }); err != nil {
		return err
	}
	s.p.step("repeated")
	s.again = s.again[1:]
	s.repeats -= len(r.keys)
	if r.pos != "" {
		s.mark.Pos = string(r.pos)
	}
	return nil
}

// note counts what was dropped, remembers it for LastChange, and tells what of it was coarse.
func (p *Pump) note(o *collector, last Tx, more func(*Stats)) {
	now := time.Now()
	p.mu.Lock()
	st := &p.stats
	st.Tags += uint64(len(o.Tags))
	st.Keys += uint64(len(o.Keys))
	st.Sweeps += uint64(len(o.Patterns))
	st.Published += uint64(len(o.Publish))
	st.Unswept += o.unswept
	for why, n := range o.counts {
		st.Coarse[why] += n
	}
	if last != (Tx{}) {
		st.LastTx = last
	}
	for _, t := range o.touched[max(0, len(o.touched)-len(p.recent.ring)):] {
		t.At, t.Source = now, p.opts.Name
		p.recent.add(t)
	}
	more(st)
	p.mu.Unlock()
	if h := p.opts.Hooks.Coarse; h != nil {
		for _, c := range o.coarse {
			h(c)
		}
	}
}
