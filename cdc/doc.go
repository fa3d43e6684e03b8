// Package cdc turns the changes of a database into drops (change data capture): rows in, invalidations out, whatever
// program wrote them.
//
// # Words
//
// A [Source] is a database as a feed of its committed changes. It yields transactions, one after another, in the order
// in which they committed; a [Change] is one row, or what happened to a whole table. A [Position] is a place in
// that order. [Rules] say what a change makes invalid: tags and keys to drop, messages to publish. An [Applier]
// takes those to the shared level. A [Pump] joins the three, and holds all policy: sources and appliers do what they are
// told.
//
//	database → Source → Rules → Pump → Applier → log of drops → every instance
//
// # What a pump does
//
//	read      changes as they come, and what the rules make of them, merged while the store is busy
//	barrier   wait until a new snapshot of the primary sees them (Stream.Visible)
//	apply     the drops, and wait until the store has acknowledged them
//	mark      note in the store, beside the drops, how far it is (store.Mark)
//	ack       30 s later, tell the database that it need not keep them any more
//
// # Promises
//
// Once a change has been applied, no load that began before it was visible is served as fresh from the shared level:
// it is an ordinary drop, and the promises of package freshet hold for it.
//
// No change is lost. If the pump dies, the next begins at the mark. If the store went back in time (a failover, an old
// snapshot), the mark did too, or names drops that the store no longer has; the pump notices within a
// tick, and goes back to the mark that is there. Repeating a drop costs a miss.
//
// What can't be known is dropped coarsely, and counted; it is never passed over. A column that is null or wasn't
// sent: the tag of the table ("users!"), the pattern of the keys. A part of the feed that is gone, damaged or of
// another database: everything ([Gap]).
//
// Memory is bounded whatever the size of a transaction: when the store is slower than the database, the pump stops reading.
//
// # Certificates
//
// At each tick (50 ms) the pump asks the database where its feed ends, and when all before that is applied, says
// so in the mark. An instance that read the mark before the tick was announced and again after it was certified
// knows that every change visible at the first reading has been dropped, without trusting any clock. docs/cdc.md has the steps.
//
// # Not promised
//
//   - Anything about a program that reads the old row, is slow, and then writes it to a bare Redis key after the pump
//     deleted that: it takes no lease. [Options].Again deletes a second time.
//   - That messages published reach anybody: Pub/Sub delivers at most once.
//   - One view of several rows: those of one transaction are dropped one after another.
//   - Drops for what a database doesn't put into its feed: see the source's package.
package cdc
