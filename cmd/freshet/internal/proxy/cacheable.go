package proxy

import (
	"net/http"
	"strings"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// This file decides, and does nothing else: which requests may be answered from the
// cache, and which answers may be stored in it. Package httpcache will bring the whole of
// RFC 9111; until then everything that would need it passes uncached.

// longestURL bounds the URLs that become keys. No API needs more, and a key is held in
// memory, in the store and in the log of drops.
const longestURL = 8 << 10

// judgeRequest says whether a request may be answered from the cache: an empty reason
// means yes. What the answer may depend on is the method, host, URL and encoding; a request that
// carries anything else that could change it passes.
func judgeRequest(r *http.Request) observe.Reason {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return ReasonMethod
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return ReasonRequestBody // two bodies, one key: the classic fat GET
	}
	verdict, rank := observe.ReasonNone, len(requestRanks)
	for name := range r.Header {
		reason := judgeRequestField(name)
		if reason == "" {
			continue
		}
		if n := requestRanks[reason]; n < rank {
			verdict, rank = reason, n
		}
	}
	switch {
	case verdict != "":
		return verdict
	case len(r.Header["Cache-Control"]) > 0 && parseCacheControl(r.Header).noStore:
		return ReasonRequestNoStore
	case acceptsEventStream(r.Header["Accept"]):
		return ReasonEventStream
	case len(r.RequestURI) > longestURL || len(r.Host) > 255:
		return ReasonLongURL
	case acceptedEncoding(r.Header["Accept-Encoding"]) == encodingOther:
		return ReasonEncoding
	}
	return ""
}

// requestRanks decides which reason to name where a request gives several.
var requestRanks = map[observe.Reason]int{
	ReasonUpgrade: 0, ReasonAuthorization: 1, ReasonCookie: 2, ReasonCredentials: 3,
	ReasonUnkeyed: 4, ReasonRange: 5, ReasonPrecondition: 6, ReasonEncoding: 7,
}

// requestFields are request fields whose presence alone means that a request passes.
// Names are in canonical form.
var requestFields = map[string]observe.Reason{
	"Authorization": ReasonAuthorization,
	"Cookie":        ReasonCookie,
	"Cookie2":       ReasonCookie,
	"Upgrade":       ReasonUpgrade,

	"Range":               ReasonRange,
	"If-Range":            ReasonRange,
	"If-Match":            ReasonPrecondition,
	"If-Unmodified-Since": ReasonPrecondition,

	// Who asks, in the words of API gateways and login proxies. judgeRequestField adds
	// whatever ends in -Key, -Token and so on.
	"Proxy-Authorization":      ReasonCredentials,
	"Apikey":                   ReasonCredentials,
	"Dpop":                     ReasonCredentials,
	"Remote-User":              ReasonCredentials,
	"X-User-Id":                ReasonCredentials,
	"X-Session-Id":             ReasonCredentials,
	"X-Tenant-Id":              ReasonCredentials,
	"X-Tenant":                 ReasonCredentials,
	"X-Forwarded-Email":        ReasonCredentials,
	"X-Forwarded-Groups":       ReasonCredentials,
	"X-Forwarded-Client-Cert":  ReasonCredentials,
	"X-Client-Cert":            ReasonCredentials,
	"Client-Cert":              ReasonCredentials,
	"X-Amzn-Oidc-Data":         ReasonCredentials,
	"X-Amzn-Oidc-Identity":     ReasonCredentials,
	"X-Ms-Client-Principal":    ReasonCredentials,
	"X-Goog-Iap-Jwt-Assertion": ReasonCredentials,
	"Cf-Access-Jwt-Assertion":  ReasonCredentials,
	"X-Auth-Request-Email":     ReasonCredentials,
	"X-Auth-Request-Groups":    ReasonCredentials,
	"X-Webauth-Email":          ReasonCredentials,
	"X-Authenticated-Userid":   ReasonCredentials,
	"X-Consumer-Id":            ReasonCredentials,
	"X-Consumer-Username":      ReasonCredentials,
	"X-Credential-Identifier":  ReasonCredentials,
	"X-Ssl-Client-Cert":        ReasonCredentials,
	"X-Ssl-Client-S-Dn":        ReasonCredentials,
	"X-Ssl-Client-Subject-Dn":  ReasonCredentials,
	"Ssl-Client-Cert":          ReasonCredentials,
	"Ssl-Client-Subject-Dn":    ReasonCredentials,

	// Frameworks that honor these answer something else than the URL says; stored under
	// the URL, that would poison it.
	"X-Original-Url":         ReasonUnkeyed,
	"X-Original-Uri":         ReasonUnkeyed,
	"X-Original-Host":        ReasonUnkeyed,
	"X-Rewrite-Url":          ReasonUnkeyed,
	"X-Host":                 ReasonUnkeyed,
	"X-Http-Host-Override":   ReasonUnkeyed,
	"X-Http-Method":          ReasonUnkeyed,
	"X-Http-Method-Override": ReasonUnkeyed,
	"X-Method-Override":      ReasonUnkeyed,
	"X-Forwarded-Prefix":     ReasonUnkeyed,
	"X-Forwarded-Path":       ReasonUnkeyed,
	"X-Forwarded-Uri":        ReasonUnkeyed,
	"X-Middleware-Prefetch":  ReasonUnkeyed,
	"X-Middleware-Rewrite":   ReasonUnkeyed,
}

// credentialSuffixes are endings of field names that carry credentials by convention:
// X-Api-Key, Private-Token, X-Forwarded-User, …
var credentialSuffixes = [...]string{"-Key", "-Token", "-Secret", "-Session", "-Jwt", "-User", "-Auth", "-Signature"}

func judgeRequestField(name string) observe.Reason {
	if reason, ok := requestFields[name]; ok {
		return reason
	}
	if strings.HasPrefix(name, "Sec-") { // the browser's own, such as Sec-Fetch-User
		return ""
	}
	for _, s := range credentialSuffixes {
		if strings.HasSuffix(name, s) {
			return ReasonCredentials
		}
	}
	return ""
}

func acceptsEventStream(accept []string) bool {
	for _, v := range accept {
		if strings.Contains(strings.ToLower(v), "text/event-stream") {
			return true
		}
	}
	return false
}

// An answer is what judgeAnswer needs to know of a response and its request.
type answer struct {
	resp     *http.Response
	head     bool          // it answers HEAD: there is no body
	encoding encoding      // that the load asked for
	now      time.Time     // when the header had arrived
	delay    time.Duration // from the request to now
	ttl      time.Duration // --ttl
	maxBody  int64         // --max-body
}

// A verdict says whether an answer may be stored, so far as its header tells.
type verdict struct {
	reason observe.Reason // why it may not; empty if it may
	ttl    time.Duration  // fresh for so long, counted from the start of the load
	grace  bool           // may be served stale within --grace
	age    time.Duration  // how old it was at the start of the load
}

// judgeAnswer decides whether the answer to a request that [judgeRequest] let through may be
// stored, and so shared with everybody who asks the same. The rules are those of RFC 9111 §3 for a
// shared cache, read strictly, with one addition: an answer that says nothing about
// its freshness gets --ttl. What it does say can only shorten that.
func judgeAnswer(a answer) verdict {
	h := a.resp.Header
	cc := parseCacheControl(h)
	no := func(r observe.Reason) verdict { return verdict{reason: r} }
	switch {
	case a.resp.StatusCode != http.StatusOK:
		return no(ReasonStatus)
	case len(h["Set-Cookie"]) > 0 || len(h["Set-Cookie2"]) > 0:
		return no(ReasonSetCookie)
	case cc.private:
		return no(ReasonPrivate)
	case cc.noStore:
		return no(ReasonNoStore)
	case cc.noCache, !cc.maxAge.present && !cc.sMaxAge.present && hasToken(h["Pragma"], "no-cache"):
		return no(ReasonNoCache)
	case !variesByEncodingOnly(h["Vary"]):
		return no(ReasonVary)
	case len(h["Content-Range"]) > 0:
		return no(ReasonRange)
	case !a.encoding.takes(h["Content-Encoding"]):
		return no(ReasonEncoding)
	case isStream(h.Get("Content-Type")):
		return no(ReasonStreaming)
	case len(a.resp.Trailer) > 0:
		return no(ReasonTrailers)
	case a.resp.ContentLength > a.maxBody && !a.head:
		return no(ReasonTooLarge)
	case !a.head && !framed(a.resp):
		return no(ReasonUnframed)
	case !replayable(h):
		return no(ReasonBadHeaders)
	}

	v := verdict{ttl: a.ttl, age: ageOnArrival(h, a.now, a.delay)}
	if lifetime, ok := lifetimeOf(h, cc, a.now); ok {
		v.ttl = min(v.ttl, lifetime-v.age)
	}
	if v.ttl <= 0 {
		return no(ReasonOutdated)
	}
	// s-maxage implies proxy-revalidate (RFC 9111 §5.2.2.10).
	v.grace = !cc.mustRevalidate && !cc.sMaxAge.present
	return v
}

// lifetimeOf is the freshness lifetime that the answer states (RFC 9111 §4.2.1).
func lifetimeOf(h http.Header, cc cacheControl, now time.Time) (time.Duration, bool) {
	switch expires := h["Expires"]; {
	case cc.sMaxAge.present:
		return cc.sMaxAge.d, true
	case cc.maxAge.present:
		return cc.maxAge.d, true
	case len(expires) > 0:
		at, err := http.ParseTime(expires[0])
		if err != nil || len(expires) > 1 { // "0" and other nonsense mean "in the past"
			return 0, true
		}
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			now = date
		}
		return at.Sub(now), true
	}
	return 0, false
}

// ageOnArrival is how old the answer already was when its load began: what an upstream cache
// says (Age), or how far its Date lies back beyond the delay (RFC 9111 §4.2.3).
func ageOnArrival(h http.Header, now time.Time, delay time.Duration) time.Duration {
	var age time.Duration
	for _, v := range h["Age"] {
		age = max(age, parseSeconds(strings.TrimSpace(v)))
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		age = max(age, now.Truncate(time.Second).Sub(date)-delay)
	}
	return age
}

// variesByEncodingOnly reports whether the key covers all that the answer depends on.
func variesByEncodingOnly(vary []string) bool {
	for _, line := range vary {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" && !strings.EqualFold(name, "Accept-Encoding") {
				return false
			}
		}
	}
	return true
}

// isStream reports whether the type of an answer says that it has no end worth waiting for.
func isStream(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	switch t = strings.ToLower(strings.TrimSpace(t)); t {
	case "text/event-stream", "application/x-ndjson", "application/ndjson", "application/stream+json",
		"application/json-seq", "application/jsonl", "multipart/x-mixed-replace":
		return true
	}
	return strings.HasPrefix(t, "application/grpc")
}

// framed reports whether the end of the body can be told from a connection that broke.
func framed(resp *http.Response) bool {
	return resp.ContentLength >= 0 || len(resp.TransferEncoding) > 0 || resp.ProtoMajor >= 2
}

func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}
