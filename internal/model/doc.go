// Package model checks the freshness protocol as it is built: it visits every state of small worlds, in which
// steps of instances, of the store and of bad luck come in any order, and looks for one that breaks a promise.
//
// There are five worlds, one for each concern, so that each stays small:
//
//	keys      one key: leases, compare-and-fill, refreshes, foreign DEL, marks, pushes, links, probes and asOf
//	tags      one key with two tags in one or two partitions: stamps, read positions, cells, the recent log,
//	          late tags, verification; the epoch never changes
//	failover  one tag, a primary and its replica: the chain, lost suffixes, epochs, own drops, reused positions
//	outbox    drops that the store doesn't take at once, and their delivery
//	certs     a database, its pump and the marks: ticks, certificates, the barrier, what an instance concludes, a failover to
//	          a replica that lags while the old primary lives on
//
// A [Variant] is a world with what may happen in it. The protocol as built must break nothing. With one defense taken
// out there must be a counterexample: it shows that the world can see what the defense is for. A variant may be a
// hole: the protocol as built, in circumstances in which it does break a promise. docs/freshness.md has the table.
//
// The promises are checked without a clock:
//
//	P1      the key in the store never holds a valid value from before an acknowledged drop; and no instance
//	        serves one from before a drop of its own that has returned. After a failover: once all instances have
//	        looked at the log, the same for the drops that one of them knows of
//	P2      what is served under a proof has every drop acknowledged before the proof's probe was sent (keys), or every
//	        drop that the mirror has processed (tags, failover), or every change that was visible in the database before the
//	        mark was read (certs); StaleAtMost then only says how long a proof is good for
//	P4      stamps, logs and epochs that get lost are steps of the worlds; P1 and P2 must hold after them
//
// # Bounds
//
// Two instances (in tags one that has a mirror, and one that stores), one key, one or two tags, one or two partitions;
// one or two writes with their drops and as many loads; one or two of each kind of bad luck that a variant names.
// Each world is explored to its end, up to 200,000 states; with FRESHET_MODEL=large (make model)
// more of everything, up to six million. States are compared whole, so none is lost to a hash.
//
// # What is left out
//
// Time: leases end, links fail and proofs are late at any moment, but TTLs, stale windows, IfError and the length of
// StaleAtMost are not there. Flights: who joins a load of its own instance. Plain caches. Batches, which are the steps
// of single keys. Bytes: records are never damaged. A script is one step, and so is the answer to a request where no
// other step of the same world could tell the difference; a probe that reads head and log is one step in failover. In
// tags and failover no lease keeps a late fill away, so stamps alone must; in keys and outbox no tags do. Split
// brain: but in certs, after a failover nobody hears the old primary. Databases whose replicas lag. In certs: several
// partitions and sources, each of which is asked the same; entries in L2; and marks that go back in time on one link, which
// would take a server that does so without a word.
package model
