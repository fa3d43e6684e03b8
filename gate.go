package freshet

import (
	"container/list"
	"context"
	"fmt"
	"sync"
)

// A loadGate lets so many loads ask a source at a time. The others wait: in order of arrival, and those that somebody waits
// for before those in the background, which are there to spare others a wait. So that a burst of refreshes doesn't hold up
// who has nothing to be served meanwhile, these never take the last quarter of the places, and when too many
// wait, the last of them is turned away first.
type loadGate struct {
	places int
	room   int // how many may wait

	mu     sync.Mutex
	under  int       // loads under way; guarded by mu
	behind int       // of these, in the background; guarded by mu
	fore   list.List // of *turn, waiting in order; guarded by mu
	back   list.List // likewise, in the background; guarded by mu
}

// A turn is a load's at a gate. The zero turn is that of a load that somebody waits for.
type turn struct {
	back bool          // in the background; guarded by the gate's mu once others know of the turn
	at   *list.Element // its place in a queue; guarded by the gate's mu
	in   bool          // it has a place; guarded by the gate's mu
	shed bool          // turned away; written before told is closed
	told chan struct{} // closed when it is let in or turned away
}

func newLoadGate(places, room int) *loadGate { return &loadGate{places: places, room: max(room, 0)} }

// enter waits for a place, and reports whether it had to. Without an error leave must follow.
func (g *loadGate) enter(ctx context.Context, t *turn) (waited bool, err error) {
	t.told = make(chan struct{})
	g.mu.Lock()
	t.at = g.queueOf(t).PushBack(t)
	g.admitLocked()
	if t.at != nil && g.fore.Len()+g.back.Len() > g.room {
		last := t
		if e := g.back.Back(); e != nil {
			last = e.Value.(*turn)
		}
		g.removeLocked(last)
		last.shed = true
		close(last.told)
	}
	waited = t.at != nil
	g.mu.Unlock()
	select {
	case <-t.told:
	case <-ctx.Done():
		g.mu.Lock()
		queued := t.at != nil
		if queued {
			g.removeLocked(t)
		}
		g.mu.Unlock()
		if !queued && !t.shed {
			g.leave(t) // let in at this moment: the place is not to be lost
		}
		return waited, fmt.Errorf("waiting for one of %d loads under way to end: %w", g.places, context.Cause(ctx))
	}
	if t.shed {
		return waited, fmt.Errorf("%w: %d under way, and %d waiting", ErrOverloaded, g.places, g.room)
	}
	return waited, nil
}

// enterIdle is enter for a load that nobody needs: it never waits, and gets a place only while nobody waits and half of the places are
// free. Reports whether leave must follow.
func (g *loadGate) enterIdle(t *turn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fore.Len()+g.back.Len() > 0 || g.under >= max(g.places/2, 1) {
		return false
	}
	g.under++
	g.behind++
	t.back, t.in = true, true
	return true
}

// leave gives a place back.
func (g *loadGate) leave(t *turn) {
	g.mu.Lock()
	g.under--
	if t.back {
		g.behind--
	}
	t.in = false
	g.admitLocked()
	g.mu.Unlock()
}

// promote is called when somebody begins to wait for what was loaded in the background:
//
//	A: refreshes an entry, and waits behind all that people wait for
//	B: the entry is dropped, or ends; joins A's load, since it has not asked the source yet
//
// B must not wait until nobody else does.
func (g *loadGate) promote(t *turn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !t.back || t.in {
		return
	}
	if t.at != nil {
		g.back.Remove(t.at)
		t.at = g.fore.PushBack(t)
	}
	t.back = false
	g.admitLocked()
}

func (g *loadGate) admitLocked() {
	for g.under < g.places {
		q := &g.fore
		if q.Len() == 0 {
			q = &g.back
			if q.Len() == 0 || g.behind >= max(g.places-g.places/4, 1) {
				return
			}
		}
		t := q.Front().Value.(*turn)
		g.removeLocked(t)
		g.under++
		if t.back {
			g.behind++
		}
		t.in = true
		close(t.told)
	}
}

func (g *loadGate) removeLocked(t *turn) {
	g.queueOf(t).Remove(t.at)
	t.at = nil
}

func (g *loadGate) queueOf(t *turn) *list.List {
	if t.back {
		return &g.back
	}
	return &g.fore
}
