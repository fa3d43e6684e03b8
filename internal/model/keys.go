package model

// keys is the world of one key without tags: leases, compare-and-fill, refreshes, drops of the key, and what L1
// hears of them: log entries, the pushes of a tracking link, and probes.
//
// Two instances read, load and refresh; B drops, and with tracking a foreign client deletes. "Row 2" is the row after
// its second write; each write is followed by its drop.
type keys struct {
	rows   uint8    // writes, each with its drop by B
	dels   uint8    // writes, each with its DEL by a foreign client
	loads  [2]uint8 // loads by each instance, refreshes included; without any, B doesn't read either
	probes uint8    // by A
	ends   uint8    // leases that end early
	links  uint8    // links that A loses
	trims  uint8    // times the log loses what it has
	track  bool     // the link tells of foreign writes

	// What is taken out.
	plainSet       bool // a fill stores whatever the key holds
	noLease        bool // a claim leaves nothing, and a fill wants to find nothing
	anyLease       bool // a fill is content with anybody's lease
	onlySide       bool // a refresh looks at its side lease and not at the key
	logFirst       bool // a drop is logged before the key is deleted
	admitAnyway    bool // L1 takes what a drop overtook
	markLate       bool // the mark is noted when the answer comes
	keepTrust      bool // trust outlives its link
	trustUnread    bool // a probe's answer is believed before the log up to it is read
	trustFromReply bool // asOf is when the answer came, and not when the probe was sent
	keepLost       bool // L1 keeps its trust when part of the log is gone
	fillUntracked  bool // the server doesn't go on tracking a key that was filled
}

type keysState struct {
	row, acked uint8

	kind, id, ver uint8 // what the key holds
	side          uint8 // its side lease

	log, gone uint8 // number of entries, and how many of the first are lost

	inst [2]keysInst

	drop    uint8 // 0 none, 1 asked, 2 first half done, 3 second half done
	dropRow uint8

	writes, dels, ends, links, trims uint8 // left
}

// What a key holds.
const (
	holdsNothing = iota
	holdsLease
	holdsRecord
)

type keysInst struct {
	at            uint8 // log entries processed
	tracked, push bool  // the server tracks the key for this link; a push is on its way

	has, live bool  // L1 has an entry, and the trust it came with goes on
	ver       uint8 // of it
	own       uint8 // row of the last drop by this instance that was acknowledged

	// The probe under way: 1 sent, 2 answered.
	probe, asked, head uint8
	probes             uint8 // left
	after              bool  // a push was sent before the answer
	trusted            bool  // some probe succeeded over this link
	known              uint8 // row whose drop was acknowledged before that probe was sent

	// The read or load under way.
	op        uint8
	overtaken bool // a drop came since the mark was noted
	opLive    bool // the trust noted goes on
	refresh   bool
	id, saw   uint8
	opVer     uint8
	loads     uint8 // left
}

// Steps of a read or load.
const (
	opNone    = iota
	opAsked   // the read was sent
	opRead    // it was answered
	opMissing // there was nothing to use: the claim was sent
	opLeased
	opLoaded
	opStored // the fill was acknowledged
)

func (c keys) start() keysState {
	s := keysState{writes: c.rows, dels: c.dels, ends: c.ends, links: c.links, trims: c.trims}
	for i := range s.inst {
		s.inst[i].loads = c.loads[i]
	}
	s.inst[0].probes = c.probes
	return s
}

var names = [...]string{"A", "B", "C"}

// forget is what an instance does with a key that was dropped.
func (n *keysInst) forget() { n.has, n.ver, n.live, n.overtaken = false, 0, false, n.op != opNone }

// tell pushes to whoever has the key tracked, but not to the writer.
func (s *keysState) tell(writer int) {
	for i := range s.inst {
		if n := &s.inst[i]; n.tracked && i != writer {
			n.tracked, n.push = false, true
		}
	}
}

func (c keys) next(s keysState, step func(actor, what string, to keysState)) {
	// The dropper, B.
	switch s.drop {
	case 0:
		if s.writes > 0 {
			t := s
			t.writes--
			t.row++
			t.drop, t.dropRow = 1, t.row
			t.inst[1].forget()
			step("B", "writes the row and asks for the drop", t)
		}
	case 1, 2:
		t := s
		t.drop++
		if (s.drop == 1) != c.logFirst {
			t.kind, t.id, t.ver, t.side = 0, 0, 0, 0
			t.tell(1)
			step("redis", "deletes the key for the drop", t)
		} else {
			t.log++
			step("redis", "appends the key to the log", t)
		}
	case 3:
		t := s
		t.drop, t.dropRow, t.acked = 0, 0, max(s.acked, s.dropRow)
		t.inst[1].own = s.dropRow
		t.inst[1].forget()
		if t.inst[1].at == t.log-1 {
			t.inst[1].at = t.log
		}
		step("B", "hears that the drop is done", t)
	}
	if s.dels > 0 {
		t := s
		t.dels--
		t.row++
		t.acked = t.row
		t.kind, t.id, t.ver = 0, 0, 0
		t.tell(-1)
		step("other", "writes the row and deletes the key", t)
	}
	if s.ends > 0 && s.kind == holdsLease {
		t := s
		t.ends--
		t.kind, t.id = 0, 0
		step("redis", "lets the lease end", t)
	}
	if s.trims > 0 && s.gone < s.log {
		t := s
		t.trims--
		t.gone = s.log
		step("redis", "loses the log so far", t)
	}
	for i := range s.inst {
		c.link(s, i, step)
		c.operate(s, i, step)
	}
}

// link is what an instance hears.
func (c keys) link(s keysState, i int, step func(actor, what string, to keysState)) {
	n := s.inst[i]
	if n.at < s.log {
		t := s
		m := &t.inst[i]
		switch {
		case n.at >= s.gone:
			m.at++
			m.forget()
			step(names[i], "hears of the drop from the log", t)
		default:
			m.at = s.log
			if !c.keepLost {
				m.forget()
				m.opLive, m.trusted, m.known, m.probe, m.asked, m.head, m.after = false, false, 0, 0, 0, 0, false
			}
			step(names[i], "finds that a part of the log is gone", t)
		}
	}
	if n.push {
		t := s
		t.inst[i].push, t.inst[i].after = false, false
		t.inst[i].forget()
		step(names[i], "hears from the server that the key changed", t)
	}
	if s.links > 0 && i == 0 {
		t := s
		m := &t.inst[i]
		t.links--
		m.tracked, m.push, m.after = false, false, false
		if !c.keepTrust {
			m.probe, m.asked, m.head = 0, 0, 0
			m.trusted, m.known, m.opLive = false, 0, false
			m.has, m.ver, m.live = false, 0, false // it may be served up to the last proof, which nothing changes any more
		}
		step(names[i], "loses the link and gets a new one", t)
	}
	switch n.probe {
	case 0:
		if n.probes > 0 && (!n.trusted || n.known < s.acked) {
			t := s
			t.inst[i].probes--
			t.inst[i].probe, t.inst[i].asked = 1, s.acked
			step(names[i], "sends a probe", t)
		}
	case 1:
		t := s
		t.inst[i].probe, t.inst[i].head, t.inst[i].after = 2, s.log, n.push
		step("redis", "answers the probe of "+names[i], t)
	case 2:
		if n.after || n.at < n.head && !c.trustUnread {
			break
		}
		t := s
		m := &t.inst[i]
		m.trusted, m.known = true, n.asked
		if c.trustFromReply {
			m.known = s.acked
		}
		m.probe, m.asked, m.head, m.after = 0, 0, 0, false
		step(names[i], "has processed what the probe asked for: asOf", t)
	}
}

// operate is a read, or a load.
func (c keys) operate(s keysState, i int, step func(actor, what string, to keysState)) {
	n := s.inst[i]
	t := s
	m := &t.inst[i]
	admit := func() {
		if !n.overtaken || c.admitAnyway {
			m.has, m.ver, m.live = true, n.opVer, n.opLive
		}
	}
	end := func() {
		m.op, m.overtaken, m.opLive, m.refresh, m.id, m.saw, m.opVer = opNone, false, false, false, 0, 0, 0
	}
	switch n.op {
	case opNone:
		if !n.has && (i == 0 || c.loads[i] > 0) {
			m.op, m.opLive = opAsked, true
			step(names[i], "notes the mark, reads the key", t)
		}
		if n.loads > 0 && s.kind == holdsRecord {
			t := s
			m := &t.inst[i]
			m.op, m.opLive, m.refresh, m.saw = opMissing, true, true, s.id
			step(names[i], "notes the mark, begins a refresh", t)
		}
	case opAsked:
		m.op = opRead
		m.tracked = c.track
		if s.kind == holdsRecord {
			m.opVer, m.saw = s.ver, s.id
			step("redis", "answers with the record to "+names[i], t)
		} else if n.loads > 0 {
			step("redis", "has no record for "+names[i], t)
		}
	case opRead:
		if c.markLate {
			m.overtaken, n.overtaken = false, false
		}
		if n.saw != 0 {
			admit()
			end()
			step(names[i], "serves the record", t)
		} else {
			m.op, m.overtaken, m.opLive = opMissing, false, true
			step(names[i], "notes the mark, asks for the lease", t)
		}
	case opMissing:
		m.tracked = c.track
		mine := 1 + uint8(i)*(c.loads[0]+1) + n.loads
		switch {
		case n.refresh && s.kind == holdsRecord && s.id == n.saw && s.side == 0:
			m.op, m.id, t.side, m.loads = opLeased, mine, mine, n.loads-1
			step("redis", "gives a side lease to "+names[i], t)
		case s.kind == holdsNothing && !n.refresh:
			m.op, m.id, m.loads = opLeased, mine, n.loads-1
			if !c.noLease {
				t.kind, t.id = holdsLease, mine
			}
			t.tell(i)
			step("redis", "gives the lease to "+names[i], t)
		case s.kind == holdsRecord && (!n.refresh || s.id != n.saw):
			m.op, m.saw, m.opVer = opRead, s.id, s.ver
			step("redis", "has a record meanwhile for "+names[i], t)
		default:
			end()
			step("redis", "says busy, or gone, to "+names[i], t)
		}
	case opLeased:
		m.op, m.opVer = opLoaded, s.row
		step(names[i], "loads "+rowName(s.row), t)
	case opLoaded:
		ok := false
		switch {
		case c.plainSet:
			ok = true
		case n.refresh:
			ok = s.side == n.id && (s.kind == holdsRecord && s.id == n.saw || c.onlySide)
		case c.noLease:
			ok = s.kind == holdsNothing
		default:
			ok = s.kind == holdsLease && (s.id == n.id || c.anyLease)
		}
		if !ok {
			if s.side == n.id {
				t.side = 0
			}
			end()
			step("redis", "refuses the fill of "+names[i], t)
			break
		}
		t.kind, t.id, t.ver, t.side = holdsRecord, n.id, n.opVer, 0
		t.tell(i)
		m.tracked = c.track && !c.fillUntracked
		m.op = opStored
		step("redis", "stores "+rowName(n.opVer)+" for "+names[i], t)
	case opStored:
		admit()
		end()
		step(names[i], "keeps it in L1", t)
	}
}

func rowName(v uint8) string { return [...]string{"row 0", "row 1", "row 2", "row 3", "row 4"}[v] }

func (c keys) broken(s keysState) string {
	if s.kind == holdsRecord && s.ver < s.acked {
		return "P1: L2 holds a value from before an acknowledged drop"
	}
	for i := range s.inst {
		n := &s.inst[i]
		if n.has && n.ver < n.own {
			return "P1: L1 of " + names[i] + " has a value from before its own drop"
		}
		if n.has && n.live && n.trusted && n.ver < n.known {
			return "P2: L1 of " + names[i] + " serves a value from before a drop that asOf vouches for"
		}
	}
	return ""
}

func keysVariants() []Variant {
	var all []Variant
	full := func(name string, c keys) { all = append(all, variant("keys", Keeps, name, c)) }
	without := func(name string, c keys) { all = append(all, variant("keys", Breaks, name, c)) }

	full("a drop and a lease that ends", keys{rows: 1, loads: [2]uint8{1, 1}, ends: 1, probes: 1})
	full("a drop and two loads of A", keys{rows: 1, loads: [2]uint8{2, 1}})
	full("foreign DEL and a lost link", keys{dels: 1, loads: [2]uint8{1, 1}, links: 1, probes: 2, track: true})
	full("a drop, a lost link and a lost log", keys{rows: 1, loads: [2]uint8{1, 0}, links: 1, trims: 1, probes: 2})
	all = append(all,
		large(variant("keys", Keeps, "two drops, a lease that ends", keys{rows: 2, loads: [2]uint8{1, 1}, ends: 1, probes: 1})),
		large(variant("keys", Keeps, "a drop, foreign DEL, a lost link", keys{rows: 1, dels: 1, loads: [2]uint8{1, 1}, links: 1, probes: 1, track: true})),
	)

	one := keys{rows: 1, loads: [2]uint8{1, 1}, probes: 1}
	foreign := keys{dels: 1, loads: [2]uint8{1, 1}, links: 1, probes: 2, track: true}
	with := func(c keys, f func(*keys)) keys { f(&c); return c }
	without("a fill stores without comparing", with(one, func(c *keys) { c.plainSet = true }))
	without("a fill compares with \"nothing\", and there is no lease", with(one, func(c *keys) { c.noLease = true }))
	without("a fill is content with anybody's lease", with(one, func(c *keys) { c.anyLease = true }))
	without("a refresh looks at its side lease only", with(foreign, func(c *keys) { c.onlySide = true; c.loads[0] = 2 }))
	without("a drop is logged before the key is deleted", with(one, func(c *keys) { c.logFirst = true }))
	without("L1 takes what a drop overtook", with(one, func(c *keys) { c.admitAnyway = true }))
	without("the mark is noted when the answer comes", with(one, func(c *keys) { c.markLate = true }))
	without("trust outlives its link", with(foreign, func(c *keys) { c.keepTrust = true }))
	without("a probe's answer counts before the log is read", with(one, func(c *keys) { c.trustUnread = true }))
	without("asOf is when a probe was answered", with(one, func(c *keys) { c.trustFromReply = true }))
	without("L1 keeps its trust when part of the log is gone", with(one, func(c *keys) { c.keepLost = true; c.trims = 1 }))
	without("a filled key isn't tracked", with(foreign, func(c *keys) { c.fillUntracked = true }))
	return all
}
