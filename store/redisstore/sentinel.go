package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/store"
)

const (
	// Once a sentinel has answered, the others have this long: one that was cut off may name
	// the primary of yesterday, and one that hangs must not hold up the rest.
	sentinelGrace = 150 * time.Millisecond

	// How often the sentinels are asked while a link is up, beside what they announce.
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
	name := s.place.master
	res, err := s.ask(ctx, s.place.sentinelAt(addr), []string{"SENTINEL", "GET-MASTER-ADDR-BY-NAME", name}, []string{"SENTINEL", "MASTER", name})
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
	if v.addr != net.JoinHostPort(fields["ip"], fields["port"]) {
		v.epoch++ // it is doing a failover, and the others know the last one
	}
	return v
}

// sentinelAt is how to greet a sentinel.
func (p *place) sentinelAt(addr string) target {
	t := p.at(addr)
	t.user, t.password, t.db = p.sentinelUser, p.sentinelSecret, 0
	return t
}

// watchSentinels ends l when the sentinels name another primary. The old one goes on as
// a primary until they get to it, which may take seconds.
func (s *Store) watchSentinels(l *link) {
	ctx, cancel := context.WithCancel(l.node.ctx)
	var hearing sync.WaitGroup
	defer hearing.Wait()
	defer cancel()
	news := make(chan struct{}, 1)
	for _, addr := range s.place.addrs {
		hearing.Go(func() { s.hearSentinel(ctx, addr, news) })
	}
	t := time.NewTicker(sentinelEvery)
	defer t.Stop()
	for {
		if to, err := s.askSentinels(ctx); err == nil && to.addr != l.to.addr {
			l.fail(fmt.Errorf("redisstore: the primary is %s now", to.addr))
			return
		}
		select {
		case <-l.lost:
			return
		case <-t.C:
		case <-news:
		}
	}
}

// hearSentinel tells of a sentinel's announcements that concern our primary.
func (s *Store) hearSentinel(ctx context.Context, addr string, news chan<- struct{}) {
	for ctx.Err() == nil {
		if c, err := s.visit(ctx, s.place.sentinelAt(addr)); err == nil {
			subscribe := c.B().Subscribe().Channel("+promoted-slave", "+switch-master").Build()
			_ = c.Receive(ctx, subscribe, func(m rueidis.PubSubMessage) {
				if strings.Contains(" "+m.Message+" ", " "+s.place.master+" ") {
					select {
					case news <- struct{}{}:
					default:
					}
				}
			})
			c.Close()
		}
		select {
		case <-time.After(sentinelEvery):
		case <-ctx.Done():
		}
	}
}
