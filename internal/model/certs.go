package model

// certs is the world of certificates. A database changes; each change is in its feed first, and visible to new snapshots a while
// later. A pump announces a tick in the store's mark, reads where the feed ends, drops what comes before that, and certifies the
// tick. An instance reads the mark, then the log, and says of what it knows: all that was visible when I read that mark. A
// replica of the store lags, and takes over; the old primary goes on answering those who are still linked to it.
type certs struct {
	changes, ticks, restarts, failovers, loads uint8

	// What is taken out.
	endFirst     bool // the pump reads the end before it announces the tick
	certFirst    bool // it certifies before it drops
	noBarrier    bool // it drops what isn't visible yet
	noCompare    bool // it sets the mark whatever is there
	headFirst    bool // the instance reads the log before the mark
	sentLate     bool // it takes the time at which the log was there for that of the reading
	ownTick      bool // a reading counts when the tick that it saw announced is certified
	keepReadings bool // readings outlive the link
}

// certServer is a store: the end of its log, and the mark.
type certServer struct {
	pos, stamp uint8 // of the last entry, and of the last drop of the one tag there is
	drops      uint8 // changes that were dropped, in order
	seq        uint8 // of the mark
	at         uint8 // in the mark: applied up to this change
	tick, cert uint8
}

type certReading struct {
	used       bool
	sent, tick uint8
}

type certsState struct {
	written, visible uint8 // changes in the feed; those that a new snapshot shows

	srv      [2]certServer // the first primary, and its replica
	primary  uint8
	fork     uint8 // position at which the replica took over
	pumpLast uint8 // last entry that the pump appended to the first primary; 0: none

	// The pump.
	phase, seq, tick, end, applied uint8

	// The instance.
	link     uint8
	pos      uint8 // of the log, as far as it was processed
	known    uint8 // changes that were dropped up to there, or visible at the start of its epoch: what is older than that is invalid
	epoch    uint8 // of these, the latter
	readings [2]certReading
	probing  bool
	mark     certReading // under way
	cert     uint8
	claims   uint8 // it says that it knows the changes up to this one
	followed bool  // it has read the log over this link
	has      bool  // L1
	ver, rp  uint8

	changes, ticks, restarts, failovers, loads uint8 // left
}

func (c certs) start() certsState {
	return certsState{changes: c.changes, ticks: c.ticks, restarts: c.restarts, failovers: c.failovers, loads: c.loads, followed: true}
}

const (
	pumpIdle = iota
	pumpAnnounced
	pumpEnd // has read the end
)

func (c certs) next(s certsState, step func(actor, what string, to certsState)) {
	t := s
	reset := func() { t = s }

	// The database.
	if s.changes > 0 {
		t.changes--
		t.written++
		step("db", "commits "+rowName(t.written)+", which can't be seen yet", t)
		reset()
	}
	if s.visible < s.written {
		t.visible++
		step("db", "shows "+rowName(t.visible), t)
		reset()
	}

	// The store.
	if s.primary == 0 && s.failovers > 0 {
		if s.srv[1] != s.srv[0] {
			t.srv[1] = s.srv[0]
			step("redis", "replicates", t)
			reset()
		}
		t.failovers--
		t.primary, t.fork = 1, s.srv[1].pos
		step("redis", "fails over; the old primary lives on alone", t)
		reset()
	}

	c.pump(s, step)
	c.instance(s, step)
}

func (c certs) pump(s certsState, step func(actor, what string, to certsState)) {
	t := s
	reset := func() { t = s }
	p := &t.srv[s.primary]
	lost := s.primary == 1 && s.pumpLast > s.fork // what it appended is not in the log
	moved := p.seq != s.seq || lost

	if s.restarts > 0 || moved && !c.noCompare {
		if !moved {
			t.restarts--
		}
		t.phase, t.seq, t.tick, t.end, t.applied, t.pumpLast = pumpIdle, p.seq, p.tick, 0, p.at, 0
		if t != s {
			step("pump", "begins anew at the mark", t)
		}
		reset()
	}
	if s.applied < s.written && (c.noBarrier || s.applied < s.visible) && !lost {
		t.applied++
		p.pos++
		p.stamp, p.drops = p.pos, max(p.drops, t.applied)
		if s.primary == 0 {
			t.pumpLast = p.pos
		}
		step("pump", "drops what "+rowName(t.applied)+" changed", t)
		reset()
	}
	set := func() { // the mark
		p.seq++
		p.at, p.tick = t.applied, t.tick
		t.seq = p.seq
	}
	if moved && !c.noCompare {
		return
	}
	switch s.phase {
	case pumpIdle:
		if s.ticks == 0 {
			return
		}
		if c.endFirst && s.end == 0 {
			t.end = s.written + 1
			step("pump", "reads the end of the feed", t)
			return
		}
		t.ticks--
		t.tick++
		set()
		t.phase = pumpAnnounced
		if c.endFirst {
			t.phase = pumpEnd
		}
		step("pump", "announces tick "+digit(t.tick), t)
	case pumpAnnounced:
		t.end = s.written + 1
		t.phase = pumpEnd
		step("pump", "reads the end of the feed", t)
	case pumpEnd:
		if s.applied+1 < s.end && !c.certFirst {
			return
		}
		set()
		p.cert = s.tick
		t.phase, t.end = pumpIdle, 0
		step("pump", "certifies tick "+digit(s.tick), t)
	}
}

func (c certs) instance(s certsState, step func(actor, what string, to certsState)) {
	t := s
	reset := func() { t = s }
	srv := s.srv[s.link]

	if s.link == 0 && s.primary == 1 {
		t.link, t.probing, t.mark, t.cert, t.followed = 1, false, certReading{}, 0, false
		t.has, t.ver, t.rp = false, 0, 0 // its trust was that of the old link
		if !c.keepReadings {
			t.readings = [2]certReading{}
		}
		step("A", "is linked to the new primary", t)
		reset()
	}
	if s.loads > 0 && s.followed && !s.has {
		t.loads--
		t.has, t.ver, t.rp = true, s.visible, s.pos
		step("A", "loads "+rowName(s.visible), t)
		reset()
	}

	readMark := func() { t.mark.tick, t.cert = srv.tick, srv.cert }
	follow := func() {
		if !s.followed && s.pos > s.fork { // it knows more than the new primary: a new epoch
			t.epoch = s.visible
		} else {
			if s.has && srv.stamp > s.rp {
				t.has, t.ver, t.rp = false, 0, 0
			}
		}
		t.pos, t.known, t.followed = srv.pos, max(srv.drops, t.epoch), true
	}
	heard := func() {
		if c.sentLate {
			t.mark.sent = s.visible
		}
		t.readings[1], t.readings[0] = t.readings[0], certReading{true, t.mark.sent, t.mark.tick}
		for _, r := range t.readings {
			if r.used && (r.tick < t.cert || c.ownTick && r.tick == t.cert && t.cert > 0) {
				t.claims = max(t.claims, r.sent)
			}
		}
		t.probing, t.mark, t.cert = false, certReading{}, 0
	}
	if !s.probing {
		t.probing, t.mark.sent = true, s.visible
		if c.headFirst {
			follow()
			step("A", "reads the log", t)
		} else {
			readMark()
			step("A", "reads the mark: tick "+digit(srv.tick)+", cert "+digit(srv.cert), t)
		}
		return
	}
	if c.headFirst {
		readMark()
		heard()
		step("A", "reads the mark: tick "+digit(srv.tick)+", cert "+digit(srv.cert), t)
		return
	}
	follow()
	heard()
	step("A", "reads the log, and knows of changes up to "+digit(t.claims), t)
}

func (c certs) broken(s certsState) string {
	switch {
	case s.followed && s.claims > s.known:
		return "P2: A says that it knows a change that was not dropped in the log it has"
	case s.has && s.ver < s.claims:
		return "P2: A serves a value from before a change, under a proof from after it was visible"
	}
	return ""
}

func digit(n uint8) string { return string('0' + rune(n)) }

func certsVariants() []Variant {
	var all []Variant
	with := func(f func(*certs)) certs {
		c := certs{changes: 1, ticks: 2, failovers: 1, loads: 1}
		f(&c)
		return c
	}
	full := func(name string, c certs) { all = append(all, variant("certs", Keeps, name, c)) }
	without := func(name string, c certs) { all = append(all, variant("certs", Breaks, name, c)) }
	full("a change, two ticks, a failover", with(func(c *certs) {}))
	full("a change, two ticks, two restarts", with(func(c *certs) { c.failovers, c.restarts = 0, 2 }))
	all = append(all, large(variant("certs", Keeps, "two changes, two ticks, a failover", certs{changes: 2, ticks: 2, failovers: 1, loads: 1})))
	all = append(all, large(variant("certs", Keeps, "two changes, three ticks, a failover, a restart", certs{changes: 2, ticks: 3, restarts: 1, failovers: 1, loads: 2})))

	without("the end of the feed is read before the tick is announced", with(func(c *certs) { c.endFirst = true }))
	without("a tick is certified before all is dropped", with(func(c *certs) { c.certFirst = true }))
	without("changes are dropped before they are visible", with(func(c *certs) { c.noBarrier = true }))
	without("a mark is set whatever is there", with(func(c *certs) { c.noCompare = true }))
	without("the log is read before the mark", with(func(c *certs) { c.headFirst = true }))
	without("a reading counts from when the log was there", with(func(c *certs) { c.sentLate = true }))
	without("a reading counts once its own tick is certified", with(func(c *certs) { c.ownTick = true }))
	without("readings outlive their link", with(func(c *certs) { c.keepReadings = true }))
	return all
}
