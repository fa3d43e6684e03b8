package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/store"
)

var (
	_ store.Marker   = (*Store)(nil)
	_ store.Outsider = (*Store)(nil)
)

// Mark returns how far a source was applied.
func (s *Store) Mark(ctx context.Context, part int, source string) (store.Mark, error) {
	m, err := s.mark(ctx, part, source)
	if err != nil {
		return store.Mark{}, fmt.Errorf("redisstore: mark of %q: %w", source, err)
	}
	return m, nil
}

func (s *Store) mark(ctx context.Context, part int, source string) (m store.Mark, err error) {
	p, err := s.partition(part)
	if err != nil {
		return m, err
	}
	c, err := s.begin(ctx, p.head)
	if err != nil {
		return m, err
	}
	defer c.end()
	res, err := c.do(s.build.Hmget().Key(p.source+source).Field("owner", "seq", "pos", "tick", "cert").Build())
	if err != nil {
		return m, err
	}
	fields, err := res[0].ToArray()
	if wrongType(err) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if len(fields) < 5 {
		return m, errStrange
	}
	var text [5]string
	for i := range text {
		if text[i], err = fields[i].ToString(); rueidis.IsRedisNil(err) {
			return store.Mark{}, nil // not all of it is there: lost
		} else if err != nil {
			return m, err
		}
	}
	m.Owner, m.Pos = text[0], text[2]
	for i, at := range []*uint64{1: &m.Seq, 3: &m.Tick, 4: &m.Cert} {
		if at == nil {
			continue
		}
		if *at, err = strconv.ParseUint(text[i], 10, 64); err != nil {
			return store.Mark{}, nil // not written by us: lost
		}
	}
	return m, nil
}

// SetMark replaces the mark of a source.
func (s *Store) SetMark(ctx context.Context, part int, source string, seen, next store.Mark, has []store.Head) error {
	if err := s.setMark(ctx, part, source, seen, next, has); err != nil {
		return fmt.Errorf("redisstore: set mark of %q: %w", source, err)
	}
	return nil
}

func (s *Store) setMark(ctx context.Context, part int, source string, seen, next store.Mark, has []store.Head) error {
	p, err := s.partition(part)
	if err != nil {
		return err
	}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	args := []string{"", "", next.Owner, number(next.Seq), next.Pos, number(next.Tick), number(next.Cert)}
	if seen != (store.Mark{}) {
		args[0], args[1] = seen.Owner, number(seen.Seq)
	}
	for _, h := range has {
		args = append(args, number(uint64(h.Pos)), hex16(h.Nonce))
	}
	res, err := s.runScript(ctx, run{markScript, []string{p.source + source, p.log}, args})
	if err != nil {
		return err
	}
	out, err := res.AsStrSlice()
	switch {
	case err != nil:
		return err
	case len(out) == 1 && out[0] == "ok":
		return nil
	case len(out) == 3 && out[0] == "moved":
		return fmt.Errorf("it is %s of %q: %w", cmp.Or(out[2], "none"), out[1], store.ErrMoved)
	case len(out) == 2 && out[0] == "lost":
		return fmt.Errorf("entry %s is not in the log: %w", out[1], store.ErrMoved)
	}
	return errStrange
}

// Prefix is Options.Prefix.
func (s *Store) Prefix() string { return s.opts.Prefix }

// Unlink deletes keys by their full names.
func (s *Store) Unlink(ctx context.Context, keys ...string) error {
	if err := s.unlinkNames(ctx, s.budget.start(), keys); err != nil {
		return fmt.Errorf("redisstore: unlink: %w", err)
	}
	return nil
}

func (s *Store) unlinkNames(ctx context.Context, w *window, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if s.many != nil {
		return s.many.unlinkNames(ctx, w, names)
	}
	c, err := s.one.beginIn(ctx, w)
	if err != nil {
		return err
	}
	defer c.end()
	return s.unlinkOn(c, names)
}

// unlinkOn deletes names on the node of c, which has them all.
func (s *Store) unlinkOn(c *call, names []string) error {
	var cmds []rueidis.Completed
	for len(names) > 0 {
		n := min(len(names), perCommand)
		cmds = append(cmds, s.build.Unlink().Key(names[:n]...).Build())
		names = names[n:]
	}
	res, err := c.do(cmds...)
	if err != nil {
		return err
	}
	for i := range res {
		if err := res[i].Error(); err != nil {
			return err
		}
	}
	return nil
}

// Sweep deletes the keys that match a pattern, server by server. In a Cluster whose slots move meanwhile it may miss some, so it fails
// then.
func (s *Store) Sweep(ctx context.Context, pattern string) (n int, err error) {
	if s.many == nil {
		n, err = s.sweep(ctx, s.one, pattern)
	} else if t := s.many.table.Load(); t == nil {
		_, err = s.many.gate.enter()
		err = cmp.Or(err, store.ErrUnavailable)
	} else {
		for _, node := range t.nodes {
			more, e := s.sweep(ctx, node, pattern)
			n += more
			if err = e; err != nil {
				break
			}
		}
		if err == nil && s.many.table.Load() != t {
			err = fmt.Errorf("%w: %w", store.ErrUnavailable, errMoved)
		}
	}
	if err != nil {
		return n, fmt.Errorf("redisstore: sweep %q: %w", pattern, err)
	}
	return n, nil
}

// perScan is how many keys the server looks at in one step of a sweep: about 100 us.
const perScan = 1000

func (s *Store) sweep(ctx context.Context, on *node, pattern string) (n int, err error) {
	for cursor := uint64(0); ; {
		names, next, err := s.scan(ctx, on, cursor, pattern)
		if err != nil {
			return n, err
		}
		if err := s.unlinkNames(ctx, s.budget.start(), names); err != nil {
			return n, err
		}
		n += len(names)
		if cursor = next; cursor == 0 {
			return n, nil
		}
	}
}

func (s *Store) scan(ctx context.Context, on *node, cursor uint64, pattern string) (names []string, next uint64, err error) {
	c, err := on.begin(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer c.end()
	res, err := c.do(s.build.Scan().Cursor(cursor).Match(pattern).Count(perScan).Build())
	if err != nil {
		return nil, 0, err
	}
	e, err := res[0].AsScanEntry()
	return e.Elements, e.Cursor, err
}

// Publish sends a message to the subscribers of a channel. A Cluster's nodes pass it on.
func (s *Store) Publish(ctx context.Context, channel, payload string) error {
	c, err := s.begin(ctx, channel)
	if err == nil {
		defer c.end()
		var res []rueidis.RedisResult
		if res, err = c.do(s.build.Publish().Channel(channel).Message(payload).Build()); err == nil {
			err = res[0].Error()
		}
	}
	if err != nil {
		return fmt.Errorf("redisstore: publish: %w", err)
	}
	return nil
}
