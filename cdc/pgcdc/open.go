package pgcdc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshetdev/freshet/cdc"
)

// Open begins to read after from. With an empty position it begins at the end of the log, since all that came before is dropped anyway:
// so it gets past a message that can't be read, and past a long queue.
//
//	the slot is     from is            then
//	in use          any                ErrBusy
//	missing, lost   a position         ErrGap
//	                empty              made (anew)
//	too long        any                dropped, then as missing
//	there           before the slot    ErrGap: what is in between isn't sent any more
//	                of other history   ErrGap
//	                after the log      ErrGap: the server went back
//	                else               begins there
func (s *Source) Open(ctx context.Context, from cdc.Position) (cdc.Stream, error) {
	var want place
	if from != "" {
		var err error
		if want, err = parsePlace(from); err != nil {
			return nil, gap("%w", err)
		}
	}
	d := newSide(s.main, s.opts.Timeout)
	opened := false
	defer func() {
		if !opened {
			d.close()
		}
	}()
	k, version, err := s.prepare(ctx, d, from)
	if err != nil {
		return nil, err
	}
	found, created, added, err := s.publish(ctx, d)
	if err != nil {
		return nil, err
	}
	if created && from != "" {
		return nil, gap("there was no publication %s, so changes were not sent", s.opts.Publication)
	}
	conn, last, err := s.connectFeed(ctx)
	if err != nil {
		return nil, fmt.Errorf("pgcdc: replication connection: %w", err)
	}
	defer func() {
		if !opened {
			closeConn(conn)
			s.awaitFree(d, conn.PID()) // so that who opens next isn't told that it is in use
		}
	}()
	start, err := s.begin(ctx, d, conn, k, from, want)
	if err != nil {
		return nil, err
	}

	// Only now nobody else moves the slot.
	sameServer := func(ctx context.Context, query func(context.Context, string, ...string) ([][]string, error)) (slot, error) {
		k, err := s.readSlot(ctx, query, version)
		switch {
		case err != nil:
			return k, err
		case !k.exists:
			return k, gap("slot %s is gone", s.opts.Slot)
		case k.pid != int(conn.PID()):
			return k, fmt.Errorf("pgcdc: slot %s is with process %d, and the replication connection is to process %d: want direct connections to one server", s.opts.Slot, k.pid, conn.PID())
		case k.status == "lost":
			return k, gap("slot %s was invalidated", s.opts.Slot)
		}
		return k, nil
	}
	if k, err = sameServer(ctx, d.query); err != nil {
		return nil, err
	}
	if from != "" && k.confirmed > want.lsn {
		return nil, gap("slot %s is at %v, past %v", s.opts.Slot, k.confirmed, want.lsn)
	}
	d.must(func(ctx context.Context, d *side) error {
		_, err := sameServer(ctx, d.run)
		return err
	})
	s.remake.Store(false)
	s.count(func(st *Stats) { st.Reconnects++ })
	st, err := newStream(s, d, conn, last, start, k.confirmed, found)
	if err != nil {
		return nil, err
	}
	if from != "" {
		// What was written to these before isn't in the feed. With an empty position everything is dropped.
		for _, t := range added {
			st.appeared = append(st.appeared, &t.Table)
		}
	}
	opened = true
	s.opened.Store(true)
	st.run()
	return st, nil
}

// prepare looks at the server and the slot, and drops a slot that can't be used any more.
func (s *Source) prepare(ctx context.Context, d *side, from cdc.Position) (k slot, version int, err error) {
	r, err := d.row(ctx, `select current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('wal_level')`)
	if err != nil {
		return k, 0, fmt.Errorf("pgcdc: connection: %w", err)
	}
	version, err = strconv.Atoi(r[0])
	switch {
	case err != nil:
		return k, 0, fmt.Errorf("pgcdc: server_version_num: %w", err)
	case version < 130000:
		return k, 0, fmt.Errorf("pgcdc: PostgreSQL is version %d; want 13 or later", version/10000)
	case r[1] == "t":
		return k, 0, errors.New("pgcdc: the server is a standby; want the primary")
	case r[2] != "logical":
		return k, 0, fmt.Errorf("pgcdc: wal_level is %s; want logical: ALTER SYSTEM SET wal_level = 'logical'; and restart the server", r[2])
	}
	if k, err = s.readSlot(ctx, d.query, version); err != nil {
		return k, 0, err
	}
	if k.pid != 0 {
		return k, 0, s.busy(strconv.Itoa(k.pid))
	}
	if why := k.wrong(); k.exists && why != "" {
		return k, 0, fmt.Errorf("pgcdc: slot %s %s; choose another name, or SELECT pg_drop_replication_slot(%s);", s.opts.Slot, why, literal(s.opts.Slot))
	}
	switch long := k.exists && s.tooLong(k); {
	case !k.exists:
		err = gap("there is no slot %s", s.opts.Slot)
	case k.status == "lost":
		err = gap("slot %s was invalidated by the server, which kept no more log for it", s.opts.Slot)
	case long:
		err = gap("slot %s keeps %d bytes of log; want at most %d", s.opts.Slot, k.retained, s.opts.MaxSlotLag)
	default:
		return k, version, nil
	}
	if k.status == "lost" && !s.opts.Create {
		if from == "" { // no gap: there is nowhere to begin
			err = fmt.Errorf("pgcdc: slot %s was invalidated; want Options.Create, or SELECT pg_drop_replication_slot(%[2]s); SELECT pg_create_logical_replication_slot(%[2]s, 'pgoutput');",
				s.opts.Slot, literal(s.opts.Slot))
		}
		return k, 0, err
	}
	if k.exists {
		if e := s.dropSlot(ctx, d); e != nil {
			return k, 0, e
		}
		k = slot{}
	}
	if from != "" {
		return k, 0, err
	}
	return k, version, nil
}

func (s *Source) busy(who string) error {
	return fmt.Errorf("pgcdc: slot %s is in use by process %s: %w", s.opts.Slot, who, cdc.ErrBusy)
}

// begin starts replication at from, or where it can.
func (s *Source) begin(ctx context.Context, d *side, conn *pgconn.PgConn, k slot, from cdc.Position, want place) (start place, err error) {
	ident, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return start, fmt.Errorf("pgcdc: identify system: %w", err)
	}
	if start.system, err = strconv.ParseUint(ident.SystemID, 10, 64); err != nil {
		return start, fmt.Errorf("pgcdc: identify system: %w", err)
	}
	start.timeline = uint32(ident.Timeline)
	switch {
	case from != "" && want.history != start.history:
		return start, gap("the position is of system %d, timeline %d; the server is %d, timeline %d", want.system, want.timeline, start.system, start.timeline)
	case from != "":
		end, err := endOfLog(ctx, d.ask, "insert")
		if err != nil {
			return start, err
		}
		if want.lsn > end {
			return start, gap("the position %v is past the end of the log, %v: the server went back", want.lsn, end)
		}
		start.lsn = want.lsn
	case k.exists:
		end, err := endOfLog(ctx, d.ask, "flush")
		if err != nil {
			return start, err
		}
		start.lsn = max(end, k.confirmed)
	case !s.opts.Create && !s.remake.Load():
		return start, fmt.Errorf("pgcdc: there is no slot %s; want Options.Create, or SELECT pg_create_logical_replication_slot(%s, 'pgoutput');", s.opts.Slot, literal(s.opts.Slot))
	default:
		made, err := pglogrepl.CreateReplicationSlot(ctx, conn, s.opts.Slot, "pgoutput", pglogrepl.CreateReplicationSlotOptions{SnapshotAction: "NOEXPORT_SNAPSHOT"})
		if hasCode(err, "42710") {
			return start, s.busy("another that makes it")
		}
		if err != nil {
			return start, fmt.Errorf("pgcdc: create slot %s: %w", s.opts.Slot, err)
		}
		if start.lsn, err = pglogrepl.ParseLSN(made.ConsistentPoint); err != nil {
			return start, err
		}
	}
	version, _ := strconv.Atoi(strings.SplitN(conn.ParameterStatus("server_version"), ".", 2)[0])
	args := []string{"proto_version '1'", "publication_names " + literal(quote(s.opts.Publication))}
	if version >= 14 {
		args = append(args, "messages 'true'")
	}
	err = pglogrepl.StartReplication(ctx, conn, s.opts.Slot, start.lsn, pglogrepl.StartReplicationOptions{PluginArgs: args})
	if hasCode(err, "55006") {
		return start, s.busy("another")
	}
	if err != nil {
		return start, broken(fmt.Errorf("pgcdc: start replication: %w", err))
	}
	return start, nil
}

// endOfLog asks where the log ends: where the next record goes ("insert"), or what is on disk ("flush").
func endOfLog(ctx context.Context, ask func(ctx context.Context, sql string) ([]string, error), which string) (pglogrepl.LSN, error) {
	r, err := ask(ctx, `select pg_current_wal_`+which+`_lsn()`)
	if err == nil {
		var lsn pglogrepl.LSN
		if lsn, err = pglogrepl.ParseLSN(r[0]); err == nil {
			return lsn, nil
		}
	}
	return 0, fmt.Errorf("pgcdc: end of the log: %w", err)
}

// broken makes an error of the server a gap if it would come again at the same place: the slot or log is gone (55000, 58P01, 42704), or what
// is there can't be decoded (XX).
func broken(err error) error {
	if hasCode(err, "55000", "58P01", "42704", "XX") {
		return gap("%w", err)
	}
	return err
}
