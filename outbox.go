package freshet

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/keys"
	"github.com/freshetdev/freshet/internal/mirror"
)

// maxPending bounds the keys, and the tags, that wait for the store. Beyond it, drops of keys
// become drops of their whole namespace, and drops of tags those of their whole table:
// coarser, never lost.
const maxPending = 10_000

// An outbox keeps the drops that could not be delivered: the latest intent for each key and
// tag. Until one is delivered, this instance neither reads nor fills what it concerns in the shared level.
type outbox struct {
	pending atomic.Int64 // number of intents, so that nobody takes the lock while there are none
	wake    chan struct{}

	mu     sync.Mutex
	keys   map[string]int64 // when the drop was asked for, on the client's clock; guarded by mu
	tags   map[string]int64 // likewise
	queue  []intent         // oldest first, with those that were delivered or renewed since; guarded by mu
	idle   chan struct{}    // closed when nothing is pending any more; nil while nothing is; guarded by mu
	coarse func(key string) (tag string, ok bool)
}

// An intent is a place in the queue.
type intent struct {
	name string
	tag  bool
	at   int64
}

func newOutbox(coarse func(string) (string, bool)) *outbox {
	return &outbox{
		wake: make(chan struct{}, 1), coarse: coarse,
		keys: make(map[string]int64), tags: make(map[string]int64),
	}
}

func (o *outbox) empty() bool { return o.pending.Load() == 0 }

func (o *outbox) add(names, tags []string, now int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range tags {
		if tag := keys.Coarse(t); tag != "" && len(o.tags) >= maxPending && o.tags[t] == 0 {
			t = tag
		}
		o.addLocked(intent{t, true, now})
	}
	for _, k := range names {
		if tag, ok := o.coarse(k); ok && len(o.keys) >= maxPending && o.keys[k] == 0 {
			o.addLocked(intent{tag, true, now})
			continue
		}
		o.addLocked(intent{k, false, now})
	}
	if len(o.queue) > 2*(len(o.keys)+len(o.tags))+64 {
		o.queue = slices.DeleteFunc(o.queue, func(i intent) bool { return !o.pendsLocked(i) })
	}
	o.countLocked()
}

// addLocked notes an intent unless a later one of its name is there: a delivery settles what is older than it.
func (o *outbox) addLocked(i intent) {
	m := o.keys
	if i.tag {
		m = o.tags
	}
	if at, ok := m[i.name]; !ok || at < i.at {
		m[i.name] = i.at
		o.queue = append(o.queue, i)
	}
}

// pendsLocked reports whether an intent is the latest of its name and not delivered.
func (o *outbox) pendsLocked(i intent) bool {
	at, ok := o.keys[i.name]
	if i.tag {
		at, ok = o.tags[i.name]
	}
	return ok && at == i.at
}

// settle removes intents that were delivered, unless they were asked for again since.
func (o *outbox) settle(keys, tags []string, asked int64) {
	if o.empty() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, k := range keys {
		if at, ok := o.keys[k]; ok && at <= asked {
			delete(o.keys, k)
		}
	}
	for _, t := range tags {
		if at, ok := o.tags[t]; ok && at <= asked {
			delete(o.tags, t)
		}
	}
	o.countLocked()
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
	if at, ok := o.keys[key]; ok && at >= seen {
		return true
	}
	for i := range deps {
		for _, c := range deps[i].Cells {
			if at, ok := o.tags[c.Tag()]; ok && at >= seen {
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

// next returns the oldest intents, and the time of the latest of them.
func (o *outbox) next(limit int) (keys, tags []string, asked int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) > 0 && !o.pendsLocked(o.queue[0]) {
		o.queue = o.queue[1:]
	}
	for _, i := range o.queue {
		if len(keys)+len(tags) >= limit {
			break
		}
		if !o.pendsLocked(i) {
			continue
		}
		asked = max(asked, i.at)
		if i.tag {
			tags = append(tags, i.name)
		} else {
			keys = append(keys, i.name)
		}
	}
	return keys, tags, asked
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// deliver sends what is pending, oldest first, until ctx ends: at once when the link comes up, and with
// growing pauses while it fails.
func (c *Client) deliver(ctx context.Context) {
	const shortest, longest = 20 * time.Millisecond, 500 * time.Millisecond
	pause := shortest
	timer := time.NewTimer(longest)
	defer timer.Stop()
	for {
		if !c.outbox.empty() {
			keys, tags, asked := c.outbox.next(200)
			if err := c.sendDrop(ctx, keys, tags, asked); err == nil {
				pause = shortest
				continue
			}
			pause = min(2*pause, longest)
		} else if !c.giveBack(ctx) {
			pause = min(2*pause, longest)
		} else {
			pause = longest
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
