package redisstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A budget hands out the contexts that end operations. Those that begin within an
// eighth of the span share one context and its timer, so a read allocates neither; each
// gets between seven eighths of the span and the whole.
type budget struct {
	span time.Duration

	cur atomic.Pointer[window]
	mu  sync.Mutex // held to replace cur
}

type window struct {
	ctx    context.Context
	cancel context.CancelFunc // never needed: the timer does it
	opened time.Time
}

// start returns the context of an operation that begins now.
func (b *budget) start() *window {
	now := time.Now()
	if w := b.cur.Load(); w != nil && now.Sub(w.opened) < b.span/8 {
		return w
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.cur.Load(); w != nil && now.Sub(w.opened) < b.span/8 {
		return w
	}
	w := &window{opened: now}
	w.ctx, w.cancel = context.WithDeadline(context.Background(), now.Add(b.span))
	b.cur.Store(w)
	return w
}

// join returns a context that ends with the window and with ctx, whichever is first.
// rueidis may see it: under AlwaysPipelining it ends the wait, not the connection.
func (w *window) join(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Done() == nil {
		return w.ctx, func() {}
	}
	end, _ := w.ctx.Deadline()
	return context.WithDeadline(ctx, end)
}

// left is the time until the window ends.
func (w *window) left() time.Duration {
	end, _ := w.ctx.Deadline()
	return time.Until(end)
}
