package httplimit

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func is(key string) Identity {
	return func(*http.Request) (string, bool) { return key, true }
}

type ctxKey string

func isNot(*http.Request) (string, bool) { return "", false }

func TestIdentities(t *testing.T) {
	f := func(want string, id Identity, fields ...string) {
		t.Helper()
		r := from("192.0.2.1:1", fields...)
		r = r.WithContext(context.WithValue(r.Context(), ctxKey("sub"), "ada"))
		r = r.WithContext(context.WithValue(r.Context(), ctxKey("addr"), netip.MustParseAddr("192.0.2.1")))
		r = r.WithContext(context.WithValue(r.Context(), ctxKey("empty"), ""))
		r = r.WithContext(context.WithValue(r.Context(), ctxKey("number"), 7))
		if key, ok := id(r); key != want || ok != (want != "") {
			t.Errorf("%q: %q, %v; want %q", fields, key, ok, want)
		}
	}
	// The secret is not in the key. The value was made with sha256sum and base64.
	f("K7gNU3sdo-OL0wNhqoVWhg", Header("x-api-key"), "X-Api-Key: secret")
	f(HashKey("secret"), Header("X-Api-Key"), "X-API-KEY: secret")
	f("", Header("X-Api-Key"))
	f("", Header("X-Api-Key"), "X-Api-Key: ")
	f("", Header("X-Api-Key"), "X-Api-Key: a", "X-Api-Key: b") // which one did the application check?
	f(HashKey("example.com"), Header("host"))                  // which net/http keeps elsewhere

	f("ada", Context(ctxKey("sub")))
	f("192.0.2.1", Context(ctxKey("addr")))
	f("", Context(ctxKey("empty")))
	f("", Context(ctxKey("number")))
	f("", Context(ctxKey("nothing")))

	f("0:a", First(is("a"), is("b")))
	f("1:b", First(isNot, is("b")))
	f("1:b", First(is(""), is("b")))
	f("", First(isNot, isNot))
	f("", First())

	f("1:a1:b", Join(is("a"), is("b")))
	f("3:a:b1:c", Join(is("a:b"), is("c")))
	f("1:a3:b:c", Join(is("a"), is("b:c")))
	f("", Join(is("a"), isNot))
	f("", Join(is("a"), is("")))
	f("", Join())
}

// FuzzJoin: no two pairs of keys are joined to the same.
func FuzzJoin(f *testing.F) {
	f.Add("a:b", "c", "a", "b:c")
	f.Add("1:a", "b", "1", "a1:b")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		r := httptest.NewRequest("GET", "/", nil)
		x, okX := Join(is(a), is(b))(r)
		y, okY := Join(is(c), is(d))(r)
		if okX && okY && x == y && (a != c || b != d) {
			t.Errorf("%q, %q and %q, %q are both %q", a, b, c, d, x)
		}
	})
}
