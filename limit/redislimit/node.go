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
	tried  chan struct{}         // closed when the first try to connect has ended
	flying atomic.Int64          // calls that somebody waits for

	ctx     context.Context // ends when the node is given up
	cancel  context.CancelFunc
	stopped chan struct{} // closed when keepLink has returned
}

func (s *Store) newNode(addr string, locate func(context.Context) (redisx.Target, error)) *node {
	n := &node{s: s, addr: addr, locate: locate, tried: make(chan struct{}), stopped: make(chan struct{})}
	n.ctx, n.cancel = context.WithCancel(s.ctx)
	n.why.Store(&errNotYet)
	return n
}

// A link is one connection, from up to down.
type link struct {
	*redisx.Link
	to     redisx.Target
	client rueidis.Client

	mu   sync.Mutex
	conn net.Conn // guarded by mu
}

var (
	errSilent  = fmt.Errorf("redislimit: no answer within %v", answerTime)
	errOnce    = errors.New("redislimit: only links connect")
	errDemoted = errors.New("the server is a replica")
)

// close ends the connection, first the socket: rueidis alone would wait a second for a last answer.
func (l *link) close(why error) {
	l.Fail(why)
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

// keepLink makes links until the node is given up.
func (n *node) keepLink() {
	defer close(n.stopped)
	ended := sync.OnceFunc(func() { close(n.tried) })
	for try := 0; n.ctx.Err() == nil; try++ {
		began := time.Now()
		l, err := n.connect()
		if err == nil {
			n.live.Store(l)
			ended()
			n.tend(l)
			err = l.Cause()
		}
		n.why.Store(&err)
		n.live.Store(nil)
		ended()
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
	l := &link{Link: redisx.NewLink(), to: to}
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
			_ = l.conn.Close()
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
			l.conn = l.Watch(nc, errSilent)
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
			l.Fail(limit.ErrClosed)
			return
		case <-l.Lost():
			return
		case <-look:
			// An old primary goes on as one until the sentinels get to it, which may take seconds.
			if to, err := n.locate(n.ctx); err == nil && to.Addr != l.to.Addr {
				l.Fail(fmt.Errorf("redislimit: the primary is %s now", to.Addr))
				return
			}
		}
	}
}

// firstTry waits for the first try to connect to end, or for ctx.
func (n *node) firstTry(ctx context.Context) error {
	return n.s.await(ctx, n.tried, n.ctx)
}

// await waits for the end of the first try of a node or a Cluster. Its life ends with it.
func (s *Store) await(ctx context.Context, tried <-chan struct{}, life context.Context) error {
	select {
	case <-tried:
		return nil
	default:
	}
	select {
	case <-tried:
		return nil
	case <-life.Done():
		return s.unavailable(errNotYet)
	case <-ctx.Done():
		return fmt.Errorf("redislimit: %w: %w", limit.ErrConnecting, ctx.Err())
	}
}

// enter is the link to use, with a place on it: every call that entered must leave.
func (n *node) enter(ctx context.Context) (*link, error) {
	for {
		if err := n.s.reachable(ctx); err != nil {
			return nil, err
		}
		l := n.live.Load()
		if l == nil {
			if err := n.firstTry(ctx); err != nil {
				return nil, err
			}
			if l = n.live.Load(); l == nil {
				return nil, n.s.unavailable(*n.why.Load())
			}
		}
		if l.Behind() < maxBehind {
			if n.flying.Add(1) <= maxFlying {
				return l, nil
			}
			n.flying.Add(-1)
		}
		select { // so much is in flight only if the server is slow: no need to be woken at once
		case <-ctx.Done():
		case <-l.Lost():
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
	id := l.Send()
	var res rueidis.RedisResult
	if asking {
		res = l.client.DoMulti(ctx, l.client.B().Asking().Build(), make(l.client.B()))[1]
	} else {
		res = l.client.Do(ctx, make(l.client.B()))
	}
	if err := res.NonRedisError(); err != nil {
		return res, n.failure(ctx, l, err)
	}
	l.Answered(id)
	if e, ok := rueidis.IsRedisErr(res.Error()); ok && n.s.one != nil && strings.Contains(e.Error(), "READONLY ") {
		l.Fail(errDemoted) // the next link goes where the primary is
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
	if cause := l.Cause(); cause != nil {
		err = cause
	}
	return fmt.Errorf("redislimit: %w", err)
}
