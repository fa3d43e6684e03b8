package redisx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
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
		return nil, late(ctx, err)
	}
	defer c.Close()
	multi := make([]rueidis.Completed, len(cmds))
	for i, args := range cmds {
		multi[i] = c.B().Arbitrary(args...).Build()
	}
	res := c.DoMulti(ctx, multi...)
	for i := range res {
		if err := res[i].NonRedisError(); err != nil {
			return nil, late(ctx, err)
		}
	}
	return res, nil
}

var errLate = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)

// late is err, but for what came of the end of ctx: which call notices that first is chance.
func late(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return errLate
	}
	return err
}

// Visit makes a connection that ends with ctx, or when it is closed.
func Visit(ctx context.Context, to Target, name string) (rueidis.Client, error) {
	patience := ConnectTime
	if end, ok := ctx.Deadline(); ok {
		patience = max(patience, time.Until(end))
	}
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
		ConnWriteTimeout:  patience,
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

// Join is errors.Join in the order of the texts: servers are asked in any order, and the same answers must make the same error.
func Join(errs []error) error {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(text(a), text(b)) })
	return errors.Join(errs...)
}
