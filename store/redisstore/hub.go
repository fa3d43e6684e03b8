package redisstore

import (
	"strings"
	"sync"

	"github.com/freshetdev/freshet/store"
)

// A hub hands events to the watchers, one at a time and in order. What an earlier link
// still says after it was declared lost is dropped.
type hub struct {
	prefix string // of the store: stripped
	skip   string // what our own names begin with: not reported

	mu       sync.Mutex // held during the calls, which is what puts them in order
	watchers []*store.Watcher
	cur      *link // nil while down
	down     error // why
	broken   error // why the breaker is open; nil if it isn't
}

func (h *hub) watch(w store.Watcher) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &w
	h.watchers = append(h.watchers, p)
	if w.Link != nil {
		l := store.Link{Err: h.down}
		if h.cur != nil {
			l = store.Link{Up: true, Tracks: h.cur.tracks}
		}
		w.Link(l)
	}
	if h.broken != nil && w.Breaker != nil {
		w.Breaker(true, h.broken)
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for i, q := range h.watchers {
			if q == p {
				h.watchers = append(h.watchers[:i:i], h.watchers[i+1:]...)
				return
			}
		}
	}
}

// raised begins a new generation: from now on l's events count.
func (h *hub) raised(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cur = l
	for _, w := range h.watchers {
		if w.Link != nil {
			w.Link(store.Link{Up: true, Tracks: l.tracks})
		}
	}
}

func (h *hub) lost(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = err
	if h.cur == nil {
		return
	}
	h.cur = nil
	for _, w := range h.watchers {
		if w.Link != nil {
			w.Link(store.Link{Err: err})
		}
	}
}

// breaker tells of a change; repeating a state is harmless.
func (h *hub) breaker(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if (cause != nil) == (h.broken != nil) {
		return
	}
	h.broken = cause
	for _, w := range h.watchers {
		if w.Breaker != nil {
			w.Breaker(cause != nil, cause)
		}
	}
}

func (h *hub) logged(l *link, part int, e store.LogEntry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cur != l {
		return
	}
	for _, w := range h.watchers {
		if w.Logged != nil {
			w.Logged(part, e)
		}
	}
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
	for _, w := range h.watchers {
		if w.Changed != nil {
			w.Changed(keys)
		}
	}
}
