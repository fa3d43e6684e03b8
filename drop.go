package freshet

import (
	"context"
	"errors"
	"fmt"

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
// here and will be delivered.
func (c *Client) DropTags(ctx context.Context, tags ...string) error {
	for _, t := range tags {
		if err := keys.ValidTag(t); err != nil {
			return fmt.Errorf("freshet: drop: %w", err)
		}
	}
	return c.drop(ctx, nil, tags)
}

// DropKeys makes the entries at string keys such as "user:123" invalid, on all instances.
// The promises are those of DropTags.
func (c *Client) DropKeys(ctx context.Context, keys ...string) error {
	return c.drop(ctx, keys, nil)
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

func (c *Client) drop(ctx context.Context, keys, tags []string) error {
	if len(keys) == 0 && len(tags) == 0 {
		return nil
	}
	if c.closed.Load() {
		return ErrClosed
	}
	if c.collect(ctx, keys, tags) {
		return nil
	}
	asked := c.clock.Exact()
	c.dropLocally(keys, tags)
	if err := c.sendDrop(ctx, keys, tags, asked); err != nil {
		return c.postpone(keys, tags, asked, err)
	}
	return nil
}

// postpone leaves a drop that could not be delivered to the outbox.
func (c *Client) postpone(keys, tags []string, asked int64, err error) error {
	c.outbox.add(keys, tags, asked)
	c.dropLocally(keys, tags) // what was read while the store was being asked
	c.outbox.poke()
	c.stats.dropsPending.Add(1)
	if h := c.hooks.Drop; h != nil {
		h(observe.Drop{Keys: keys, Tags: tags, By: c.opts.Name, Own: true, Pending: true, Err: err})
	}
	return &PendingError{Keys: keys, Tags: tags, Err: err}
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
	parts := make(map[int]*store.Drop)
	part := func(name string) *store.Drop {
		p := c.mirror.Partition(name)
		if parts[p] == nil {
			parts[p] = &store.Drop{By: c.opts.Name}
		}
		return parts[p]
	}
	for _, k := range keys {
		d := part(k)
		d.Keys = append(d.Keys, k)
	}
	for _, t := range tags {
		d := part(t)
		d.Tags = append(d.Tags, t)
	}
	var errs []error
	for p, d := range parts {
		e, err := c.store.Drop(ctx, p, *d, c.mirror.Furthest(p))
		if err != nil {
			if errors.Is(err, store.ErrNoLog) || errors.Is(err, store.ErrBehind) {
				c.mirror.Poke() // it starts a new epoch, and the drop is repeated in it
			}
			errs = append(errs, err)
			continue
		}
		c.mirror.NoteOwn(p, e)
		c.forget(d.Keys) // what was read before the store deleted them
		c.outbox.settle(d.Keys, d.Tags, asked)
		c.stats.drops.Add(1)
	}
	return errors.Join(errs...)
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
	return c.client.drop(ctx, names, nil)
}

// Clear makes all entries of the cache invalid, on all instances, in one step however many
// there are. The promises are those of [Client.DropTags].
func (c *Cache[K, V]) Clear(ctx context.Context) error {
	if c.cfg.Plain {
		return fmt.Errorf("freshet: clear %q: %w", c.cfg.Name, ErrPlain)
	}
	return c.client.drop(ctx, nil, []string{c.coarse})
}
