package redisstore

import (
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/internal/redisx"
)

// A partition is the names of one part of the log. They share a hash tag, so that a
// script may touch all of them.
type partition struct {
	head, log, channel, stamp, witness, source string
}

func newPartition(prefix string, n, db int) partition {
	p := prefix + "{freshet:" + strconv.Itoa(n) + "}:"
	return partition{
		head: p + "head",
		log:  p + "log",
		// Channels don't belong to a database, but logs do.
		channel: p + "log@" + strconv.Itoa(db),
		stamp:   p + "stamp:",
		witness: p + "witness",
		source:  p + "source:",
	}
}

// sideLease is where the lease of a refresh or of a plain key lies: in the slot of
// key, which is its hash tag if it has one and else the whole of it. A key with
// no tag that contains '}' can't be wrapped in one; its side lease works on a single
// server only.
func sideLease(prefix, key string) string {
	if redisx.HasTag(key) || strings.Contains(key, "}") {
		return prefix + "freshet:lease:" + key
	}
	return prefix + "freshet:lease:{" + key + "}"
}
