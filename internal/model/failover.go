package model

// failover is the world of one tag in one partition, on a server whose replica may lag: a failover loses the end of the
// log, with the stamps and entries of that time. The chain shows it to who knew what was lost, and a new epoch
// begins.
//
// A and B drop, load and probe. There is no lease in this world: a fill stores whatever it brings, so that stamps,
// read positions and epochs alone must keep the promises. Row numbers are as in keys.
type failover struct {
	rows    uint8 // writes, each with its drop by A or B
	loads   uint8 // by A and B together
	fails   uint8 // failovers
	crashes uint8 // of instances, which begin anew
	wipes   uint8 // times the head of the log is lost, by eviction or by hand
	evicts  uint8 // times the stamp is
	trims   uint8 // times the log loses all entries but the last
	others  uint8 // drops of another tag
	forgets uint8 // times an instance lets go of the cell, and its recent log of what it knew
	reuse   bool  // the clock of a new primary is behind: it gives positions again that were lost
	late    bool  // who got a drop acknowledged counts as knowing it, though its mirror hasn't processed it yet
	settled bool  // judge only once all have looked at the log
	roles   bool  // A loads and drops the other tag, B drops the row: fewer states
	keyed   bool  // drops are of the record's key: they delete it, and the lease of whoever loads it, and leave no stamp

	// What is taken out.
	noChain     bool // an entry that is further on is taken for the next one
	noNonce     bool // entries are told apart by position only
	noEpoch     bool // a log that lost its end is gone on with, in the same epoch
	noBehind    bool // a drop is appended to a log that is behind its caller
	anyReply    bool // stamps are believed though the log is behind what was seen
	stampZero   bool // a missing stamp is made anew at zero
	keepCells   bool // another epoch doesn't make cells anew
	ignoreLost  bool // an unprovable part of the log is skipped, and the cells stay known
	anyEpoch    bool // another epoch is taken over though it began before what was seen
	cutBelieved bool // an unprovable part of the log counts as cut off, though the server may have changed since it was whole
	endOnly     bool // without trust, a log that ends where it should is believed to have what is before
	nearest     bool // what was told of ahead of the mirror, own drops above all, needn't be in the log
}

const (
	maxLog   = 6
	otherRow = 100 // in the place of a row: the drop is of another tag
)

// A link of the chain. Its row is zero if it began an epoch.
type logLink struct{ pos, id, prev, prevID, epoch, row uint8 }

// A node is what a server has. Its stamp is zero if it has none.
type node struct {
	epoch, pos, id uint8 // the head; epoch 0: no log
	born           uint8 // where the epoch began
	n, gone        uint8
	log            [maxLog]logLink
	stamp          uint8
	top            uint8 // last row whose drop it ever had

	has, ver, read, repoch uint8 // the record
}

type failoverInst struct {
	epoch, pos, id uint8 // last entry processed
	from, last     uint8 // the recent log: begin, and the last drop in it
	since, floor   uint8 // the cell
	heard          uint8
	knows          uint8 // row of the last drop that it knows of
	synced         bool  // a probe succeeded since the last failover
	relinked       bool  // the link changed since the log was last whole
	own, ownID     uint8 // what it knows of ahead of its mirror: an own drop, or the head that came with a stamp
	want           bool  // to begin a new epoch, if the log is still at what follows
	wepoch, wpos   uint8
	wid            uint8

	pend uint8 // row whose drop is asked for

	op, opRead, opEpoch, opVer uint8
}

type failoverState struct {
	row    uint8
	clock  uint8 // last position given
	ids    uint8
	epochs uint8
	p, r   node // the primary, and the state that a failover brings back
	inst   [2]failoverInst
	undead uint8 // an instance served a value from before a drop that it knew of

	writes, loads, fails, crashes, wipes, evicts, trims, others, forgets uint8 // left
}

const unknown = 255

func (c failover) start() failoverState {
	s := failoverState{writes: c.rows, loads: c.loads, fails: c.fails, crashes: c.crashes, wipes: c.wipes, evicts: c.evicts, trims: c.trims, others: c.others, forgets: c.forgets}
	s.ids, s.epochs, s.clock = 1, 1, 1
	s.p = node{epoch: 1, pos: 1, id: 1, born: 1, gone: 0}
	s.r = s.p
	for i := range s.inst {
		n := &s.inst[i]
		n.epoch, n.pos, n.id, n.from, n.heard, n.since, n.synced = 1, 1, 1, 1, 1, 1, true
	}
	return s
}

// append adds a link to the primary's log.
func (c failover) append(s *failoverState, epoch, row uint8) {
	p := &s.p
	pos := p.pos + 1
	if !c.reuse {
		pos = s.clock + 1
	}
	s.clock = max(s.clock, pos)
	s.ids++
	if p.n == maxLog {
		panic("model: the log is longer than its bound")
	}
	p.log[p.n] = logLink{pos, s.ids, p.pos, p.id, epoch, row}
	p.n++
	if epoch != p.epoch {
		p.born = pos
	}
	p.epoch, p.pos, p.id = epoch, pos, s.ids
	if row != otherRow {
		p.top = max(p.top, row)
	}
}

// void goes on from a head without knowing what was before it.
func (c failover) void(n *failoverInst, p *node) {
	if !c.keepCells || n.epoch == p.epoch {
		n.since = unknown
	}
	if n.epoch != p.epoch && !c.keepCells {
		n.floor, n.since = 0, p.pos // cells are made anew
	}
	n.epoch, n.pos, n.id = p.epoch, p.pos, p.id
	n.from, n.last, n.heard = p.pos, 0, p.pos
	n.relinked, n.own, n.ownID = false, 0, 0
}

func (c failover) process(n *failoverInst, e logLink) {
	n.pos, n.id = e.pos, e.id
	if e.pos >= n.own {
		n.own, n.ownID = 0, 0
	}
	if e.row > 0 && e.row != otherRow {
		n.knows = max(n.knows, e.row)
		if !c.keyed {
			n.last, n.floor = e.pos, max(n.floor, e.pos)
		}
	}
}

func (c failover) follows(n *failoverInst, e logLink) bool {
	if e.epoch != n.epoch || e.row == 0 {
		return false
	}
	return c.noChain || e.prev == n.pos && (e.prevID == n.id || c.noNonce)
}

// next entry of the log after what n has processed; nil if there is none.
func (p *node) after(pos uint8) *logLink {
	for i := p.gone; i < p.n; i++ {
		if p.log[i].pos > pos {
			return &p.log[i]
		}
	}
	return nil
}

// register learns the stamp; it reports false if the answer proves nothing.
func (c failover) register(s *failoverState, n *failoverInst) bool {
	p := &s.p
	if p.epoch == 0 || n.epoch == 0 {
		return false
	}
	if p.stamp == 0 {
		p.stamp = p.pos
		if c.stampZero {
			p.stamp = 1
		}
	}
	if !c.anyReply && (p.epoch != n.epoch || p.pos < max(n.pos, n.from)) {
		return false
	}
	n.floor, n.since = max(n.floor, p.stamp), 0
	n.heard = max(n.heard, p.pos)
	if !c.nearest && p.pos > max(n.pos, n.own) {
		n.own, n.ownID = p.pos, p.id
	}
	return true
}

func (c failover) next(s failoverState, step func(actor, what string, to failoverState)) {
	if s.fails > 0 {
		if s.r != s.p {
			t := s
			t.r = s.p
			step("redis", "brings the replica up to date", t)
			t = s
			t.fails--
			t.p = s.r
			for i := range t.inst {
				t.inst[i].synced, t.inst[i].relinked = false, true
			}
			if s.fails == 1 {
				t.r = node{}
			}
			step("redis", "FAILOVER: the replica is the primary now", t)
		}
	}
	if s.wipes > 0 && s.p.epoch != 0 {
		t := s
		t.wipes--
		t.p.epoch, t.p.pos, t.p.id, t.p.born = 0, 0, 0, 0
		t.p.n, t.p.gone, t.p.log, t.p.stamp = 0, 0, [maxLog]logLink{}, 0
		step("redis", "loses the head of the log, the log and the stamp", t)
	}
	if s.evicts > 0 && s.p.stamp != 0 {
		t := s
		t.evicts--
		t.p.stamp = 0
		step("redis", "evicts the stamp", t)
	}
	if s.trims > 0 && s.fails == 0 && s.p.gone+1 < s.p.n { // before a failover it changes nothing
		t := s
		t.trims--
		t.p.gone = s.p.n - 1
		step("redis", "cuts the log to its last entry", t)
	}
	for i := range s.inst {
		c.act(s, i, step)
	}
}

func (c failover) act(s failoverState, i int, step func(actor, what string, to failoverState)) {
	n := s.inst[i]
	t := s
	m := &t.inst[i]
	reset := func() { t = s; m = &t.inst[i] }

	if s.crashes > 0 {
		t.crashes--
		*m = failoverInst{since: unknown}
		step(names[i], "dies; another begins in its place, knowing nothing", t)
		reset()
	}

	if s.forgets > 0 && n.op == 0 && n.epoch != 0 {
		t.forgets--
		m.from, m.last, m.since, m.floor = n.pos, 0, n.pos, 0
		step(names[i], "lets go of the cell, and of the recent log", t)
		reset()
	}

	// Drops.
	if n.pend == 0 && s.others > 0 && (i == 0 || !c.roles) {
		t.others--
		m.pend = otherRow
		step(names[i], "asks for the drop of another tag", t)
		reset()
	}
	if n.pend == 0 && s.writes > 0 && (i == 1 || !c.roles) {
		t.writes--
		t.row++
		m.pend = t.row
		step(names[i], "writes the row and asks for the drop", t)
		reset()
	} else if n.pend != 0 && s.p.epoch != 0 {
		behind := s.p.epoch == n.epoch && (s.p.pos < n.pos || s.p.pos == n.pos && s.p.id != n.id && !c.noNonce)
		if n.own > 0 && s.p.epoch == n.epoch {
			behind = behind || s.p.pos < n.own || s.p.pos == n.own && s.p.id != n.ownID
		}
		if !behind || c.noBehind {
			next := s.p.pos == n.pos && s.p.id == n.id && s.p.epoch == n.epoch
			c.append(&t, s.p.epoch, n.pend)
			switch {
			case n.pend == otherRow:
			case c.keyed:
				t.p.has, t.p.ver, t.p.read, t.p.repoch = 0, 0, 0, 0
				for j := range t.inst {
					t.inst[j].op, t.inst[j].opRead, t.inst[j].opEpoch, t.inst[j].opVer = 0, 0, 0, 0
				}
			case t.p.stamp != 0:
				t.p.stamp = t.p.pos
			}
			e := t.p.log[t.p.n-1]
			if c.late && n.pend != otherRow {
				m.knows = max(n.knows, n.pend)
			}
			m.pend = 0
			if !c.nearest && !next {
				m.own, m.ownID = e.pos, e.id
			}
			switch {
			case e.epoch != n.epoch:
				if !c.nearest {
					m.since = unknown // what the cells say is of another epoch
				}
			case e.pos <= n.pos:
			case next:
				c.process(m, e)
			default: // others come before it
				m.heard = max(n.heard, e.pos)
				if n.pend != otherRow && !c.keyed {
					m.floor = max(n.floor, e.pos)
				}
			}
			step("redis", "appends the drop of "+names[i], t)
			reset()
		}
	}

	// Following the log.
	if e := s.p.after(n.pos); e != nil && n.epoch != 0 && c.follows(&n, *e) && (e.pos < n.own || n.own == 0 || e.id == n.ownID) {
		c.process(m, *e)
		step(names[i], "hears of the drop", t)
		reset()
	}
	if n.want {
		m.want, m.wepoch, m.wpos, m.wid = false, 0, 0, 0
		if s.p.epoch == n.wepoch && s.p.pos == n.wpos && s.p.id == n.wid {
			t.epochs++
			c.append(&t, t.epochs, 0)
			c.void(m, &t.p)
			step(names[i], "begins a new epoch", t)
		} else {
			step(names[i], "finds that somebody else began a new epoch", t)
		}
		reset()
	} else {
		what := c.probe(&t, i)
		if t != s {
			step(names[i], what, t)
		}
		reset()
	}

	// Loads.
	switch n.op {
	case 0:
		if s.loads == 0 || n.epoch == 0 || i == 1 && c.roles {
			break
		}
		if n.since != 0 && !c.register(&t, m) {
			break
		}
		t.loads--
		m.op, m.opRead, m.opEpoch = 1, max(m.heard, m.pos), m.epoch
		step(names[i], "registers the tag and notes the read position", t)
	case 1:
		m.op, m.opVer = 2, s.row
		step(names[i], "loads "+rowName(s.row), t)
	case 2:
		t.p.has, t.p.ver, t.p.read, t.p.repoch = 1, n.opVer, n.opRead, n.opEpoch
		m.op, m.opVer, m.opRead, m.opEpoch = 0, 0, 0, 0
		step(names[i], "stores "+rowName(n.opVer), t)
	}
	reset()

	// Serving the record: only what is wrong makes a new state.
	if s.p.has == 1 && s.p.ver < n.knows && s.undead == 0 && !c.settled && n.epoch != 0 && s.p.repoch == n.epoch && n.floor <= s.p.read {
		ok := n.since <= s.p.read || c.register(&t, m)
		if c.keyed && !n.synced {
			ok = c.verify(&t, i)
		}
		if ok && m.floor <= s.p.read {
			t.undead = uint8(i) + 1
			step(names[i], "serves the record: no stamp it knows forbids it", t)
		}
	}
}

// verify reads the stamps without trust: the log must have all that was heard of.
func (c failover) verify(t *failoverState, i int) bool {
	n, p := t.inst[i], &t.p
	switch {
	case p.epoch != n.epoch || p.pos < n.pos || p.pos == n.pos && p.id != n.id:
		return false
	case !c.nearest && n.own > 0 && (p.pos < n.own || p.pos == n.own && p.id != n.ownID):
		return false
	case c.endOnly || !n.relinked:
		return true
	}
	u := *t
	c.probe(&u, i)
	return u.inst[i].synced && u.inst[i].epoch == n.epoch
}

// probe reads the head, and the log up to it.
func (c failover) probe(t *failoverState, i int) string {
	n, p := &t.inst[i], &t.p
	want := func() {
		n.want, n.wepoch, n.wpos, n.wid = true, p.epoch, p.pos, p.id
	}
	switch {
	case p.epoch == 0:
		want()
		return "probes: there is no log"
	case n.epoch != 0 && p.epoch != n.epoch && !c.anyEpoch && p.born <= max(n.pos, n.own):
		want()
		return "probes: the log went back to an older epoch"
	case !c.nearest && n.own > 0 && n.relinked && n.epoch != p.epoch:
		want()
		return "probes: the log may have lost its own drop"
	case !c.nearest && n.epoch == p.epoch && (p.pos < max(n.heard, n.own) || p.pos == n.own && p.id != n.ownID):
		want()
		return "probes: the log lost what was ahead of it"
	case n.epoch == 0 || p.epoch != n.epoch:
		c.void(n, p)
		return "probes: takes over another epoch"
	case p.pos < n.pos || p.pos == n.pos && p.id != n.id && !c.noNonce:
		if !c.noEpoch {
			want()
			return "probes: the log lost its end"
		}
		c.void(n, p)
		n.synced = true
		return "probes: the log lost its end; goes on with what there is"
	}
	lost := func() string {
		if !c.cutBelieved && n.relinked {
			want()
			return "probes: what came meanwhile can't be known"
		}
		if c.ignoreLost {
			n.pos, n.id, n.synced = p.pos, p.id, true
			return "probes: skips what it can't know"
		}
		c.void(n, p)
		return "probes: a part of the log is gone"
	}
	for n.pos < p.pos {
		e := p.after(n.pos)
		switch {
		case e == nil:
			return lost()
		case n.own > 0 && e.pos >= n.own && e.id != n.ownID:
			want()
			return "probes: the log went on without its own drop"
		case c.follows(n, *e):
			c.process(n, *e)
			continue
		case e.epoch == n.epoch && (e.prev < n.pos || e.prev == n.pos && e.prevID != n.id):
			if !c.noEpoch {
				want()
				return "probes: the log went on without what it had"
			}
		}
		return lost()
	}
	n.synced, n.relinked = true, false
	return "probes: it knows all up to here"
}

func (c failover) broken(s failoverState) string {
	if s.undead != 0 {
		return "P1: " + names[s.undead-1] + " serves a value from before a drop that it knows of"
	}
	p := &s.p
	valid := func(since, floor, epoch uint8) bool {
		return p.has == 1 && p.repoch == epoch && since <= p.read && floor <= p.read
	}
	looked := true
	for i := range s.inst {
		looked = looked && s.inst[i].synced && !s.inst[i].want
	}
	for i := range s.inst {
		n := &s.inst[i]
		if (looked || !c.settled) && n.synced && !n.want && p.epoch != 0 && n.epoch == p.epoch && n.pos == p.pos && n.id == p.id && p.ver < p.top && valid(n.since, n.floor, n.epoch) {
			return "P2: " + names[i] + " has processed the log, and takes a value from before a drop for valid"
		}
	}
	if !looked {
		return ""
	}
	must := p.top
	for i := range s.inst {
		must = max(must, s.inst[i].knows)
	}
	stamp := p.stamp
	if stamp == 0 && !c.stampZero {
		stamp = p.pos // where it would be made anew
	}
	if p.epoch == 0 || p.ver >= must || !valid(0, stamp, p.epoch) {
		return ""
	}
	return "P1: all have looked at the log, and L2 has a valid value from before a drop that one of them knows of"
}

func failoverVariants() []Variant {
	var all []Variant
	full := func(name string, c failover) { all = append(all, variant("failover", Keeps, name, c)) }
	without := func(name string, c failover) { all = append(all, variant("failover", Breaks, name, c)) }
	hole := func(name string, c failover) { all = append(all, variant("failover", Hole, name, c)) }

	one := failover{rows: 2, loads: 2, fails: 1}
	with := func(c failover, f func(*failover)) failover { f(&c); return c }
	full("a failover, two drops", with(one, func(c *failover) { c.loads = 1 }))
	full("a failover, two loads", with(one, func(c *failover) { c.rows = 1 }))
	full("a failover to a clock behind, once all have looked", with(one, func(c *failover) { c.reuse = true; c.settled = true; c.loads = 1 }))
	full("a failover, a drop of another tag, a forgotten cell", with(one, func(c *failover) {
		c.rows = 1
		c.loads = 1
		c.others = 1
		c.forgets = 1
		c.settled = true
		c.roles = true
	}))
	full("a failover and an evicted stamp", with(one, func(c *failover) { c.rows = 1; c.evicts = 1 }))
	full("a failover and a crash", with(one, func(c *failover) { c.rows = 1; c.crashes = 1 }))
	full("a lost log and an evicted stamp", failover{rows: 1, loads: 2, wipes: 1, evicts: 1})
	full("a cut log, a crash and a forgotten cell", failover{rows: 2, loads: 1, trims: 1, crashes: 1, forgets: 1})
	full("a failover; no drop is refused for being behind: the chain shows it, too", with(one, func(c *failover) { c.rows = 1; c.loads = 1; c.others = 1; c.noBehind = true }))
	all = append(all,
		large(variant("failover", Keeps, "a failover, two drops, two loads", one)),
		large(variant("failover", Keeps, "a failover to a clock behind, two loads, once all have looked", with(one, func(c *failover) { c.reuse = true; c.settled = true }))),
		large(variant("failover", Keeps, "a failover and an evicted stamp, two drops", with(one, func(c *failover) { c.evicts = 1 }))),
		large(variant("failover", Keeps, "a failover, two drops and one of another tag", with(one, func(c *failover) { c.others = 1; c.loads = 1; c.forgets = 1; c.settled = true }))),
		large(variant("failover", Keeps, "a lost log, an evicted stamp, a cut log, a crash", failover{rows: 2, loads: 2, wipes: 1, evicts: 1, crashes: 1, trims: 1})),
	)

	hole("a failover to a clock behind, until who knew looks", with(one, func(c *failover) { c.reuse = true }))
	all = append(all, large(variant("failover", Hole, "a failover to a clock behind, and who knew dies", with(one, func(c *failover) { c.loads = 1; c.reuse = true; c.crashes = 1; c.settled = true }))))

	full("two failovers", failover{rows: 1, loads: 1, fails: 2})
	full("a lost log and a failover", failover{rows: 1, loads: 1, fails: 1, wipes: 1})
	full("a lost log, drops by who hasn't looked", failover{rows: 1, loads: 1, wipes: 1, late: true})
	full("a drop acknowledged ahead of others", failover{rows: 1, loads: 1, fails: 1, others: 1, late: true})
	full("a failover to a clock behind, late, once all have looked", with(one, func(c *failover) { c.loads = 1; c.reuse = true; c.late = true; c.settled = true }))
	all = append(all,
		large(variant("failover", Keeps, "a failover and a cut log", failover{rows: 1, loads: 1, fails: 1, trims: 1, others: 2, roles: true})),
		large(variant("failover", Keeps, "two drops, two failovers, once all have looked", failover{rows: 2, loads: 1, fails: 2, late: true, settled: true})),
	)

	keyed := failover{rows: 1, loads: 1, fails: 1, others: 1, late: true, keyed: true}
	full("a failover brings a dropped key back", keyed)
	full("a failover brings a dropped key back, another instance dies", with(keyed, func(c *failover) { c.crashes = 1; c.roles = true }))
	without("stamps are believed without trust if the log's end is late enough", with(keyed, func(c *failover) { c.endOnly = true }))

	without("an entry that is further on is taken for the next", failover{rows: 1, loads: 1, fails: 1, others: 1, noChain: true})
	without("no nonces, the new primary's clock behind", with(one, func(c *failover) { c.noNonce = true; c.reuse = true; c.settled = true }))
	without("no new epoch after lost history", with(one, func(c *failover) { c.noEpoch = true }))
	without("stamps are believed from a log that is behind", failover{rows: 1, loads: 2, fails: 1, forgets: 1, anyReply: true})
	without("a lost stamp is made anew at zero", failover{rows: 2, loads: 2, evicts: 1, stampZero: true})
	without("cells outlive their epoch", failover{rows: 1, loads: 1, wipes: 1, keepCells: true})
	without("a part of the log that is gone is skipped", failover{rows: 3, loads: 1, trims: 1, ignoreLost: true})

	without("an older epoch is taken over", failover{rows: 1, loads: 1, fails: 2, anyEpoch: true})
	without("an older epoch is taken over after a lost log", failover{rows: 1, loads: 1, fails: 1, wipes: 1, anyEpoch: true})
	without("a log cut after a failover is taken for one that is only long", failover{rows: 1, loads: 1, fails: 1, trims: 1, others: 2, roles: true, cutBelieved: true})
	without("what is ahead of the mirror needn't be in the log", failover{rows: 1, loads: 1, fails: 1, others: 1, late: true, nearest: true})
	without("an own drop into another epoch leaves the cells alone", failover{rows: 1, loads: 1, wipes: 1, late: true, nearest: true})
	return all
}
