package store

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// A Mark says how far the changes of a source, a database, were applied to a store.
type Mark struct {
	Owner string // who set it; no spaces
	Seq   uint64 // one more each time

	// Pos is the source's position up to which all changes were dropped. Empty: not known, everything must be dropped.
	Pos string

	// Tick is the number of the tick that was announced last, Cert that of the last one that is certified: every change that
	// was visible in the source before Tick was set to Cert has been dropped, in this partition.
	Tick, Cert uint64
}

// ErrMoved is returned by SetMark when the mark is not the one expected, or when the log lacks an entry that it must have.
var ErrMoved = errors.New("store: the mark moved")

// A Marker is a store that keeps the marks of sources, one beside each log. A server that goes back in time takes the mark along with
// the drops that it covers.
type Marker interface {
	Store

	// Mark returns the mark of a source in a partition, zero if there is none. If it is read before Head,
	// the log up to that head has all drops that the mark speaks of.
	Mark(ctx context.Context, part int, source string) (Mark, error)

	// SetMark replaces the mark seen, of which Owner and Seq count, by next. It refuses with ErrMoved if another is there,
	// or if an entry of has is not in the log (any more).
	SetMark(ctx context.Context, part int, source string, seen, next Mark, has []Head) error
}

// ByPump is the Drop.By of drops that a pump made of the changes of a source: "cdc:", its name, and, if it is known when the oldest of
// the changes was committed, "@" and that in microseconds since 1970 by the database's clock.
func ByPump(source string, committed time.Time) string {
	if committed.IsZero() {
		return pumpPrefix + source
	}
	return pumpPrefix + source + "@" + strconv.FormatInt(committed.UnixMicro(), 10)
}

const pumpPrefix = "cdc:"

// PumpOf reads what ByPump wrote: whose changes a drop was made of, and the zero time if it isn't known when the oldest was committed. ok is
// false of what was dropped by another than a pump.
func PumpOf(by string) (source string, committed time.Time, ok bool) {
	source, ok = strings.CutPrefix(by, pumpPrefix)
	if !ok {
		return "", time.Time{}, false
	}
	if name, at, has := strings.Cut(source, "@"); has {
		if us, err := strconv.ParseInt(at, 10, 64); err == nil {
			return name, time.UnixMicro(us), true
		}
	}
	return source, time.Time{}, true
}

// WhoDropped is a Drop.By for people: without the time.
func WhoDropped(by string) string {
	if source, at, ok := PumpOf(by); ok && !at.IsZero() {
		return pumpPrefix + source
	}
	return by
}

// An Outsider is a store that reaches keys and channels of programs that know nothing of freshet. Names are as those
// programs have them: the store's own prefix isn't put before them.
type Outsider interface {
	// Prefix is what the store puts before the keys of entries.
	Prefix() string

	// Unlink deletes keys.
	Unlink(ctx context.Context, keys ...string) error

	// Sweep deletes the keys that match a pattern of SCAN, and returns how many. It looks at every key of every
	// server, some at a time, and takes as long as that takes: its time budget is for one step.
	Sweep(ctx context.Context, pattern string) (int, error)

	// Publish sends a message to the subscribers of a channel, who need not be there.
	Publish(ctx context.Context, channel, payload string) error
}
