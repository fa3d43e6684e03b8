package rls

import (
	"context"
	"net"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// Serve answers calls on lis until ctx ends, and then returns nil: it reports NOT_SERVING, takes no new calls, and waits for those under way, for Options.Drain at
// most; what then is still under way is cut off. It closes lis. The standard health service is there too, for "" and for the
// Rate Limit Service; it says that this process answers, and nothing of the store. opts are for TLS (grpc.Creds), limits and interceptors.
func (s *Server) Serve(ctx context.Context, lis net.Listener, opts ...grpc.ServerOption) error {
	g := grpc.NewServer(opts...)
	ratelimitv3.RegisterRateLimitServiceServer(g, s)
	h := health.NewServer()
	h.SetServingStatus(ratelimitv3.RateLimitService_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(g, healthService{h})

	ended := make(chan error, 1)
	go func() { ended <- g.Serve(lis) }()
	select {
	case err := <-ended:
		g.Stop()
		return err
	case <-ctx.Done():
	}
	h.Shutdown()
	drained := make(chan struct{})
	go func() {
		g.GracefulStop()
		close(drained)
	}()
	timer := time.NewTimer(s.opts.Drain)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		g.Stop()
		<-drained
	}
	return <-ended
}

// A healthService ends the streams of those who watch, once they know that it is over: else each would hold GracefulStop up for all of Drain.
type healthService struct{ *health.Server }

func (h healthService) Watch(req *healthv1.HealthCheckRequest, stream healthv1.Health_WatchServer) error {
	ctx, end := context.WithCancel(stream.Context())
	defer end()
	return h.Server.Watch(req, &watch{stream, ctx, end})
}

type watch struct {
	healthv1.Health_WatchServer
	ctx context.Context
	end context.CancelFunc
}

func (w *watch) Context() context.Context { return w.ctx }

func (w *watch) Send(r *healthv1.HealthCheckResponse) error {
	err := w.Health_WatchServer.Send(r)
	if r.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING { // Shutdown says it, nothing else does
		w.end()
	}
	return err
}
