package limit_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/memlimit"
)

func newExample(o limit.Options) *limit.Limiter {
	l, err := limit.New(memlimit.New(memlimit.Options{}), o)
	if err != nil {
		log.Fatal(err)
	}
	return l
}

// One limit: 100 an hour, at most 3 at once.
func Example() {
	l := newExample(limit.Options{})
	defer l.Close()
	perUser := limit.MustPolicy("per-user", limit.Spec{Limit: 100, Period: time.Hour, Burst: 3})
	for range 4 {
		fmt.Println(l.Allow(context.Background(), perUser, "ada"))
	}
	// Output:
	// true
	// true
	// true
	// false
}

// Several limits are decided as one: what is refused by one costs nothing of the others.
func ExampleLimiter_Decide() {
	l := newExample(limit.Options{})
	defer l.Close()
	ctx := context.Background()
	perUser := limit.MustPolicy("per-user", limit.Spec{Limit: 2, Period: time.Hour})
	perTenant := limit.MustPolicy("per-tenant", limit.Spec{Limit: 1000, Period: time.Hour})
	for range 3 {
		d, err := l.Decide(ctx,
			limit.Request{Policy: perTenant, Key: "{acme}"}, // the same hash tag: one slot of a Redis Cluster
			limit.Request{Policy: perUser, Key: "{acme}ada"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed, d.Policy.Name(), d.Remaining, d.RetryAfter.Round(time.Minute), "tenant:", d.At(0).Remaining)
	}
	// Output:
	// true per-user 1 0s tenant: 999
	// true per-user 0 0s tenant: 998
	// false per-user 0 30m0s tenant: 998
}

// An estimate is taken before the work, and the real cost settled after it.
func ExampleLimiter_Settle() {
	l := newExample(limit.Options{})
	defer l.Close()
	ctx := context.Background()
	tokens := limit.MustPolicy("tokens", limit.Spec{Kind: limit.Fixed, Limit: 100_000, Calendar: limit.Year})
	d, err := l.Decide(ctx, limit.Request{Policy: tokens, Key: "ada", Cost: 2000})
	if err != nil || !d.Allowed {
		log.Fatal(err)
	}
	fmt.Println(d.Remaining)
	s, err := l.Settle(ctx, d.Status, 750)
	fmt.Println(s.Remaining, err)
	// Output:
	// 98000
	// 99250 <nil>
}

// A request that came to nothing is given back.
func ExampleLimiter_Refund() {
	l := newExample(limit.Options{})
	defer l.Close()
	ctx := context.Background()
	p := limit.MustPolicy("mails", limit.Spec{Limit: 10, Period: time.Hour})
	d, _ := l.Decide(ctx, limit.Request{Policy: p, Key: "ada", Cost: 4})
	fmt.Println(d.Remaining)
	if err := l.Refund(ctx, d); err != nil {
		log.Fatal(err)
	}
	d, _ = l.Peek(ctx, limit.Request{Policy: p, Key: "ada"})
	fmt.Println(d.Remaining)
	// Output:
	// 6
	// 10
}

// At most two at a time. What crashes without a release is free again after the TTL.
func ExampleLimiter_Release() {
	l := newExample(limit.Options{})
	defer l.Close()
	ctx := context.Background()
	p := limit.MustPolicy("reports", limit.Spec{Kind: limit.Concurrency, Limit: 2, TTL: time.Minute})
	first, _ := l.Decide(ctx, limit.Request{Policy: p, Key: "ada"})
	second, _ := l.Decide(ctx, limit.Request{Policy: p, Key: "ada"})
	third, _ := l.Decide(ctx, limit.Request{Policy: p, Key: "ada"})
	fmt.Println(first.Allowed, second.Allowed, third.Allowed)
	fmt.Println(l.Renew(ctx, first)) // it takes longer than half of the TTL
	fmt.Println(l.Release(ctx, first))
	fmt.Println(l.Allow(ctx, p, "ada"))
	// Output:
	// true true false
	// <nil>
	// <nil>
	// true
}

// Never more than 5 in any minute, however they are placed.
func ExampleKind_strict() {
	l := newExample(limit.Options{})
	defer l.Close()
	p := limit.MustPolicy("codes", limit.Spec{Kind: limit.Strict, Limit: 5, Period: time.Minute})
	n := 0
	for range 20 {
		if l.Allow(context.Background(), p, "+44 20 7946 0018") {
			n++
		}
	}
	fmt.Println(n)
	// Output: 5
}

// A quota by the month, as the calendar of Berlin shows it.
func ExampleSpec_calendar() {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		log.Fatal(err)
	}
	p, err := limit.NewPolicy("per-month", limit.Spec{Kind: limit.Fixed, Limit: 1_000_000, Calendar: limit.Month, Location: berlin})
	if err != nil {
		log.Fatal(err)
	}
	march := time.Date(2026, time.March, 10, 0, 0, 0, 0, time.UTC)
	w := p.Rule().Windows(march.UnixMicro())
	fmt.Println(time.UnixMicro(w[1]).In(berlin), time.UnixMicro(w[2]).Sub(time.UnixMicro(w[1])))
	// Output: 2026-03-01 00:00:00 +0100 CET 743h0m0s
}

// Who goes on after three refusals in a minute is blocked for an hour.
func ExamplePenalty() {
	l := newExample(limit.Options{})
	defer l.Close()
	ctx := context.Background()
	login := limit.MustPolicy("login", limit.Spec{
		Limit: 1, Period: time.Second,
		Penalty: limit.Penalty{After: 3, Within: time.Minute, Block: time.Hour},
	})
	for range 4 {
		d, _ := l.Decide(ctx, limit.Request{Policy: login, Key: "192.0.2.7"})
		fmt.Println(d.Allowed, d.Blocked, d.RetryAfter.Round(time.Second))
	}
	// Output:
	// true false 0s
	// false false 1s
	// false false 1s
	// false true 1h0m0s
}

// A new limit is tried out in shadow mode: it is counted, and refuses nobody.
func ExampleSpec_shadow() {
	l := newExample(limit.Options{})
	defer l.Close()
	p := limit.MustPolicy("tighter", limit.Spec{Limit: 2, Period: time.Hour, Shadow: true})
	for range 5 {
		l.Allow(context.Background(), p, "ada")
	}
	s := l.Stats()
	fmt.Println(s.Allowed, "allowed,", s.Shadowed, "would have been refused")
	// Output: 5 allowed, 3 would have been refused
}

// Some keys have another limit, or none. The table can be changed at any time.
func ExampleOverrides() {
	var table limit.Overrides
	l := newExample(limit.Options{Override: table.Policy})
	defer l.Close()
	ctx := context.Background()
	p := limit.MustPolicy("per-user", limit.Spec{Limit: 1, Period: time.Hour})
	more := p.Spec()
	more.Burst = 1000
	table.Set(p, "ada", limit.MustPolicy("per-user", more))
	table.Set(p, "health check", nil)
	for _, key := range []string{"bob", "ada", "health check"} {
		l.Allow(ctx, p, key)
		d, _ := l.Decide(ctx, limit.Request{Policy: p, Key: key})
		fmt.Println(key, d.Allowed, d.Remaining, d.Source)
	}
	// Output:
	// bob false 0 store
	// ada true 998 store
	// health check true 0 exempt
}

// A cost that depends on the answer is only asked for at first: failed logins cost, others don't.
func ExampleRequest_uncharged() {
	l := newExample(limit.Options{})
	defer l.Close()
	ctx := context.Background()
	failures := limit.MustPolicy("failures", limit.Spec{Limit: 2, Period: time.Hour})
	try := func(password string) string {
		if d, err := l.Decide(ctx, limit.Request{Policy: failures, Key: "ada", Cost: limit.Uncharged}); err != nil || !d.Allowed {
			return "try again later"
		}
		if password != "secret" {
			l.Allow(ctx, failures, "ada")
			return "wrong"
		}
		return "welcome"
	}
	for _, password := range []string{"secret", "a", "secret", "b", "secret"} {
		fmt.Println(try(password))
	}
	// Output:
	// welcome
	// wrong
	// welcome
	// wrong
	// try again later
}

// While the store is away, this policy goes on in the process, with a quarter of the limit: there are four instances.
func ExampleOptions_local() {
	away, err := limit.New(&away{memlimit.New(memlimit.Options{})}, limit.Options{Local: memlimit.New(memlimit.Options{})})
	if err != nil {
		log.Fatal(err)
	}
	defer away.Close()
	p := limit.MustPolicy("per-user", limit.Spec{Limit: 100, Period: time.Hour, OnOutage: limit.OutageLocal, Share: 25})
	d, err := away.Decide(context.Background(), limit.Request{Policy: p, Key: "ada"})
	fmt.Println(d.Allowed, d.Degraded, d.Source, d.Remaining, err)
	fmt.Println(d.Err)
	// Output:
	// true true local 24 <nil>
	// limit: decide by "per-user": connection refused
}

// away is a store that can't be reached.
type away struct{ limit.Store }

func (*away) Traits() limit.Traits { return limit.Traits{KeepsDeadline: true} }

func (*away) Take(context.Context, limit.Charge) (limit.Status, error) {
	return limit.Status{}, errDown
}
