package rls

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/freshetdev/freshet/limit"
)

// reply is the answer.
func (s *Server) reply(asks []ask, v verdict) *ratelimitv3.RateLimitResponse {
	r := &ratelimitv3.RateLimitResponse{
		OverallCode: codeOf(v.allowed),
		Statuses:    make([]*ratelimitv3.RateLimitResponse_DescriptorStatus, len(asks)),
	}
	for i := range asks {
		r.Statuses[i] = statusOf(&asks[i], &v.all[i])
	}
	switch s.opts.Headers {
	case HeadersDraft:
		r.ResponseHeadersToAdd = draftHeaders(asks, &v)
	case HeadersLegacy:
		r.ResponseHeadersToAdd = legacyHeaders(asks, &v)
	}
	if s.opts.ProblemBody && !v.allowed {
		r.RawBody = problem(asks, &v)
		r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, header("content-type", "application/problem+json"))
	}
	if s.opts.Metadata {
		r.DynamicMetadata = metadata(asks, &v)
	}
	return r
}

func codeOf(ok bool) ratelimitv3.RateLimitResponse_Code {
	if ok {
		return ratelimitv3.RateLimitResponse_OK
	}
	return ratelimitv3.RateLimitResponse_OVER_LIMIT
}

// refuses reports whether the limit refuses.
func (f *found) refuses() bool { return f.known && !f.Fits && !f.Shadow }

// counted reports whether the store, or who decides in its place, knows numbers of it.
func (f *found) counted() bool {
	return f.known && f.Source != limit.FromOutage && f.Source != limit.FromExempt
}

func statusOf(a *ask, f *found) *ratelimitv3.RateLimitResponse_DescriptorStatus {
	s := &ratelimitv3.RateLimitResponse_DescriptorStatus{Code: ratelimitv3.RateLimitResponse_OK}
	switch a.does {
	case isEndless:
		s.LimitRemaining = math.MaxUint32
	case givesBack, charges:
		s.CurrentLimit = a.current()
		switch {
		case f.lost:
			s.Code = ratelimitv3.RateLimitResponse_UNKNOWN
		case a.does == charges:
			s.Code = codeOf(!f.refuses())
		}
		if f.known && f.Source == limit.FromExempt {
			s.CurrentLimit, s.LimitRemaining = nil, math.MaxUint32
		}
		if f.counted() {
			s.LimitRemaining = uint32(min(f.Remaining, math.MaxUint32))
			s.DurationUntilReset = durationpb.New(f.ResetAfter)
		}
		if a.does == charges && f.refuses() {
			// Envoy makes its Retry-After of that, and 1 second if there is none: for what can never be admitted that would be a lie.
			s.DurationUntilReset = durationpb.New(f.RetryAfter)
			if f.RetryAfter == limit.NeverRetry {
				s.DurationUntilReset = durationpb.New(max(f.ResetAfter, a.limit.length()))
			}
		}
	}
	return s
}

// current is the limit of a, as the protocol says it.
func (a *ask) current() *ratelimitv3.RateLimitResponse_RateLimit {
	l := &ratelimitv3.RateLimitResponse_RateLimit{
		Name: a.rule.shown, RequestsPerUnit: a.limit.requests, Unit: ratelimitv3.RateLimitResponse_RateLimit_Unit(a.limit.unit),
	}
	if a.limit.times > 1 {
		l.UnitMultiplier = wrapperspb.UInt32(a.limit.times)
	}
	return l
}

func header(name, value string) *corev3.HeaderValue {
	return &corev3.HeaderValue{Key: name, Value: value}
}

// shown calls f for the limits that clients may know of: counted, not in shadow mode, and of those with the same name the one with the fewest
// units left, since names must be different.
func shown(asks []ask, v *verdict, f func(*ask, *found)) {
	best := map[string]int{}
	for i := range asks {
		of := &v.all[i]
		if asks[i].does != charges || !of.counted() || of.Shadow {
			continue
		}
		name := asks[i].rule.policyName
		if j, there := best[name]; !there || of.Remaining < v.all[j].Remaining {
			best[name] = i
		}
	}
	for i := range asks {
		if asks[i].does != charges {
			continue
		}
		if j, there := best[asks[i].rule.policyName]; there && i == j {
			f(&asks[i], &v.all[i])
		}
	}
}

// seconds is d, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// draftHeaders are lists of structured fields: names are letters, digits, '.', '_' and '-', so the strings need no escapes.
func draftHeaders(asks []ask, v *verdict) []*corev3.HeaderValue {
	var policy, state []string
	shown(asks, v, func(a *ask, f *found) {
		name := `"` + a.rule.policyName + `"`
		policy = append(policy, name+";q="+strconv.FormatUint(uint64(a.limit.requests), 10)+";w="+seconds(a.limit.length()))
		item := name + ";r=" + strconv.FormatInt(f.Remaining, 10)
		if f.MoreAfter > 0 {
			item += ";t=" + seconds(f.MoreAfter)
		}
		state = append(state, item)
	})
	var list []*corev3.HeaderValue
	if policy != nil {
		list = append(list, header("ratelimit-policy", strings.Join(policy, ", ")), header("ratelimit", strings.Join(state, ", ")))
	}
	return append(list, retryAfter(v)...)
}

func legacyHeaders(asks []ask, v *verdict) []*corev3.HeaderValue {
	var list []*corev3.HeaderValue
	for i := range asks {
		a, f := &asks[i], &v.all[i]
		if a.does == charges && f.counted() && !f.Shadow && f.Policy == v.binding.Policy && f.Key == v.binding.Key {
			list = append(list,
				header("x-ratelimit-limit", strconv.FormatUint(uint64(a.limit.requests), 10)),
				header("x-ratelimit-remaining", strconv.FormatInt(f.Remaining, 10)),
				header("x-ratelimit-reset", seconds(f.ResetAfter)))
			break
		}
	}
	return append(list, retryAfter(v)...)
}

func retryAfter(v *verdict) []*corev3.HeaderValue {
	if v.allowed || v.binding.RetryAfter == limit.NeverRetry {
		return nil
	}
	return []*corev3.HeaderValue{header("retry-after", seconds(max(v.binding.RetryAfter, time.Second)))}
}

// violated are the names of the limits that refused.
func violated(asks []ask, v *verdict) []string {
	names := []string{}
	seen := map[string]bool{}
	for i := range asks {
		if a := &asks[i]; a.does == charges && v.all[i].refuses() && !seen[a.rule.policyName] {
			seen[a.rule.policyName] = true
			names = append(names, a.rule.policyName)
		}
	}
	return names
}

// problem is a body of the draft's type for requests over their quota.
func problem(asks []ask, v *verdict) []byte {
	body, _ := json.Marshal(struct {
		Type     string   `json:"type"`
		Title    string   `json:"title"`
		Status   int      `json:"status"`
		Violated []string `json:"violated-policies"`
	}{
		"https://iana.org/assignments/http-problem-types#quota-exceeded", "Quota exceeded", 429, violated(asks, v),
	}) // it never fails
	return body
}

func metadata(asks []ask, v *verdict) *structpb.Struct {
	fields := map[string]*structpb.Value{
		"allowed": structpb.NewBoolValue(v.allowed), "shadowed": structpb.NewBoolValue(v.shadowed), "degraded": structpb.NewBoolValue(v.degraded),
	}
	if v.bound {
		fields["limit"] = structpb.NewStringValue(v.binding.Policy.Name())
		fields["source"] = structpb.NewStringValue(v.binding.Source.String())
		if counted := (&found{Status: v.binding, known: true}).counted(); counted {
			fields["remaining"] = structpb.NewNumberValue(float64(v.binding.Remaining))
		}
	}
	if !v.allowed {
		list := &structpb.ListValue{}
		for _, name := range violated(asks, v) {
			list.Values = append(list.Values, structpb.NewStringValue(name))
		}
		fields["violated"] = structpb.NewListValue(list)
		if v.binding.RetryAfter != limit.NeverRetry {
			fields["retry_after_seconds"] = structpb.NewNumberValue(v.binding.RetryAfter.Seconds())
		}
	}
	return &structpb.Struct{Fields: fields}
}
