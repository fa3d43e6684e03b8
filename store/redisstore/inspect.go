package redisstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/store"
)

// A Server is what a server says of itself (INFO): for people who want to know whether it is set up well.
type Server struct {
	Addr                string // in a Cluster; else empty
	Version             string
	Policy              string // maxmemory-policy
	MaxMemory           int64  // bytes; zero: no bound
	UsedMemory, Evicted int64  // bytes; keys since the server's start
}

// Inspect asks all servers that are in use. It is an error if one isn't connected or doesn't tell.
func (s *Store) Inspect(ctx context.Context) ([]Server, error) {
	nodes, err := s.inUse()
	if err != nil {
		return nil, fmt.Errorf("redisstore: inspect: %w", err)
	}
	var servers []Server
	for _, n := range nodes {
		server, err := s.inspect(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("redisstore: inspect: %w", err)
		}
		servers = append(servers, server)
	}
	return servers, nil
}

// inUse are the nodes that keys lie on.
func (s *Store) inUse() ([]*node, error) {
	if s.many == nil {
		return []*node{s.one}, nil
	}
	t := s.many.table.Load()
	if t == nil {
		_, err := s.many.gate.enter()
		return nil, cmp.Or(err, store.ErrUnavailable)
	}
	return slices.Clone(t.nodes), nil
}

func (s *Store) inspect(ctx context.Context, n *node) (Server, error) {
	c, err := n.begin(ctx)
	if err != nil {
		return Server{}, err
	}
	defer c.end()
	res, err := c.do(s.build.Info().Section("everything").Build())
	if err != nil {
		return Server{}, err
	}
	info, err := res[0].ToString()
	if err != nil {
		return Server{}, err
	}
	field := func(name string) string {
		_, rest, _ := strings.Cut(info, "\n"+name+":")
		value, _, _ := strings.Cut(rest, "\r")
		return value
	}
	var errs []error
	number := func(name string) int64 {
		v, err := strconv.ParseInt(field(name), 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("INFO has %s:%.100q; want a number", name, field(name)))
		}
		return v
	}
	server := Server{
		Addr: n.addr, Version: cmp.Or(field("valkey_version"), field("redis_version")), Policy: field("maxmemory_policy"),
		MaxMemory: number("maxmemory"), UsedMemory: number("used_memory"), Evicted: number("evicted_keys"),
	}
	return server, errors.Join(errs...)
}

// A Counter is a key that holds a whole number and never expires.
type Counter struct {
	Key   string
	Value int64
}

// Counters looks at up to atMost keys, about, and returns those that hold a whole number and never expire, but for freshet's own: among them may be
// limits whose program counted (INCR) and died before it set the expiry, which lock their client out for good. looked is how many
// it looked at; less than atMost means all.
func (s *Store) Counters(ctx context.Context, atMost int) (found []Counter, looked int, err error) {
	nodes, err := s.inUse()
	for _, n := range nodes {
		for cursor := uint64(0); err == nil && looked < atMost; {
			var more []Counter
			var seen int
			more, seen, cursor, err = s.counters(ctx, n, cursor)
			found, looked = append(found, more...), looked+seen
			if cursor == 0 {
				break
			}
		}
	}
	if err != nil {
		return found, looked, fmt.Errorf("redisstore: counters: %w", err)
	}
	return found, looked, nil
}

// counters is one step of Counters.
func (s *Store) counters(ctx context.Context, on *node, cursor uint64) (found []Counter, looked int, next uint64, err error) {
	names, next, err := s.scan(ctx, on, cursor, "*")
	if err != nil {
		return nil, 0, next, err
	}
	c, err := on.begin(ctx)
	if err != nil {
		return nil, 0, next, err
	}
	defer c.end()
	// What is long is no number, and isn't fetched; the length of what is no string is an error.
	const longest = int64(len("-9223372036854775808"))
	var cmds []rueidis.Completed
	var own []string
	for _, name := range names {
		if rest := strings.TrimPrefix(name, s.opts.Prefix); strings.HasPrefix(rest, "{freshet:") || strings.HasPrefix(rest, "freshet:") {
			continue
		}
		own = append(own, name)
		cmds = append(cmds, s.build.Pttl().Key(name).Build(), s.build.Strlen().Key(name).Build())
	}
	if len(own) == 0 {
		return nil, len(names), next, nil
	}
	res, err := c.do(cmds...)
	if err != nil {
		return nil, 0, next, err
	}
	var short []string
	cmds = nil
	for i, name := range own {
		ttl, err1 := res[2*i].AsInt64()
		length, err2 := res[2*i+1].AsInt64()
		if err1 == nil && err2 == nil && ttl == -1 && length > 0 && length <= longest {
			short = append(short, name)
			cmds = append(cmds, s.build.Get().Key(name).Build())
		}
		// Another type, or a right that is missing: that must be told.
		if e, ok := rueidis.IsRedisErr(cmp.Or(err1, err2)); ok && !strings.HasPrefix(e.Error(), "WRONGTYPE") {
			return nil, 0, next, e
		}
	}
	if len(cmds) == 0 {
		return nil, len(names), next, nil
	}
	if res, err = c.do(cmds...); err != nil {
		return nil, 0, next, err
	}
	for i, name := range short {
		if text, err := res[i].ToString(); err == nil {
			if v, err := strconv.ParseInt(text, 10, 64); err == nil && strconv.FormatInt(v, 10) == text {
				found = append(found, Counter{name, v})
			}
		}
	}
	return found, len(names), next, nil
}
