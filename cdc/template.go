package cdc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freshetdev/freshet/internal/keys"
)

// A use says what a template is for, and so how values are written.
type use uint8

const (
	useTag use = iota
	useKey
	useChannel
	usePayload
)

// A side is which row a column is taken from.
type side uint8

const (
	either side = iota // old and new in turn
	oldRow
	newRow
)

// A piece is a part of a template: text, or what a pair of braces holds.
type piece struct {
	text     string // if column and name are empty
	name     string // "table" or "schema"
	column   string
	from     side
	optional bool // {x?}: null gives nothing
}

// A template is text with columns; see [Rule].
type template struct {
	source string
	use    use
	pieces []piece
	old    bool // has a column of the old row alone
	new    bool
	varies bool // has a column of either row
}

// columns reports whether the template has any.
func (t *template) columns() bool { return t.old || t.new || t.varies }

// maxTemplate bounds a template's text; maxKey the names made for keys, channels and payloads (tags: keys.MaxTag).
const (
	maxTemplate = 1024
	maxKey      = 8 << 10
)

// parseTemplate reads a template. Columns may have any name but one with braces; "old." and "new." before it choose the row,
// and a question mark after it is not part of it.
func parseTemplate(text string, u use) (*template, error) {
	t := &template{source: text, use: u}
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("template of %d bytes; want at most %d", len(text), maxTemplate)
	}
	if text == "" && u != usePayload {
		return nil, errors.New("the template is empty")
	}
	var lit strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			t.pieces = append(t.pieces, piece{text: lit.String()})
			lit.Reset()
		}
	}
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case (c == '{' || c == '}') && i+1 < len(text) && text[i+1] == c:
			lit.WriteByte(c)
			i += 2
		case c == '}':
			return nil, fmt.Errorf("%q: } at byte %d closes nothing; want }} for a brace", text, i)
		case c == '{':
			n := strings.IndexAny(text[i+1:], "{}")
			if n < 0 || text[i+1+n] != '}' {
				return nil, fmt.Errorf("%q: { at byte %d is not closed; want {column}, or {{ for a brace", text, i)
			}
			p, err := parseColumn(text[i+1 : i+1+n])
			if err != nil {
				return nil, fmt.Errorf("%q: at byte %d: %w", text, i, err)
			}
			flush()
			t.pieces = append(t.pieces, p)
			if p.column != "" {
				t.old = t.old || p.from == oldRow
				t.new = t.new || p.from == newRow
				t.varies = t.varies || p.from == either
			}
			i += n + 2
		default:
			lit.WriteByte(c)
			i++
		}
	}
	flush()
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	return t, nil
}

func parseColumn(inner string) (p piece, err error) {
	name := inner
	switch {
	case inner == "table" || inner == "schema":
		return piece{name: inner}, nil
	case strings.HasPrefix(inner, "old."):
		p.from, name = oldRow, inner[len("old."):]
	case strings.HasPrefix(inner, "new."):
		p.from, name = newRow, inner[len("new."):]
	}
	p.column, p.optional = strings.CutSuffix(name, "?")
	if p.column == "" || strings.TrimSpace(p.column) != p.column {
		return p, fmt.Errorf("{%s} names no column; want {id}, {old.id}, {new.id}, {table} or {schema}", inner)
	}
	return p, nil
}

// check refuses templates for which nothing coarser could be named safely.
func (t *template) check() error {
	switch t.use {
	case useTag:
		for _, p := range t.pieces {
			if p.column != "" {
				return fmt.Errorf("column %s comes before the first colon; want the name of a table there: table:{%s}", p.column, p.column)
			}
			if strings.Contains(p.text, ":") {
				break
			}
		}
		for _, p := range t.pieces {
			if i := strings.IndexFunc(p.text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '{' || r == '}' }); i >= 0 {
				return fmt.Errorf("has %q; want no blanks, control characters or braces in a tag", p.text[i])
			}
		}
		if !t.columns() {
			tag, _ := t.coarse(&Table{Schema: "s", Name: "t"}, false)
			return keys.ValidTag(string(tag))
		}
	case useKey:
		// {id} alone would stand for every key of the server.
		if p := t.pieces[0]; p.column != "" {
			return fmt.Errorf("begins with column %s; want text before it, since TRUNCATE deletes all keys that begin like that", p.column)
		}
	}
	return nil
}

// coarse has nothing of a row: the tag of the table, the pattern of the keys, * for a column of a message. pattern says that
// it is one for SCAN. With anyTable, the table's names are patterns, in which * stands for any text.
func (t *template) coarse(table *Table, anyTable bool) (name []byte, pattern bool) {
	var b []byte
	pattern = t.use == useKey && (t.columns() || anyTable && t.named())
	star := false
	for _, p := range t.pieces {
		switch {
		case p.name != "" && anyTable && t.use == useKey:
			for i, part := range strings.Split(p.fixed(table), "*") {
				if i > 0 {
					b = append(b, '*')
				}
				b = appendGlob(b, part)
			}
		case p.column != "" && t.use == useTag:
			// The part before the first colon is complete.
		case p.column != "":
			if !star || t.use != useKey {
				b = append(b, '*')
			}
			star = true
			continue
		case pattern:
			b = appendGlob(b, p.fixed(table))
		case t.use == useTag && p.name != "":
			b = keys.AppendEscaped(b, p.fixed(table), "")
		default:
			b = append(b, p.fixed(table)...)
		}
		star = false
	}
	if t.use == useTag && t.columns() {
		first, _, _ := bytes.Cut(b, []byte(":"))
		b = append(first, '!')
	}
	return b, pattern
}

// named reports whether the template has {table} or {schema}.
func (t *template) named() bool {
	return slices.ContainsFunc(t.pieces, func(p piece) bool { return p.name != "" })
}

// fixed is what a piece without a column stands for.
func (p *piece) fixed(table *Table) string {
	switch p.name {
	case "table":
		return table.Name
	case "schema":
		return table.Schema
	}
	return p.text
}

// appendGlob escapes what SCAN's MATCH would take for more than itself.
func appendGlob(b []byte, s string) []byte {
	for i := range len(s) {
		if strings.IndexByte(`*?[]^\`, s[i]) >= 0 {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return b
}

// A written is how a name was written; names that differ in it are those of different programs.
type written uint8

const (
	bare written = iota
	colonsKept
	allEscaped
)

// A row is what a name is made of: the columns of a template in a table, and the values to take for them.
type row struct {
	table    *Table
	at       []int // for each piece, the column's index in the table
	old, new []Value
	either   side // what {x} stands for now
}

// render appends the name. If it can't be made, why says so; nothing means that it isn't wanted: an optional
// column is null. odd reports whether a value has bytes that are escaped in some way of writing.
func (t *template) render(dst []byte, r *row, how written) (name []byte, why Why, nothing, odd bool) {
	for i := range t.pieces {
		p := &t.pieces[i]
		if p.column == "" {
			if t.use == useTag && p.name != "" {
				dst = keys.AppendEscaped(dst, p.fixed(r.table), "")
			} else {
				dst = append(dst, p.fixed(r.table)...)
			}
			continue
		}
		v, there := r.value(p, r.at[i])
		switch {
		case !there:
			return dst, WhyNoColumn, false, false
		case v.State == Null && p.optional:
			return dst, "", true, false
		case v.State == Null:
			return dst, WhyNull, false, false
		case v.State != Known:
			return dst, WhyUnknown, false, false
		}
		odd = odd || keys.Escapes(v.Text)
		switch {
		case t.use == useTag || t.use == useKey && how == allEscaped:
			dst = keys.AppendEscaped(dst, v.Text, "")
		case t.use == useKey && how == colonsKept:
			dst = keys.AppendEscaped(dst, v.Text, ":")
		default:
			dst = append(dst, v.Text...)
		}
	}
	limit := maxKey
	if t.use == useTag {
		limit = keys.MaxTag
	}
	if len(dst) > limit {
		return dst, WhyTooLong, false, odd
	}
	return dst, "", false, odd
}

// value returns the value of a column; there is false if the table has none of that name.
func (r *row) value(p *piece, at int) (v Value, there bool) {
	from := p.from
	if from == either {
		from = r.either
	}
	return valueOf(r.old, r.new, from, at), at >= 0
}

// valueOf is one value of a change, Unknown if it isn't there. A new one that was left out since it did not change
// is the old one.
func valueOf(old, new []Value, from side, at int) Value {
	if at < 0 {
		return Value{}
	}
	if from == newRow {
		if at >= len(new) {
			return Value{}
		}
		if v := new[at]; v.State != Unchanged {
			return v
		}
	}
	if at >= len(old) || old[at].State == Unchanged {
		return Value{}
	}
	return old[at]
}
