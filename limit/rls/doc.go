// Package rls answers Envoy's questions: a server of the Rate Limit Service protocol, version 3
// (envoy.service.ratelimit.v3), over a [limit.Limiter].
//
//	config, err := rls.ReadConfig("limits.yaml")
//	server, err := rls.NewServer(limiter, config, rls.Options{})
//	err = server.Serve(ctx, listener)
//
// or, on a gRPC server of your own, ratelimitv3.RegisterRateLimitServiceServer(g, server).
//
// A request names a domain and some descriptors, each a list of entries (key, value). The [Config] says which limit a descriptor has. The format is that
// of github.com/envoyproxy/ratelimit, with additions; docs/envoy.md lists both, and what is not honored.
//
// # What is promised
//
//   - The limits of a request are decided as one: [limit.Limiter.Decide] says how, and where they can't be. A refused request costs nothing. (The
//     reference service charges all limits of a request, also when one of them refuses it.)
//   - What a limit counts belongs to the domain, the entries of the descriptor, and the length of the period. A limit in the request counts with the configured
//     one if they have the same period.
//   - A new Config applies to all requests that come after [Server.SetConfig] returned, and to each of them as a whole. What was used stays used.
//   - A descriptor without a limit never refuses: its domain is unknown, or no rule matches it.
//
// # What is not
//
//   - There is no quota, the field of the protocol by which the client could decide by itself: Envoy doesn't implement it.
//   - Hits given back (is_negative_hits) are given back before the request is decided, and stay so if it is refused.
package rls
