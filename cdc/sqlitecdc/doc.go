// Package sqlitecdc reads the changes of an SQLite database: it is a [cdc.Source] over triggers, so it sees what any process writes, the
// sqlite3 shell included, and loses nothing when one crashes. It works with any driver of package database/sql; it brings none.
//
// # Words
//
// The outbox is a table that triggers write each change of a row into, old and new values, within the writer's own transaction. What is rolled back
// was never in it. A position is the identity of the outbox, the id of a row and the random number that this row has:
// "5f0c9d1e22a8b314/1042/8a3c0b...".
//
// # What is read
//
// SQLite has one writer at a time, so ids of the outbox are in the order of commits. Nothing in it says where one transaction ends and the next begins. What a look
// at the file finds new is one or several whole transactions, and comes as one. Its time is that of the last change in it.
//
// A commit of another process is noticed after at most Options.Poll; one of this process at once, if it calls [Source.Notify].
//
// The barrier is no work here: a change and its row in the outbox become visible in the same moment.
//
// Values are as SQLite prints them: integers, text as it is, reals with as many digits as it takes ("1.0", "0.1", "1.0e+20"), blobs in
// hexadecimal. 0 and 1 in columns declared BOOLEAN or BOOL are false and true. All columns have old values. Not kept, and so cdc.Unknown, are values of more than
// 1,024 characters, and texts with a zero byte.
//
// INSERT INTO freshet_changes (op, new) VALUES ('m', '{"tags":["users:7"]}') is a drop written into a transaction (cdc.OpMessage).
//
// # Altered tables
//
// Each statement that alters the schema moves a number in the file, which is looked at together with the outbox. So before anything more is delivered or certified, triggers
// that are missing or outdated are made anew, and a row in the outbox says, as cdc.OpSchema, that changes of that table may have been missed. That holds for what
// happened while no pump ran, too. If the number moved by two or more and all is as it was, triggers may have been dropped and made again
// in between: all tables are told of.
//
// ALTER TABLE ... DROP COLUMN is refused by SQLite while triggers name the column. Drop those of the table first; they come back by themselves.
//
// # What it costs
//
// Each change of a row writes one row more, and looks up each unique key once for REPLACE. The outbox keeps what was not acknowledged, at most Options.MaxRows.
// Acknowledging writes to the file, so other writers need a busy_timeout, as they do beside any second writer. WAL mode is recommended: otherwise who reads and who writes wait for each other.
//
// # What is promised
//
// Every change of a row that commits after the triggers were made is delivered, or an error matches cdc.ErrGap: the outbox was emptied, or became too long; another file took the place of
// this one; it was restored from a backup, or set back. A copy of the file goes on from the same positions.
//
// # Not noticed
//
//   - What is written while triggers are switched off (SQLITE_DBCONFIG_ENABLE_TRIGGER), or to the file past SQLite.
//   - Rows that REPLACE deletes because of a partial unique index, or one of an expression, unless recursive_triggers is on. [Source.Check] names them.
//   - A file that is set back, while no pump runs, to just the row where the mark is.
//   - Virtual tables, views, and tables of attached files: they have no triggers, or none of ours.
//   - PRAGMA schema_version set back by hand.
package sqlitecdc
