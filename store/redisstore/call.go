package redisstore

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/store"
)

// A call is one operation on its way: all it sends shares one time budget.
type call struct {
	s      *Store
	caller context.Context
	ctx    context.Context // ends with caller's and with the budget
	cancel context.CancelFunc
	link   *link
}

// begin lets a call through, or says why not. Every begun call must end.
func (s *Store) begin(ctx context.Context) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := s.gate.enter()
	if err != nil {
		return nil, err
	}
	w := s.budget.start()
	select {
	case s.writing <- struct{}{}:
	default:
		select {
		case s.writing <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.ctx.Done():
			return nil, store.ErrTimeout
		}
	}
	c := &call{s: s, caller: ctx, link: l}
	c.ctx, c.cancel = w.join(ctx)
	return c, nil
}

func (c *call) end() {
	c.cancel()
	<-c.s.writing
}

// do sends commands in one round trip. Its error means that not all were answered.
func (c *call) do(cmds ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	n := c.link.sent.Add(1)
	res := c.link.client.DoMulti(c.ctx, cmds...)
	for i := range res {
		if err := res[i].NonRedisError(); err != nil {
			return nil, c.s.failure(c.caller, c.link, err)
		}
	}
	c.link.answered(n)
	c.s.answer(c.link, res[len(res)-1].Error())
	return res, nil
}

// failure judges an error that is not the server's, and returns what to tell the caller.
func (s *Store) failure(caller context.Context, l *link, err error) error {
	switch {
	case s.gate.closed():
		return store.ErrClosed
	case caller.Err() != nil:
		// Who leaves early proves nothing, but may have had a reason.
		s.gate.look()
		return caller.Err()
	case errors.Is(err, context.DeadlineExceeded):
		s.gate.failed(l, store.ErrTimeout)
		return store.ErrTimeout
	case errors.Is(err, rueidis.ErrDedicatedClientRecycled):
		if e := l.cause(); e != nil {
			err = e
		}
	}
	s.gate.failed(l, err)
	return err
}

// answer notes an answer of the server, if only an error.
func (s *Store) answer(l *link, err error) {
	if e, ok := rueidis.IsRedisErr(err); ok && sick(e.Error()) {
		s.gate.failed(l, err)
		return
	}
	s.gate.answered()
}

// sick reports whether an error reply means that nothing works at the moment.
func sick(msg string) bool {
	for _, p := range [...]string{"LOADING ", "BUSY ", "MASTERDOWN "} {
		if strings.HasPrefix(msg, p) {
			return true
		}
	}
	return false
}

// wrongType reports whether err says that a key holds another type than we want.
func wrongType(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && strings.Contains(e.Error(), "WRONGTYPE")
}
