// Package memstore keeps the shared level in the memory of this process: the default of a
// program without Redis, and the store of most tests.
//
// A [Server] holds the data and the log; each [Store] is one connection to it. Two connections of
// one server behave as two instances that share a Redis: each is told what the
// other changes and appends, neither of its own writes. The Server's own
// methods are those of a foreign client (redis-cli) and of bad luck: eviction, a lost stamp, a log
// that forgot its start or its end, lost announcements.
//
// Nothing survives the process. There are no background goroutines: entries expire
// when they are looked at or sampled, and a goroutine that announces something lives
// until it has been told. Everything follows time.Now, so it also works inside a
// testing/synctest bubble.
//
// Images are shared: what Read and Claim return must not be modified. What Fill and
// Write are given is copied.
package memstore

import (
	"sync"
	"time"

	"github.com/freshetdev/freshet/store"
)

// Options of a [Server]. The zero value works; a field that is zero or less gets its default.
type Options struct {
	// MaxBytes bounds the entries: keys, images and about 200 bytes for each. Beyond it the
	// least recently used of a few samples go. Logs and stamps are not
	// counted. Default 64 MiB.
	MaxBytes int64

	// Partitions is the number of logs. Default 1.
	Partitions int

	// LogLength is the number of entries that each log keeps. Default 10,000.
	LogLength int

	// MaxStamps bounds the tags in use, for each partition. Beyond it, one is forgotten
	// and re-created at the log's position when it is wanted again. Default 100,000.
	MaxStamps int

	// MaxAbsent bounds how many absent keys are remembered as read, so that their
	// coming is announced. Beyond it, one is announced as changed
	// and forgotten. Default 100,000.
	MaxAbsent int
}

func (o Options) withDefaults() Options {
	def := func(n *int, d int) {
		if *n <= 0 {
			*n = d
		}
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	def(&o.Partitions, 1)
	def(&o.LogLength, 10_000)
	def(&o.MaxStamps, 100_000)
	def(&o.MaxAbsent, 100_000)
	return o
}

// A Server is the shared level that its connections share. All methods are safe for
// concurrent use.
//
// Lock order: Server.mu, then outbox.mu. Watchers are called under neither.
type Server struct {
	opts Options

	mu    sync.Mutex
	data  data
	parts []partition
	conns map[*Store]bool
	made  int      // connections made so far
	dirty []*Store // to whom something is to be told after mu is released
	lose  int      // announcements that are still to be lost; see LoseNext

	subs map[string][]func(payload string) // by channel; see Subscribe

	history int // how often an earlier state was brought back; see Snapshot
}

// NewServer returns an empty server without a log.
func NewServer(opts Options) *Server {
	opts = opts.withDefaults()
	s := &Server{
		opts:  opts,
		parts: make([]partition, opts.Partitions),
		conns: map[*Store]bool{},
	}
	s.data = data{items: map[string]*item{}, absent: map[string]readers{}, changed: s.changedLocked}
	return s
}

// Connect returns a new connection, as another client would have it.
func (s *Server) Connect() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Store{srv: s, bit: 1 << (s.made % 64)}
	c.out.cond.L = &c.out.mu
	s.made++
	s.conns[c] = true
	return c
}

// unlock releases mu and has told what the operation changed without waiting for it.
func (s *Server) unlock() {
	dirty := s.dirty
	s.dirty = nil
	s.mu.Unlock()
	for _, c := range dirty {
		c.out.drain()
	}
}

// unlockTold releases mu and returns when all connections have been told everything.
func (s *Server) unlockTold() {
	conns := make([]*Store, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.dirty = nil
	s.mu.Unlock()
	for _, c := range conns {
		c.out.flush(c.out.end())
	}
}

// tellLocked queues ev for c, unless its link is cut.
func (s *Server) tellLocked(c *Store, ev event) {
	if !c.cut && c.out.add(ev) {
		s.dirty = append(s.dirty, c)
	}
}

// changedLocked tells the readers of key, but not the connection that changed it.
func (s *Server) changedLocked(key string, who readers, by *Store) {
	if who == 0 {
		return
	}
	for c := range s.conns {
		if c != by && who&c.bit != 0 {
			s.tellLocked(c, event{kind: evChanged, keys: []string{key}})
		}
	}
}

// loggedLocked announces a log entry to all, its appender included.
func (s *Server) loggedLocked(part int, e store.LogEntry) {
	if s.lose > 0 {
		s.lose--
		return
	}
	for c := range s.conns {
		s.tellLocked(c, event{kind: evLogged, part: part, entry: e})
	}
}

// lifetime rounds a TTL up to whole milliseconds, as Redis has them.
func lifetime(ttl time.Duration) time.Duration {
	return (ttl + time.Millisecond - 1).Truncate(time.Millisecond)
}
