package freshet

import (
	"context"
	"errors"
	"time"

	"github.com/freshetdev/freshet/store"
)

// CatchUp returns when this instance knows of every drop that the store had acknowledged when CatchUp was called: what it
// answers afterwards is no older. It is for those who are told, by another way than the cache, that another instance has
// dropped something, and for tests; everybody else has StaleAtMost. It waits through outages: its error is that of ctx,
// or ErrClosed.
func (c *Client) CatchUp(ctx context.Context) error {
	for part := range c.store.Partitions() {
		if err := c.catchUp(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) catchUp(ctx context.Context, part int) error {
	var to store.Head
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if c.closed.Load() {
			return ErrClosed
		}
		if to.Epoch == 0 {
			h, err := c.store.Head(ctx, part)
			switch {
			case errors.Is(err, store.ErrNoLog):
				c.mirror.Poke() // it begins one
			case err == nil:
				to = h
			}
		}
		// Of an epoch that began after it, it knows more: everything was distrusted since.
		if here := c.mirror.Head(part); to.Epoch != 0 && (here.Epoch == to.Epoch && here.Pos >= to.Pos || here.Epoch != to.Epoch && here.Began() > to.Pos) {
			return nil
		} else if to.Epoch != 0 {
			c.mirror.Poke()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}
