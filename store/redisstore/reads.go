package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/store"
)

const (
	// So many groups are under way at most. Eight was never worse than no grouping,
	// and best from 64 callers up (bench/, "Grouping reads").
	readGroups = 8

	// A group is closed at so many keys, and a larger read is cut into commands of so
	// many: the server serves others between two commands.
	readKeys = 128
)

// reads merges concurrent reads. While fewer than eight groups are under way, a read is
// sent at once, as its own group. Whoever comes when eight are, waits in a queue; a
// group that returns wakes the first of the queue, who takes the others along as
// one MGET. So groups are small when the server is quick and grow by themselves, and
// no timer delays anybody. The groups are led by their callers: there is no
// goroutine in between.
//
//	state    event                         next
//	queued   the baton arrives             leading   it sends the group
//	queued   taken along by a leader       taken
//	taken    the group returns             done
//	taken    the leader leaves early       queued    at the front again
//	queued, taken   budget or ctx ends     gone      others skip it
type reads struct {
	n *node

	mu          sync.Mutex
	groups      int     // guarded by mu: under way, at most readGroups
	first, last *waiter // guarded by mu: the queue; empty while groups < readGroups
}

type waiterState uint32

const (
	queued waiterState = iota
	taken
	leading
	done
	gone
)

// A waiter is one call of Read. It is pooled, unless it left early: then a leader may
// still hold it.
type waiter struct {
	next  *waiter // in the queue; guarded by reads.mu
	names []string
	plain bool
	state atomic.Uint32

	wake chan struct{} // buffered: one wake-up, for leading or done
	vals []store.Value // with err: written before done, read after
	err  error
}

func (w *waiter) move(from, to waiterState) bool {
	return w.state.CompareAndSwap(uint32(from), uint32(to))
}

// leave makes a waiter gone, unless it was woken already.
func (w *waiter) leave() bool {
	for {
		s := waiterState(w.state.Load())
		if s != queued && s != taken {
			return false
		}
		if w.move(s, gone) {
			return true
		}
	}
}

var waiters = sync.Pool{New: func() any { return &waiter{wake: make(chan struct{}, 1)} }}

// Read returns what the keys hold.
func (s *Store) Read(ctx context.Context, keys []string, plain bool) ([]store.Value, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	var vals []store.Value
	var err error
	if s.one != nil {
		vals, err = s.one.reads.read(ctx, keys, plain)
	} else {
		vals, err = s.many.read(ctx, keys, plain)
	}
	if err != nil {
		return nil, fmt.Errorf("redisstore: read: %w", err)
	}
	return vals, nil
}

func (r *reads) read(ctx context.Context, keys []string, plain bool) ([]store.Value, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Refused before it queues: while the server hangs nobody returns.
	if _, err := r.n.gate.enter(); err != nil {
		return nil, err
	}
	w := waiters.Get().(*waiter)
	w.plain = plain
	w.names = w.names[:0]
	for _, k := range keys {
		w.names = append(w.names, r.n.s.opts.Prefix+k)
	}

	win := r.n.s.budget.start()
	r.mu.Lock()
	lead := r.groups < readGroups
	if lead {
		r.groups++
		w.state.Store(uint32(leading))
	} else {
		w.state.Store(uint32(queued))
		r.enqueueLocked(w)
	}
	r.mu.Unlock()

	if !lead {
		select {
		case <-w.wake:
		case <-ctx.Done():
			if w.leave() {
				return nil, ctx.Err()
			}
			<-w.wake
		case <-win.ctx.Done():
			if w.leave() {
				return nil, store.ErrTimeout
			}
			<-w.wake
		}
	}
	if waiterState(w.state.Load()) == leading {
		r.lead(ctx, win, w)
	}
	vals, err := w.vals, w.err
	w.vals, w.err = nil, nil
	waiters.Put(w)
	return vals, err
}

// lead sends w's keys and those of as many of the queue as fit, hands the baton
// on, and wakes the others.
func (r *reads) lead(ctx context.Context, win *window, w *waiter) {
	g := readGroupPool.Get().(*readGroup)
	g.members = append(g.members[:0], w)
	g.names = append(g.names[:0], w.names...)
	g.plain = w.plain
	r.mu.Lock()
	for r.first != nil && len(g.names)+len(r.first.names) <= readKeys {
		if n := r.dequeueLocked(); n.move(queued, taken) {
			g.members = append(g.members, n)
			g.names = append(g.names, n.names...)
			g.plain = g.plain || n.plain
		}
	}
	r.mu.Unlock()

	left, err := r.send(ctx, win, g)
	if left {
		// Only the leader's own time is up. The others are asked for again, by
		// the first of them.
		r.mu.Lock()
		for i := len(g.members) - 1; i > 0; i-- {
			if n := g.members[i]; n.move(taken, queued) {
				r.pushLocked(n)
			}
		}
		r.mu.Unlock()
		w.err = err
	} else {
		at := 0
		for i, m := range g.members {
			vals := g.vals[at : at+len(m.names)]
			err := err
			if err == nil && g.errs != nil {
				err = cmp.Or(g.errs[at : at+len(m.names)]...)
			}
			at += len(m.names)
			if err == nil {
				m.vals = append(make([]store.Value, 0, len(vals)), vals...)
			} else {
				m.err = err
			}
			if i > 0 && m.move(taken, done) {
				m.wake <- struct{}{}
			}
		}
	}
	g.reset()
	readGroupPool.Put(g)
	// Last, so that the next leader is the next goroutine that the scheduler runs.
	r.pass()
}

// pass hands the baton of a group that returned to the first of the queue.
func (r *reads) pass() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.first != nil {
		if w := r.dequeueLocked(); w.move(queued, leading) {
			w.wake <- struct{}{}
			return
		}
	}
	r.groups--
}

func (r *reads) enqueueLocked(w *waiter) {
	w.next = nil
	if r.first == nil {
		r.first = w
	} else {
		r.last.next = w
	}
	r.last = w
}

func (r *reads) pushLocked(w *waiter) {
	if w.next = r.first; w.next == nil {
		r.last = w
	}
	r.first = w
}

func (r *reads) dequeueLocked() *waiter {
	w := r.first
	r.first, w.next = w.next, nil
	return w
}

// A readGroup is what travels together.
type readGroup struct {
	members []*waiter // the leader first
	names   []string  // theirs, in order
	plain   bool      // of any member
	vals    []store.Value
	errs    []error // in a Cluster, of those that failed alone; nil if none did
}

var readGroupPool = sync.Pool{New: func() any { return new(readGroup) }}

// reset lets go of what the pool should not keep alive.
func (g *readGroup) reset() {
	clear(g.members)
	clear(g.names)
	clear(g.vals)
	g.errs = nil
	if cap(g.names) > 4*readKeys {
		*g = readGroup{}
	}
}

// send asks for the group's keys. left means that the leader gave up for itself.
func (r *reads) send(ctx context.Context, win *window, g *readGroup) (left bool, err error) {
	if n := len(g.names); cap(g.vals) < n {
		g.vals = make([]store.Value, n)
	}
	g.vals = g.vals[:len(g.names)]
	clear(g.vals)
	l, err := r.n.gate.enter()
	if err != nil {
		return false, err
	}
	if len(g.members) > 1 && win.left() < r.n.s.opts.Budget/4 {
		// With so little time left the next may as well lead; and if the server hangs,
		// each leader leaves a group in rueidis's ring, so they should be few.
		return true, store.ErrTimeout
	}
	octx, cancel := win.join(ctx)
	defer cancel()
	began := time.Now()
	id := l.Send()
	if r.n.s.many != nil {
		err = r.askEach(octx, ctx, win, l, g)
	} else {
		err = r.ask(octx, l, g)
	}
	if err == nil {
		l.Answered(id)
		r.n.answer(l, nil)
		return false, nil
	}
	if _, ok := rueidis.IsRedisErr(err); ok {
		l.Answered(id)
		r.n.answer(l, err)
		return false, err
	}
	if octx.Err() != nil && time.Since(began) < r.n.s.opts.Budget/2 && ctx.Err() == nil {
		// It had waited in the queue: that proves nothing about the server.
		r.n.gate.look()
		return true, store.ErrTimeout
	}
	left = octx.Err() != nil
	return left, r.n.failure(ctx, l, err)
}

// ask sends the commands of a group and reads the answers into g.vals.
func (r *reads) ask(ctx context.Context, l *link, g *readGroup) error {
	b := r.n.s.build
	if len(g.names) == 1 && !g.plain {
		return readGet(l.client.Do(ctx, b.Get().Key(g.names[0]).Build()), &g.vals[0])
	}
	if len(g.names) <= readKeys && !g.plain {
		return readMget(l.client.Do(ctx, b.Mget().Key(g.names...).Build()), g.vals)
	}

	// Not from the pool: a call given up leaves the slice to rueidis.
	var cmds []rueidis.Completed
	for at := 0; at < len(g.names); at += readKeys {
		part := g.names[at:min(at+readKeys, len(g.names))]
		cmds = append(cmds, b.Mget().Key(part...).Build())
	}
	mgets := len(cmds)
	for _, m := range g.members {
		if m.plain {
			for _, n := range m.names {
				cmds = append(cmds, b.Pttl().Key(n).Build())
			}
		}
	}
	res := l.client.DoMulti(ctx, cmds...)
	for i := range mgets {
		at := i * readKeys
		if err := readMget(res[i], g.vals[at:min(at+readKeys, len(g.vals))]); err != nil {
			return err
		}
	}
	at := 0
	for _, m := range g.members {
		if m.plain {
			for i := range m.names {
				if err := readPttl(res[mgets], &g.vals[at+i]); err != nil {
					return err
				}
				mgets++
			}
		}
		at += len(m.names)
	}
	return nil
}

// askEach is ask in a Cluster, where one command can't read keys of several slots.
func (r *reads) askEach(octx, caller context.Context, win *window, l *link, g *readGroup) error {
	b := r.n.s.build
	cmds := make([]rueidis.Completed, 0, len(g.names))
	for _, name := range g.names {
		cmds = append(cmds, b.Get().Key(name).Build().Pin())
		if g.plain {
			cmds = append(cmds, b.Pttl().Key(name).Build().Pin())
		}
	}
	res := l.client.DoMulti(octx, cmds...)
	for i := range res {
		if err := res[i].NonRedisError(); err != nil {
			return err
		}
	}
	c := &call{node: r.n, window: win, caller: caller, ctx: octx, link: l}
	res, err := c.follow(cmds, res)
	if err != nil {
		return err
	}
	step := len(cmds) / len(g.names)
	for i := range g.names {
		err := readGet(res[i*step], &g.vals[i])
		if err == nil && g.plain {
			err = readPttl(res[i*step+1], &g.vals[i])
		}
		if err != nil {
			if g.errs == nil {
				g.errs = make([]error, len(g.names))
			}
			g.errs[i] = err
			r.n.answer(l, err)
		}
	}
	return nil
}

func readGet(res rueidis.RedisResult, v *store.Value) error {
	m, err := res.ToMessage()
	if err != nil {
		if rueidis.IsRedisNil(err) || wrongType(err) { // MGET says nil for both
			return nil
		}
		return err
	}
	return readImage(&m, v)
}

func readMget(res rueidis.RedisResult, vals []store.Value) error {
	ms, err := res.ToArray()
	if err != nil {
		return err
	}
	if len(ms) != len(vals) {
		return errStrange
	}
	for i := range ms {
		if ms[i].IsNil() {
			continue
		}
		if err := readImage(&ms[i], &vals[i]); err != nil {
			return err
		}
	}
	return nil
}

// readImage takes the bytes without copying: the client made them for this answer alone.
// An empty string is a leased plain key, and no record either: absent.
func readImage(m *rueidis.RedisMessage, v *store.Value) error {
	image, err := m.AsBytes()
	if len(image) > 0 {
		v.Image = image
	}
	return err
}

func readPttl(res rueidis.RedisResult, v *store.Value) error {
	ms, err := res.AsInt64()
	if err != nil {
		return err
	}
	switch {
	case v.Image == nil || ms == -1: // no expiry
	case ms == -2: // it went in between
		v.Image = nil
	default:
		v.TTL = max(time.Duration(ms)*time.Millisecond, time.Millisecond)
	}
	return nil
}
