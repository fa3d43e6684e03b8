package redisstore

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/freshetdev/freshet/store"
)

// maxEvents bounds the queue of a hub: a watcher that is that far behind is as good as
// blocked, and what it missed is given up rather than kept.
const maxEvents = 1 << 16

// A hub hands events to the watchers, one at a time and in order. They are queued where
// they happen, and told by a goroutine of the hub's own: so a watcher that waits for
// somebody who uses the store holds up other events, but neither the answers
// of the server nor the breaker. What a link still says after it was
// declared lost is left out.
type hub struct {
	prefix string // of the store: stripped
	skip   string // what our own names begin with: not reported

	// calls is held while watchers are called, and never taken with mu held.
	calls sync.Mutex

	mu       sync.Mutex
	watchers []*watcher
	cur      *link // nil while down
	down     error // why
	broken   error // why the breaker is open; nil if it isn't

	queue   []event
	put     uint64        // number of events ever queued
	told    uint64        // and told
	more    chan struct{} // buffered: the queue is not empty
	waiting []chan uint64 // of flush: gets told whenever it has grown
	ended   bool
	over    chan struct{} // closed when the goroutine has returned
}

type watcher struct {
	store.Watcher
	since uint64 // the first event that it hears
}

type event struct {
	tell func(w *store.Watcher)
	keep bool // even if the queue is full
}

func newHub(prefix string) *hub {
	return &hub{
		prefix: prefix,
		skip:   prefix + "{freshet:",
		down:   errNotYet,
		more:   make(chan struct{}, 1),
		over:   make(chan struct{}),
	}
}

// watch registers w, and first tells it how things are.
func (h *hub) watch(sw store.Watcher) (stop func()) {
	h.calls.Lock()
	defer h.calls.Unlock()
	h.mu.Lock()
	w := &watcher{Watcher: sw, since: h.put}
	h.watchers = append(slices.Clip(h.watchers), w)
	link, broken := store.Link{Err: h.down}, h.broken
	if h.cur != nil {
		link = store.Link{Up: true, Tracks: h.cur.tracks}
	}
	h.mu.Unlock()

	if w.Link != nil {
		w.Link(link)
	}
	if w.Breaker != nil && broken != nil {
		w.Breaker(true, broken)
	}
	return func() {
		h.mu.Lock()
		h.watchers = slices.DeleteFunc(slices.Clone(h.watchers), func(q *watcher) bool { return q == w })
		h.mu.Unlock()
		h.calls.Lock() // wait for the call under way
		defer h.calls.Unlock()
	}
}

// run tells events until the hub is ended and all are told.
func (h *hub) run() {
	defer close(h.over)
	for {
		h.calls.Lock()
		h.mu.Lock()
		batch, watchers, n, ended := h.queue, h.watchers, h.told, h.ended
		var ev event
		if len(batch) > 0 {
			ev = batch[0]
			batch[0] = event{}
			h.queue = batch[1:]
		}
		h.mu.Unlock()
		if ev.tell != nil {
			for _, w := range watchers {
				if n >= w.since {
					ev.tell(&w.Watcher)
				}
			}
		}
		h.calls.Unlock()

		if ev.tell == nil {
			if ended {
				return
			}
			<-h.more
			continue
		}
		h.mu.Lock()
		h.told++
		for _, c := range h.waiting {
			select {
			case <-c: // an older number
			default:
			}
			c <- h.told
		}
		h.mu.Unlock()
	}
}

// end lets run return, and waits for that.
func (h *hub) end() {
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	h.ring()
	<-h.over
}

func (h *hub) ring() {
	select {
	case h.more <- struct{}{}:
	default:
	}
}

// flush returns when all events up to now have been told.
func (h *hub) flush(ctx context.Context) error {
	h.mu.Lock()
	until := h.put
	if h.told >= until {
		h.mu.Unlock()
		return nil
	}
	c := make(chan uint64, 1)
	h.waiting = append(h.waiting, c)
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.waiting = slices.DeleteFunc(h.waiting, func(q chan uint64) bool { return q == c })
		h.mu.Unlock()
	}()
	for {
		select {
		case told := <-c:
			if told >= until {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *hub) queueLocked(keep bool, tell func(w *store.Watcher)) {
	if len(h.watchers) == 0 {
		return
	}
	if len(h.queue) >= maxEvents && !keep {
		h.overflowLocked()
	}
	h.queue = append(h.queue, event{tell, keep})
	h.put++
	h.ring()
}

// overflowLocked gives up what was queued, but for the states of link and breaker: any
// key may have changed, and the chain will show that entries were lost.
func (h *hub) overflowLocked() {
	before := len(h.queue)
	h.queue = slices.DeleteFunc(h.queue, func(e event) bool { return !e.keep })
	h.told += uint64(before - len(h.queue))
	h.queue = append(h.queue, event{tell: func(w *store.Watcher) {
		if w.Changed != nil {
			w.Changed(nil)
		}
	}})
	h.put++
}

// raised begins a new generation: from now on l's events count.
func (h *hub) raised(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cur = l
	h.queueLocked(true, func(w *store.Watcher) {
		if w.Link != nil {
			w.Link(store.Link{Up: true, Tracks: l.tracks})
		}
	})
}

func (h *hub) lost(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = err
	if h.cur == nil {
		return
	}
	h.cur = nil
	h.queueLocked(true, func(w *store.Watcher) {
		if w.Link != nil {
			w.Link(store.Link{Err: err})
		}
	})
}

// breaker tells of a change: why it is open, or nil.
func (h *hub) breaker(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if (cause != nil) == (h.broken != nil) {
		return
	}
	h.broken = cause
	h.queueLocked(true, func(w *store.Watcher) {
		if w.Breaker != nil {
			w.Breaker(cause != nil, cause)
		}
	})
}

func (h *hub) logged(l *link, part int, e store.LogEntry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cur != l {
		return
	}
	h.queueLocked(false, func(w *store.Watcher) {
		if w.Logged != nil {
			w.Logged(part, e)
		}
	})
}

// changed takes names as the server pushed them; nil means any.
func (h *hub) changed(l *link, names []string) {
	var keys []string
	if names != nil {
		for _, n := range names {
			key, ours := strings.CutPrefix(n, h.prefix)
			if ours && !strings.HasPrefix(n, h.skip) {
				keys = append(keys, key)
			}
		}
		if len(keys) == 0 {
			return
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cur != l {
		return
	}
	h.queueLocked(false, func(w *store.Watcher) {
		if w.Changed != nil {
			w.Changed(keys)
		}
	})
}
