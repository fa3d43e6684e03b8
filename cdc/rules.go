package cdc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Rules are rules that were checked and made ready. They don't change, and may be shared.
type Rules struct {
	rules []rule

	mu    sync.Mutex
	plans map[*Table][]plan // guarded by mu
}

const (
	defaultBulk = 2000
	maxPlans    = 4096 // tables whose plans are kept; a schema change makes a new one
)

type rule struct {
	n             int
	src           Rule
	schema, table string // patterns
	ops           [OpDelete + 1]bool
	bulk          int
	tags, keys    []*template
	publish       []publish
}

type publish struct{ channel, payload *template }

// NewRules checks rules by themselves and makes them ready. All mistakes are told at once, each with the number of its rule, from 1.
// What takes the tables to see is for Check.
func NewRules(rules []Rule) (*Rules, error) {
	r := &Rules{plans: make(map[*Table][]plan)}
	var errs []error
	for i, src := range rules {
		one, err := newRule(i, src)
		for _, e := range err {
			errs = append(errs, fmt.Errorf("cdc: rule %d (table %q): %w", i+1, src.Table, e))
		}
		r.rules = append(r.rules, one)
	}
	if len(rules) == 0 {
		errs = append(errs, errors.New("cdc: no rules; want at least one"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

func newRule(n int, src Rule) (r rule, errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	r = rule{n: n, src: src, bulk: src.Bulk}
	switch schema, table, ok := strings.Cut(src.Table, "."); {
	case src.Table == "":
		fail("table is empty; want schema.table, or * for all")
	case ok && (schema == "" || table == ""):
		fail("table is %q; want schema.table", src.Table)
	case ok:
		r.schema, r.table = schema, table
	default:
		r.schema, r.table = "*", src.Table
	}
	for _, name := range src.Ops {
		op := Op(slices.Index(opNames[:], name))
		if name == "" || op < OpInsert || op > OpDelete {
			fail("ops has %q; want insert, update or delete", name)
			continue
		}
		r.ops[op] = true
	}
	if len(src.Ops) == 0 {
		r.ops[OpInsert], r.ops[OpUpdate], r.ops[OpDelete] = true, true, true
	}
	for _, c := range src.WhenChanged {
		if c == "" {
			fail("when_changed has an empty column")
		}
	}
	if len(src.WhenChanged) > 0 && !r.ops[OpUpdate] {
		fail("when_changed is about updates, and ops has none")
	}
	switch {
	case src.Bulk < 0:
		fail("bulk is %d; want zero or more", src.Bulk)
	case src.Bulk == 0:
		r.bulk = defaultBulk
	}
	parse := func(what, text string, u use) *template {
		t, err := parseTemplate(text, u)
		if err != nil {
			fail("%s: %w", what, err)
		}
		return t
	}
	for _, text := range src.Tags {
		r.tags = append(r.tags, parse("tags", text, useTag))
	}
	for _, text := range src.Keys {
		t := parse("keys", text, useKey)
		r.keys = append(r.keys, t)
		if t != nil && (t.pieces[0].name == "table" && strings.HasPrefix(r.table, "*") || t.pieces[0].name == "schema" && strings.HasPrefix(r.schema, "*")) {
			fail("keys: %q begins with the name of any %s; want text before it, since a gap deletes all keys that begin like that", text, t.pieces[0].name)
		}
	}
	for _, p := range src.Publish {
		r.publish = append(r.publish, publish{parse("publish: channel", p.Channel, useChannel), parse("publish: payload", p.Payload, usePayload)})
	}
	if len(src.Tags)+len(src.Keys)+len(src.Publish) == 0 {
		fail("has no tags, keys or publish; want one of them")
	}
	return r, errs
}

// Match reports whether a table has rules.
func (r *Rules) Match(schema, table string) bool {
	return slices.ContainsFunc(r.rules, func(r rule) bool { return r.matches(schema, table) })
}

// Patterns returns what the rules say of tables, each once: schema and name, in which * stands for any text.
func (r *Rules) Patterns() (names [][2]string) {
	for _, one := range r.rules {
		if p := [2]string{one.schema, one.table}; !slices.Contains(names, p) {
			names = append(names, p)
		}
	}
	return names
}

func (r *rule) matches(schema, table string) bool {
	return like(r.schema, schema) && like(r.table, table)
}

// like reports whether s fits a pattern, in which * stands for any text.
func like(pattern, s string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, head)
	if !ok {
		return false
	}
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}

// A plan is a rule for one table: where its columns are.
type plan struct {
	rule    *rule
	changed []int // of when_changed; -1: no such column
	tags    [][]int
	keys    [][]int
	channel [][]int
	payload [][]int
}

// planFor returns the plans of the rules that match a table.
func (r *Rules) planFor(t *Table) []plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ps, ok := r.plans[t]; ok {
		return ps
	}
	if len(r.plans) >= maxPlans {
		clear(r.plans)
	}
	ps := []plan{}
	for i := range r.rules {
		if one := &r.rules[i]; one.matches(t.Schema, t.Name) {
			ps = append(ps, one.plan(t))
		}
	}
	r.plans[t] = ps
	return ps
}

func (r *rule) plan(t *Table) plan {
	p := plan{rule: r}
	for _, name := range r.src.WhenChanged {
		p.changed = append(p.changed, t.column(name))
	}
	at := func(tm *template) []int {
		cols := make([]int, len(tm.pieces))
		for i, piece := range tm.pieces {
			cols[i] = -1
			if piece.column != "" {
				cols[i] = t.column(piece.column)
			}
		}
		return cols
	}
	for _, tm := range r.tags {
		p.tags = append(p.tags, at(tm))
	}
	for _, tm := range r.keys {
		p.keys = append(p.keys, at(tm))
	}
	for _, pub := range r.publish {
		p.channel = append(p.channel, at(pub.channel))
		p.payload = append(p.payload, at(pub.payload))
	}
	return p
}
