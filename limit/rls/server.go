package rls

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/freshetdev/freshet/limit"
)

// Options of a Server. Zero values are defaults.
type Options struct {
	// Headers are what clients of Envoy get to see. Default HeadersNone.
	Headers Headers

	// ProblemBody answers refused requests with a body, application/problem+json (RFC 9457), of the type quota-exceeded
	// of the IETF's draft-ietf-httpapi-ratelimit-headers-10.
	ProblemBody bool

	// Metadata fills dynamic_metadata, which Envoy can log and other filters can read: see docs/envoy.md.
	Metadata bool

	// Drain is how long Serve waits for calls under way when it ends. Default 10 s.
	Drain time.Duration
}

// Headers are a choice of response_headers_to_add. All but HeadersNone have Retry-After in refusals: in seconds, rounded up, at least 1; none for hits
// that are more than can ever be admitted at once.
type Headers uint8

// The choices.
const (
	HeadersNone Headers = iota

	// HeadersDraft are RateLimit-Policy and RateLimit, as of draft-ietf-httpapi-ratelimit-headers-10, with all limits of the request
	// but those in shadow mode.
	HeadersDraft

	// HeadersLegacy are X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset, of the limit that decided, with seconds
	// until all is back. Envoy can add headers of the same names by itself (enable_x_ratelimit_headers): use one of both.
	HeadersLegacy
)

// MaxDescriptors is the largest number of descriptors in a request; more are refused as INVALID_ARGUMENT.
const MaxDescriptors = 256

// A Server answers requests. It is safe for concurrent use.
type Server struct {
	ratelimitv3.UnimplementedRateLimitServiceServer

	limiter  *limit.Limiter
	opts     Options
	policies *policies
	rules    atomic.Pointer[rules]
}

// NewServer makes a Server. The limiter stays the caller's, who closes it after the Server's last call. A timeout of it that is shorter than
// that of Envoy's filter (20 ms, like the limiter's own default) lets on_outage decide before Envoy gives up.
func NewServer(l *limit.Limiter, c *Config, opts Options) (*Server, error) {
	switch {
	case l == nil:
		return nil, errors.New("rls: the Limiter is nil; want one")
	case opts.Headers > HeadersLegacy:
		return nil, fmt.Errorf("rls: Options.Headers is %d; want HeadersNone, HeadersDraft or HeadersLegacy", opts.Headers)
	case opts.Drain < 0:
		return nil, fmt.Errorf("rls: Options.Drain is %v; want zero or more", opts.Drain)
	case opts.Drain == 0:
		opts.Drain = 10 * time.Second
	}
	s := &Server{limiter: l, opts: opts, policies: newPolicies()}
	if err := s.SetConfig(c); err != nil {
		return nil, err
	}
	return s, nil
}

// SetConfig replaces the Config, for all requests that come after it returned; those under way are decided by the old one. If c is wrong, the
// old one stays, and the error is that of [Config.Check]. c must not be changed while this runs.
func (s *Server) SetConfig(c *Config) error {
	next, err := compile(c, s.policies)
	if err != nil {
		return err
	}
	s.rules.Store(next)
	return nil
}

// ShouldRateLimit decides a request.
//
// Its error is INVALID_ARGUMENT if the domain or the list of descriptors is empty, or if a descriptor is wrong; UNAVAILABLE if the store can't decide and a
// limit's on_outage is error, or if the limiter is closed; FAILED_PRECONDITION if on_outage is local and the limiter has no Options.Local; DEADLINE_EXCEEDED or
// CANCELED if ctx ended.
func (s *Server) ShouldRateLimit(ctx context.Context, req *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	asks, err := s.rules.Load().asks(req)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	v, err := s.decide(ctx, asks)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, limit.ErrClosed):
		return nil, status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, limit.ErrRequest):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	default:
		return nil, status.Error(codes.Internal, err.Error())
	}
	if v.allowed && v.undecided != nil {
		return nil, status.Errorf(codes.Unavailable, "the store couldn't decide: %v", v.undecided)
	}
	return s.reply(asks, v), nil
}
