// Package pgcdc reads the changes of a PostgreSQL database (13 and later) by logical replication: it is a
// [cdc.Source] over a replication slot and the plugin pgoutput.
//
// # Words
//
// The slot is what PostgreSQL keeps the log (WAL) for, and the lock: one stream has it, others get cdc.ErrBusy and stand by. The
// publication is the list of tables whose changes are sent. A position is the system identifier, the
// timeline and an LSN: "7312.../1/0/16B3748".
//
// A stream has two connections to the primary. One is the replication connection. The other, the side connection, asks what
// is visible and where the log ends; it is checked to be one to the very server that serves the slot.
//
// # What is read
//
// Protocol version 1: the server keeps large transactions on its disk until they commit, and sends them piece by piece;
// nothing is held here. Transactions that were prepared (two-phase) come when they are committed; a slot
// made with two_phase is refused.
//
// Values are what the server prints with DateStyle ISO, IntervalStyle iso_8601, TimeZone UTC and UTF-8; booleans and bytea as
// package cdc wants them, those of domains too. Large values that an update didn't change are not sent (cdc.Unchanged).
//
// Old values depend on the table's REPLICA IDENTITY: DEFAULT and USING INDEX send those of the key, when it changed or the row is
// deleted; FULL sends all. A table without any would refuse updates as soon as it is published, so such a table is never
// added to a publication. A partitioned table is followed as one; old values that its partitions send in
// another way than it does are taken as unknown, since nulls in them can't be told from what was not sent.
//
// pg_logical_emit_message(true, 'freshet', '{"tags":["users:7"]}') is a drop written into a transaction (PostgreSQL
// 14 and later). With false it is delivered at once, by itself.
//
// # Not in the feed
//
// PostgreSQL doesn't send DDL. A table that was altered, replaced, rewritten partition by partition, or whose partition was truncated, attached or detached,
// is found by looking at the catalog every 5 s, and with its next change of a row; both are
// told as cdc.OpSchema. What was altered while no pump ran is not noticed: emit a message in the migration.
// Views, materialized views, foreign and unlogged tables, and generated columns (before PostgreSQL 18) aren't sent at all.
//
// # What is promised
//
// Everything that commits after the slot was made is delivered, or an error matches cdc.ErrGap: the slot is gone, was
// invalidated or made anew, is ahead of the position asked for, the position is of another system or timeline, or beyond
// the end of the log; the publication was missing; a message can't be read. Not noticed is a server that was set back to an older state without a new
// timeline (a copy of its files), once it has written as much log as it had.
//
// The slot never keeps more than Options.MaxSlotLag while a stream is open: it is dropped then, which is a gap. While none
// is, only max_slot_wal_keep_size of the server bounds it; set it.
package pgcdc
