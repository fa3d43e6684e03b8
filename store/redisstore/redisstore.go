// Package redisstore is the shared level on Redis (6.2 or later) or Valkey.
//
// A [Store] holds one pipelined connection to each primary that it uses: to the only server,
// to the one that sentinels name, or to every one of a Cluster. Reads, leases, the drop log, its
// announcements and the pushes of client tracking all travel on it, so what the server
// did first arrives first, and an answer to Head proves that everything before it was
// handed over. The connection is made and remade in the background: Open
// succeeds though Redis is down, no call ever waits for a connect, and none takes
// longer than the time budget. While Redis fails to answer, a breaker refuses
// calls at once.
//
// Entries lie at exactly their keys. Beside them are, under names that
// start with the prefix of the store:
//
//	{freshet:0}:head         hash: epoch, pos and nonce of the end of the log
//	{freshet:0}:log          stream of log messages (docs/wire.md), capped
//	{freshet:0}:log@<db>     channel on which they are announced
//	{freshet:0}:stamp:<tag>  position of the tag's last drop
//	{freshet:0}:witness      counter of the writes that replicas are asked for; only with Options.Replicas
//	{freshet:0}:source:<name>  mark of a database whose changes are dropped: hash
//	{freshet:0}:partitions   the number of logs; only in a Cluster
//	freshet:lease:<key>      lease of a refresh or of a plain key, in the key's slot
//
// A single server has one log. A Cluster has several, each in a slot of its own, so that they
// spread over its nodes; a key may lie on another node than the log of its drops. The store is
// up while it is linked to all nodes, and any loss, also a slot that moves, is a loss of all:
// cheap to be sure of, and rare.
//
// Where the role of primary can move, it is looked at when a link is made and with each Head. A
// link whose server lost the role is given up.
//
// What is not promised: a server that is killed may lose what it acknowledged (the log
// shows it, it cannot prevent it), and a server that refuses CLIENT TRACKING
// leaves foreign writes to be noticed at the next read (Link.Tracks tells).
//
// A key that holds no string (a list, a hash) reads as absent, since MGET says so.
// A claim of it finds it, as Held "type:list", and a claim that has
// seen that replaces it.
package redisstore

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/store"
)

// Options tune a Store. The zero value is good.
type Options struct {
	// Prefix is put before every key and name on the server. It must not contain braces,
	// which would move keys to other slots in a Cluster.
	Prefix string

	// Budget is how long one operation may take. Default 50 ms. The URL
	// option "budget" sets it too.
	Budget time.Duration

	// Name is what CLIENT LIST shows for the connection, without spaces. Default
	// "freshet". The URL option "name" sets it too.
	Name string

	// TLS configures rediss:// URLs. Default: the system's roots, the URL's host.
	TLS *tls.Config

	// BreakAfter is the number of timeouts or connection errors in a row after which the
	// store stops asking. Default 5. A lost connection stops it at once.
	BreakAfter int

	// ProbeEvery is the pause between probes of a server that stopped answering.
	// Default 100 ms.
	ProbeEvery time.Duration

	// Partitions is the number of logs in a Cluster, over whose nodes they spread. All clients
	// must have the same; one that differs is told by every operation. Default 8. The
	// URL option "partitions" sets it too.
	Partitions int

	// Replicas is how many replicas of its server must have a drop before it counts as delivered;
	// until they do, Drop fails with ErrTimeout (though others hear of it). It makes the loss of a drop in a failover unlikely,
	// not impossible: a replica that lacks it may be promoted. The price is a round trip to the replicas,
	// and that drops are pending while there are too few of them. Default 0. The URL option
	// "replicas" sets it too.
	Replicas int

	// LogLength is the number of log entries that the server keeps, about.
	// Default 10,000.
	LogLength int
}

// Each entry names its position in every partition, and each probe asks all of them.
const maxPartitions = 256

func (o Options) withDefaults() (Options, error) {
	if strings.ContainsAny(o.Prefix, "{}") {
		return o, fmt.Errorf("redisstore: Prefix is %q; want no braces", o.Prefix)
	}
	if strings.ContainsAny(o.Name, " \n\r") {
		return o, fmt.Errorf("redisstore: Name is %q; want no spaces", o.Name)
	}
	if o.Budget < 0 {
		return o, fmt.Errorf("redisstore: Budget is %v; want zero or more", o.Budget)
	}
	if o.BreakAfter < 0 {
		return o, fmt.Errorf("redisstore: BreakAfter is %d; want zero or more", o.BreakAfter)
	}
	if o.ProbeEvery < 0 {
		return o, fmt.Errorf("redisstore: ProbeEvery is %v; want zero or more", o.ProbeEvery)
	}
	if o.Partitions < 0 || o.Partitions > maxPartitions {
		return o, fmt.Errorf("redisstore: Partitions is %d; want up to %d, or zero", o.Partitions, maxPartitions)
	}
	if o.Replicas < 0 {
		return o, fmt.Errorf("redisstore: Replicas is %d; want zero or more", o.Replicas)
	}
	if o.LogLength < 0 {
		return o, fmt.Errorf("redisstore: LogLength is %d; want zero or more", o.LogLength)
	}
	if o.Budget == 0 {
		o.Budget = 50 * time.Millisecond
	}
	if o.Name == "" {
		o.Name = "freshet"
	}
	if o.BreakAfter == 0 {
		o.BreakAfter = 5
	}
	if o.ProbeEvery == 0 {
		o.ProbeEvery = 100 * time.Millisecond
	}
	if o.Partitions == 0 {
		o.Partitions = 8
	}
	if o.LogLength == 0 {
		o.LogLength = 10_000
	}
	return o, nil
}

// A Store is a [store.Store] on one Redis server, on the primary that sentinels name, or on
// a Cluster.
type Store struct {
	opts  Options
	place redisx.Place
	moves bool // the role of primary moves between servers: it is looked at
	parts []partition
	build rueidis.Builder

	budget budget
	clocks []serverClock // by partition
	events *hub
	one    *node    // the only node; nil in a Cluster
	many   *cluster // nil but in a Cluster

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	closing sync.Once
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Clocked = (*Store)(nil)
)

// maxWriting bounds the calls on their way, so that rueidis's ring of 1024 slots can't
// fill: a caller that meets a full ring waits there without a deadline.
const maxWriting = 256

// Open returns a store for a URL like
//
//	redis://user:password@host:6379/2?budget=20ms
//	rediss://host
//	unix:///run/redis.sock?db=2
//	redis+sentinel://user:password@host1:26379,host2:26379/2?master=NAME
//	redis+cluster://user:password@host1:6379,host2:6379?partitions=8
//
// A scheme with an s (rediss, rediss+sentinel, rediss+cluster) is TLS, to the sentinels, too. The options tls_ca,
// tls_cert and tls_key name files in PEM: the authorities to trust instead of the system's, and a certificate of
// the client's own. User and password
// are the servers'; those of the sentinels are options: sentinel_user, sentinel_password.
//
// It does not wait for the server, and fails only if the URL or the options are wrong.
func Open(url string, o Options) (*Store, error) {
	p, o, err := parseURL(url, o)
	if err != nil {
		return nil, err
	}
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	s := &Store{opts: o, place: p, moves: p.Kind != redisx.Single}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.budget.span = o.Budget
	s.events = newHub(o.Prefix)
	if err := s.start(); err != nil {
		s.cancel()
		return nil, err
	}
	go s.events.run()
	return s, nil
}

// start begins to connect.
func (s *Store) start() (err error) {
	if s.place.Kind == redisx.Cluster {
		return s.startCluster()
	}
	locate := func(context.Context) (redisx.Target, error) { return s.place.Target, nil }
	if s.place.Kind == redisx.Sentinel {
		locate = s.primary
	}
	s.parts = []partition{newPartition(s.opts.Prefix, 0, s.place.DB)}
	s.clocks = make([]serverClock, len(s.parts))
	if s.one, err = s.newNode(s.place.Target, locate); err != nil {
		return err
	}
	s.build = s.one.bare.client.B()
	s.events.expect([]*node{s.one}, nil)
	go s.one.keepLink()
	return nil
}

func (s *Store) startCluster() error {
	for i := range s.opts.Partitions {
		s.parts = append(s.parts, newPartition(s.opts.Prefix, i, 0))
	}
	s.clocks = make([]serverClock, len(s.parts))
	d, err := s.newDialer(s.place.Target, false) // it dials nothing, and knows how to build commands
	if err != nil {
		return err
	}
	s.build = d.client.B()
	d.client.Close()
	s.many = newCluster(s)
	go s.many.run()
	return nil
}

// Partitions is 1, but in a Cluster: all keys of a single server are in reach of one script.
func (s *Store) Partitions() int { return len(s.parts) }

// Now is the server's clock, as estimated when it was last asked. In a Cluster the clock of one node counts, that of the first
// partition, so that all instances agree on it.
func (s *Store) Now() time.Time { return s.clocks[0].now() }

// Clock implements [store.Clocked].
func (s *Store) Clock(part int) (now time.Time, off time.Duration, ok bool) {
	return s.clocks[part].at()
}

// Watch registers w. It is told of the link and of an open breaker before Watch returns, but of no link while the first try to
// connect is under way: that is told when it has ended. While the store can't connect, the reason is told again when it changes, about
// once in five seconds at most.
func (s *Store) Watch(w store.Watcher) (stop func()) { return s.events.watch(w) }

// Close drops the connection and waits for the store's goroutines, and so for the
// watchers to have been told everything.
func (s *Store) Close() error {
	s.closing.Do(func() {
		if s.many != nil {
			s.many.gate.shut(store.ErrClosed)
			if t := s.many.table.Load(); t != nil {
				for _, n := range t.nodes {
					n.gate.shut(store.ErrClosed)
				}
			}
			s.cancel()
			<-s.many.stopped
		} else {
			s.one.stop(store.ErrClosed)
			s.cancel()
		}
		s.events.end()
	})
	<-s.events.over
	return nil
}
