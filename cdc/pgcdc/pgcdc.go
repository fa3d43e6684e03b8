package pgcdc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshetdev/freshet/cdc"
)

// Options of a [Source]. A field that is zero gets its default.
type Options struct {
	// Slot is the name of the replication slot, the same for all that stand by for each other. Lower-case
	// letters, digits and underscores. Default "freshet".
	Slot string

	// Publication is the name of the publication. Default "freshet".
	Publication string

	// Create makes the slot and the publication if they aren't there, and adds tables that Match wants to the publication, at
	// the start and every 5 s. Nothing is ever taken out of it. Without Create they must be there, and complete; Check prints the
	// statements.
	Create bool

	// Match says which tables are wanted: cdc.Rules.Match. Nil: those that the publication has, which must be there.
	Match func(schema, table string) bool

	// MaxSlotLag is how many bytes of log the slot may keep. Beyond it the slot is dropped and made anew (without
	// Create, too), so the disk of the database doesn't fill; what was in between is a gap. Looked at every 5 s while a stream is open, and when
	// one is opened. Default 8 GiB. Negative: no bound.
	MaxSlotLag int64

	// Timeout is how long the server may be silent before the stream fails, and the other way round
	// (wal_sender_timeout of the connection), so that a slot becomes free again if this machine dies. Default 10 s.
	Timeout time.Duration
}

// A Source is a PostgreSQL database as a feed of its changes. Its methods are safe for concurrent use.
type Source struct {
	opts   Options
	main   *pgconn.Config // for queries
	feed   *pgconn.Config // for replication
	opened atomic.Bool    // a stream was
	remake atomic.Bool    // the slot was dropped by us: make it again whatever Create says

	watchEvery time.Duration // between looks at the slot and the catalog

	mu     sync.Mutex
	tables map[uint32]*relation // as they were seen last, by any stream; guarded by mu
	stats  Stats                // guarded by mu
}

var _ cdc.Source = (*Source)(nil)

// Stats are what was seen of the slot last.
type Stats struct {
	At time.Time // when; zero if never

	// Retained is how many bytes of log the server keeps for the slot, and Unconfirmed how many of them come after what was
	// acknowledged. Safe is how much more may be written before the server invalidates the slot; negative if it has no such bound.
	Retained, Unconfirmed, Safe int64

	// Status is wal_status of pg_replication_slots: "reserved", "extended", "unreserved", "lost".
	Status string

	Reconnects uint64 // streams that were opened
	Dropped    uint64 // slots dropped since they kept more than MaxSlotLag
	Altered    uint64 // tables whose definition was found to have changed

	// Problems are what was found wrong with tables and publication last: changes of those tables aren't followed, unless it is a
	// warning. At the first Open they are an error instead.
	Problems []cdc.SourceProblem
}

const defaultMaxSlotLag = 8 << 30

// New returns a source for a database: a URL ("postgres://user@host/db") or settings ("host=... dbname=..."), as libpq has them. Several hosts may be
// given; the primary is taken. It must be a direct connection: poolers don't pass replication on. New connects to nothing.
func New(url string, o Options) (*Source, error) {
	if o.Slot == "" {
		o.Slot = "freshet"
	}
	if strings.Trim(o.Slot, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || len(o.Slot) > 63 {
		return nil, fmt.Errorf("pgcdc: Slot is %q; want 1 to 63 lower-case letters, digits and underscores", o.Slot)
	}
	if o.Publication == "" {
		o.Publication = "freshet"
	}
	if len(o.Publication) > 63 || strings.ContainsRune(o.Publication, 0) {
		return nil, fmt.Errorf("pgcdc: Publication is %q; want a name of at most 63 bytes", o.Publication)
	}
	if o.Create && o.Match == nil {
		return nil, errors.New("pgcdc: Create is set and Match is nil; want what says which tables to publish")
	}
	if o.MaxSlotLag == 0 {
		o.MaxSlotLag = defaultMaxSlotLag
	}
	switch {
	case o.Timeout < 0:
		return nil, fmt.Errorf("pgcdc: Timeout is %v; want zero or more", o.Timeout)
	case o.Timeout == 0:
		o.Timeout = 10 * time.Second
	case o.Timeout < time.Second:
		return nil, fmt.Errorf("pgcdc: Timeout is %v; want at least 1s", o.Timeout)
	}
	main, err := pgconn.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("pgcdc: %w", err)
	}
	if main.ValidateConnect == nil {
		main.ValidateConnect = primary
	}
	if main.ConnectTimeout == 0 {
		main.ConnectTimeout = o.Timeout
	}
	main.RuntimeParams = maps.Clone(main.RuntimeParams)
	for name, value := range map[string]string{
		"client_encoding":               "UTF8",
		"search_path":                   "pg_catalog",
		"statement_timeout":             "0", // a new slot waits for all that writes now
		"default_transaction_read_only": "off",
		// The side connection forces the log out, and must not wait for standbys.
		"synchronous_commit": "local",
	} {
		main.RuntimeParams[name] = value
	}
	if main.RuntimeParams["application_name"] == "" {
		main.RuntimeParams["application_name"] = "freshet"
	}
	feed := main.Copy()
	for name, value := range map[string]string{
		"replication":        "database",
		"DateStyle":          "ISO",
		"IntervalStyle":      "iso_8601",
		"TimeZone":           "UTC",
		"extra_float_digits": "1",
		"bytea_output":       "hex",
		"wal_sender_timeout": strconv.FormatInt(o.Timeout.Milliseconds(), 10),
	} {
		feed.RuntimeParams[name] = value
	}
	return &Source{opts: o, main: main, feed: feed, tables: make(map[uint32]*relation), watchEvery: 5 * time.Second}, nil
}

// primary lets a connection to a standby pass by, so that the next host is tried. (What pgconn has for that can't be asked by a
// replication connection.)
func primary(ctx context.Context, conn *pgconn.PgConn) error {
	res, err := conn.Exec(ctx, `select pg_is_in_recovery()`).ReadAll()
	if err != nil {
		return err
	}
	if len(res) != 1 || len(res[0].Rows) != 1 || string(res[0].Rows[0][0]) != "f" {
		return errors.New("the server is a standby; want the primary")
	}
	return nil
}

// Exclusive reports true: a slot has one reader.
func (s *Source) Exclusive() bool { return true }

// Stats returns what the stream saw of the slot last, at most some 5 s ago while one is open.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Source) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// gap wraps why changes are gone.
func gap(format string, args ...any) error {
	return fmt.Errorf("pgcdc: %w: %w", fmt.Errorf(format, args...), cdc.ErrGap)
}

// A heard is a connection that knows when it last heard something.
type heard struct {
	net.Conn
	last *atomic.Int64
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 {
		h.last.Store(time.Now().UnixNano())
	}
	return n, err
}

// connectFeed makes the replication connection.
func (s *Source) connectFeed(ctx context.Context) (*pgconn.PgConn, *atomic.Int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	config := s.feed.Copy()
	last := new(atomic.Int64)
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return heard{conn, last}, nil
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	return conn, last, err
}
