package testenv

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A FaultProxy forwards TCP connections to a target until it is told to break them. In the
// direction to the client it knows the push frames of RESP3, so that single messages can be
// lost or doubled; any other protocol passes through unharmed.
type FaultProxy struct {
	t      testing.TB
	addr   string
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex
	wake   sync.Cond // mu; frozen, delay or a link's end has changed
	lis    net.Listener
	links  map[*link]bool
	frozen bool
	delay  time.Duration
	closed bool

	old, new []byte // see Rewrite; guarded by mu

	filterMu sync.Mutex // one push at a time is shown to the filter
	filter   func(frame []byte) (copies int)
}

// Proxy starts a proxy on loopback. The target is host:port, or the path of a Unix socket. It
// ends with the test.
func Proxy(t testing.TB, target string) *FaultProxy {
	t.Helper()
	lis, err := listen()
	if err != nil {
		t.Fatalf("testenv: %v", err)
	}
	return proxyOn(t, lis, target)
}

func proxyOn(t testing.TB, lis net.Listener, target string) *FaultProxy {
	p := &FaultProxy{t: t, addr: lis.Addr().String(), target: target, links: map[*link]bool{}}
	p.wake.L = &p.mu
	p.serve(lis)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Addr returns the host:port to connect to.
func (p *FaultProxy) Addr() string { return p.addr }

// Cut closes all connections and refuses new ones, as if the server had died.
func (p *FaultProxy) Cut() {
	p.mu.Lock()
	lis := p.lis
	p.lis = nil
	p.closeLinksLocked()
	p.mu.Unlock()
	if lis != nil {
		lis.Close()
	}
}

// Reset closes all connections and goes on accepting new ones.
func (p *FaultProxy) Reset() {
	p.mu.Lock()
	p.closeLinksLocked()
	p.mu.Unlock()
}

// Freeze makes all connections half-open: new ones are accepted, nothing is forwarded in either
// direction, no end is told that the other has gone.
func (p *FaultProxy) Freeze() { p.set(func() { p.frozen = true }) }

// Thaw ends Freeze. What was sent meanwhile is forwarded.
func (p *FaultProxy) Thaw() { p.set(func() { p.frozen = false }) }

// Delay forwards every byte d later, in both directions: a round trip takes 2d longer.
func (p *FaultProxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// FilterPushes shows each push frame from the server to f, one at a time, and passes it on as
// often as f says: 0 loses it, 2 doubles it. Confirmations of subscriptions are
// pushes, too. Nil passes all. It acts on open connections as well.
func (p *FaultProxy) FilterPushes(f func(frame []byte) (copies int)) {
	p.filterMu.Lock()
	p.filter = f
	p.filterMu.Unlock()
}

// DropPushes loses the push frames that match reports.
func (p *FaultProxy) DropPushes(match func(frame []byte) bool) {
	p.FilterPushes(func(frame []byte) int {
		if match(frame) {
			return 0
		}
		return 1
	})
}

// Rewrite puts one text in place of another of the same length in what the target says on links that
// are made from now on. Restore doesn't undo it.
func (p *FaultProxy) Rewrite(old, new string) {
	p.t.Helper()
	if len(old) != len(new) || old == "" {
		p.t.Fatalf("testenv: rewrite %q to %q; want the same length", old, new)
	}
	p.set(func() { p.old, p.new = []byte(old), []byte(new) })
}

// Restore undoes Cut, Freeze, Delay and the filter. Connections that were closed stay so.
func (p *FaultProxy) Restore() {
	p.t.Helper()
	p.FilterPushes(nil)
	p.set(func() { p.frozen, p.delay = false, 0 })
	p.mu.Lock()
	cut := p.lis == nil && !p.closed
	p.mu.Unlock()
	if !cut {
		return
	}
	lis, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Fatalf("testenv: restore proxy: %v", err)
	}
	p.serve(lis)
}

// Links returns the number of open connections.
func (p *FaultProxy) Links() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

func (p *FaultProxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.wake.Broadcast()
}

func (p *FaultProxy) closeLinksLocked() {
	for l := range p.links {
		l.closeLocked()
	}
}

func (p *FaultProxy) serve(lis net.Listener) {
	p.mu.Lock()
	p.lis = lis
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			client, err := lis.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			if p.lis != lis { // cut while it was accepted
				p.mu.Unlock()
				client.Close()
				continue
			}
			l := &link{proxy: p, client: client}
			p.links[l] = true
			p.wg.Go(l.run)
			p.mu.Unlock()
		}
	})
}

func (p *FaultProxy) copies(frame []byte) int {
	p.filterMu.Lock()
	defer p.filterMu.Unlock()
	if p.filter == nil {
		return 1
	}
	return p.filter(frame)
}

// A link is one connection through the proxy. Its fields are guarded by proxy.mu; the connections
// themselves are used without it.
type link struct {
	proxy  *FaultProxy
	client net.Conn
	server net.Conn
	ended  bool
}

func (l *link) run() {
	p := l.proxy
	network := "tcp"
	if strings.HasPrefix(p.target, "/") {
		network = "unix"
	}
	server, err := net.DialTimeout(network, p.target, patience)
	p.mu.Lock()
	if err == nil && l.ended {
		server.Close()
	}
	if err != nil || l.ended {
		l.closeLocked()
		p.mu.Unlock()
		return
	}
	l.server = server
	rewrite := rewriter{old: p.old, new: p.new}
	p.mu.Unlock()

	split := splitter{push: p.copies}
	var wg sync.WaitGroup
	wg.Go(func() { l.pump(server, l.client, func(b []byte) []byte { return b }) })
	wg.Go(func() {
		l.pump(l.client, server, func(b []byte) []byte {
			b = split.feed(nil, b)
			if len(rewrite.old) > 0 {
				b = rewrite.feed(b)
			}
			return b
		})
	})
	wg.Wait()
}

// pump forwards what change makes of src to dst until one of them ends, and ends the link.
func (l *link) pump(dst, src net.Conn, change func([]byte) []byte) {
	type chunk struct {
		data []byte
		came time.Time
	}
	// The queue holds what is under way, so that a delay lengthens the link
	// without narrowing it. When it is full, the sender feels it, as with a full window.
	queue := make(chan chunk, 1024)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(queue)
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			if n > 0 {
				queue <- chunk{append([]byte(nil), buf[:n]...), time.Now()}
			}
			if err != nil {
				return
			}
		}
	})
	for c := range queue {
		if !l.passes(c.came) {
			continue // drain, so that the reader ends
		}
		if _, err := dst.Write(change(c.data)); err != nil {
			l.close()
		}
	}
	wg.Wait()
	l.passes(time.Now()) // the end, too, is told only when nothing is frozen
	l.close()
}

// passes waits until what came at that time may be forwarded. It reports false if the link
// ended before.
func (l *link) passes(came time.Time) bool {
	p := l.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	for !l.ended {
		rest := time.Until(came.Add(p.delay))
		switch {
		case p.frozen:
			p.wake.Wait()
		case rest > 0:
			// Woken earlier when the delay is taken back or the link is cut.
			alarm := time.AfterFunc(rest, func() { p.set(func() {}) })
			p.wake.Wait()
			alarm.Stop()
		default:
			return true
		}
	}
	return false
}

func (l *link) close() {
	l.proxy.mu.Lock()
	defer l.proxy.mu.Unlock()
	l.closeLocked()
}

func (l *link) closeLocked() {
	if l.ended {
		return
	}
	l.ended = true
	delete(l.proxy.links, l)
	l.client.Close()
	if l.server != nil {
		l.server.Close()
	}
	l.proxy.wake.Broadcast()
}
