package pgcdc

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// A SlotState is what the server says of the slot, and of what holds it back: for people who want to know why the log grows.
type SlotState struct {
	Name   string
	Exists bool

	// Reader is the server process that somebody reads the slot by; zero: nobody does.
	Reader int

	// Retained, Unconfirmed, Safe and Status are as in Stats.
	Retained, Unconfirmed, Safe int64
	Status                      string

	// Writer is the oldest transaction of the server that has written something and isn't over. The slot keeps the log from before it on,
	// whatever was acknowledged. Nil: there is none.
	Writer *Writer
}

// A Writer is a transaction that has written something and isn't over.
type Writer struct {
	Pid               int // zero: it is prepared
	User, Application string
	State             string // "active", "idle in transaction", ...; "prepared"
	For               time.Duration
}

// Slot looks at the slot now. It changes nothing.
func (s *Source) Slot(ctx context.Context) (SlotState, error) {
	d := newSide(s.main, s.opts.Timeout)
	defer d.close()
	state := SlotState{Name: s.opts.Slot}
	version, err := serverVersion(ctx, d)
	if err != nil {
		return state, fmt.Errorf("pgcdc: slot %s: %w", s.opts.Slot, err)
	}
	k, err := s.readSlot(ctx, d.query, version)
	if err != nil {
		return state, err
	}
	state.Exists, state.Reader, state.Status = k.exists, k.pid, k.status
	state.Retained, state.Unconfirmed, state.Safe = k.retained, k.pending, k.safe
	rows, err := d.query(ctx, `
		select pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(state, ''), extract(epoch from clock_timestamp() - coalesce(xact_start, backend_start, clock_timestamp()))::bigint
		from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
		union all
		select 0, owner, '', 'prepared', extract(epoch from clock_timestamp() - prepared)::bigint from pg_prepared_xacts
		order by 5 desc limit 1`)
	if err != nil {
		return state, fmt.Errorf("pgcdc: slot %s: %w", s.opts.Slot, err)
	}
	for _, r := range rows {
		pid, err1 := strconv.Atoi(r[0])
		seconds, err2 := strconv.ParseInt(r[4], 10, 64)
		if err1 != nil || err2 != nil {
			return state, fmt.Errorf("pgcdc: slot %s: the server says %q of a transaction", s.opts.Slot, r)
		}
		state.Writer = &Writer{Pid: pid, User: r[1], Application: r[2], State: r[3], For: time.Duration(seconds) * time.Second}
	}
	return state, nil
}
