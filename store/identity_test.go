package store

import (
	"crypto/sha1"
	"encoding/hex"
	"testing"

	"pgregory.net/rapid"
)

func TestIdentityOf(t *testing.T) {
	f := func(image []byte, want Identity) {
		t.Helper()
		if got := IdentityOf(image); got != want {
			t.Errorf("IdentityOf(%q) = %q; want %q", image, got, want)
		}
	}
	id := idFrom(0)
	f(nil, "")
	f([]byte{}, "") // a plain key's placeholder: there is nothing to replace
	f(vector(t, "value"), Identity(id[:]))
	f(vector(t, "lease"), Identity(id[:]))
	f([]byte("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d")

	other := vector(t, "value")
	other[3] = 2 // another version: nothing is known of its id
	sum := sha1.Sum(other)
	f(other, Identity(hex.EncodeToString(sum[:])))
}

func TestDifferentBytesHaveDifferentIdentities(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOf(rapid.Byte()).Draw(t, "a"), rapid.SliceOf(rapid.Byte()).Draw(t, "b")
		if same := string(a) == string(b); (IdentityOf(a) == IdentityOf(b)) != same {
			t.Fatalf("identities %q and %q", IdentityOf(a), IdentityOf(b))
		}
	})
}
