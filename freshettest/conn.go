package freshettest

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// A conn is a client's connection, with its faults.
type conn struct {
	store.Store // what needs no answer of the server goes through
	mem         *memstore.Store
	client      *freshet.Client
	budget      time.Duration

	mu     sync.Mutex
	slow   time.Duration // guarded by mu
	silent chan struct{} // closed when it is over; nil while the server answers; guarded by mu
	held   []func()      // what watchers will be told then; guarded by mu

	telling sync.Mutex // watchers are told one thing at a time. Not under mu: they may wait for a caller of the store
}

var (
	_ store.Marker   = (*conn)(nil)
	_ store.Outsider = (*conn)(nil)
	_ store.Clocked  = (*conn)(nil)
)

func newConn(mem *memstore.Store, budget time.Duration) *conn {
	return &conn{Store: mem, mem: mem, budget: cmp.Or(budget, 50*time.Millisecond)}
}

func (c *conn) Clock(part int) (now time.Time, off time.Duration, ok bool) { return c.mem.Clock(part) }

func (c *conn) hang() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent == nil {
		c.silent = make(chan struct{})
	}
}

func (c *conn) setSlow(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow = d
}

func (c *conn) restore() {
	c.mu.Lock()
	c.slow = 0
	for len(c.held) > 0 { // what comes meanwhile is held, too, so that the order stays
		tell := c.held[0]
		c.held = c.held[1:]
		c.mu.Unlock()
		c.tell(tell)
		c.mu.Lock()
	}
	if c.silent != nil {
		close(c.silent)
		c.silent = nil
	}
	c.mu.Unlock()
	c.mem.Mend()
}

func (c *conn) tell(f func()) {
	c.telling.Lock()
	defer c.telling.Unlock()
	f()
}

// ask waits as the faults want it, and reports why the server was not asked.
func (c *conn) ask(ctx context.Context, step string) error {
	c.mu.Lock()
	silent, slow := c.silent, c.slow
	c.mu.Unlock()
	if silent == nil && slow <= 0 {
		return nil
	}
	end := time.NewTimer(c.budget)
	defer end.Stop()
	var answer <-chan time.Time
	if silent == nil {
		t := time.NewTimer(slow)
		defer t.Stop()
		if answer = t.C; slow >= c.budget {
			answer = nil
		}
	}
	select {
	case <-silent:
		return nil
	case <-answer:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("freshettest: %s: %w", step, context.Cause(ctx))
	case <-end.C:
		return fmt.Errorf("freshettest: %s: %w", step, store.ErrTimeout)
	}
}

func (c *conn) Read(ctx context.Context, keys []string, plain bool) ([]store.Value, error) {
	if err := c.ask(ctx, "read"); err != nil {
		return nil, err
	}
	return c.mem.Read(ctx, keys, plain)
}

func (c *conn) Claim(ctx context.Context, reqs []store.ClaimRequest, regs ...*store.Registration) []store.Claim {
	if err := c.ask(ctx, "claim"); err != nil {
		for _, r := range regs {
			r.Err = err
		}
		claims := make([]store.Claim, len(reqs))
		for i := range claims {
			claims[i].Err = err
		}
		return claims
	}
	return c.mem.Claim(ctx, reqs, regs...)
}

func (c *conn) Fill(ctx context.Context, reqs []store.FillRequest) []error {
	if err := c.ask(ctx, "fill"); err != nil {
		errs := make([]error, len(reqs))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	return c.mem.Fill(ctx, reqs)
}

func (c *conn) Release(ctx context.Context, lease store.Lease) error {
	if err := c.ask(ctx, "release"); err != nil {
		return err
	}
	return c.mem.Release(ctx, lease)
}

func (c *conn) Write(ctx context.Context, key string, image []byte, ttl time.Duration) error {
	if err := c.ask(ctx, "write"); err != nil {
		return err
	}
	return c.mem.Write(ctx, key, image, ttl)
}

func (c *conn) Drop(ctx context.Context, part int, d store.Drop, known store.Head) (store.LogEntry, error) {
	if err := c.ask(ctx, "drop"); err != nil {
		return store.LogEntry{}, err
	}
	return c.mem.Drop(ctx, part, d, known)
}

func (c *conn) Head(ctx context.Context, part int) (store.Head, error) {
	if err := c.ask(ctx, "head"); err != nil {
		return store.Head{}, err
	}
	return c.mem.Head(ctx, part)
}

func (c *conn) Register(ctx context.Context, part int, tags []string) (store.Head, []store.Pos, error) {
	if err := c.ask(ctx, "register"); err != nil {
		return store.Head{}, nil, err
	}
	return c.mem.Register(ctx, part, tags)
}

func (c *conn) Tail(ctx context.Context, part int, after store.Pos, limit int) ([]store.LogEntry, error) {
	if err := c.ask(ctx, "tail"); err != nil {
		return nil, err
	}
	return c.mem.Tail(ctx, part, after, limit)
}

func (c *conn) NewEpoch(ctx context.Context, part int, seen store.Head, above store.Pos) (store.LogEntry, error) {
	if err := c.ask(ctx, "new epoch"); err != nil {
		return store.LogEntry{}, err
	}
	return c.mem.NewEpoch(ctx, part, seen, above)
}

// Watch holds back what comes while the server is silent.
func (c *conn) Watch(w store.Watcher) (stop func()) {
	stopped := false // guarded by c.telling
	tell := func(f func()) {
		c.mu.Lock()
		silent := c.silent != nil
		if silent {
			c.held = append(c.held, func() {
				if !stopped {
					f()
				}
			})
		}
		c.mu.Unlock()
		if !silent {
			c.tell(f)
		}
	}
	end := c.mem.Watch(store.Watcher{
		Logged: func(part int, e store.LogEntry) {
			tell(func() {
				if w.Logged != nil {
					w.Logged(part, e)
				}
			})
		},
		Changed: func(keys []string) {
			tell(func() {
				if w.Changed != nil {
					w.Changed(keys)
				}
			})
		},
		Link: func(l store.Link) {
			tell(func() {
				if w.Link != nil {
					w.Link(l)
				}
			})
		},
	})
	return func() {
		end()
		c.tell(func() { stopped = true })
	}
}

func (c *conn) Mark(ctx context.Context, part int, source string) (store.Mark, error) {
	if err := c.ask(ctx, "mark"); err != nil {
		return store.Mark{}, err
	}
	return c.mem.Mark(ctx, part, source)
}

func (c *conn) SetMark(ctx context.Context, part int, source string, seen, next store.Mark, has []store.Head) error {
	if err := c.ask(ctx, "set mark"); err != nil {
		return err
	}
	return c.mem.SetMark(ctx, part, source, seen, next, has)
}

// Prefix is the store's own.
func (c *conn) Prefix() string { return c.mem.Prefix() }

func (c *conn) Unlink(ctx context.Context, keys ...string) error {
	if err := c.ask(ctx, "unlink"); err != nil {
		return err
	}
	return c.mem.Unlink(ctx, keys...)
}

func (c *conn) Sweep(ctx context.Context, pattern string) (int, error) {
	if err := c.ask(ctx, "sweep"); err != nil {
		return 0, err
	}
	return c.mem.Sweep(ctx, pattern)
}

func (c *conn) Publish(ctx context.Context, channel, payload string) error {
	if err := c.ask(ctx, "publish"); err != nil {
		return err
	}
	return c.mem.Publish(ctx, channel, payload)
}
