package proxy

import (
	"context"
	"net/http"

	"github.com/dunglas/httpsfv"

	"github.com/freshetdev/freshet/limit/overload"
	"github.com/freshetdev/freshet/observe"
)

// Requests to the upstream are limited by Options.Overload. What it turns away counts as a failure of the upstream: if an
// old answer may be served, it is, else the client gets 503. The upstream didn't see the request, so a write drops nothing.

// priorityOf is the priority of a request to the upstream: writes first, since nothing can stand in for them, then reads. What
// nobody waits for comes last: refreshes of an answer that is served meanwhile, and what the client calls so, by urgency 7 of the field Priority
// (RFC 9218 §4.1). Clients can lower their priority in that way, and nobody can raise it.
func priorityOf(r *http.Request) overload.Priority {
	switch {
	case isUnsafe(r.Method):
		return overload.Critical
	case r.Context().Value(backgroundKey{}) != nil, saysBackground(r.Header):
		return overload.Background
	}
	return overload.Normal
}

type backgroundKey struct{}

// inBackground marks a request that nobody waits for.
func inBackground(ctx context.Context) context.Context {
	return context.WithValue(ctx, backgroundKey{}, true)
}

func saysBackground(h http.Header) bool {
	lines := h["Priority"]
	if len(lines) == 0 {
		return false
	}
	dict, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil {
		return false
	}
	m, _ := dict.Get("u")
	item, _ := m.(httpsfv.Item)
	u, _ := item.Value.(int64)
	return u == 7
}

// shed answers a request for which the upstream was not asked, since it has enough to do.
func (p *Proxy) shed(w http.ResponseWriter, r *http.Request, x *Exchange) {
	w.Header().Set("Retry-After", overload.RetryAfter())
	p.problem(w, r, x, http.StatusServiceUnavailable, observe.ReasonOverload)
}

// problemType is the registered type of a problem; empty if there is none.
func problemType(code observe.Reason) string {
	if code == observe.ReasonOverload {
		return overload.ProblemType
	}
	return ""
}
