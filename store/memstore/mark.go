package memstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/freshetdev/freshet/store"
)

var (
	_ store.Marker   = (*Store)(nil)
	_ store.Outsider = (*Store)(nil)
)

// Mark implements [store.Marker].
func (c *Store) Mark(ctx context.Context, part int, source string) (store.Mark, error) {
	p, err := c.enterLog(ctx, "mark", part)
	if err != nil {
		return store.Mark{}, err
	}
	defer c.srv.unlock()
	return p.marks[source], nil
}

// SetMark implements [store.Marker].
func (c *Store) SetMark(ctx context.Context, part int, source string, seen, next store.Mark, has []store.Head) error {
	p, err := c.enterLog(ctx, "set mark", part)
	if err != nil {
		return err
	}
	defer c.srv.unlock()
	m := p.marks[source]
	if m == next {
		return nil // asked for again
	}
	if m.Owner != seen.Owner || m.Seq != seen.Seq {
		return fmt.Errorf("memstore: set mark of %q: it is %d of %q: %w", source, m.Seq, m.Owner, store.ErrMoved)
	}
	for _, h := range has {
		if !slices.ContainsFunc(p.entries, func(e store.LogEntry) bool { return e.Head == h }) {
			return fmt.Errorf("memstore: set mark of %q: entry %d is not in the log: %w", source, h.Pos, store.ErrMoved)
		}
	}
	if p.marks == nil {
		p.marks = make(map[string]store.Mark)
	}
	p.marks[source] = next
	return nil
}

// Prefix is empty: a Server has one namespace.
func (c *Store) Prefix() string { return "" }

// Unlink implements [store.Outsider]. Like a foreign client's, it is told to whoever read the keys.
func (c *Store) Unlink(ctx context.Context, keys ...string) error {
	if err := c.enter(ctx, "unlink"); err != nil {
		return err
	}
	defer c.srv.unlock()
	now := time.Now()
	for _, key := range keys {
		c.srv.data.del(key, now, nil)
	}
	return nil
}

// Sweep implements [store.Outsider].
func (c *Store) Sweep(ctx context.Context, pattern string) (n int, err error) {
	if err := c.enter(ctx, "sweep"); err != nil {
		return 0, err
	}
	defer c.srv.unlock()
	now := time.Now()
	var keys []string
	for key := range c.srv.data.items {
		if glob(pattern, key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if c.srv.data.del(key, now, nil) {
			n++
		}
	}
	return n, nil
}

// glob reports whether s fits a pattern of SCAN, as far as * and backslashes go; other characters stand for themselves.
func glob(pattern, s string) bool {
	for len(pattern) > 0 {
		switch c := pattern[0]; {
		case c == '*':
			for i := 0; i <= len(s); i++ {
				if glob(pattern[1:], s[i:]) {
					return true
				}
			}
			return false
		case c == '\\' && len(pattern) > 1:
			pattern = pattern[1:]
			fallthrough
		default:
			if s == "" || s[0] != pattern[0] {
				return false
			}
		}
		pattern, s = pattern[1:], s[1:]
	}
	return s == ""
}

// Publish implements [store.Outsider]. See [Server.Subscribe].
func (c *Store) Publish(ctx context.Context, channel, payload string) error {
	if err := c.enter(ctx, "publish"); err != nil {
		return err
	}
	subs := slices.Clone(c.srv.subs[channel])
	c.srv.unlock()
	for _, f := range subs {
		f(payload)
	}
	return nil
}

// Subscribe calls f with each message that is published on a channel from now on. f must not block.
func (s *Server) Subscribe(channel string, f func(payload string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs == nil {
		s.subs = make(map[string][]func(string))
	}
	s.subs[channel] = append(s.subs[channel], f)
}
