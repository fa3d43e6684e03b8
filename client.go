package freshet

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/clock"
	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
	"github.com/freshetdev/freshet/store/redisstore"
)

// A Client is one instance's connection to the shared level. Its caches share the store, the
// mirror of the drop log, and the limit of loads. Safe for concurrent use.
type Client struct {
	opts   Options
	store  store.Store
	clock  *clock.Clock
	mirror *mirror.Mirror
	outbox *outbox
	owed   owedLeases
	hooks  observe.Hooks
	loads  *loadGate // of all caches without one of their own
	stats  counters
	misses missLog

	caches atomic.Pointer[[]anyCache] // copied on write, under mu

	txs     atomic.Int64   // open transactions with a context
	scoped  atomic.Int64   // txs, and one if there ever was a token: contexts are to be looked at
	tokens  atomic.Bool    // there was a token
	token   sync.Once      // sets tokens, after scoped
	poked   atomic.Int64   // when a reader with a token had the mirror look at the logs
	again   dropsAgain     // drops of transactions that may have committed
	commits sync.WaitGroup // added to under mu, and not after Close

	mu      sync.Mutex
	closed  atomic.Bool     // written under mu
	tasks   sync.WaitGroup  // background goroutines and loads; added to under mu, and not after Close
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	unwatch func()
}

// anyCache is a Cache of whatever types.
type anyCache interface {
	cacheName() string
	owns(key string) bool
	plain() bool
	forget(key string)
	distrust()
	sweep(now int64)
	refuses(r *store.Record) observe.Reason
	explain(key string, now int64) *L1Explanation
	size() (entries int, weight int64)
	sourceOpen() bool
	verification() Verification
	shut()
}

// Open connects to the shared level at a URL:
//
//	memory:                              in this process, for one instance
//	redis://user:password@host:6379/0    Redis 6.2 or later, or Valkey
//	rediss://host:6380                   likewise over TLS
//	unix:///run/redis.sock?db=0          likewise over a Unix socket
//
//	redis+sentinel://host1:26379,host2:26379/0?master=mymaster    the primary that sentinels name
//	redis+cluster://host1:6379,host2:6379                         a Cluster; some of its nodes are enough
//
// rediss+sentinel: and rediss+cluster: are TLS, too. [redisstore.Open] has their options.
//
// Two clients of one process that are to share a memory store are made with [New], over two connections of
// one memstore.Server.
//
// It fails for a bad URL or bad options, and never because the server is down: it waits a
// short while for it (half a second, or the end of ctx) and then works without it until it
// answers.
func Open(ctx context.Context, storeURL string, o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := openStore(storeURL, o)
	if err != nil {
		return nil, err
	}
	c, err := New(s, o)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	c.mirror.WaitSynced(wait)
	return c, nil
}

func openStore(storeURL string, o Options) (store.Store, error) {
	scheme, rest, ok := strings.Cut(storeURL, ":")
	if !ok {
		return nil, fmt.Errorf("freshet: store url %q: no scheme; want memory:, redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://", redacted(storeURL))
	}
	switch scheme {
	case "memory":
		if strings.Trim(rest, "/") != "" {
			return nil, fmt.Errorf("freshet: store url %q: want memory: alone", redacted(storeURL))
		}
		return memstore.NewServer(memstore.Options{}).Connect(), nil
	case "redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster", "unix":
		return redisstore.Open(storeURL, redisstore.Options{
			Prefix: prefixed(o.Prefix), Budget: o.StoreBudget, Name: o.Name,
		})
	}
	return nil, fmt.Errorf("freshet: store url %q: unknown scheme %q; want memory, redis, rediss or unix, or redis or rediss with +sentinel or +cluster", redacted(storeURL), scheme)
}

func prefixed(p string) string {
	if p == "" || strings.HasSuffix(p, ":") {
		return p
	}
	return p + ":"
}

func redacted(s string) string {
	if u, err := url.Parse(s); err == nil && u.Opaque == "" { // opaque: "user:password@host" without a scheme
		return u.Redacted()
	}
	if i := strings.LastIndex(s, "@"); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

// New makes a client over a store. The client closes it. Options.Prefix is the store's own matter here, and not
// used; so is the budget of an operation: Options.StoreBudget only bounds what Close does.
func New(s store.Store, o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if _, ok := s.(store.Marker); !ok && len(o.Sources) > 0 {
		return nil, fmt.Errorf("freshet: Options.Sources are %q; want none with a %T, which keeps no marks (store.Marker)", o.Sources, s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{
		opts: o, store: s, hooks: o.Hooks, clock: clock.New(o.ExactClock),
		loads: newLoadGate(o.MaxLoads, o.MaxQueued), ctx: ctx, cancel: cancel,
	}
	c.caches.Store(new([]anyCache))
	c.outbox = newOutbox(o.MaxPending, o.MaxKey, c.coarseOf)
	hooks := o.Hooks
	hooks.Epoch = func(e observe.Epoch) {
		c.stats.epochs.Add(1)
		if o.Hooks.Epoch != nil {
			o.Hooks.Epoch(e)
		}
	}
	hooks.Gap = func(g observe.Gap) {
		c.stats.gaps.Add(1)
		if o.Hooks.Gap != nil {
			o.Hooks.Gap(g)
		}
	}
	c.mirror = mirror.New(s, c.clock, mirror.Options{
		StaleAtMost: o.StaleAtMost,
		Probe:       min(max(o.StaleAtMost/10, 10*time.Millisecond), 100*time.Millisecond),
		Timeout:     o.StaleAtMost,
		Name:        o.Name,
		Sources:     o.Sources,
		Keys:        c.forget,
		Reset:       c.distrust,
		Hooks:       hooks,
	})
	w := c.mirror.Watcher()
	link := w.Link
	w.Link = func(l store.Link) {
		link(l)
		c.outbox.poke()
	}
	w.Breaker = func(open bool, cause error) {
		if open {
			c.stats.breakerOpened.Add(1)
		} else {
			c.outbox.poke()
		}
		if h := o.Hooks.Breaker; h != nil {
			h(observe.Breaker{Open: open, Cause: cause})
		}
	}
	c.unwatch = s.Watch(w)
	c.background(func() { c.mirror.Run(ctx) })
	c.background(func() { c.deliver(ctx) })
	c.background(func() { c.janitor(ctx) })
	return c, nil
}

// background runs f in a goroutine that Close waits for. It reports false after Close.
func (c *Client) background(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return false
	}
	c.tasks.Go(f)
	return true
}

// Close ends everything the client started and closes the store: loads under way are
// canceled, and pending drops that can't be delivered at once are given up, which the error tells. It waits for
// a [Tx.Commit] that is under way; later ones are refused before they ask the database.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed.Swap(true) {
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	c.commits.Wait()
	var pending error
	if !c.outbox.empty() {
		ctx, cancel := context.WithTimeout(context.Background(), c.opts.StoreBudget)
		if _, err := c.deliverPending(ctx, maxPending); err != nil {
			n, _ := c.outbox.next(math.MaxInt, nil)
			pending = &PendingError{Keys: n.keys, Tags: n.tags, Err: err}
		}
		cancel()
	}
	c.cancel()
	c.unwatch()
	c.tasks.Wait() // the loads that were canceled give their leases back
	last, cancel := context.WithTimeout(context.Background(), c.opts.StoreBudget)
	c.giveBack(last)
	cancel()
	err := c.store.Close()
	for _, cache := range c.cacheList() {
		cache.shut()
	}
	if pending != nil {
		return pending
	}
	return err
}

func (c *Client) cacheList() []anyCache { return *c.caches.Load() }

func (c *Client) register(cache anyCache) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return ErrClosed
	}
	list := c.cacheList()
	for _, other := range list {
		if other.cacheName() == cache.cacheName() {
			return fmt.Errorf("freshet: cache %q exists already on this client", cache.cacheName())
		}
	}
	list = append(list[:len(list):len(list)], cache)
	c.caches.Store(&list)
	return nil
}

// distrust makes everything in L1 be read again before it is served.
func (c *Client) distrust() {
	for _, cache := range c.cacheList() {
		cache.distrust()
	}
}

// coarseOf returns the tag that stands for the namespace of a key.
func (c *Client) coarseOf(key string) (string, bool) {
	for _, cache := range c.cacheList() {
		if cache.owns(key) && !cache.plain() {
			return cache.cacheName() + "!", true
		}
	}
	return "", false
}

// janitor removes from L1 what has ended, so that it doesn't take memory until its place is needed.
func (c *Client) janitor(ctx context.Context) {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			now := c.clock.Exact()
			for _, cache := range c.cacheList() {
				cache.sweep(now)
			}
		case <-ctx.Done():
			return
		}
	}
}

func defaultName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "host"
	}
	clean := func(r rune) rune {
		if strings.ContainsRune(nameChars, r) {
			return r
		}
		return '_'
	}
	return strings.Map(clean, host) + "-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(mirror.Random()&0xffffff, 16)
}
