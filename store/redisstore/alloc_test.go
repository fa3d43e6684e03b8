//go:build !race

package redisstore

import (
	"context"
	"testing"

	"github.com/freshetdev/freshet/internal/testenv"
)

// The race detector allocates by itself: "make test" runs this without it.

// A read costs the slice that it returns and what the client makes of the answer.
func TestReadAllocations(t *testing.T) {
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), roomy)
	srv.CLI(t, "SET", "k", "v")
	keys := []string{"k"}
	ctx := context.Background()
	n := testing.AllocsPerRun(2000, func() {
		if _, err := s.Read(ctx, keys, false); err != nil {
			t.Fatal(err)
		}
	})
	if n > 2 {
		t.Errorf("a read makes %v allocations; want 2: the values, and the image", n)
	}
}
