package redisstore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/freshetdev/freshet/store"
)

// A gate lets operations through to the link, or refuses them at once.
//
//	state     event                    next
//	down      link made                open
//	open      limit failures in a row  tripped
//	open      link lost                down
//	tripped   probe answered           open
//	tripped   link lost                down
//	any       Close, node given up     shut
//
// Watchers hear of down and tripped as an open breaker.
type gate struct {
	events  *hub
	limit   int32
	suspect chan struct{} // asks the background goroutine to probe

	live  atomic.Pointer[link] // what operations use; nil refuses them
	fails atomic.Int32         // in a row

	// mu also covers the queueing of events, so that they are in the order of the changes.
	mu     sync.Mutex
	link   *link // live or tripped
	cause  error // of the refusal; nil while open
	isShut bool
	why    error // of the refusal since it is shut
}

var errNotYet = errors.New("not connected yet")

// enter returns the link to use.
func (g *gate) enter() (*link, error) {
	if l := g.live.Load(); l != nil {
		if l.Behind() > maxBehind {
			g.look()
			return nil, fmt.Errorf("%w: %d calls unanswered", store.ErrUnavailable, l.Behind())
		}
		return l, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.live.Load(); l != nil { // it was raised just now
		return l, nil
	}
	switch {
	case g.isShut:
		return nil, g.why
	case g.cause != nil:
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, g.cause)
	}
	return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, errNotYet)
}

// closed reports whether the store was closed.
func (g *gate) closed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.isShut && errors.Is(g.why, store.ErrClosed)
}

// linked returns the link, be it used or tripped.
func (g *gate) linked() *link {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.link
}

// raised is called when l was made.
func (g *gate) raised(l *link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isShut {
		return
	}
	g.link, g.cause = l, nil
	g.fails.Store(0)
	g.events.listen(l) // before the first read
	g.events.raised()  // likewise: who reads by it hears of the link, before or after
	g.live.Store(l)
	g.events.breaker(g, nil)
}

// lost is called when a link ended or couldn't be made.
func (g *gate) lost(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live.Store(nil)
	l := g.link
	g.link = nil
	g.cause = err
	g.events.lost(g, l, err)
	if !g.isShut {
		g.events.breaker(g, err)
	}
}

func (g *gate) shut(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isShut, g.why = true, why
	g.live.Store(nil)
}

// answered is called for every answer.
func (g *gate) answered() {
	if g.fails.Load() != 0 {
		g.fails.Store(0)
	}
}

// failed counts a timeout or a broken connection.
func (g *gate) failed(l *link, err error) {
	if g.fails.Add(1) >= g.limit {
		g.trip(l, err)
	}
}

func (g *gate) trip(l *link, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.live.Load() != l {
		return
	}
	g.live.Store(nil)
	g.cause = err
	g.events.breaker(g, err)
	g.look()
}

// look asks for a probe.
func (g *gate) look() {
	select {
	case g.suspect <- struct{}{}:
	default:
	}
}

// probed is called with the outcome of a probe of l, and reports whether all is well.
func (g *gate) probed(l *link, err error) bool {
	if err != nil {
		g.trip(l, err)
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.link == l && g.live.Load() == nil && !g.isShut {
		g.cause = nil
		g.fails.Store(0)
		g.live.Store(l)
		g.events.breaker(g, nil)
	}
	return true
}
