package limit

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestStoreKey(t *testing.T) {
	f := func(key, want string) {
		t.Helper()
		if got := storeKey(key); got != want {
			t.Errorf("key %q is %q; want %q", key, got, want)
		}
	}
	long := strings.Repeat("x", MaxKey+1)
	f("", "")
	f("ada", "ada")
	f("{acme}ada", "{acme}ada")
	f(long[1:], long[1:])
	f("##", "#"+digest("##"))
	f(long, "#"+digest(long))
	f("{acme}"+long, "{acme}#"+digest("{acme}"+long))
	f("a{acme}"+long, "{acme}#"+digest("a{acme}"+long))
	f("{acme}#x", "{acme}#"+digest("{acme}#x"))
	f("{}"+long, "#"+digest("{}"+long)) // an empty tag is none
	f("{"+long+"}", "{#"+digest(long)+"}#"+digest("{"+long+"}"))
	f("{#x}", "{#x}") // hashed nowhere: its tag isn't long, and nothing hashed looks like it
	// SHA-256 of "abc" begins ba7816bf 8f01cfea 414140de 5dae2223 (FIPS 180-4, example).
	if got, want := digest("abc"), "ungWv48Bz-pBQUDeXa4iIw"; got != want {
		t.Errorf("digest is %q; want %q", got, want)
	}
}

// Keys that differ differ in the store, whatever they look like: a key that looks like a hash is hashed itself.
func TestStoreKeysDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SampledFrom([]string{"", "#", "{", "}", "a", "{a}", "{a}#", ":", strings.Repeat("y", 60), digest("z"), "#" + digest("{a}b")})
		key := rapid.Custom(func(t *rapid.T) string {
			k := strings.Join(rapid.SliceOfN(piece, 0, 4).Draw(t, "pieces"), "")
			if rapid.Bool().Draw(t, "hashed") {
				k = storeKey(k) // an attacker's: the hash of another's key
			}
			return k
		})
		a, b := key.Draw(t, "a"), key.Draw(t, "b")
		if a != b && storeKey(a) == storeKey(b) {
			t.Errorf("%q and %q are both %q", a, b, storeKey(a))
		}
		if isStoreKey(a) && storeKey(a) != a {
			t.Errorf("%q should stay, and is %q", a, storeKey(a))
		}
		if s := storeKey(a); len(s) > MaxKey {
			t.Errorf("%q has %d bytes", s, len(s))
		}
		if ta, tb := hashTag(a), hashTag(b); ta == tb && ta != "" && hashTag(storeKey(a)) != hashTag(storeKey(b)) {
			t.Errorf("%q and %q share a tag, %q and %q don't", a, b, storeKey(a), storeKey(b))
		}
	})
}
