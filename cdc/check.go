package cdc

import (
	"fmt"
	"strings"
)

// A Problem is something about a rule and a table that makes drops coarser than meant, or none at all.
type Problem struct {
	Rule   int    // its number, from 0
	Table  string // "schema.table"; the rule's pattern if no table matches
	Column string // empty if it is about the table
	Text   string // what is wrong, in a sentence
	Fix    string // a statement to run, or what to write instead; may be empty

	// Warning: it works, with more misses than need be.
	Warning bool
}

// String returns "rule 2, public.orders.user_id: ...; fix".
func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rule %d, %s", p.Rule+1, p.Table)
	if p.Column != "" {
		b.WriteString("." + p.Column)
	}
	b.WriteString(": " + p.Text)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Check compares the rules with the tables of the database (Source.Tables). What it finds would, at run time, be a
// coarse drop for every such row, and not a wrong value.
func (r *Rules) Check(tables []*Table) (problems []Problem) {
	for i := range r.rules {
		one := &r.rules[i]
		matched := false
		for _, t := range tables {
			if one.matches(t.Schema, t.Name) {
				matched = true
				problems = append(problems, one.check(t)...)
			}
		}
		if !matched {
			problems = append(problems, Problem{Rule: i, Table: one.src.Table, Text: "no table has this name"})
		}
	}
	return problems
}

func (r *rule) check(t *Table) (problems []Problem) {
	told := make(map[string]bool)
	add := func(column, text, fix string, warning bool) {
		if !told[column+"\x00"+text] {
			told[column+"\x00"+text] = true
			problems = append(problems, Problem{Rule: r.n, Table: t.String(), Column: column, Text: text, Fix: fix, Warning: warning})
		}
	}
	template := func(tm *template) {
		if tm == nil {
			return
		}
		for _, p := range tm.pieces {
			if p.column == "" {
				continue
			}
			at := t.column(p.column)
			if at < 0 {
				add(p.column, fmt.Sprintf("the table has no such column, which %q needs", tm.source), "", false)
				continue
			}
			c := t.Columns[at]
			name := strings.TrimSuffix(p.column, "?")
			if c.Nullable && !p.optional {
				add(p.column, fmt.Sprintf("may be null, and %q then drops all of its kind", tm.source),
					"write {"+name+"?} if a null needs no drop, or make the column NOT NULL", false)
			}
			// The old row is looked at on deletes, and on updates.
			asks := p.from != newRow && (r.ops[OpUpdate] || r.ops[OpDelete])
			if c.NoOld && asks {
				add(p.column, fmt.Sprintf("updates and deletes don't carry its old value, which %q needs", tm.source), t.Identify, false)
			}
			if c.Omitted && c.NoOld && p.from != oldRow && r.ops[OpUpdate] {
				add(p.column, fmt.Sprintf("updates may leave it out, and %q needs it", tm.source), "use another column", false)
			}
		}
	}
	for _, tm := range r.tags {
		template(tm)
	}
	for _, tm := range r.keys {
		template(tm)
	}
	for _, p := range r.publish {
		template(p.channel)
		template(p.payload)
	}
	for _, name := range r.src.WhenChanged {
		switch at := t.column(name); {
		case at < 0:
			add(name, "the table has no such column, which when_changed names", "", false)
		case t.Columns[at].NoOld:
			add(name, "updates don't carry its old value, so every update counts as a change of it", t.Identify, true)
		}
	}
	return problems
}
