// Package mysqlcdc reads the changes of a MariaDB (10.6 and later) or MySQL (8.0 and later) server from its binary log: it is a
// [cdc.Source] that reads as a replica does, and writes nothing.
//
// It is tested against MariaDB 10.11. What MySQL does differently (GTID sets, its barrier, partial JSON) is written from its manual and tested with
// events made by hand, but never met a MySQL server.
//
// # Words
//
// The binary log (binlog) is a row of files of events. A transaction is a group of events that begins with its GTID. A row image
// is what of a row is written: all columns, or some. A position is a server, a file with the time it was made, an offset, and the
// GTID of the transaction that begins there and was read, or "-": "mariadb-1/binlog.000003/1767225600/4711/0-1-245".
//
// A stream has two connections to the primary. One is the feed, a dump of the binary log. The other, the side connection, asks
// what is visible, where the log ends and what tables are; it is checked to be one to the server that serves the feed.
//
// # Why positions are places in files
//
// A position has to name a history, and sets of GTIDs don't. RESET MASTER, and a crash with sync_binlog=0, give the same GTIDs to other transactions
// later. A promoted replica has a set that contains ours, and yet may lack commits that were read, and cached, on the old
// primary. So a position holds on one server only, and is proven there: the file must have been made in the same second, and the transaction that
// begins at the offset must have that GTID. All else is cdc.ErrGap: another server, a purged file, an offset past the end.
//
// # What is read
//
// Row events, whatever their image: a column that isn't there is unknown, or unchanged. Names of columns, signs, character sets and
// labels come with the event if binlog_row_metadata is FULL. Else, they are read from information_schema, and used
// only for what was written after that until the next DDL of the table; what was written before (a restart, an ALTER) drops coarsely.
//
// Rows that a foreign key changes (ON DELETE CASCADE, SET NULL, ON UPDATE) are not in the binary log. Such a table is told as truncated
// when a row that may have been referred to is deleted, or its key changes.
//
// DDL is cdc.OpSchema of the tables it names; TRUNCATE is cdc.OpTruncate. Statements that change rows and
// were logged as text (binlog_format=STATEMENT in a session), DROP DATABASE, and any statement that isn't understood are cdc.ErrGap:
// everything is dropped.
//
// XA transactions come at XA COMMIT, as a truncate of each table that they changed, since nobody keeps their rows until then. One that was
// prepared before the stream began, and commits after, is cdc.ErrGap.
//
// Rows inserted to a table with the name freshet_messages are drops that a program wrote into its transaction; see
// cdc.ParseMessage. Its column is message.
//
// # Not in the feed
//
// What sessions write with sql_log_bin=0, databases that binlog_ignore_db leaves out (refused at the start), temporary tables. Tables
// without transactions (MyISAM, Aria) show a change before it is in the binary log, and keep it when the transaction around it is rolled
// back. Galera clusters and group replication are not for this package.
package mysqlcdc
