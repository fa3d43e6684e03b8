package model

// tags is the world of one key with two tags, in one partition or in two: stamps, read positions, cells and how they
// come about, the recent log, tags that only the answer names, and reads of L2. The epoch never changes.
//
// A has a mirror. B only loads and stores, with the latest read positions it may have. There is no lease: a fill
// stores whatever it brings. Announcements come in order and with any delay; one that was lost is one that comes with
// the next probe.
type tags struct {
	part    uint8    // partition of the second tag; that of the first is 0
	late    bool     // the second tag of a load by A is known only from the answer
	rows    [2]uint8 // writes, each with its drop of the first or the second tag
	own     bool     // drops of the first tag, and of another tag of the first partition, are made by A
	others  [2]uint8 // drops of another tag, by partition
	loads   [2]uint8 // by A and B
	reads   uint8    // of L2 by A
	evicts  uint8    // stamps evicted
	trims   uint8    // times a partition's log loses what it has
	forgets uint8    // times A's recent log of a partition loses what it has

	// What is taken out.
	readLate    bool // the read position is noted after the load
	stampZero   bool // a missing stamp is made anew at zero
	cellLate    bool // a cell is there only once its stamp came, and the recent log isn't looked at
	overwrite   bool // a stamp that comes replaces what was announced meanwhile
	anyReply    bool // a stamp is believed though a part of the log was lost since it was asked for
	blankCell   bool // a new cell doesn't look at the recent log
	keepCells   bool // cells stay known when a part of the log is lost
	ownHead     bool // an own drop moves the mirror's position past others' drops
	adoptBlind  bool // a late tag is taken whatever its stamp
	extendBlind bool // the read position is moved up for a late tag without a proof
	extendOne   bool // that proof looks at the late tag only
	verifyOne   bool // stamps are verified in the first partition only
}

const maxTagLog = 4

type tagsState struct {
	row, pend, top [2]uint8 // by tag: writes, the one whose drop is asked for, the last acknowledged
	ownPos         uint8    // position of A's own drop whose answer is on its way
	ownOther       bool     // it is of another tag

	log   [2][maxTagLog]uint8 // by partition: tag plus one, or otherTag; positions begin at 2
	rowOf [2][maxTagLog]uint8
	n     [2]uint8
	gone  [2]uint8
	stamp [2]uint8 // by tag; 0: none

	l2 record

	// A's mirror.
	pos, from, heard [2]uint8 // by partition
	since, floor     [2]uint8 // by tag
	asked            [2]bool  // by tag: a request for the stamp was answered, with what follows
	reply, at        [2]uint8
	before           [2]uint8 // position of the mirror when it was asked for

	op  uint8 // A's load
	opR record

	slot   uint8 // A's copy of L2: 1 read, 2 with cells, 3 verified in the first partition, 4 in both
	near   record
	seenBy [2]uint8 // by tag: the last drop acknowledged before it was read
	bOp    uint8
	bR     record

	writes, others, loads         [2]uint8 // left
	reads, evicts, trims, forgets uint8
}

type record struct {
	has       bool
	ver, read [2]uint8 // by tag, by partition
}

const otherTag = 3

func (c tags) start() tagsState {
	s := tagsState{writes: c.rows, others: c.others, loads: c.loads, reads: c.reads, evicts: c.evicts, trims: c.trims, forgets: c.forgets}
	s.pos, s.from, s.heard = [2]uint8{1, 1}, [2]uint8{1, 1}, [2]uint8{1, 1}
	s.since = [2]uint8{1, 1}
	return s
}

func (c tags) of(tag int) uint8 { return uint8(tag) * c.part }

func (s *tagsState) end(p uint8) uint8 { return s.n[p] + 1 }

// append logs a drop and raises the stamp.
func (c tags) append(s *tagsState, p uint8, tag, row uint8) {
	s.log[p][s.n[p]], s.rowOf[p][s.n[p]] = tag, row
	s.n[p]++
	if tag != otherTag && s.stamp[tag-1] != 0 {
		s.stamp[tag-1] = s.end(p)
	}
}

// last is the position of the tag's last drop in the recent log.
func (c tags) last(s *tagsState, tag int) uint8 {
	p := c.of(tag)
	for at := s.pos[p]; at > s.from[p]; at-- {
		if s.log[p][at-2] == uint8(tag)+1 {
			return at
		}
	}
	return 0
}

// known is the row of the tag's last drop up to a position.
func (c tags) known(s *tagsState, tag int, upTo uint8) uint8 {
	p := c.of(tag)
	row := uint8(0)
	for at := uint8(2); at <= upTo; at++ {
		if s.log[p][at-2] == uint8(tag)+1 {
			row = max(row, s.rowOf[p][at-2])
		}
	}
	return row
}

func (c tags) make(s *tagsState, tag int) {
	s.since[tag], s.floor[tag] = s.from[c.of(tag)], c.last(s, tag)
	if c.blankCell {
		s.floor[tag] = 0
	}
}

// held reports whether something points to the cells, so that they stay.
func (s *tagsState) held() bool { return s.op != 0 || s.slot >= 2 }

// stamps reads a stamp as the store does.
func (c tags) stamps(s *tagsState, tag int) uint8 {
	if s.stamp[tag] == 0 {
		s.stamp[tag] = s.end(c.of(tag))
		if c.stampZero {
			s.stamp[tag] = 1
		}
	}
	return s.stamp[tag]
}

func (c tags) next(s tagsState, step func(actor, what string, to tagsState)) {
	t := s
	reset := func() { t = s }

	for tag := range 2 {
		p := c.of(tag)
		byA := c.own && tag == 0
		who := "C"
		if byA {
			who = "A"
		}
		switch {
		case s.pend[tag] == 0 && s.writes[tag] > 0:
			t.writes[tag]--
			t.row[tag]++
			t.pend[tag] = t.row[tag]
			step(who, "writes "+tagNames[tag]+"'s row and asks for its drop", t)
			reset()
		case s.pend[tag] > 0 && (!byA || s.ownPos == 0):
			c.append(&t, p, uint8(tag)+1, s.pend[tag])
			if byA {
				t.ownPos = t.end(p)
			} else {
				t.top[tag], t.pend[tag] = s.pend[tag], 0
			}
			step("redis", "appends the drop of "+tagNames[tag]+" by "+who, t)
			reset()
		}
		if s.evicts > 0 && s.stamp[tag] != 0 {
			t.evicts--
			t.stamp[tag] = 0
			step("redis", "evicts the stamp of "+tagNames[tag], t)
			reset()
		}
	}
	if s.ownPos > 0 {
		t.ownPos, t.ownOther = 0, false
		if !s.ownOther {
			t.top[0], t.pend[0] = s.pend[0], 0
		}
		if s.ownPos > s.pos[0] {
			if !s.ownOther {
				t.floor[0] = max(s.floor[0], s.ownPos)
			}
			if s.ownPos == s.pos[0]+1 || c.ownHead {
				t.pos[0] = s.ownPos
			} else {
				t.heard[0] = max(s.heard[0], s.ownPos)
			}
		}
		step("A", "notes its own drop", t)
		reset()
	}
	for p := range uint8(2) {
		byA := c.own && p == 0
		if s.others[p] > 0 && (!byA || s.ownPos == 0) {
			t.others[p]--
			c.append(&t, p, otherTag, 0)
			who := "C"
			if byA {
				who = "A"
				t.ownPos, t.ownOther = t.end(0), true
			}
			step(who, "drops another tag of the "+partNames[p]+" partition", t)
			reset()
		}
		if s.trims > 0 && s.gone[p] < s.n[p] && s.pos[p] < s.end(p) {
			t.trims--
			t.gone[p] = s.n[p]
			step("redis", "loses the log of the "+partNames[p]+" partition so far", t)
			reset()
		}
		c.follow(s, p, step)
	}
	c.mirror(s, step)
	c.load(s, step)
	c.read(s, step)

	// B.
	switch s.bOp {
	case 0:
		if s.loads[1] > 0 {
			t.loads[1]--
			t.bOp = 1
			for tag := range 2 {
				c.stamps(&t, tag)
			}
			t.bR = record{read: [2]uint8{s.end(0), s.end(1)}}
			step("B", "registers the tags and notes the read positions", t)
		}
	case 1:
		t.bOp, t.bR.ver = 2, s.row
		step("B", "loads", t)
	case 2:
		t.bOp, t.l2, t.bR = 0, s.bR, record{}
		t.l2.has = true
		step("B", "stores what it loaded", t)
	}
}

var (
	tagNames  = [...]string{"red", "blue"}
	partNames = [...]string{"first", "second"}
)

// follow processes the log.
func (c tags) follow(s tagsState, p uint8, step func(actor, what string, to tagsState)) {
	t := s
	if s.pos[p] < s.end(p) {
		if at := s.pos[p] - 1; at >= s.gone[p] {
			t.pos[p]++
			if tag := int(s.log[p][at]) - 1; tag < 2 && (!c.cellLate || s.since[tag] == 0 || !s.asked[tag]) {
				t.floor[tag] = max(s.floor[tag], t.pos[p])
			}
			step("A", "hears of a drop in the "+partNames[p]+" partition", t)
		} else {
			t.pos[p], t.from[p], t.heard[p] = s.end(p), s.end(p), s.end(p)
			for tag := range 2 {
				if c.of(tag) == p && !c.keepCells {
					t.since[tag] = unknown
				}
			}
			if !c.keepCells {
				t.slot, t.near, t.seenBy = 0, record{}, [2]uint8{} // its trust is gone
			}
			step("A", "finds that a part of the log of the "+partNames[p]+" partition is gone", t)
		}
	}
	if s.forgets > 0 && s.from[p] < s.pos[p] {
		t := s
		t.forgets--
		t.from[p] = s.pos[p]
		step("A", "lets go of the recent log of the "+partNames[p]+" partition", t)
	}
}

// mirror asks for stamps.
func (c tags) mirror(s tagsState, step func(actor, what string, to tagsState)) {
	for tag := range 2 {
		p := c.of(tag)
		t := s
		switch {
		case s.asked[tag]:
			t.asked[tag], t.reply[tag], t.at[tag], t.before[tag] = false, 0, 0, 0
			switch {
			case !c.anyReply && s.at[tag] < max(s.before[tag], s.from[p]):
				step("A", "refuses the stamp of "+tagNames[tag]+": it is of another time of the log", t)
			case c.overwrite || c.cellLate:
				t.floor[tag], t.since[tag], t.heard[p] = s.reply[tag], 0, max(s.heard[p], s.at[tag])
				step("A", "takes the stamp of "+tagNames[tag], t)
			default:
				t.floor[tag], t.since[tag], t.heard[p] = max(s.floor[tag], s.reply[tag]), 0, max(s.heard[p], s.at[tag])
				step("A", "takes the stamp of "+tagNames[tag], t)
			}
		case s.since[tag] > 0 && (s.op == 1 || s.op == 3 || s.slot == 2 && s.since[tag] > s.near.read[p]):
			t.asked[tag], t.reply[tag], t.before[tag] = true, c.stamps(&t, tag), s.pos[p]
			t.at[tag] = s.end(p)
			step("redis", "answers A with the stamp of "+tagNames[tag], t)
		}
	}
}

// Steps of a load by A.
const (
	loadBegun = iota + 1
	loadReady
	loadDone
)

func (c tags) load(s tagsState, step func(actor, what string, to tagsState)) {
	t := s
	note := func() {
		for p := range 2 {
			t.opR.read[p] = max(s.heard[p], s.pos[p])
		}
	}
	switch s.op {
	case 0:
		if s.loads[0] == 0 {
			break
		}
		t.loads[0]--
		t.op = loadBegun
		step("A", "begins a load with the cells it has", t)
		if !s.held() {
			for tag := range 2 {
				c.make(&t, tag)
			}
			step("A", "begins a load with new cells", t)
		}
	case loadBegun:
		if s.since[0] == 0 && (s.since[1] == 0 || c.late) {
			t.op = loadReady
			note()
			step("A", "notes the read positions", t)
		}
	case loadReady:
		t.op, t.opR.ver = loadDone, s.row
		step("A", "loads", t)
	case loadDone:
		if c.readLate {
			note()
		}
		if c.late && !c.adopt(&t) {
			if s.since[1] == 0 {
				t = s
				t.op, t.opR = 0, record{}
				step("A", "doesn't store: the late tag may have been dropped", t)
			}
			break
		}
		t.l2 = t.opR
		t.l2.has = true
		t.op, t.opR = 0, record{}
		step("A", "stores what it loaded", t)
	}
}

// adopt takes the second tag into the record that is about to be stored.
func (c tags) adopt(s *tagsState) bool {
	if c.adoptBlind {
		return true
	}
	p := c.of(1)
	if s.since[1] > 0 {
		return false
	}
	if s.floor[1] <= s.opR.read[p] {
		return true
	}
	if c.extendBlind {
		s.opR.read[p] = s.end(p)
		return true
	}
	read := s.opR.read[p]
	if s.pos[p] < s.floor[1] || s.from[p] > read || c.last(s, 1) > read {
		return false
	}
	if p == 0 && c.last(s, 0) > read && !c.extendOne {
		return false
	}
	s.opR.read[p] = s.pos[p]
	return true
}

// read is a read of L2 by A, and what it keeps of it in L1.
func (c tags) read(s tagsState, step func(actor, what string, to tagsState)) {
	t := s
	if s.l2.has && s.reads > 0 {
		t.reads--
		t.slot, t.near, t.seenBy = 1, s.l2, s.top
		step("redis", "answers A with the record", t)
		t = s
	}
	switch s.slot {
	case 1:
		t.slot = 2
		step("A", "finds the cells of the record", t)
		if !s.held() {
			for tag := range 2 {
				c.make(&t, tag)
			}
			step("A", "makes the cells of the record", t)
		}
	case 2, 3:
		// Verified partition by partition; the verdict is for the time at which it was read.
		p := s.slot - 2
		t.slot++
		ok := true
		for tag := range 2 {
			if c.of(tag) == p && (p == 0 || !c.verifyOne) {
				ok = ok && c.stamps(&t, tag) <= s.near.read[p]
			}
		}
		if ok {
			step("A", "verifies the stamps of the "+partNames[p]+" partition", t)
		}
	}
}

func (c tags) broken(s tagsState) string {
	if s.l2.has {
		valid, old := true, false
		for tag := range 2 {
			p := c.of(tag)
			stamp := s.stamp[tag]
			if stamp == 0 && !c.stampZero {
				stamp = s.end(p)
			}
			valid = valid && stamp <= s.l2.read[p]
			old = old || s.l2.ver[tag] < s.top[tag]
		}
		if valid && old {
			return "P1: L2 has a valid value from before an acknowledged drop"
		}
	}
	if s.slot >= 2 {
		valid, old, older := true, false, false
		for tag := range 2 {
			p := c.of(tag)
			valid = valid && s.since[tag] <= s.near.read[p] && s.floor[tag] <= s.near.read[p]
			old = old || s.near.ver[tag] < c.known(&s, tag, s.pos[p])
			older = older || s.near.ver[tag] < s.seenBy[tag]
		}
		if valid && old {
			return "P2: A has processed a drop, and takes a value from before it for valid"
		}
		if s.slot == 4 && older {
			return "P2: A takes a value for verified that was dropped before it was read"
		}
	}
	return ""
}

func tagsVariants() []Variant {
	var all []Variant
	full := func(name string, c tags) { all = append(all, variant("tags", Keeps, name, c)) }
	without := func(name string, c tags) { all = append(all, variant("tags", Breaks, name, c)) }
	with := func(c tags, f func(*tags)) tags { f(&c); return c }

	two := tags{part: 1, rows: [2]uint8{1, 1}, loads: [2]uint8{1, 1}, reads: 1}
	full("two partitions", two)
	full("two partitions, an evicted stamp", with(two, func(c *tags) { c.rows[1] = 0; c.evicts = 1 }))
	full("one partition, a cut log", with(two, func(c *tags) { c.part = 0; c.rows[1] = 0; c.trims = 1 }))
	full("one partition, own drops behind others'", with(two, func(c *tags) { c.part = 0; c.own = true }))
	full("one partition, own drops of another tag", with(two, func(c *tags) { c.part = 0; c.own = true; c.rows[0] = 0; c.others[0] = 1 }))
	full("one partition, recent log too short", with(two, func(c *tags) { c.part = 0; c.forgets = 1 }))
	late := tags{part: 0, late: true, rows: [2]uint8{1, 1}, others: [2]uint8{1, 0}, loads: [2]uint8{1, 0}, reads: 1}
	full("a late tag in the same partition", late)
	full("a late tag in another partition", with(late, func(c *tags) { c.part = 1; c.others = [2]uint8{0, 1}; c.evicts = 1 }))
	full("a late tag taken unchecked is born invalid", with(late, func(c *tags) { c.adoptBlind = true }))

	all = append(all,
		large(variant("tags", Keeps, "one partition, two own drops of another tag", with(two, func(c *tags) { c.part = 0; c.own = true; c.rows[0] = 0; c.others[0] = 2 }))),
		large(variant("tags", Keeps, "two partitions, all faults", with(two, func(c *tags) { c.evicts = 1; c.trims = 1; c.forgets = 1; c.reads = 2 }))),
		large(variant("tags", Keeps, "one partition, all faults, own drops", with(two, func(c *tags) { c.part = 0; c.own = true; c.evicts = 1; c.trims = 1; c.forgets = 1 }))),
		large(variant("tags", Keeps, "late tags, all faults", with(late, func(c *tags) { c.evicts = 1; c.trims = 1; c.forgets = 1 }))),
	)

	without("the read position is noted after the load", with(two, func(c *tags) { c.readLate = true }))
	without("a lost stamp is made anew at zero", with(two, func(c *tags) { c.stampZero = true; c.evicts = 1 }))
	without("a cell is made when its stamp comes", with(two, func(c *tags) { c.part = 0; c.cellLate = true; c.forgets = 1 }))
	without("a stamp that comes replaces what was announced", with(two, func(c *tags) { c.part = 0; c.overwrite = true; c.forgets = 1 }))
	without("a stamp from before a lost part of the log is believed", with(two, func(c *tags) { c.part = 0; c.anyReply = true; c.trims = 1 }))
	without("a new cell doesn't look at the recent log", with(two, func(c *tags) { c.blankCell = true }))
	without("cells stay known when a part of the log is lost", with(two, func(c *tags) { c.keepCells = true; c.trims = 1 }))
	without("an own drop moves the mirror past others'", with(two, func(c *tags) { c.part = 0; c.own = true; c.rows[0] = 0; c.others[0] = 1; c.ownHead = true }))
	without("the read position is moved up for a late tag without a proof", with(late, func(c *tags) { c.extendBlind = true }))
	without("the proof for a late tag leaves out the other tags", with(late, func(c *tags) { c.extendOne = true }))
	without("stamps are verified in the first partition only", with(two, func(c *tags) { c.verifyOne = true }))
	return all
}
