package freshet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/freshetdev/freshet/internal/keys"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// Tag makes the name of a tag: Tag("users", 123) is "users:123". Parts are escaped. An entry
// that depends on "users:123" also depends on "users!", which stands for the whole table.
func Tag(parts ...any) string { return keys.Tag(parts...) }

// TagAll makes the name of the tag that stands for all tags of a table: TagAll("users") is "users!",
// on which every entry depends that depends on any Tag("users", …).
func TagAll(table any) string { return keys.Tag(table) + "!" }

// DropTags makes every entry that depends on one of the tags invalid, on all instances. When it
// returns nil, the store has acknowledged the drop: no load that began before is ever served as
// fresh from the store, and no L1 serves an older value longer than StaleAtMost (usually well
// under a millisecond). An error that matches ErrPending means that the drop took effect
// here and will be delivered; one that matches ErrNotKept, that it will not. [WithPending] chooses between
// these and waiting.
func (c *Client) DropTags(ctx context.Context, tags ...string) error {
	for _, t := range tags {
		if err := keys.ValidTag(t); err != nil {
			return fmt.Errorf("freshet: drop: %w", err)
		}
	}
	_, err := c.drop(ctx, nil, tags)
	return err
}

// DropKeys makes the entries at string keys such as "user:123" invalid, on all instances.
// The promises are those of DropTags.
func (c *Client) DropKeys(ctx context.Context, keys ...string) error {
	_, err := c.drop(ctx, keys, nil)
	return err
}

// Pending says what a drop does that the store doesn't acknowledge at once. Whatever it is, the drop takes effect in this
// instance's memory.
type Pending uint8

// What drops do.
const (
	// PendingReturn: it returns a *PendingError, and is delivered later.
	PendingReturn Pending = iota

	// PendingWait: it waits until it is delivered. If ctx ends before, it returns a *PendingError, and is delivered
	// later all the same. If the outbox is full, it waits for room, too.
	PendingWait

	// PendingFail: it returns a *NotKeptError, and is not delivered later. For those who can undo what they wrote, or
	// repeat the drop by themselves, as a consumer of messages can. The store may have done it and not been able to say so.
	// After the commit of a [Tx] it is as PendingReturn.
	PendingFail
)

type pendingKey struct{}

// WithPending returns a context through which drops (and Set, Clear and [Tx.Commit]) do what p says, instead of
// Options.Pending.
func WithPending(ctx context.Context, p Pending) context.Context {
	return context.WithValue(ctx, pendingKey{}, p)
}

func (c *Client) pendingOf(ctx context.Context) Pending {
	if p, ok := ctx.Value(pendingKey{}).(Pending); ok {
		return p
	}
	return c.opts.Pending
}

// WaitDelivered waits until no drop is pending, or ctx ends. After a drop returned an error that matches
// ErrPending, it tells when the other instances know.
func (c *Client) WaitDelivered(ctx context.Context) error {
	for {
		idle := c.outbox.whenEmpty()
		if idle == nil {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
}

// drop drops keys and tags. late says that it had to wait for the store.
func (c *Client) drop(ctx context.Context, keys, tags []string) (late bool, err error) {
	if len(keys) == 0 && len(tags) == 0 {
		return false, nil
	}
	if c.closed.Load() {
		return false, ErrClosed
	}
	if collected, err := c.collect(ctx, keys, tags); collected {
		return false, err
	}
	return c.dropMany(ctx, ctx, c.pendingOf(ctx), keys, tags)
}

// dropsAtOnce bounds the names in one request to the store, which does nothing else meanwhile.
const dropsAtOnce = 500

// dropMany drops any number of names, so many at once. late says that it had to wait for the store: it waits as long as wait lasts, if how
// says so.
func (c *Client) dropMany(ctx, wait context.Context, how Pending, keys, tags []string) (late bool, err error) {
	asked := c.clock.Exact()
	c.dropLocally(keys, tags)
	for len(keys)+len(tags) > 0 {
		k := keys[:min(len(keys), dropsAtOnce)]
		t := tags[:min(len(tags), dropsAtOnce-len(k))]
		if err := c.sendDrop(ctx, k, t, asked); err != nil {
			return true, c.postpone(wait, how, names{keys, tags}, asked, err) // and don't wait for each of the rest
		}
		keys, tags = keys[len(k):], tags[len(t):]
	}
	return false, nil
}

// postpone does with a drop that could not be delivered, for the reason err, what how says.
func (c *Client) postpone(ctx context.Context, how Pending, n names, asked int64, err error) error {
	if how == PendingFail {
		c.dropLocally(n.keys, n.tags) // what was read while the store was being asked
		return c.notKept(n, err)
	}
	for {
		k := c.keep(n, asked, err)
		if how == PendingReturn {
			if !k.lost.empty() {
				return c.notKept(k.lost, fmt.Errorf("%w: %w", errNoRoom, err))
			}
			return &PendingError{Keys: n.keys, Tags: n.tags, Err: err}
		}
		switch over := c.awaitDelivery(ctx, k); {
		case errors.Is(over, ErrClosed):
			return c.notKept(n, fmt.Errorf("%w: %w", over, err))
		case over != nil && !k.lost.empty():
			return c.notKept(k.lost, fmt.Errorf("%w: %w: %w", over, errNoRoom, err))
		case over != nil:
			return &PendingError{Keys: n.keys, Tags: n.tags, Err: fmt.Errorf("%w: %w", over, err)}
		case k.lost.empty():
			return nil
		}
		// Something was delivered: perhaps the store answers, perhaps there is room. What was read from it
		// meanwhile may be old.
		n = k.lost
		c.dropLocally(n.keys, n.tags)
		if err = c.sendDrop(ctx, n.keys, n.tags, asked); err == nil {
			return nil
		}
	}
}

var errNoRoom = errors.New("no room in the outbox")

// keep leaves a drop to the outbox, as far as that has room.
func (c *Client) keep(n names, asked int64, err error) keeping {
	k := c.outbox.add(n.keys, n.tags, asked)
	c.dropLocally(n.keys, n.tags) // what was read while the store was being asked
	c.outbox.poke()
	if !k.kept.empty() {
		c.stats.dropsPending.Add(1)
		if h := c.hooks.Drop; h != nil {
			h(observe.Drop{Keys: k.kept.keys, Tags: k.kept.tags, By: c.opts.Name, Own: true, Pending: true, Err: err})
		}
	}
	if !k.coarser.empty() {
		c.stats.dropsCoarser.Add(uint64(len(k.coarser.keys) + len(k.coarser.tags)))
		if h := c.hooks.Overflow; h != nil {
			h(observe.Overflow{Keys: k.coarser.keys, Tags: k.coarser.tags, To: k.to})
		}
	}
	return k
}

// notKept counts and tells of what will not be dropped elsewhere.
func (c *Client) notKept(n names, err error) error {
	c.stats.dropsNotKept.Add(uint64(len(n.keys) + len(n.tags)))
	if h := c.hooks.Overflow; h != nil {
		h(observe.Overflow{Keys: n.keys, Tags: n.tags})
	}
	return &NotKeptError{Keys: n.keys, Tags: n.tags, Err: err}
}

// retryLost is how often a drop that waits, and for which there is no room, is tried again by itself.
const retryLost = 500 * time.Millisecond

// awaitDelivery waits until what was kept is delivered, and if something was not, until it is worth another try.
func (c *Client) awaitDelivery(ctx context.Context, k keeping) error {
	var retry <-chan time.Time
	if !k.lost.empty() {
		t := time.NewTimer(retryLost)
		defer t.Stop()
		retry = t.C
	}
	for {
		// What was delivered counts, also when ctx is over or the client was closed at the same moment: Close delivers.
		changed := c.outbox.changes(k.kept)
		switch {
		case changed == nil && retry == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case c.ctx.Err() != nil:
			return ErrClosed
		}
		select {
		case <-changed: // for ever if it is nil
		case <-retry:
			retry = nil
		case <-ctx.Done():
		case <-c.ctx.Done():
		}
	}
}

func (c *Client) dropLocally(keys, tags []string) {
	if len(tags) > 0 {
		c.mirror.DropLocal(tags)
	}
	c.forget(keys)
}

// sendDrop delivers a drop to the store, one entry in the log of each partition concerned. Before it
// returns nil, the drop has taken effect on what this instance read meanwhile, too.
func (c *Client) sendDrop(ctx context.Context, keys, tags []string, asked int64) error {
	var errs []error
	for _, s := range c.sendDrops(ctx, names{keys, tags}, asked) {
		errs = append(errs, s.err)
	}
	return errors.Join(errs...)
}

// A sent is what became of a drop in one partition.
type sent struct {
	part int
	drop *store.Drop
	e    store.LogEntry
	err  error
}

func (c *Client) sendDrops(ctx context.Context, n names, asked int64) []*sent {
	parts := make(map[int]*store.Drop)
	part := func(name string) *store.Drop {
		p := c.mirror.Partition(name)
		if parts[p] == nil {
			parts[p] = &store.Drop{By: c.opts.Name}
		}
		return parts[p]
	}
	for _, k := range n.keys {
		d := part(k)
		d.Keys = append(d.Keys, k)
	}
	for _, t := range n.tags {
		d := part(t)
		d.Tags = append(d.Tags, t)
	}
	var all []*sent
	for p, d := range parts {
		all = append(all, &sent{part: p, drop: d})
	}
	send := func(d *sent) { d.e, d.err = c.store.Drop(ctx, d.part, *d.drop, c.mirror.Furthest(d.part)) }
	if len(all) == 1 {
		send(all[0])
	} else {
		var wg sync.WaitGroup
		for _, d := range all {
			wg.Go(func() { send(d) })
		}
		wg.Wait()
	}
	for _, d := range all {
		if d.err != nil {
			if errors.Is(d.err, store.ErrNoLog) || errors.Is(d.err, store.ErrBehind) {
				c.mirror.Poke() // it starts a new epoch, and the drop is repeated in it
			}
			continue
		}
		c.mirror.NoteOwn(d.part, d.e)
		c.forget(d.drop.Keys) // what was read before the store deleted them
		c.outbox.settle(d.drop.Keys, d.drop.Tags, asked)
		c.stats.drops.Add(1)
	}
	return all
}

// forget drops string keys from this instance: L1, loads and reads in progress. Those who
// wait for another instance's load are woken.
func (c *Client) forget(keys []string) {
	if len(keys) == 0 {
		return
	}
	for _, cache := range c.cacheList() {
		for _, k := range keys {
			if cache.owns(k) {
				cache.forget(k)
			}
		}
	}
}

// Drop makes the entries of keys invalid, on all instances. The promises are those of
// [Client.DropTags].
func (c *Cache[K, V]) Drop(ctx context.Context, ks ...K) error {
	names := make([]string, len(ks))
	for i, k := range ks {
		names[i] = c.name(k)
	}
	_, err := c.client.drop(ctx, names, nil)
	return err
}

// Clear makes all entries of the cache invalid, on all instances, in one step however many
// there are. The promises are those of [Client.DropTags].
func (c *Cache[K, V]) Clear(ctx context.Context) error {
	if c.cfg.Plain {
		return fmt.Errorf("freshet: clear %q: %w", c.cfg.Name, ErrPlain)
	}
	_, err := c.client.drop(ctx, nil, []string{c.coarse})
	return err
}
