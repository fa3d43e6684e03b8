package freshet

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNotFound says that the source has nothing for a key. A loader returns it (or
	// an error that wraps it) to store a negative entry; Get returns it then, and for hits on that entry.
	ErrNotFound = errors.New("freshet: not found")

	// ErrNotModified is returned by a loader that compared with [Previous] and found it
	// unchanged: the old value becomes fresh again.
	ErrNotModified = errors.New("freshet: not modified")

	// ErrPending is matched (errors.Is) by the error of a drop that took effect on this
	// instance, and will be delivered to the others when the store answers again.
	ErrPending = errors.New("freshet: drop pending")

	// ErrNotKept is matched by the error of a drop that did not reach the store and will not be repeated: the outbox
	// has no room for it, or PendingFail was asked for. This instance's memory has forgotten what it names; the store and
	// the other instances may not have.
	ErrNotKept = errors.New("freshet: drop not kept")

	// ErrOverloaded says that the source was not asked: MaxLoads loads are under way, and as many as may wait.
	ErrOverloaded = errors.New("freshet: too many loads")

	// ErrSourceDown says that the source was not asked: it failed BreakAfter times in a row, less than
	// BreakFor ago. The last of its errors is wrapped beside it.
	ErrSourceDown = errors.New("freshet: the source failed again and again")

	// ErrTooLarge is matched by the error of Set for a value over MaxValue, or with more than MaxTags tags or a key over MaxKey.
	ErrTooLarge = errors.New("freshet: over a limit")

	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("freshet: client closed")

	// ErrPlain is returned for what plain namespaces can't do: tags and Clear.
	ErrPlain = errors.New("freshet: not possible in a plain namespace")

	// ErrSlow is the Err of a stale result that was served because the load took longer than
	// SoftTimeout. The load goes on.
	ErrSlow = errors.New("freshet: load slower than SoftTimeout")
)

// A LoadError is a failed load. It wraps the loader's error.
type LoadError struct {
	Cache, Key string
	Err        error
}

func (e *LoadError) Error() string { return fmt.Sprintf("freshet: load %q: %v", e.Key, e.Err) }
func (e *LoadError) Unwrap() error { return e.Err }

// A PanicError is a loader's panic, or its call of runtime.Goexit, as an error.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("loader panicked: %v", e.Value) }

// A PendingError is a drop that has not reached the store. It matches ErrPending, and wraps
// the reason.
type PendingError struct {
	Keys, Tags []string
	Err        error
}

func (e *PendingError) Error() string {
	return fmt.Sprintf("freshet: drop of %s pending: %v", listed(e.Keys, e.Tags), e.Err)
}

func (e *PendingError) Unwrap() []error { return []error{ErrPending, e.Err} }

// A NotKeptError is a drop that did not reach the store and will not be repeated. It matches
// ErrNotKept, and wraps the reason. Whatever else the same call dropped has reached the store, or is pending.
type NotKeptError struct {
	Keys, Tags []string
	Err        error
}

func (e *NotKeptError) Error() string {
	return fmt.Sprintf("freshet: drop of %s not kept: %v", listed(e.Keys, e.Tags), e.Err)
}

func (e *NotKeptError) Unwrap() []error { return []error{ErrNotKept, e.Err} }

// listed names some keys and tags.
func listed(keys, tags []string) string {
	var what []string
	for _, k := range keys[:min(len(keys), 4)] {
		what = append(what, fmt.Sprintf("key %q", k))
	}
	for _, t := range tags[:min(len(tags), 5-len(what))] {
		what = append(what, fmt.Sprintf("tag %q", t))
	}
	if n := len(keys) + len(tags); n > 4 {
		what = append(what[:3], fmt.Sprintf("%d more", n-3))
	}
	return strings.Join(what, ", ")
}
