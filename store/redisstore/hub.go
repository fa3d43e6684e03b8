package redisstore

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/freshetdev/freshet/store"
)

// maxEvents bounds the queue of a hub: a watcher that is that far behind is as good as
// blocked, and what it missed is given up rather than kept.
const maxEvents = 1 << 16

// reasonPause is how long a reason for being down stands before another is told. A restart takes less, and then the loss
// alone is told; reasons that take turns don't fill logs.
const reasonPause = 5 * time.Second

var errMoved = errors.New("redisstore: keys moved to another node")

// A hub hands events to the watchers, one at a time and in order. They are queued where
// they happen, and told by a goroutine of the hub's own: so a watcher that waits for
// somebody who uses the store holds up other events, and the next link, but neither the answers
// of the server nor the breaker. What a link still says after it was
// declared lost is left out.
type hub struct {
	prefix string // of the store: stripped
	skip   string // what our own names begin with: not reported

	// calls is held while watchers are called, and never taken with mu held.
	calls sync.Mutex

	mu       sync.Mutex
	watchers []*watcher
	nodes    []*node         // all must be linked for the store to be up
	links    map[*node]*link // whose events count
	up       bool
	down     error           // why it is not up; nil before the first try to connect has ended
	broken   map[*gate]error // those that refuse, and why
	reasons  map[*gate]reason
	pause    time.Duration // reasonPause, but in tests

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

// A reason is what watchers were last told of a gate that is down.
type reason struct {
	text string
	at   time.Time
}

type event struct {
	tell func(w *store.Watcher)
	keep bool // even if the queue is full
}

func newHub(prefix string) *hub {
	return &hub{
		prefix:  prefix,
		skip:    prefix + "{freshet:",
		links:   make(map[*node]*link),
		broken:  make(map[*gate]error),
		reasons: make(map[*gate]reason),
		pause:   reasonPause,
		more:    make(chan struct{}, 1),
		over:    make(chan struct{}),
	}
}

// watch registers w, and first tells it how things are. Before the first try to connect has ended, that isn't known.
func (h *hub) watch(sw store.Watcher) (stop func()) {
	h.calls.Lock()
	defer h.calls.Unlock()
	h.mu.Lock()
	w := &watcher{Watcher: sw, since: h.put}
	h.watchers = append(slices.Clip(h.watchers), w)
	link := store.Link{Err: h.down}
	if h.up {
		link = h.linkLocked()
	}
	known := h.up || h.down != nil
	var broken error
	for _, broken = range h.broken {
		break
	}
	h.mu.Unlock()

	if w.Link != nil && known {
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

// listen begins a new generation of l's node: from now on l's events count.
func (h *hub) listen(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.links[l.node] = l
}

// raised tells that the store is up, if every node has its link.
func (h *hub) raised() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.raisedLocked()
}

func (h *hub) raisedLocked() {
	if h.up || len(h.nodes) == 0 {
		return
	}
	for _, n := range h.nodes {
		if h.links[n] == nil {
			return
		}
	}
	h.up = true
	link := h.linkLocked()
	h.queueLocked(true, func(w *store.Watcher) {
		if w.Link != nil {
			w.Link(link)
		}
	})
}

// linkLocked describes the links, which are all up, as one.
func (h *hub) linkLocked() store.Link {
	link := store.Link{Up: true, Tracks: true}
	var servers []string
	for _, l := range h.links {
		link.Tracks = link.Tracks && l.tracks
		servers = append(servers, l.server)
	}
	slices.Sort(servers)
	if !slices.Contains(servers, "") {
		link.Server = strings.Join(servers, " ")
	}
	return link
}

// lost tells that l, the link of g, ended, or why there is none if l is nil: that again when it is another reason.
func (h *hub) lost(g *gate, l *link, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = err
	ended := l != nil && h.links[l.node] == l
	if ended {
		delete(h.links, l.node)
	}
	if text := gist(err); ended || h.newsLocked(g, err, text) {
		h.reasons[g] = reason{text, time.Now()}
		h.lostLocked(err)
	}
}

// newsLocked reports whether watchers should hear why g couldn't be linked.
func (h *hub) newsLocked(g *gate, err error, text string) bool {
	if h.up || errors.Is(err, store.ErrClosed) { // up: the node serves no slots yet, or no longer
		return false
	}
	before, told := h.reasons[g]
	return !told || before.text != text && time.Since(before.at) >= h.pause
}

// ownPort is the port of our end, another one with each try.
var ownPort = regexp.MustCompile(`:\d+->`)

// gist is what equal reasons have in common.
func gist(err error) string { return ownPort.ReplaceAllString(err.Error(), "->") }

// lostLocked is told even while the store is down: what was read since over the link
// that ended now is not proven either.
func (h *hub) lostLocked(err error) {
	h.up, h.down = false, err
	h.queueLocked(true, func(w *store.Watcher) {
		if w.Link != nil {
			w.Link(store.Link{Err: err})
		}
	})
}

// expect sets the nodes that make up the store. why, if it isn't nil, is told as the loss of all that
// was known: keys have moved between nodes.
func (h *hub) expect(nodes []*node, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodes = nodes
	for n := range h.links {
		if !slices.Contains(nodes, n) {
			delete(h.links, n)
			why = cmp.Or(why, errMoved)
		}
	}
	if why != nil {
		h.lostLocked(why)
	}
	h.raisedLocked()
}

// broke tells a loss of all that was known, if the store was up.
func (h *hub) broke(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up {
		h.lostLocked(why)
	}
}

// breaker tells of a change: the first node that refuses, or that none does any more.
func (h *hub) breaker(g *gate, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := len(h.broken) > 0
	if cause == nil {
		delete(h.broken, g)
		delete(h.reasons, g)
	} else if h.broken[g] == nil {
		h.broken[g] = cause
	}
	if after := len(h.broken) > 0; after == before {
		return
	}
	h.queueLocked(true, func(w *store.Watcher) {
		if w.Breaker != nil {
			w.Breaker(cause != nil, cause)
		}
	})
}

func (h *hub) logged(l *link, part int, e store.LogEntry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.links[l.node] != l {
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
	if h.links[l.node] != l {
		return
	}
	h.queueLocked(false, func(w *store.Watcher) {
		if w.Changed != nil {
			w.Changed(keys)
		}
	})
}
