package httplimit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
)

// An Identity says who or what a request counts for: the key of its limit. It is false if the request doesn't say; an
// empty key is never true. Any function will do, for example one that reads a verified claim of a token:
//
//	func(r *http.Request) (string, bool) {
//		claims, ok := auth.Verified(r.Context())
//		return claims.Subject, ok
//	}
//
// What a client can choose freely is no identity: it would choose another one for each request.
type Identity func(r *http.Request) (key string, ok bool)

// Header counts by a request header field, such as an API key. It must be there once and not be empty. The key is
// HashKey of the value, so credentials don't get into stores, logs and metrics. Use it for values that were checked
// before, or beside a limit by address: a client that makes values up begins each time anew.
func Header(name string) Identity {
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request) (string, bool) {
		values := r.Header[name]
		if name == "Host" { // net/http keeps it elsewhere
			values = []string{r.Host}
		}
		if len(values) != 1 || values[0] == "" {
			return "", false
		}
		return HashKey(values[0]), true
	}
}

// HashKey is the first 128 bits of the SHA-256 of a value, in unpadded base64url: what [Header] makes of it.
// Overrides and exemptions of the limiter need it. It has no secret: who can guess the value can check the guess.
func HashKey(value string) string {
	sum := sha256.Sum256([]byte(value))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// Context counts by what a middleware before this one put into the request's context: a string or a [fmt.Stringer],
// not empty. It is for the claim of a verified token, a session's user, a tenant.
func Context(key any) Identity {
	return func(r *http.Request) (string, bool) { return contextKey(r.Context(), key) }
}

func contextKey(ctx context.Context, key any) (string, bool) {
	switch v := ctx.Value(key).(type) {
	case string:
		return v, v != ""
	case fmt.Stringer:
		s := v.String()
		return s, s != ""
	}
	return "", false
}

// First counts by the first identity that a request has, for example by user and, of those who aren't logged in, by
// address. Keys of different identities are never the same.
func First(ids ...Identity) Identity {
	return func(r *http.Request) (string, bool) {
		for i, id := range ids {
			if key, ok := known(id, r); ok {
				return strconv.Itoa(i) + ":" + key, true
			}
		}
		return "", false
	}
}

// Join counts by all identities together, such as a tenant and an address. A request must have all of them.
func Join(ids ...Identity) Identity {
	return func(r *http.Request) (string, bool) {
		var joined []byte
		for _, id := range ids {
			key, ok := known(id, r)
			if !ok {
				return "", false
			}
			// With its length, or "a:b" and "c" would be "a" and "b:c".
			joined = strconv.AppendInt(joined, int64(len(key)), 10)
			joined = append(append(joined, ':'), key...)
		}
		return string(joined), len(joined) > 0
	}
}

// known asks an identity, and doesn't take an empty key: that is the one that Share uses.
func known(id Identity, r *http.Request) (string, bool) {
	key, ok := id(r)
	return key, ok && key != ""
}
