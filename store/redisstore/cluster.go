package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/store"
)

const (
	// The view of a Cluster is looked at so often, and at once when an answer shows that
	// it is old, but not more often than viewPause.
	viewEvery = 5 * time.Second
	viewPause = 50 * time.Millisecond

	// A view with a lower epoch than ours is of a node that was cut off, unless it comes so
	// often that the Cluster must be another.
	lowerViews = 20

	// A node that a redirection named, and that serves no slot, is kept linked so long: it
	// is being given one.
	hintTime = 10 * time.Second
)

// A cluster knows which node serves which slot. Each node has its own link and breaker; the store
// is up while all of them are linked.
type cluster struct {
	s     *Store
	gate  gate // refuses while there is no table
	table atomic.Pointer[slotTable]

	wake    chan struct{} // capacity 1: look at the view now
	stopped chan struct{}
	gone    sync.WaitGroup // nodes that are being stopped

	lower int // views in a row with a lower epoch

	mu    sync.Mutex
	hints map[string]time.Time // addresses that redirections named, and when; guarded by mu
}

// A slotTable doesn't change.
type slotTable struct {
	epoch int64
	nodes []*node // by address
	at    [redisx.Slots]*node
}

func (t *slotTable) byAddr(addr string) *node {
	for _, n := range t.nodes {
		if n.addr == addr {
			return n
		}
	}
	return nil
}

// moves reports whether a slot that a node serves is served by another, or by none, at addrs.
func (t *slotTable) moves(addrs []string) bool {
	for i, n := range t.at {
		if n != nil && n.addr != addrs[i] {
			return true
		}
	}
	return false
}

func newCluster(s *Store) *cluster {
	c := &cluster{
		s: s, wake: make(chan struct{}, 1), stopped: make(chan struct{}),
		hints: make(map[string]time.Time),
	}
	c.gate.events = s.events
	return c
}

// look asks for a new view soon. addr is where a redirection led, or empty.
func (c *cluster) look(addr string) {
	if t := c.table.Load(); addr != "" && t != nil && t.byAddr(addr) == nil {
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

// fail ends all links.
func (c *cluster) fail(err error) {
	for _, n := range c.table.Load().nodes {
		if l := n.gate.linked(); l != nil {
			l.Fail(err)
		}
	}
}

// nodeOf returns the node that serves a key.
func (c *cluster) nodeOf(key string) (*node, error) {
	t := c.table.Load()
	if t == nil {
		_, err := c.gate.enter()
		return nil, err
	}
	n := t.at[redisx.SlotOf(key)]
	if n == nil {
		c.look("")
		return nil, fmt.Errorf("%w: no node serves slot %d", store.ErrUnavailable, redisx.SlotOf(key))
	}
	return n, nil
}

// run follows the Cluster until the store is closed.
func (c *cluster) run() {
	defer close(c.stopped)
	for try := 0; c.s.ctx.Err() == nil; try++ {
		v, err := c.ask(patience(try))
		if err == nil {
			err = c.apply(v)
		}
		wait := viewEvery
		if err == nil {
			try = 0
		} else {
			wait = pause(try)
			if c.table.Load() == nil && c.s.ctx.Err() == nil {
				c.gate.lost(fmt.Errorf("redisstore: %w", err))
			}
		}
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
	if t := c.table.Load(); t != nil {
		for _, n := range t.nodes {
			n.stop(store.ErrClosed)
		}
	}
	c.gone.Wait()
}

// ask returns the latest of several views.
func (c *cluster) ask(patience time.Duration) (redisx.View, error) {
	var addrs []string
	c.mu.Lock()
	for a := range c.hints {
		addrs = append(addrs, a)
	}
	c.mu.Unlock()
	others := slices.Clone(c.s.place.Addrs)
	if t := c.table.Load(); t != nil {
		for _, n := range t.nodes {
			others = append(others, n.addr)
		}
	}
	v, err := redisx.LatestView(addrs, others, func(addr string, cmds ...[]string) ([]rueidis.RedisResult, error) {
		return c.send(c.s.ctx, patience, addr, cmds...)
	})
	if err == nil && v.Served == 0 {
		err = fmt.Errorf("cluster: %w", store.ErrUnavailable)
	}
	return v, err
}

// send asks a node, over its link if it is up.
func (c *cluster) send(ctx context.Context, patience time.Duration, addr string, cmds ...[]string) ([]rueidis.RedisResult, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var l *link
	if t := c.table.Load(); t != nil {
		if n := t.byAddr(addr); n != nil {
			l = n.gate.live.Load()
		}
	}
	if l == nil {
		return redisx.Ask(ctx, c.s.place.At(addr), c.s.opts.Name, cmds...)
	}
	multi := make([]rueidis.Completed, len(cmds))
	for i, args := range cmds {
		multi[i] = c.s.build.Arbitrary(args...).Build()
	}
	id := l.Send()
	res := l.client.DoMulti(ctx, multi...)
	for i := range res {
		if err := res[i].NonRedisError(); err != nil {
			return nil, err
		}
	}
	l.Answered(id)
	return res, nil
}

// apply makes v the table, and starts and stops nodes.
func (c *cluster) apply(v redisx.View) error {
	old := c.table.Load()
	if old != nil && v.Epoch < old.epoch {
		if c.lower++; c.lower < lowerViews {
			return nil
		}
	}
	c.lower = 0

	// Told before and after: whoever uses the new table has lost the trust of the old one,
	// and what was read by the old one has it taken away.
	var why error
	if old != nil && old.moves(v.Addrs[:]) {
		why = errMoved
		c.s.events.broke(why)
		if err := c.s.events.flush(c.s.ctx); err != nil {
			return err
		}
	}
	t := &slotTable{epoch: v.Epoch}
	byAddr := make(map[string]*node)
	var fresh []*node
	get := func(addr string) (*node, error) {
		if n := byAddr[addr]; n != nil {
			return n, nil
		}
		var n *node
		if old != nil {
			n = old.byAddr(addr)
		}
		if n == nil {
			to := c.s.place.At(addr)
			var err error
			n, err = c.s.newNode(to, func(context.Context) (redisx.Target, error) { return to, nil })
			if err != nil {
				return nil, err
			}
			n.addr = addr
			fresh = append(fresh, n)
		}
		byAddr[addr] = n
		t.nodes = append(t.nodes, n)
		return n, nil
	}
	same := old != nil
	for i, addr := range v.Addrs {
		if addr == "" {
			same = same && old.at[i] == nil
			continue
		}
		n, err := get(addr)
		if err != nil {
			return err
		}
		t.at[i] = n
		same = same && old.at[i] == n
	}
	c.mu.Lock()
	for addr, since := range c.hints {
		if byAddr[addr] != nil { // it serves slots by now
			delete(c.hints, addr)
			continue
		}
		if _, err := get(addr); err != nil || time.Since(since) > hintTime {
			delete(c.hints, addr)
		}
	}
	c.mu.Unlock()
	if same && len(t.nodes) == len(old.nodes) {
		if old.epoch != t.epoch {
			c.table.Store(t)
		}
		return nil
	}
	slices.SortFunc(t.nodes, func(a, b *node) int { return strings.Compare(a.addr, b.addr) })

	c.table.Store(t)
	c.s.events.expect(t.nodes, why)
	c.s.events.breaker(&c.gate, nil)
	for _, n := range fresh {
		go n.keepLink()
	}
	if old != nil {
		for _, n := range old.nodes {
			if byAddr[n.addr] == nil {
				c.gone.Go(func() { n.stop(fmt.Errorf("%w: %w", store.ErrUnavailable, errMoved)) })
			} else {
				n.checkParts()
			}
		}
	}
	return nil
}

// Within its budget a call is redirected so often. A slot that is moving right now
// answers TRYAGAIN to what touches several keys until all of them have arrived.
const (
	maxHops  = 20
	hopPause = 3 * time.Millisecond
)

// follow repeats those of cmds that were answered with a redirection where that leads.
func (c *call) follow(cmds []rueidis.Completed, res []rueidis.RedisResult) ([]rueidis.RedisResult, error) {
	type hop struct {
		to     *node
		asking bool
	}
	many := c.node.s.many
	for range maxHops {
		var hops map[hop][]int
		tired := false
		for i := range res {
			addr, asking, again := redisx.Redirect(res[i], c.node.addr)
			h := hop{c.node, false}
			switch {
			case again:
				tired = true
			case addr == "":
				continue
			default:
				many.look(addr)
				t := many.table.Load()
				if h = (hop{t.byAddr(addr), asking}); h.to == nil {
					continue // it is being linked: the error stands
				}
			}
			if hops == nil {
				hops = make(map[hop][]int)
			}
			hops[h] = append(hops[h], i)
		}
		if hops == nil {
			return res, nil
		}
		if tired {
			select {
			case <-time.After(hopPause):
			case <-c.ctx.Done():
				return res, nil
			}
		}
		for h, at := range hops {
			var list []rueidis.Completed
			for _, i := range at {
				if h.asking {
					list = append(list, c.node.s.build.Asking().Build())
				}
				list = append(list, cmds[i])
			}
			sub, err := h.to.beginIn(c.caller, c.window)
			if err != nil {
				return nil, err
			}
			more, err := sub.send(list...)
			sub.end()
			if err != nil {
				return nil, err
			}
			for j, i := range at {
				if h.asking {
					j = 2*j + 1
				}
				res[i] = more[j]
			}
		}
	}
	return res, nil
}

// each calls f for every node that serves some of n names, at the same time, with the places of the
// names. Those without a node are left to lost.
func (c *cluster) each(n int, name func(i int) string, f func(n *node, at []int), lost func(i int, err error)) {
	var first *node
	var rest map[*node][]int
	var at []int
	for i := range n {
		to, err := c.nodeOf(name(i))
		switch {
		case err != nil:
			lost(i, err)
		case first == nil || to == first:
			first = to
			at = append(at, i)
		default:
			if rest == nil {
				rest = make(map[*node][]int)
			}
			rest[to] = append(rest[to], i)
		}
	}
	if first == nil {
		return
	}
	var wg sync.WaitGroup
	for to, at := range rest {
		wg.Go(func() { f(to, at) })
	}
	f(first, at)
	wg.Wait()
}

// read is Read: each node is asked for its part of the keys.
func (c *cluster) read(ctx context.Context, keys []string, plain bool) ([]store.Value, error) {
	prefix := c.s.opts.Prefix
	if len(keys) == 1 {
		n, err := c.nodeOf(prefix + keys[0])
		if err != nil {
			return nil, errOr(ctx, err)
		}
		return n.reads.read(ctx, keys, plain)
	}
	vals := make([]store.Value, len(keys))
	var mu sync.Mutex
	var failed error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = cmp.Or(failed, err)
	}
	c.each(len(keys), func(i int) string { return prefix + keys[i] }, func(n *node, at []int) {
		some := make([]string, len(at))
		for j, i := range at {
			some[j] = keys[i]
		}
		got, err := n.reads.read(ctx, some, plain)
		if err != nil {
			fail(err)
			return
		}
		for j, i := range at {
			vals[i] = got[j]
		}
	}, func(_ int, err error) { fail(errOr(ctx, err)) })
	if failed != nil {
		return nil, failed
	}
	return vals, nil
}

// errOr is the error of a context that is over, else err.
func errOr(ctx context.Context, err error) error { return cmp.Or(ctx.Err(), err) }

// probed are the nodes that Head of a partition looks at besides its own: all partitions
// together look at all nodes.
func (c *cluster) probed(part int, own *node) (ns []*node) {
	t := c.table.Load()
	for i := part; i < len(t.nodes); i += len(c.s.parts) {
		if n := t.nodes[i]; n != own {
			ns = append(ns, n)
		}
	}
	return ns
}

// unlink deletes keys and their side leases. One command for each, so that those of a slot
// that is moving can be found where they are.
func (c *cluster) unlink(ctx context.Context, w *window, keys []string) error {
	var names []string
	for _, key := range keys {
		names = append(names, c.s.names(key)...)
	}
	return c.unlinkNames(ctx, w, names)
}

func (c *cluster) unlinkNames(ctx context.Context, w *window, names []string) error {
	errs := make([]error, len(names))
	c.each(len(names), func(i int) string { return names[i] }, func(n *node, at []int) {
		for at := range slices.Chunk(at, perCommand) {
			cmds := make([]rueidis.Completed, len(at))
			for j, i := range at {
				cmds[j] = c.s.build.Unlink().Key(names[i]).Build()
			}
			call, err := n.beginIn(ctx, w)
			var res []rueidis.RedisResult
			if err == nil {
				res, err = call.do(cmds...)
				call.end()
			}
			for j, i := range at {
				if errs[i] = err; err == nil {
					errs[i] = res[j].Error()
				}
			}
		}
	}, func(i int, err error) { errs[i] = errOr(ctx, err) })
	return cmp.Or(errs...)
}

// prove asks for an answer that only a primary gives. All that the node sent before has
// been queued by then.
func (n *node) prove(ctx context.Context, w *window) error {
	c, err := n.beginIn(ctx, w)
	if err != nil {
		return err
	}
	defer c.end()
	res, err := c.send(n.s.build.Role().Build())
	if err != nil {
		return err
	}
	if err := primary(res[0]); err != nil {
		c.link.Fail(err)
		return fmt.Errorf("%w: %s: %w", store.ErrUnavailable, n.addr, err)
	}
	return nil
}
