package pgcdc

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
)

// A slot is a row of pg_replication_slots.
type slot struct {
	exists    bool
	plugin    string
	database  string
	here      bool // of this database
	pid       int  // of the server process that has it; zero: nobody
	twoPhase  bool
	status    string
	confirmed pglogrepl.LSN
	retained  int64
	pending   int64 // after what was confirmed
	safe      int64
}

// readSlot looks at the slot.
func (s *Source) readSlot(ctx context.Context, query func(context.Context, string, ...string) ([][]string, error), version int) (k slot, err error) {
	twoPhase := "false"
	if version >= 140000 {
		twoPhase = "two_phase"
	}
	rows, err := query(ctx, `
		select coalesce(plugin, ''), coalesce(database, ''), coalesce(database = current_database(), false), coalesce(active_pid, 0), `+twoPhase+`,
			coalesce(wal_status, 'lost'), coalesce(confirmed_flush_lsn, '0/0'), coalesce(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn), 0)::bigint,
			coalesce(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn), 0)::bigint, coalesce(safe_wal_size, -1)
		from pg_replication_slots where slot_name = $1`, s.opts.Slot)
	if err != nil {
		return k, fmt.Errorf("pgcdc: slot %s: %w", s.opts.Slot, err)
	}
	if len(rows) == 0 {
		return k, nil
	}
	r := rows[0]
	k = slot{exists: true, plugin: r[0], database: r[1], here: r[2] == "t", twoPhase: r[4] == "t", status: r[5]}
	var errs [5]error
	k.pid, errs[0] = strconv.Atoi(r[3])
	k.confirmed, errs[1] = pglogrepl.ParseLSN(r[6])
	k.retained, errs[2] = strconv.ParseInt(r[7], 10, 64)
	k.pending, errs[3] = strconv.ParseInt(r[8], 10, 64)
	k.safe, errs[4] = strconv.ParseInt(r[9], 10, 64)
	for _, err := range errs {
		if err != nil {
			return k, fmt.Errorf("pgcdc: slot %s: the server says %q: %w", s.opts.Slot, r, err)
		}
	}
	s.count(func(st *Stats) {
		st.At, st.Retained, st.Unconfirmed, st.Safe, st.Status = time.Now(), k.retained, k.pending, k.safe, k.status
	})
	return k, nil
}

// wrong says why the slot can't be used at all; empty if it can.
func (k *slot) wrong() string {
	switch {
	case k.plugin != "pgoutput":
		return fmt.Sprintf("is of plugin %q; want pgoutput", k.plugin)
	case !k.here:
		return fmt.Sprintf("is of database %q", k.database)
	case k.twoPhase:
		return "has two_phase: prepared transactions would come before they are committed"
	}
	return ""
}

// tooLong reports whether the slot keeps more than it may.
func (s *Source) tooLong(k slot) bool {
	return s.opts.MaxSlotLag > 0 && k.retained > s.opts.MaxSlotLag
}

// dropSlot drops the slot. It may still be held for a moment by a connection that was closed.
func (s *Source) dropSlot(ctx context.Context, d *side) error {
	for end := time.Now().Add(s.opts.Timeout); ; {
		_, err := d.query(ctx, `select pg_drop_replication_slot($1)`, s.opts.Slot)
		switch {
		case err == nil:
			s.remake.Store(true)
			s.count(func(st *Stats) { st.Dropped++ })
			return nil
		case hasCode(err, "42704"): // another was faster
			return nil
		case !hasCode(err, "55006") || time.Now().After(end): // in use
			return fmt.Errorf("pgcdc: drop slot %s: %w", s.opts.Slot, err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitFree waits until a server process has let go of the slot, as far as that can be seen. Its connection is closed already.
func (s *Source) awaitFree(d *side, pid uint32) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	d.must(nil)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		rows, err := d.query(ctx, `select from pg_replication_slots where slot_name = $1 and active_pid = $2`, s.opts.Slot, strconv.Itoa(int(pid)))
		if err != nil || len(rows) == 0 || pause(ctx, wait) != nil {
			return
		}
	}
}

// pause waits.
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
