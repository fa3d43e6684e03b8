package model

// outbox is the world of drops that the store doesn't take at once. A drops the key, again and again until the store has
// it, and reads and loads meanwhile; B loads and fills the key in L2. Leases and fills are those of keys.
type outbox struct {
	rows  uint8 // writes, each with its drop by A
	fails uint8 // requests for a drop that fail: before the store did it, half-way, or with the answer lost
	loads [2]uint8
	reads uint8 // by A

	// What is taken out.
	useL2      bool // L2 is read while a drop is pending; so it would be if trust came back before the outbox is empty
	fillL2     bool // and filled
	forgetOnce bool // L1 forgets a key before the store is asked, and not again when it fails
	keepRead   bool // nor when it has done it
	settleAll  bool // a delivery settles what was asked for since
	voidLate   bool // L1 forgets the key only once the store has taken the drop
}

type outboxState struct {
	row, acked, own uint8 // written; acknowledged by the store; whose drop has returned to its caller, pending or not

	kind, id, ver uint8 // what the key holds

	drop, dropRow uint8 // the call: 1 asked, 2 done, 3 failed
	pends         bool
	pendRow       uint8
	send, sentRow uint8 // the delivery: 1 sent, 2 done
	again         bool  // a drop was asked for since it was sent

	has bool // L1
	l1  uint8
	bad bool // A served what its caller must not get

	// A's read or load.
	op         uint8
	overtaken  bool // a drop came since the mark was noted
	blocked    bool // a drop was asked for since the load began
	alone      bool // no lease
	must, ver0 uint8
	found      bool

	bOp, bVer uint8

	writes, fails, reads uint8 // left
	loads                [2]uint8
}

func (c outbox) start() outboxState {
	return outboxState{writes: c.rows, fails: c.fails, loads: c.loads, reads: c.reads}
}

func (s *outboxState) forget() { s.has, s.l1, s.overtaken = false, 0, s.op != opNone }

func (c outbox) next(s outboxState, step func(actor, what string, to outboxState)) {
	t := s
	reset := func() { t = s }
	del := func() { t.kind, t.id, t.ver = 0, 0, 0 }

	// The call of Drop.
	switch s.drop {
	case 0:
		if s.writes > 0 {
			t.writes--
			t.row++
			t.drop, t.dropRow = 1, t.row
			if !c.voidLate {
				t.forget()
			}
			t.blocked = s.op != opNone
			step("A", "writes the row and asks for the drop", t)
			reset()
		}
	case 1:
		del()
		t.drop = 2
		step("redis", "does the drop", t)
		if s.fails > 0 {
			t.fails--
			t.drop = 3
			step("redis", "does the drop, and the answer is lost", t)
			reset()
			t.fails--
			t.drop = 3
			step("redis", "doesn't get the drop", t)
		}
		reset()
	case 2:
		if !c.keepRead {
			t.forget()
		}
		t.pends, t.pendRow = false, 0 // what was asked for before
		t.acked, t.own = max(s.acked, s.dropRow), s.dropRow
		t.drop, t.dropRow = 0, 0
		step("A", "returns from Drop", t)
		reset()
	case 3:
		if !c.forgetOnce {
			t.forget()
		}
		t.pends, t.pendRow, t.again = true, s.dropRow, s.send != 0
		t.own = s.dropRow
		t.drop, t.dropRow = 0, 0
		step("A", "returns from Drop: pending", t)
		reset()
	}

	// The delivery.
	switch s.send {
	case 0:
		if s.pends {
			t.send, t.sentRow, t.again = 1, s.pendRow, false
			step("A", "sends the pending drop", t)
			reset()
		}
	case 1:
		del()
		t.send = 2
		step("redis", "does the pending drop", t)
		reset()
		if s.fails > 0 {
			t.fails--
			t.send, t.sentRow, t.again = 0, 0, false
			step("redis", "doesn't get the pending drop", t)
			reset()
		}
	case 2:
		t.forget()
		t.acked = max(s.acked, s.sentRow)
		if !s.again || c.settleAll {
			t.pends, t.pendRow = false, 0
		}
		t.send, t.sentRow, t.again = 0, 0, false
		step("A", "hears that the pending drop is done", t)
		reset()
	}

	c.operate(s, step)

	// B.
	switch s.bOp {
	case 0:
		if s.loads[1] > 0 && s.kind == holdsNothing {
			t.loads[1]--
			t.bOp, t.kind, t.id = opLeased, holdsLease, 11+t.loads[1]
			step("redis", "gives the lease to B", t)
		}
	case opLeased:
		t.bOp, t.bVer = opLoaded, s.row
		step("B", "loads "+rowName(s.row), t)
	case opLoaded:
		t.bOp, t.bVer = 0, 0
		if s.kind == holdsLease && s.id == 11+s.loads[1] {
			t.kind, t.id, t.ver = holdsRecord, 0, s.bVer
			step("redis", "stores "+rowName(s.bVer)+" for B", t)
		} else {
			step("redis", "refuses the fill of B", t)
		}
	}
}

func (c outbox) operate(s outboxState, step func(actor, what string, to outboxState)) {
	t := s
	end := func() {
		t.op, t.overtaken, t.blocked, t.alone, t.must, t.ver0, t.found = opNone, false, false, false, 0, 0, false
	}
	admit := func() {
		if !s.overtaken {
			t.has, t.l1 = true, s.ver0
		}
		t.bad = s.ver0 < s.must
		end()
	}
	alone := func() { t.op, t.alone, t.overtaken, t.blocked = opLeased, true, false, false }
	pends := s.pends && !c.useL2
	switch s.op {
	case opNone:
		if s.has || s.reads == 0 {
			return
		}
		t.reads--
		t.must = s.own
		if pends {
			alone()
			step("A", "doesn't read L2: a drop is pending", t)
			return
		}
		t.op = opAsked
		step("A", "notes the mark, reads the key", t)
	case opAsked:
		t.op = opRead
		t.found, t.ver0 = s.kind == holdsRecord, s.ver
		step("redis", "answers A", t)
	case opRead:
		switch {
		case pends:
			alone()
			t.found, t.ver0 = false, 0
			step("A", "doesn't use L2: a drop is pending", t)
		case s.found:
			admit()
			step("A", "serves "+rowName(s.ver0)+" from L2", t)
		case s.loads[0] > 0:
			t.op, t.overtaken = opMissing, false
			step("A", "notes the mark, asks for the lease", t)
		}
	case opMissing:
		if s.kind != holdsNothing {
			end()
			step("redis", "says busy, or held, to A", t)
			return
		}
		t.loads[0]--
		t.kind, t.id = holdsLease, 1+t.loads[0]
		t.op = opLeased
		step("redis", "gives the lease to A", t)
	case opLeased:
		t.op, t.ver0, t.blocked = opLoaded, s.row, false
		step("A", "loads "+rowName(s.row), t)
	case opLoaded:
		switch {
		case s.alone:
			admit()
			step("A", "serves "+rowName(s.ver0)+", without storing it", t)
		case s.pends && s.blocked && !c.fillL2:
			end()
			step("A", "doesn't fill: a drop is pending", t)
		case s.kind == holdsLease && s.id == 1+s.loads[0]:
			t.kind, t.id, t.ver = holdsRecord, 0, s.ver0
			t.op = opStored
			step("redis", "stores "+rowName(s.ver0)+" for A", t)
		default:
			end()
			step("redis", "refuses the fill of A", t)
		}
	case opStored:
		admit()
		step("A", "keeps it in L1", t)
	}
}

func (c outbox) broken(s outboxState) string {
	switch {
	case s.kind == holdsRecord && s.ver < s.acked:
		return "P1: L2 holds a value from before an acknowledged drop"
	case s.has && s.l1 < s.own:
		return "P1: L1 of A has a value from before a drop of its own that has returned"
	case s.bad:
		return "P1: A served a value from before a drop of its own that had returned"
	}
	return ""
}

func outboxVariants() []Variant {
	var all []Variant
	full := func(name string, c outbox) { all = append(all, variant("outbox", Keeps, name, c)) }
	without := func(name string, c outbox) { all = append(all, variant("outbox", Breaks, name, c)) }
	with := func(f func(*outbox)) outbox {
		c := outbox{rows: 2, fails: 2, loads: [2]uint8{1, 1}, reads: 3}
		f(&c)
		return c
	}
	full("two drops, two failures", with(func(c *outbox) {}))
	all = append(all, large(variant("outbox", Keeps, "three drops, three failures, more loads",
		outbox{rows: 3, fails: 3, loads: [2]uint8{2, 2}, reads: 3})))
	full("fills go on while a drop is pending: it undoes them", with(func(c *outbox) { c.fillL2 = true }))

	without("L2 is read while a drop is pending", with(func(c *outbox) { c.useL2 = true }))
	without("L1 forgets only when the store has taken the drop", with(func(c *outbox) { c.voidLate = true; c.forgetOnce = true }))
	without("L1 doesn't forget again when the store has failed", with(func(c *outbox) { c.forgetOnce = true }))
	without("L1 doesn't forget again when the store has deleted", with(func(c *outbox) { c.keepRead = true }))
	without("a delivery settles a drop that was asked for since", with(func(c *outbox) { c.settleAll = true }))
	return all
}
