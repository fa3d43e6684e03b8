package redisstore

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/store"
)

// The times of a link.
const (
	// A silent connection is pinged after idleTime and given up answerTime later. Callers
	// don't wait for that: their budget is shorter.
	idleTime   = 300 * time.Millisecond
	answerTime = 2 * time.Second

	// Pauses between tries: the first is short, since most losses are a restart or a
	// failover; the last keeps a fleet of clients from hammering a dead address and
	// still finds a server back within two seconds.
	firstPause = 25 * time.Millisecond
	earlyPause = 250 * time.Millisecond
	latePause  = time.Second
	earlyTries = 40 // about ten seconds
)

// maxBehind is how many calls may be unanswered. It counts those given up too, which
// still fill rueidis's ring until they are answered: with maxWriting more on their way
// there must be room in its 1024 slots.
const maxBehind = 640

// A dialer makes links. rueidis connects and reconnects inside the calls of whoever
// comes first, who then waits for it; a dedicated connection is instead made once,
// here, and is of one generation. It is used by all callers at once, which a pipe of
// rueidis under AlwaysPipelining allows. Its hooks run in the goroutine that reads
// the connection, before the next answer is handed over: that is what Head relies on
// (channels, as of Receive, would let an answer overtake a message).
type dialer struct {
	client rueidis.Client
	making atomic.Pointer[link] // the link that a dial is for; nil refuses to dial
	tracks bool
}

var errNotNow = errors.New("redisstore: only links connect")

func (s *Store) newDialer(t redisx.Target, tracks bool) (*dialer, error) {
	d := &dialer{tracks: tracks}
	o := rueidis.ClientOption{
		InitAddress:       []string{cmp.Or(t.Addr, "unknown")},
		Username:          t.User,
		Password:          t.Password,
		SelectDB:          t.DB,
		ClientName:        s.opts.Name,
		ForceSingleClient: true,
		AlwaysPipelining:  true,
		PipelineMultiplex: -1,
		DisableRetry:      true,
		DisableCache:      !tracks,
		RingScaleEachConn: 10,
		ConnWriteTimeout:  answerTime,
		Dialer:            net.Dialer{Timeout: answerTime, KeepAlive: idleTime}, // of the greeting, too
		DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
			l := d.making.Load()
			if l == nil {
				return nil, errNotNow
			}
			return l.dial()
		},
	}
	if tracks {
		// Not OPTIN, so every read is tracked, and not our own writes.
		o.ClientTrackingOptions = []string{"NOLOOP"}
	}
	// NewClient dials at once, for a connection of its own that we don't need.
	var err error
	if d.client, err = rueidis.NewClient(o); d.client == nil {
		return nil, fmt.Errorf("redisstore: %w", err)
	}
	return d, nil
}

// A link is one connection to a server: the same from up to down.
type link struct {
	*redisx.Link
	node   *node
	to     redisx.Target
	parts  []int // partitions whose announcements it hears
	tracks bool
	split  bool   // RESP2: messages arrive on a second connection
	server string // the server's history, see store.Link; empty if it doesn't tell
	client rueidis.DedicatedClient

	patience time.Duration // with each step of the greeting

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

// dial makes one connection of l.
func (l *link) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.node.ctx, l.patience)
	defer cancel()
	nc, err := l.to.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c := l.Watch(nc, errSilent)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, c)
	return c, nil
}

var (
	errSilent = fmt.Errorf("redisstore: no answer within %v", answerTime)
	errEnded  = errors.New("redisstore: closed here")
)

// close ends the connections, first the sockets: rueidis alone would wait a second for a
// last answer.
func (l *link) close() {
	l.Fail(errEnded)
	l.mu.Lock()
	conns := l.conns
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	l.client.Close()
}

// keepLink makes links until the node is given up.
func (n *node) keepLink() {
	defer close(n.stopped)
	slow := 0 // greetings in a row that took too long
	for try := 0; n.ctx.Err() == nil; try++ {
		// First the loss of the link before is told. What is read over a new one, from a server that may have lost what the
		// other had, must not be taken for read over that.
		if n.s.events.flush(n.ctx) != nil {
			break
		}
		began := time.Now()
		l, err := n.connect(patience(slow))
		if slow++; !tooLong(err) {
			slow = 0
		}
		if err == nil {
			n.gate.raised(l)
			if n.s.place.Kind == redisx.Sentinel {
				n.watching.Go(func() { n.s.watchSentinels(l) })
			}
			if n.s.many != nil {
				n.checkParts() // they may have moved while it connected
			}
			err = n.tend(l)
		}
		if n.ctx.Err() != nil {
			err = store.ErrClosed
		}
		n.gate.lost(err)
		if n.s.many != nil {
			n.s.many.look("")
		}
		if l != nil {
			l.close()
		}
		if time.Since(began) > 2*redisx.ConnectTime {
			try = 0
		}
		select {
		case <-time.After(pause(try)):
		case <-n.ctx.Done():
		}
	}
}

// pause returns how long to wait after a try, jittered by half.
func pause(try int) time.Duration {
	d := latePause
	if try < earlyTries {
		d = min(firstPause<<min(try, 10), earlyPause)
	}
	return d/2 + rand.N(d/2)
}

// patience is how long a step may take after this many tries that took too long. On a machine without time to spare for us,
// one that always gives up after the same time makes connections for nothing, and takes time from others.
func patience(slow int) time.Duration { return redisx.ConnectTime * time.Duration(min(1+slow/2, 2)) }

func tooLong(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errSilent)
}

// connect makes a link: with tracking, or without it where the server refuses that.
func (n *node) connect(patience time.Duration) (*link, error) {
	to, err := n.locate(n.ctx)
	if err != nil {
		return nil, fmt.Errorf("redisstore: %w", err)
	}
	l, err := n.connectBy(n.tracking, to, patience)
	if errors.Is(err, rueidis.ErrNoCache) {
		l, err = n.connectBy(n.bare, to, patience)
	}
	if err != nil {
		return nil, fmt.Errorf("redisstore: connect to %s: %w", to, err)
	}
	return l, nil
}

func (n *node) connectBy(d *dialer, to redisx.Target, patience time.Duration) (_ *link, err error) {
	s := n.s
	l := &link{Link: redisx.NewLink(), node: n, to: to, parts: n.parts(), tracks: d.tracks, patience: patience}
	d.making.Store(l)
	defer d.making.Store(nil)
	stop := context.AfterFunc(n.ctx, func() { // so that Close needn't wait for a greeting
		l.mu.Lock()
		conns := l.conns
		l.mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	defer stop()
	l.client, _ = d.client.Dedicate()
	defer func() {
		if err != nil {
			l.close()
		}
	}()

	// A server that loads its data greets, but does not answer to PING.
	if err = l.do(n.ctx, s.build.Ping().Build())[0].Error(); err != nil {
		return nil, err
	}
	if s.moves {
		if err = primary(l.do(n.ctx, s.build.Role().Build())[0]); err != nil {
			return nil, err
		}
	}
	l.client.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) { n.message(l, m) },
		OnSubscription: func(sub rueidis.PubSubSubscription) {
			if sub.Kind == "sunsubscribe" { // nobody asked for it: the slot moved
				s.many.look("")
			}
		},
	})
	if l.tracks {
		l.client.SetOnInvalidations(func(m []rueidis.RedisMessage) { n.invalidated(l, m) })
	}
	ctx, cancel := context.WithTimeout(n.ctx, patience)
	defer cancel()
	if err = l.subscribe(ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.split = len(l.conns) > 1
	l.mu.Unlock()

	sent := time.Now()
	now, err := serverTime(l.do(n.ctx, s.build.Time().Build())[0])
	if err != nil {
		return nil, err
	}
	received := time.Now()
	res := l.do(n.ctx, s.build.Info().Section("server").Build(), s.build.Info().Section("replication").Build(),
		s.build.CommandInfo().CommandName(needs...).Build())
	l.server = history(res[:2])
	if err = missing(res[2]); err != nil {
		return nil, err
	}
	for _, part := range l.parts {
		s.clocks[part].heard(now, sent, received)
	}
	if s.many != nil {
		if err = n.checkCount(n.ctx, l); err != nil {
			return nil, err
		}
		if err = n.redo(n.ctx, l, now); err != nil {
			return nil, err
		}
	}
	loadScripts(n.ctx, l)
	return l, nil
}

// do is a step of a greeting.
func (l *link) do(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	return l.client.DoMulti(ctx, cmds...)
}

// needs are the commands without which nothing works, and of which a script would only say that it called an unknown one: that of
// line 12.
var needs = []string{
	"DEL", "EVAL", "EVALSHA", "EXISTS", "GET", "GETEX", "HMGET", "HSET", "MGET", "PTTL", "PUBLISH", "SET", "STRLEN", "TYPE", "UNLINK",
	"XADD", "XINFO", "XRANGE",
}

// missing reads the answer to COMMAND INFO. A server that doesn't tell may have them all.
func missing(res rueidis.RedisResult) error {
	infos, err := res.ToArray()
	if err != nil || len(infos) != len(needs) {
		return nil
	}
	var names []string
	for i := range infos {
		if infos[i].IsNil() {
			names = append(names, needs[i])
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("the server has no %s; freshet needs Redis 6.2 or later, or Valkey, with no command renamed", strings.Join(names, ", "))
}

// history names the history that a server keeps, from its INFO: a restart changes the run id, and so does a
// failover to another; one that was a replica in between has another replication id.
func history(info []rueidis.RedisResult) string {
	var ids [2]string
	for i, field := range [2]string{"run_id:", "master_replid:"} {
		text, err := info[i].ToString()
		if err != nil {
			return ""
		}
		_, rest, ok := strings.Cut(text, field)
		if ids[i], _, _ = strings.Cut(rest, "\r"); !ok || ids[i] == "" {
			return ""
		}
	}
	return ids[0] + "/" + ids[1]
}

// subscribe asks for the announcements of the partitions that lie on the link's server.
func (l *link) subscribe(ctx context.Context) error {
	s := l.node.s
	if len(l.parts) == 0 {
		return nil
	}
	if s.many != nil {
		err := l.subscribeShards(ctx)
		if e, ok := rueidis.IsRedisErr(err); !ok || !strings.Contains(e.Error(), "unknown command") {
			return err
		}
		// Before Redis 7 there is none: the scripts announce by ordinary Pub/Sub then.
	}
	channels := make([]string, len(l.parts))
	for i, p := range l.parts {
		channels[i] = s.parts[p].channel
	}
	return l.client.Do(ctx, s.build.Subscribe().Channel(channels...).Build()).Error()
}

func (l *link) subscribeShards(ctx context.Context) error {
	for _, p := range l.parts { // one command each: they are in different slots
		s := l.node.s
		if err := l.client.Do(ctx, s.build.Ssubscribe().Channel(s.parts[p].channel).Build()).Error(); err != nil {
			return err
		}
	}
	return nil
}

var errDemoted = errors.New("the server is a replica now")

// primary reads the answer to ROLE.
func primary(res rueidis.RedisResult) error {
	role, err := res.ToArray()
	if err != nil {
		return fmt.Errorf("role: %w", err)
	}
	if len(role) == 0 {
		return errStrange
	}
	if is, _ := role[0].ToString(); is != "master" {
		return errDemoted
	}
	return nil
}

// message is called by rueidis's reader.
func (n *node) message(l *link, m rueidis.PubSubMessage) {
	for i, p := range n.s.parts {
		if p.channel == m.Channel {
			// A message that isn't ours is as good as lost: the chain shows it.
			if e, err := decodeMessage(m.Message); err == nil {
				n.s.events.logged(l, i, e)
			}
		}
	}
}

// invalidated is called by rueidis's reader.
func (n *node) invalidated(l *link, m []rueidis.RedisMessage) {
	if m == nil {
		// rueidis says so too when the connection ends; that the link went down is told on its own.
		if l.Cause() == nil {
			n.s.events.changed(l, nil)
		}
		return
	}
	names := make([]string, 0, len(m))
	for i := range m {
		if name, err := m[i].ToString(); err == nil {
			names = append(names, name)
		}
	}
	n.s.events.changed(l, names)
}

// tend watches over a link that is up, and returns why it ended. It probes the server when
// somebody suspects it, but not more often than ProbeEvery.
func (n *node) tend(l *link) error {
	for {
		select {
		case <-n.ctx.Done():
			return store.ErrClosed
		case <-l.Lost():
			return l.Cause()
		case <-n.gate.suspect:
		}
		for well := false; !well; {
			well = n.gate.probed(l, n.probe(l))
			select {
			case <-n.ctx.Done():
				return store.ErrClosed
			case <-l.Lost():
				return l.Cause()
			case <-time.After(n.s.opts.ProbeEvery):
			}
		}
	}
}

// probe asks for any answer within the budget.
func (n *node) probe(l *link) error {
	ctx, cancel := context.WithTimeout(n.ctx, n.s.opts.Budget)
	defer cancel()
	id := l.Send()
	err := l.client.Do(ctx, n.s.build.Ping().Build()).Error()
	if err == nil {
		l.Answered(id)
	} else if errors.Is(err, context.DeadlineExceeded) {
		err = store.ErrTimeout
	}
	return err
}
