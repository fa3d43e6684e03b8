package memstore

import (
	"sync"

	"github.com/freshetdev/freshet/store"
)

// An event is one thing that the watchers of a connection are told.
type event struct {
	kind  eventKind
	part  int
	entry store.LogEntry
	keys  []string // evChanged; nil: any
	link  store.Link
	only  *watcher // nil: all who watched when it was queued
}

type eventKind uint8

const (
	evLogged eventKind = iota
	evChanged
	evLink
)

// maxChanged bounds the keys that one call of Changed names.
const maxChanged = 1000

type watcher struct {
	store.Watcher
	since uint64 // events up to this number came before it
}

func (w *watcher) tell(ev *event) {
	switch {
	case ev.kind == evLogged && w.Logged != nil:
		w.Logged(ev.part, ev.entry)
	case ev.kind == evChanged && w.Changed != nil:
		w.Changed(ev.keys)
	case ev.kind == evLink && w.Link != nil:
		w.Link(ev.link)
	}
}

// An outbox hands the events of one connection to its watchers, in order, one at a time.
// Events are added under Server.mu, which gives the order, and handed over under no lock at
// all: a watcher may wait for a mutex whose owner is calling the Store.
//
// Whoever needs the events to have arrived hands them over itself (flush); for
// the others a goroutine does it that ends when the queue is empty (drain).
type outbox struct {
	mu       sync.Mutex
	cond     sync.Cond // mu; handed or calling has changed
	watchers []*watcher
	queue    []event
	queued   uint64 // number of the last event of the queue
	handed   uint64 // number of the last event that all watchers have had
	calling  bool   // somebody is telling event handed+1
	draining bool   // a goroutine of drain lives
}

// add queues ev and reports whether there is anybody to tell.
func (o *outbox) add(ev event) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.watchers) == 0 {
		return false
	}
	// Neighboring changes become one call. The head of the queue may be under way.
	if n := len(o.queue); ev.kind == evChanged && ev.keys != nil && n > 1 {
		if last := &o.queue[n-1]; last.kind == evChanged && last.keys != nil && len(last.keys) < maxChanged {
			last.keys = append(last.keys, ev.keys...)
			return true
		}
	}
	o.queue = append(o.queue, ev)
	o.queued++
	return true
}

// end returns the number of the last event queued so far.
func (o *outbox) end() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queued
}

// flush returns when the watchers have had everything up to event n.
func (o *outbox) flush(n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.handed < n {
		if o.calling {
			o.cond.Wait()
		} else {
			o.nextLocked()
		}
	}
	if len(o.queue) > 0 {
		o.drainLocked()
	}
}

// drain has everything handed over without waiting for it.
func (o *outbox) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drainLocked()
}

func (o *outbox) drainLocked() {
	if o.draining {
		return
	}
	o.draining = true
	go func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		for len(o.queue) > 0 {
			if o.calling {
				o.cond.Wait()
			} else {
				o.nextLocked()
			}
		}
		o.draining = false
	}()
}

// nextLocked hands over the first event of the queue. It releases mu meanwhile.
func (o *outbox) nextLocked() {
	ev := &o.queue[0]
	number := o.handed + 1
	told := make([]*watcher, 0, 4)
	for _, w := range o.watchers {
		if number > w.since && (ev.only == nil || ev.only == w) {
			told = append(told, w)
		}
	}
	call := *ev
	o.calling = true
	o.mu.Unlock()
	for _, w := range told {
		w.tell(&call)
	}
	o.mu.Lock()
	o.calling = false
	o.handed = number
	o.queue[0] = event{}
	o.queue = o.queue[1:]
	if len(o.queue) == 0 {
		o.queue = nil
	}
	o.cond.Broadcast()
}

// watch adds w and queues, as event n, what it is told of the link.
func (o *outbox) watch(sw store.Watcher, link store.Link) (stop func(), n uint64) {
	w := &watcher{Watcher: sw}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.watchers = append(o.watchers, w)
	w.since = o.queued
	o.queue = append(o.queue, event{kind: evLink, link: link, only: w})
	o.queued++
	return func() { o.stop(func(x *watcher) bool { return x == w }) }, o.queued
}

// stop removes the watchers that gone reports and returns after their last call.
func (o *outbox) stop(gone func(*watcher) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var left []*watcher
	for _, w := range o.watchers {
		if !gone(w) {
			left = append(left, w)
		}
	}
	o.watchers = left
	for current := o.handed; o.calling && o.handed == current; {
		o.cond.Wait()
	}
}
