package redisx

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/redis/rueidis"
)

// ConnectTime is how long a connect, and each step of its greeting, may take at first: a hung server
// is tried again about once a second.
const ConnectTime = time.Second

// ErrStrange is an answer that no server gives.
var ErrStrange = errors.New("the server's answer makes no sense")

// Ask sends commands over a connection of their own, for what can't wait for a link or
// concerns no link: where the servers are. It takes at most ConnectTime, unless ctx says how long.
func Ask(ctx context.Context, to Target, name string, cmds ...[]string) ([]rueidis.RedisResult, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, ConnectTime)
		defer cancel()
	}
	c, err := Visit(ctx, to, name)
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

// Visit makes a connection that ends with ctx, or when it is closed.
func Visit(ctx context.Context, to Target, name string) (rueidis.Client, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress:       []string{to.Addr},
		Username:          to.User,
		Password:          to.Password,
		ClientName:        name,
		ForceSingleClient: true,
		DisableCache:      true,
		DisableRetry:      true,
		PipelineMultiplex: -1,
		RingScaleEachConn: 4,
		ConnWriteTimeout:  3 * ConnectTime, // ctx is what counts
		DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
			nc, err := to.Dial(ctx)
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
