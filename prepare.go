package freshet

import (
	"context"
	"errors"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/store"
)

// A preparation is what a load will depend on.
type preparation struct {
	mirror.Preparation
	client *Client // nil: the key is plain and depends on nothing
	err    error   // why some stamps aren't known
	mute   bool    // the store is not to be asked for stamps, as nothing will be stored
}

// begin collects what the entry of k will depend on, as far as that is known before it is loaded.
func (c *Cache[K, V]) begin(k K, more ...string) preparation {
	if c.cfg.Plain {
		return preparation{}
	}
	tags := withCoarse(c.tagsOf(k), more)
	p := c.prepare(tags)
	p.mute = len(tags) > c.cfg.MaxTags
	return p
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

// register asks the store for the stamps that aren't known.
func (p *preparation) register(ctx context.Context) {
	if p.err != nil && !p.mute {
		p.learned(ctx, p.Register(ctx))
	}
}

// claim asks for leases and, on the same way, for the stamps that aren't known.
func (p *preparation) claim(ctx context.Context, s store.Store, reqs ...store.ClaimRequest) []store.Claim {
	if p.err == nil || p.mute {
		return s.Claim(ctx, reqs)
	}
	claims := s.Claim(ctx, reqs, p.Registrations()...)
	p.learned(ctx, p.Learn())
	return claims
}

func (p *preparation) learned(ctx context.Context, err error) {
	if p.err = err; err != nil && ctx.Err() == nil {
		p.client.storeFailed("register", err)
	}
}

// done records the read position. With an error, what is loaded must not be stored.
func (p *preparation) done() (mirror.Deps, error) {
	if p.client == nil {
		return nil, nil
	}
	return p.Done(p.err)
}
