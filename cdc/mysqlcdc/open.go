package mysqlcdc

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/freshetdev/freshet/cdc"
)

// Open begins to read after from; with an empty position, at the end of the binary log.
//
//	from is                               then
//	empty                                 begins at the end
//	of another server                     ErrGap
//	in a file that was purged             ErrGap
//	in a file made at another time        ErrGap: RESET MASTER
//	past the end                          ErrGap: the server went back
//	after a transaction, and at its       ErrGap: the server went back, and wrote anew
//	place begins another
//	past 4 GiB of a file                  ErrGap: a replica can't ask for that
//	else                                  begins there
func (s *Source) Open(ctx context.Context, from cdc.Position) (cdc.Stream, error) {
	var want place
	if from != "" {
		var err error
		if want, err = parsePlace(from); err != nil {
			return nil, gap("%w", err)
		}
	}
	d := newSide(s)
	st := &stream{
		src: s, side: d, wake: make(chan struct{}, 1), packets: make(chan packet, 16),
		infos: make(map[tableName]info), tables: make(map[tableName]*table), byID: make(map[uint64]*table), prepared: make(map[string][]tableName),
	}
	opened := false
	defer func() {
		if !opened {
			d.close()
			if st.feed != nil {
				_ = st.feed.close()
			}
		}
	}()
	v, err := describe(ctx, d.query)
	if err != nil {
		return nil, err
	}
	st.server = v
	problems := v.shortcomings()
	if err := cdc.SourceError("mysqlcdc", problems); err != nil {
		return nil, err
	}
	if from != "" && want.server != v.id {
		return nil, gap("the position is of server %s; this is %s", want.server, v.id)
	}
	if err := st.learn(ctx); err != nil {
		return nil, err
	}
	// After the catalog was read: so it holds for all that is written from here on.
	end, err := v.end(ctx, d)
	if err != nil {
		return nil, err
	}
	if err := cdc.SourceError("mysqlcdc", end.filtered()); err != nil {
		return nil, err
	}
	for name, in := range st.infos {
		in.from = end.spot
		st.infos[name] = in
	}
	at := end.spot
	if from != "" {
		at = want.spot
	}
	switch {
	case from != "" && end.before(at):
		return nil, gap("the position %v is past the end of the binary log, %v: the server went back", at, end.spot)
	case from != "" && at.off > math.MaxUint32:
		return nil, gap("the position %v is past 4 GiB, and can't be asked for", at)
	case at.off > math.MaxUint32:
		return nil, fmt.Errorf("mysqlcdc: the binary log ends at %v, past 4 GiB, and can't be asked for; it begins a new file soon, or FLUSH BINARY LOGS;", at)
	}
	if st.feed, err = s.openFeed(ctx, v, at, false); err != nil {
		return nil, err
	}
	if err := st.begin(ctx, at, want); err != nil {
		return nil, err
	}
	if err := st.sameServer(ctx); err != nil {
		return nil, st.feed.why(ctx, err)
	}
	s.count(func(n *Stats) { n.Reconnects++ })
	opened = true
	st.run()
	return st, nil
}

// learn reads the catalog.
func (s *stream) learn(ctx context.Context) error {
	var err error
	if s.sets, err = charsets(ctx, s.side, s.server); err != nil {
		return err
	}
	names, err := tableNames(ctx, s.side, s.src.opts.Match)
	if err != nil {
		return err
	}
	for _, n := range names {
		columns, err := readColumns(ctx, s.side, n)
		if err != nil {
			return err
		}
		s.infos[n] = info{columns: columns}
	}
	if err := s.learnKeys(ctx); err != nil {
		return err
	}
	// Whether the columns change that a foreign key refers to, is told by their names.
	for n := range s.cascades.updated {
		if _, ok := s.infos[n]; ok {
			continue
		}
		columns, err := readColumns(ctx, s.side, n)
		if err != nil {
			return err
		}
		s.infos[n] = info{columns: columns}
	}
	return nil
}

func (s *stream) learnKeys(ctx context.Context) error {
	keys, err := readForeignKeys(ctx, s.side)
	if err != nil {
		return err
	}
	s.cascades.add(keys, s.src.opts.Match)
	return nil
}

// sameServer sees to it that the side connection, and each that comes after it, is to the server that serves the feed: that one has the feed among
// its threads.
func (s *stream) sameServer(ctx context.Context) error {
	id := strconv.FormatUint(uint64(s.feed.GetConnectionID()), 10)
	check := func(ctx context.Context, query func(context.Context, string) ([][]string, error)) error {
		rows, err := query(ctx, `select @@global.server_id, (select command from information_schema.processlist where id = `+id+`)`)
		if err != nil {
			return fmt.Errorf("mysqlcdc: side connection: %w", err)
		}
		// Its command is "Binlog Dump" once the server has begun.
		if len(rows) != 1 || len(rows[0]) != 2 || rows[0][0] != s.server.vars["server_id"] || rows[0][1] == "" {
			return fmt.Errorf("mysqlcdc: the side connection is to a server that doesn't serve the feed: want direct connections to one server")
		}
		return nil
	}
	if err := check(ctx, s.side.query); err != nil {
		return err
	}
	s.side.must(func(ctx context.Context, l *link) error { return check(ctx, l.query) })
	return nil
}

// begin reads up to what proves the position: the description of the file, and the transaction after which it is.
func (s *stream) begin(ctx context.Context, at spot, want place) error {
	ctx, cancel := context.WithTimeout(ctx, s.src.opts.Timeout)
	defer cancel()
	s.parser = replication.NewBinlogParser()
	s.parser.SetFlavor("mysql")
	if s.server.mariadb {
		s.parser.SetFlavor("mariadb")
	}
	s.parser.SetVerifyChecksum(true)
	s.parser.SetTimestampStringLocation(time.UTC)
	s.parser.SetRowsEventDecodeFunc(s.decodeRows)
	s.at = at
	described := false
	for !described {
		b, err := s.feed.packet(ctx)
		if err != nil {
			return err
		}
		switch replication.EventType(b[4]) {
		case replication.ROTATE_EVENT, replication.HEARTBEAT_EVENT, replication.HEARTBEAT_LOG_EVENT_V2: // says what we asked for
		case replication.FORMAT_DESCRIPTION_EVENT:
			if err := s.describe(b); err != nil {
				return err
			}
			s.created = binary.LittleEndian.Uint32(b)
			described = true
		default:
			return gap("the feed of %v begins with an event of type %d; want the description of the file", at, b[4])
		}
	}
	if want.file != "" && want.created != s.created {
		return gap("file %s was made at %d; that of the position, at %d: the binary log began anew", at.file, s.created, want.created)
	}
	s.start = place{server: s.server.id, spot: at, created: s.created}
	if want.gtid == "" {
		s.reached()
		return nil
	}
	s.start = want
	for {
		b, err := s.feed.packet(ctx)
		if err != nil {
			return err
		}
		gtid, ok, err := s.gtidOf(b)
		if err != nil {
			return err
		}
		if !ok {
			if t := replication.EventType(b[4]); t == replication.HEARTBEAT_EVENT || t == replication.HEARTBEAT_LOG_EVENT_V2 || t == replication.ROTATE_EVENT && artificial(b) {
				if t == replication.HEARTBEAT_EVENT || t == replication.HEARTBEAT_LOG_EVENT_V2 {
					return gap("at %v no transaction begins; want %s", at, want.gtid)
				}
				continue
			}
			return gap("at %v there is an event of type %d; want transaction %s", at, b[4], want.gtid)
		}
		if gtid != want.gtid {
			return gap("at %v transaction %s begins; want %s: the server went back", at, gtid, want.gtid)
		}
		// It was delivered, so it is only read.
		if err := s.take(ctx, b); err != nil {
			return err
		}
		s.skip = true
		s.reached()
		return nil
	}
}

// gtidOf returns the GTID of an event that begins a transaction.
func (s *stream) gtidOf(b []byte) (string, bool, error) {
	switch replication.EventType(b[4]) {
	case replication.GTID_EVENT, replication.MARIADB_GTID_EVENT:
	default:
		return "", false, nil
	}
	e, err := s.parse(b)
	if err != nil {
		return "", false, err
	}
	switch e := e.(type) {
	case *replication.GTIDEvent:
		return mysqlGTID(e), true, nil
	case *replication.MariadbGTIDEvent:
		return e.GTID.String(), true, nil
	}
	return "", false, nil
}

func mysqlGTID(e *replication.GTIDEvent) string {
	b := e.SID
	return strings.ToLower(fmt.Sprintf("%x-%x-%x-%x-%x:%d", b[:4], b[4:6], b[6:8], b[8:10], b[10:], e.GNO))
}
