package mirror

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"weak"

	"github.com/freshetdev/freshet/store"
)

// A Cell is what is known of one tag: every drop of it after since, of which floor is the last. Entries
// point to the cells of their tags, so looking at one is two atomic loads.
//
//	since      how it came about
//	unknown    nothing was heard of the log yet, or its history was lost
//	p          the cell was made when the mirror knew the log from p on
//	0          the stamp was read from the store
type Cell struct {
	tag   string
	since atomic.Uint64
	floor atomic.Uint64 // never lowered
	// local is the time on this instance's clock of the last drop made by this instance,
	// whether or not it has reached the store.
	local atomic.Int64
}

const unknown = math.MaxUint64

// Stamp returns the position of the tag's last drop, and whether that is the one in the store and not
// just the last of those heard of.
func (c *Cell) Stamp() (p store.Pos, known bool) {
	return store.Pos(c.floor.Load()), c.since.Load() == 0
}

// Bound returns a position that the tag's last drop is at or before, if any is known.
func (c *Cell) Bound() (p store.Pos, known bool) {
	since := c.since.Load()
	return max(store.Pos(c.floor.Load()), store.Pos(since)), since != unknown
}

// Tag returns the tag's name.
func (c *Cell) Tag() string { return c.tag }

// raiseLocked merges a drop by maximum: announcements and replies come in any order.
func (c *Cell) raiseLocked(p store.Pos) {
	if c.floor.Load() < uint64(p) {
		c.floor.Store(uint64(p))
	}
}

// Deps are what an entry depends on: tags by partition, with what was known when its load began.
type Deps []Dep

// A Dep is what an entry depends on in one partition.
type Dep struct {
	Part  int
	Epoch uint64
	Read  store.Pos // every drop up to here was visible to the load
	Cells []*Cell
}

// A Verdict says what the mirror knows of an entry.
type Verdict uint8

// The verdicts.
const (
	Valid    Verdict = iota // no drop is known, and all stamps are
	Unknown                 // no drop is known, but some stamp or epoch isn't
	Dropped                 // a tag was dropped after the load began
	OldEpoch                // history was lost after the load began
)

// Check tells whether entries with these dependencies are valid as far as the mirror
// knows. began is the local time at which the load, or the read from the store, began.
func (m *Mirror) Check(deps Deps, began int64) Verdict {
	v := Valid
	for i := range deps {
		d := &deps[i]
		switch epoch := m.parts[d.Part].epoch.Load(); {
		case epoch == 0 || d.Epoch == 0:
			v = Unknown
		case epoch != d.Epoch:
			return OldEpoch
		}
		for _, c := range d.Cells {
			if c.local.Load() >= began {
				return Dropped
			}
			switch {
			case c.floor.Load() > uint64(d.Read):
				return Dropped
			case c.since.Load() > uint64(d.Read):
				v = Unknown
			}
		}
	}
	return v
}

// ErrUnknown means that stamps aren't known and were not asked for.
var ErrUnknown = errors.New("mirror: stamps are not known")

// ErrResync means that the stamps that the store told are of another time of the log than the mirror knows.
var ErrResync = errors.New("mirror: the log is not where it was")

// Prepare returns the dependencies of a load that is about to begin. It is Begin, Register and Done.
func (m *Mirror) Prepare(ctx context.Context, tags []string) (Deps, error) {
	p := m.Begin(tags)
	return p.Done(p.Register(ctx))
}

// A Preparation is what is done before a load begins.
type Preparation struct {
	m         *Mirror
	deps      Deps
	questions []*question
}

// Begin collects the cells of tags.
func (m *Mirror) Begin(tags []string) Preparation {
	deps := m.collect(tags)
	p := Preparation{m: m, deps: deps}
	for _, d := range deps {
		p.questions = m.doubt(p.questions, d.Part, unreadOf(d.Cells, 0))
	}
	return p
}

// Known reports whether all stamps are known: then there is nothing to register.
func (p Preparation) Known() bool { return len(p.questions) == 0 }

// Registrations are what to ask of the store, which also makes it keep the stamps. Tell Learn when that is done.
func (p Preparation) Registrations() []*store.Registration {
	regs := make([]*store.Registration, len(p.questions))
	for i, q := range p.questions {
		q.put()
		regs[i] = &q.Registration
	}
	return regs
}

// Learn takes over what came of the Registrations.
func (p Preparation) Learn() error { return p.m.learn(p.questions) }

// Register is Registrations, each asked for by itself, and Learn.
func (p Preparation) Register(ctx context.Context) error { return p.m.ask(ctx, p.questions) }

// Done returns the dependencies: the cells with the position up to which every drop will be visible to
// a load that begins now. err is what Learn or Register returned. With an error, the dependencies are
// good to be checked locally, but what is loaded must not be stored.
func (p Preparation) Done(err error) (Deps, error) {
	m, deps := p.m, p.deps
	for i := range deps {
		d := &deps[i]
		p := m.parts[d.Part]
		p.mu.Lock()
		// A reply of the store may be ahead of the announcements: what it covers happened before the
		// load too.
		d.Epoch, d.Read = p.head.Epoch, max(p.heard, p.head.Pos)
		for _, c := range d.Cells {
			if p.cells[c.tag].Value() != c { // made in another epoch: drops don't reach it
				d.Epoch, err = 0, cmp.Or(err, ErrResync)
			}
		}
		p.mu.Unlock()
		if d.Epoch == 0 && err == nil {
			err = store.ErrNoLog
		}
	}
	return deps, err
}

// Resolve fills in the cells of dependencies that were read from the store. If stamps aren't known, they are
// asked for, or, without ask, the error is ErrUnknown.
func (m *Mirror) Resolve(ctx context.Context, stored []store.Dep, ask bool) (Deps, error) {
	deps := make(Deps, len(stored))
	known := true
	for i, d := range stored {
		if d.Part < 0 || d.Part >= len(m.parts) {
			return nil, store.ErrCorrupt
		}
		deps[i] = Dep{Part: d.Part, Epoch: d.Epoch, Read: d.Read, Cells: m.cells(d.Part, d.Tags)}
		known = known && !slices.ContainsFunc(deps[i].Cells, func(c *Cell) bool { return c.since.Load() > uint64(d.Read) })
	}
	switch {
	case known:
		return deps, nil
	case !ask:
		return deps, ErrUnknown
	}
	var questions []*question
	for _, d := range deps {
		questions = m.doubt(questions, d.Part, unreadOf(d.Cells, d.Read))
	}
	return deps, m.ask(ctx, questions)
}

// Verify reads the stamps of stored dependencies from the store itself, for when the mirror
// can't vouch for its own. The verdict holds for the time before the call.
//
// A failover may have lost drops, of keys too, which have no stamp. So the log must have all that the mirror knows of:
// where the server may be another, that is read before the next probe gets to it.
func (m *Mirror) Verify(ctx context.Context, deps Deps) (Verdict, error) {
	trust := m.Trust()
	for _, d := range deps {
		tags := make([]string, len(d.Cells))
		for i, c := range d.Cells {
			tags[i] = c.tag
		}
		p := m.parts[d.Part]
		p.mu.Lock()
		known := append(slices.Clone(p.ahead), p.head)
		p.mu.Unlock()
		head, stamps, err := m.store.Register(ctx, d.Part, tags)
		if err != nil {
			return Unknown, err
		}
		if head.Epoch != d.Epoch {
			return OldEpoch, nil
		}
		if slices.ContainsFunc(known, func(h store.Head) bool { return h.Epoch == head.Epoch && lacks(head, h) }) {
			m.poke() // a new epoch is due
			return Unknown, ErrResync
		}
		up := m.up.Load() // before unsure: both are set in the other order
		p.mu.Lock()
		unsure := p.unsure
		p.mu.Unlock()
		if (!up || unsure) && known[len(known)-1].Epoch != 0 && !m.catchUp(ctx, p, head) {
			m.poke()
			return Unknown, ErrResync
		}
		for _, s := range stamps {
			if s > d.Read {
				return Dropped, nil
			}
		}
	}
	if m.Trust() != trust {
		m.poke() // the link is another: who knows what answered
		return Unknown, ErrResync
	}
	return Valid, nil
}

// Adopt adds tags that became known only after the load began. It reports false if one of the
// entry's tags may have been dropped while the load ran: the value must not be stored then. Their
// stamps must be known: register them before.
func (m *Mirror) Adopt(deps Deps, tags []string) (Deps, bool) {
	more := m.collect(tags)
	deps = slices.Clone(deps)
	for _, late := range more {
		i := indexOf(deps, late.Part)
		if i < 0 {
			// Without a read position of this partition nothing proves that the load
			// saw its drops.
			return deps, false
		}
		d := &deps[i]
		d.Cells = append(d.Cells[:len(d.Cells):len(d.Cells)], late.Cells...)
		need := d.Read
		for _, c := range late.Cells {
			stamp, known := c.Stamp()
			if !known {
				return deps, false // history was lost since
			}
			need = max(need, stamp)
		}
		if need > d.Read && !m.extend(d, need) {
			return deps, false
		}
	}
	return deps, true
}

// AdoptLocally is Adopt for a value that won't be stored: its late tags make it invalid on this
// instance from now on. What was dropped before is for the caller to know.
func (m *Mirror) AdoptLocally(deps Deps, tags []string) Deps {
	more := m.collect(tags)
	deps = slices.Clone(deps)
	for _, late := range more {
		d := &deps[indexOf(deps, late.Part)] // Begin lists all partitions
		d.Cells = append(d.Cells[:len(d.Cells):len(d.Cells)], late.Cells...)
	}
	return deps
}

// extend raises the read position to at least need if the log proves that none of the
// entry's tags was dropped in between.
func (m *Mirror) extend(d *Dep, need store.Pos) bool {
	p := m.parts[d.Part]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head.Epoch != d.Epoch || p.head.Pos < need || !p.recent.covers(d.Read) {
		return false
	}
	for _, c := range d.Cells {
		if p.recent.dropped(c.tag, d.Read) {
			return false
		}
	}
	d.Read = p.head.Pos
	return true
}

// DropLocal makes tags invalid on this instance at once, for all loads begun up to now.
func (m *Mirror) DropLocal(tags []string) {
	now := m.clock.Exact()
	for _, tag := range tags {
		p := m.parts[m.Partition(tag)]
		p.mu.Lock()
		if c := p.cells[tag].Value(); c != nil {
			c.local.Store(now)
		}
		p.mu.Unlock()
	}
	m.version.Add(1)
}

// collect returns the cells of tags by partition. A cell is in the map before its stamp is
// asked for, so a drop announced meanwhile meets it.
func (m *Mirror) collect(tags []string) (deps Deps) {
	if len(m.parts) == 1 {
		deps = Deps{{Cells: m.cells(0, tags)}}
	} else {
		// All partitions, since a tag that only the answer names may be in any.
		byPart := make([][]string, len(m.parts))
		for _, t := range tags {
			byPart[m.Partition(t)] = append(byPart[m.Partition(t)], t)
		}
		for part, tags := range byPart {
			deps = append(deps, Dep{Part: part, Cells: m.cells(part, tags)})
		}
	}
	return deps
}

func (m *Mirror) cells(part int, tags []string) []*Cell {
	p := m.parts[part]
	p.mu.Lock()
	defer p.mu.Unlock()
	cells := make([]*Cell, 0, len(tags)+1)
	for _, tag := range tags {
		cells = append(cells, p.cellLocked(tag))
	}
	return cells
}

func (p *partition) cellLocked(tag string) *Cell {
	if c := p.cells[tag].Value(); c != nil {
		return c
	}
	c := &Cell{tag: tag}
	c.since.Store(unknown)
	c.local.Store(Never)
	if p.head.Epoch != 0 {
		c.floor.Store(uint64(p.recent.last[tag].Pos))
		c.since.Store(uint64(p.recent.from))
	}
	p.cells[tag] = weak.Make(c)
	p.kept[p.nextKept] = c
	p.nextKept = (p.nextKept + 1) % len(p.kept)
	onCollected(c, p, tag)
	return c
}

// unreadOf returns the cells that don't know every drop after p.
func unreadOf(cells []*Cell, p store.Pos) []*Cell {
	var unread []*Cell
	for _, c := range cells {
		if c.since.Load() > uint64(p) {
			unread = append(unread, c)
		}
	}
	return unread
}

// A question is cells of one partition whose stamps aren't known, and their registration.
type question struct {
	store.Registration
	part   *partition
	before store.Head // the head when it was put
	cells  []*Cell
}

// doubt appends the question for cells, if there are any.
func (m *Mirror) doubt(questions []*question, part int, cells []*Cell) []*question {
	if len(cells) == 0 {
		return questions
	}
	q := &question{part: m.parts[part], cells: cells}
	q.Part, q.Tags = part, make([]string, len(cells))
	for i, c := range cells {
		q.Tags[i] = c.tag
	}
	return append(questions, q)
}

// put notes the head: the answer must not be older.
func (q *question) put() {
	q.part.mu.Lock()
	q.before = q.part.head
	q.part.mu.Unlock()
}

// ask puts the questions to the store, one by one, and learns the answers.
func (m *Mirror) ask(ctx context.Context, questions []*question) error {
	for i, q := range questions {
		q.put()
		q.Head, q.Stamps, q.Err = m.store.Register(ctx, q.Part, q.Tags)
		if err := m.learn(questions[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// learn takes over answers of the store.
func (m *Mirror) learn(questions []*question) (err error) {
	for _, q := range questions {
		e := q.Err
		if e == nil {
			e = q.part.learn(q)
		}
		if errors.Is(e, store.ErrNoLog) || errors.Is(e, ErrResync) {
			m.poke()
		}
		err = cmp.Or(err, e)
	}
	return err
}

func (p *partition) learn(q *question) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head.Epoch == 0 && q.before.Epoch == 0 {
		// The first answer of a log that was not read yet: cells start in its epoch,
		// and following begins with the next probe.
		return ErrResync
	}
	if q.Head.Epoch != p.head.Epoch || q.Head.Pos < max(q.before.Pos, p.recent.from) {
		// A node that lost history, another epoch, or an answer from before a part of the log that
		// was lost meanwhile: its stamps prove nothing here.
		return ErrResync
	}
	for _, c := range q.cells {
		if p.cells[c.tag].Value() != c {
			return ErrResync // another epoch was adopted while the store was asked: drops don't reach this cell
		}
	}
	for i, c := range q.cells {
		c.raiseLocked(q.Stamps[i]) // first: who sees since at zero must see the stamp
		c.since.Store(0)
	}
	p.heard = max(p.heard, q.Head.Pos)
	p.toldOfLocked(q.Head)
	return nil
}

func indexOf(deps Deps, part int) int {
	for i := range deps {
		if deps[i].Part == part {
			return i
		}
	}
	return -1
}
