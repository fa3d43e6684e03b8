package freshet

import (
	"context"
	"errors"
	"runtime/debug"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/store"
)

// A preparation is what a load will depend on.
type preparation struct {
	mirror.Preparation
	client *Client // nil: the key is plain and depends on nothing
	err    error   // why some stamps aren't known
}

// begin collects what the entry of k will depend on, as far as that is known before it is loaded.
func (c *Cache[K, V]) begin(k K, more ...string) preparation {
	if c.cfg.Plain {
		return preparation{}
	}
	return c.prepare(withCoarse(c.tagsOf(k), more))
}

func (c *Cache[K, V]) prepare(tags []string) preparation {
	p := preparation{Preparation: c.client.mirror.Begin(tags), client: c.client}
	if !p.Known() {
		p.err = errUnregistered
	}
	return p
}

// unanswered reports whether a request for stamps failed for want of an answer: who waited for one is not to wait
// for another.
func unanswered(err error) bool {
	return errors.Is(err, store.ErrTimeout) || errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrClosed)
}

var errUnregistered = errors.New("freshet: not all stamps are known")

// register asks the store for the stamps that aren't known. wait returns when that is done.
func (p *preparation) register(ctx context.Context) (wait func()) {
	if p.err == nil {
		return func() {}
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil { // the store may be the user's
				done <- &PanicError{Value: v, Stack: debug.Stack()}
			}
		}()
		done <- p.Register(ctx)
	}()
	return func() {
		if p.err = <-done; p.err != nil && ctx.Err() == nil {
			p.client.storeFailed("register", p.err)
		}
	}
}

// done records the read position. With an error, what is loaded must not be stored.
func (p *preparation) done() (mirror.Deps, error) {
	if p.client == nil {
		return nil, nil
	}
	return p.Done(p.err)
}
