// Package redislimit keeps what was used in Redis (6.2 or later, 64 bits) or Valkey, for all instances: on one server, on the primary that
// Sentinels name, or in a Cluster.
//
//	store, err := redislimit.Open("redis://localhost:6379", redislimit.Options{})
//	...
//	l, err := limit.New(store, limit.Options{})
//
// A decision is one script and one round trip, whatever the number of limits. The server's clock counts; only the windows of Fixed come
// from here, and the server picks the one of its own time. The limits of a decision that share a slot are decided
// as one. All numbers are whole, and below 2^53, up to which the numbers of Lua are exact: times in µs are until the
// year 2255, and package limit bounds units and spans far below.
//
// Under the prefix, a key has:
//
//	limit:g:{NAME:KEY}    GCRA: a string, the time in µs at which all units are back
//	limit:s:{NAME:KEY}    Strict: a string, the units used, then pairs of a time and its units, each number 8 bytes
//	limit:f:{NAME:KEY}    Fixed: a string, the window's start and the units used, each 8 bytes
//	limit:c:{NAME:KEY}    Concurrency: a sorted set of leases
//	limit:p:{NAME:KEY}    the record of a penalty: a string, three numbers of 8 bytes
//
// where NAME is the policy's. If KEY has a {hash tag} of its own, the braces around are missing, and its tag counts. The encodings are
// documented in lua/limits.lua. Each of them expires when it says nothing any more; one that was robbed of its expiry is
// given another when it is next asked, and one that can't be read counts as absent.
//
// # What it costs
//
// A single GCRA limit without a penalty has a script of its own, whose answer is one number; several such limits, too. While four such requests are under way,
// further single charges wait for the first of them to come back and then go together in one request, equal charges of one key as one: a
// few times less work for the server and for this process. They stay decisions of their own: each returns by its deadline, and one whose caller left before it was
// sent isn't charged. Not so in a Cluster, where a script has one slot.
//
// Strict reads and writes all pairs of a key with each charge: 16 bytes each, up to 128 of them (2 KB) for limits up to [limit.LogMax],
// and as many more as Settle charged units beyond the limit; 12 above.
//
// # Connections
//
// One pipelined connection to each server that is used, which all calls share: made and remade in the background. Open succeeds though the
// server is down. Calls wait, by their own deadline, for the first try to connect to a server, and fail with [limit.ErrConnecting] if they can't wait
// until it has ended. After it, while there is no connection, they fail at once with [limit.ErrUnavailable]. Nothing is ever sent twice, but for
// answers that prove that nothing was done: a script that the server doesn't know yet, and the redirections of
// a Cluster. So after an error of Take, the units may have been charged, once, or not.
//
// # What is not promised
//
// A failover, a restart without persistence, FLUSHALL and eviction forget what was used, as [limit] says. [Store.Check] finds servers that
// may evict. The commands INCREX and GCRA, which some servers have or plan, are not used.
package redislimit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/limit"
)

// Options tune a Store. The zero value is good.
type Options struct {
	// Prefix is put before every key. It must not contain braces, which would move keys to other slots in a Cluster.
	Prefix string

	// Name is what CLIENT LIST shows for the connection, without spaces. Default "freshet-limit". The URL option "name" sets it too.
	Name string

	// TLS configures rediss:// URLs. Default: the system's roots, the URL's host.
	TLS *tls.Config
}

// A Store is a [limit.Store] on Redis.
type Store struct {
	opts  Options
	place redisx.Place

	scripts *scripts

	one    *node    // the only node; nil in a Cluster
	merger *merger  // nil in a Cluster, whose scripts touch one slot each
	many   *cluster // nil but in a Cluster

	skew  atomic.Int64 // the server's clock less ours, in µs, when it was last told
	args  sync.Map     // *limit.Policy -> *policyArgs
	known atomic.Int64 // entries of args

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	closing sync.Once
}

var _ limit.Store = (*Store)(nil)

// Open returns a store for a URL like
//
//	redis://user:password@host:6379/2
//	rediss://host
//	unix:///run/redis.sock?db=2
//	redis+sentinel://user:password@host1:26379,host2:26379/2?master=NAME
//	redis+cluster://user:password@host1:6379,host2:6379
//
// as redisstore does, which see. It waits half a second at most for the first try to connect, as freshet.Open does, and fails only if the URL or
// the options are wrong, never because the server is down.
func Open(url string, o Options) (*Store, error) {
	s, err := openWith(url, o, ourScripts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, openTime)
	defer cancel()
	if s.one != nil {
		_ = s.one.firstTry(ctx)
	} else {
		s.many.firstTries(ctx)
	}
	return s, nil
}

// openTime is how long Open waits: as long as freshet.Open, which a program calls in the same place.
const openTime = 500 * time.Millisecond

func openWith(url string, o Options, sc *scripts) (*Store, error) {
	p, err := redisx.Parse(url, o.TLS, func(_ redisx.Kind, name, value string) error {
		if name != "name" {
			return redisx.ErrUnknownOption
		}
		if o.Name == "" {
			o.Name = value
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("redislimit: %w", err)
	case strings.ContainsAny(o.Prefix, "{}"):
		return nil, fmt.Errorf("redislimit: Prefix is %q; want no braces", o.Prefix)
	case strings.ContainsAny(o.Name, " \n\r"):
		return nil, fmt.Errorf("redislimit: Name is %q; want no spaces", o.Name)
	}
	if o.Name == "" {
		o.Name = "freshet-limit"
	}
	s := &Store{opts: o, place: p, scripts: sc}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if p.Kind == redisx.Cluster {
		s.many = newCluster(s)
		go s.many.run()
		return s, nil
	}
	locate := func(context.Context) (redisx.Target, error) { return p.Target, nil }
	if p.Kind == redisx.Sentinel {
		locate = func(ctx context.Context) (redisx.Target, error) { return s.place.Primary(ctx, o.Name) }
	}
	s.one, s.merger = s.newNode(p.Addr, locate), newMerger(s)
	go s.one.keepLink()
	return s, nil
}

// Traits says that the store keeps deadlines.
func (s *Store) Traits() limit.Traits { return limit.Traits{KeepsDeadline: true} }

// Close ends the connections, and waits for the store's goroutines. Calls in flight fail with ErrClosed.
func (s *Store) Close() error {
	s.closing.Do(s.cancel)
	if s.many != nil {
		<-s.many.stopped
	} else {
		s.merger.close()
		<-s.one.stopped
	}
	return nil
}

// nodeOf is the node that serves a key.
func (s *Store) nodeOf(ctx context.Context, key string) (*node, error) {
	if s.one != nil {
		return s.one, nil
	}
	return s.many.nodeOf(ctx, key)
}

var errNotYet = errors.New("not connected yet")

// unavailable is the error of a call that wasn't sent.
func (s *Store) unavailable(why error) error {
	if s.ctx.Err() != nil {
		return limit.ErrClosed
	}
	return fmt.Errorf("%w: %w", limit.ErrUnavailable, why)
}
