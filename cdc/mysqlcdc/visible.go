package mysqlcdc

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// Visible is the barrier. The server writes a commit to the binary log before it shows it: between the two, it waits for its turn, and with
// rpl_semi_sync_master_wait_point=AFTER_SYNC for a replica.
//
//	A: writes its commit to the binary log
//	   we read it, and drop
//	B: reads the old row, and stores it: nothing will ever drop it
//	A: is visible
//
// MySQL has the GTIDs of what is visible in gtid_executed. MariaDB tells with each consistent snapshot up to where in the binary log it sees; it shows
// commits in the order in which they are logged.
func (s *stream) Visible(ctx context.Context, pos cdc.Position) error {
	p, err := parsePlace(pos)
	if err == nil && p.server != s.server.id {
		err = fmt.Errorf("mysqlcdc: position %s is of another server than this stream, which began at %s", pos, s.Start())
	}
	if err != nil {
		return err
	}
	ctx, stop := s.alive(ctx)
	defer stop()
	if s.server.mariadb {
		err = s.snapshot(ctx, p)
	} else {
		err = s.executed(ctx, p)
	}
	if err != nil {
		return s.cause(err)
	}
	s.forget(p.spot)
	return nil
}

// snapshot waits until a consistent snapshot sees a position.
func (s *stream) snapshot(ctx context.Context, p place) error {
	return poll(ctx, func() (bool, error) {
		rows, err := s.side.query(ctx, `start transaction with consistent snapshot; show status like 'binlog_snapshot_%'; rollback`)
		if err != nil {
			return false, err
		}
		sees, err := readSnapshot(rows)
		if p.gtid != "" { // which begins at the spot, and ends after it
			return p.spot.before(sees), err
		}
		return !sees.before(p.spot), err
	})
}

// readSnapshot reads binlog_snapshot_file and binlog_snapshot_position.
func readSnapshot(rows [][]string) (at spot, err error) {
	for _, r := range rows {
		switch strings.ToLower(r[0]) {
		case "binlog_snapshot_file":
			at.file = r[1]
		case "binlog_snapshot_position":
			at.off, err = strconv.ParseUint(r[1], 10, 64)
		}
	}
	if err != nil || !validFile(at.file) {
		return at, fmt.Errorf("mysqlcdc: snapshot: the server says %q; want binlog_snapshot_file and binlog_snapshot_position", rows)
	}
	return at, nil
}

// executed waits until MySQL has executed all transactions up to a position. For the start, those are all that have a GTID now: who has one and
// isn't executed, owns it.
func (s *stream) executed(ctx context.Context, p place) error {
	if p == s.start {
		if err := s.settled(ctx); err != nil || p.gtid == "" {
			return err
		}
	}
	s.mu.Lock()
	var gtids []string
	for _, b := range s.unseen {
		if !p.spot.before(b.at) {
			gtids = append(gtids, b.gtid)
		}
	}
	s.mu.Unlock()
	if n := len(gtids); p.gtid != "" && (n == 0 || gtids[n-1] != p.gtid) {
		gtids = append(gtids, p.gtid)
	}
	if len(gtids) == 0 {
		return ctx.Err()
	}
	sql := `select gtid_subset('` + gtidSet(gtids) + `', @@global.gtid_executed)`
	return poll(ctx, func() (bool, error) {
		r, err := s.side.row(ctx, 1, sql)
		return err == nil && r[0] == "1", err
	})
}

// gtidSet joins GTIDs to a set, runs of numbers in one.
func gtidSet(gtids []string) string {
	var b strings.Builder
	var last string
	var from, to uint64
	flush := func() {
		if last == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(last + ":" + strconv.FormatUint(from, 10))
		if to > from {
			b.WriteString("-" + strconv.FormatUint(to, 10))
		}
	}
	for _, g := range gtids {
		uuid, number, _ := strings.Cut(g, ":")
		n, _ := strconv.ParseUint(number, 10, 64)
		if uuid == last && n == to+1 {
			to = n
			continue
		}
		flush()
		last, from, to = uuid, n, n
	}
	flush()
	return b.String()
}

// settled returns when all transactions that own a GTID now don't any more.
func (s *stream) settled(ctx context.Context) error {
	var waiting map[string]bool
	return poll(ctx, func() (bool, error) {
		r, err := s.side.row(ctx, 1, `select @@global.gtid_owned`)
		if err != nil {
			return false, err
		}
		now := ownedGTIDs(r[0])
		if waiting == nil {
			waiting = now
		}
		for g := range waiting {
			if !now[g] {
				delete(waiting, g)
			}
		}
		return len(waiting) == 0, nil
	})
}

// ownedGTIDs reads gtid_owned: "uuid:gno#thread:gno#thread, uuid:gno#thread".
func ownedGTIDs(text string) map[string]bool {
	owned := make(map[string]bool)
	for part := range strings.SplitSeq(text, ",") {
		uuid, rest, _ := strings.Cut(strings.TrimSpace(part), ":")
		for one := range strings.SplitSeq(rest, ":") {
			if gno, _, ok := strings.Cut(one, "#"); ok {
				owned[strings.ToLower(uuid)+":"+gno] = true
			}
		}
	}
	return owned
}

// poll asks until it is so. The first pauses are short, since most commits are visible within a fraction of a millisecond.
func poll(ctx context.Context, ok func() (bool, error)) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		if done, err := ok(); done || err != nil {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

// forget lets go of transactions whose visibility is settled.
func (s *stream) forget(upTo spot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(s.unseen) && !upTo.before(s.unseen[n].at) {
		n++
	}
	s.unseen = append(s.unseen[:0], s.unseen[n:]...)
}
