package freshet

import (
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
)

// Stats are counts since the client was opened, and the present state.
type Stats struct {
	HitsL1, HitsL2, HitsStale uint64

	// MissesL1 and MissesL2 count, by reason, the reads that each level could not answer.
	MissesL1, MissesL2 map[observe.Reason]uint64

	Loads, LoadErrors, Refreshes, LoadsQueued uint64
	LoadTime                                  time.Duration // of all loads together

	// Shed counts, by reason, the loads that were not tried: "overload" and "source-down".
	Shed map[observe.Reason]uint64

	// SourceOpened is how often the breaker of a source opened (Config.BreakAfter).
	SourceOpened uint64

	Fills   uint64
	Refused map[observe.Reason]uint64 // loads whose value was not stored, by reason

	Drops, DropsPending uint64
	PendingNow          int           // keys and tags whose drop has not reached the store yet
	PendingFor          time.Duration // since when the oldest of them waits; zero if none does

	// For want of room in the outbox, DropsCoarser keys and tags became coarser tags. DropsNotKept were
	// not kept at all, as the caller was told; those of PendingFail count too.
	DropsCoarser, DropsNotKept uint64

	TxOpen      int    // transactions with a context that have not ended
	TxForgotten uint64 // transactions that nobody ended; their drops were applied when that was found

	Gaps, Epochs, StoreErrors, BreakerOpened, Mutated uint64

	// LinkUp says whether the store is followed, Tracks whether it tells of foreign writes.
	LinkUp, Tracks bool

	// StaleFor is what "stale at most" is right now: the time since the last proof
	// that every drop is known, and every change of Options.Sources. L1 answers while it is at most Options.StaleAtMost. Negative: never proven.
	StaleFor time.Duration

	// Sources says the same of each of Options.Sources: the time since the last proof that all its changes are known.
	Sources map[string]time.Duration

	// Proven is StaleFor as it was at each probe, before what the probe proved counted: the bound at its largest. ProvenSources
	// is the same of Sources. They depend on no clock but this instance's.
	Proven        observe.Histogram
	ProvenSources map[string]observe.Histogram

	// Voided is how long drops by other instances and by pumps took from their entry in the log to where nothing here that
	// they concern is served any more. Own drops are not in it: they take effect here before the store is asked. Committed is, by source, how
	// long those of a pump took from the commit of the oldest change in them, by the database's clock, if it tells. Both
	// compare with the clock of the store's server as estimated from round trips: ClockError is by how much they may be off at
	// most, half of a round trip; negative: not known. What the clocks of database and server differ by is in Committed. None is below zero.
	Voided     observe.Histogram
	Committed  map[string]observe.Histogram
	ClockError time.Duration

	// Verification is what came of Config.Verify, in all caches together.
	Verification Verification

	Caches map[string]CacheStats
}

// CacheStats is what one cache holds in L1.
type CacheStats struct {
	Entries int
	Weight  int64 // bytes, if the cache is bounded by bytes; else entries

	SourceOpen bool // the breaker of its source is open: it failed again and again

	Verification Verification // what came of Config.Verify
}

// counters are the client's. Those on the path of a hit are striped.
type counters struct {
	hitsL1 striped

	hitsL2, hitsStale                                 atomic.Uint64
	missesL1, missesL2, refused, shed                 [len(reasons)]atomic.Uint64
	loads, loadErrors, refreshes, loadsQueued, loadNs atomic.Uint64
	fills, drops, dropsPending, txForgotten           atomic.Uint64
	sourceOpened, dropsCoarser, dropsNotKept          atomic.Uint64
	gaps, epochs, storeErrors, breakerOpened, mutated atomic.Uint64
}

// reasons are all reason codes, by number.
var reasons = [...]observe.Reason{
	observe.ReasonNone, observe.ReasonAbsent, observe.ReasonExpired, observe.ReasonStale, observe.ReasonDropped,
	observe.ReasonEpoch, observe.ReasonUnproven, observe.ReasonCorrupt, observe.ReasonVersion, observe.ReasonSchema,
	observe.ReasonCodec, observe.ReasonPending, observe.ReasonStoreError, observe.ReasonLeaseLost, observe.ReasonLateTag,
	observe.ReasonBadTag, observe.ReasonNoStore, observe.ReasonNoLease, observe.ReasonEncode, observe.ReasonTransaction,
	observe.ReasonLongKey, observe.ReasonTooLarge, observe.ReasonManyTags, observe.ReasonOverload, observe.ReasonSourceDown, observe.ReasonUncertified, observe.ReasonBehind,
	observe.ReasonLoadError, observe.ReasonReplaced, observe.ReasonUnstable, observe.ReasonNoLoader,
}

func numberOf(r observe.Reason) int {
	for i, known := range reasons {
		if known == r {
			return i
		}
	}
	return 0
}

// A striped counter is added to by many goroutines at once. Which stripe one takes follows from where its
// stack lies: that is free, and differs between goroutines that run at the same time.
type striped struct {
	n [32]struct {
		atomic.Uint64
		_ [56]byte // a cache line each
	}
}

func (s *striped) add() {
	var here byte
	at := uintptr(unsafe.Pointer(&here)) >> 11 // stacks are 2 KiB or more apart
	s.n[(at^at>>5)%uintptr(len(s.n))].Add(1)
}

func (s *striped) sum() (total uint64) {
	for i := range s.n {
		total += s.n[i].Load()
	}
	return total
}

func (s *counters) miss(level observe.Level, r observe.Reason) {
	if level == observe.LevelL1 {
		s.missesL1[numberOf(r)].Add(1)
	} else {
		s.missesL2[numberOf(r)].Add(1)
	}
}

func (s *counters) fill(refused observe.Reason) {
	if refused == observe.ReasonNone {
		s.fills.Add(1)
	} else {
		s.refused[numberOf(refused)].Add(1)
	}
}

func (s *counters) load(took int64, refresh, failed bool) {
	s.loads.Add(1)
	s.loadNs.Add(uint64(max(took, 0)))
	if refresh {
		s.refreshes.Add(1)
	}
	if failed {
		s.loadErrors.Add(1)
	}
}

func byReason(n *[len(reasons)]atomic.Uint64) map[observe.Reason]uint64 {
	m := make(map[observe.Reason]uint64)
	for i := range n {
		if v := n[i].Load(); v > 0 {
			m[reasons[i]] = v
		}
	}
	return m
}

// Stats returns the counts so far and the present state.
func (c *Client) Stats() Stats {
	s := &c.stats
	up, tracks := c.mirror.Up()
	out := Stats{
		HitsL1: s.hitsL1.sum(), HitsL2: s.hitsL2.Load(), HitsStale: s.hitsStale.Load(),
		MissesL1: byReason(&s.missesL1), MissesL2: byReason(&s.missesL2),
		Loads: s.loads.Load(), LoadErrors: s.loadErrors.Load(), Refreshes: s.refreshes.Load(),
		LoadsQueued: s.loadsQueued.Load(), LoadTime: time.Duration(s.loadNs.Load()),
		Shed: byReason(&s.shed), SourceOpened: s.sourceOpened.Load(),
		Fills: s.fills.Load(), Refused: byReason(&s.refused),
		Drops: s.drops.Load(), DropsPending: s.dropsPending.Load(), PendingNow: int(c.outbox.pending.Load()),
		PendingFor: c.outbox.age(c.clock.Exact()), DropsCoarser: s.dropsCoarser.Load(), DropsNotKept: s.dropsNotKept.Load(),
		TxOpen: int(c.txs.Load()), TxForgotten: s.txForgotten.Load(),
		Gaps: s.gaps.Load(), Epochs: s.epochs.Load(), StoreErrors: s.storeErrors.Load(),
		BreakerOpened: s.breakerOpened.Load(), Mutated: s.mutated.Load(),
		LinkUp: up, Tracks: tracks, StaleFor: -1, Caches: make(map[string]CacheStats),
	}
	if asOf := c.mirror.LastProof(); asOf > mirror.Never {
		out.StaleFor = time.Duration(c.clock.Exact() - asOf)
	}
	out.Proven, out.Voided, out.Committed, out.ClockError = c.mirror.Proven(), c.mirror.Voided(), c.mirror.Commits(), c.mirror.ClockError()
	for i, name := range c.opts.Sources {
		if out.Sources == nil {
			out.Sources, out.ProvenSources = make(map[string]time.Duration), make(map[string]observe.Histogram)
		}
		out.ProvenSources[name] = c.mirror.SourceProven(i)
		out.Sources[name] = -1
		if asOf := c.mirror.SourceAsOf(i); asOf > mirror.Never {
			out.Sources[name] = time.Duration(c.clock.Exact() - asOf)
		}
	}
	for _, cache := range c.cacheList() {
		entries, weight := cache.size()
		verification := cache.verification()
		out.Verification.add(&verification)
		out.Caches[cache.cacheName()] = CacheStats{Entries: entries, Weight: weight, SourceOpen: cache.sourceOpen(), Verification: verification}
	}
	return out
}

func (c *Client) storeFailed(op string, err error) {
	if err == nil {
		return
	}
	c.stats.storeErrors.Add(1)
	if h := c.hooks.StoreError; h != nil {
		h(observe.StoreError{Op: op, Err: err})
	}
}
