package redislimit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/limit"
)

// The times of a link.
const (
	// A silent connection is pinged after idleTime and given up answerTime later. Callers don't wait for that if
	// they have a deadline.
	idleTime   = 300 * time.Millisecond
	answerTime = 2 * time.Second

	// Pauses between tries: the first is short, since most losses are a restart or a failover; the last keeps a fleet
	// of clients from hammering a dead address.
	firstPause = 25 * time.Millisecond
	lastPause  = 500 * time.Millisecond

	// sentinelEvery is how often the sentinels are asked while a link is up.
	sentinelEvery = time.Second
)

// A caller who finds the ring of rueidis full waits there without a deadline, so it must never be: maxFlying calls
// are waited for, and so many more may have been given up and not been answered.
const (
	ringScale = 12 // 4096 slots
	maxFlying = 1024
	maxBehind = 2048
)

// A node is one place at which there is a server: the only one, the primary that the sentinels name, or a primary of a Cluster.
type node struct {
	s      *Store
	addr   string
	locate func(context.Context) (redisx.Target, error) // where the next link goes

	live   atomic.Pointer[link]
	why    atomic.Pointer[error] // why there is none
	flying atomic.Int64          // calls that somebody waits for

	ctx     context.Context // ends when the node is given up
	cancel  context.CancelFunc
	stopped chan struct{} // closed when keepLink has returned
}

func (s *Store) newNode(addr string, locate func(context.Context) (redisx.Target, error)) *node {
	n := &node{s: s, addr: addr, locate: locate, stopped: make(chan struct{})}
	n.ctx, n.cancel = context.WithCancel(s.ctx)
	n.why.Store(&errNotYet)
	return n
}

// A link is one connection, from up to down.
type link struct {
	to     redisx.Target
	client rueidis.Client

	sent, done atomic.Int64 // numbers of the last call sent, and of the last answered

	lost chan struct{} // closed when the connection is
	mu   sync.Mutex
	conn net.Conn // guarded by mu
	err  error    // guarded by mu: why lost
}

var (
	errSilent  = fmt.Errorf("redislimit: no answer within %v", answerTime)
	errOnce    = errors.New("redislimit: only links connect")
	errDemoted = errors.New("the server is a replica")
)

func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.lost)
	}
}

func (l *link) cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// close ends the connection, first the socket: rueidis alone would wait a second for a last answer.
func (l *link) close(why error) {
	l.fail(why)
	l.mu.Lock()
	c := l.conn
	l.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
	if l.client != nil {
		l.client.Close()
	}
}

// behind is the number of calls that were sent and not answered. Answers come in order, so the last one answers all before
// it, those given up included.
func (l *link) behind() int64 { return l.sent.Load() - l.done.Load() }

func (l *link) answered(id int64) {
	for {
		d := l.done.Load()
		if id <= d || l.done.CompareAndSwap(d, id) {
			return
		}
	}
}

// A conn tells its link when it ends. rueidis closes it once anything is wrong.
type conn struct {
	net.Conn
	link *link
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.link.fail(err)
	}
	return n, err
}

func (c *conn) Close() error {
	c.link.fail(errSilent)
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn().Close() // a TLS goodbye to a hung peer takes seconds
	}
	return c.Conn.Close()
}

// keepLink makes links until the node is given up.
func (n *node) keepLink() {
	defer close(n.stopped)
	for try := 0; n.ctx.Err() == nil; try++ {
		began := time.Now()
		l, err := n.connect()
		if err == nil {
			n.live.Store(l)
			n.tend(l)
			err = l.cause()
		}
		n.why.Store(&err)
		n.live.Store(nil)
		if l != nil {
			l.close(limit.ErrClosed)
		}
		if n.s.many != nil {
			n.s.many.look("")
		}
		if time.Since(began) > 2*redisx.ConnectTime {
			try = 0
		}
		pause := min(firstPause<<min(try, 10), lastPause)
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-n.ctx.Done():
		}
	}
}

// connect makes a link.
func (n *node) connect() (_ *link, err error) {
	to, err := n.locate(n.ctx)
	if err != nil {
		return nil, fmt.Errorf("redislimit: %w", err)
	}
	l := &link{to: to, lost: make(chan struct{})}
	defer func() {
		if err != nil {
			l.close(err)
			err = fmt.Errorf("redislimit: connect to %s: %w", to, err)
		}
	}()
	// A greeting has no context of its own.
	ctx, cancel := context.WithTimeout(n.ctx, redisx.ConnectTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.conn != nil {
			go func() { _ = l.conn.Close() }() // it takes the lock
		}
	})
	defer stop()
	l.client, err = rueidis.NewClient(rueidis.ClientOption{
		InitAddress:       []string{to.Addr},
		Username:          to.User,
		Password:          to.Password,
		SelectDB:          to.DB,
		ClientName:        n.s.opts.Name,
		ForceSingleClient: true,
		// Else a deadline would close the connection that all share.
		AlwaysPipelining:  true,
		PipelineMultiplex: -1, // one connection: more cost more
		// A repeated decision could charge twice.
		DisableRetry:      true,
		DisableCache:      true,
		RingScaleEachConn: ringScale,
		ConnWriteTimeout:  answerTime,
		Dialer:            net.Dialer{Timeout: redisx.ConnectTime, KeepAlive: idleTime},
		DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
			// rueidis reconnects inside the call of whoever comes first, who would wait for it.
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.conn != nil {
				return nil, errOnce
			}
			nc, err := to.Dial(ctx)
			if err != nil {
				return nil, err
			}
			l.conn = &conn{Conn: nc, link: l}
			return l.conn, nil
		},
	})
	if err != nil {
		return nil, err
	}
	// A server that loads its data greets, but does not answer to PING.
	b := l.client.B()
	cmds := make([]rueidis.Completed, 0, 2+4)
	cmds = append(cmds, b.Ping().Build(), b.Role().Build())
	for _, sc := range n.s.scripts.all() { // so that the first users need no second round trip; failing is no harm
		cmds = append(cmds, b.ScriptLoad().Script(sc.text).Build())
	}
	res := l.client.DoMulti(ctx, cmds...)
	if err = res[0].Error(); err != nil {
		return nil, err
	}
	if n.s.place.Kind != redisx.Single {
		role, err := res[1].ToArray()
		if err != nil || len(role) == 0 {
			return nil, fmt.Errorf("role: %w", errors.Join(err, redisx.ErrStrange))
		}
		if is, _ := role[0].ToString(); is != "master" {
			return nil, errDemoted
		}
	}
	return l, nil
}

// tend watches over a link until it ends.
func (n *node) tend(l *link) {
	var look <-chan time.Time
	if n.s.place.Kind == redisx.Sentinel {
		t := time.NewTicker(sentinelEvery)
		defer t.Stop()
		look = t.C
	}
	for {
		select {
		case <-n.ctx.Done():
			l.fail(limit.ErrClosed)
			return
		case <-l.lost:
			return
		case <-look:
			// An old primary goes on as one until the sentinels get to it, which may take seconds.
			if to, err := n.locate(n.ctx); err == nil && to.Addr != l.to.Addr {
				l.fail(fmt.Errorf("redislimit: the primary is %s now", to.Addr))
				return
			}
		}
	}
}

// enter is the link to use, with a place on it: every call that entered must leave.
func (n *node) enter(ctx context.Context) (*link, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l := n.live.Load()
		if l == nil {
			return nil, n.s.unavailable(*n.why.Load())
		}
		if l.behind() < maxBehind {
			if n.flying.Add(1) <= maxFlying {
				return l, nil
			}
			n.flying.Add(-1)
		}
		select { // so much is in flight only if the server is slow: no need to be woken at once
		case <-ctx.Done():
		case <-l.lost:
		case <-time.After(200 * time.Microsecond):
		}
	}
}

func (n *node) leave() { n.flying.Add(-1) }

// do sends one command, after ASKING if asked to.
func (n *node) do(ctx context.Context, make func(rueidis.Builder) rueidis.Completed, asking bool) (rueidis.RedisResult, error) {
	l, err := n.enter(ctx)
	if err != nil {
		return rueidis.RedisResult{}, err
	}
	defer n.leave()
	id := l.sent.Add(1)
	var res rueidis.RedisResult
	if asking {
		res = l.client.DoMulti(ctx, l.client.B().Asking().Build(), make(l.client.B()))[1]
	} else {
		res = l.client.Do(ctx, make(l.client.B()))
	}
	if err := res.NonRedisError(); err != nil {
		return res, n.failure(ctx, l, err)
	}
	l.answered(id)
	if e, ok := rueidis.IsRedisErr(res.Error()); ok && n.s.one != nil && strings.Contains(e.Error(), "READONLY ") {
		l.fail(errDemoted) // the next link goes where the primary is
	}
	return res, nil
}

// failure is what to tell the caller of an error that isn't the server's.
func (n *node) failure(ctx context.Context, l *link, err error) error {
	if n.s.ctx.Err() != nil {
		return limit.ErrClosed
	}
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	if cause := l.cause(); cause != nil {
		err = cause
	}
	return fmt.Errorf("redislimit: %w", err)
}
