package proxy

import (
	"net/http"
	"slices"
	"testing"
)

func TestTagsOf(t *testing.T) {
	f := func(h http.Header, want ...string) {
		t.Helper()
		if got := tagsOf(h); !slices.Equal(got, want) {
			t.Errorf("%v: %q; want %q", h, got, want)
		}
	}
	f(http.Header{})
	f(http.Header{"Surrogate-Key": {"users:7  orders,1", "x"}}, "users:7", "orders,1", "x")
	f(http.Header{"Surrogate-Key": {"users:佐藤\u3000花子\tx\u00a0y"}}, "users:佐藤\u3000花子", "x\u00a0y")
	f(http.Header{"Cache-Tag": {"users:7, orders,,x ", " y"}}, "users:7", "orders", "x", "y")
	f(http.Header{"Surrogate-Key": {""}, "Cache-Tag": {" , "}})
}
