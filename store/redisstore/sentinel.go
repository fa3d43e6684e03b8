package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/freshetdev/freshet/store"
)

const (
	// Once a sentinel has answered, the others have this long: one that was cut off may name
	// the primary of yesterday, and one that hangs must not hold up the rest.
	sentinelGrace = 150 * time.Millisecond

	// How often the sentinels are asked while a link is up. They close the connections
	// of a primary that they demote, so this is for one that they can't reach.
	sentinelEvery = time.Second
)

// A vote is what one sentinel says of the primary.
type vote struct {
	addr  string
	epoch int64 // of the failover that made it primary
	err   error
}

// askSentinels asks all sentinels where the primary is. The one that knows of the
// latest failover wins.
func (s *Store) askSentinels(ctx context.Context) (target, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	votes := make(chan vote, len(s.place.addrs))
	for _, addr := range s.place.addrs {
		go func() { votes <- s.askSentinel(ctx, addr) }()
	}
	var best vote
	var errs []error
	var end <-chan time.Time
	for range s.place.addrs {
		select {
		case v := <-votes:
			switch {
			case v.err != nil:
				errs = append(errs, v.err)
			case best.addr == "" || v.epoch > best.epoch:
				best = v
			}
			if best.addr != "" && end == nil {
				end = time.After(sentinelGrace)
			}
			continue
		case <-end:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("sentinels: %w", store.ErrTimeout))
		}
		break
	}
	if best.addr == "" {
		return target{}, errors.Join(errs...)
	}
	return s.place.at(best.addr), nil
}

func (s *Store) askSentinel(ctx context.Context, addr string) (v vote) {
	fail := func(err error) vote { return vote{err: fmt.Errorf("sentinel %s: %w", addr, err)} }
	to := s.place.at(addr)
	to.user, to.password = s.place.sentinelUser, s.place.sentinelSecret
	name := s.place.master
	res, err := s.ask(ctx, to, []string{"SENTINEL", "GET-MASTER-ADDR-BY-NAME", name}, []string{"SENTINEL", "MASTER", name})
	if err != nil {
		return fail(err)
	}
	at, err := res[0].AsStrSlice()
	if err != nil || len(at) != 2 {
		return fail(fmt.Errorf("no primary is known as %q", name))
	}
	v.addr = net.JoinHostPort(at[0], at[1])
	fields, err := res[1].AsStrMap()
	if err != nil {
		return fail(err)
	}
	if _, err := fmt.Sscan(fields["config-epoch"], &v.epoch); err != nil {
		return fail(errStrange)
	}
	return v
}

// watchSentinels ends l when the sentinels name another primary.
func (s *Store) watchSentinels(l *link) {
	t := time.NewTicker(sentinelEvery)
	defer t.Stop()
	for {
		select {
		case <-l.lost:
			return
		case <-t.C:
		}
		if to, err := s.askSentinels(l.node.ctx); err == nil && to.addr != l.to.addr {
			l.fail(fmt.Errorf("the primary is %s now", to.addr))
			return
		}
	}
}
