package redisstore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
)

// sentinelEvery is how often the sentinels are asked while a link is up, beside what they announce.
const sentinelEvery = time.Second

// watchSentinels ends l when the sentinels name another primary. The old one goes on as
// a primary until they get to it, which may take seconds.
func (s *Store) watchSentinels(l *link) {
	ctx, cancel := context.WithCancel(l.node.ctx)
	var hearing sync.WaitGroup
	defer hearing.Wait()
	defer cancel()
	news := make(chan struct{}, 1)
	for _, addr := range s.place.Addrs {
		hearing.Go(func() { s.hearSentinel(ctx, addr, news) })
	}
	t := time.NewTicker(sentinelEvery)
	defer t.Stop()
	for {
		if to, err := s.place.Primary(ctx, s.opts.Name); err == nil && to.Addr != l.to.Addr {
			l.Fail(fmt.Errorf("redisstore: the primary is %s now", to.Addr))
			return
		}
		select {
		case <-l.Lost():
			return
		case <-t.C:
		case <-news:
		}
	}
}

// hearSentinel tells of a sentinel's announcements that concern our primary.
func (s *Store) hearSentinel(ctx context.Context, addr string, news chan<- struct{}) {
	for ctx.Err() == nil {
		if c, err := redisx.Visit(ctx, s.place.SentinelAt(addr), s.opts.Name); err == nil {
			subscribe := c.B().Subscribe().Channel("+promoted-slave", "+switch-master").Build()
			_ = c.Receive(ctx, subscribe, func(m rueidis.PubSubMessage) {
				if strings.Contains(" "+m.Message+" ", " "+s.place.Master+" ") {
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

// primary asks where the primary is.
func (s *Store) primary(ctx context.Context) (redisx.Target, error) {
	return s.place.Primary(ctx, s.opts.Name)
}
