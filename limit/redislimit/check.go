package redislimit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"
)

// ErrEvicts is wrapped by the error of Check for a server that may forget what was used when its memory is full.
var ErrEvicts = errors.New("the server may evict limits that are still in use")

// Check reports servers whose eviction policy may forget what was used: those with a maxmemory and any policy but noeviction, which keeps
// limits (decisions fail while memory is full, and follow their policy's OnOutage), and volatile-ttl, which evicts first what would soon
// have expired anyway. It asks all servers that are in use, by INFO memory. A server that isn't connected, or doesn't tell, is an error, too.
func (s *Store) Check(ctx context.Context) error {
	nodes := []*node{s.one}
	if s.many != nil {
		nodes = nil
		for _, n := range s.many.table.Load().nodes {
			nodes = append(nodes, n)
		}
		if len(nodes) == 0 {
			_, err := s.many.nodeOf(ctx, "")
			return fmt.Errorf("redislimit: check: %w", err)
		}
	}
	var errs []error
	for _, n := range nodes {
		if err := n.check(ctx); err != nil {
			errs = append(errs, fmt.Errorf("redislimit: check of %s: %w", n.addr, err))
		}
	}
	return errors.Join(errs...)
}

func (n *node) check(ctx context.Context) error {
	res, err := n.do(ctx, func(b rueidis.Builder) rueidis.Completed { return b.Info().Section("memory").Build() }, false)
	if err != nil {
		return err
	}
	info, err := res.ToString()
	if err != nil {
		return err
	}
	field := func(name string) string {
		_, rest, _ := strings.Cut(info, "\n"+name+":")
		value, _, _ := strings.Cut(rest, "\r")
		return value
	}
	memory, policy := field("maxmemory"), field("maxmemory_policy")
	switch {
	case memory == "" || policy == "":
		return errors.New("INFO memory doesn't tell maxmemory and maxmemory_policy")
	case memory == "0" || policy == "noeviction" || policy == "volatile-ttl":
		return nil
	}
	return fmt.Errorf("%w: maxmemory is %s and maxmemory-policy %s; want noeviction or volatile-ttl", ErrEvicts, memory, policy)
}
