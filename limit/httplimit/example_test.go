package httplimit_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"time"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/httplimit"
	"github.com/freshetdev/freshet/limit/memlimit"
)

// get sends a request, as from address, and prints what matters of the answer.
func get(h http.Handler, address string, fields ...string) {
	r := httptest.NewRequest("GET", "/users/7", nil)
	r.RemoteAddr = address + ":1234"
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(strings.TrimSpace(fmt.Sprint(w.Code, " ", w.Header().Get("RateLimit"))))
	if w.Code >= 400 {
		fmt.Print(w.Body)
	}
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })

func Example() {
	limiter, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
	perIP, err := httplimit.ClientIP(httplimit.IPOptions{})
	if err != nil {
		log.Fatal(err)
	}
	perMinute := limit.MustPolicy("per-ip", limit.Spec{Limit: 60, Period: time.Minute, Burst: 2})
	m, err := httplimit.New(limiter, httplimit.Options{
		Limits: []httplimit.Limit{{Policy: perMinute, By: perIP}},
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := m.Wrap(hello)

	get(handler, "192.0.2.1")
	get(handler, "192.0.2.1")
	get(handler, "192.0.2.1")
	get(handler, "192.0.2.2")
	// Output:
	// 200 "per-ip";r=1;t=1
	// 200 "per-ip";r=0;t=1
	// 429 "per-ip";r=0;t=1
	// {"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":429,"detail":"There is no room left in limit per-ip; try again in 1 second.","violated-policies":["per-ip"]}
	// 200 "per-ip";r=1;t=1
}

// Several limits of one request: what an API key, or the address of who has none, may do at once and in a day. Writes cost more.
func Example_severalLimits() {
	limiter, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()

	perIP, err := httplimit.ClientIP(httplimit.IPOptions{
		Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, // the load balancers
	})
	if err != nil {
		log.Fatal(err)
	}
	client := httplimit.First(httplimit.Header("X-Api-Key"), perIP)
	m, err := httplimit.New(limiter, httplimit.Options{
		Limits: []httplimit.Limit{
			{Policy: limit.MustPolicy("burst", limit.Spec{Limit: 10, Period: time.Second}), By: client},
			{
				Policy: limit.MustPolicy("day", limit.Spec{Kind: limit.Strict, Limit: 100, Period: 24 * time.Hour}), By: client,
				Cost: func(r *http.Request) int64 {
					if r.Method == http.MethodGet {
						return 1
					}
					return 5
				},
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := m.Wrap(hello)

	get(handler, "10.0.0.9", "X-Api-Key: k1")
	get(handler, "10.0.0.9", "X-Forwarded-For: 6.6.6.6, 192.0.2.1")
	get(handler, "10.0.0.9", "X-Forwarded-For: 7.7.7.7, 192.0.2.1") // the left part is what the client made up
	// Output:
	// 200 "burst";r=9;t=1, "day";r=99;t=86400
	// 200 "burst";r=9;t=1, "day";r=99;t=86400
	// 200 "burst";r=8;t=1, "day";r=98;t=86400
}

// What a request costs is known afterwards: an estimate is charged before, the real cost after it.
func Example_settle() {
	limiter, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
	kilobytes := limit.MustPolicy("kilobytes", limit.Spec{Limit: 1000, Period: time.Hour})
	m, err := httplimit.New(limiter, httplimit.Options{
		Limits: []httplimit.Limit{{
			Policy: kilobytes,
			Cost:   func(*http.Request) int64 { return 100 },
			Settle: func(_ *http.Request, res httplimit.Response) (int64, bool) {
				return (res.Bytes + 1023) / 1024, true
			},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	get(m.Wrap(hello), "192.0.2.1")

	d, err := limiter.Peek(context.Background(), limit.Request{Policy: kilobytes})
	fmt.Println(d.Remaining, err)
	// Output:
	// 200 "kilobytes";r=900;t=4
	// 999 <nil>
}

// Of a claim that an authentication middleware has verified. At most two requests of a user run at a time.
func ExampleContext() {
	type userKey struct{}
	authenticated := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			subject := "ada" // of the verified token
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, subject)))
		})
	}

	limiter, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
	m, err := httplimit.New(limiter, httplimit.Options{
		Limits: []httplimit.Limit{{
			Policy: limit.MustPolicy("at-once", limit.Spec{Kind: limit.Concurrency, Limit: 2}),
			By:     httplimit.Context(userKey{}),
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	get(authenticated(m.Wrap(hello)), "192.0.2.1")
	get(m.Wrap(hello), "192.0.2.1")
	// Output:
	// 200 "at-once";r=1
	// 400
	// {"type":"about:blank","title":"Bad Request","status":400,"detail":"The request lacks what limit at-once identifies clients by."}
}

// Load that a server sheds is answered like a limit, but it is not the client's fault.
func ExampleRefusal_Write() {
	queue := make(chan struct{}) // full
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case queue <- struct{}{}:
			hello.ServeHTTP(w, r)
		default:
			httplimit.Refusal{Kind: httplimit.ReducedCapacity, RetryAfter: 2 * time.Second}.Write(w, r)
		}
	})
	get(handler, "192.0.2.1")
	// Output:
	// 503
	// {"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Temporary Reduced Capacity","status":503,"detail":"The server can't take the request now; try again in 2 seconds.","violated-policies":[]}
}

// Without HTTP: two limits of one call, all or nothing.
func Example_withoutHTTP() {
	ctx := context.Background()
	limiter, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
	perUser := limit.MustPolicy("per-user", limit.Spec{Limit: 100, Period: time.Minute, Burst: 20})
	perTenant := limit.MustPolicy("per-tenant", limit.Spec{Kind: limit.Fixed, Limit: 1_000_000, Calendar: limit.Month})

	d, err := limiter.Decide(ctx,
		limit.Request{Policy: perUser, Key: "{acme}ada", Cost: 5},
		limit.Request{Policy: perTenant, Key: "{acme}", Cost: 5})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Allowed, d.At(0).Remaining, d.At(1).Remaining)

	// It cost only 2.
	after, err := limiter.Settle(ctx, d.At(0), 2)
	fmt.Println(after.Remaining, err)
	// Output:
	// true 15 999995
	// 18 <nil>
}
