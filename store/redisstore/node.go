package redisstore

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/freshetdev/freshet/internal/redisx"
)

// A node is one place at which there is a server: the only one, the primary that the
// sentinels name, or a primary of a Cluster. It has its own link, gate and reads.
type node struct {
	s    *Store
	addr string // in a Cluster

	gate    gate
	reads   reads
	writing chan struct{} // a slot for each call on its way, grouped reads excepted

	// locate says where the next link goes.
	locate func(context.Context) (redisx.Target, error)

	ctx     context.Context // ends when the node is given up
	cancel  context.CancelFunc
	stopped chan struct{} // closed when keepLink has returned

	watching sync.WaitGroup // those who look after a link from elsewhere

	tracking, bare *dialer // with client tracking, and without
	witness        *witness

	redone string // the history of the server on which redo was done; used by keepLink only
}

// newNode makes a node. base is how to greet its servers.
func (s *Store) newNode(base redisx.Target, locate func(context.Context) (redisx.Target, error)) (*node, error) {
	n := &node{s: s, locate: locate, writing: make(chan struct{}, maxWriting), stopped: make(chan struct{})}
	n.ctx, n.cancel = context.WithCancel(s.ctx)
	n.gate.events = s.events
	n.gate.limit = int32(s.opts.BreakAfter)
	n.gate.suspect = make(chan struct{}, 1)
	n.reads.n = n
	n.witness = &witness{n: n, turn: make(chan struct{}, 1)}
	var err error
	if n.tracking, err = s.newDialer(base, true); err != nil {
		return nil, err
	}
	if n.bare, err = s.newDialer(base, false); err != nil {
		n.tracking.client.Close()
		return nil, err
	}
	return n, nil
}

// stop drops the link and waits for keepLink. why is what calls are told from now on.
func (n *node) stop(why error) {
	n.gate.shut(why)
	n.cancel()
	<-n.stopped
	n.watching.Wait()
	n.witness.stop()
	n.tracking.client.Close()
	n.bare.client.Close()
	n.s.events.breaker(&n.gate, nil)
}

// parts are the partitions whose log lies on the node.
func (n *node) parts() []int {
	if n.s.many == nil {
		return []int{0}
	}
	var own []int
	t := n.s.many.table.Load()
	for i, p := range n.s.parts {
		if t.at[redisx.SlotOf(p.log)] == n {
			own = append(own, i)
		}
	}
	return own
}

// checkParts ends the link if it listens to other partitions than lie on the node by now.
func (n *node) checkParts() {
	if l := n.gate.linked(); l != nil && !slices.Equal(l.parts, n.parts()) {
		l.Fail(errMoved)
	}
}

// nodeOf returns the node that serves a key.
func (s *Store) nodeOf(key string) (*node, error) {
	if s.one != nil {
		return s.one, nil
	}
	return s.many.nodeOf(key)
}

// begin lets a call for a key through; see node.begin.
func (s *Store) begin(ctx context.Context, key string) (*call, error) {
	n, err := s.nodeOf(key)
	if err != nil {
		return nil, errOr(ctx, err)
	}
	return n.begin(ctx)
}

func (s *Store) partition(n int) (partition, error) {
	if n < 0 || n >= len(s.parts) {
		return partition{}, fmt.Errorf("partition is %d; want less than %d", n, len(s.parts))
	}
	return s.parts[n], nil
}
