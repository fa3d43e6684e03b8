package httplimit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/freshetdev/freshet/limit"
)

// A Limit is one limit of requests. Policy must be given.
type Limit struct {
	Policy *limit.Policy

	// By says who is counted. Default: all requests together.
	By Identity

	// Missing is what happens to a request of which By says nothing. Default Refuse.
	Missing Missing

	// When tells whether the limit is for a request. Default: for all.
	When func(r *http.Request) bool

	// Cost is what a request costs. Default 1. At 0 it is only asked whether there is room for 1, and nothing is
	// taken. Negative numbers are a mistake, answered with 500; so a ContentLength of -1 needs a decision. What is
	// over limit.MaxUnits counts as that.
	Cost func(r *http.Request) int64

	// Settle is asked for the real cost of an admitted request when its handler has returned: see
	// [limit.Limiter.Settle]. False leaves it as it is. It can't be used for Concurrency.
	Settle func(r *http.Request, res Response) (cost int64, ok bool)

	// Unit is what is counted, for clients: the draft has "requests" (default), "content-bytes" and
	// "concurrent-requests" (default for Concurrency).
	Unit string
}

// Missing is what happens to requests without identity.
type Missing uint8

// What to do without identity.
const (
	Refuse Missing = iota // 400: nobody passes by leaving out who they are. Of a policy in shadow mode, which refuses nothing: Exempt
	Share                 // they are counted together, as one client
	Exempt                // the limit is not for them
)

// A Response is what a handler sent.
type Response struct {
	Status  int // 200 if the handler sent nothing
	Header  http.Header
	Bytes   int64 // of the body, as far as the handler wrote it; not of a connection that it took over
	Took    time.Duration
	Aborted bool // the handler panicked
}

// Options of a Middleware. Limits must be given; other zero values are defaults.
type Options struct {
	// Limits are decided together, all or nothing: 1 to limit.MaxRequests, of different policy names. Where the store
	// can't decide them as one (see [limit.Limiter.Decide]), put the one that refuses most often first.
	Limits []Limit

	// Skip tells which requests are not limited at all. They get no header fields either.
	Skip func(r *http.Request) bool

	// SkipPreflight doesn't limit CORS preflights: OPTIONS with Origin and Access-Control-Request-Method. A browser
	// shows a refused preflight as an error of CORS. Anybody can send them, so whatever answers them should be cheap.
	SkipPreflight bool

	// Headers are the fields that tell of the limits. Default HeadersDraft. Retry-After is sent with all.
	Headers Headers

	// LegacyReset is what X-RateLimit-Reset holds. Default ResetEpoch.
	LegacyReset Reset

	// Jitter is the longest time added to waiting times, at random, so that those who wait for the same moment don't
	// all come then; it at most doubles a time. It is never taken off. Default none.
	Jitter time.Duration

	// Refuse answers a refused request in place of Refusal.Write. The fields of Headers are set by then.
	Refuse func(w http.ResponseWriter, r *http.Request, f Refusal)

	Hooks Hooks
}

// Hooks are called on the path of a request, or beside it while its handler runs. Any may be nil.
type Hooks struct {
	// Failed tells of a step that failed: a decision that could not be made, for a mistake in Options or since the
	// Limiter was closed; a correction, renewal or release that the store could not do. What the store couldn't
	// decide is told by limit.Hooks.
	Failed func(r *http.Request, err error)

	// Lost tells, once for a request, that places of Concurrency policies ran out while the handler ran: others may
	// have been admitted in its place.
	Lost func(r *http.Request, d limit.Decision)
}

// A Middleware limits the requests of handlers. It is safe for concurrent use.
type Middleware struct {
	limiter *limit.Limiter
	opts    Options
	settles bool
}

// New makes a Middleware that decides by l. Closing l is the caller's, after the last request.
func New(l *limit.Limiter, o Options) (*Middleware, error) {
	if l == nil {
		return nil, errors.New("httplimit: no Limiter")
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	m := &Middleware{limiter: l, opts: o}
	for _, lim := range o.Limits {
		m.settles = m.settles || lim.Settle != nil
	}
	return m, nil
}

func (o *Options) check() error {
	wrong := func(format string, args ...any) error { return fmt.Errorf("httplimit: Options."+format, args...) }
	if n := len(o.Limits); n < 1 || n > limit.MaxRequests {
		return wrong("Limits are %d; want 1 to %d", n, limit.MaxRequests)
	}
	names := map[string]int{}
	for i, lim := range o.Limits {
		if lim.Policy == nil {
			return wrong("Limits[%d] has no Policy", i)
		}
		name := lim.Policy.Name()
		if before, ok := names[name]; ok {
			return wrong("Limits[%d] and [%d] both have a policy named %q; want different names, or clients can't tell them apart", before, i, name)
		}
		names[name] = i
		switch {
		case lim.Missing > Exempt:
			return wrong("Limits[%d].Missing is %d; want Refuse, Share or Exempt", i, lim.Missing)
		case lim.Settle != nil && lim.Policy.Rule().Kind == limit.Concurrency:
			return wrong("Limits[%d].Settle is given; a Concurrency policy has nothing to settle", i)
		case !isUnit(lim.Unit):
			return wrong("Limits[%d].Unit is %q; want letters, digits and '-'", i, lim.Unit)
		}
	}
	switch {
	case o.Headers > HeadersNone:
		return wrong("Headers is %d; want HeadersDraft, HeadersLegacy, HeadersBoth or HeadersNone", o.Headers)
	case o.LegacyReset > ResetDelta:
		return wrong("LegacyReset is %d; want ResetEpoch or ResetDelta", o.LegacyReset)
	case o.Jitter < 0:
		return wrong("Jitter is %v; want zero or more", o.Jitter)
	}
	return nil
}

func isUnit(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		default:
			return false
		}
	}
	return true
}

// Wrap returns a handler that limits next.
func (m *Middleware) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, next) })
}

func (m *Middleware) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if m.opts.Skip != nil && m.opts.Skip(r) || m.opts.SkipPreflight && isPreflight(r) {
		next.ServeHTTP(w, r)
		return
	}
	asked, missing := m.ask(r)
	switch {
	case missing != nil:
		m.refuse(w, r, Refusal{Kind: Unidentified, Violated: []string{missing.Policy.Name()}})
		return
	case len(asked.reqs) == 0:
		next.ServeHTTP(w, r)
		return
	}
	d, err := m.limiter.Decide(r.Context(), asked.reqs...)
	if err != nil {
		m.undecided(w, r, err)
		return
	}
	says := m.says(&d, asked.limits)
	if !d.Allowed {
		f := refusalOf(&d, says)
		says.fields(w.Header(), f.RetryAfter)
		m.refuse(w, r, f)
		return
	}
	says.fields(w.Header(), 0)
	r = r.WithContext(context.WithValue(r.Context(), decidedKey{}, &d))
	if d.Lease != (limit.ID{}) {
		h := m.hold(r, d)
		defer h.end()
	}
	if !m.settles {
		next.ServeHTTP(w, r)
		return
	}
	began := time.Now()
	w, rec := record(w)
	aborted := true
	defer func() {
		m.settle(r, &d, asked.limits, Response{Status: rec.statusSent(), Header: w.Header(), Bytes: rec.bytes, Took: time.Since(began), Aborted: aborted})
	}()
	next.ServeHTTP(w, r)
	aborted = false
}

type decidedKey struct{}

// Decided is what was decided of a request, for its handler: At is in the order of Options.Limits, without those that
// were not for this request. False if nothing was decided.
func Decided(ctx context.Context) (limit.Decision, bool) {
	d, ok := ctx.Value(decidedKey{}).(*limit.Decision)
	if !ok {
		return limit.Decision{}, false
	}
	return *d, true
}

// An asking is what is asked of the limiter for one request: reqs[i] is for limits[i].
type asking struct {
	reqs   []limit.Request
	limits []*Limit
}

// ask makes the requests; missing is a limit that refuses who doesn't say who they are.
func (m *Middleware) ask(r *http.Request) (a asking, missing *Limit) {
	a = asking{make([]limit.Request, 0, len(m.opts.Limits)), make([]*Limit, 0, len(m.opts.Limits))}
	for i := range m.opts.Limits {
		lim := &m.opts.Limits[i]
		if lim.When != nil && !lim.When(r) {
			continue
		}
		req := limit.Request{Policy: lim.Policy}
		if lim.By != nil {
			key, ok := known(lim.By, r)
			switch {
			case ok:
				req.Key = key
			case lim.Missing == Share:
			case lim.Missing == Refuse && !m.limiter.Shadows(lim.Policy):
				return a, lim
			default:
				continue
			}
		}
		if lim.Cost != nil {
			if req.Cost = min(lim.Cost(r), limit.MaxUnits); req.Cost == 0 {
				req.Cost = limit.Uncharged // 0 units, which limit takes for "not given"
			}
		}
		a.reqs, a.limits = append(a.reqs, req), append(a.limits, lim)
	}
	return a, nil
}

// undecided answers when there is no decision: the options are wrong, or the server is about to end, or the client left.
func (m *Middleware) undecided(w http.ResponseWriter, r *http.Request, err error) {
	f := Refusal{Kind: ReducedCapacity, RetryAfter: time.Second}
	if errors.Is(err, limit.ErrRequest) {
		f = Refusal{Kind: Failed}
	}
	if r.Context().Err() == nil {
		m.failed(r, err)
	}
	m.refuse(w, r, f)
}

func (m *Middleware) refuse(w http.ResponseWriter, r *http.Request, f Refusal) {
	if m.opts.Refuse != nil {
		m.opts.Refuse(w, r, f)
		return
	}
	f.Write(w, r)
}

func (m *Middleware) failed(r *http.Request, err error) {
	if m.opts.Hooks.Failed != nil {
		m.opts.Hooks.Failed(r, err)
	}
}

// settle charges what the request really cost.
func (m *Middleware) settle(r *http.Request, d *limit.Decision, limits []*Limit, res Response) {
	for i, lim := range limits {
		s := d.At(i)
		if lim.Settle == nil || !s.Charged || s.Policy.Rule().Kind == limit.Concurrency { // an override may be of any kind
			continue
		}
		cost, ok := lim.Settle(r, res)
		if !ok || cost == s.Cost {
			continue
		}
		// The client may be gone; what it cost stays.
		if _, err := m.limiter.Settle(context.WithoutCancel(r.Context()), s, cost); err != nil {
			m.failed(r, fmt.Errorf("httplimit: settle policy %q: %w", s.Policy.Name(), err))
		}
	}
}

// isPreflight: https://fetch.spec.whatwg.org/#cors-preflight-request
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) > 0 && len(r.Header["Access-Control-Request-Method"]) > 0
}
