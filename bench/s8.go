package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
)

// s8 measures how long an instance returns what another one has deleted.
var s8 = scenario{
	name:  "S8",
	title: "another instance writes and deletes",
	note: "A holds the key in process (TTL 5 s); B writes the row and deletes the key. For how long does A return the old value, counted from " +
		"before B's delete? Up to 200 repeats (as many as fit into 12 s). \"cut\": A's connection to Redis hangs from before the delete.",
	variants: []string{"connected", "cut"},
	rounds:   2,
	suits:    func(a adapters.Adapter, _ string) bool { return a.Redis && a.Layer && a.Kind != adapters.Yardstick },
	run:      runStaleness,
	tables: []table{{columns: []column{
		{head: "p50 ms", variant: "connected", metric: "p50_ms", format: "%.2f"},
		{head: "p99 ms", variant: "connected", metric: "p99_ms", format: "%.2f"},
		{head: "repeats", variant: "connected", metric: "repeats", format: "%.0f"},
		{head: "B's delete p50 ms", variant: "connected", metric: "delete_ms", format: "%.2f"},
		{head: "channel cut: ms", variant: "cut", metric: "p50_ms", format: "%.0f"},
	}}},
}

// staleCap ends the wait for a cache that would never notice.
const staleCap = 8 * time.Second

func runStaleness(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	src := &source{}
	cfg := adapters.Config{Addr: c.Addr, Load: src.load, TTL: time.Minute, L1: 10_000, L1TTL: 5 * time.Second}
	b, err := a.New(cfg)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	link, err := newLink(c.Addr)
	if err != nil {
		return nil, err
	}
	defer link.close()
	if c.Variant == "cut" {
		cfg.Addr = link.addr()
	}
	reader, err := a.New(cfg)
	if err != nil {
		return nil, err
	}
	defer reader.Close()

	repeats, budget := pick(c, 200, 20), pick(c, 12*time.Second, time.Second)
	if c.Variant == "cut" {
		repeats = 1
	}
	var stale, deletes []time.Duration
	for begin := time.Now(); len(stale) < repeats && (len(stale) == 0 || time.Since(begin) < budget); {
		key := fmt.Sprintf("row:%d", len(stale))
		for range 2 { // B holds it, too
			if err := firstError(fill(ctx, reader, []string{key}), fill(ctx, b, []string{key})); err != nil {
				return nil, err
			}
		}
		time.Sleep(10 * time.Millisecond) // so that background work is done
		if c.Variant == "cut" {
			time.Sleep(300 * time.Millisecond)
			link.cut()
		}
		src.write(key, 2)
		start := time.Now()
		deleted := make(chan error, 1)
		var took time.Duration
		go func() {
			err := b.Del(ctx, key)
			took = time.Since(start)
			deleted <- err
		}()
		stale = append(stale, untilFresh(ctx, reader, key, start))
		if err := <-deleted; err != nil {
			return nil, fmt.Errorf("delete: %w", err)
		}
		deletes = append(deletes, took)
	}
	return Metrics{
		"p50_ms":    ms(quantile(stale, 0.5)),
		"p99_ms":    ms(quantile(stale, 0.99)),
		"repeats":   float64(len(stale)),
		"delete_ms": ms(quantile(deletes, 0.5)),
	}, nil
}

// untilFresh polls every 50 µs or so for ten milliseconds, then once a millisecond. It sleeps in between: a loop without that
// would keep one of few cores from Redis and from the goroutines that it waits for.
func untilFresh(ctx context.Context, cache adapters.Cache, key string, start time.Time) (last time.Duration) {
	for {
		asked := time.Since(start)
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		p, err := cache.Get(ctx, key)
		cancel()
		if err == nil && p.Version >= 2 {
			return last
		}
		if err == nil {
			last = time.Since(start) // an error is not an old value
		}
		if asked > staleCap {
			return last // never noticed, or answers with errors only
		}
		pause := 50 * time.Microsecond
		if asked > 10*time.Millisecond {
			pause = time.Millisecond
		}
		time.Sleep(pause)
	}
}

// A link is a TCP relay that can stop forwarding without closing anything.
type link struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	conns []net.Conn    // guarded by mu
	hung  chan struct{} // closed by cut
	once  sync.Once
}

func newLink(target string) (*link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: listener, target: target, hung: make(chan struct{})}
	go l.serve()
	return l, nil
}

func (l *link) addr() string { return l.listener.Addr().String() }
func (l *link) cut()         { l.once.Do(func() { close(l.hung) }) }

func (l *link) close() {
	_ = l.listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
}

func (l *link) serve() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, near, far)
		l.mu.Unlock()
		go l.forward(near, far)
		go l.forward(far, near)
	}
}

func (l *link) forward(from, to net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		select {
		case <-l.hung:
			return // keep both sides open: that is what a hang looks like
		default:
		}
		if n > 0 {
			if _, werr := to.Write(b[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}
