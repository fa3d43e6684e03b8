package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/store"
)

// A witness finds out whether the replicas of a node have what was appended there. WAIT blocks the
// connection it comes on, so it has one of its own. Replicas get writes in order: one that has a
// write of the witness has all that the node did before. So one answer does for many drops:
//
//	A, B: append           C: appends
//	A: INCR, WAIT → both   C: waits for its turn, INCR, WAIT
type witness struct {
	n    *node
	turn chan struct{} // capacity 1: held by who asks

	client rueidis.Client // nil until there is one; held with turn
	at     string         // its address; held with turn

	mu   sync.Mutex
	next *round // whom the next answer is for; guarded by mu
}

type round struct {
	done chan struct{}
	err  error // written before done
}

// confirm returns nil once so many replicas as the options want have all that the node did before the call.
func (w *witness) confirm(ctx context.Context, key string) error {
	w.mu.Lock()
	if w.next == nil {
		w.next = &round{done: make(chan struct{})}
	}
	r := w.next
	w.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return store.ErrTimeout
	case w.turn <- struct{}{}:
	}
	defer func() { <-w.turn }()
	select {
	case <-r.done: // by who had the turn before
		return r.err
	default:
	}
	w.mu.Lock()
	w.next = nil // who comes now may be too late for this answer
	w.mu.Unlock()
	r.err = w.ask(key)
	close(r.done)
	return r.err
}

func (w *witness) ask(key string) error {
	s := w.n.s
	l := w.n.gate.live.Load()
	if l == nil {
		return store.ErrUnavailable
	}
	if w.client != nil && w.at != l.to.Addr {
		w.leave()
	}
	ctx, cancel := context.WithTimeout(w.n.ctx, s.opts.Budget)
	defer cancel()
	if w.client == nil {
		// It outlives the call: its end is that of the node.
		c, err := redisx.Visit(w.n.ctx, l.to, s.opts.Name)
		if err != nil {
			return fmt.Errorf("%w: witness: %w", store.ErrUnavailable, err)
		}
		w.client, w.at = c, l.to.Addr
	}
	want := int64(s.opts.Replicas)
	wait := min(max(s.opts.Budget*3/4, time.Millisecond), redisx.ConnectTime/2) // a silent connection is given up after redisx.ConnectTime
	b := w.client.B()
	res := w.client.DoMulti(ctx, b.Incr().Key(key).Build(),
		b.Arbitrary("WAIT", strconv.FormatInt(want, 10), strconv.FormatInt(wait.Milliseconds(), 10)).Build())
	for i := range res {
		if err := res[i].NonRedisError(); err != nil {
			w.leave()
			return fmt.Errorf("%w: witness: %w", store.ErrTimeout, err)
		}
		if err := res[i].Error(); err != nil {
			w.leave() // it may be a replica by now
			return fmt.Errorf("witness: %w", err)
		}
	}
	if got, err := res[1].AsInt64(); err != nil || got < want {
		return fmt.Errorf("%w: %d of %d replicas have it", store.ErrTimeout, got, want)
	}
	return nil
}

func (w *witness) leave() {
	w.client.Close()
	w.client = nil
}

// stop ends the connection. No call is on its way or comes later: the node's gate is shut.
func (w *witness) stop() {
	w.turn <- struct{}{}
	if w.client != nil {
		w.leave()
	}
	<-w.turn
}
