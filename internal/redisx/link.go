package redisx

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
)

// A Link is what is known of a connection to a server, from up to down: how many calls are unanswered, and why it was lost.
type Link struct {
	sent, done atomic.Int64 // numbers of the last call sent, and of the last answered

	lost chan struct{}
	mu   sync.Mutex
	err  error // guarded by mu: why lost
}

// NewLink makes one that isn't lost.
func NewLink() *Link { return &Link{lost: make(chan struct{})} }

// Watch returns nc, which tells the link when it ends. rueidis closes it once anything is wrong: silent is why, unless
// there was another reason before.
func (l *Link) Watch(nc net.Conn, silent error) net.Conn {
	return &conn{Conn: nc, link: l, silent: silent}
}

type conn struct {
	net.Conn
	link   *Link
	silent error
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.link.Fail(err)
	}
	return n, err
}

func (c *conn) Close() error {
	c.link.Fail(c.silent)
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn().Close() // a TLS goodbye to a hung peer takes seconds
	}
	return c.Conn.Close()
}

// Fail says that the link is lost. The first reason stays.
func (l *Link) Fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.lost)
	}
}

// Lost is closed when the link is lost.
func (l *Link) Lost() <-chan struct{} { return l.lost }

// Cause is why it was lost; nil if it wasn't.
func (l *Link) Cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Send counts a call that is about to be sent, and returns its number.
func (l *Link) Send() int64 { return l.sent.Add(1) }

// Answered notes that a call was answered. Answers come in order, so it answers all before it, those given up included.
func (l *Link) Answered(id int64) {
	for {
		d := l.done.Load()
		if id <= d || l.done.CompareAndSwap(d, id) {
			return
		}
	}
}

// Behind is the number of calls that were sent and not answered.
func (l *Link) Behind() int64 { return l.sent.Load() - l.done.Load() }
