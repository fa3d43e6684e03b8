package promobserve

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/observe"
)

// NewClient returns a collector of what a client counts; stats is its Stats method.
func NewClient(stats func() freshet.Stats) prometheus.Collector {
	t := new(table)
	const reason = "reason"
	var (
		hits      = t.desc("hits_total", "Reads answered with a fresh entry, by level: l1 is this process, l2 the store.", "level")
		staleHits = t.desc("stale_hits_total", "Reads answered with an entry past its time.")
		misses    = t.desc("misses_total", "Reads that a level could not answer, by reason.", "level", reason)

		loads        = t.desc("loads_total", "Calls of loaders.")
		loadErrors   = t.desc("load_errors_total", "Calls of loaders that failed.")
		loadSeconds  = t.desc("load_seconds_total", "Time spent in loaders.")
		refreshes    = t.desc("refreshes_total", "Calls of loaders in the background, while an old value was served.")
		queued       = t.desc("loads_queued_total", "Loads that waited for a place.")
		shed         = t.desc("loads_shed_total", "Loads that were not tried, by reason.", reason)
		sourceOpened = t.desc("source_breaker_opened_total", "Times that a source was given up.")

		fills   = t.desc("fills_total", "Loaded values that were stored.")
		refused = t.desc("fills_refused_total", "Loaded values that were not stored, by reason.", reason)

		drops      = t.desc("drops_total", "Drops that the store acknowledged.")
		pending    = t.desc("drops_pending_total", "Drops that the store did not acknowledge at once.")
		pendingNow = t.desc("drops_pending", "Keys and tags whose drop has not reached the store.")
		pendingFor = t.desc("drops_pending_seconds", "For how long the oldest of them has waited.")
		coarser    = t.desc("drops_coarser_total", "Keys and tags dropped by a coarser tag for want of room.")
		notKept    = t.desc("drops_not_kept_total", "Keys and tags whose drop was not kept, as the caller was told.")

		txOpen      = t.desc("transactions_open", "Transactions that have not ended.")
		txForgotten = t.desc("transactions_forgotten_total", "Transactions that nobody ended.")

		gaps    = t.desc("log_gaps_total", "Times that entries of the log were missed.")
		epochs  = t.desc("epochs_total", "Times that history was lost: everything was a miss once.")
		errors  = t.desc("store_errors_total", "Store operations that failed.")
		breaker = t.desc("store_breaker_opened_total", "Times that the store was given up.")
		mutated = t.desc("mutated_total", "Shared values that a caller changed.")
		linkUp  = t.desc("link_up", "1 if the store is followed.")
		tracks  = t.desc("link_tracks", "1 if the store tells of foreign writes.")

		staleFor     = t.desc("stale_seconds", "Time since the last proof that every drop is known; absent: never.")
		proven       = t.desc("proven_seconds", "The same, at each probe before it counts.")
		sourceFor    = t.desc("source_stale_seconds", "Time since the last proof that all changes of a database are known; absent: never.", "source")
		sourceProven = t.desc("source_proven_seconds", "The same, at each probe before it counts.", "source")
		voided       = t.desc("voided_seconds", "From a drop's entry in the log to where nothing here that it concerns is served.")
		committed    = t.desc("commit_to_voided_seconds", "From a commit in a database, by its clock, to where nothing here that it concerns is served.", "source")
		clockError   = t.desc("clock_error_seconds", "How far off the last two may be at most, but for the database's clock; absent: not known.")

		verified     = t.desc("verified_total", "Hits that were compared with the source.", "cache")
		inFlight     = t.desc("verified_in_flight_total", "Of these, those that differed and were dropped soon after.", "cache")
		late         = t.desc("verified_late_seconds", "How soon after.", "cache")
		mismatched   = t.desc("mismatched_total", "Of these, those that differed and went on being served: a drop was lost or never made.", "cache")
		unverifiable = t.desc("unverifiable_total", "Hits that were to be compared and could not be, by reason.", "cache", reason)

		entries    = t.desc("entries", "Entries in this process.", "cache")
		weight     = t.desc("entries_weight", "Their weight: bytes, if the cache is bounded by bytes, else their number.", "cache")
		sourceOpen = t.desc("source_breaker_open", "1 while the source of a cache is given up.", "cache")
	)
	return &collector{t, func(s *scrape) {
		st := stats()
		byReason := func(d *prometheus.Desc, n map[observe.Reason]uint64, labels ...string) {
			for r, v := range n {
				s.counter(d, float64(v), append(labels[:len(labels):len(labels)], string(r))...)
			}
		}
		s.counter(hits, float64(st.HitsL1), "l1")
		s.counter(hits, float64(st.HitsL2), "l2")
		s.counter(staleHits, float64(st.HitsStale))
		byReason(misses, st.MissesL1, "l1")
		byReason(misses, st.MissesL2, "l2")

		s.counter(loads, float64(st.Loads))
		s.counter(loadErrors, float64(st.LoadErrors))
		s.counter(loadSeconds, st.LoadTime.Seconds())
		s.counter(refreshes, float64(st.Refreshes))
		s.counter(queued, float64(st.LoadsQueued))
		byReason(shed, st.Shed)
		s.counter(sourceOpened, float64(st.SourceOpened))

		s.counter(fills, float64(st.Fills))
		byReason(refused, st.Refused)

		s.counter(drops, float64(st.Drops))
		s.counter(pending, float64(st.DropsPending))
		s.gauge(pendingNow, float64(st.PendingNow))
		s.gauge(pendingFor, st.PendingFor.Seconds())
		s.counter(coarser, float64(st.DropsCoarser))
		s.counter(notKept, float64(st.DropsNotKept))

		s.gauge(txOpen, float64(st.TxOpen))
		s.counter(txForgotten, float64(st.TxForgotten))

		s.counter(gaps, float64(st.Gaps))
		s.counter(epochs, float64(st.Epochs))
		s.counter(errors, float64(st.StoreErrors))
		s.counter(breaker, float64(st.BreakerOpened))
		s.counter(mutated, float64(st.Mutated))
		s.flag(linkUp, st.LinkUp)
		s.flag(tracks, st.Tracks)

		s.since(staleFor, st.StaleFor)
		s.histogram(proven, &st.Proven)
		for name, d := range st.Sources {
			s.since(sourceFor, d, name)
		}
		for name, h := range st.ProvenSources {
			s.histogram(sourceProven, &h, name)
		}
		s.histogram(voided, &st.Voided)
		for name, h := range st.Committed {
			s.histogram(committed, &h, name)
		}
		s.since(clockError, st.ClockError)

		for name, c := range st.Caches {
			s.gauge(entries, float64(c.Entries), name)
			s.gauge(weight, float64(c.Weight), name)
			s.flag(sourceOpen, c.SourceOpen, name)
			v := c.Verification
			if v.Verified == 0 && len(v.Unverifiable) == 0 {
				continue
			}
			s.counter(verified, float64(v.Verified), name)
			s.counter(inFlight, float64(v.InFlight), name)
			s.counter(mismatched, float64(v.Mismatched), name)
			s.histogram(late, &v.Late, name)
			byReason(unverifiable, v.Unverifiable, name)
		}
	}}
}
