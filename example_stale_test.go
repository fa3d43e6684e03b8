package freshet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet"
)

// When the source fails, the old value is served for as long as Stale.IfError allows,
// and marked. A dropped value is not: it is known to be wrong.
func ExampleStale() {
	ctx := context.Background()
	client, err := freshet.Open(ctx, "memory:", freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	var down atomic.Bool
	rates, err := freshet.NewCache(client, freshet.Config[string, float64]{
		Name: "rate", TTL: 20 * time.Millisecond,
		Stale: freshet.Stale{IfError: 24 * time.Hour},
		Load: func(context.Context, string, *freshet.Load) (float64, error) {
			if down.Load() {
				return 0, errors.New("503 Service Unavailable")
			}
			return 1.08, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	r, err := rates.Lookup(ctx, "EUR-USD")
	fmt.Println(r.Value, r.Stale, r.Err, err)

	down.Store(true)
	time.Sleep(30 * time.Millisecond) // the value is not fresh any more
	r, err = rates.Lookup(ctx, "EUR-USD")
	fmt.Println(r.Value, r.Stale, r.Err, err)

	_ = rates.Drop(ctx, "EUR-USD")
	_, err = rates.Lookup(ctx, "EUR-USD")
	fmt.Println(err)

	// Output:
	// 1.08 false <nil> <nil>
	// 1.08 true freshet: load "rate:EUR-USD": 503 Service Unavailable <nil>
	// freshet: load "rate:EUR-USD": 503 Service Unavailable
}

// With WhileRevalidate nobody waits for a value that is past its TTL: the old one is served, and
// one load runs in the background.
func ExampleStale_whileRevalidate() {
	ctx := context.Background()
	client, err := freshet.Open(ctx, "memory:", freshet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	var version atomic.Int64
	report, err := freshet.NewCache(client, freshet.Config[string, int64]{
		Name: "report", TTL: 20 * time.Millisecond,
		Stale: freshet.Stale{WhileRevalidate: time.Hour},
		Load: func(_ context.Context, _ string, l *freshet.Load) (int64, error) {
			if l.Refresh() {
				time.Sleep(50 * time.Millisecond) // slow, but nobody waits for it
				l.TTL(time.Hour)
			}
			return version.Add(1), nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	_, _ = report.Get(ctx, "today")
	time.Sleep(30 * time.Millisecond)
	for {
		r, err := report.Lookup(ctx, "today")
		if err != nil {
			log.Fatal(err)
		}
		if r.Value == 2 {
			fmt.Println("version", r.Value, "stale", r.Stale)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println(client.Stats().HitsStale > 0, version.Load())

	// Output:
	// version 2 stale false
	// true 2
}
