package overload

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
)

// Transport limits the requests that base sends (nil: http.DefaultTransport): each has a place from when it is sent until the header of its
// answer is there, so clients that read slowly hold none. A request that is turned away has the error of [Limiter.Acquire].
// A nil priority makes all Normal.
//
// An error other than that of a client who left, 502, 503 and 504 count as Dropped. The latency of a request with a body begins when it
// was sent, since a slow upload says nothing of the origin. But it holds its place meanwhile.
func (l *Limiter) Transport(base http.RoundTripper, priority func(*http.Request) Priority) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{l: l, base: base, priority: orNormal(priority)}
}

func orNormal(priority func(*http.Request) Priority) func(*http.Request) Priority {
	if priority == nil {
		return func(*http.Request) Priority { return Normal }
	}
	return priority
}

type transport struct {
	l        *Limiter
	base     http.RoundTripper
	priority func(*http.Request) Priority
}

func (t *transport) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	p := t.priority(r)
	if p == Bypass {
		return t.base.RoundTrip(r)
	}
	place, err := t.l.acquire(r.Context(), p)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as a RoundTripper must
		}
		return nil, err
	}
	outcome := Ignored
	defer func() { place.release(outcome) }() // also if base panics
	if r.Body != nil && r.Body != http.NoBody {
		trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { place.begin() }}
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), trace))
	}
	resp, err = t.base.RoundTrip(r)
	switch {
	case errors.Is(r.Context().Err(), context.Canceled) || errors.Is(err, context.Canceled):
	case err != nil:
		outcome = Dropped
	default:
		outcome = outcomeOf(resp.StatusCode)
	}
	return resp, err
}

// outcomeOf says what a status tells of the origin.
func outcomeOf(status int) Outcome {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return Dropped
	}
	return OK
}

// Handler limits the requests that next answers at a time; who is turned away gets [WriteProblem]. A place is held until next returns, while
// the client sends and reads: put it behind something that buffers. 502, 503 and 504 count as Dropped, a client who
// left as Ignored. A nil priority makes all Normal.
func (l *Limiter) Handler(next http.Handler, priority func(*http.Request) Priority) http.Handler {
	priority = orNormal(priority)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := priority(r)
		if p == Bypass {
			next.ServeHTTP(w, r)
			return
		}
		release, err := l.Acquire(r.Context(), p)
		if err != nil {
			WriteProblem(w, r)
			return
		}
		outcome := Ignored
		defer func() { release(outcome) }() // also if next panics
		s := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(s, r)
		if r.Context().Err() == nil {
			outcome = outcomeOf(s.status)
		}
	})
}

// A statusWriter notes the status.
type statusWriter struct {
	http.ResponseWriter
	status int // 0 if none was set
}

func (s *statusWriter) WriteHeader(status int) {
	if s.status < 200 {
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

// Flush and Hijack are there for those who look for an http.Flusher or http.Hijacker, as libraries for WebSockets do; the rest is found by Unwrap.
func (s *statusWriter) Flush() { _ = http.NewResponseController(s.ResponseWriter).Flush() }

// Hijack fails with http.ErrNotSupported if the connection can't be taken over.
func (s *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(s.ResponseWriter).Hijack()
}

func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// ProblemType is the problem type of a request that was shed, from the draft "RateLimit header fields for HTTP"
// (draft-ietf-httpapi-ratelimit-headers-11 §5).
const ProblemType = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"

// WriteProblem answers a request that was shed: 503 with a problem document (RFC 9457) of ProblemType, which no cache
// may store, and the Retry-After of [RetryAfter]. It is the document of httplimit's Refusal of that type, written here so that
// shedding needs nothing but this package.
func WriteProblem(w http.ResponseWriter, r *http.Request) {
	after := RetryAfter()
	again := " seconds."
	if after == "1" {
		again = " second."
	}
	body, _ := json.Marshal(struct {
		Type     string   `json:"type"`
		Title    string   `json:"title"`
		Status   int      `json:"status"`
		Detail   string   `json:"detail"`
		Violated []string `json:"violated-policies"` // the type has it; no policy did this
	}{ProblemType, "Temporary Reduced Capacity", http.StatusServiceUnavailable, "The server can't take the request now; try again in " + after + again, []string{}})
	body = append(body, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("Retry-After", after)
	w.WriteHeader(http.StatusServiceUnavailable)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that left needs no answer
	}
}

// RetryAfter is a value for that field: 1, 2 or 3 seconds, by chance, so that those who were shed together don't
// come back together.
func RetryAfter() string { return strconv.Itoa(1 + rand.IntN(3)) }
