package freshet

import (
	"context"
	"errors"
	"fmt"

	"github.com/freshetdev/freshet/observe"
)

// Which loads ask the source, and which are turned away.

// An admission is a load's right to ask the source.
type admission struct {
	turn   *turn
	round  uint64 // of the breaker
	judged bool
}

// enter waits for a place among the loads under way, unless the source isn't to be asked at all. Without an
// error, leave must follow, and judge should as soon as the load has ended.
func (c *Cache[K, V]) enter(ctx context.Context, t *turn, name string, refresh bool) (admission, error) {
	if err := c.down(name, refresh); err != nil {
		return admission{}, err
	}
	waited, err := c.loads.enter(ctx, t)
	if waited {
		c.client.stats.loadsQueued.Add(1)
	}
	switch {
	case errors.Is(err, ErrOverloaded):
		return admission{}, c.shed(name, refresh, observe.ReasonOverload, err)
	case err != nil:
		return admission{}, c.loadError(name, err)
	}
	// Once more: others may have failed while this load waited for its turn.
	round, cause, refused := c.source.begin(c.client.clock.Exact())
	if refused {
		c.loads.leave(t)
		return admission{}, c.sourceDown(name, refresh, cause)
	}
	return admission{turn: t, round: round}, nil
}

// enterIdle is enter for a load that nobody needs: it is turned away first, and without a word.
func (c *Cache[K, V]) enterIdle() (admission, observe.Reason) {
	if c.source.open() { // nor is it to be the one that tries whether the source is back: others would be refused meanwhile
		return admission{}, observe.ReasonSourceDown
	}
	t := new(turn)
	if !c.loads.enterIdle(t) {
		return admission{}, observe.ReasonOverload
	}
	round, _, refused := c.source.begin(c.client.clock.Exact())
	if refused {
		c.loads.leave(t)
		return admission{}, observe.ReasonSourceDown
	}
	return admission{turn: t, round: round}, observe.ReasonNone
}

// judge tells the breaker how a load ended, before anybody else learns of it: who asks again at once, since it
// failed, must find the breaker open.
func (c *Cache[K, V]) judge(ctx context.Context, a *admission, err error) {
	if c.source.after == 0 {
		return
	}
	v := c.verdict(ctx, err)
	a.judged = true
	c.ended(a, v, err)
}

func (c *Cache[K, V]) leave(a *admission) {
	defer c.loads.leave(a.turn)
	if !a.judged { // a panic on the way
		c.ended(a, sourceUnknown, nil)
	}
}

func (c *Cache[K, V]) ended(a *admission, v verdict, err error) {
	changed, open := c.source.end(c.client.clock.Exact(), a.round, v, unwrapped(err))
	if !changed {
		return
	}
	if open {
		c.client.stats.sourceOpened.Add(1)
	}
	if h := c.client.hooks.Source; h != nil {
		h(observe.Source{Cache: c.cfg.Name, Open: open, Cause: unwrapped(err)})
	}
}

// errLoadTimeout ends the context of a load. A deadline of the caller's says nothing of the source.
var errLoadTimeout = fmt.Errorf("freshet: LoadTimeout is over: %w", context.DeadlineExceeded)

// verdict tells what a load's end says of the source.
func (c *Cache[K, V]) verdict(ctx context.Context, err error) verdict {
	switch {
	case err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotModified):
		return sourceWell
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errLoadTimeout): // nobody waits any more
		return sourceUnknown
	case !c.cfg.Stale.ErrorIs(err):
		return sourceUnknown
	}
	return sourceIll
}

// down is an error while the source isn't to be asked, and costs nothing where there is no breaker.
func (c *Cache[K, V]) down(name string, refresh bool) error {
	if cause, refused := c.source.refuses(c.client.clock.Exact()); refused {
		return c.sourceDown(name, refresh, cause)
	}
	return nil
}

func (c *Cache[K, V]) sourceDown(name string, refresh bool, cause error) error {
	return c.shed(name, refresh, observe.ReasonSourceDown, fmt.Errorf("%w: %w", ErrSourceDown, cause))
}

// shed counts and tells of a load that is not tried.
func (c *Cache[K, V]) shed(name string, refresh bool, reason observe.Reason, err error) error {
	c.client.stats.shed[numberOf(reason)].Add(1)
	if h := c.client.hooks.Shed; h != nil {
		h(observe.Shed{Cache: c.cfg.Name, Key: name, Reason: reason, Refresh: refresh})
	}
	return c.loadError(name, err)
}

// shedReason says why the source was not asked, if it wasn't.
func shedReason(err error) observe.Reason {
	switch {
	case errors.Is(err, ErrOverloaded):
		return observe.ReasonOverload
	case errors.Is(err, ErrSourceDown):
		return observe.ReasonSourceDown
	}
	return observe.ReasonNone
}

// unwrapped returns the loader's own error.
func unwrapped(err error) error {
	if le, ok := errors.AsType[*LoadError](err); ok {
		return le.Err
	}
	return err
}
