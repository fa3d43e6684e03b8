package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/pgcdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/config"
	"github.com/freshetdev/freshet/observe/promobserve"
)

// A postgresDB is a PostgreSQL database.
type postgresDB struct {
	src   *pgcdc.Source
	wants *pgcdc.Source // the same, but takes what Create would make for made: to describe tables before they are published
	opts  pgcdc.Options
}

func openPostgres(s config.Source, rules *cdc.Rules) (database, error) {
	o := pgcdc.Options{
		Slot: s.Postgres.Slot, Publication: s.Postgres.Publication, Create: s.Postgres.Create, Match: rules.Match,
		MaxSlotLag: s.Postgres.MaxSlotLag, Timeout: s.Postgres.Timeout,
	}
	src, err := pgcdc.New(s.URL.Reveal(), o)
	if err != nil {
		return nil, err
	}
	made := o
	made.Create = true
	wants, err := pgcdc.New(s.URL.Reveal(), made)
	if err != nil {
		return nil, err
	}
	return &postgresDB{src, wants, o}, nil
}

func (d *postgresDB) source() cdc.Source { return d.src }

func (d *postgresDB) check(ctx context.Context) ([]cdc.SourceProblem, error) { return d.src.Check(ctx) }

func (d *postgresDB) tables(ctx context.Context, match func(schema, name string) bool) ([]*cdc.Table, error) {
	tables, err := d.wants.Tables(ctx, match)
	if tables != nil {
		err = nil // it is of other tables, and check says the same
	}
	return tables, err
}

// between is the pause between two looks at a slot, or at a mark.
const between = 1500 * time.Millisecond

func (d *postgresDB) metrics(source string) []prometheus.Collector {
	return []prometheus.Collector{promobserve.NewSlot(source, func() promobserve.Slot {
		s := d.src.Stats()
		return promobserve.Slot{
			At: s.At, Retained: s.Retained, Unconfirmed: s.Unconfirmed, Safe: s.Safe, MaxLag: maxSlotLag(d.opts), Dropped: s.Dropped,
		}
	})}
}

// maxSlotLag is the bound in force; negative if there is none.
func maxSlotLag(o pgcdc.Options) int64 {
	if o.MaxSlotLag == 0 {
		return 8 << 30
	}
	return o.MaxSlotLag
}

func (d *postgresDB) hung() string { return "pg_stat_activity for wait_event SyncRep" }

func (d *postgresDB) health(ctx context.Context, _ cdc.Position) ([]finding, error) {
	before, err := d.src.Slot(ctx)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, between); err != nil {
		return nil, err
	}
	now, err := d.src.Slot(ctx)
	if err != nil {
		return nil, err
	}
	return slotFindings(before, now, maxSlotLag(d.opts)), nil
}

// Above these a slot keeps more than a pump that works would leave: it acknowledges after 30 s.
const (
	muchLog = 256 << 20
	longTx  = 5 * time.Minute
)

// slotFindings says how a slot is, from two looks at it.
func slotFindings(before, now pgcdc.SlotState, most int64) (all []finding) {
	slot := "slot " + now.Name
	drop := "SELECT pg_drop_replication_slot('" + now.Name + "');"
	keeps := accesslog.Bytes(now.Retained) + " of log"
	switch {
	case !now.Exists:
		all = append(all, warning("there is no "+slot+" yet",
			"no change is followed. A pump that starts makes it, if create is true, and drops everything once",
			"start freshet watch; with create: false, freshet check prints the statement"))
		return all
	case now.Status == "lost":
		all = append(all, bad(slot+" was invalidated: the server threw away log that the slot still needed",
			"changes were lost, so the next pump to start drops everything once, and makes another slot",
			"start freshet watch; so that it doesn't happen again, give max_slot_wal_keep_size more room, and don't leave the pump stopped for long"))
		return all
	case now.Reader == 0:
		f := bad("nobody reads "+slot+", for which the server keeps "+keeps,
			"no change is followed: what is cached stays until it expires. The log grows with every write, until the disk of the database is full or max_slot_wal_keep_size ends the slot",
			"start freshet watch; if you don't want it any more: "+drop)
		if now.Safe >= 0 {
			f.Why += "; the server bears " + accesslog.Bytes(now.Safe) + " more"
		}
		all = append(all, f)
	case now.Unconfirmed > muchLog && now.Unconfirmed >= before.Unconfirmed:
		all = append(all, bad(fmt.Sprintf("%s is stuck: process %d reads it and acknowledges nothing, and the server keeps %s", slot, now.Reader, keeps),
			"a pump acknowledges 30 s after it applied; this one can't apply: the store is away or too slow, or a commit waits for a synchronous standby",
			"look at what is said of the store, and at the log of freshet watch"))
	default:
		all = append(all, fine(fmt.Sprintf("%s is read by process %d; the server keeps %s", slot, now.Reader, keeps)))
	}
	if w := now.Writer; w != nil && w.For >= longTx {
		who, end := fmt.Sprintf("process %d of %s", w.Pid, w.User), fmt.Sprintf("SELECT pg_terminate_backend(%d);", w.Pid)
		if w.Pid == 0 {
			who, end = "a prepared one of "+w.User, "COMMIT PREPARED or ROLLBACK PREPARED, see pg_prepared_xacts"
		}
		if w.Application != "" {
			who += " (" + w.Application + ")"
		}
		all = append(all, warning(fmt.Sprintf("a transaction is open for %s: %s, %s", readable(w.For.Truncate(time.Second)), who, w.State),
			"the slot keeps the log from before it on, whatever the pump acknowledges, and a new slot waits for its end", "end it: "+end))
	}
	if most > 0 && now.Retained > most/2 {
		all = append(all, warning(fmt.Sprintf("%s keeps %s; at %s (max_slot_lag) it is dropped", slot, keeps, accesslog.Bytes(most)), "that is a gap: everything is dropped once", ""))
	}
	return all
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
