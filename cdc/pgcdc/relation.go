package pgcdc

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// A relation is a table as its last relation message had it.
type relation struct {
	relationMessage
	table *cdc.Table
	forms []form

	// partitioned: rows come from partitions, each with a replica identity of its own.
	partitioned bool

	// uniform: old values of rows are sent as the relation message says. Not so if a partition's identity differs from the table's.
	uniform bool
}

// A form is how the text of a value differs from what package cdc wants.
type form uint8

const (
	plain    form = iota
	boolean       // t, f
	hexBytes      // \x0aff
)

// The types with forms, in pg_type.
const (
	typeBool  = 16
	typeBytea = 17
	firstUser = 16384 // below this are PostgreSQL's own types
)

// newRelation makes a relation of its message, and asks the catalog for what that doesn't say.
func newRelation(ctx context.Context, d *side, m relationMessage) (*relation, error) {
	rel := &relation{relationMessage: m, table: &cdc.Table{Schema: m.schema, Name: m.name}}
	base, err := baseTypes(ctx, d, m.columns)
	if err != nil {
		return nil, err
	}
	for _, c := range m.columns {
		typ := c.typ
		if b, ok := base[typ]; ok {
			typ = b
		}
		f := plain
		switch typ {
		case typeBool:
			f = boolean
		case typeBytea:
			f = hexBytes
		}
		rel.forms = append(rel.forms, f)
		rel.table.Columns = append(rel.table.Columns, cdc.Column{Name: c.name, NoOld: !c.key})
	}
	rel.partitioned, rel.uniform, err = identities(ctx, d, m.id)
	return rel, err
}

// baseTypes finds what domains are made of.
func baseTypes(ctx context.Context, d *side, columns []columnMessage) (map[uint32]uint32, error) {
	var ids []string
	for _, c := range columns {
		if c.typ >= firstUser {
			ids = append(ids, strconv.FormatUint(uint64(c.typ), 10))
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := d.query(ctx, `
		with recursive d(id, base) as (
			select oid, oid from pg_type where oid = any($1::oid[])
			union all
			select d.id, t.typbasetype from d join pg_type t on t.oid = d.base where t.typtype = 'd')
		select d.id, d.base from d join pg_type t on t.oid = d.base where t.typtype <> 'd'`, "{"+strings.Join(ids, ",")+"}")
	if err != nil {
		return nil, fmt.Errorf("pgcdc: base types: %w", err)
	}
	base := make(map[uint32]uint32, len(rows))
	for _, row := range rows {
		id, err1 := strconv.ParseUint(row[0], 10, 32)
		b, err2 := strconv.ParseUint(row[1], 10, 32)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("pgcdc: base types: the server says %q; want two numbers", row)
		}
		base[uint32(id)] = uint32(b)
	}
	return base, nil
}

// identities tells whether a table is partitioned, and whether all its partitions send old values as it does. A table
// that isn't there any more counts as the worst.
func identities(ctx context.Context, d *side, id uint32) (partitioned, uniform bool, err error) {
	rows, err := d.query(ctx, `
		select c.relkind = 'p', `+uniformSQL+` from pg_class c where c.oid = $1::oid`, strconv.FormatUint(uint64(id), 10))
	if err != nil {
		return true, false, fmt.Errorf("pgcdc: replica identities: %w", err)
	}
	if len(rows) == 0 {
		return true, false, nil
	}
	return rows[0][0] == "t", rows[0][1] == "t", nil
}

// uniformSQL says of the table c whether its partitions have its replica identity, over the same index.
const uniformSQL = `c.relkind <> 'p' or not exists (
	select from pg_partition_tree(c.oid) t join pg_class l on l.oid = t.relid
	where t.isleaf and (l.relreplident <> c.relreplident or l.relreplident = 'i' and not exists (
		select from pg_index li join pg_inherits h on h.inhrelid = li.indexrelid join pg_index ri on ri.indexrelid = h.inhparent
		where li.indrelid = l.oid and li.indisreplident and ri.indrelid = c.oid and ri.indisreplident)))`

// same reports whether nothing changed about the table itself.
func (r *relation) same(m *relation) bool {
	return r.id == m.id && r.schema == m.schema && r.name == m.name && r.identity == m.identity &&
		slices.Equal(r.columns, m.columns) && slices.Equal(r.forms, m.forms)
}

// newRow appends the values of a new row.
func (r *relation) newRow(dst []cdc.Value, cells []cell) ([]cdc.Value, error) {
	if err := r.fits(cells); err != nil {
		return dst, err
	}
	for i, c := range cells {
		switch c.kind {
		case 'n':
			dst = append(dst, cdc.Value{State: cdc.Null})
		case 'u':
			dst = append(dst, cdc.Value{State: cdc.Unchanged})
		default:
			v, err := r.value(i, c)
			if err != nil {
				return dst, err
			}
			dst = append(dst, v)
		}
	}
	return dst, nil
}

// oldRow appends the values of an old row.
//
//	sent    column   of partitions that differ    otherwise
//	text    any      that                         that
//	null    'O'      unknown                      null
//	null    'K'      unknown                      unknown: outside of the key, or of a key that differs
//
// A partitioned table with FULL, of which a partition has only its key, sends 'O' with nulls for all else. Partitions are also
// attached later, so nulls of partitioned tables are never believed.
func (r *relation) oldRow(dst []cdc.Value, kind byte, cells []cell) ([]cdc.Value, error) {
	if err := r.fits(cells); err != nil {
		return dst, err
	}
	for i, c := range cells {
		switch {
		case c.kind == 't':
			v, err := r.value(i, c)
			if err != nil {
				return dst, err
			}
			dst = append(dst, v)
		case c.kind == 'n' && kind == 'O' && !r.partitioned:
			dst = append(dst, cdc.Value{State: cdc.Null})
		default:
			dst = append(dst, cdc.Value{})
		}
	}
	return dst, nil
}

// unsentRow appends the old values of an update that came without: the key did not change. With FULL there would be an old
// row, so this one is from a partition that has only a key, and not known which.
func (r *relation) unsentRow(dst []cdc.Value, now []cdc.Value) []cdc.Value {
	for i, c := range r.columns {
		if c.key && r.identity != 'f' && r.uniform && now[i].State == cdc.Known {
			dst = append(dst, now[i])
		} else {
			dst = append(dst, cdc.Value{})
		}
	}
	return dst
}

func (r *relation) fits(cells []cell) error {
	if len(cells) != len(r.columns) {
		return fmt.Errorf("pgcdc: a row of %s has %d columns; want %d", r.table, len(cells), len(r.columns))
	}
	return nil
}

// value is the text of a column in the form that package cdc wants.
func (r *relation) value(i int, c cell) (cdc.Value, error) {
	v := cdc.Value{State: cdc.Known, Text: c.text}
	switch r.forms[i] {
	case boolean:
		switch string(c.text) {
		case "t":
			v.Text = textTrue
		case "f":
			v.Text = textFalse
		default:
			return v, fmt.Errorf("pgcdc: %s.%s is %.20q; want t or f", r.table, r.columns[i].name, c.text)
		}
	case hexBytes:
		digits, ok := bytes.CutPrefix(c.text, []byte(`\x`))
		if !ok {
			return v, fmt.Errorf(`pgcdc: %s.%s is %.20q; want \x and hexadecimal digits`, r.table, r.columns[i].name, c.text)
		}
		v.Text = digits
	}
	return v, nil
}

var textTrue, textFalse = []byte("true"), []byte("false")
