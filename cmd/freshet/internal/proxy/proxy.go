// Package proxy is the gateway's HTTP side: a reverse proxy that answers what it may
// from a freshet cache and forwards the rest.
//
// A request is judged before anything else (cacheable.go). GET and HEAD without
// credentials are looked up under their method, host, URL and encoding; a miss is loaded once, however
// many ask. Everything else passes, streaming in both directions.
//
// An answer is judged when its header is there. What may be stored is read to its end, stored, and
// shared with all who wait. What may not goes, still open, to the one request that
// asked (handoff.go); those who waited ask the origin themselves. So nobody sees an answer that was
// meant for another, and no body is held that won't be kept.
//
// A write (PUT, POST, …) that the origin did not refuse drops what is stored of its URL before
// its answer is passed on: who has seen the answer sees the effect, on every gateway.
//
// Limits come before all that: a request that is over one is answered before the cache is asked (limit.go).
//
// Not done here, on purpose: RFC 9111 in full. Freshness is --ttl, which the origin can shorten
// but not extend; client directives other than no-store are not obeyed; answers that vary by
// more than their encoding are not stored. Package httpcache is for that.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/limit/httplimit"
	"github.com/freshetdev/freshet/limit/overload"
	"github.com/freshetdev/freshet/observe"
)

// A Cache is the engine's cache of stored answers. See [NewCache].
type Cache = freshet.Cache[string, *Response]

// Options configure a Proxy. Cache, Upstream and TTL are required.
type Options struct {
	Cache    *Cache
	Upstream *url.URL
	TTL      time.Duration // of answers; see [NewCache]
	MaxBody  int64         // larger bodies pass uncached. Default 2 MiB.

	// RewriteHost sends the upstream's own name as Host. By default the upstream sees
	// the Host that the client sent, as if there were no gateway.
	RewriteHost bool

	// Transport reaches the upstream. Default [NewTransport].
	Transport http.RoundTripper

	// Limits is asked before anything else. Its Options.Refuse must be [Refused]. Default: no limits.
	Limits *httplimit.Middleware
	// Overload, if there is one, limits the requests to the upstream; what the cache answers isn't limited. See shed.go.
	Overload *overload.Limiter

	Hooks Hooks
}

// Hooks are told what happens; any may be nil. They are called on the path of a request.
type Hooks struct {
	Done   func(Exchange)                      // a request was answered, or given up
	Origin func(took time.Duration, err error) // the origin was asked; the header of its answer took that long

	Refreshed func(Refresh) // a load in the background ended; nobody waits for it
}

// A Proxy is the gateway as a handler.
type Proxy struct {
	opts      Options
	id        string // in CDN-Loop
	private   shortMemory
	refreshes refreshes
	forward   httputil.ReverseProxy
}

// New returns a Proxy.
func New(o Options) (*Proxy, error) {
	switch {
	case o.Cache == nil || o.Upstream == nil:
		return nil, errors.New("proxy: Options.Cache and Options.Upstream are required")
	case o.TTL <= 0:
		return nil, fmt.Errorf("proxy: Options.TTL is %v; want more than zero", o.TTL)
	}
	if o.MaxBody == 0 {
		o.MaxBody = DefaultMaxBody
	}
	if o.Transport == nil {
		o.Transport = NewTransport()
	}
	if o.Overload != nil {
		o.Transport = o.Overload.Transport(o.Transport, priorityOf)
	}
	p := &Proxy{opts: o, id: newLoopID()}
	p.forward = httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      passTransport{p},
		ModifyResponse: p.passing,
		ErrorHandler:   p.failed,
		BufferPool:     &bufferPool{},
		ErrorLog:       log.New(io.Discard, "", 0), // broken bodies: the Exchange says so
	}
	return p, nil
}

// DefaultMaxBody is the size over which bodies pass uncached, unless Options say otherwise.
const DefaultMaxBody = 2 << 20

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &Exchange{Time: time.Now(), Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery}
	defer p.finish(x)
	w = &recorder{ResponseWriter: w, x: x}
	if p.opts.Limits == nil {
		p.serve(w, r, x)
		return
	}
	p.opts.Limits.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, x) })).ServeHTTP(w, r)
}

// serve answers a request that is within its limits.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, x *Exchange) {
	switch reason := judgeRequest(r); {
	case p.loops(r):
		p.problem(w, r, x, http.StatusLoopDetected, ReasonLoop)
	case r.Method == http.MethodConnect:
		p.problem(w, r, x, http.StatusMethodNotAllowed, ReasonMethod)
	case reason != "":
		x.Outcome, x.Reason = Pass, reason
		p.pass(w, r, &passage{x: x, in: r})
	default:
		p.lookup(w, r, x)
	}
}

// finish reports the exchange, also when its handler is aborted by a panic: that is how
// net/http has a handler tell that the rest of a body won't come.
func (p *Proxy) finish(x *Exchange) {
	x.Took = time.Since(x.Time)
	aborted := recover()
	x.Aborted = aborted != nil
	if p.opts.Hooks.Done != nil {
		p.opts.Hooks.Done(*x)
	}
	if aborted != nil {
		panic(aborted)
	}
}

// lookup answers from the cache, or by a load that this request joins or leads.
func (p *Proxy) lookup(w http.ResponseWriter, r *http.Request, x *Exchange) {
	l := &load{proxy: p, request: r, encoding: acceptedEncoding(r.Header["Accept-Encoding"])}
	l.key = resourceOf(r).key(r.Method, l.encoding)
	if reason := p.private.recall(l.key, x.Time); reason != "" {
		x.Outcome, x.Reason = Pass, reason
		p.pass(w, r, &passage{x: x, in: r, key: l.key, encoding: l.encoding})
		return
	}

	res, err := p.opts.Cache.LookupFunc(r.Context(), l.key, l.run)
	live, refused := l.handoff.take()
	x.Reason, x.Joined = res.Reason, res.Joined
	switch {
	case live != nil && (err != nil || res.Level == observe.LevelSource):
		x.Outcome, x.Reason = Miss, refused
		p.pass(w, r, &passage{x: x, in: r, live: live})
		return
	case live != nil: // there is an old answer, and it will do
		_ = live.Body.Close()
	}
	switch {
	case err != nil:
		p.noAnswer(w, r, x, err)
	case res.Value == nil || res.Value.Header == nil:
		// A load that handed its answer to another. Ask for ourselves.
		x.Outcome = Pass
		p.pass(w, r, &passage{x: x, in: r, key: l.key, encoding: l.encoding})
	default:
		if res.Level == observe.LevelSource && !res.Joined {
			for name, values := range l.limits {
				w.Header()[name] = append(w.Header()[name], values...) // beside what we say of our own
			}
		}
		p.answer(w, r, x, l.key, res)
	}
}

// answer sends what the cache holds or a load brought.
func (p *Proxy) answer(w http.ResponseWriter, r *http.Request, x *Exchange, key string, res freshet.Result[*Response]) {
	x.Age, x.TTL = res.Value.Age+res.Age, res.TTL
	switch {
	case res.Stale && res.Err != nil:
		x.Outcome, x.Reason, x.Err = Stale, ReasonIfError, cause(res.Err)
		if oe, ok := errors.AsType[*OriginError](res.Err); ok && oe.Reason != observe.ReasonOverload {
			x.Forwarded, x.FwdStatus = true, oe.Status
		}
	case res.Stale && p.refreshes.failedSince(key, x.Time.Add(-res.Age)):
		x.Outcome, x.Reason = Stale, ReasonIfError // this request asked nobody: Hooks.Refreshed had the error
	case res.Stale:
		x.Outcome, x.Reason = Stale, ReasonWhileRevalidate
	case res.Level == observe.LevelSource:
		x.Outcome, x.Stored = Miss, res.Stored
		switch res.Refused {
		case "":
		case observe.ReasonNoStore: // loaded by ourselves, since the answer we waited for was not for us
			x.Reason = ""
		default:
			x.Reason = res.Refused
		}
	default:
		x.Outcome, x.Reason = Hit, ""
	}

	h := w.Header()
	if notModified(r.Header, res.Value.Header) {
		for _, name := range notModifiedFields {
			if v, ok := res.Value.Header[name]; ok {
				h[name] = v
			}
		}
		setOwnFields(h, x)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	for name, values := range res.Value.Header {
		h[name] = values
	}
	setOwnFields(h, x)
	if res.Value.Length >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(res.Value.Length, 10)}
	}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(res.Value.Body) // a client that left needs no answer
	}
}

// setOwnFields sets what the gateway says of a stored answer.
func setOwnFields(h http.Header, x *Exchange) {
	if x.Outcome != Miss || x.Joined || x.Age >= time.Second {
		h["Age"] = []string{strconv.FormatInt(int64(x.Age/time.Second), 10)}
	}
	setCacheStatus(h, x)
}

// noAnswer is the end of a request whose load failed, with nothing stale to offer.
func (p *Proxy) noAnswer(w http.ResponseWriter, r *http.Request, x *Exchange, err error) {
	x.Outcome, x.Err = Error, cause(err)
	oe, ok := errors.AsType[*OriginError](err)
	switch {
	case r.Context().Err() != nil:
		// The client left. The status is nginx's, for the log.
		x.Reason = ReasonClientGone
		w.WriteHeader(statusClientClosed)
	case ok && oe.Status > 0:
		// We joined a load whose answer was an error. Another's answer is not ours to see.
		x.Outcome, x.Err = Pass, nil
		p.pass(w, r, &passage{x: x, in: r})
	case ok && oe.Reason == ReasonTimeout, errors.Is(err, context.DeadlineExceeded):
		p.problem(w, r, x, http.StatusGatewayTimeout, ReasonTimeout)
	case ok && oe.Reason == observe.ReasonOverload, errors.Is(err, freshet.ErrOverloaded):
		p.shed(w, r, x)
	case ok:
		p.problem(w, r, x, http.StatusBadGateway, oe.Reason)
	default:
		p.problem(w, r, x, http.StatusBadGateway, ReasonUnreachable)
	}
}

const statusClientClosed = 499

// cause is an error of the engine without what the Exchange says already: the key, whose query may hold secrets, and the reason.
func cause(err error) error {
	if le, ok := errors.AsType[*freshet.LoadError](err); ok {
		err = le.Err
	}
	if oe, ok := errors.AsType[*OriginError](err); ok && oe.Err != nil {
		err = oe.Err
	}
	return err
}

func (p *Proxy) problem(w http.ResponseWriter, r *http.Request, x *Exchange, status int, reason observe.Reason) {
	x.Outcome, x.Reason = Error, reason
	setCacheStatus(w.Header(), x)
	writeProblem(w, r, status, reason)
}

// loops reports whether the request came through this gateway before: its upstream is
// itself, perhaps by a detour (RFC 8586).
func (p *Proxy) loops(r *http.Request) bool {
	for _, line := range r.Header["Cdn-Loop"] {
		if strings.Contains(line, p.id) {
			return true
		}
	}
	return false
}
