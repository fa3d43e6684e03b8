package cdc

import (
	"context"
	"errors"
	"time"

	"github.com/freshetdev/freshet/store"
)

// Drops are what is to be made invalid, each name once.
type Drops struct {
	// Tags of freshet.
	Tags []string

	// Keys of Redis, in full: with a prefix, if the client has one.
	Keys []string

	// Patterns stand for keys whose names weren't known, as SCAN's MATCH has them. They cost a look at every key of the
	// server.
	Patterns []string

	// Publish are messages to publish once all else is done.
	Publish []Message

	// Committed is when the oldest of the transactions was committed, by the database's clock; zero if it isn't known. It goes along with
	// the drops, so that instances can tell how long it took until they knew.
	Committed time.Time

	// Early says that the changes may not be visible yet: the same tags and keys come again once they are. No mark
	// speaks of early drops, so it is no harm if they are lost.
	Early bool
}

// A Message goes to the subscribers of a channel.
type Message struct{ Channel, Payload string }

// Len is the number of names and messages.
func (d *Drops) Len() int {
	return len(d.Tags) + len(d.Keys) + len(d.Patterns) + len(d.Publish)
}

// ErrMoved is returned by an Applier when the store is not where this applier left it: it lost drops that it had
// acknowledged, or another pump has taken over. The pump begins anew at the mark that is there.
var ErrMoved = errors.New("cdc: the store is not where the pump left it")

// An Applier takes drops to a shared level and knows how far. It belongs to one pump, which calls one method at a time. Repeating
// any call is harmless. [NewApplier] makes one of a store.
type Applier interface {
	// Mark returns how far source was applied, in what the store has now: the lowest of its marks, if it
	// is spread over several nodes. The zero Mark means that the store doesn't know, or that it is not known of all nodes.
	Mark(ctx context.Context, source string) (store.Mark, error)

	// SetMark notes m, if the store still has the mark that this applier read or set last, and all that
	// it applied since. Otherwise ErrMoved.
	SetMark(ctx context.Context, source string, m store.Mark) error

	// Apply makes everything in d invalid, in as many steps as the store needs. nil means that the store has acknowledged
	// all of it. After an error part of it may be done. ErrMoved: see there.
	Apply(ctx context.Context, d *Drops) error

	// Epoch makes every entry that is now in the store invalid, except bare keys, which an epoch doesn't reach.
	Epoch(ctx context.Context) error
}
