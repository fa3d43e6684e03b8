package mysqlcdc

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// A columnInfo is a column as information_schema has it.
type columnInfo struct {
	name     string
	dataType string // "int", "uuid"
	typ      string // "int(10) unsigned"
	charset  string // empty: none, or binary
	nullable bool
	key      bool // of the primary key
}

func (c columnInfo) unsigned() bool { return strings.Contains(c.typ, "unsigned") }

// labels are the labels of an enum or set.
func (c columnInfo) labels() []string {
	open := strings.IndexByte(c.typ, '(')
	if open < 0 {
		return nil
	}
	var all []string
	s := scanner{text: c.typ[open+1:]}
	for t := s.next(); t.kind == literal; t = s.next() {
		all = append(all, t.text)
		s.next() // comma
	}
	return all
}

// tableNames lists the tables that are wanted. Those that the account has no right on are not seen.
func tableNames(ctx context.Context, d *side, match func(schema, name string) bool) ([]tableName, error) {
	rows, err := d.query(ctx, `select table_schema, table_name from information_schema.tables
		where table_schema not in ('information_schema', 'performance_schema', 'sys') order by 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("mysqlcdc: list of tables: %w", err)
	}
	var names []tableName
	for _, r := range rows {
		if match(r[0], r[1]) {
			names = append(names, tableName{r[0], r[1]})
		}
	}
	return names, nil
}

// readColumns reads what the columns of a table are; none if there is no such table, or no right on it.
func readColumns(ctx context.Context, d *side, t tableName) ([]columnInfo, error) {
	rows, err := d.query(ctx, `select column_name, data_type, column_type, ifnull(character_set_name, ''), is_nullable, column_key
		from information_schema.columns where table_schema = `+str(t.schema)+` and table_name = `+str(t.name)+` order by ordinal_position`)
	if err != nil {
		return nil, fmt.Errorf("mysqlcdc: columns of %s: %w", t, err)
	}
	var columns []columnInfo
	for _, r := range rows {
		c := columnInfo{name: r[0], dataType: strings.ToLower(r[1]), typ: r[2], charset: r[3], nullable: r[4] == "YES", key: r[5] == "PRI"}
		if c.charset == "binary" {
			c.charset = ""
		}
		columns = append(columns, c)
	}
	return columns, nil
}

// charsets reads which character set a collation has, by its number.
func charsets(ctx context.Context, d *side, v *server) (map[uint64]string, error) {
	statements := []string{`select id, character_set_name from information_schema.collations where character_set_name is not null`}
	if v.mariadb && v.atLeast(10, 10) {
		statements = append(statements, `select id, character_set_name from information_schema.collation_character_set_applicability`)
	}
	all := make(map[uint64]string)
	for _, sql := range statements {
		rows, err := d.query(ctx, sql)
		if err != nil {
			return nil, fmt.Errorf("mysqlcdc: character sets: %w", err)
		}
		for _, r := range rows {
			if id, err := strconv.ParseUint(r[0], 10, 64); err == nil {
				all[id] = r[1]
			}
		}
	}
	return all, nil
}

// cascades are what foreign keys change that isn't in the binary log: by parent, the tables whose rows may change with it. What was once known
// is kept, since the log may speak of the time before a key was dropped.
type cascades struct {
	deleted map[tableName][]tableName
	updated map[tableName][]cascade
}

// A cascade is an ON UPDATE: which tables change if any of the columns of the parent does.
type cascade struct {
	columns []string
	tables  []tableName
}

// A foreignKey is one that changes its table, or may.
type foreignKey struct {
	child, parent    tableName
	columns          []string // of the parent
	onUpdate, onDrop bool     // change the child
	unseen           bool     // what it does isn't shown to the account, so it is taken to do both
}

// readForeignKeys reads the foreign keys that change their tables. MariaDB shows to all who have a right on a table that there is one, but what it
// does (referential_constraints) only to those with a right other than SELECT.
func readForeignKeys(ctx context.Context, d *side) ([]foreignKey, error) {
	type name struct{ schema, table, key string }
	columns, err := d.query(ctx, `select table_schema, table_name, constraint_name, referenced_table_schema, referenced_table_name, referenced_column_name
		from information_schema.key_column_usage where referenced_table_name is not null order by 1, 2, 3, ordinal_position`)
	if err != nil {
		return nil, fmt.Errorf("mysqlcdc: foreign keys: %w", err)
	}
	rows, err := d.query(ctx, `select constraint_schema, table_name, constraint_name, update_rule, delete_rule from information_schema.referential_constraints`)
	if err != nil {
		return nil, fmt.Errorf("mysqlcdc: foreign keys: %w", err)
	}
	rules := make(map[name][]string)
	for _, r := range rows {
		rules[name{r[0], r[1], r[2]}] = r[3:]
	}
	acts := func(rule string) bool { return rule != "RESTRICT" && rule != "NO ACTION" }
	var keys []foreignKey
	var last name
	for _, r := range columns {
		if n := (name{r[0], r[1], r[2]}); n != last {
			last = n
			k := foreignKey{child: tableName{r[0], r[1]}, parent: tableName{r[3], r[4]}, onUpdate: true, onDrop: true}
			if rule, ok := rules[n]; ok {
				k.onUpdate, k.onDrop = acts(rule[0]), acts(rule[1])
			} else {
				k.unseen = true
			}
			keys = append(keys, k)
		}
		k := &keys[len(keys)-1]
		k.columns = append(k.columns, r[5])
	}
	return slices.DeleteFunc(keys, func(k foreignKey) bool { return !k.onUpdate && !k.onDrop }), nil
}

// add follows keys from table to table, and adds what they change of the tables that are wanted.
func (c *cascades) add(keys []foreignKey, match func(schema, name string) bool) {
	if c.deleted == nil {
		c.deleted, c.updated = make(map[tableName][]tableName), make(map[tableName][]cascade)
	}
	byParent := make(map[tableName][]foreignKey)
	for _, k := range keys {
		byParent[k.parent] = append(byParent[k.parent], k)
	}
	// reached are the tables whose rows change when those of t do in any way.
	reached := func(t tableName) (wanted []tableName) {
		seen := map[tableName]bool{t: true}
		for queue := []tableName{t}; len(queue) > 0; queue = queue[1:] {
			if match(queue[0].schema, queue[0].name) {
				wanted = append(wanted, queue[0])
			}
			for _, k := range byParent[queue[0]] {
				if !seen[k.child] {
					seen[k.child] = true
					queue = append(queue, k.child)
				}
			}
		}
		return wanted
	}
	for _, k := range keys {
		tables := reached(k.child)
		if len(tables) == 0 {
			continue
		}
		if k.onDrop {
			for _, t := range tables {
				if !slices.Contains(c.deleted[k.parent], t) {
					c.deleted[k.parent] = append(c.deleted[k.parent], t)
				}
			}
		}
		same := func(o cascade) bool { return slices.Equal(o.columns, k.columns) && slices.Equal(o.tables, tables) }
		if k.onUpdate && !slices.ContainsFunc(c.updated[k.parent], same) {
			c.updated[k.parent] = append(c.updated[k.parent], cascade{k.columns, tables})
		}
	}
}

// Tables describes the tables for which match is true, as they are now. Views, and tables of engines that aren't logged,
// can't be followed: they are an error that names each; the others are described beside it.
func (s *Source) Tables(ctx context.Context, match func(schema, name string) bool) ([]*cdc.Table, error) {
	d := newSide(s)
	defer d.close()
	v, err := describe(ctx, d.query)
	if err != nil {
		return nil, err
	}
	names, err := tableNames(ctx, d, match)
	if err != nil {
		return nil, err
	}
	var tables []*cdc.Table
	var problems []cdc.SourceProblem
	for _, n := range names {
		wrong, err := n.hindrances(ctx, d)
		if err != nil {
			return nil, err
		}
		if problems = append(problems, wrong...); cdc.SourceError("mysqlcdc", wrong) != nil {
			continue
		}
		columns, err := readColumns(ctx, d, n)
		if err != nil {
			return nil, err
		}
		tables = append(tables, v.table(n, columns))
	}
	return tables, cdc.SourceError("mysqlcdc", problems)
}

// table makes the description of a table. With a row image that isn't FULL, old values are those of the primary key; without one, of all.
func (v *server) table(n tableName, columns []columnInfo) *cdc.Table {
	t := &cdc.Table{Schema: n.schema, Name: n.name}
	image := strings.ToUpper(v.vars["binlog_row_image"])
	hasKey := slices.ContainsFunc(columns, func(c columnInfo) bool { return c.key })
	for _, c := range columns {
		blob := strings.HasSuffix(c.dataType, "blob") || strings.HasSuffix(c.dataType, "text") || c.dataType == "json"
		t.Columns = append(t.Columns, cdc.Column{
			Name: c.name, Type: c.typ, Nullable: c.nullable,
			NoOld:   hasKey && !c.key && (image == "MINIMAL" || image == "NOBLOB" && blob),
			Omitted: image != "FULL" && image != "" && (image != "NOBLOB" || blob),
		})
	}
	if image == "MINIMAL" || image == "NOBLOB" {
		t.Identify = "SET GLOBAL binlog_row_image = 'FULL';"
	}
	return t
}

// hindrances are what keeps a table from being followed.
func (t tableName) hindrances(ctx context.Context, d *side) ([]cdc.SourceProblem, error) {
	rows, err := d.query(ctx, `select table_type, ifnull(engine, '') from information_schema.tables where table_schema = `+str(t.schema)+` and table_name = `+str(t.name))
	if err != nil {
		return nil, fmt.Errorf("mysqlcdc: table %s: %w", t, err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	switch kind, engine := strings.ToUpper(rows[0][0]), strings.ToUpper(rows[0][1]); {
	case strings.Contains(kind, "VIEW"):
		return []cdc.SourceProblem{{Table: t.String(), Text: "is a view, of which the binary log says nothing", Fix: "name the tables that it is made of"}}, nil
	case engine == "FEDERATED" || engine == "CONNECT" || engine == "SPIDER" || engine == "NDBCLUSTER":
		return []cdc.SourceProblem{{Table: t.String(), Text: "is of engine " + rows[0][1] + ", whose rows others can change without this binary log"}}, nil
	case engine != "INNODB" && engine != "":
		return []cdc.SourceProblem{{
			Table: t.String(), Text: "is of engine " + rows[0][1] + ", without transactions: a change is seen before it is logged, so for a moment an old value may be loaded and kept",
			Fix: "ALTER TABLE " + quote(t.schema) + "." + quote(t.name) + " ENGINE = InnoDB;", Warning: true,
		}}, nil
	}
	return nil, nil
}
