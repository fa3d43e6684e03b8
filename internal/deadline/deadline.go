// Package deadline has a context with a deadline that costs one small allocation, as long as nobody waits for its end by
// Done: who has other means, such as a timer that is used again, looks at Of.
package deadline

import (
	"context"
	"sync"
	"time"
)

// A Context ends as one of context.WithTimeoutCause does. It makes such a one when it is asked for Done, or is over.
type Context struct {
	parent context.Context
	at     time.Time
	cause  error

	mu       sync.Mutex
	real     context.Context    // nil until it is needed; guarded by mu
	cancel   context.CancelFunc // of real; guarded by mu
	canceled bool               // guarded by mu
}

// New returns a context that ends when parent does, or with cause after a while. Cancel frees what it holds.
func New(parent context.Context, timeout time.Duration, cause error) *Context {
	return &Context{parent: parent, at: time.Now().Add(timeout), cause: cause}
}

// Of splits a context: it ends when the one returned does, or at a time; zero if there is none to look at.
func Of(ctx context.Context) (context.Context, time.Time) {
	if c, ok := ctx.(*Context); ok {
		return c.parent, c.at
	}
	return ctx, time.Time{}
}

// Cancel ends the context.
func (c *Context) Cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.canceled = true
	if c.cancel != nil {
		c.cancel()
	}
}

// Deadline implements context.Context.
func (c *Context) Deadline() (time.Time, bool) {
	if at, ok := c.parent.Deadline(); ok && at.Before(c.at) {
		return at, true
	}
	return c.at, true
}

// Done implements context.Context.
func (c *Context) Done() <-chan struct{} { return c.materialize().Done() }

// Err implements context.Context.
func (c *Context) Err() error {
	if in := c.inner(); in != c.parent || time.Now().Before(c.at) {
		return in.Err()
	}
	return c.materialize().Err()
}

// Value implements context.Context. By a value of its own, package context finds the cause.
func (c *Context) Value(key any) any { return c.inner().Value(key) }

// inner is the context that counts now.
func (c *Context) inner() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil && !c.canceled {
		return c.parent
	}
	return c.materializeLocked()
}

func (c *Context) materialize() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.materializeLocked()
}

func (c *Context) materializeLocked() context.Context {
	switch {
	case c.real != nil:
	case c.canceled:
		c.real, c.cancel = context.WithCancel(c.parent)
		c.cancel()
	default:
		c.real, c.cancel = context.WithDeadlineCause(c.parent, c.at, c.cause)
	}
	return c.real
}
