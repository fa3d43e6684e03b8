package cdc

import (
	"bytes"
	"hash/maphash"
	"slices"
)

// A collector gathers what is to be dropped, each name once.
type collector struct {
	Drops
	seen    map[string]bool // of Tags, Keys and Patterns, by kind and name
	late    map[string]bool // likewise, those that came or came again since early took them; nil if it didn't
	sent    map[Message]bool
	touched []Touch // what each name was dropped for, without the transaction; those of a transaction follow each other

	coarse  []Coarse
	counts  map[Why]uint64
	unswept uint64
}

func newCollector() *collector {
	return &collector{seen: make(map[string]bool), sent: make(map[Message]bool), counts: make(map[Why]uint64)}
}

// The first byte of a name in seen.
const (
	kindTag     = 't'
	kindKey     = 'k'
	kindPattern = 'p'
)

// add takes a name, which it copies. kinded is the name with its kind before it.
func (o *collector) add(kinded []byte, t Touch) (isNew bool) {
	if o.late != nil {
		o.late[string(kinded)] = true
	}
	if o.seen[string(kinded)] {
		return false
	}
	s := string(kinded)
	o.seen[s] = true
	t.Name = s[1:]
	switch s[0] {
	case kindTag:
		o.Tags = append(o.Tags, t.Name)
	case kindKey:
		o.Keys = append(o.Keys, t.Name)
	case kindPattern:
		o.Patterns = append(o.Patterns, t.Name)
	}
	o.touched = append(o.touched, t)
	return true
}

func (o *collector) send(channel, payload []byte) (isNew bool) {
	m := Message{string(channel), string(payload)}
	if o.sent[m] {
		return false
	}
	o.sent[m] = true
	o.Publish = append(o.Publish, m)
	return true
}

// An evaluator makes drops of changes. It remembers what one transaction has had, and is told of the end of each.
type evaluator struct {
	rules *Rules
	out   *collector
	bulk  map[bulkKey]*bulk
	seed  maphash.Seed
	buf   [2][]byte
}

type bulkKey struct {
	table *Table
	rule  int
	use   use
	n     int
}

// bulk counts the names of one template in one transaction, by their hashes.
type bulk struct {
	names map[uint64]struct{}
	done  bool // there were too many: the coarse name stands for the rest
}

func newEvaluator(r *Rules) *evaluator {
	return &evaluator{rules: r, bulk: make(map[bulkKey]*bulk), seed: maphash.MakeSeed()}
}

// end ends a transaction.
func (e *evaluator) end() { clear(e.bulk) }

// Drops returns what one change by itself makes invalid, and what of that is coarse. Messages give nothing: see ParseMessage.
func (r *Rules) Drops(c *Change) (Drops, []Coarse) {
	e := newEvaluator(r)
	e.out = newCollector()
	e.change(c)
	return e.out.Drops, e.out.coarse
}

// change adds what c makes invalid.
func (e *evaluator) change(c *Change) {
	if c.Table == nil {
		return
	}
	for _, p := range e.rules.planFor(c.Table) {
		switch c.Op {
		case OpTruncate:
			e.all(&p, c, WhyTruncate)
		case OpSchema:
			e.all(&p, c, WhySchema)
		case OpInsert, OpUpdate, OpDelete:
			if p.rule.ops[c.Op] && (c.Op != OpUpdate || p.touches(c)) {
				e.one(&p, c)
			}
		}
	}
}

// touches reports whether an update changed one of the rule's when_changed columns, or may have.
func (p *plan) touches(c *Change) bool {
	if len(p.changed) == 0 {
		return true
	}
	for _, at := range p.changed {
		if at < 0 || at >= len(c.New) {
			return true
		}
		if c.New[at].State == Unchanged {
			continue
		}
		now, before := c.New[at], valueOf(c.Old, c.New, oldRow, at)
		if now.State == Unknown || before.State == Unknown || now.State != before.State || !bytes.Equal(now.Text, before.Text) {
			return true
		}
	}
	return false
}

// all drops everything that a rule may ever have named of this table.
func (e *evaluator) all(p *plan, c *Change, why Why) {
	for i, t := range p.rule.tags {
		e.coarse(p, t, c, why, bulkKey{c.Table, p.rule.n, useTag, i})
	}
	for i, t := range p.rule.keys {
		e.coarse(p, t, c, why, bulkKey{c.Table, p.rule.n, useKey, i})
	}
	for i := range p.rule.publish {
		e.coarseMessage(p, i, c, why)
	}
}

// one drops what a rule names for one row.
func (e *evaluator) one(p *plan, c *Change) {
	for i, t := range p.rule.tags {
		e.name(p, t, p.tags[i], c, bulkKey{c.Table, p.rule.n, useTag, i})
	}
	for i, t := range p.rule.keys {
		e.name(p, t, p.keys[i], c, bulkKey{c.Table, p.rule.n, useKey, i})
	}
	for i := range p.rule.publish {
		e.message(p, i, c)
	}
}

// sides returns what columns without "old." and "new." stand for, one after the other: nothing if the template is not about
// this operation.
func sides(old, new, varies bool, op Op) []side {
	switch {
	case old && op == OpInsert, new && op == OpDelete:
		return nil
	case op == OpInsert || !varies && op == OpUpdate:
		return eitherSide[1:]
	case op == OpDelete:
		return eitherSide[:1]
	}
	return eitherSide[:]
}

var eitherSide = [...]side{oldRow, newRow}

// name adds the names that a template makes of a row.
func (e *evaluator) name(p *plan, t *template, at []int, c *Change, key bulkKey) {
	b := e.bulkOf(key)
	if b.done {
		return
	}
	kind := byte(kindTag)
	if t.use == useKey {
		kind = kindKey
	}
	r := row{table: c.Table, at: at, old: c.Old, new: c.New}
	for _, r.either = range sides(t.old, t.new, t.varies, c.Op) {
		name, why, nothing, odd := t.render(append(e.buf[0][:0], kind), &r, bare)
		e.buf[0] = name
		switch {
		case nothing:
			continue
		case why != "":
			e.coarse(p, t, c, why, key)
			continue
		case t.use == useTag && e.over(b, name, p.rule.bulk):
			e.coarse(p, t, c, WhyBulk, key)
			b.done = true
			return
		}
		touch := Touch{Table: c.Table.String(), Op: c.Op, Rule: p.rule.n}
		e.out.add(name, touch)
		if t.use != useKey || !odd {
			continue
		}
		for _, how := range [...]written{colonsKept, allEscaped} {
			name, why, _, _ := t.render(append(e.buf[0][:0], kind), &r, how)
			e.buf[0] = name
			if why != "" {
				e.coarse(p, t, c, why, key)
				break
			}
			e.out.add(name, touch)
		}
	}
}

func (e *evaluator) bulkOf(key bulkKey) *bulk {
	b := e.bulk[key]
	if b == nil {
		b = &bulk{names: make(map[uint64]struct{})}
		e.bulk[key] = b
	}
	return b
}

// over counts a name, and reports whether there are too many.
func (e *evaluator) over(b *bulk, name []byte, limit int) bool {
	h := maphash.Bytes(e.seed, name)
	if _, ok := b.names[h]; ok {
		return false
	}
	if len(b.names) >= limit {
		b.names = nil
		return true
	}
	b.names[h] = struct{}{}
	return false
}

// coarse adds what stands for all names of a template.
func (e *evaluator) coarse(p *plan, t *template, c *Change, why Why, key bulkKey) {
	if t.use == useTag {
		e.bulkOf(key).done = true // it stands for the rest of this transaction, too
	}
	e.out.counts[why]++
	name, pattern := t.coarse(c.Table, false)
	kind := byte(kindTag)
	switch {
	case pattern && p.rule.src.NoSweep:
		e.out.unswept++
		return
	case pattern:
		kind = kindPattern
		e.bulkOf(key).done = true
	case t.use == useKey:
		kind = kindKey
	}
	e.buf[1] = append(append(e.buf[1][:0], kind), name...)
	if e.out.add(e.buf[1], Touch{Table: c.Table.String(), Op: c.Op, Why: why, Rule: p.rule.n}) {
		e.tell(p, c, why, string(name))
	}
}

func (e *evaluator) tell(p *plan, c *Change, why Why, name string) {
	for i := range e.out.coarse {
		if o := &e.out.coarse[i]; o.Rule == p.rule.n && o.Why == why && o.Op == c.Op && o.Table == c.Table.String() {
			o.Names = append(o.Names, name)
			return
		}
	}
	e.out.coarse = append(e.out.coarse, Coarse{Rule: p.rule.n, Table: c.Table.String(), Op: c.Op, Why: why, Names: []string{name}})
}

// message adds the messages that a rule makes of a row.
func (e *evaluator) message(p *plan, i int, c *Change) {
	b := e.bulkOf(bulkKey{c.Table, p.rule.n, useChannel, i})
	if b.done {
		return
	}
	pub := p.rule.publish[i]
	r := row{table: c.Table, old: c.Old, new: c.New}
	for _, r.either = range sides(pub.channel.old || pub.payload.old, pub.channel.new || pub.payload.new, pub.channel.varies || pub.payload.varies, c.Op) {
		r.at = p.channel[i]
		channel, why, nothing, _ := pub.channel.render(e.buf[0][:0], &r, bare)
		e.buf[0] = channel
		if nothing {
			continue
		}
		r.at = p.payload[i]
		payload, why2, nothing, _ := pub.payload.render(e.buf[1][:0], &r, bare)
		e.buf[1] = payload
		switch {
		case why != "": // whatever the payload
		case nothing:
			continue
		default:
			why = why2
		}
		if why == "" && e.over(b, slices.Concat(channel, []byte{0}, payload), p.rule.bulk) {
			why = WhyBulk
		}
		if why != "" {
			e.coarseMessage(p, i, c, why)
			if why == WhyBulk {
				return
			}
			continue
		}
		e.out.send(channel, payload)
	}
}

func (e *evaluator) coarseMessage(p *plan, i int, c *Change, why Why) {
	e.out.counts[why]++
	e.bulkOf(bulkKey{c.Table, p.rule.n, useChannel, i}).done = true
	channel, _ := p.rule.publish[i].channel.coarse(c.Table, false)
	payload, _ := p.rule.publish[i].payload.coarse(c.Table, false)
	if e.out.send(channel, payload) {
		e.tell(p, c, why, string(channel))
	}
}

// everything adds what stands for all that the rules may ever have named, of whatever table.
func (e *evaluator) everything(why Why) {
	for i := range e.rules.rules {
		r := &e.rules.rules[i]
		table := &Table{Schema: r.schema, Name: r.table}
		for _, t := range r.tags {
			if t.named() {
				continue // of tables that aren't known: the epoch is for these
			}
			name, _ := t.coarse(table, true)
			e.out.add(append([]byte{kindTag}, name...), Touch{Why: why, Rule: r.n})
		}
		for _, t := range r.keys {
			name, pattern := t.coarse(table, true)
			switch {
			case pattern && r.src.NoSweep:
				e.out.unswept++
			case pattern:
				e.out.add(append([]byte{kindPattern}, name...), Touch{Why: why, Rule: r.n})
			default:
				e.out.add(append([]byte{kindKey}, name...), Touch{Why: why, Rule: r.n})
			}
		}
		for _, pub := range r.publish {
			channel, _ := pub.channel.coarse(table, true)
			payload, _ := pub.payload.coarse(table, true)
			e.out.send(channel, payload)
		}
	}
	e.out.counts[why]++
}
