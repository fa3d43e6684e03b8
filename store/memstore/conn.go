package memstore

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/freshetdev/freshet/store"
)

// A Store is one connection to a [Server].
//
// Drop, NewEpoch and Head return after this connection's watchers have had everything up to
// then; they must not be called with a lock that a watcher needs. The
// other methods wait for no watcher.
type Store struct {
	srv *Server
	bit readers
	out outbox

	closed bool // guarded by srv.mu
	cut    bool // guarded by srv.mu; see Cut
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Clocked = (*Store)(nil)
)

// enter locks the server for an operation, unless it can't be done.
func (c *Store) enter(ctx context.Context, step string) error {
	err := ctx.Err()
	if err == nil {
		c.srv.mu.Lock()
		switch {
		case c.closed:
			err = store.ErrClosed
		case c.cut:
			err = store.ErrUnavailable
		default:
			return nil
		}
		c.srv.mu.Unlock()
	}
	return fmt.Errorf("memstore: %s: %w", step, err)
}

// enterLog is enter for an operation on the log of a partition.
func (c *Store) enterLog(ctx context.Context, step string, part int) (*partition, error) {
	if part < 0 || part >= c.Partitions() {
		return nil, c.noPartition(step, part)
	}
	if err := c.enter(ctx, step); err != nil {
		return nil, err
	}
	return &c.srv.parts[part], nil
}

func (c *Store) noPartition(step string, part int) error {
	return fmt.Errorf("memstore: %s: partition is %d; want 0 to %d", step, part, c.Partitions()-1)
}

// Now is the local clock.
func (c *Store) Now() time.Time { return time.Now() }

// Clock implements [store.Clocked]: the local clock, which is right.
func (c *Store) Clock(int) (now time.Time, off time.Duration, ok bool) { return time.Now(), 0, true }

// Read implements [store.Store].
func (c *Store) Read(ctx context.Context, keys []string, plain bool) ([]store.Value, error) {
	if err := c.enter(ctx, "read"); err != nil {
		return nil, err
	}
	s := c.srv
	defer s.unlock()
	now := time.Now()
	values := make([]store.Value, len(keys))
	for i, key := range keys {
		it := s.data.get(key, now, c)
		s.data.track(key, it, c, s.opts.MaxAbsent)
		switch {
		case it == nil:
		case !plain:
			values[i].Image = it.image
		case len(it.image) > 0: // otherwise a placeholder
			values[i] = store.Value{Image: it.image, TTL: it.rest(now)}
		}
	}
	return values, nil
}

// Claim implements [store.Store].
func (c *Store) Claim(ctx context.Context, reqs []store.ClaimRequest, regs ...*store.Registration) []store.Claim {
	claims := make([]store.Claim, len(reqs))
	if err := c.enter(ctx, "claim"); err != nil {
		for i := range claims {
			claims[i].Err = err
		}
		for _, r := range regs {
			r.Err = err
		}
		return claims
	}
	defer c.srv.unlock()
	for _, r := range regs {
		if r.Part < 0 || r.Part >= c.Partitions() {
			r.Err = c.noPartition("register", r.Part)
			continue
		}
		r.Head, r.Stamps, r.Err = c.registerLocked(&c.srv.parts[r.Part], r.Tags)
	}
	now := time.Now()
	for i := range reqs {
		claims[i] = c.srv.claim(&reqs[i], now, c)
	}
	return claims
}

// Fill implements [store.Store].
func (c *Store) Fill(ctx context.Context, reqs []store.FillRequest) []error {
	errs := make([]error, len(reqs))
	images := make([][]byte, len(reqs)) // copied outside the lock
	for i := range reqs {
		images[i] = bytes.Clone(reqs[i].Image)
	}
	if err := c.enter(ctx, "fill"); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	defer c.srv.unlock()
	now := time.Now()
	for i := range reqs {
		r := &reqs[i]
		if err := c.srv.fill(&r.Lease, images[i], r.TTL, now, c); err != nil {
			errs[i] = fmt.Errorf("memstore: fill %q: %w", r.Lease.Key, err)
		}
	}
	return errs
}

// Release implements [store.Store].
func (c *Store) Release(ctx context.Context, lease store.Lease) error {
	if err := c.enter(ctx, "release"); err != nil {
		return err
	}
	defer c.srv.unlock()
	c.srv.release(&lease, time.Now(), c)
	return nil
}

// Write implements [store.Store]. An image that can't be stored deletes the key, since
// what it held is no longer wanted.
func (c *Store) Write(ctx context.Context, key string, image []byte, ttl time.Duration) error {
	image = append([]byte{}, image...)
	if err := c.enter(ctx, "write"); err != nil {
		return err
	}
	s := c.srv
	defer s.unlock()
	now := time.Now()
	if err := s.storable(key, image, ttl); err != nil {
		s.data.del(key, now, c)
		return fmt.Errorf("memstore: write %q: %w", key, err)
	}
	s.data.put(key, image, ttl, now, c, s.opts.MaxBytes)
	return nil
}

// Partitions returns Options.Partitions.
func (c *Store) Partitions() int { return c.srv.opts.Partitions }

// Drop implements [store.Store].
func (c *Store) Drop(ctx context.Context, part int, d store.Drop, known store.Head) (store.LogEntry, error) {
	p, err := c.enterLog(ctx, "drop", part)
	if err != nil {
		return store.LogEntry{}, err
	}
	s := c.srv
	now := time.Now()
	for _, key := range d.Keys {
		s.data.del(key, now, c)
	}
	e, err := p.drop(d, known, now, s.opts.LogLength)
	if err != nil {
		s.unlock()
		return store.LogEntry{}, fmt.Errorf("memstore: drop: %w", err)
	}
	s.loggedLocked(part, e)
	c.unlockTold()
	return e, nil
}

// Head implements [store.Store].
func (c *Store) Head(ctx context.Context, part int) (store.Head, error) {
	p, err := c.enterLog(ctx, "head", part)
	if err != nil {
		return store.Head{}, err
	}
	head := p.head
	c.unlockTold()
	if head.Epoch == 0 {
		return store.Head{}, fmt.Errorf("memstore: head: %w", store.ErrNoLog)
	}
	return head, nil
}

// Register implements [store.Store].
func (c *Store) Register(ctx context.Context, part int, tags []string) (store.Head, []store.Pos, error) {
	p, err := c.enterLog(ctx, "register", part)
	if err != nil {
		return store.Head{}, nil, err
	}
	defer c.srv.unlock()
	return c.registerLocked(p, tags)
}

func (c *Store) registerLocked(p *partition, tags []string) (store.Head, []store.Pos, error) {
	if p.head.Epoch == 0 {
		return store.Head{}, nil, fmt.Errorf("memstore: register: %w", store.ErrNoLog)
	}
	return p.head, p.register(tags, c.srv.opts.MaxStamps), nil
}

// Tail implements [store.Store].
func (c *Store) Tail(ctx context.Context, part int, after store.Pos, limit int) ([]store.LogEntry, error) {
	p, err := c.enterLog(ctx, "tail", part)
	if err != nil {
		return nil, err
	}
	defer c.srv.unlock()
	if p.head.Epoch == 0 {
		return nil, fmt.Errorf("memstore: tail: %w", store.ErrNoLog)
	}
	return p.tail(after, limit), nil
}

// NewEpoch implements [store.Store].
func (c *Store) NewEpoch(ctx context.Context, part int, seen store.Head, above store.Pos) (store.LogEntry, error) {
	p, err := c.enterLog(ctx, "new epoch", part)
	if err != nil {
		return store.LogEntry{}, err
	}
	s := c.srv
	e, err := p.newEpoch(seen, above, time.Now(), s.opts.LogLength)
	if err != nil {
		s.unlock()
		return store.LogEntry{}, fmt.Errorf("memstore: new epoch: %w", err)
	}
	s.loggedLocked(part, e)
	c.unlockTold()
	return e, nil
}

// Watch implements [store.Store]. w.Link is called before it returns.
func (c *Store) Watch(w store.Watcher) (stop func()) {
	c.srv.mu.Lock()
	link := c.linkLocked()
	stop, n := c.out.watch(w, link)
	c.srv.mu.Unlock()
	c.out.flush(n)
	return stop
}

// Close implements [store.Store]. It returns after the last call of a watcher.
func (c *Store) Close() error {
	s := c.srv
	s.mu.Lock()
	c.closed = true
	delete(s.conns, c)
	s.mu.Unlock()
	c.out.stop(func(*watcher) bool { return true })
	return nil
}

// unlockTold releases the server's lock and returns when this connection's watchers have
// been told everything up to now.
func (c *Store) unlockTold() {
	n := c.out.end()
	c.srv.unlock()
	c.out.flush(n)
}

func (c *Store) linkLocked() store.Link {
	switch {
	case c.closed:
		return store.Link{Err: store.ErrClosed}
	case c.cut:
		return store.Link{Err: store.ErrUnavailable}
	default:
		return store.Link{Up: true, Tracks: true, Server: fmt.Sprint(c.srv.history)}
	}
}
