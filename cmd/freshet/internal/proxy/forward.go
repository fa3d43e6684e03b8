package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/limit/overload"
)

// NewTransport returns the transport to the upstream.
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy:       nil, // the upstream is named, so the environment has no say
		DialContext: (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,

		// Node closes idle connections after 5 s. Who uses one at that moment gets a reset, and
		// a POST can't be repeated; so we let go of them first.
		IdleConnTimeout:     4 * time.Second,
		MaxIdleConnsPerHost: 256,

		// What the client accepts is its own matter: bodies are never changed here.
		DisableCompression: true,

		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    5 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// A passage is a request on its way through the ReverseProxy. It travels in the context.
type passage struct {
	x    *Exchange
	in   *http.Request  // as the client sent it
	live *http.Response // the origin's answer, if it was asked already
	sent bool           // there was no answer, but the origin may have seen the request

	// Of a request that only passes because of an earlier answer: where that is noted.
	key      string
	encoding encoding
}

type passageKey struct{}

func passageOf(ctx context.Context) *passage {
	p, _ := ctx.Value(passageKey{}).(*passage)
	return p
}

// pass forwards a request, or the answer that a load got for it. The ReverseProxy knows
// about upgrades, trailers, flushing and interim answers.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, ps *passage) {
	ctx := context.WithValue(r.Context(), passageKey{}, ps)
	if ps.live != nil {
		// A client that leaves ends the body, which has a context of its own.
		defer context.AfterFunc(r.Context(), func() { _ = ps.live.Body.Close() })()
		defer ps.live.Body.Close()
	}
	p.forward.ServeHTTP(w, r.WithContext(ctx))
}

// passTransport is the ReverseProxy's way to the upstream.
type passTransport struct{ p *Proxy }

func (t passTransport) RoundTrip(out *http.Request) (*http.Response, error) {
	ps := passageOf(out.Context())
	if ps.live != nil {
		ps.live.Request = out
		return ps.live, nil
	}
	begun := time.Now()
	ctx, s := sending(out.Context())
	resp, err := t.p.opts.Transport.RoundTrip(out.WithContext(ctx))
	t.p.asked(begun, err)
	if err != nil {
		ps.sent = s.began(err)
		return nil, err
	}
	resp.Request = out
	return resp, nil
}

func (p *Proxy) asked(begun time.Time, err error) {
	if p.opts.Hooks.Origin != nil && !errors.Is(err, overload.ErrShed) {
		p.opts.Hooks.Origin(time.Since(begun), err)
	}
}

// rewrite turns a client's request into the one for the upstream. Loads use it too, so the
// origin can't tell a load from a request that passes.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest) {
	pr.SetURL(p.opts.Upstream)
	// The origin sees the query as the client wrote it, and so does the key.
	pr.Out.URL.RawQuery, pr.Out.URL.ForceQuery = pr.In.URL.RawQuery, pr.In.URL.ForceQuery
	if !p.opts.RewriteHost {
		pr.Out.Host = strings.ToLower(pr.In.Host)
	}
	// What the client says about the way here is not in the key, and none of its
	// business: the origin would answer with links to where the client wants them.
	for _, name := range forwardingFields {
		pr.Out.Header.Del(name)
	}
	pr.SetXForwarded()
	pr.Out.Header.Set("X-Forwarded-Host", strings.ToLower(pr.In.Host))
	pr.Out.Header.Add("Cdn-Loop", p.id)
	if _, ok := pr.Out.Header["User-Agent"]; !ok {
		pr.Out.Header.Set("User-Agent", "") // or the transport makes one up
	}
}

var forwardingFields = [...]string{
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
	"X-Forwarded-Scheme", "X-Forwarded-Server", "X-Forwarded-Ssl", "X-Forwarded-By",
}

// bufferPool lends the buffers that bodies are copied through.
type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, 32<<10)
}

func (b *bufferPool) Put(buf []byte) { b.pool.Put(&buf) }

func newLoopID() string { return "freshet-" + strings.ToLower(rand.Text()[:12]) }

// passing looks at an answer on its way to the client.
func (p *Proxy) passing(resp *http.Response) error {
	ps := passageOf(resp.Request.Context())
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		ps.x.Status = resp.StatusCode // the connection is handed over without a WriteHeader
		return nil
	case isUnsafe(resp.Request.Method) && mayHaveChanged(resp.StatusCode):
		p.invalidate(ps.in, resp.Header, ps.x)
	case ps.key != "":
		p.reconsider(resp, ps)
	}
	setCacheStatus(resp.Header, ps.x)
	return nil
}

// reconsider forgets that a key can't be stored when this answer could have been.
func (p *Proxy) reconsider(resp *http.Response, ps *passage) {
	v := judgeAnswer(answer{
		resp: resp, head: resp.Request.Method == http.MethodHead, encoding: ps.encoding,
		now: time.Now(), ttl: p.opts.TTL, maxBody: p.opts.MaxBody,
	})
	switch {
	case resp.StatusCode == http.StatusNotModified: // says nothing about the whole answer
	case v.reason == "" && resp.ContentLength >= 0: // of a chunked one only a load can tell
		p.private.forget(ps.key)
	case v.reason != "":
		ps.x.Reason = v.reason
	}
}

// failed answers a request that passed and got no answer, or whose answer makes no sense.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	ps := passageOf(r.Context())
	ps.x.Err, ps.x.Bypass = err, ps.x.Reason
	if isUnsafe(r.Method) && ps.sent {
		p.invalidate(ps.in, nil, ps.x) // it may have been carried out all the same
	}
	switch {
	case r.Context().Err() != nil:
		ps.x.Outcome, ps.x.Reason = Error, ReasonClientGone
		w.WriteHeader(statusClientClosed)
	case errors.Is(err, overload.ErrShed):
		p.shed(w, r, ps.x)
	case isTimeout(err):
		p.problem(w, r, ps.x, http.StatusGatewayTimeout, ReasonTimeout)
	case ps.sent:
		p.problem(w, r, ps.x, http.StatusBadGateway, ReasonAborted)
	default:
		p.problem(w, r, ps.x, http.StatusBadGateway, ReasonUnreachable)
	}
}

// A sender tells of a request that got no answer whether the origin may have seen it.
type sender struct{ connected atomic.Bool }

// sending returns the context to send a request with.
func sending(ctx context.Context) (context.Context, *sender) {
	s := new(sender)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { s.connected.Store(true) }}), s
}

// began reports whether something of the request that failed with err may have been sent. If it may, on a connection that was idle and broke,
// the transport doesn't repeat it but for methods that change nothing; then the last try counts.
func (s *sender) began(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return s.connected.Load() && (!ok || op.Op != "dial")
}
