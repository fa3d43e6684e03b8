package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/limit/httplimit"
	"github.com/freshetdev/freshet/limit/overload"
	"github.com/freshetdev/freshet/observe"
)

// An OriginError is a failure of the origin that a stale answer may cover.
type OriginError struct {
	Reason observe.Reason
	Status int   // ReasonOriginStatus: 500, 502, 503 or 504
	Err    error // others
}

func (e *OriginError) Error() string {
	words, _ := Explain(e.Reason)
	if e.Status > 0 {
		return fmt.Sprintf("%s: %d", words, e.Status)
	}
	return fmt.Sprintf("%s: %v", words, e.Err)
}

func (e *OriginError) Unwrap() error { return e.Err }

// A load asks the origin on behalf of one request, and of all who may share the answer. A
// refresh may outlive the request: then it reads no more of it than the fields that net/http
// leaves alone.
type load struct {
	proxy    *Proxy
	request  *http.Request
	key      string
	encoding encoding
	handoff  handoff

	// limits are the fields of the answer that tell of the origin's limits: for the request that asked, and never
	// stored. Read only by a caller whose own load brought the answer.
	limits http.Header
}

// run is the loader. It has four ends:
//
//	stored and shared     a complete answer that may be stored
//	handed to one         an answer that may not: NoShare
//	an error              no answer, or half of one
//	an error, and handed  500, 502, 503, 504: stale is better, if there is any
func (l *load) run(ctx context.Context, ctl *freshet.Load) (_ *Response, err error) {
	defer func() { l.proxy.loaded(l, ctl.Refresh(), err) }()
	begun := time.Now()
	// The answer may outlive the load, so the call has a context of its own, which
	// follows the load's until letGo.
	call, cancel := context.WithCancel(context.WithoutCancel(ctx))
	letGo := context.AfterFunc(ctx, cancel)
	if ctl.Refresh() {
		call = inBackground(call)
	}
	call, sent := sending(call)
	resp, err := l.proxy.opts.Transport.RoundTrip(l.outgoing(call))
	l.proxy.asked(begun, err)
	if err != nil {
		cancel()
		reason := ReasonUnreachable
		if sent.began(err) {
			reason = ReasonAborted
		}
		return nil, l.failure(ctx, reason, err)
	}
	resp.Body = &closer{ReadCloser: resp.Body, cancel: cancel}

	received := time.Now()
	if countsAsError(resp.StatusCode) {
		l.handOver(ctl, letGo, resp, ReasonOriginStatus)
		return nil, &OriginError{Reason: ReasonOriginStatus, Status: resp.StatusCode}
	}
	head := l.request.Method == http.MethodHead
	v := judgeAnswer(answer{
		resp: resp, head: head, encoding: l.encoding,
		now: received, delay: received.Sub(begun), ttl: l.proxy.opts.TTL, maxBody: l.proxy.opts.MaxBody,
	})
	if v.reason != "" {
		return l.notStored(ctx, ctl, letGo, resp, v.reason)
	}

	length := resp.ContentLength
	if head {
		length = 0
	}
	body, rest, reason, err := readBody(ctx, resp.Body, length, l.proxy.opts.MaxBody)
	switch {
	case err != nil:
		return nil, l.failure(ctx, ReasonAborted, err)
	case rest != nil:
		resp.Body = rest
		return l.notStored(ctx, ctl, letGo, resp, reason)
	case len(resp.Trailer) > 0: // not announced, but sent
		_ = resp.Body.Close()
		return nil, &OriginError{Reason: ReasonAborted, Err: errors.New("unannounced trailers")}
	}
	letGo()
	_ = resp.Body.Close()
	ctl.TTL(v.ttl)
	ctl.Tag(tagsOf(resp.Header)...)
	if !v.grace {
		ctl.Stale(freshet.Stale{})
	}
	for name, values := range resp.Header {
		if httplimit.IsField(name) {
			if l.limits == nil {
				l.limits = http.Header{}
			}
			l.limits[name] = values
		}
	}
	return newResponse(resp, body, head, received, v.age), nil
}

// notStored hands the answer to the request that asked, and makes sure that nobody gets an older one
// from now on: the origin doesn't want that URL to be stored any more.
func (l *load) notStored(ctx context.Context, ctl *freshet.Load, letGo func() bool, resp *http.Response, reason observe.Reason) (*Response, error) {
	ctl.NoShare()
	l.proxy.private.note(l.key, reason, time.Now())
	if _, ok := freshet.Previous[*Response](ctl); ok {
		_ = l.proxy.opts.Cache.Drop(ctx, l.key) // pending is as good: it counts here at once
	}
	l.handOver(ctl, letGo, resp, reason)
	return new(Response), nil
}

// handOver offers the answer to the request that asked; if nobody is there to take it,
// it is closed.
func (l *load) handOver(ctl *freshet.Load, letGo func() bool, resp *http.Response, reason observe.Reason) {
	if ctl.Refresh() || !letGo() || !l.handoff.offer(resp, reason) {
		_ = resp.Body.Close()
	}
}

// failure says which kind of error it was.
func (l *load) failure(ctx context.Context, reason observe.Reason, err error) error {
	switch {
	case errors.Is(err, overload.ErrShed):
		reason = observe.ReasonOverload
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || isTimeout(err):
		reason = ReasonTimeout
	}
	return &OriginError{Reason: reason, Err: err}
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// countsAsError lists the answers that a stale one is better than.
func countsAsError(status int) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// outgoing makes the load's request: the client's, without what is only about this client's
// copy of the answer. The cache wants all of it, in one of two encodings.
func (l *load) outgoing(ctx context.Context) *http.Request {
	out := l.request.Clone(ctx)
	out.Body, out.GetBody = nil, nil
	out.Close = false
	out.RequestURI = ""
	removeHopByHop(out.Header)
	for _, name := range [...]string{"If-None-Match", "If-Modified-Since"} {
		out.Header.Del(name)
	}
	out.Header.Set("Accept-Encoding", l.encoding.header())
	l.proxy.rewrite(&httputil.ProxyRequest{In: l.request, Out: out})
	return out
}

// A closer ends the call of an answer with its body.
type closer struct {
	io.ReadCloser
	cancel context.CancelFunc
	once   sync.Once
	err    error
}

func (c *closer) Close() error {
	c.once.Do(func() {
		c.err = c.ReadCloser.Close()
		c.cancel()
	})
	return c.err
}
