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
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
	"github.com/freshetdev/freshet/cmd/freshet/internal/stats"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// A gateway is one run of freshet proxy or freshet demo.
type gateway struct {
	upstream    *url.URL
	listen      address
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

	// For the demo.
	label  string                        // of the upstream, in the banner
	notes  [][2]string                   // more lines for the banner
	try    func(gateway string) []string // lines for the banner
	shared store.Store                   // in place of what Open would make of store
	beside func(*accesslog.Log) (stop func(), err error)
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
	o := freshet.Options{Prefix: g.prefix, StaleAtMost: g.staleAtMost, Hooks: storeHooks(logs)}
	var client *freshet.Client
	var err error
	if g.shared != nil {
		client, err = freshet.New(g.shared, o)
	} else {
		client, err = g.openStore(ctx, o)
	}
	if err != nil {
		return err
	}
	serving := g.serve(ctx, client, logs, stdout)
	if err := client.Close(); err != nil {
		logs.Warn("closing the store", "error", err)
	}
	return serving
}

// openStore opens the shared level that the flags name. What is wrong with it is a matter of flags; that a server is away isn't.
func (g *gateway) openStore(ctx context.Context, o freshet.Options) (*freshet.Client, error) {
	if strings.ContainsAny(g.prefix, "{} \t\r\n") {
		return nil, usagef("--prefix %q: want a word without braces and white space", g.prefix)
	}
	if g.inMemory() && strings.Trim(g.store, "/") == "memory:" {
		s := memstore.NewServer(memstore.Options{MaxBytes: g.levelMemory()}).Connect()
		client, err := freshet.New(s, o)
		if err != nil {
			_ = s.Close()
		}
		return client, err
	}
	client, err := freshet.Open(ctx, g.store, o)
	if err != nil {
		return nil, storeFlagError(err)
	}
	return client, nil
}

func (g *gateway) inMemory() bool { return strings.HasPrefix(g.store, "memory:") }

// levelMemory is --max-memory for one level of the cache: both may be in this process.
func (g *gateway) levelMemory() int64 {
	if g.inMemory() {
		return g.maxMemory / 2
	}
	return g.maxMemory
}

// someAnswers is how many of the largest answers must have room in --max-memory: two in each of two levels. An answer for which a level
// has no room would be stored in vain again and again.
const someAnswers = 4

var storeURL = regexp.MustCompile(`url ("(?:[^"\\]|\\.)*"): (.*)$`)

// storeFlagError says what is wrong with --store. The engine names the URL as its own: without its password.
func storeFlagError(err error) error {
	m := storeURL.FindStringSubmatch(err.Error())
	if m == nil {
		return usagef("--store: %w", err)
	}
	url, why := m[1], m[2]
	if s, err := strconv.Unquote(url); err == nil {
		url = s
	}
	switch {
	case why == "no host":
		why += "; want a URL such as redis://localhost:6379"
	case strings.HasPrefix(why, "host is ") && strings.HasSuffix(why, "want host:port"):
		why += ", with a port from 1 to 65535"
	}
	return usagef("--store %s: %s", url, why)
}

func (g *gateway) serve(ctx context.Context, client *freshet.Client, logs *accesslog.Log, stdout io.Writer) error {
	cache, err := proxy.NewCache(client, proxy.CacheOptions{TTL: g.ttl, Grace: g.grace, Timeout: g.timeout, MaxMemory: g.levelMemory()})
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
	if g.beside != nil {
		stop, err := g.beside(logs)
		if err != nil {
			return err
		}
		defer stop()
	}
	counts, refreshes := new(stats.Stats), &refreshLog{logs: logs.Logger}
	transport := proxy.NewTransport()
	defer transport.CloseIdleConnections()
	handler, err := proxy.New(proxy.Options{
		Cache: cache, Upstream: g.upstream, TTL: g.ttl, MaxBody: g.maxBody, RewriteHost: g.rewriteHost, Transport: transport, Limits: limits, Overload: limiter,
		Hooks: proxy.Hooks{
			Origin: counts.Origin,
			Refreshed: func(r proxy.Refresh) {
				counts.Refreshed(r)
				refreshes.tell(r, time.Now())
			},
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
	l, err := listen("listen", g.listen)
	if errors.Is(err, errInUse) && g.anyPort {
		host, _, _ := net.SplitHostPort(string(g.listen))
		if l, err = listen("listen", address(net.JoinHostPort(host, "0"))); err == nil {
			logs.Warn("the port is taken, so another one was chosen", "wanted", string(g.listen), "listen", l.Addr().String())
		}
	}
	return l, err
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
	log := newStoreLog(logs, func(err error) {
		logs.Warn("the store is away: answers are loaded anew, and drops wait for it", "error", err)
	})
	return observe.Hooks{
		Link: func(l observe.Link) { log.note(l.Up, l.Err) },
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
	if !g.inMemory() {
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
	for _, n := range g.notes {
		fmt.Fprintf(w, "%s%-8s %s\n", indent, n[0], n[1])
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
		slog.Uint64("origin_calls", s.Origin), slog.Uint64("errors", s.Errors), slog.Uint64("refreshes_failed", s.Unrefreshed), slog.Uint64("over_limit", s.Limited), slog.Uint64("shed", s.Shed),
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
	case g.inMemory():
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
