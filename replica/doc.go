// Package replica loads from a streaming replica of PostgreSQL without ever caching a stale row, and makes tokens by which a session
// reads its own writes.
//
//	db, err := replica.New(primary, standby, replica.Options{Source: "shop-db"})
//
//	Load: func(ctx context.Context, id int, _ *freshet.Load) (u User, err error) {
//		err = db.Read(ctx, func(ctx context.Context, q replica.Querier) error {
//			return q.QueryRowContext(ctx, "SELECT name FROM users WHERE id = $1", id).Scan(&u.Name)
//		})
//		return u, err
//	}
//
// This is for database/sql; pgxtx/pgxreplica is the same for pgx, and a [Gate] for any other driver.
//
// # The gap
//
// A replica shows commits later than the primary. Without a check this order leaves the old row in the cache for its whole TTL:
//
//	writer   commits on the primary
//	         the row's tag is dropped, by the writer or by a pump
//	load     notes how far the log of drops is: the drop is in it
//	load     reads the replica, which has not replayed the commit: the old row
//	fill     nothing was dropped since the load began, so the entry is valid
//
// # What Read does
//
//	1   asks the primary where its log ends now: L
//	2   begins on the replica, and asks how far that has replayed: R, in a statement of its own
//	3   R is at or after L: reads the data, over the same server connection, in a snapshot that is taken after 2
//	    it isn't: repeats 2 for up to Options.Wait, then reads the primary
//
// Why that is enough: let D be a drop that the load's read position covers, for the commit C. C's record was in the primary's log before D was
// made, since the writer drops after its commit, and a pump reads the record. Read is called by the loader, so after the
// read position was noted; L is asked for later still, so L is after C's record. R at or after L says that the replica has applied the record of C,
// and a standby raises its replay position only after a commit is visible to new snapshots. So the snapshot
// of 3 shows C. A drop that comes after the read position makes the entry invalid, whatever was read. It doesn't matter who
// dropped, what it was told by, and whether anybody knows the position of C.
//
// L never serves as proof for the primary itself: there a commit is in the log before it is visible (35 % of the reads that were checked so
// missed a row). The primary needs no gate, as a drop comes after the commit is visible there.
//
// The positions of 1 and 2 must be of the same system and timeline. A standby of an old timeline may be far ahead in its own history and lack
// what the new primary has. A standby proves its timeline by its WAL receiver, if the role has pg_read_all_stats (GRANT pg_monitor), or
// by its control file, which may learn of a promotion only after minutes; until then the primary is read.
//
// # Connections and snapshots
//
// Steps 2 and 3 are one transaction, READ COMMITTED and READ ONLY, so they are on the same server behind any pool or pooler, and each
// statement takes a snapshot of its own. In REPEATABLE READ the first statement takes the snapshot, and a position that is read by it or
// after it is too new for it. So with [Options].RepeatableRead (all statements of a read see one state) step 2 is a statement before
// the transaction, on the same connection. That is sound over database/sql and pgx pools, and over a transaction-mode pooler that leads to one
// server; not over one that spreads transactions over several standbys.
//
// If the connection's transaction isn't what was asked for (a pooler left one open), the primary is read.
//
// # Read your own write
//
// After its commit a writer takes a token, and its session keeps it, in a cookie for example:
//
//	token, err := db.Token(ctx)                      // printable: token.String(), ParseToken
//	ctx, err = client.WithToken(ctx, token)          // in later requests, on any instance
//	u, err := users.Get(ctx, 7)                      // at least as new as the token
//
// Every commit that was acknowledged before Token was called is covered by it. The client must have the source in its Options.Sources,
// and a pump of that name must run, or such reads load each time. See [github.com/freshetdev/freshet.Client.WithToken]. After a failover (a later timeline)
// a token counts as covered once the pump has dropped everything.
//
// # Not promised
//
//   - Loads outside of Read. A loader that asks the standby by itself is not gated.
//   - A read within a transaction of the primary: use that transaction. A standby has nothing of it.
//   - Replicas that tell no replay position (Aurora), logical replicas, and MariaDB or MySQL: load from the primary there.
//   - That a read is free: it costs one short query on the primary, which reads at the same time share, and a transaction on the replica.
//   - Commits with synchronous_commit=off reach a standby up to 0.6 s later. Reads that come meanwhile go to the primary.
package replica
