package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
	"github.com/freshetdev/freshet/cmd/freshet/internal/stats"
	"github.com/freshetdev/freshet/observe"
)

// A gateway is one run of freshet proxy or freshet demo.
type gateway struct {
	upstream    *url.URL
	listen      string
	anyPort     bool // if the port of listen is taken, take another
	ttl         time.Duration
	grace       time.Duration
	store       string
	prefix      string
	staleAtMost time.Duration
	maxBody     int64
	maxMemory   int64
	timeout     time.Duration
	rewriteHost bool
	limits      limits
	shed        bool
	format      accesslog.Format

	label string                        // of the upstream, in the banner
	try   func(gateway string) []string // lines for the banner
}

// drainTime is how long requests under way may take once the gateway was told to stop.
const drainTime = 10 * time.Second

// run serves until ctx ends, lets requests under way finish, and sums up. The banner and the summary
// go to stdout, log lines to stderr.
func (g *gateway) run(ctx context.Context, stdout, stderr io.Writer) error {
	logs := accesslog.New(stderr, g.format)
	if err := g.limits.check(); err != nil {
		return err
	}
	client, err := freshet.Open(ctx, g.store, freshet.Options{
		Prefix: g.prefix, StaleAtMost: g.staleAtMost, Hooks: storeHooks(logs),
	})
	if err != nil {
		return usagef("%w", err)
	}
	serving := g.serve(ctx, client, logs, stdout)
	if err := client.Close(); err != nil {
		logs.Warn("closing the store", "error", err)
	}
	return serving
}

func (g *gateway) serve(ctx context.Context, client *freshet.Client, logs *accesslog.Log, stdout io.Writer) error {
	cache, err := proxy.NewCache(client, proxy.CacheOptions{TTL: g.ttl, Grace: g.grace, Timeout: g.timeout, MaxMemory: g.maxMemory})
	if err != nil {
		return err
	}
	limits, closeLimits, err := g.limits.open(g.store, g.prefix, logs)
	if err != nil {
		return err
	}
	defer func() {
		if err := closeLimits(); err != nil {
			logs.Warn("closing the store of limits", "error", err)
		}
	}()
	limiter, err := g.limiter(logs)
	if err != nil {
		return err
	}
	counts := new(stats.Stats)
	transport := proxy.NewTransport()
	defer transport.CloseIdleConnections()
	handler, err := proxy.New(proxy.Options{
		Cache: cache, Upstream: g.upstream, TTL: g.ttl, MaxBody: g.maxBody, RewriteHost: g.rewriteHost, Transport: transport, Limits: limits, Overload: limiter,
		Hooks: proxy.Hooks{
			Origin: counts.Origin,
			Done: func(x proxy.Exchange) {
				counts.Done(x)
				logs.Request(x)
				if reason := counts.NothingStored(); reason != "" {
					words, advice := proxy.Explain(reason)
					logs.Warn("nothing is stored so far", "why", words, "try", advice)
				}
			},
		},
	})
	if err != nil {
		return err
	}
	listener, err := g.open(logs)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logs.Handler(), slog.LevelWarn),
	}
	g.hello(stdout, logs, listener.Addr())

	var helpers sync.WaitGroup
	helpers.Go(func() { g.checkUpstream(ctx, logs) })
	stopped := make(chan error, 1)
	helpers.Go(func() { stopped <- drainWhen(ctx, server) })
	err = server.Serve(listener)
	if errors.Is(err, http.ErrServerClosed) {
		err = <-stopped
	}
	if err != nil {
		// Either Serve failed, or draining took too long: who is still there is cut off.
		_ = server.Close()
	}
	if ctx.Err() != nil {
		helpers.Wait()
		if errors.Is(err, context.DeadlineExceeded) {
			logs.Warn("requests were cut off", "after", drainTime)
			err = nil
		}
	}
	g.goodbye(stdout, logs, addShed(counts.Summary(), limiter))
	return err
}

// drainWhen stops the server when ctx ends, giving requests under way some time.
func drainWhen(ctx context.Context, s *http.Server) error {
	<-ctx.Done()
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	return s.Shutdown(late)
}

// open listens.
func (g *gateway) open(logs *accesslog.Log) (net.Listener, error) {
	l, err := net.Listen("tcp", g.listen)
	if errors.Is(err, syscall.EADDRINUSE) && g.anyPort {
		host, _, _ := net.SplitHostPort(g.listen)
		if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err == nil {
			logs.Warn("the port is taken, so another one was chosen", "wanted", g.listen, "listen", l.Addr().String())
		}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--listen %s: the address is in use; choose another, or port 0 for any that is free", g.listen)
	case err != nil:
		return nil, fmt.Errorf("--listen %s: %w", g.listen, err)
	}
	return l, nil
}

// checkUpstream warns if nobody answers: perhaps the API is still starting.
func (g *gateway) checkUpstream(ctx context.Context, logs *accesslog.Log) {
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", dialAddress(g.upstream))
	switch {
	case err == nil:
		_ = conn.Close()
	case ctx.Err() == nil:
		logs.Warn("the upstream does not answer yet", "upstream", g.upstream.String(), "error", err)
	}
}

// storeHooks tells of what an operator should know of the store.
func storeHooks(logs *accesslog.Log) observe.Hooks {
	var mu sync.Mutex
	up := true
	return observe.Hooks{
		Link: func(l observe.Link) {
			mu.Lock()
			changed := l.Up != up
			up = l.Up
			mu.Unlock()
			switch {
			case changed && l.Up:
				logs.Info("the store answers again")
			case changed:
				logs.Warn("the store is away: answers are loaded anew, and drops wait for it", "error", l.Err)
			}
		},
		Panic: func(p observe.Panic) {
			logs.Error("panic", "cache", p.Cache, "value", fmt.Sprint(p.Value), "stack", string(p.Stack))
		},
	}
}

// hello says what was started, and what to try.
func (g *gateway) hello(w io.Writer, logs *accesslog.Log, addr net.Addr) {
	self, upstream := publicURL(addr), g.upstream.String()
	if g.label != "" {
		upstream = g.label
	}
	if logs.Format == accesslog.JSON {
		logs.Info("listening", "url", self, "upstream", upstream, "store", maskUserinfo(g.store), "ttl", g.ttl.String(), "grace", g.grace.String(), "limits", g.limits.String(), "version", versionString())
		return
	}
	store := "memory (this process only)"
	if !strings.HasPrefix(g.store, "memory:") {
		store = maskUserinfo(g.store)
	}
	policy := "ttl " + readable(g.ttl)
	if g.grace > 0 {
		policy += ", grace " + readable(g.grace)
	}
	name := fmt.Sprintf("freshet %s  ", versionString())
	indent := strings.Repeat(" ", len(name))
	fmt.Fprintf(w, "%sgateway  %s  ->  %s\n%scache    %s\n%sstore    %s\n", name, self, upstream, indent, policy, indent, store)
	if s := g.limits.String(); s != "" {
		fmt.Fprintf(w, "%slimits   %s\n", indent, s)
	}
	try := []string{"curl -i " + self + "/"}
	if g.try != nil {
		try = g.try(self)
	}
	for i, line := range try {
		label := "  try:  "
		if i > 0 {
			label = "        "
		}
		fmt.Fprintln(w, label+line)
	}
}

// publicURL is how to reach a listener from this machine.
func publicURL(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "http://" + addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// goodbye sums up.
func (g *gateway) goodbye(w io.Writer, logs *accesslog.Log, s stats.Summary) {
	if logs.Format != accesslog.JSON {
		fmt.Fprint(w, s.Text(g.advice(s)))
		return
	}
	logs.Info("summary",
		slog.Uint64("requests", s.Requests), slog.Uint64("hits", s.Hits), slog.Uint64("stale", s.Stale),
		slog.Uint64("origin_calls", s.Origin), slog.Uint64("errors", s.Errors), slog.Uint64("over_limit", s.Limited), slog.Uint64("shed", s.Shed),
		slog.Float64("p50_hit_ms", ms(s.HitTime)), slog.Float64("p50_miss_ms", ms(s.MissTime)), slog.Float64("saved_ms", ms(s.Saved())),
		slog.String("advice", g.advice(s)))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// advice is the one thing to try next.
func (g *gateway) advice(s stats.Summary) string {
	if s.Stored == 0 && len(s.Refused) > 0 {
		if _, advice := proxy.Explain(s.Refused[0].Reason); advice != "" {
			return advice
		}
	}
	for _, p := range s.Missed {
		if p.Noisy != "" {
			return fmt.Sprintf("leave %q out of the URL of %s: it makes every request a miss", p.Noisy, p.Name)
		}
	}
	switch {
	case g.label != "":
		return self() + " proxy http://127.0.0.1:3000 --ttl 30s, with the address of your own API"
	case g.grace == 0:
		return "--grace 5m answers at once while it refreshes, and goes on when the API fails"
	case strings.HasPrefix(g.store, "memory:"):
		return "--store redis://localhost:6379 shares the cache between gateways"
	}
	return ""
}

// self is how this program was called, for commands to try.
func self() string {
	if name := os.Args[0]; !filepath.IsAbs(name) {
		return name
	}
	return "freshet"
}
