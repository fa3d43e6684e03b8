package proxy

import "github.com/freshetdev/freshet/observe"

// Why the gateway did not use the cache for a request. They extend the closed list
// of package observe; headers, logs and the summary use the same codes.
const (
	ReasonMethod         observe.Reason = "method"           // not GET or HEAD
	ReasonAuthorization  observe.Reason = "authorization"    // the request has Authorization
	ReasonCookie         observe.Reason = "cookie"           // the request has Cookie
	ReasonCredentials    observe.Reason = "credentials"      // the request has another field that tells who asks
	ReasonRequestNoStore observe.Reason = "request-no-store" // the request says Cache-Control: no-store
	ReasonRange          observe.Reason = "range"            // the request wants a part
	ReasonPrecondition   observe.Reason = "precondition"     // the request has If-Match or If-Unmodified-Since
	ReasonRequestBody    observe.Reason = "request-body"     // a GET or HEAD with a body
	ReasonUpgrade        observe.Reason = "upgrade"          // the request changes the protocol
	ReasonEventStream    observe.Reason = "event-stream"     // the request asks for server-sent events
	ReasonUnkeyed        observe.Reason = "unkeyed-header"   // the request steers the origin by a field that is not in the key
	ReasonEncoding       observe.Reason = "encoding"         // the client refuses the plain form, or the answer is neither gzip nor plain
	ReasonLongURL        observe.Reason = "long-url"         // longer than a key should be
)

// Why an answer of the origin was not stored.
const (
	ReasonStatus     observe.Reason = "status"     // not 200
	ReasonSetCookie  observe.Reason = "set-cookie" // the answer sets a cookie
	ReasonPrivate    observe.Reason = "private"    // Cache-Control: private
	ReasonNoStore                   = observe.ReasonNoStore
	ReasonNoCache    observe.Reason = "no-cache"             // Cache-Control: no-cache, or Pragma
	ReasonOutdated   observe.Reason = "outdated"             // max-age, s-maxage or Expires leave it no time
	ReasonVary       observe.Reason = "vary"                 // Vary names more than Accept-Encoding
	ReasonTooLarge                  = observe.ReasonTooLarge // the body is over --max-body
	ReasonStreaming  observe.Reason = "streaming"            // a stream, or a body of unknown length that takes its time
	ReasonUnframed   observe.Reason = "unframed"             // the end of the body can't be told from a broken connection
	ReasonTrailers   observe.Reason = "trailers"             // fields after the body
	ReasonBadHeaders observe.Reason = "bad-headers"          // fields that must not be replayed
)

// What went wrong with the origin.
const (
	ReasonUnreachable  observe.Reason = "origin-unreachable" // no connection
	ReasonTimeout      observe.Reason = "origin-timeout"     // no whole answer in time
	ReasonAborted      observe.Reason = "origin-aborted"     // the connection broke before the whole answer was there
	ReasonOriginStatus observe.Reason = "origin-status"      // 500, 502, 503 or 504
	ReasonClientGone   observe.Reason = "client-gone"        // the client left before the answer
	ReasonLoop         observe.Reason = "loop"               // the upstream is, in the end, this gateway
)

// Why a limit refused.
const (
	ReasonOverLimit  observe.Reason = "over-limit"  // the client used it up
	ReasonNoIdentity observe.Reason = "no-identity" // nothing tells who asks
	ReasonLimitStore observe.Reason = "limit-store" // nobody could decide, and outage=deny
)

// Served stale, and why that was allowed.
const (
	ReasonWhileRevalidate observe.Reason = "stale-while-revalidate"
	ReasonIfError         observe.Reason = "stale-if-error"
)

// Explain says a reason in words for people, and what to do about it. The advice is empty
// where there is nothing to do.
func Explain(r observe.Reason) (words, advice string) {
	e, ok := explanations[r]
	if !ok {
		return string(r), ""
	}
	return e[0], e[1]
}

var explanations = map[observe.Reason][2]string{
	ReasonMethod:         {"only GET and HEAD are cached", ""},
	ReasonAuthorization:  {"request has Authorization", ""},
	ReasonCookie:         {"request has a Cookie", "send API calls without cookies (fetch: credentials: 'omit')"},
	ReasonCredentials:    {"request has credentials", ""},
	ReasonRequestNoStore: {"request says no-store", ""},
	ReasonRange:          {"request wants a range", ""},
	ReasonPrecondition:   {"request has a precondition", ""},
	ReasonRequestBody:    {"request has a body", ""},
	ReasonUpgrade:        {"connection upgrade", ""},
	ReasonEventStream:    {"event stream", ""},
	ReasonUnkeyed:        {"request has a field that rewrites the URL or method", ""},
	ReasonEncoding:       {"content encoding is not gzip or identity", "let the API answer in gzip or plain"},
	ReasonLongURL:        {"URL is too long for a key", ""},

	ReasonStatus:     {"only 200 is stored", ""},
	ReasonSetCookie:  {"answer has Set-Cookie", "a session middleware often sets a cookie on every answer: mount it after the API's public routes"},
	ReasonPrivate:    {"answer says private", "send Cache-Control: public where the answer is the same for everybody"},
	ReasonNoStore:    {"answer says no-store", "drop no-store where the answer is the same for everybody"},
	ReasonNoCache:    {"answer says no-cache", "send Cache-Control: max-age=30 instead of no-cache where 30 s old is fine"},
	ReasonOutdated:   {"answer has no freshness left", "send a max-age above 0, or no Cache-Control at all"},
	ReasonVary:       {"answer varies by more than Accept-Encoding", "drop fields from Vary that do not change the answer"},
	ReasonTooLarge:   {"answer is too large", "raise --max-body"},
	ReasonStreaming:  {"answer is a stream", "send a Content-Length if it is not"},
	ReasonUnframed:   {"answer has neither length nor chunks", "send Content-Length, or speak HTTP/1.1 chunks"},
	ReasonTrailers:   {"answer has trailers", ""},
	ReasonBadHeaders: {"answer has invalid header fields", ""},

	ReasonUnreachable:  {"upstream is unreachable", "is it running, and is the URL right?"},
	ReasonTimeout:      {"upstream timed out", "raise --upstream-timeout, or find out what is slow"},
	ReasonAborted:      {"upstream broke the connection", ""},
	ReasonOriginStatus: {"upstream failed", ""},
	ReasonClientGone:   {"client left", ""},
	ReasonLoop:         {"upstream is this gateway itself", "point it at the API, not at --listen"},

	ReasonOverLimit:  {"over the limit", ""},
	ReasonNoIdentity: {"nothing tells who asks", ""},
	ReasonLimitStore: {"the store of limits did not answer", "check --store"},

	ReasonWhileRevalidate: {"refreshing", ""},
	ReasonIfError:         {"upstream failed", ""},

	observe.ReasonLeaseLost:  {"dropped while it was loaded", ""},
	observe.ReasonNoLease:    {"the store did not answer", "check --store"},
	observe.ReasonStoreError: {"the store did not answer", "check --store"},
	observe.ReasonOverload:   {"too many requests wait for the upstream", ""},
}
