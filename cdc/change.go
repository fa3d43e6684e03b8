package cdc

import (
	"strconv"
	"time"
)

// An Op is what happened.
type Op uint8

// The operations.
const (
	OpInsert   Op = iota + 1
	OpUpdate      // Old and New
	OpDelete      // Old
	OpTruncate    // all rows of Table; it has no values
	OpSchema      // Table was created, altered, renamed or dropped, as far as the source can tell; it has no values
	OpMessage     // Message was written into the transaction by its author: a drop that no rule could know of
)

var opNames = [...]string{OpInsert: "insert", OpUpdate: "update", OpDelete: "delete", OpTruncate: "truncate", OpSchema: "schema", OpMessage: "message"}

// String returns the name of the operation as rules have it: "insert", "update", "delete", "truncate", "schema", "message".
func (o Op) String() string {
	if int(o) < len(opNames) && opNames[o] != "" {
		return opNames[o]
	}
	return "op " + strconv.Itoa(int(o))
}

// A State says what is known of a value.
type State uint8

// The states. The zero value is the one that is always safe.
const (
	// Unknown: the source was not told. The old value of a column outside of the replica identity is.
	Unknown State = iota

	// Known: Text is the value.
	Known

	// Null: the value is null.
	Null

	// Unchanged: a new value that was not sent because it is the old one, as PostgreSQL does with large values
	// stored aside (TOAST).
	Unchanged
)

// A Value is one column of one row.
//
// Its text is what the database prints, in ISO and UTC forms as far as it has them, with three exceptions, so that names made of it are
// those that a program would make: integers are decimal without needless zeros, booleans are true and false, and
// bytes are lower-case hex digits without a prefix.
type Value struct {
	State State
	Text  []byte // if Known; may be empty
}

// Text returns a known value.
func Text(s string) Value { return Value{State: Known, Text: []byte(s)} }

// A Column is one column of a table. All but the name is for [Rules.Check]; a stream may leave it out.
type Column struct {
	Name string
	Type string // as the database names it; for people

	Nullable bool

	// NoOld: updates and deletes don't carry the old value. With a replica identity that is the key,
	// true of all other columns.
	NoOld bool

	// Omitted: an update that doesn't change the value may leave it out of New (Unchanged).
	Omitted bool
}

// A Table is a table as it was at a change. It is not modified once a change carried it; a stream gives the same *Table again
// as long as nothing changed about it.
type Table struct {
	Schema  string // of PostgreSQL; the database of MySQL; "main" of SQLite
	Name    string
	Columns []Column

	// Identify is the statement that makes updates and deletes of this table carry old values; empty if
	// they do, or if there is none. For people.
	Identify string
}

// String returns "schema.name".
func (t *Table) String() string { return t.Schema + "." + t.Name }

// column returns the index of a column, or -1.
func (t *Table) column(name string) int {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return i
		}
	}
	return -1
}

// A Change is what happened to one row, or to one table.
//
// Old and New have one value for each column of Table, or are nil:
//
//	insert              New
//	update              Old and New. Old is what was told: a column that the source knows the old value of by a promise of
//	                    the database (the key wasn't sent, so it didn't change) has it; others are Unknown
//	delete              Old; columns outside of the replica identity are Unknown
//	truncate, schema    neither
//	message             neither, and Table is nil
type Change struct {
	Op       Op
	Table    *Table
	Old, New []Value
	Message  []byte // see ParseMessage
}

// A Position is a place in a source's order of commits: after one transaction, before the next. It is text that only the source
// understands, without blanks, at most 4 KiB. It names the history too (system identifier and timeline, server id), so that
// one of another history is never taken for one of this. The empty Position is none.
type Position string

// A Tx is one committed transaction.
type Tx struct {
	ID        string    // as the database names it: for people
	Pos       Position  // after it
	Committed time.Time // by the database's clock; zero if it doesn't say
}
