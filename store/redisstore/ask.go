package redisstore

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/redis/rueidis"
)

// ask sends commands over a connection of their own, for what can't wait for a link or
// concerns no link: where the servers are.
func (s *Store) ask(ctx context.Context, to target, cmds ...[]string) ([]rueidis.RedisResult, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	c, err := s.visit(ctx, to)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	multi := make([]rueidis.Completed, len(cmds))
	for i, args := range cmds {
		multi[i] = c.B().Arbitrary(args...).Build()
	}
	res := c.DoMulti(ctx, multi...)
	for i := range res {
		if err := res[i].NonRedisError(); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// visit makes a connection that ends with ctx, or when it is closed.
func (s *Store) visit(ctx context.Context, to target) (rueidis.Client, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress:       []string{to.addr},
		Username:          to.user,
		Password:          to.password,
		ClientName:        s.opts.Name,
		ForceSingleClient: true,
		DisableCache:      true,
		DisableRetry:      true,
		PipelineMultiplex: -1,
		RingScaleEachConn: 4,
		ConnWriteTimeout:  connectTime,
		DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
			nc, err := to.dial(ctx)
			if err != nil {
				return nil, err
			}
			// A greeting has no context of its own.
			context.AfterFunc(ctx, func() { _ = nc.Close() })
			return nc, nil
		},
	})
	if err != nil {
		if c != nil {
			c.Close()
		}
		return nil, err
	}
	return c, nil
}
