package redislimit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/limit"
)

const (
	// The view of a Cluster is looked at so often, and at once when an answer shows that it is old, but not
	// more often than viewPause.
	viewEvery = 5 * time.Second
	viewPause = 50 * time.Millisecond

	// A node that a redirection named, and that serves no slot, is kept linked so long: it is being given one.
	hintTime = 10 * time.Second

	// A call is redirected so often. A slot that is moving answers TRYAGAIN to what touches several keys until all of them
	// have arrived.
	maxHops  = 50
	hopPause = 3 * time.Millisecond
)

// A cluster knows which node serves which slot. Each node has its own link.
type cluster struct {
	s       *Store
	table   atomic.Pointer[slotTable]
	why     atomic.Pointer[error] // why there is no table
	tried   chan struct{}         // closed when it was asked for for the first time
	wake    chan struct{}         // capacity 1: look at the view now
	stopped chan struct{}

	mu    sync.Mutex
	hints map[string]time.Time // addresses that redirections named, and when; guarded by mu
}

// A slotTable doesn't change.
type slotTable struct {
	epoch int64
	nodes map[string]*node
	at    [redisx.Slots]*node
}

func newCluster(s *Store) *cluster {
	c := &cluster{s: s, tried: make(chan struct{}), wake: make(chan struct{}, 1), stopped: make(chan struct{}), hints: map[string]time.Time{}}
	c.why.Store(&errNotYet)
	c.table.Store(&slotTable{})
	return c
}

// look asks for a new view soon. addr is where a redirection led, or empty.
func (c *cluster) look(addr string) {
	if addr != "" && c.table.Load().nodes[addr] == nil {
		c.mu.Lock()
		if len(c.hints) < 64 {
			c.hints[addr] = time.Now()
		}
		c.mu.Unlock()
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// nodeOf is the node that serves a key. While the Cluster is asked for the first time, it waits.
func (c *cluster) nodeOf(ctx context.Context, key string) (*node, error) {
	if err := c.s.await(ctx, c.tried, c.s.ctx); err != nil {
		return nil, err
	}
	slot := redisx.SlotOf(key)
	if n := c.table.Load().at[slot]; n != nil {
		return n, nil
	}
	c.look("")
	if why := c.why.Load(); why != nil {
		return nil, c.s.unavailable(*why)
	}
	return nil, c.s.unavailable(fmt.Errorf("no node serves slot %d", slot))
}

// run follows the Cluster until the store is closed.
func (c *cluster) run() {
	defer close(c.stopped)
	var gone sync.WaitGroup
	ended := sync.OnceFunc(func() { close(c.tried) })
	for c.s.ctx.Err() == nil {
		v, err := c.ask()
		wait := viewEvery
		if err == nil {
			c.apply(v, &gone)
			c.why.Store(nil)
		} else {
			wait = lastPause
			err = fmt.Errorf("redislimit: %w", err)
			c.why.Store(&err)
		}
		ended()
		select {
		case <-time.After(wait):
		case <-c.wake:
		case <-c.s.ctx.Done():
		}
		select {
		case <-time.After(viewPause):
		case <-c.s.ctx.Done():
		}
	}
	for _, n := range c.table.Load().nodes {
		<-n.stopped
	}
	gone.Wait()
}

// firstTries waits for the first view, and for the first try to connect to each of its nodes.
func (c *cluster) firstTries(ctx context.Context) {
	if c.s.await(ctx, c.tried, c.s.ctx) != nil {
		return
	}
	for _, n := range c.table.Load().nodes {
		_ = n.firstTry(ctx)
	}
}

// ask returns the latest of several views.
func (c *cluster) ask() (redisx.View, error) {
	var addrs []string
	c.mu.Lock()
	for a := range c.hints {
		addrs = append(addrs, a)
	}
	c.mu.Unlock()
	others := slices.Clone(c.s.place.Addrs)
	for a := range c.table.Load().nodes {
		others = append(others, a)
	}
	v, err := redisx.LatestView(addrs, others, func(addr string, cmds ...[]string) ([]rueidis.RedisResult, error) {
		return redisx.Ask(c.s.ctx, c.s.place.At(addr), c.s.opts.Name, cmds...)
	})
	if err == nil && v.Served == 0 {
		err = errors.New("no node serves any slot")
	}
	return v, err
}

// apply makes v the table, and starts and stops nodes.
func (c *cluster) apply(v redisx.View, gone *sync.WaitGroup) {
	old := c.table.Load()
	t := &slotTable{epoch: v.Epoch, nodes: map[string]*node{}}
	get := func(addr string) *node {
		n := t.nodes[addr]
		if n == nil {
			if n = old.nodes[addr]; n == nil {
				to := c.s.place.At(addr)
				n = c.s.newNode(addr, func(context.Context) (redisx.Target, error) { return to, nil })
				go n.keepLink()
			}
			t.nodes[addr] = n
		}
		return n
	}
	for i, addr := range v.Addrs {
		if addr != "" {
			t.at[i] = get(addr)
		}
	}
	c.mu.Lock()
	for addr, since := range c.hints {
		switch {
		case t.nodes[addr] != nil || time.Since(since) > hintTime:
			delete(c.hints, addr)
		default:
			get(addr)
		}
	}
	c.mu.Unlock()
	c.table.Store(t)
	for addr, n := range old.nodes {
		if t.nodes[addr] == nil {
			n.cancel()
			gone.Go(func() { <-n.stopped })
		}
	}
}

// send sends one command to where key lives, and follows redirections. make is given whether the script's text must be sent along.
func (s *Store) send(ctx context.Context, key string, make func(b rueidis.Builder, full bool) rueidis.Completed) (rueidis.RedisResult, error) {
	n, err := s.nodeOf(ctx, key)
	if err != nil {
		return rueidis.RedisResult{}, err
	}
	full, asking := false, false
	for hop := 0; ; hop++ {
		res, err := n.do(ctx, func(b rueidis.Builder) rueidis.Completed { return make(b, full) }, asking)
		if err != nil {
			return res, err
		}
		e, ok := rueidis.IsRedisErr(res.Error())
		switch {
		case !ok:
			return res, nil
		case e.IsNoScript() && !full:
			full = true
			continue
		case s.many == nil:
			return res, fmt.Errorf("redislimit: %w", e)
		}
		// Such an answer says that the server did nothing.
		addr, ask, again := redisx.Redirect(res, n.addr)
		if addr == "" && !again || hop == maxHops {
			return res, fmt.Errorf("redislimit: %w", e)
		}
		asking = ask
		if addr != "" {
			s.many.look(addr)
			if n, err = s.many.wait(ctx, addr); err != nil {
				return res, err
			}
		} else if err := sleep(ctx, hopPause); err != nil {
			return res, err
		}
	}
}

// wait returns the node at addr, once there is one that is linked.
func (c *cluster) wait(ctx context.Context, addr string) (*node, error) {
	for range maxHops {
		if n := c.table.Load().nodes[addr]; n != nil && n.live.Load() != nil {
			return n, nil
		}
		if err := sleep(ctx, hopPause); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: redirected to %s, which isn't connected", limit.ErrUnavailable, addr)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
