// Package httplimit applies limits to the requests of a net/http server, and tells clients of them.
//
//	perIP, err := httplimit.ClientIP(httplimit.IPOptions{})
//	...
//	m, err := httplimit.New(limiter, httplimit.Options{Limits: []httplimit.Limit{{Policy: perMinute, By: perIP}}})
//	...
//	http.ListenAndServe(":8080", m.Wrap(mux))
//
// A [Limit] is a policy, an [Identity] that says who is counted, and a cost. All limits of a request are one
// decision, all or nothing, before the handler runs. Places of Concurrency policies are held until the handler has
// returned, by a panic too, and renewed while it runs.
//
// # What is sent
//
// Every answer to a request that was decided, allowed or not, has the fields of
// draft-ietf-httpapi-ratelimit-headers-11 (2026-05), structured fields of RFC 9651:
//
//	RateLimit-Policy: "per-ip";q=100;w=60
//	RateLimit: "per-ip";r=42;t=1
//
// A refused one is a problem document (RFC 9457) of one of the draft's types, with a Retry-After in seconds and
// Cache-Control: no-store (RFC 6585 §4). The status is 429 where the client used up its limit, 503 where the server
// can't or won't serve for reasons of its own: see [Refusal].
//
// # Caches
//
// These fields are about one client at one moment. Whoever stores an answer for others must leave them out: see
// [IsField]. Mount this in front of a cache: then stored answers never have them, and answers from the cache count
// too. A limit behind a cache protects what is behind it, and the cache has to strip the fields.
package httplimit
