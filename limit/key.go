package limit

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// MaxKey is the size of the longest key that stores get as it is.
const MaxKey = 64

// maxTag is the size of the longest hash tag that stays as it is: with a hash behind it, it fits into MaxKey.
const maxTag = MaxKey - len("{}#") - 22

// storeKey is the key as stores have it. A longer one, and one that begins like a hash, is '#' and the first 128 bits of the SHA-256 of all of
// it, in unpadded base64url: so no two keys are the same in the store unless their hashes collide. A {hash tag} stays in front, itself hashed if it
// is over maxTag, so that keys with the same tag share their slot whatever their length. The hash is without a secret: it keeps keys
// short, and out of sight, but who guesses a key can check the guess.
func storeKey(key string) string {
	tag := hashTag(key)
	switch {
	case tag != "":
		if len(key) <= MaxKey && len(tag) <= maxTag && !strings.HasPrefix(key, "{"+tag+"}#") {
			return key
		}
		if len(tag) > maxTag {
			tag = "#" + digest(tag)
		}
		return "{" + tag + "}#" + digest(key)
	case len(key) > MaxKey, strings.HasPrefix(key, "#"):
		return "#" + digest(key)
	}
	return key
}

// isStoreKey reports whether a key surely stays as it is: it is too short to have a long tag, and doesn't begin like a hash.
func isStoreKey(key string) bool {
	return len(key) <= maxTag && (key == "" || key[0] != '#' && key[0] != '{')
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// hashTag is what Redis Cluster hashes of a key, if that isn't the whole: what stands between the first '{' and the next '}'.
func hashTag(key string) string {
	if i := strings.IndexByte(key, '{'); i >= 0 {
		if j := strings.IndexByte(key[i+1:], '}'); j > 0 {
			return key[i+1 : i+1+j]
		}
	}
	return ""
}
