package sqlitecdc

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// names are those of what is made in the file, quoted.
type names struct {
	prefix                  string // with an underscore at the end, not quoted
	changes, tables, status string
}

func newNames(name string) names {
	p := name + "_"
	return names{p, quoteName(p + "changes"), quoteName(p + "tables"), quoteName(p + "state")}
}

// own reports whether a table is an outbox or a helper of one, whatever its Options.Name.
func own(name, statement string) bool {
	i := strings.LastIndexByte(name, '_')
	if i < 0 {
		return false
	}
	for _, c := range newNames(name[:i]).create() {
		if statement == strings.Replace(c, "IF NOT EXISTS ", "", 1) {
			return true
		}
	}
	return false
}

// What is made in the file, with the default name:
//
//	freshet_changes   the outbox: a row for each change of a row, in the order of commits
//	    id       from 1, without gaps
//	    ver      the table as it was: freshet_tables.ver. Null for messages
//	    op       i, u, d   insert, update, delete
//	             r         a row that is in the way of one that is inserted or updated; see stream.replaced
//	             s         the table was altered, or its triggers were missing
//	             m         a message, in new
//	             b         nothing: the first row
//	    old, new the row before and after; see value.go
//	    at       milliseconds since 1970, when the statement began
//	    nonce    a random number; see place
//	freshet_tables    a row for each form of a table that triggers were made for
//	    columns  cdc.Column as JSON
//	    print    a hash of all that the triggers depend on, and of themselves
//	    current  1: the form that the triggers have now
//	freshet_state     format, history (see place) and schema: PRAGMA schema_version when the triggers were looked at last
//
// Columns have no constraints: INSERT OR IGNORE would hand its "ignore" down to the triggers.
const format = "1"

func (n names) create() []string {
	return []string{
		`CREATE TABLE IF NOT EXISTS ` + n.changes + ` (id INTEGER PRIMARY KEY, ver INTEGER, op TEXT, old TEXT, new TEXT,
	at INTEGER DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)), nonce INTEGER DEFAULT (random()))`,
		`CREATE TABLE IF NOT EXISTS ` + n.tables + ` (ver INTEGER PRIMARY KEY, tbl TEXT, columns TEXT, print TEXT, current INTEGER)`,
		`CREATE TABLE IF NOT EXISTS ` + n.status + ` (key TEXT PRIMARY KEY, value TEXT)`,
	}
}

func quoteName(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// triggers returns the statements that make the triggers of a table, by the words in their names.
//
// REPLACE deletes rows without telling any trigger (unless recursive_triggers is on), so what is in the way is noted beforehand: "replace" and "move"
// look each key up.
func (n names) triggers(t *table, ver, maxRows int64) map[string]string {
	on := quoteName(t.Name)
	record := func(op, old, new string) string {
		return fmt.Sprintf("\n\tINSERT INTO %s (ver, op, old, new) VALUES (%d, '%s', %s, %s);\n\tDELETE FROM %[1]s WHERE id <= last_insert_rowid() - %[6]d;", n.changes, ver, op, old, new, maxRows)
	}
	inTheWay := func(k key, except string) string {
		var same []string
		for i, c := range k.columns {
			cond := "t." + quoteName(c) + " = NEW." + quoteName(c)
			if k.collates[i] != "" {
				cond += " COLLATE " + quoteName(k.collates[i])
			}
			same = append(same, cond)
		}
		return fmt.Sprintf("\n\tINSERT INTO %s (ver, op, old) SELECT %d, 'r', %s FROM %s AS t WHERE %s%s;", n.changes, ver, t.list("t.", ""), on, strings.Join(same, " AND "), except)
	}
	head := func(word, event string) string {
		return "CREATE TRIGGER " + quoteName(n.trigger(word, t.Name)) + " " + event + " ON " + on + " BEGIN"
	}
	all := map[string]string{
		"insert": head("insert", "AFTER INSERT") + record("i", "NULL", t.list("NEW.", "")) + "\nEND",
		"update": head("update", "AFTER UPDATE") + record("u", t.list("OLD.", ""), t.list("NEW.", "OLD.")) + "\nEND",
		"delete": head("delete", "AFTER DELETE") + record("d", t.list("OLD.", ""), "NULL") + "\nEND",
	}
	if len(t.keys) > 0 {
		replace, move := head("replace", "BEFORE INSERT"), ""
		var columns []string
		for _, k := range t.keys {
			replace += inTheWay(k, "")
			if t.rowid != "" && k.columns[0] == t.rowid {
				continue // that of a column is its name
			}
			move += inTheWay(k, " AND NOT ("+t.itself()+")")
			for _, c := range k.columns {
				if !slices.Contains(columns, quoteName(c)) {
					columns = append(columns, quoteName(c))
				}
			}
		}
		all["replace"] = replace + "\nEND"
		if move != "" {
			event := "BEFORE UPDATE"
			if !slices.ContainsFunc(t.generated, func(c string) bool { return slices.Contains(columns, quoteName(c)) }) {
				event += " OF " + strings.Join(columns, ", ")
			}
			all["move"] = head("move", event) + move + "\nEND"
		}
	}
	return all
}

// itself is a condition: the row t is the one that is being updated.
func (t *table) itself() string {
	if t.rowid != "" {
		return "t." + t.rowid + " IS OLD." + t.rowid
	}
	if len(t.primary) == 0 {
		return "0" // it is noted as if it were in its own way, and then found not to be
	}
	var same []string
	for _, c := range t.primary {
		same = append(same, "t."+quoteName(c)+" IS OLD."+quoteName(c))
	}
	return strings.Join(same, " AND ")
}

// list is an expression for the values of a row, as value.go has them. Where a value is that of the row "unless", it is "=".
func (t *table) list(row, unless string) string {
	var groups, group []string
	for i, c := range t.Columns {
		x := row + quoteName(c.Name)
		// The comparison is by bytes and type, not by the column's collation: 'A' may be equal to 'a', and 1 is to 1.0.
		v := fmt.Sprintf("CASE WHEN length(%s) > %d OR typeof(%[1]s) = 'text' AND instr(%[1]s, char(0)) THEN '?' ELSE quote(%[1]s) END", x, maxValue)
		if unless != "" {
			y := unless + quoteName(c.Name)
			v = fmt.Sprintf("CASE WHEN %s IS %s COLLATE BINARY AND typeof(%[1]s) = typeof(%[2]s) THEN '='%s", x, y, strings.TrimPrefix(v, "CASE"))
		}
		if group = append(group, v); len(group) == 30 || i == len(t.Columns)-1 { // or the expression would be nested too deep
			groups, group = append(groups, "("+strings.Join(group, "||','||")+")"), nil
		}
	}
	return strings.Join(groups, "||','||")
}

func (n names) trigger(word, table string) string { return n.prefix + word + "_" + table }

var triggerWords = []string{"insert", "update", "delete", "replace", "move"}

// print is a hash of what the triggers of a table depend on, and of themselves as the file has them. If it is the one that was noted when they
// were made, they are what they should be.
func (t *table) print(maxRows int64, triggers map[string]string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%d\n%s\n%q\n%q\n", format, maxRows, t.sql, t.keys, t.unseen)
	for _, w := range triggerWords {
		fmt.Fprintf(h, "%q\n", triggers[w])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// readTriggers returns our triggers, by table and word, and the names of those that lie on another table than they were made for.
func (n names) readTriggers(ctx context.Context, c *sql.Conn) (all map[string]map[string]string, stray []string, err error) {
	rows, err := query(ctx, c, `SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'`)
	if err != nil {
		return nil, nil, err
	}
	all = make(map[string]map[string]string)
	for _, r := range rows {
		rest, ours := strings.CutPrefix(r[0], n.prefix)
		word, on, _ := strings.Cut(rest, "_")
		switch {
		case !ours || !slices.Contains(triggerWords, word):
		case on != r[1]:
			stray = append(stray, r[0])
		default:
			if all[on] == nil {
				all[on] = make(map[string]string)
			}
			all[on][word] = r[2]
		}
	}
	return all, stray, nil
}

// An installed is what install found, or made.
type installed struct {
	history string
	schema  int64 // PRAGMA schema_version
}

// install makes what a stream needs, or makes it anew where it isn't what it should be, in one transaction:
//
//	the table                                     then
//	has its triggers, and is as it was            nothing
//	is new, was altered, lacks a trigger          triggers, and a row "s": what was missed before it is dropped coarsely
//	is gone                                       a row "s"
//	is as it was, but the schema's version        a row "s": triggers may have been dropped and made again in between. (Any statement
//	moved by 2 or more                            counts one: a VACUUM, or another table made, drops nothing.)
func (s *Source) install(ctx context.Context, c *sql.Conn) (done installed, err error) {
	altered := 0
	err = inTx(ctx, c, `BEGIN IMMEDIATE`, func() (err error) {
		done, altered, err = s.installTx(ctx, c)
		return err
	})
	if err != nil {
		return done, fmt.Errorf("sqlitecdc: install: %w", err)
	}
	s.count(func(st *Stats) { st.Altered += uint64(altered) })
	return done, nil
}

func (s *Source) installTx(ctx context.Context, c *sql.Conn) (done installed, altered int, err error) {
	n := s.names
	before, err := schemaVersion(ctx, c)
	if err != nil {
		return done, 0, err
	}
	for _, statement := range n.create() {
		if err := exec(ctx, c, statement); err != nil {
			return done, 0, err
		}
	}
	state, err := s.readState(ctx, c)
	if err != nil {
		return done, 0, err
	}
	if f := state["format"]; f != "" && f != format {
		return done, 0, fmt.Errorf("%s has the format %s; want %s: another version of freshet made it", n.changes, f, format)
	}
	seen, err := strconv.ParseInt(state["schema"], 10, 64)
	doubtful := err == nil && (before < seen || before > seen+1)
	done.history = state["history"]
	if done.history == "" {
		done.history = newHistory()
	}

	rows, err := query(ctx, c, `SELECT tbl, ver, print FROM `+n.tables+` WHERE current = 1`)
	if err != nil {
		return done, 0, err
	}
	known := make(map[string][]string)
	for _, r := range rows {
		known[r[0]] = r
	}
	tables, _, err := readTables(ctx, c, s.opts.Match)
	if err != nil {
		return done, 0, err
	}
	triggers, stray, err := n.readTriggers(ctx, c)
	if err != nil {
		return done, 0, err
	}
	for _, name := range stray {
		if err := exec(ctx, c, `DROP TRIGGER `+quoteName(name)); err != nil {
			return done, 0, err
		}
	}
	for _, t := range tables {
		k := known[t.Name]
		if k != nil && k[2] == t.print(s.opts.MaxRows, triggers[t.Name]) {
			if doubtful {
				err = s.tellAltered(ctx, c, k[1])
			}
		} else {
			altered++
			err = s.equip(ctx, c, t, triggers[t.Name])
		}
		if err != nil {
			return done, 0, fmt.Errorf("table %s: %w", t.Name, err)
		}
	}
	for name, k := range known {
		rows, err := query(ctx, c, `SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?`, name)
		if err != nil {
			return done, 0, err
		}
		if len(rows) > 0 {
			continue
		}
		if err := s.tellAltered(ctx, c, k[1]); err != nil {
			return done, 0, err
		}
		if err := exec(ctx, c, `UPDATE `+n.tables+` SET current = 0 WHERE ver = ?`, k[1]); err != nil {
			return done, 0, err
		}
	}
	// There is always a row: a position is after one.
	if err := exec(ctx, c, `INSERT INTO `+n.changes+` (op) SELECT 'b' WHERE NOT EXISTS (SELECT 1 FROM `+n.changes+`)`); err != nil {
		return done, 0, err
	}
	if done.schema, err = schemaVersion(ctx, c); err != nil {
		return done, 0, err
	}
	for key, value := range map[string]string{"format": format, "history": done.history, "schema": strconv.FormatInt(done.schema, 10)} {
		if state[key] == value {
			continue
		}
		if err := exec(ctx, c, `INSERT OR REPLACE INTO `+n.status+` (key, value) VALUES (?, ?)`, key, value); err != nil {
			return done, 0, err
		}
	}
	return done, altered, nil
}

// equip makes the triggers of a table, in place of those that it has.
func (s *Source) equip(ctx context.Context, c *sql.Conn, t *table, has map[string]string) error {
	n := s.names
	for word := range has {
		if err := exec(ctx, c, `DROP TRIGGER `+quoteName(n.trigger(word, t.Name))); err != nil {
			return err
		}
	}
	columns, err := json.Marshal(t.Columns)
	if err != nil {
		return err
	}
	if err := exec(ctx, c, `UPDATE `+n.tables+` SET current = 0 WHERE tbl = ?`, t.Name); err != nil {
		return err
	}
	res, err := c.ExecContext(ctx, `INSERT INTO `+n.tables+` (tbl, columns, current) VALUES (?, ?, 1)`, t.Name, string(columns))
	if err != nil {
		return err
	}
	ver, err := res.LastInsertId()
	if err != nil {
		return err
	}
	for _, statement := range n.triggers(t, ver, s.opts.MaxRows) {
		if err := exec(ctx, c, statement); err != nil {
			return err
		}
	}
	made, _, err := n.readTriggers(ctx, c)
	if err != nil {
		return err
	}
	if err := exec(ctx, c, `UPDATE `+n.tables+` SET print = ? WHERE ver = ?`, t.print(s.opts.MaxRows, made[t.Name]), ver); err != nil {
		return err
	}
	return s.tellAltered(ctx, c, strconv.FormatInt(ver, 10))
}

// tellAltered writes a row "s".
func (s *Source) tellAltered(ctx context.Context, c *sql.Conn, ver string) error {
	return exec(ctx, c, `INSERT INTO `+s.names.changes+` (ver, op) VALUES (CAST(? AS INTEGER), 's')`, ver)
}

// readState reads freshet_state.
func (s *Source) readState(ctx context.Context, c *sql.Conn) (map[string]string, error) {
	rows, err := query(ctx, c, `SELECT key, value FROM `+s.names.status)
	state := make(map[string]string)
	for _, r := range rows {
		state[r[0]] = r[1]
	}
	return state, err
}

func schemaVersion(ctx context.Context, c *sql.Conn) (v int64, err error) {
	err = c.QueryRowContext(ctx, `PRAGMA schema_version`).Scan(&v)
	return v, err
}

// readVersion reads the table that rows of a version are of.
func (s *Source) readVersion(ctx context.Context, c *sql.Conn, ver int64) (*version, error) {
	rows, err := query(ctx, c, `SELECT tbl, columns FROM `+s.names.tables+` WHERE ver = ?`, ver)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, gap("%s has no version %d", s.names.tables, ver)
	}
	var columns []cdc.Column
	if err := json.Unmarshal([]byte(rows[0][1]), &columns); err != nil {
		return nil, gap("%s, version %d: %w", s.names.tables, ver, err)
	}
	return newVersion(rows[0][0], columns, s.opts.Match("main", rows[0][0])), nil
}

// Uninstall removes the triggers, the outbox and what else was made in the file. Nobody may have a stream open.
func (s *Source) Uninstall(ctx context.Context) error {
	err := s.briefly(ctx, func(c *sql.Conn) error {
		return inTx(ctx, c, `BEGIN IMMEDIATE`, func() error {
			triggers, stray, err := s.names.readTriggers(ctx, c)
			if err != nil {
				return err
			}
			for table, words := range triggers {
				for word := range words {
					stray = append(stray, s.names.trigger(word, table))
				}
			}
			for _, name := range stray {
				if err := exec(ctx, c, `DROP TRIGGER `+quoteName(name)); err != nil {
					return err
				}
			}
			for _, name := range []string{s.names.changes, s.names.tables, s.names.status} {
				if err := exec(ctx, c, `DROP TABLE IF EXISTS `+name); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("sqlitecdc: uninstall: %w", err)
	}
	return nil
}
