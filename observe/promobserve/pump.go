package promobserve

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshetdev/freshet/cdc"
)

// NewPump returns a collector of what a pump counts; source is its Options.Name, and a label of each metric, and stats its Stats method.
func NewPump(source string, stats func() cdc.Stats) prometheus.Collector {
	t := &table{fixed: prometheus.Labels{"source": source}}
	var (
		running  = t.desc("cdc_running", "1 if this pump works, 0 if it stands by or can't.")
		state    = t.desc("cdc_state", "1 for the state that the pump is in, 0 for the others.", "state")
		txs      = t.desc("cdc_transactions_total", "Transactions applied.")
		changes  = t.desc("cdc_changes_total", "Changes applied.")
		tags     = t.desc("cdc_tags_total", "Tags dropped.")
		keys     = t.desc("cdc_keys_total", "Keys deleted.")
		sweeps   = t.desc("cdc_sweeps_total", "Patterns of keys deleted, each a look at every key of the server.")
		unswept  = t.desc("cdc_unswept_total", "Patterns of keys that were left until they expire.")
		messages = t.desc("cdc_messages_total", "Messages published.")
		coarse   = t.desc("cdc_coarse_total", "Drops that were coarser than a name, by why.", "why")
		gaps     = t.desc("cdc_gaps_total", "Gaps: everything was dropped.")
		errors   = t.desc("cdc_errors_total", "Errors after which it was tried again.")
		moved    = t.desc("cdc_moved_total", "Times that the store was not where it was left.")
		opened   = t.desc("cdc_streams_total", "Streams of changes that were opened.")
		early    = t.desc("cdc_early_total", "Tags and keys dropped early, as their changes were not visible for more than 5 ms, beside their drops in turn.")

		pending    = t.desc("cdc_pending", "Names read and not applied yet.")
		pendingFor = t.desc("cdc_pending_seconds", "Since the oldest of them was read.")
		behind     = t.desc("cdc_behind_seconds", "Age of the last certificate: all changes that were visible so long ago are applied; absent: never.")

		lag     = t.desc("cdc_lag_seconds", "From commit, by the clock of the database, to applied in the store.")
		barrier = t.desc("cdc_barrier_seconds", "How long batches waited until their changes were visible to readers.")
		apply   = t.desc("cdc_apply_seconds", "How long the store took for a batch.")
	)
	return &collector{t, func(s *scrape) {
		st := stats()
		s.flag(running, st.State == cdc.Running)
		for _, one := range []cdc.PumpState{cdc.Opening, cdc.Standby, cdc.Running, cdc.Waiting, cdc.Stopped} {
			s.flag(state, st.State == one, string(one))
		}
		s.counter(txs, float64(st.Txs))
		s.counter(changes, float64(st.Changes))
		s.counter(tags, float64(st.Tags))
		s.counter(keys, float64(st.Keys))
		s.counter(sweeps, float64(st.Sweeps))
		s.counter(unswept, float64(st.Unswept))
		s.counter(messages, float64(st.Published))
		for why, n := range st.Coarse {
			s.counter(coarse, float64(n), string(why))
		}
		s.counter(gaps, float64(st.Gaps))
		s.counter(errors, float64(st.Errors))
		s.counter(moved, float64(st.Moved))
		s.counter(opened, float64(st.Opened))
		s.counter(early, float64(st.Early))

		s.gauge(pending, float64(st.Pending))
		s.gauge(pendingFor, st.PendingFor.Seconds())
		s.since(behind, st.Behind)
		s.histogram(lag, &st.Lag)
		s.histogram(barrier, &st.Barrier)
		s.histogram(apply, &st.Apply)
	}}
}

// A Slot is what is known of a replication slot of PostgreSQL, as pgcdc.Source.Stats has it.
type Slot struct {
	At                          time.Time // when it was looked at; zero: never, and there are no metrics
	Retained, Unconfirmed, Safe int64     // bytes of log; a negative Safe is not known
	MaxLag                      int64     // pgcdc.Options.MaxSlotLag; no bound unless positive
	Dropped                     uint64    // slots dropped since they kept more
}

// NewSlot returns a collector of what is known of a slot; source is a label of each metric.
func NewSlot(source string, slot func() Slot) prometheus.Collector {
	t := &table{fixed: prometheus.Labels{"source": source}}
	var (
		age         = t.desc("cdc_slot_age_seconds", "Since the slot was looked at.")
		retained    = t.desc("cdc_slot_retained_bytes", "Log that the server keeps for the slot.")
		unconfirmed = t.desc("cdc_slot_unconfirmed_bytes", "Of that, what comes after what was acknowledged.")
		safe        = t.desc("cdc_slot_safe_bytes", "How much more may be written before the server invalidates the slot; absent: any.")
		most        = t.desc("cdc_slot_max_lag_bytes", "What the slot may keep before it is dropped (max_slot_lag); absent: any.")
		dropped     = t.desc("cdc_slot_dropped_total", "Slots dropped since they kept more than that.")
	)
	return &collector{t, func(s *scrape) {
		now := slot()
		if now.MaxLag > 0 {
			s.gauge(most, float64(now.MaxLag))
		}
		s.counter(dropped, float64(now.Dropped))
		if now.At.IsZero() {
			return
		}
		s.since(age, max(time.Since(now.At), 0))
		s.gauge(retained, float64(now.Retained))
		s.gauge(unconfirmed, float64(now.Unconfirmed))
		if now.Safe >= 0 {
			s.gauge(safe, float64(now.Safe))
		}
	}}
}
