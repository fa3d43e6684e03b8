package proxy

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/freshetdev/freshet"
)

// isUnsafe reports whether a method may change something (RFC 9110 §9.2.1). Unknown ones may.
func isUnsafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, "QUERY", "PROPFIND", "REPORT", "SEARCH":
		return false
	}
	return true
}

// mayHaveChanged reports whether the answer to an unsafe request leaves it open that something changed. What succeeded did change something
// (RFC 9111 §4.4). A server that failed may have failed after the change. 4xx says that the request was refused.
func mayHaveChanged(status int) bool { return status < 400 || status >= 500 }

// invalidate drops what is stored of a URL that was written to, and of those that the
// answer names as the written resource (RFC 9111 §4.4). It is called before the answer goes to
// the client, and even if the client has left: the write has happened.
func (p *Proxy) invalidate(r *http.Request, answer http.Header, x *Exchange) {
	res := resourceOf(r)
	keys := res.keys()
	for _, name := range [...]string{"Location", "Content-Location"} {
		if s, ok := res.sibling(r, answer.Get(name)); ok && s != res {
			keys = append(keys, s.keys()...)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), dropPatience)
	defer cancel()
	begun := time.Now()
	err := p.opts.Cache.Drop(ctx, keys...)
	x.Dropped, x.DropTook = r.URL.EscapedPath(), time.Since(begun)
	if errors.Is(err, freshet.ErrPending) {
		err = errDropPending
	}
	x.DropErr = err
}

// dropPatience bounds how long the answer to a write waits for its drop. The store's own budget is
// far below it.
const dropPatience = 2 * time.Second

var errDropPending = errors.New("the drop waits for the store: other gateways may serve the old answer until then")
