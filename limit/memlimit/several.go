package memlimit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/freshetdev/freshet/limit"
)

// A hold is what a decision over any kinds and number of keys works on. Locks are taken in this order, so that
// no two decisions wait for each other: lockers by space and shard, then entries of GCRA by space, hash and key.
type hold struct {
	s       *Store
	place   *atomic.Pointer[hold] // where it waits for its next use
	parts   []part
	lockers []lockerRef // held; in order
	order   []int       // of parts with an entry that is held
	room    int         // places reserved for keys that may come
	cells   []limit.Cell
	began   int64 // when it took its parts
}

// hold returns an empty one. They are used again, since they hold slices that grow to what is needed; by
// places that depend on the key, so that processors seldom ask for the same.
func (s *Store) hold(key string) *hold {
	place := &s.holds[s.hash(key)%uint64(len(s.holds))]
	h := place.Swap(nil)
	if h == nil {
		h = &hold{s: s, place: place}
	}
	return h
}

// free lets others use h. It keeps no keys alive.
func (h *hold) free() {
	clear(h.parts)
	clear(h.cells)
	*h = hold{s: h.s, place: h.place, parts: h.parts[:0], cells: h.cells[:0], lockers: h.lockers[:0], order: h.order[:0]}
	h.place.Store(h)
}

// A part is one charge of it.
type part struct {
	policy *limit.Policy
	key    string
	hash   uint64
	route  *route

	entry    *entry // GCRA, if there is one
	item     *item  // other kinds, if there is one
	record   *item  // of the penalty, if there is one
	state    limit.State
	changed  bool // the state is to be written
	recorded bool // the record is to be written
}

type lockerRef struct {
	space, shard int
	*locker
}

func (p *part) locker(s *Store) *locker    { return &p.route.state.others[s.shardOf(p.hash)] }
func (p *part) penalties(s *Store) *locker { return &p.route.penalties.others[s.shardOf(p.hash)] }

func (p *part) shard(s *Store) *shard { return &p.route.state.gcra[s.shardOf(p.hash)] }

func (h *hold) add(p *limit.Policy, key string) {
	h.parts = append(h.parts, part{policy: p, key: key, hash: h.s.hash(key), route: h.s.route(p)})
}

// take locks all parts, and makes place for what isn't there yet; if there is none, nothing is locked, and at is the first part
// without a place.
func (h *hold) take() (at int, full bool) {
	s := h.s
	now := s.now()
	h.began = now
	// New entries owe nothing, but as of now, and room is made of what owed nothing before: otherwise those of one decision would sweep each other away,
	// again and again.
	for spin := 0; ; spin++ {
		for i := range h.parts {
			p := &h.parts[i]
			if p.policy.Rule().Kind != limit.GCRA {
				continue
			}
			sh := p.shard(s)
			if p.entry = sh.table.Load().find(p.hash, p.key); p.entry == nil {
				if !s.reserve(1, now-1) {
					s.keys.Add(int64(-h.room))
					return i, true
				}
				var more int
				p.entry, _, more = sh.insert(s, p.hash, p.key, now<<2, now)
				s.keys.Add(int64(more - 1))
			}
		}
		h.lock()
		if !h.holdEntries() {
			h.unlock()
			pause(spin) // one was swept just now
			continue
		}
		h.find()
		missing, last := 0, 0
		for i := range h.parts {
			if p := &h.parts[i]; p.entry == nil && p.item == nil {
				missing++
				last = i
			}
		}
		if missing == 0 || missing <= h.room {
			return 0, false
		}
		// Places are looked for without locks. Then all is looked at again.
		h.releaseEntries()
		h.unlock()
		if !s.reserve(missing-h.room, now-1) {
			s.keys.Add(int64(-h.room))
			return last, true
		}
		h.room = missing
	}
}

// lock locks the lockers of all parts.
func (h *hold) lock() {
	h.lockers = h.lockers[:0]
	for i := range h.parts {
		p := &h.parts[i]
		at := h.s.shardOf(p.hash)
		if p.route.state.others != nil {
			h.lockers = append(h.lockers, lockerRef{p.route.state.number, at, p.locker(h.s)})
		}
		if p.route.penalties != nil {
			h.lockers = append(h.lockers, lockerRef{p.route.penalties.number, at, p.penalties(h.s)})
		}
	}
	slices.SortFunc(h.lockers, func(a, b lockerRef) int {
		if a.space != b.space {
			return a.space - b.space
		}
		return a.shard - b.shard
	})
	h.lockers = slices.CompactFunc(h.lockers, func(a, b lockerRef) bool { return a.locker == b.locker })
	for _, l := range h.lockers {
		l.mu.Lock()
	}
}

func (h *hold) unlock() {
	for _, l := range h.lockers {
		l.mu.Unlock()
	}
	h.lockers = h.lockers[:0]
}

// holdEntries holds the entries of all GCRA parts; false, and none is held, if one is dead.
func (h *hold) holdEntries() bool {
	h.order = h.order[:0]
	for i := range h.parts {
		if h.parts[i].entry != nil {
			h.order = append(h.order, i)
		}
	}
	slices.SortFunc(h.order, func(i, j int) int {
		a, b := &h.parts[i], &h.parts[j]
		switch {
		case a.route.state.number != b.route.state.number:
			return a.route.state.number - b.route.state.number
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return strings.Compare(a.key, b.key)
	})
	for n, i := range h.order {
		if !h.parts[i].entry.hold() {
			h.order = h.order[:n]
			h.releaseEntries()
			return false
		}
	}
	return true
}

// releaseEntries lets the entries go as they were.
func (h *hold) releaseEntries() {
	for _, i := range h.order {
		e := h.parts[i].entry
		e.word.Store(e.word.Load() &^ held)
	}
	h.order = h.order[:0]
}

// find reads the states of all parts, which are locked.
func (h *hold) find() {
	for i := range h.parts {
		p := &h.parts[i]
		p.state, p.item, p.record = limit.State{}, nil, nil
		if p.entry != nil {
			p.state.TAT = p.entry.word.Load() >> 2
		} else if p.route.state.others != nil {
			if p.item = p.locker(h.s).items[p.key]; p.item != nil {
				p.state = p.item.state
			}
		}
		if p.route.penalties != nil {
			if p.record = p.penalties(h.s).items[p.key]; p.record != nil {
				p.state.Record = p.record.state.Record
			}
		}
	}
}

// put writes back what changed, and unlocks all.
func (h *hold) put() {
	s := h.s
	now := s.now()
	gone := h.room // places that nobody took
	for i := range h.parts {
		p := &h.parts[i]
		r := p.policy.Rule()
		ends, recordEnds := r.Expires(&p.state, s.nowFor(r, now))
		switch {
		case p.entry != nil && p.changed:
			p.entry.word.Store(p.state.TAT << 2) // no longer held
		case p.entry != nil:
			p.entry.word.Store(p.entry.word.Load() &^ held)
		case p.changed:
			st := p.state
			st.Record = limit.Record{}
			gone -= p.locker(s).put(p.key, &p.item, st, now, ends)
		}
		if !p.recorded {
			continue
		}
		if p.record == nil && recordEnds > 0 {
			if s.keys.Add(1) > int64(s.opts.MaxKeys) { // a full store keeps no new records
				s.keys.Add(-1)
				s.full.Add(1)
				continue
			}
			gone++ // it has its place
		}
		gone -= p.penalties(s).put(p.key, &p.record, limit.State{Record: p.state.Record}, now, recordEnds)
	}
	h.order = h.order[:0]
	// What says nothing any more makes place as new keys come.
	for _, l := range h.lockers {
		_, ended := l.sweepLocked(now-idleKept, 2)
		gone += ended
	}
	h.unlock()
	s.keys.Add(int64(-gone))
	h.room = 0
}

// put makes the state of a key what says something for so long, and returns how many keys there are more.
func (l *locker) put(key string, known **item, st limit.State, now, ends int64) (more int) {
	switch {
	case *known == nil && ends > 0:
		l.items[strings.Clone(key)] = &item{st, now + ends} // the caller's may be a part of something large
		return 1
	case *known != nil && ends == 0:
		delete(l.items, key)
		*known = nil
		return -1
	case *known != nil:
		(*known).state, (*known).ends = st, now+ends
	}
	return 0
}

// TakeAll implements [limit.Store].
func (s *Store) TakeAll(_ context.Context, c []limit.Charge, out []limit.Status) error {
	if err := s.check("take all"); err != nil {
		return err
	}
	s.takeAll(c, out)
	return nil
}

func (s *Store) takeAll(c []limit.Charge, out []limit.Status) {
	h := s.hold(c[0].Key)
	defer h.free()
	for i := range c {
		h.add(c[i].Policy, c[i].Key)
	}
	if at, full := h.take(); full {
		s.withoutPlace(c, out, at)
		return
	}
	cells := h.cellsOf(c)
	limit.TakeCells(cells)
	for i := range cells {
		p := &h.parts[i]
		out[i] = cells[i].Status
		p.changed, p.recorded = cells[i].WriteState, cells[i].WriteRecord && p.route.penalties != nil
	}
	h.put()
}

// cellsOf are the parts as the arithmetic wants them. The time is read while they are locked, so it doesn't go back for any key.
func (h *hold) cellsOf(c []limit.Charge) []limit.Cell {
	now := max(h.s.now(), h.began)
	for i := range c {
		h.cells = append(h.cells, limit.Cell{Charge: c[i], State: &h.parts[i].state, Now: h.s.nowFor(c[i].Policy.Rule(), now)})
	}
	return h.cells
}

// withoutPlace answers charges of which the one at has no place.
func (s *Store) withoutPlace(c []limit.Charge, out []limit.Status, at int) {
	out[at] = s.noPlace(&c[at])
	if len(c) == 1 {
		return
	}
	rest := slices.Delete(slices.Clone(c), at, at+1)
	others := make([]limit.Status, len(rest))
	if out[at].Fits || out[at].Shadow {
		s.takeAll(rest, others)
	} else {
		s.peek(rest, others)
	}
	copy(out, others[:at])
	copy(out[at+1:], others[at:])
}

// Peek implements [limit.Store].
func (s *Store) Peek(_ context.Context, c []limit.Charge, out []limit.Status) error {
	if err := s.check("peek"); err != nil {
		return err
	}
	s.peek(c, out)
	return nil
}

func (s *Store) peek(c []limit.Charge, out []limit.Status) {
	h := s.hold(c[0].Key)
	defer h.free()
	for i := range c {
		h.add(c[i].Policy, c[i].Key)
		if p := &h.parts[i]; p.route.state.gcra != nil {
			p.entry = p.shard(s).table.Load().find(p.hash, p.key)
		}
	}
	h.lock()
	h.find()
	for i := range h.parts { // the arithmetic is done without locks
		p := &h.parts[i].state
		p.Spent, p.Held = slices.Clone(p.Spent), slices.Clone(p.Held)
	}
	cells := h.cellsOf(c)
	h.unlock()
	limit.PeekCells(cells)
	for i := range cells {
		out[i] = cells[i].Status
	}
}

// change does f to the clean state of one key. It fails if the key has no place.
func (s *Store) change(step string, p *limit.Policy, key string, f func(r *limit.Rule, st *limit.State, now int64) (changed bool)) error {
	h := s.hold(key)
	defer h.free()
	h.add(p, key)
	if _, full := h.take(); full {
		s.full.Add(1)
		return fmt.Errorf("memlimit: %s %q: the store is full: %d keys", step, key, s.opts.MaxKeys)
	}
	r := p.Rule()
	st, now := &h.parts[0].state, s.nowFor(r, s.now())
	r.Clean(st, now)
	h.parts[0].changed = f(r, st, now)
	h.put()
	return nil
}

// Adjust implements [limit.Store].
func (s *Store) Adjust(_ context.Context, a []limit.Adjustment, out []limit.Status) error {
	if err := s.check("adjust"); err != nil {
		return err
	}
	for i := range a {
		err := s.change("adjust", a[i].Policy, a[i].Key, func(r *limit.Rule, st *limit.State, now int64) bool {
			r.Adjust(st, now, a[i].Units, a[i].At)
			cells := [1]limit.Cell{{Charge: limit.Charge{Policy: a[i].Policy, Key: a[i].Key, Cost: 1}, State: st, Now: now}}
			limit.PeekCells(cells[:])
			out[i] = cells[0].Status
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Renew implements [limit.Store].
func (s *Store) Renew(_ context.Context, p *limit.Policy, key string, id limit.ID) error {
	if err := s.check("renew"); err != nil {
		return err
	}
	found := false
	err := s.change("renew", p, key, func(r *limit.Rule, st *limit.State, now int64) bool {
		found = r.Renew(st, now, id)
		return found
	})
	if !found { // a full store has no place for a key that isn't there
		return fmt.Errorf("memlimit: renew %q: %w", key, limit.ErrLeaseLost)
	}
	return err
}

// Release implements [limit.Store].
func (s *Store) Release(_ context.Context, p *limit.Policy, key string, id limit.ID) error {
	if err := s.check("release"); err != nil {
		return err
	}
	_ = s.change("release", p, key, func(r *limit.Rule, st *limit.State, now int64) bool { return r.Release(st, id) }) // full: it isn't there
	return nil
}

// Reset implements [limit.Store].
func (s *Store) Reset(_ context.Context, p *limit.Policy, key string) error {
	if err := s.check("reset"); err != nil {
		return err
	}
	hash := s.hash(key)
	r, at := s.route(p), s.shardOf(hash)
	ended := 0
	if r.state.gcra != nil {
		ended += r.state.gcra[at].remove(hash, key)
	} else {
		ended += r.state.others[at].remove(key)
	}
	// A penalty of an earlier policy of that name too.
	s.mu.Lock()
	pen := s.spaces[spaceID{p.Name(), penalties}]
	s.mu.Unlock()
	if pen != nil {
		ended += pen.others[at].remove(key)
	}
	s.keys.Add(int64(-ended))
	return nil
}

func (l *locker) remove(key string) (ended int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.items[key] == nil {
		return 0
	}
	delete(l.items, key)
	return 1
}
