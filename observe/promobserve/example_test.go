package promobserve_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/observe/promobserve"
)

// A service tells Prometheus what its client counts.
func Example() {
	ctx := context.Background()
	client, err := freshet.Open(ctx, "memory:", freshet.Options{})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	users, err := freshet.NewCache(client, freshet.Config[int, string]{
		Name: "user", TTL: time.Hour,
		Load: func(context.Context, int, *freshet.Load) (string, error) { return "Ada", nil },
	})
	if err != nil {
		panic(err)
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(promobserve.NewClient(client.Stats))
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{}) // at /metrics

	for range 3 {
		if _, err := users.Get(ctx, 7); err != nil {
			panic(err)
		}
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "freshet_hits_total") || strings.HasPrefix(line, "freshet_loads_total") {
			fmt.Print(line)
		}
	}
	// Output:
	// freshet_hits_total{level="l1"} 2
	// freshet_hits_total{level="l2"} 0
	// freshet_loads_total 1
}
