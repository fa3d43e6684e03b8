package freshet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/keys"
	"github.com/freshetdev/freshet/internal/mirror"
)

// maxPending is the default of Options.MaxPending, and bounds what one request of Close delivers.
const maxPending = 10_000

// An outbox keeps the drops that could not be delivered: the latest intent for each key and
// tag. Until one is delivered, this instance neither reads nor fills what it concerns in the shared level.
//
// It has room for so many keys and so many tags. Beyond that
//
//	a key of a cache              becomes the tag of the cache, "user!"
//	a tag                         becomes that of its table, "users!"; there is room for as many of these again
//	a key of a plain cache,
//	or of none, or a long one     is not kept
//	a tag beyond all that         is not kept
//
// Coarser means more misses. That something is not kept is told to the caller, who alone can do something about it.
type outbox struct {
	pending atomic.Int64 // number of intents, so that nobody takes the lock while there are none
	wake    chan struct{}
	limit   int // of the keys, and of the tags
	longest int // key, in bytes
	coarse  func(key string) (tag string, ok bool)

	mu      sync.Mutex
	keys    map[string]asked // guarded by mu
	tags    map[string]asked // guarded by mu
	queue   []intent         // oldest first, with those that were delivered or renewed since; guarded by mu
	idle    chan struct{}    // closed when nothing is pending any more; nil while nothing is; guarded by mu
	settled chan struct{}    // closed when something was delivered; nil while nobody waits for that; guarded by mu
}

// asked is when a drop was asked for, on the client's clock.
type asked struct {
	at    int64 // the last time
	first int64 // of those that were not delivered
}

// An intent is a place in the queue.
type intent struct {
	name string
	tag  bool
	at   int64
}

// Names are keys and tags.
type names struct{ keys, tags []string }

func (n *names) empty() bool { return len(n.keys)+len(n.tags) == 0 }

// A keeping is what became of drops that were to be kept.
type keeping struct {
	kept    names    // they wait, under these names
	coarser names    // of what was asked for, there was no room for these
	to      []string // and these tags took their place
	lost    names    // not kept
}

func newOutbox(limit, longest int, coarse func(string) (string, bool)) *outbox {
	return &outbox{
		wake: make(chan struct{}, 1), limit: limit, longest: longest, coarse: coarse,
		keys: make(map[string]asked), tags: make(map[string]asked),
	}
}

func (o *outbox) empty() bool { return o.pending.Load() == 0 }

func (o *outbox) add(names, tags []string, now int64) (k keeping) {
	o.mu.Lock()
	defer o.mu.Unlock()
	instead := func(tag string) bool {
		if !o.addLocked(intent{tag, true, now}) {
			return false
		}
		if !slices.Contains(k.to, tag) {
			k.to = append(k.to, tag)
			k.kept.tags = append(k.kept.tags, tag)
		}
		return true
	}
	for _, t := range tags {
		tag := keys.Coarse(t)
		switch {
		case o.addLocked(intent{t, true, now}):
			k.kept.tags = append(k.kept.tags, t)
		case tag != "" && instead(tag):
			k.coarser.tags = append(k.coarser.tags, t)
		default:
			k.lost.tags = append(k.lost.tags, t)
		}
	}
	for _, name := range names {
		tag, ok := o.coarse(name)
		switch {
		case o.addLocked(intent{name, false, now}):
			k.kept.keys = append(k.kept.keys, name)
		case ok && instead(tag):
			k.coarser.keys = append(k.coarser.keys, name)
		default:
			k.lost.keys = append(k.lost.keys, name)
		}
	}
	if len(o.queue) > 2*(len(o.keys)+len(o.tags))+64 {
		o.queue = slices.DeleteFunc(o.queue, func(i intent) bool { return !o.pendsLocked(i) })
	}
	o.countLocked()
	return k
}

// addLocked notes an intent unless a later one of its name is there: a delivery settles what is older than it. It
// reports false if there is no room.
func (o *outbox) addLocked(i intent) bool {
	m, room := o.keys, o.limit
	if i.tag {
		m = o.tags
		if keys.Coarse(i.name) == "" {
			room = 2 * o.limit
		}
	}
	a, ok := m[i.name]
	switch {
	case ok && a.at >= i.at:
		return true
	case !ok && (len(m) >= room || !i.tag && len(i.name) > o.longest):
		return false
	case !ok:
		a.first = i.at
	}
	a.at = i.at
	m[i.name] = a
	o.queue = append(o.queue, i)
	return true
}

// pendsLocked reports whether an intent is the latest of its name and not delivered.
func (o *outbox) pendsLocked(i intent) bool {
	a, ok := o.keys[i.name]
	if i.tag {
		a, ok = o.tags[i.name]
	}
	return ok && a.at == i.at
}

// settle removes intents that were delivered, unless they were asked for again since.
func (o *outbox) settle(keys, tags []string, until int64) {
	if o.empty() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	remove := func(m map[string]asked, names []string) {
		for _, n := range names {
			switch a, ok := m[n]; {
			case !ok:
			case a.at <= until:
				delete(m, n)
			case a.first <= until:
				a.first = a.at
				m[n] = a
			}
		}
	}
	remove(o.keys, keys)
	remove(o.tags, tags)
	o.countLocked()
	if o.settled != nil {
		close(o.settled)
		o.settled = nil
	}
}

// changes returns a channel that is closed when something more was delivered; nil if none of the names is pending.
func (o *outbox) changes(n names) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	pends := func(m map[string]asked) func(string) bool {
		return func(name string) bool { _, ok := m[name]; return ok }
	}
	if !slices.ContainsFunc(n.keys, pends(o.keys)) && !slices.ContainsFunc(n.tags, pends(o.tags)) {
		return nil
	}
	if o.settled == nil {
		o.settled = make(chan struct{})
	}
	return o.settled
}

// age is how long the oldest drop has been pending.
func (o *outbox) age(now int64) time.Duration {
	if o.empty() {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	oldest := now
	for _, m := range []map[string]asked{o.keys, o.tags} {
		for _, a := range m {
			oldest = min(oldest, a.first)
		}
	}
	return time.Duration(now - oldest)
}

func (o *outbox) countLocked() {
	n := len(o.keys) + len(o.tags)
	o.pending.Store(int64(n))
	switch {
	case n > 0 && o.idle == nil:
		o.idle = make(chan struct{})
	case n == 0 && o.idle != nil:
		close(o.idle)
		o.idle = nil
	}
}

// whenEmpty returns a channel that is closed once nothing is pending; nil if nothing is.
func (o *outbox) whenEmpty() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.idle == nil {
		return nil
	}
	return o.idle
}

// blocks reports whether a pending drop concerns an entry that was loaded or read at seen.
func (o *outbox) blocks(key string, deps mirror.Deps, seen int64) bool {
	if o.empty() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if a, ok := o.keys[key]; ok && a.at >= seen {
		return true
	}
	for i := range deps {
		for _, c := range deps[i].Cells {
			if a, ok := o.tags[c.Tag()]; ok && a.at >= seen {
				return true
			}
		}
	}
	return false
}

// concerns reports whether a pending drop names the key or one of its tags: the shared level must
// not be used for it.
func (o *outbox) concerns(key string, tags []string) bool {
	if o.empty() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.keys[key]; ok {
		return true
	}
	return slices.ContainsFunc(tags, func(t string) bool { _, ok := o.tags[t]; return ok })
}

// next returns the oldest intents, of those that are wanted, and the time of the latest of them.
func (o *outbox) next(limit int, wanted func(name string) bool) (n names, until int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) > 0 && !o.pendsLocked(o.queue[0]) {
		o.queue = o.queue[1:]
	}
	for _, i := range o.queue {
		if len(n.keys)+len(n.tags) >= limit {
			break
		}
		if !o.pendsLocked(i) || wanted != nil && !wanted(i.name) {
			continue
		}
		until = max(until, i.at)
		if i.tag {
			n.tags = append(n.tags, i.name)
		} else {
			n.keys = append(n.keys, i.name)
		}
	}
	return n, until
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// deliver sends what is pending and gives back what is owed until ctx ends: at once when the link comes up, and with
// growing pauses while it fails.
func (c *Client) deliver(ctx context.Context) {
	const shortest, longest = 20 * time.Millisecond, 500 * time.Millisecond
	pause := shortest
	timer := time.NewTimer(longest)
	defer timer.Stop()
	for {
		some, err := c.deliverPending(ctx, 200)
		if some {
			pause = shortest
		}
		if c.giveBack(ctx) && err == nil {
			pause = longest
		} else {
			pause = min(2*pause, longest)
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-c.outbox.wake:
			pause = shortest
		case <-ctx.Done():
			return
		}
	}
}

// deliverPending sends what is pending, oldest first and so many at once, and reports whether it delivered some. A partition
// that fails holds up no other: its node may be away alone.
func (c *Client) deliverPending(ctx context.Context, limit int) (some bool, err error) {
	failed := make(map[int]error)
	for !c.outbox.empty() {
		n, asked := c.outbox.next(limit, func(name string) bool { return failed[c.mirror.Partition(name)] == nil })
		if n.empty() {
			break
		}
		for _, s := range c.sendDrops(ctx, n, asked) {
			if s.err != nil {
				failed[s.part] = s.err
			} else {
				some = true
			}
		}
	}
	return some, errors.Join(slices.Collect(maps.Values(failed))...)
}
