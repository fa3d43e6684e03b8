// Package freshet caches what is slow to get, in memory and in Redis, and forgets it when it changes.
//
// One call, Get, answers from the process's own memory (L1), from a store that all instances
// share (L2: Redis or Valkey), or from the source, once, however many callers ask at the same time:
//
//	client, err := freshet.Open(ctx, "redis://localhost:6379", freshet.Options{})
//	users, err := freshet.NewCache(client, freshet.Config[int64, User]{
//		Name: "user", // keys read user:7
//		TTL:  time.Hour,
//		Load: func(ctx context.Context, id int64, l *freshet.Load) (User, error) {
//			return db.User(ctx, id)
//		},
//	})
//	u, err := users.Get(ctx, 7)
//	err = users.Drop(ctx, 7) // after the row was updated
//
// "memory:" in place of the URL needs no Redis: for tests, and for programs of one instance.
//
// # Words
//
// An entry is a cached value and what is known of it. It lies at its key, "user:7", which any
// client of Redis can delete. To load is to ask the source; a load needs the key's lease, the right to
// fill it, which one instance has at a time. To fill is to store what the load brought.
//
// A tag is a name that many entries depend on, such as [Tag]("users", 7). To drop a key or tag
// is to make invalid what hangs on it, on all instances. Drops are appended to the log, in which each
// names the one before it; the place of a tag's last drop there is its stamp. A load notes how far the
// log is before it asks the source, and its entry is valid while none of its tags has a
// stamp above that.
//
// An entry is fresh until its TTL ends, then stale for as long as [Stale] allows: it may
// be served while a new value is loaded, or because the source fails. A dropped entry is
// dead, and never served; it is not stale.
//
// Each instance keeps a mirror of the log: the stamps of the tags that its entries use. asOf is the time
// up to which the mirror is proven complete. L1 has trust, and may answer, while asOf is at most
// [Options].StaleAtMost ago.
//
// # The path of a read
//
//	L1     fresh, no drop known, trust held          → the value; no allocation, nothing asked
//	       somebody here is asking for this key      → wait for the same answer
//	L2     a valid entry                             → the value, and keep it in L1
//	lease  held by another instance                  → wait to be told that it has filled
//	load   note the log's position, ask the source   → the value, whatever happens next
//	fill   the lease is still there                  → stored in L2 and L1
//	       dropped, written or evicted meanwhile     → not stored; who comes later loads anew
//
// A load runs on a context of its own, with the values of the caller that began it. A caller who
// leaves doesn't end it for those who wait. [Cache.Lookup] tells where a value came from
// and how old it is; [Client.Explain] tells what is known of a key.
//
// # Promises
//
// P1. A drop is never undone. Once Drop, DropTags or Clear has returned nil, no load that began before
// it is served as fresh from L2: of a key on any instance at once, of a tag as soon as an instance has
// heard of the drop (P2). That holds for refreshes,
// batches, negative entries and loads that ended long after their timeout, and for a DEL by
// any client of Redis.
//
// P2. Staleness is bounded. A hit never misses a drop that L2 acknowledged more than StaleAtMost ago,
// also when messages are lost, the link hangs or Redis is gone. Where Redis can't
// tell of foreign writes (a proxy without RESP3), L1 asks again after StaleAtMost, so a foreign
// DEL is bounded by it too.
//
// P3. One load per key. One in the fleet while Redis answers, one per instance while it doesn't
// (late word of another's fill may begin a second; a reader whose token isn't covered loads for itself), and MaxLoads on an instance (loads in a [Tx] aside), in order, those in the background last. Beyond MaxQueued that wait, and while a
// source fails again and again (BreakAfter), it isn't asked. One that dies during a load delays the others by LeaseTime.
//
// P4. Loss is a miss. Eviction, expiry, FLUSHALL, damaged bytes, another version of your type: each
// is counted with its reason and costs a load. A stamp that is missing never reads as "not dropped".
//
// P5. Redis is never in the way. Every operation of the store has a budget (50 ms). When Redis is slow
// or gone, Get answers from L1 while that has trust, then by loading, and then with a stale value if the
// policy allows one. Drops take effect on this instance at once, return [ErrPending], and
// are delivered when Redis is back; callers can choose to wait, or to have them fail ([WithPending]). What
// is kept for that is bounded, and becomes coarser; what can't is refused with [ErrNotKept].
//
// # Not promised
//
//   - One view of several entries: each has its own bound. Of two rows changed in one transaction, one
//     may be read new and the other old, for StaleAtMost at most.
//   - P2 for what [Result] marks as Stale because the source failed: it is never served against a drop
//     that this instance knows of, but with Redis away too it may not know of one made elsewhere.
//   - That you read your own write before Drop has returned, or elsewhere before StaleAtMost has passed, without a
//     token ([Client.WithToken]).
//   - Anything about a write to the source that nobody drops, except TTL. Drop after the
//     commit: a load between a drop and its commit reads the old row, and keeps it.
//   - A load that reads from a lagging replica of the database: it may bring the old row
//     after the drop. Load from the primary what must be new, or through package replica.
//   - Drops that Redis acknowledged and then lost. If an instance that knew of them still runs, it
//     sees that the log lost its end and begins a new epoch: every entry but those of Plain caches is a miss.
//     If none does, as after a restart of everything from an old snapshot, nothing tells.
//   - Drops of a transaction ([Tx]) whose instance died between the commit and the drop.
//   - Drops that were pending when their instance died. The caller was told (ErrPending).
//   - In a [Config].Plain cache, more than a bare key can give: programs that SET it themselves take
//     no lease, the last one wins, and an epoch doesn't reach it.
//
// # When Redis is away
//
// Nothing has to be configured. L1 goes on for StaleAtMost; then each entry is loaded anew when asked
// for and answers for StaleAtMost again, so a hot key costs the source one query a second per instance.
// MaxLoads and MaxQueued bound the sum. [Stats] shows LinkUp, StaleFor and PendingNow, and [Options].Hooks are told.
//
// # More
//
// The examples below are tests. In the repository: README.md (a service in five minutes),
// docs/step-by-step.md (from the usual Redis recipes to this), docs/freshness.md (the
// protocol and its races), docs/operations.md (settings, every reason code, outages) and
// docs/wire.md (the bytes in Redis).
package freshet
