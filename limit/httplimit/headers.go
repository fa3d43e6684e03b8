package httplimit

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshetdev/freshet/limit"
)

// Headers are the fields that tell clients of limits.
type Headers uint8

// Which fields are sent. Limits in shadow mode, and those that a key is exempt from, are never told of.
const (
	// HeadersDraft sends RateLimit-Policy and RateLimit, of all limits.
	//
	//	q              Spec.Limit
	//	w              Spec.Period or the length of the calendar's window (a nominal day; none for months and years). Where it isn't whole
	//	               seconds, q and w are of the shortest multiple that is, if that is at most a thousand periods
	//	qu             Limit.Unit
	//	freshet-burst  Spec.Burst, if it isn't Limit
	//	r              Status.Remaining; 0 while a penalty blocks the key
	//	t              Status.MoreAfter, or the time that a penalty blocks for; none if there is nothing to wait for, for Concurrency, or
	//	               if it were later than Retry-After. Until -10 of the draft it is the time until there is more, since -11 the
	//	               time within which there is no more than r; the value fits both
	//
	// A limit that nobody decided (the store was away, or another limit refused before) has no RateLimit. Fields set
	// before, such as by another Middleware around this one, stay.
	HeadersDraft Headers = iota

	// HeadersLegacy sends, of the binding limit, X-RateLimit-Limit (the most that a client can have: Burst for GCRA),
	// X-RateLimit-Remaining, and X-RateLimit-Reset, when all of it is back. No standard says what these mean.
	HeadersLegacy

	HeadersBoth // draft and legacy
	HeadersNone
)

// Reset is the form of X-RateLimit-Reset.
type Reset uint8

// The forms in use.
const (
	ResetEpoch Reset = iota // seconds since 1970, by this process's clock
	ResetDelta              // seconds from now
)

// IsField reports whether a response field tells of a limit: RateLimit, RateLimit-Policy, the names that earlier
// drafts had, and all that begins with X-RateLimit- or X-Rate-Limit-. Such a field must not be stored with an answer
// for others. The name's case doesn't matter.
func IsField(name string) bool {
	for _, prefix := range [...]string{"RateLimit-", "X-RateLimit-", "X-Rate-Limit-"} {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return true
		}
	}
	return strings.EqualFold(name, "RateLimit")
}

// saying is what an answer says of a decision.
type saying struct {
	m      *Middleware
	d      *limit.Decision
	limits []*Limit
	random float64 // 0 to 1: of Jitter, the same for all times of an answer, so that their order stays
}

func (m *Middleware) says(d *limit.Decision, limits []*Limit) saying {
	s := saying{m: m, d: d, limits: limits}
	if m.opts.Jitter > 0 {
		s.random = rand.Float64()
	}
	return s
}

// later adds jitter.
func (s saying) later(d time.Duration) time.Duration {
	return d + time.Duration(s.random*float64(min(s.m.opts.Jitter, d)))
}

// fields sets what Options.Headers asks for. retry is the Retry-After, 0 if there is none.
func (s saying) fields(h http.Header, retry time.Duration) {
	if o := s.m.opts.Headers; o == HeadersDraft || o == HeadersBoth {
		s.draft(h, retry)
	}
	if o := s.m.opts.Headers; o == HeadersLegacy || o == HeadersBoth {
		s.legacy(h)
	}
}

func (s saying) draft(h http.Header, retry time.Duration) {
	var policies, limits []byte
	for i, lim := range s.limits {
		st := s.d.At(i)
		if st.Shadow || st.Source == limit.FromExempt {
			continue
		}
		policies = appendPolicy(separate(policies), st.Policy, lim.Unit)
		if hasNumbers(&st) {
			limits = s.appendLimit(separate(limits), st, retry)
		}
	}
	// As http.Header has them; names of fields have no case.
	if policies != nil {
		h["Ratelimit-Policy"] = append(h["Ratelimit-Policy"], string(policies))
	}
	if limits != nil {
		h["Ratelimit"] = append(h["Ratelimit"], string(limits))
	}
}

// hasNumbers reports whether somebody decided by the limit.
func hasNumbers(st *limit.Status) bool {
	switch st.Source {
	case limit.FromOutage, limit.FromExempt, limit.NotAsked:
		return false
	}
	return true
}

func separate(list []byte) []byte {
	if list == nil {
		return make([]byte, 0, 64)
	}
	return append(list, ", "...)
}

// appendPolicy writes a quota policy item. Names of policies need no escapes.
func appendPolicy(b []byte, p *limit.Policy, unit string) []byte {
	q, w := quotaOf(p)
	b = append(append(append(b, '"'), p.Name()...), `";q=`...)
	b = strconv.AppendInt(b, min(q, maxInteger), 10)
	if w > 0 {
		b = strconv.AppendInt(append(b, ";w="...), w, 10)
	}
	r := p.Rule()
	if unit == "" && r.Kind == limit.Concurrency {
		unit = "concurrent-requests"
	}
	if unit != "" && unit != "requests" {
		b = append(append(append(b, `;qu="`...), unit...), '"')
	}
	if r.Kind == limit.GCRA && r.Burst != r.Limit {
		b = strconv.AppendInt(append(b, ";freshet-burst="...), min(r.Burst, maxInteger), 10)
	}
	return b
}

// maxInteger is the largest integer of a structured field (RFC 9651 §3.3.1).
const maxInteger = 999_999_999_999_999

// quotaOf is a policy's quota, and its window in seconds; 0 if that can't be told.
func quotaOf(p *limit.Policy) (q, w int64) {
	spec := p.Spec()
	if spec.Kind == limit.Concurrency {
		return spec.Limit, 0
	}
	if spec.Kind == limit.Fixed && spec.Calendar != 0 {
		return spec.Limit, map[limit.Calendar]int64{limit.Minute: 60, limit.Hour: 3600, limit.Day: 86400, limit.Week: 7 * 86400}[spec.Calendar]
	}
	const second = int64(time.Second / time.Microsecond)
	period := spec.Period.Microseconds()
	periods := second / gcd(period, second)
	if periods > 1000 || periods > 1 && spec.Limit > maxInteger/periods {
		return spec.Limit, 0
	}
	return spec.Limit * periods, period * periods / second
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// appendLimit writes a service limit item.
func (s saying) appendLimit(b []byte, st limit.Status, retry time.Duration) []byte {
	left, more := st.Remaining, st.MoreAfter
	switch {
	case st.Blocked:
		left, more = 0, st.RetryAfter
	case st.Policy.Rule().Kind == limit.Concurrency:
		more = 0 // when somebody is done, which nobody knows
	}
	b = append(append(append(b, '"'), st.Policy.Name()...), `";r=`...)
	b = strconv.AppendInt(b, min(left, maxInteger), 10)
	if more <= 0 {
		return b
	}
	if t := seconds(s.later(more)); retry <= 0 || t <= seconds(retry) {
		b = strconv.AppendInt(append(b, ";t="...), t, 10)
	}
	return b
}

func (s saying) legacy(h http.Header) {
	st, ok := s.binding()
	if !ok {
		return
	}
	left := st.Remaining
	if st.Blocked {
		left = 0
	}
	h["X-Ratelimit-Limit"] = []string{strconv.FormatInt(st.Policy.Rule().Most(), 10)}
	h["X-Ratelimit-Remaining"] = []string{strconv.FormatInt(left, 10)}
	if st.Policy.Rule().Kind == limit.Concurrency {
		delete(h, "X-Ratelimit-Reset")
		return
	}
	reset := st.ResetAfter
	if st.Blocked {
		reset = max(reset, st.RetryAfter)
	}
	reset = s.later(reset)
	n := (reset + time.Second - 1) / time.Second
	if s.m.opts.LegacyReset == ResetEpoch {
		at := time.Now().Add(reset)
		n = time.Duration(at.Unix())
		if at.Nanosecond() > 0 {
			n++
		}
	}
	h["X-Ratelimit-Reset"] = []string{strconv.FormatInt(int64(n), 10)}
}

// binding is the limit that matters most of those that are told of: as limit.Decision has it.
func (s saying) binding() (best limit.Status, ok bool) {
	for i := range s.limits {
		st := s.d.At(i)
		if st.Shadow || !hasNumbers(&st) {
			continue
		}
		if !ok || binds(&st, &best) {
			best, ok = st, true
		}
	}
	return best, ok
}

func binds(a, b *limit.Status) bool {
	switch {
	case a.Fits != b.Fits:
		return !a.Fits
	case a.Fits:
		return a.Remaining < b.Remaining
	case a.RetryAfter == limit.NeverRetry || b.RetryAfter == limit.NeverRetry:
		return a.RetryAfter == limit.NeverRetry && b.RetryAfter != limit.NeverRetry
	}
	return a.RetryAfter > b.RetryAfter
}

// seconds rounds up, and is at least 1: who comes a moment too early is refused again.
func seconds(d time.Duration) int64 {
	return max(1, int64((d+time.Second-1)/time.Second))
}
