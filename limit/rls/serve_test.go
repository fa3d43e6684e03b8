package rls_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/limittest"
	"github.com/freshetdev/freshet/limit/memlimit"
	"github.com/freshetdev/freshet/limit/rls"
)

const one = "domain: d\ndescriptors:\n- key: k\n  rate_limit: { unit: day, requests_per_unit: 5 }"

func TestHealth(t *testing.T) {
	r := newRig(t, one, rls.Options{})
	conn := serve(t, r.server)
	for service, want := range map[string]codes.Code{"": codes.OK, "envoy.service.ratelimit.v3.RateLimitService": codes.OK, "other": codes.NotFound} {
		resp, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if status.Code(err) != want || err == nil && resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v; want %v", service, resp, err, want)
		}
	}
}

// A gated store lets Take through when told to.
type gated struct {
	limit.Store
	entered, leave chan struct{}
}

func (g *gated) Take(ctx context.Context, c limit.Charge) (limit.Status, error) {
	g.entered <- struct{}{}
	<-g.leave
	return g.Store.Take(ctx, c)
}

// stopped serves, begins a call that waits in the store, and stops the server.
func stopped(t *testing.T, opts rls.Options) (g *gated, conn *grpc.ClientConn, called, ended chan error) {
	t.Helper()
	g = &gated{Store: limittest.NewModel(time.Now().UnixMicro), entered: make(chan struct{}, 1), leave: make(chan struct{})}
	l, err := limit.New(g, limit.Options{Timeout: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s, err := rls.NewServer(l, config(t, one), opts)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err = grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, stop := context.WithCancel(t.Context())
	called, ended = make(chan error, 1), make(chan error, 1)
	go func() { ended <- s.Serve(ctx, lis) }()
	watch, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	heard := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if resp, err := watch.Recv(); err != nil || resp.GetStatus() != want {
			t.Errorf("health: %v, %v; want %v", resp, err, want)
		}
	}
	heard(healthv1.HealthCheckResponse_SERVING)
	go func() {
		_, err := ratelimitv3.NewRateLimitServiceClient(conn).ShouldRateLimit(context.Background(), request("d", descriptor("k")))
		called <- err
	}()
	<-g.entered
	stop()
	heard(healthv1.HealthCheckResponse_NOT_SERVING)
	// Who watches isn't waited for.
	if resp, err := watch.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("health: %v, %v; want the end of the stream", resp, err)
	}
	return g, conn, called, ended
}

// TestGracefulStop: a call under way gets its answer, and Serve waits for it.
func TestGracefulStop(t *testing.T) {
	g, _, called, ended := stopped(t, rls.Options{Drain: time.Minute})
	select {
	case err := <-ended:
		t.Fatalf("Serve returned %v while a call was under way", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(g.leave)
	if err := <-called; err != nil {
		t.Errorf("the call: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// TestDrain: a call that takes too long is cut off.
func TestDrain(t *testing.T) {
	g, _, called, ended := stopped(t, rls.Options{Drain: 20 * time.Millisecond})
	if err := <-called; status.Code(err) != codes.Unavailable {
		t.Errorf("the call: error %v; want UNAVAILABLE", err)
	}
	close(g.leave) // GracefulStop waits for handlers
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// TestServeFails: the listener's error is that of Serve.
func TestServeFails(t *testing.T) {
	l, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := rls.NewServer(l, &rls.Config{}, rls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close()
	if err := s.Serve(t.Context(), lis); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v; want that of the listener", err)
	}
}

// TestTLS: options of gRPC reach the server.
func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rls"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	r := newRig(t, one, rls.Options{})
	plain := serve(t, r.server, grpc.Creds(credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})))
	if _, err := ratelimitv3.NewRateLimitServiceClient(plain).ShouldRateLimit(t.Context(), request("d", descriptor("k"))); status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: error %v; want UNAVAILABLE", err)
	}
	conn, err := grpc.NewClient(plain.Target(), grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(roots, "")))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := ratelimitv3.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), request("d", descriptor("k")))
	if err != nil || resp.GetOverallCode() != ok {
		t.Errorf("with TLS: %v, %v", resp, err)
	}
}
