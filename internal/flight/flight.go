// Package flight merges callers who want the same thing at the same time.
//
// Unlike a plain single flight, every waiter leaves on its own context, the work
// runs on a context of its own that is canceled only when nobody wants its result any more, and
// a flight can be forgotten: who was waiting still gets its result, who comes later starts anew.
package flight

import (
	"context"
	"hash/maphash"
	"sync"
)

// A Group holds the calls under way by key. S is what the owner keeps with a call,
// R its result. The zero Group is ready for use.
type Group[S, R any] struct {
	shards [shards]struct {
		mu sync.Mutex
		m  map[string]*Call[S, R] // guarded by mu
		_  [48]byte
	}
}

const shards = 32

var seed = maphash.MakeSeed()

// A Call is one piece of work and who waits for it.
type Call[S, R any] struct {
	Key   string
	State S // the owner's; it sees to its own locking

	result R // written before ended is set, read only after

	mu      sync.Mutex
	ended   bool          // guarded by mu
	done    chan struct{} // closed when it ended; nil until somebody waits; guarded by mu
	wanted  int           // waiters; guarded by mu
	cancel  func()
	expired bool // nobody wants it: the work was canceled; guarded by mu
}

// Join returns the call of key and counts the caller among its waiters. If there is none, or
// accept refuses it, a new call takes its place and the caller leads: it must see to it that
// Finish is called. accept may be nil; it runs under a lock and must be quick.
//
// A new call's state is prepared by prepare, if that is not nil, before anybody else sees it.
func (g *Group[S, R]) Join(key string, prepare func(*S), accept func(*Call[S, R]) bool) (c *Call[S, R], lead bool) {
	s := &g.shards[maphash.String(seed, key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.m[key]; c != nil && (accept == nil || accept(c)) && c.enter() {
		return c, false
	}
	c = &Call[S, R]{Key: key, wanted: 1}
	if prepare != nil {
		prepare(&c.State)
	}
	if s.m == nil {
		s.m = make(map[string]*Call[S, R])
	}
	s.m[key] = c
	return c, true
}

// Find returns the call of key, if there is one, without joining it.
func (g *Group[S, R]) Find(key string) *Call[S, R] {
	s := &g.shards[maphash.String(seed, key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[key]
}

// With runs f while nobody can find, join or forget the call of key. f must be quick.
func (g *Group[S, R]) With(key string, f func()) {
	s := &g.shards[maphash.String(seed, key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Forget lets later callers of c's key start anew.
func (g *Group[S, R]) Forget(c *Call[S, R]) {
	s := &g.shards[maphash.String(seed, c.Key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m[c.Key] == c {
		delete(s.m, c.Key)
	}
}

// Finish gives the result to everyone who waits, now or later, and ends the call. The first
// result stands.
func (g *Group[S, R]) Finish(c *Call[S, R], r R) {
	s := &g.shards[maphash.String(seed, c.Key)%shards]
	s.mu.Lock()
	if s.m[c.Key] == c {
		delete(s.m, c.Key)
	}
	s.mu.Unlock()
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.result, c.ended = r, true
	if c.done != nil {
		close(c.done)
	}
	cancel := c.cancel
	c.cancel = nil
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// Detach gives the call a cancel function, to be called when nobody wants the result any more.
func (c *Call[S, R]) Detach(cancel func()) {
	c.mu.Lock()
	now := c.wanted == 0
	if now {
		c.expired = true
	} else {
		c.cancel = cancel
	}
	c.mu.Unlock()
	if now {
		cancel()
	}
}

func (c *Call[S, R]) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expired {
		return false
	}
	c.wanted++
	return true
}

// Leave takes one waiter away. The last one cancels the work.
func (c *Call[S, R]) Leave() {
	c.mu.Lock()
	c.wanted--
	var cancel func()
	if c.wanted == 0 {
		cancel, c.expired = c.cancel, true
		c.cancel = nil
	}
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// Done is closed when the call has its result.
func (c *Call[S, R]) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return closed
	}
	if c.done == nil {
		c.done = make(chan struct{})
	}
	return c.done
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Ended reports whether the call has its result.
func (c *Call[S, R]) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// Result returns the result of a call that is done.
func (c *Call[S, R]) Result() R { return c.result }

// Wait waits for the result or the end of ctx; either way the caller has left afterwards.
func (c *Call[S, R]) Wait(ctx context.Context) (R, error) {
	defer c.Leave()
	if c.Ended() {
		return c.result, nil
	}
	select {
	case <-c.Done():
		return c.result, nil
	case <-ctx.Done():
		var none R
		return none, context.Cause(ctx)
	}
}
