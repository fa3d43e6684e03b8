package cdctest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

var placeholder = regexp.MustCompile(`\{(old\.|new\.)?([^{}?]+)(\?)?\}`)

// Expect is an oracle for rules: it says what one insert, update, delete or truncate makes invalid, as "tag users:7",
// "key user:7", "pattern user:*" and "publish channel payload", sorted. It is written from the documentation of cdc.Rule by other means than
// the rules are, and slow. Doubled braces, names over the limits and NoSweep are not for it.
func Expect(rules []cdc.Rule, c *cdc.Change) []string {
	got := make(map[string]bool)
	for _, r := range rules {
		schema, name, ok := strings.Cut(r.Table, ".")
		if !ok {
			schema, name = "*", r.Table
		}
		if !fits(schema, c.Table.Schema) || !fits(name, c.Table.Name) {
			continue
		}
		if c.Op != cdc.OpTruncate {
			if len(r.Ops) > 0 && !slices.Contains(r.Ops, c.Op.String()) || c.Op == cdc.OpUpdate && !mayChange(r.WhenChanged, c) {
				continue
			}
		}
		for _, t := range r.Tags {
			for _, names := range expand(c, t) {
				got["tag "+names.text(tagOf)] = true
			}
		}
		for _, t := range r.Keys {
			for _, names := range expand(c, t) {
				for _, name := range names.keys() {
					got[name] = true
				}
			}
		}
		for _, p := range r.Publish {
			for _, names := range expand(c, p.Channel, p.Payload) {
				got["publish "+names.message()] = true
			}
		}
	}
	all := make([]string, 0, len(got))
	for s := range got {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

func fits(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("(?s)^" + strings.Join(parts, ".*") + "$").MatchString(s)
}

func index(t *cdc.Table, column string) int {
	return slices.IndexFunc(t.Columns, func(c cdc.Column) bool { return c.Name == column })
}

// get is a value of one of the rows.
func get(c *cdc.Change, old bool, column string) cdc.Value {
	i := index(c.Table, column)
	if i < 0 {
		return cdc.Value{}
	}
	if !old {
		if i < len(c.New) && c.New[i].State != cdc.Unchanged {
			return c.New[i]
		}
	}
	if i < len(c.Old) && c.Old[i].State != cdc.Unchanged {
		return c.Old[i]
	}
	return cdc.Value{}
}

func mayChange(columns []string, c *cdc.Change) bool {
	if len(columns) == 0 {
		return true
	}
	return slices.ContainsFunc(columns, func(name string) bool {
		i := index(c.Table, name)
		if i < 0 {
			return true
		}
		if c.New[i].State == cdc.Unchanged {
			return false
		}
		was, is := get(c, true, name), get(c, false, name)
		return was.State == cdc.Unknown || is.State == cdc.Unknown || RowText([]cdc.Value{was}) != RowText([]cdc.Value{is}) || was.State != is.State
	})
}

// A filled is templates with the values of their columns in one row, or none of them (coarse).
type filled struct {
	c         *cdc.Change
	templates []string
	values    map[string]string // by placeholder
	coarse    bool
}

// expand fills templates, that go together, with the values of each row that they are about.
func expand(c *cdc.Change, templates ...string) (all []filled) {
	var places [][]string
	for _, t := range templates {
		places = append(places, placeholder.FindAllStringSubmatch(t, -1)...)
	}
	old, new, either := false, false, false
	for _, p := range places {
		if p[2] == "table" || p[2] == "schema" {
			continue
		}
		old, new, either = old || p[1] == "old.", new || p[1] == "new.", either || p[1] == ""
	}
	if c.Op == cdc.OpTruncate {
		return []filled{{c: c, templates: templates, coarse: old || new || either}}
	}
	if old && c.Op == cdc.OpInsert || new && c.Op == cdc.OpDelete {
		return nil
	}
	rows := map[cdc.Op][]bool{cdc.OpInsert: {false}, cdc.OpDelete: {true}, cdc.OpUpdate: {true, false}}[c.Op]
	if !either {
		rows = rows[:1]
	}
row:
	for _, isOld := range rows {
		f := filled{c: c, templates: templates, values: make(map[string]string)}
		for _, p := range places {
			if p[2] == "table" || p[2] == "schema" {
				continue
			}
			v := get(c, p[1] == "old." || p[1] == "" && isOld, p[2])
			switch {
			case v.State == cdc.Null && p[3] == "?":
				if !f.coarse {
					continue row
				}
			case v.State != cdc.Known:
				f.coarse = true
			default:
				f.values[p[0]] = string(v.Text)
			}
		}
		all = append(all, f)
	}
	return all
}

func escaped(s, also string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c == 0x7f || strings.IndexByte("%{}"+also, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// fill writes a template, with write applied to each value.
func (f filled) fill(template string, write func(string) string, unknown string) string {
	return placeholder.ReplaceAllStringFunc(template, func(p string) string {
		switch {
		case p == "{table}":
			return write(f.c.Table.Name)
		case p == "{schema}":
			return write(f.c.Table.Schema)
		case f.coarse:
			return unknown
		}
		return write(f.values[p])
	})
}

func tagOf(f filled) string {
	tag := f.fill(f.templates[0], func(s string) string { return escaped(s, ":") }, "")
	if f.coarse {
		tag, _, _ = strings.Cut(tag, ":")
		tag += "!"
	}
	return tag
}

func (f filled) text(how func(filled) string) string { return how(f) }

func (f filled) keys() (names []string) {
	if f.coarse {
		glob := regexp.MustCompile(`[*?\[\]^\\]`)
		parts := placeholder.Split(f.templates[0], -1)
		places := placeholder.FindAllString(f.templates[0], -1)
		var b strings.Builder
		for i, part := range parts {
			b.WriteString(glob.ReplaceAllString(part, `\$0`))
			if i < len(places) {
				switch places[i] {
				case "{table}":
					b.WriteString(glob.ReplaceAllString(f.c.Table.Name, `\$0`))
				case "{schema}":
					b.WriteString(glob.ReplaceAllString(f.c.Table.Schema, `\$0`))
				default:
					if i == 0 || part != "" || places[i-1] == "{table}" || places[i-1] == "{schema}" {
						b.WriteString("*") // two in a row are one
					}
				}
			}
		}
		return []string{"pattern " + b.String()}
	}
	for _, also := range []string{"", "", ":"} {
		write := func(s string) string { return escaped(s, also) }
		if len(names) == 0 {
			write = func(s string) string { return s }
		}
		g := f
		name := placeholder.ReplaceAllStringFunc(f.templates[0], func(p string) string {
			switch p {
			case "{table}":
				return f.c.Table.Name
			case "{schema}":
				return f.c.Table.Schema
			}
			return write(g.values[p])
		})
		names = append(names, "key "+name)
	}
	return names
}

func (f filled) message() string {
	bare := func(s string) string { return s }
	return f.fill(f.templates[0], bare, "*") + " " + f.fill(f.templates[1], bare, "*")
}
