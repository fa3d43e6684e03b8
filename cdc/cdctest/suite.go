// Package cdctest is the contract of cdc.Source in executable form, with a scripted database for tests of what
// stands on it. Every source runs the suite:
//
//	func TestContract(t *testing.T) {
//		cdctest.Run(t, func(t *testing.T) cdctest.Fixture {
//			...
//		})
//	}
//
// The cases are named as rules.
package cdctest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// A Fixture is one database with an empty table for one case: id, an integer and the key; name, text and not null; note, text. It
// was made before any source, and is followed from before the first row on (a slot exists). Exec and
// Rollback fail the test if they can't do what they are asked for.
type Fixture struct {
	// New returns a source of the database, as another process would make it.
	New func() cdc.Source

	// Table is "schema.name".
	Table string

	// Exec commits one transaction; SQL makes statements of rows. Rollback does the same and rolls back.
	Exec, Rollback func(rows ...Row)

	// Rows returns what a new snapshot of the primary sees: name by id.
	Rows func() map[int]string

	// Lose makes it impossible to resume from positions up to now. Nil if that can't be done; the case is then
	// left out by name.
	Lose func()

	// Hold keeps transactions from becoming visible, while their changes come; release ends it. Exec must return while it is in force. Nil
	// if that can't be done.
	Hold func() (release func())

	// OldValues says that updates and deletes carry the old values of all columns, not just of the key.
	OldValues bool

	// Merges says that transactions that follow each other may come as one, since the database doesn't tell where one ends.
	Merges bool
}

// A Row is a change to make.
type Row struct {
	Op       cdc.Op // OpInsert, OpUpdate (of name and note), OpDelete, OpTruncate
	ID       int
	Name     string
	Note     string
	NullNote bool
}

// SQL returns the statement for r.
func (r Row) SQL(table string) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	note := quote(r.Note)
	if r.NullNote {
		note = "NULL"
	}
	switch r.Op {
	case cdc.OpInsert:
		return fmt.Sprintf("INSERT INTO %s (id, name, note) VALUES (%d, %s, %s)", table, r.ID, quote(r.Name), note)
	case cdc.OpUpdate:
		return fmt.Sprintf("UPDATE %s SET name = %s, note = %s WHERE id = %d", table, quote(r.Name), note, r.ID)
	case cdc.OpDelete:
		return fmt.Sprintf("DELETE FROM %s WHERE id = %d", table, r.ID)
	case cdc.OpTruncate:
		return "TRUNCATE TABLE " + table
	}
	panic("cdctest: row of " + r.Op.String())
}

// Insert inserts a row with an empty note.
func Insert(id int, name string) Row { return Row{Op: cdc.OpInsert, ID: id, Name: name} }

// Update sets the name, and an empty note.
func Update(id int, name string) Row { return Row{Op: cdc.OpUpdate, ID: id, Name: name} }

// Delete deletes.
func Delete(id int) Row { return Row{Op: cdc.OpDelete, ID: id} }

// Run checks every rule against a fixture of its own.
func Run(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) { r.check(&env{T: t, fx: fixture(t)}) })
	}
}

type rule struct {
	name  string
	check func(*env)
}

// patience is for what surely comes; quiet for what must not.
const (
	patience = 20 * time.Second
	quiet    = 300 * time.Millisecond
)

type env struct {
	*testing.T
	fx Fixture
}

func (e *env) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	e.Cleanup(cancel)
	return ctx
}

// open opens a stream of a new source, which is closed at the end of the case.
func (e *env) open(from cdc.Position) cdc.Stream {
	e.Helper()
	s, err := e.fx.New().Open(e.within(patience), from)
	if err != nil {
		e.Fatalf("open from %q: %v", from, err)
	}
	e.Cleanup(func() { _ = s.Close() })
	return s
}

// close closes a stream.
func (e *env) close(s cdc.Stream) {
	e.Helper()
	if err := s.Close(); err != nil {
		e.Errorf("close: %v", err)
	}
}

// A txn is a transaction as it was delivered.
type txn struct {
	cdc.Tx
	changes []string // "insert 1 ada -"
}

// next returns the next transaction with changes of the table.
func (e *env) next(s cdc.Stream) txn {
	e.Helper()
	for {
		if t, tick := e.event(s); tick == 0 && len(t.changes) > 0 {
			return t
		}
	}
}

// event returns the next transaction, or tick.
func (e *env) event(s cdc.Stream) (t txn, tick uint64) {
	e.Helper()
	ctx := e.within(patience)
	var ev cdc.Event
	open := false
	for {
		if err := s.Next(ctx, &ev); err != nil {
			e.Fatalf("next: %v", err)
		}
		switch {
		case ev.Kind == cdc.Begin && !open:
			open, t = true, txn{Tx: ev.Tx}
			if ev.Tx.Pos == "" || strings.ContainsAny(string(ev.Tx.Pos), " \t\n") || len(ev.Tx.Pos) > 4096 {
				e.Fatalf("begin has the position %q; want text without blanks, up to 4 KiB", ev.Tx.Pos)
			}
		case ev.Kind == cdc.Changed && open:
			if text := e.describe(&ev.Change); text != "" {
				t.changes = append(t.changes, text)
			}
		case ev.Kind == cdc.Commit && open:
			if ev.Tx != t.Tx {
				e.Fatalf("commit of %+v; began with %+v", ev.Tx, t.Tx)
			}
			return t, 0
		case ev.Kind == cdc.Ticked && !open:
			if ev.Pos == "" {
				e.Fatal("a tick has no position")
			}
			return txn{Tx: cdc.Tx{Pos: ev.Pos}}, ev.Tick
		default:
			e.Fatalf("event %d out of order; within a transaction: %v", ev.Kind, open)
		}
	}
}

// describe checks a change and makes text of it; empty if it is of another table.
func (e *env) describe(c *cdc.Change) string {
	e.Helper()
	if c.Table == nil || c.Table.String() != e.fx.Table || c.Op == cdc.OpSchema {
		return ""
	}
	names := map[string]int{}
	for i, col := range c.Table.Columns {
		names[col.Name] = i
	}
	id, name, note := names["id"], names["name"], names["note"]
	if len(names) != 3 {
		e.Fatalf("columns %+v; want id, name and note", c.Table.Columns)
	}
	for _, vs := range [][]cdc.Value{c.Old, c.New} {
		if vs != nil && len(vs) != 3 {
			e.Fatalf("%d values for 3 columns", len(vs))
		}
	}
	if (c.New != nil) != (c.Op == cdc.OpInsert || c.Op == cdc.OpUpdate) || (c.Old != nil) != (c.Op == cdc.OpDelete || c.Op == cdc.OpUpdate) {
		e.Fatalf("%s with %d old and %d new values", c.Op, len(c.Old), len(c.New))
	}
	text := func(v cdc.Value) string {
		switch v.State {
		case cdc.Known:
			return strconv.Quote(string(v.Text))
		case cdc.Null:
			return "null"
		case cdc.Unchanged:
			return "same"
		}
		return "?"
	}
	line := c.Op.String()
	switch c.Op {
	case cdc.OpInsert:
		line += " " + text(c.New[id]) + " " + text(c.New[name]) + " " + text(c.New[note])
	case cdc.OpUpdate:
		if c.Old[id].State != cdc.Known {
			e.Errorf("update without its old key")
		}
		line += " " + text(c.Old[id]) + "→" + text(c.New[id]) + " " + text(c.New[name]) + " " + text(c.New[note])
		if e.fx.OldValues {
			line += " was " + text(c.Old[name])
		}
	case cdc.OpDelete:
		line += " " + text(c.Old[id])
		if e.fx.OldValues {
			line += " was " + text(c.Old[name])
		}
	}
	return line
}

func (e *env) was(name string) string {
	if e.fx.OldValues {
		return " was " + strconv.Quote(name)
	}
	return ""
}

func (e *env) is(what string, got, want any) {
	e.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("%s: got %v; want %v", what, got, want)
	}
}

// come checks that transactions come: each by itself, or whole ones together.
func (e *env) come(s cdc.Stream, want ...[]string) {
	e.Helper()
	for n := 1; len(want) > 0; n++ {
		got := e.next(s).changes
		var whole []string
		for len(want) > 0 && len(whole) < len(got) && (len(whole) == 0 || e.fx.Merges) {
			whole, want = append(whole, want[0]...), want[1:]
		}
		e.is(fmt.Sprintf("transaction %d", n), got, whole)
	}
}

// ticked ticks, and returns the transactions that came before it, and its position.
func (e *env) ticked(s cdc.Stream, n uint64) (before []txn, pos cdc.Position) {
	e.Helper()
	if err := s.Tick(e.within(patience), n); err != nil {
		e.Fatalf("tick: %v", err)
	}
	for {
		t, tick := e.event(s)
		if tick == n {
			return before, t.Pos
		}
		if tick == 0 && len(t.changes) > 0 {
			before = append(before, t)
		}
	}
}

func changesOf(ts []txn) (all []string) {
	for _, t := range ts {
		all = append(all, t.changes...)
	}
	return all
}

var rules = []rule{
	{"changes come in the order of commits, with their values", func(e *env) {
		s := e.open("")
		e.fx.Exec(Insert(1, "ada"), Insert(2, "a b'c"))
		e.fx.Exec(Row{Op: cdc.OpUpdate, ID: 1, Name: "bob", NullNote: true})
		e.fx.Exec(Delete(2))
		e.come(s, []string{`insert "1" "ada" ""`, `insert "2" "a b'c" ""`}, []string{`update "1"→"1" "bob" null` + e.was("ada")}, []string{`delete "2"` + e.was("a b'c")})
	}},
	{"what was rolled back never comes", func(e *env) {
		s := e.open("")
		e.fx.Rollback(Insert(1, "ada"))
		e.fx.Exec(Insert(2, "bob"))
		e.fx.Rollback(Update(2, "eve"))
		before, _ := e.ticked(s, 1)
		e.is("changes", changesOf(before), []string{`insert "2" "bob" ""`})
	}},
	{"a stream goes on after a position", func(e *env) {
		s := e.open("")
		var first txn
		e.fx.Exec(Insert(1, "ada"))
		if e.fx.Merges {
			first = e.next(s)
		}
		e.fx.Exec(Insert(2, "bob"))
		if !e.fx.Merges {
			first = e.next(s)
		}
		e.close(s)
		s = e.open(first.Pos)
		e.fx.Exec(Insert(3, "eve"))
		before, _ := e.ticked(s, 1)
		got := changesOf(before)
		if len(got) == 3 { // a repetition is allowed
			got = got[1:]
		}
		e.is("changes", got, []string{`insert "2" "bob" ""`, `insert "3" "eve" ""`})
	}},
	{"what was not acknowledged comes again", func(e *env) {
		s := e.open("")
		start := s.Start()
		e.fx.Exec(Insert(1, "ada"))
		e.next(s)
		e.close(s)
		s = e.open(start)
		e.is("again", e.next(s).changes, []string{`insert "1" "ada" ""`})
	}},
	{"a tick comes though the database is quiet", func(e *env) {
		s := e.open("")
		for n := uint64(1); n <= 5; n++ {
			before, pos := e.ticked(s, n)
			e.is("changes", changesOf(before), []string(nil))
			if n == 5 {
				e.close(s)
				e.open(pos) // its position can be resumed
			}
		}
	}},
	{"a tick comes after all that was visible before it", func(e *env) {
		s := e.open("")
		for n := 1; n <= 10; n++ {
			e.fx.Exec(Insert(n, "ada"))
			before, _ := e.ticked(s, uint64(n))
			e.is("changes", changesOf(before), []string{fmt.Sprintf(`insert "%d" "ada" ""`, n)})
		}
	}},
	{"what is Visible is in every new snapshot", func(e *env) {
		s := e.open("")
		for n := 1; n <= 20; n++ {
			go e.fx.Exec(Insert(n, "ada"))
			t := e.next(s)
			if err := s.Visible(e.within(patience), t.Pos); err != nil {
				e.Fatalf("visible: %v", err)
			}
			e.is("rows", len(e.fx.Rows()), n)
		}
	}},
	{"Visible holds for the start", func(e *env) {
		e.fx.Exec(Insert(1, "ada"))
		s := e.open("")
		if err := s.Visible(e.within(patience), s.Start()); err != nil {
			e.Fatalf("visible: %v", err)
		}
		e.is("rows", e.fx.Rows(), map[int]string{1: "ada"})
	}},
	{"Visible waits for what is not", func(e *env) {
		if e.fx.Hold == nil {
			e.Log("this database can't hold transactions back")
			return
		}
		s := e.open("")
		release := e.fx.Hold()
		defer release()
		e.fx.Exec(Insert(1, "ada"))
		t := e.next(s)
		e.is("rows while held", len(e.fx.Rows()), 0)
		if err := s.Visible(e.within(quiet), t.Pos); !errors.Is(err, context.DeadlineExceeded) {
			e.Fatalf("visible while held: %v; want it to wait", err)
		}
		release()
		if err := s.Visible(e.within(patience), t.Pos); err != nil {
			e.Fatalf("visible: %v", err)
		}
		e.is("rows", e.fx.Rows(), map[int]string{1: "ada"})
	}},
	{"after Ack a stream begins there", func(e *env) {
		s := e.open("")
		e.fx.Exec(Insert(1, "ada"))
		t := e.next(s)
		if err := s.Ack(e.within(patience), t.Pos); err != nil {
			e.Fatalf("ack: %v", err)
		}
		e.fx.Exec(Insert(2, "bob"))
		e.is("second", e.next(s).changes, []string{`insert "2" "bob" ""`})
		e.close(s)
		s = e.open(t.Pos)
		e.is("second again", e.next(s).changes, []string{`insert "2" "bob" ""`})
	}},
	{"a position that is gone is a gap", func(e *env) {
		if e.fx.Lose == nil {
			e.Log("this database can't lose its log on purpose")
			return
		}
		s := e.open("")
		e.fx.Exec(Insert(1, "ada"))
		old := e.next(s).Pos
		e.fx.Exec(Insert(2, "bob"))
		e.close(s)
		e.fx.Lose()
		src := e.fx.New()
		if s, err := src.Open(e.within(patience), old); !errors.Is(err, cdc.ErrGap) {
			if err == nil {
				e.close(s)
			}
			e.Fatalf("open at a lost position: %v; want ErrGap", err)
		}
		s, err := src.Open(e.within(patience), "")
		if err != nil {
			e.Fatalf("open anew: %v", err)
		}
		defer e.close(s)
		e.fx.Exec(Insert(3, "eve"))
		before, _ := e.ticked(s, 1)
		all := changesOf(before)
		if len(all) == 0 || all[len(all)-1] != `insert "3" "eve" ""` {
			e.Errorf("after it: %q; want the insert of eve last", all)
		}
	}},
	{"a position of another history is a gap", func(e *env) {
		for _, p := range []cdc.Position{"nonsense", "0/0", "7/another/1"} {
			if s, err := e.fx.New().Open(e.within(patience), p); !errors.Is(err, cdc.ErrGap) {
				if err == nil {
					e.close(s)
				}
				e.Errorf("open at %q: %v; want ErrGap", p, err)
			}
		}
	}},
	{"one reader, if the database wants that", func(e *env) {
		if !e.fx.New().Exclusive() {
			return
		}
		s := e.open("")
		if other, err := e.fx.New().Open(e.within(patience), s.Start()); !errors.Is(err, cdc.ErrBusy) {
			if err == nil {
				e.close(other)
			}
			e.Fatalf("a second stream: %v; want ErrBusy", err)
		}
		e.close(s)
		e.open(s.Start())
	}},
	{"Next ends with its context, and with Close", func(e *env) {
		s := e.open("")
		var ev cdc.Event
		for ctx := e.within(quiet); ; {
			if err := s.Next(ctx, &ev); err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					e.Errorf("next: %v; want its context's error", err)
				}
				break
			}
		}
		s = e.openAgain(s)
		ended := make(chan struct{})
		go func() {
			var ev cdc.Event
			for {
				if err := s.Next(context.Background(), &ev); err != nil {
					close(ended)
					return
				}
			}
		}()
		time.Sleep(quiet / 3)
		e.close(s)
		select {
		case <-ended:
		case <-time.After(patience):
			e.Error("next goes on after Close")
		}
	}},
	{"a large transaction comes whole", func(e *env) {
		s := e.open("")
		const n = 2000
		rows := make([]Row, n)
		for i := range rows {
			rows[i] = Insert(i+1, "ada")
		}
		e.fx.Exec(rows...)
		t := e.next(s)
		e.is("changes", len(t.changes), n)
		e.is("last", t.changes[n-1], fmt.Sprintf(`insert "%d" "ada" ""`, n))
	}},
	{"truncate comes in its place", func(e *env) {
		s := e.open("")
		e.fx.Exec(Insert(1, "ada"))
		e.fx.Exec(Row{Op: cdc.OpTruncate})
		e.fx.Exec(Insert(2, "bob"))
		before, _ := e.ticked(s, 1)
		all := changesOf(before)
		// A database whose TRUNCATE is a statement of its own kind may tell of it as a change of the schema.
		e.is("first", all[0], `insert "1" "ada" ""`)
		e.is("last", all[len(all)-1], `insert "2" "bob" ""`)
	}},
	{"Tables describes what matches", func(e *env) {
		ts, err := e.fx.New().Tables(e.within(patience), func(schema, name string) bool { return schema+"."+name == e.fx.Table })
		if err != nil || len(ts) != 1 || ts[0].String() != e.fx.Table {
			e.Fatalf("tables %v, %v; want %s", ts, err, e.fx.Table)
		}
		for _, c := range ts[0].Columns {
			e.is(c.Name+" may be null", c.Nullable, c.Name == "note")
			e.is(c.Name+" has no old value", c.NoOld, c.Name != "id" && !e.fx.OldValues)
		}
	}},
}

// openAgain closes a stream and opens another.
func (e *env) openAgain(s cdc.Stream) cdc.Stream {
	e.close(s)
	return e.open(s.Start())
}
