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
	node   *node
	window *window
	caller context.Context
	ctx    context.Context // ends with caller's and with the budget
	cancel context.CancelFunc
	link   *link
}

// begin lets a call through, or says why not. Every begun call must end.
func (n *node) begin(ctx context.Context) (*call, error) {
	return n.beginIn(ctx, n.s.budget.start())
}

// beginIn is begin for a part of an operation whose budget began before.
func (n *node) beginIn(ctx context.Context, w *window) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := n.gate.enter()
	if err != nil {
		return nil, err
	}
	select {
	case n.writing <- struct{}{}:
	default:
		select {
		case n.writing <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.ctx.Done():
			return nil, store.ErrTimeout
		}
	}
	c := &call{node: n, window: w, caller: ctx, link: l}
	c.ctx, c.cancel = w.join(ctx)
	return c, nil
}

func (c *call) end() {
	c.cancel()
	<-c.node.writing
}

// do sends commands in one round trip. Its error means that not all were answered.
func (c *call) do(cmds ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	if c.node.s.many == nil {
		return c.send(cmds...)
	}
	for i := range cmds {
		cmds[i] = cmds[i].Pin() // it may be sent again
	}
	res, err := c.send(cmds...)
	if err != nil {
		return nil, err
	}
	return c.follow(cmds, res)
}

// send is do without following redirections.
func (c *call) send(cmds ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	id := c.link.Send()
	res := c.link.client.DoMulti(c.ctx, cmds...)
	for i := range res {
		if err := res[i].NonRedisError(); err != nil {
			return nil, c.node.failure(c.caller, c.link, err)
		}
	}
	c.link.Answered(id)
	for i := range res {
		if err := res[i].Error(); err != nil || i == len(res)-1 {
			c.node.answer(c.link, err)
		}
	}
	return res, nil
}

// failure judges an error that is not the server's, and returns what to tell the caller.
func (n *node) failure(caller context.Context, l *link, err error) error {
	switch {
	case n.gate.closed():
		return store.ErrClosed
	case caller.Err() != nil:
		// Who leaves early proves nothing, but may have had a reason.
		n.gate.look()
		return caller.Err()
	case errors.Is(err, context.DeadlineExceeded):
		n.gate.failed(l, store.ErrTimeout)
		return store.ErrTimeout
	case errors.Is(err, rueidis.ErrDedicatedClientRecycled):
		if e := l.Cause(); e != nil {
			err = e
		}
	}
	n.gate.failed(l, err)
	return err
}

// answer notes an answer of the server, if only an error.
func (n *node) answer(l *link, err error) {
	if e, ok := rueidis.IsRedisErr(err); ok {
		msg := e.Error()
		if n.s.moves && strings.Contains(msg, "READONLY ") {
			l.Fail(errDemoted) // the next link goes where the primary is
		}
		if n.s.many != nil && strings.HasPrefix(msg, "CLUSTERDOWN ") {
			n.s.many.look("")
		}
		if sick(msg) {
			n.gate.failed(l, err)
			return
		}
	}
	n.gate.answered()
}

// sick reports whether an error reply means that nothing works at the moment.
func sick(msg string) bool {
	for _, p := range [...]string{"LOADING ", "BUSY ", "MASTERDOWN ", "CLUSTERDOWN "} {
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
