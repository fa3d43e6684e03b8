package rls_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/limittest"
	"github.com/freshetdev/freshet/limit/memlimit"
	"github.com/freshetdev/freshet/limit/rls"
)

const (
	ok       = ratelimitv3.RateLimitResponse_OK
	over     = ratelimitv3.RateLimitResponse_OVER_LIMIT
	codeless = ratelimitv3.RateLimitResponse_UNKNOWN
)

// A rig is a server and a client of it, over TCP. Time stands still unless sleep is called.
type rig struct {
	t       testing.TB
	client  ratelimitv3.RateLimitServiceClient
	server  *rls.Server
	limiter *limit.Limiter
	store   *faulty
	now     atomic.Int64
}

// A faulty store fails while err isn't nil.
type faulty struct {
	limit.Store
	err    atomic.Pointer[error]
	takes  atomic.Int64
	adjust atomic.Int64
}

var errDown = errors.New("the store is down")

func (f *faulty) fail(err error) {
	if err == nil {
		f.err.Store(nil)
	} else {
		f.err.Store(&err)
	}
}

func (f *faulty) failing() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *faulty) Take(ctx context.Context, c limit.Charge) (limit.Status, error) {
	f.takes.Add(1)
	if err := f.failing(); err != nil {
		return limit.Status{}, err
	}
	return f.Store.Take(ctx, c)
}

func (f *faulty) TakeAll(ctx context.Context, c []limit.Charge, out []limit.Status) error {
	f.takes.Add(1)
	if err := f.failing(); err != nil {
		return err
	}
	return f.Store.TakeAll(ctx, c, out)
}

func (f *faulty) Peek(ctx context.Context, c []limit.Charge, out []limit.Status) error {
	if err := f.failing(); err != nil {
		return err
	}
	return f.Store.Peek(ctx, c, out)
}

func (f *faulty) Adjust(ctx context.Context, a []limit.Adjustment, out []limit.Status) error {
	f.adjust.Add(1)
	if err := f.failing(); err != nil {
		return err
	}
	return f.Store.Adjust(ctx, a, out)
}

func config(t testing.TB, text string) *rls.Config {
	t.Helper()
	c, err := rls.ParseConfig("limits.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newRig(t testing.TB, text string, opts rls.Options) *rig {
	t.Helper()
	// Nothing is remembered: what a test changes in the store shows at once.
	return newRigWith(t, text, opts, limit.Options{RefusedKeys: -1, Timeout: time.Second}, nil)
}

func newRigWith(t testing.TB, text string, opts rls.Options, lopts limit.Options, store limit.Store) *rig {
	t.Helper()
	r := &rig{t: t}
	r.now.Store(time.Date(2026, 3, 4, 10, 30, 15, 0, time.UTC).UnixMicro())
	if store == nil {
		store = limittest.NewModel(r.now.Load)
	}
	r.store = &faulty{Store: store}
	var err error
	if r.limiter, err = limit.New(r.store, lopts); err != nil {
		t.Fatal(err)
	}
	if r.server, err = rls.NewServer(r.limiter, config(t, text), opts); err != nil {
		t.Fatal(err)
	}
	r.client = ratelimitv3.NewRateLimitServiceClient(serve(t, r.server))
	t.Cleanup(func() { r.limiter.Close() })
	return r
}

// serve serves on a free port until the test ends, and returns a connection.
func serve(t testing.TB, s *rls.Server, opts ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, lis, opts...) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return conn
}

// sleep lets time pass.
func (r *rig) sleep(d time.Duration) { r.now.Add(d.Microseconds()) }

// descriptor makes one of "key=value,key=value".
func descriptor(entries string, with ...func(*commonv3.RateLimitDescriptor)) *commonv3.RateLimitDescriptor {
	d := &commonv3.RateLimitDescriptor{}
	for e := range strings.SplitSeq(entries, ",") {
		k, v, _ := strings.Cut(e, "=")
		d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: k, Value: v})
	}
	for _, f := range with {
		f(d)
	}
	return d
}

func hits(n uint64) func(*commonv3.RateLimitDescriptor) {
	return func(d *commonv3.RateLimitDescriptor) { d.HitsAddend = wrapperspb.UInt64(n) }
}

func back(n uint64) func(*commonv3.RateLimitDescriptor) {
	return func(d *commonv3.RateLimitDescriptor) {
		d.HitsAddend, d.IsNegativeHits = wrapperspb.UInt64(n), true
	}
}

func limited(n uint32, u typev3.RateLimitUnit, times ...uint32) func(*commonv3.RateLimitDescriptor) {
	return func(d *commonv3.RateLimitDescriptor) {
		d.Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: n, Unit: u}
		if len(times) > 0 {
			d.Limit.UnitMultiplier = wrapperspb.UInt32(times[0])
		}
	}
}

func request(domain string, list ...*commonv3.RateLimitDescriptor) *ratelimitv3.RateLimitRequest {
	return &ratelimitv3.RateLimitRequest{Domain: domain, Descriptors: list}
}

func (r *rig) ask(req *ratelimitv3.RateLimitRequest) *ratelimitv3.RateLimitResponse {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	resp, err := r.client.ShouldRateLimit(ctx, req)
	if err != nil {
		r.t.Fatalf("%v: %v", req, err)
	}
	if len(resp.GetStatuses()) != len(req.GetDescriptors()) {
		r.t.Fatalf("%v: %d statuses; want one for each descriptor", req, len(resp.GetStatuses()))
	}
	return resp
}

// fails asks, and wants an error.
func (r *rig) fails(req *ratelimitv3.RateLimitRequest, want codes.Code, text string) {
	r.t.Helper()
	resp, err := r.client.ShouldRateLimit(r.t.Context(), req)
	if status.Code(err) != want || !strings.Contains(err.Error(), text) {
		r.t.Errorf("%v: got %v, error %v; want %v with %q", req, resp, err, want, text)
	}
}

// facts are a reply in short: the overall code, and for each status its code, current limit, what remains and the time until the reset.
func facts(resp *ratelimitv3.RateLimitResponse) string {
	short := func(c ratelimitv3.RateLimitResponse_Code) string {
		return map[ratelimitv3.RateLimitResponse_Code]string{ok: "ok", over: "over", codeless: "unknown"}[c]
	}
	var b strings.Builder
	b.WriteString(short(resp.GetOverallCode()))
	for _, s := range resp.GetStatuses() {
		fmt.Fprintf(&b, " | %s", short(s.GetCode()))
		if l := s.GetCurrentLimit(); l != nil {
			fmt.Fprintf(&b, " %s %d/", l.GetName(), l.GetRequestsPerUnit())
			if m := l.GetUnitMultiplier(); m != nil {
				fmt.Fprint(&b, m.GetValue())
			}
			fmt.Fprint(&b, strings.ToLower(l.GetUnit().String()))
		}
		if s.GetCurrentLimit() != nil && s.DurationUntilReset != nil || s.GetLimitRemaining() != 0 {
			fmt.Fprintf(&b, " %d", s.GetLimitRemaining())
		}
		if s.DurationUntilReset != nil {
			fmt.Fprintf(&b, " %v", s.GetDurationUntilReset().AsDuration())
		}
	}
	return b.String()
}

// says asks, and wants those facts.
func (r *rig) says(want string, req *ratelimitv3.RateLimitRequest) *ratelimitv3.RateLimitResponse {
	r.t.Helper()
	resp := r.ask(req)
	if got := facts(resp); got != want {
		r.t.Errorf("%v:\n got %s\nwant %s", req, got, want)
	}
	return resp
}

const edge = `
domain: edge
descriptors:
- key: ip
  rate_limit: { unit: second, requests_per_unit: 10, burst: 2, name: per-ip }
- key: ip
  value: 10.0.0.66
  rate_limit: { unit: hour, requests_per_unit: 0 }
- key: ip
  value: 10.*
  rate_limit: { unit: minute, requests_per_unit: 60, burst: 3 }
- key: ip
  value: 10.1.*
  share_threshold: true
  rate_limit: { unit: minute, requests_per_unit: 2, algorithm: strict }
- key: path
  value: /login
  descriptors:
  - key: user
    rate_limit: { unit: minute, requests_per_unit: 2, unit_multiplier: 5, algorithm: fixed }
  - key: user
    value: root
  - key: user
    value: robot
    rate_limit: { unlimited: true }
- key: path
  rate_limit: { unit: day, requests_per_unit: 1 }
- key: path
  value: /dark
  shadow_mode: true
  rate_limit: { unit: second, requests_per_unit: 1 }
- key: quota
  rate_limit: { unit: month, requests_per_unit: 5, algorithm: fixed }
`

// TestMatch: which limit a descriptor has, and what it says.
func TestMatch(t *testing.T) {
	r := newRig(t, edge, rls.Options{})
	ask := func(want, entries string) { t.Helper(); r.says(want, request("edge", descriptor(entries))) }

	// No limit: nobody configured one.
	r.says("ok | ok", request("nowhere", descriptor("ip=1.2.3.4", limited(0, typev3.RateLimitUnit_SECOND))))
	ask("ok | ok", "color=red")
	ask("ok | ok", "ip=1.2.3.4,color=red") // one level too deep
	ask("ok | ok", "path=/login")          // one level too high
	ask("ok | ok", "path=/login,color=red")
	ask("ok | ok", "path=/,user=x")         // not below that path
	ask("ok | ok", "path=/login,user=root") // a rule without a limit lets pass
	ask("ok | ok 4294967295", "path=/login,user=robot")

	// The value before the longest wildcard, that before the key alone.
	ask("over | over edge.ip_10.0.0.66 0/hour 0 1h0m0s", "ip=10.0.0.66")
	ask("ok | ok edge.ip_10.* 60/minute 2 1s", "ip=10.0.0.67")
	ask("ok | ok edge.ip_10.1.* 2/minute 1 1m0s", "ip=10.1.0.1")
	ask("ok | ok per-ip 10/second 1 100ms", "ip=11.0.0.1")
	ask("ok | ok per-ip 10/second 1 100ms", "ip=")

	// Each value counts by itself; a shared wildcard counts all together.
	ask("ok | ok per-ip 10/second 0 200ms", "ip=11.0.0.1")
	ask("ok | ok per-ip 10/second 1 100ms", "ip=11.0.0.2")
	ask("ok | ok edge.ip_10.1.* 2/minute 0 1m0s", "ip=10.1.0.2")
	ask("over | over edge.ip_10.1.* 2/minute 0 1m0s", "ip=10.1.0.3")
	ask("ok | ok edge.ip_10.* 60/minute 2 1s", "ip=10.0.0.68")

	// Refused: duration_until_reset is when to try again. A refusal costs nothing.
	ask("over | over per-ip 10/second 0 100ms", "ip=11.0.0.1")
	r.sleep(40 * time.Millisecond)
	ask("over | over per-ip 10/second 0 60ms", "ip=11.0.0.1")
	r.sleep(60 * time.Millisecond)
	ask("ok | ok per-ip 10/second 0 200ms", "ip=11.0.0.1")

	// Windows of fixed are aligned: it is 10:30:15.1, so that of 5 minutes ends at 10:35, and March ends in 27 days.
	ask("ok | ok edge.path_/login.user 2/5minute 1 4m44.9s", "path=/login,user=ann")
	ask("ok | ok edge.path_/login.user 2/5minute 0 4m44.9s", "path=/login,user=ann")
	ask("over | over edge.path_/login.user 2/5minute 0 4m44.9s", "path=/login,user=ann")
	ask("ok | ok edge.quota 5/month 4 661h29m44.9s", "quota=a")

	// In shadow mode it says ok, and that nothing remains.
	ask("ok | ok edge.path_/dark 1/second 0 1s", "path=/dark")
	ask("ok | ok edge.path_/dark 1/second 0 1s", "path=/dark")
	if s := r.limiter.Stats(); s.Shadowed != 1 {
		t.Errorf("%+v; want 1 shadowed", s)
	}
}

func TestInvalidRequests(t *testing.T) {
	r := newRig(t, edge, rls.Options{})
	bad := func(req *ratelimitv3.RateLimitRequest, want string) {
		t.Helper()
		r.fails(req, codes.InvalidArgument, want)
	}
	bad(request("", descriptor("ip=1")), "domain is empty")
	bad(request("edge"), "descriptors is empty")
	bad(request("edge", descriptor("ip=1"), &commonv3.RateLimitDescriptor{}), "descriptors[1].entries is empty")
	bad(request("edge", descriptor("ip=1,=2")), "descriptors[0].entries[1].key is empty")
	bad(request("edge", descriptor("ip=1", limited(5, typev3.RateLimitUnit_UNKNOWN))), "descriptors[0].limit.unit is UNKNOWN; want SECOND,")
	bad(request("edge", descriptor("ip=1", limited(5, typev3.RateLimitUnit_SECOND, 0))), "descriptors[0].limit.unit_multiplier is 0; want 1 or more")
	bad(request("edge", descriptor("ip=1", limited(5, typev3.RateLimitUnit_YEAR, 2))), "descriptors[0].limit can't be: its period is 2 times a year; want at most 1")
	bad(request("edge", descriptor("ip=1", limited(5, typev3.RateLimitUnit_SECOND, math.MaxUint32))), "its period is 4294967295 times a second; want at most 31622400")
	many := request("edge")
	for range rls.MaxDescriptors + 1 {
		many.Descriptors = append(many.Descriptors, descriptor("color=red"))
	}
	bad(many, "descriptors has 257; want at most 256")
	many.Descriptors = many.Descriptors[1:]
	r.ask(many)
}

// TestAddends: hits of a request and of a descriptor, none, and more than there can ever be.
func TestAddends(t *testing.T) {
	r := newRig(t, `
domain: d
descriptors:
- key: k
  rate_limit: { unit: second, requests_per_unit: 100 }
- key: quota
  rate_limit: { unit: day, requests_per_unit: 4294967295, algorithm: fixed }
`, rls.Options{})
	req := request("d", descriptor("k=1"))
	req.HitsAddend = 30
	r.says("ok | ok d.k 100/second 70 300ms", req)
	req.Descriptors = append(req.Descriptors, descriptor("k=2", hits(5)), descriptor("k=3", hits(0)))
	r.says("ok | ok d.k 100/second 40 600ms | ok d.k 100/second 95 50ms | ok d.k 100/second 100 0s", req)
	req.HitsAddend = 0
	r.says("ok | ok d.k 100/second 39 610ms | ok d.k 100/second 90 100ms | ok d.k 100/second 100 0s", req)

	// No hits ask whether there is room for one.
	r.says("ok | ok d.k 100/second 0 1s", request("d", descriptor("k=4", hits(100))))
	r.says("over | over d.k 100/second 0 10ms", request("d", descriptor("k=4", hits(0))))
	r.says("over | over d.k 100/second 0 1s", request("d", descriptor("k=4", hits(100))))

	// More than ever fits at once: a retry makes no sense, so at least it is late.
	r.says("over | over d.k 100/second 100 1s", request("d", descriptor("k=5", hits(101))))
	r.says("over | over d.k 100/second 100 1s", request("d", descriptor("k=5", hits(math.MaxUint64))))

	// 64 bits: more than a request's own addend can say.
	r.says("ok | ok d.quota 4294967295/day 0 13h29m45s", request("d", descriptor("quota=1", hits(math.MaxUint32))))
	r.says("over | over d.quota 4294967295/day 4294967295 24h0m0s", request("d", descriptor("quota=2", hits(math.MaxUint32+1))))
}

// TestNegativeHits: they give back what was used and no more, and refuse nothing.
func TestNegativeHits(t *testing.T) {
	r := newRig(t, `
domain: d
descriptors:
- key: k
  rate_limit: { unit: minute, requests_per_unit: 60, burst: 10 }
- key: s
  rate_limit: { unit: minute, requests_per_unit: 10, algorithm: strict }
- key: f
  rate_limit: { unit: minute, requests_per_unit: 10, algorithm: fixed }
- key: free
  rate_limit: { unlimited: true }
`, rls.Options{})
	for _, key := range []string{"k", "s", "f"} {
		left := func(want string, ds ...*commonv3.RateLimitDescriptor) {
			t.Helper()
			var got []string
			resp := r.ask(request("d", ds...))
			for _, s := range resp.GetStatuses() {
				got = append(got, fmt.Sprint(s.GetCode(), " ", s.GetLimitRemaining()))
			}
			if got := strings.Join(got, ", "); got != want {
				t.Errorf("%s: got %s; want %s", key, got, want)
			}
		}
		left("OK 2", descriptor(key, hits(8)))
		left("OVER_LIMIT 2", descriptor(key, hits(3)))
		left("OK 5", descriptor(key, back(3)))
		left("OK 2", descriptor(key, hits(3)))
		left("OK 10", descriptor(key, back(math.MaxUint64)))
		left("OK 10", descriptor(key, back(1)))
		left("OK 0", descriptor(key, hits(10)))
		left("OK 0", descriptor(key, back(0))) // gives back nothing, and doesn't refuse
		// Given back before the rest is decided; and it stays so when that is refused.
		left("OK 1, OK 0", descriptor(key, back(1)), descriptor(key))
		left("OK 2, OVER_LIMIT 2", descriptor(key, back(2)), descriptor(key, hits(3)))
		left("OK 0", descriptor(key, hits(2)))
		// Of the request's addend.
		req := request("d", descriptor(key, back(0)))
		req.HitsAddend, req.Descriptors[0].HitsAddend = 4, nil
		r.ask(req)
		left("OK 0", descriptor(key, hits(4)))
	}
	r.says("ok | ok 4294967295 | ok", request("d", descriptor("free", back(5)), descriptor("none", back(5))))

	// A store that can't is no reason to refuse; but the answer doesn't claim that it could.
	r.store.fail(errDown)
	r.says("ok | unknown d.k 60/minute | ok", request("d", descriptor("k", back(5)), descriptor("none")))
	r.says("ok | unknown d.k 60/minute", request("d", descriptor("k", back(0))))
}

// TestOverrides: a limit in the request holds instead of the configured one.
func TestOverrides(t *testing.T) {
	r := newRig(t, `
domain: d
descriptors:
- key: k
  rate_limit: { unit: minute, requests_per_unit: 60, burst: 2, name: named }
- key: strict
  rate_limit: { unit: minute, requests_per_unit: 1, algorithm: strict }
- key: dark
  shadow_mode: true
  rate_limit: { unit: minute, requests_per_unit: 1 }
- key: free
  rate_limit: { unlimited: true }
`, rls.Options{})
	ask := func(want, entries string, with ...func(*commonv3.RateLimitDescriptor)) {
		t.Helper()
		r.says(want, request("d", descriptor(entries, with...)))
	}
	// With the same period it goes on with what was used.
	ask("ok | ok named 60/minute 1 1s", "k=1")
	ask("ok | ok named 60/minute 0 2s", "k=1")
	ask("over | over named 60/minute 0 1s", "k=1")
	ask("ok | ok named 120/minute 115 2.5s", "k=1", limited(120, typev3.RateLimitUnit_MINUTE))
	ask("over | over named 60/minute 0 1.5s", "k=1")
	// With another one it counts apart.
	ask("ok | ok named 5/30second 4 6s", "k=1", limited(5, typev3.RateLimitUnit_SECOND, 30))
	ask("ok | ok named 5/30second 3 12s", "k=1", limited(5, typev3.RateLimitUnit_SECOND, 30))
	ask("ok | ok named 5/hour 4 12m0s", "k=1", limited(5, typev3.RateLimitUnit_HOUR))
	ask("ok | ok named 5/day 4 4h48m0s", "k=1", limited(5, typev3.RateLimitUnit_DAY))
	ask("ok | ok named 5/month 4 144h0m0s", "k=1", limited(5, typev3.RateLimitUnit_MONTH))
	ask("ok | ok named 5/year 4 1752h0m0s", "k=1", limited(5, typev3.RateLimitUnit_YEAR))
	// A multiplier of 1 says nothing.
	ask("over | over named 60/minute 57 1.5s", "k=1", limited(60, typev3.RateLimitUnit_MINUTE, 1), hits(59))
	// None at all.
	ask("over | over named 0/second 0 1s", "k=1", limited(0, typev3.RateLimitUnit_SECOND))

	// The algorithm is the configured one; shadow mode and unlimited are not.
	ask("ok | ok d.strict 2/minute 1 1m0s", "strict", limited(2, typev3.RateLimitUnit_MINUTE))
	ask("ok | ok d.dark 1/minute 0 1m0s", "dark", limited(1, typev3.RateLimitUnit_MINUTE))
	ask("over | over d.dark 1/minute 0 1m0s", "dark", limited(1, typev3.RateLimitUnit_MINUTE))
	ask("ok | ok d.dark 1/minute 0 1m0s", "dark")
	ask("ok | ok d.free 1/minute 0 1m0s", "free", limited(1, typev3.RateLimitUnit_MINUTE))

	// Without a rule, it counts by the entries.
	ask("ok | ok d.new.deep 1/minute 0 1m0s", "new=1,deep=2", limited(1, typev3.RateLimitUnit_MINUTE))
	ask("over | over d.new.deep 1/minute 0 1m0s", "new=1,deep=2", limited(1, typev3.RateLimitUnit_MINUTE))
	ask("ok | ok d.new.deep 1/minute 0 1m0s", "new=1,deep=3", limited(1, typev3.RateLimitUnit_MINUTE))

	// More than a million a second: gcra can't, so it is fixed.
	ask("ok | ok d.fast 4294967295/second 4294967294 1s", "fast", limited(math.MaxUint32, typev3.RateLimitUnit_SECOND))
}

// TestSameDescriptorTwice: descriptors that count alike are decided as one.
func TestSameDescriptorTwice(t *testing.T) {
	r := newRig(t, `
domain: d
descriptors:
- key: k
  rate_limit: { unit: minute, requests_per_unit: 10, algorithm: strict, name: n }
- key: dark
  shadow_mode: true
  rate_limit: { unit: minute, requests_per_unit: 1, algorithm: strict, name: n }
`, rls.Options{})
	r.says("ok | ok n 10/minute 5 1m0s | ok n 10/minute 5 1m0s", request("d", descriptor("k", hits(3)), descriptor("k", hits(2))))
	r.says("over | over n 10/minute 5 1m0s | over n 10/minute 5 1m0s", request("d", descriptor("k", hits(3)), descriptor("k", hits(3))))
	r.says("ok | ok n 10/minute 3 1m0s | ok n 10/minute 3 1m0s", request("d", descriptor("k", hits(2)), descriptor("k", hits(0))))
	r.says("ok | ok n 10/minute 2 1m0s | ok n 10/minute 2 1m0s", request("d", descriptor("k", hits(0)), descriptor("k", hits(1))))
	r.says("over | over n 10/minute 2 1m0s | over n 10/minute 2 1m0s", request("d", descriptor("k", hits(math.MaxUint64)), descriptor("k", hits(math.MaxUint64))))
	// Of two limits the lower holds for both.
	r.says("over | over n 10/minute 0 1m0s | over n 8/minute 0 1m0s", request("d", descriptor("k"), descriptor("k", limited(8, typev3.RateLimitUnit_MINUTE))))
	r.says("over | over n 8/minute 0 1m0s | over n 10/minute 0 1m0s", request("d", descriptor("k", limited(8, typev3.RateLimitUnit_MINUTE)), descriptor("k")))
	r.says("ok | ok n 10/minute 0 1m0s", request("d", descriptor("k", hits(2))))
	// One that can refuse goes before one that can't.
	r.says("ok | ok n 1/minute 0 1m0s | ok n 2/minute 0 1m0s", request("d", descriptor("dark"), descriptor("dark", limited(2, typev3.RateLimitUnit_MINUTE))))
	r.says("over | over n 1/minute 0 1m0s | over n 2/minute 0 1m0s", request("d", descriptor("dark"), descriptor("dark", limited(2, typev3.RateLimitUnit_MINUTE))))
}

// TestKeysDontMeet: entries that look alike when joined count apart.
func TestKeysDontMeet(t *testing.T) {
	// Both limits have the same name, so nothing but the key tells them apart.
	r := newRig(t, `
domain: d
descriptors:
- key: a
  rate_limit: &same { unit: day, requests_per_unit: 1, name: same }
  descriptors:
  - key: b
    rate_limit: *same
- key: a=1|b
  rate_limit: *same
---
domain: d|a=1
descriptors:
- key: b
  rate_limit: { unit: day, requests_per_unit: 1, name: same }
`, rls.Options{})
	for _, req := range []*ratelimitv3.RateLimitRequest{
		request("d", descriptor("a=1,b=2")),
		request("d", &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "a", Value: "1|b=2"}}}),
		request("d", &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "a", Value: "1%7Cb%3D2"}}}),
		request("d", &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "a=1|b", Value: "2"}}}),
		request("d", &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "a", Value: "1"}, {Key: "b", Value: "2|day"}}}),
		request("d|a=1", descriptor("b=2")),
	} {
		if got := r.ask(req).GetOverallCode(); got != ok {
			t.Errorf("%v: %v; want the first of it to be OK", req, got)
		}
		if got := r.ask(req).GetOverallCode(); got != over {
			t.Errorf("%v: %v; want the second of it to be OVER_LIMIT", req, got)
		}
	}
}

func TestReplaces(t *testing.T) {
	r := newRig(t, `
domain: d
descriptors:
- key: all
  rate_limit: { unit: day, requests_per_unit: 1, name: all }
- key: vip
  rate_limit: { unit: day, requests_per_unit: 3, name: vip, replaces: [{ name: all }] }
- key: boss
  rate_limit: { unlimited: true, replaces: [{ name: vip }] }
`, rls.Options{})
	r.says("ok | ok | ok vip 3/day 2 8h0m0s", request("d", descriptor("all"), descriptor("vip")))
	r.says("ok | ok vip 3/day 1 16h0m0s | ok", request("d", descriptor("vip"), descriptor("all")))
	// What was replaced wasn't charged.
	r.says("ok | ok all 1/day 0 24h0m0s", request("d", descriptor("all")))
	r.says("over | over all 1/day 0 24h0m0s", request("d", descriptor("all")))
	// What is replaced itself replaces all the same.
	r.says("ok | ok | ok | ok 4294967295", request("d", descriptor("all"), descriptor("vip"), descriptor("boss")))
	// A limit in the request neither replaces nor is replaced.
	r.says("over | over all 1/day 0 24h0m0s | ok vip 4/day 1 16h0m0s", request("d", descriptor("all"), descriptor("vip", limited(4, typev3.RateLimitUnit_DAY))))
	r.says("over | over all 1/day 0 24h0m0s | ok vip 3/day 1 16h0m0s", request("d", descriptor("all", limited(1, typev3.RateLimitUnit_DAY)), descriptor("vip")))
}

// TestAllOrNothing: what is refused costs nothing, whether the limits share a slot, don't, or are more than one decision can have.
func TestAllOrNothing(t *testing.T) {
	const text = `
domain: d
descriptors:
- key: wide
  rate_limit: { unit: day, requests_per_unit: 100, algorithm: strict }
- key: narrow
  rate_limit: { unit: day, requests_per_unit: 1, algorithm: strict }
`
	for _, n := range []int{2, limit.MaxRequests, limit.MaxRequests + 1, 3*limit.MaxRequests + 5} {
		for _, slots := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, slots %v", n, slots), func(t *testing.T) {
				model := limittest.NewModel(nil)
				model.Slots = slots
				r := newRigWith(t, text, rls.Options{}, limit.Options{RefusedKeys: -1, Timeout: time.Second}, model)
				model.Now = r.now.Load
				for narrow := range n { // where the limit that refuses stands
					req := request("d")
					for i := range n {
						if i == narrow {
							req.Descriptors = append(req.Descriptors, descriptor(fmt.Sprintf("narrow=%d", narrow)))
						} else {
							req.Descriptors = append(req.Descriptors, descriptor(fmt.Sprintf("wide=%d.%d", narrow, i)))
						}
					}
					for round, want := range []ratelimitv3.RateLimitResponse_Code{ok, over, over} {
						resp := r.ask(req)
						if resp.GetOverallCode() != want {
							t.Fatalf("round %d: %v; want %v", round, resp, want)
						}
						for i, s := range resp.GetStatuses() {
							switch {
							case i == narrow && (s.GetCode() != want || s.GetLimitRemaining() != 0):
								t.Errorf("round %d, narrow %d: %v; want %v, 0 remaining", round, i, s, want)
							case i != narrow && (s.GetCode() != ok || s.GetLimitRemaining() != 99):
								t.Errorf("round %d, wide %d beside narrow %d: %v; want OK, 99 remaining", round, i, narrow, s)
							}
						}
					}
				}
			})
		}
	}
}

// TestSlotBy: descriptors with the entry share a slot by its value.
func TestSlotBy(t *testing.T) {
	const text = `
domain: d
slot_by: tenant
descriptors:
- key: tenant
  rate_limit: { unit: day, requests_per_unit: 9, algorithm: strict }
  descriptors:
  - key: user
    rate_limit: { unit: day, requests_per_unit: 9, algorithm: strict }
- key: user
  rate_limit: { unit: day, requests_per_unit: 9, algorithm: strict }
  descriptors:
  - key: tenant
    rate_limit: { unit: day, requests_per_unit: 9, algorithm: strict }
`
	var mu sync.Mutex
	var keys []string
	lopts := limit.Options{RefusedKeys: -1, Timeout: time.Second, Override: func(p *limit.Policy, key string) *limit.Policy {
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, key)
		return p
	}}
	r := newRigWith(t, text, rls.Options{}, lopts, limittest.NewModel(time.Now().UnixMicro))
	r.ask(request("d", descriptor("tenant=acme"), descriptor("tenant=acme,user=ann"), descriptor("user=ann,tenant=acme"), descriptor("user=a{n}n"), descriptor("tenant={x")))
	want := []string{
		"{acme}d|tenant=acme|day", "{acme}d|tenant=acme|user=ann|day", "{acme}d|user=ann|tenant=acme|day", "d|user=a%7Bn%7Dn|day", "{%7Bx}d|tenant=%7Bx|day",
	}
	if fmt.Sprint(keys) != fmt.Sprint(want) {
		t.Errorf("keys\n%v, want\n%v", keys, want)
	}
}

// TestOutage: what each on_outage does, and that a limit which refuses goes before one that can't say.
func TestOutage(t *testing.T) {
	const text = `
domain: d
descriptors:
- key: default
  rate_limit: { unit: day, requests_per_unit: 8 }
- key: error
  rate_limit: { unit: day, requests_per_unit: 8, on_outage: error }
- key: allow
  rate_limit: { unit: day, requests_per_unit: 8, on_outage: allow }
- key: deny
  rate_limit: { unit: day, requests_per_unit: 8, on_outage: deny }
- key: local
  rate_limit: { unit: day, requests_per_unit: 8, on_outage: local, share: 25 }
`
	local := memlimit.New(memlimit.Options{})
	defer local.Close()
	r := newRigWith(t, text, rls.Options{Metadata: true}, limit.Options{Local: local, RefusedKeys: -1, BreakAfter: -1}, nil)
	all := []string{"default", "error", "allow", "deny", "local"}
	for _, key := range all {
		if resp := r.ask(request("d", descriptor(key))); resp.GetOverallCode() != ok || resp.GetStatuses()[0].GetLimitRemaining() != 7 {
			t.Errorf("%s: %v; want OK", key, resp)
		}
	}
	r.store.fail(errDown)
	r.fails(request("d", descriptor("default")), codes.Unavailable, "the store is down")
	r.fails(request("d", descriptor("error")), codes.Unavailable, "the store is down")
	r.fails(request("d", descriptor("new", limited(5, typev3.RateLimitUnit_DAY))), codes.Unavailable, "the store is down")
	resp := r.says("ok | ok d.allow 8/day", request("d", descriptor("allow")))
	if !resp.GetDynamicMetadata().GetFields()["degraded"].GetBoolValue() {
		t.Errorf("%v; want degraded in the metadata", resp)
	}
	r.says("over | over d.deny 8/day 0 1s", request("d", descriptor("deny")))
	// A quarter of 8.
	for i, want := range []ratelimitv3.RateLimitResponse_Code{ok, ok, over} {
		if resp := r.ask(request("d", descriptor("local"))); resp.GetOverallCode() != want {
			t.Errorf("local, %d: %v; want %v", i, resp, want)
		}
	}
	// Several.
	r.fails(request("d", descriptor("allow"), descriptor("error")), codes.Unavailable, "the store is down")
	if got := r.ask(request("d", descriptor("error"), descriptor("deny"))).GetOverallCode(); got != over {
		t.Errorf("error and deny: %v; want OVER_LIMIT", got)
	}
	// Nobody needs the store for that.
	r.says("ok | ok", request("d", descriptor("none")))

	r.store.fail(nil)
	for _, key := range all {
		if resp := r.ask(request("d", descriptor(key))); resp.GetOverallCode() != ok || resp.GetStatuses()[0].GetLimitRemaining() != 6 {
			t.Errorf("%s: %v; want OK, and that the outage charged nothing", key, resp)
		}
	}

	// local without a local store is a mistake of who made the limiter.
	bare := newRig(t, text, rls.Options{})
	bare.fails(request("d", descriptor("local")), codes.FailedPrecondition, "want Options.Local")
	bare.fails(request("d", descriptor("local", back(1))), codes.FailedPrecondition, "want Options.Local")

	r.limiter.Close()
	r.fails(request("d", descriptor("allow")), codes.Unavailable, "closed")
	r.fails(request("d", descriptor("allow", back(1))), codes.Unavailable, "closed")
}

// TestDeadline: the caller's deadline is the caller's error.
func TestDeadline(t *testing.T) {
	hang := &hanging{Store: limittest.NewModel(time.Now().UnixMicro), entered: make(chan struct{}, 8)}
	r := newRigWith(t, "domain: d\ndescriptors:\n- key: k\n  rate_limit: { unit: day, requests_per_unit: 1, on_outage: allow }", rls.Options{}, limit.Options{Timeout: -1}, hang)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := r.server.ShouldRateLimit(ctx, request("d", descriptor("k")))
		done <- err
	}()
	<-hang.entered
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("error %v; want CANCELED", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := r.server.ShouldRateLimit(ctx, request("d", descriptor("k"))); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("error %v; want DEADLINE_EXCEEDED", err)
	}
	if _, err := r.server.ShouldRateLimit(ctx, request("d", descriptor("k", back(1)))); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("error %v; want DEADLINE_EXCEEDED", err)
	}
}

// A hanging store waits for the end of ctx.
type hanging struct {
	limit.Store
	entered chan struct{}
}

func (h *hanging) Take(ctx context.Context, _ limit.Charge) (limit.Status, error) {
	h.entered <- struct{}{}
	<-ctx.Done()
	return limit.Status{}, ctx.Err()
}

// TestExempt: keys that the Limiter's overrides exempt have no limit.
func TestExempt(t *testing.T) {
	var vip limit.Overrides
	r := newRigWith(t, edge, rls.Options{Headers: rls.HeadersDraft}, limit.Options{Override: vip.Policy}, nil)
	p := limit.MustPolicy("per-ip", limit.Spec{Limit: 1, Period: time.Second})
	vip.Set(p, "edge|ip=1.2.3.4|second", nil)
	for range 5 {
		resp := r.says("ok | ok 4294967295", request("edge", descriptor("ip=1.2.3.4")))
		if len(resp.GetResponseHeadersToAdd()) > 0 {
			t.Errorf("%v; want no headers", resp)
		}
	}
}

func TestNewServerMistakes(t *testing.T) {
	l, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := func(l *limit.Limiter, c *rls.Config, opts rls.Options, want string) {
		t.Helper()
		if _, err := rls.NewServer(l, c, opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want %q", err, want)
		}
	}
	f(nil, &rls.Config{}, rls.Options{}, "the Limiter is nil")
	f(l, nil, rls.Options{}, "the Config is nil")
	f(l, &rls.Config{}, rls.Options{Headers: 9}, "Options.Headers is 9")
	f(l, &rls.Config{}, rls.Options{Drain: -1}, "Options.Drain is -1ns")
	f(l, &rls.Config{Domains: []rls.Domain{{}}}, rls.Options{}, "domain is empty")
}
