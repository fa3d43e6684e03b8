package freshet

import (
	"sync"
	"time"
)

// Load is what a loader can say about the entry it makes. A loader may ignore it. Its
// methods may be called until the loader returns.
type Load struct {
	key     string
	refresh bool
	verify  bool // what it brings is compared, and not kept
	prev    any

	mu      sync.Mutex
	ttl     time.Duration
	ttlSet  bool
	stale   *Stale
	tags    []string
	noStore bool
	noShare bool
}

// Key returns the string key, such as "user:123".
func (l *Load) Key() string { return l.key }

// Refresh reports whether the load runs in the background while an old value is served.
func (l *Load) Refresh() bool { return l.refresh }

// TTL sets how long this entry is fresh, a negative one too, without jitter. Zero or less: it is not stored.
func (l *Load) TTL(d time.Duration) {
	l.mu.Lock()
	l.ttl, l.ttlSet = d, true
	l.mu.Unlock()
}

// Stale sets the stale windows of this entry. Its ErrorIs and RetryAfter are not used.
func (l *Load) Stale(s Stale) {
	l.mu.Lock()
	l.stale = &s
	l.mu.Unlock()
}

// Tag adds tags that only the answer of the source names. If one of them, or another of the
// entry's tags, may have been dropped while the load ran, the value is returned but not stored; likewise
// if a tag is empty, longer than 512 bytes, or has blanks or control characters in it.
func (l *Load) Tag(tags ...string) {
	l.mu.Lock()
	l.tags = append(l.tags, tags...)
	l.mu.Unlock()
}

// NoStore returns the value to the callers that wait for it, and stores nothing.
func (l *Load) NoStore() {
	l.mu.Lock()
	l.noStore = true
	l.mu.Unlock()
}

// NoShare is NoStore, and nobody but the caller whose load this is gets the value: those who
// wait make a load of their own. For answers that are private to one caller.
func (l *Load) NoShare() {
	l.mu.Lock()
	l.noStore, l.noShare = true, true
	l.mu.Unlock()
}

// Previous returns the value that this load is to replace, for conditional requests to the
// source (see [ErrNotModified]). It may be stale, but was not dropped.
func Previous[V any](l *Load) (V, bool) {
	v, ok := l.prev.(V)
	return v, ok
}

// A BatchLoad is the Load of each key of a LoadMany. There is no [Previous] for them.
type BatchLoad[K comparable] struct {
	loads map[K]*Load
}

// For returns the Load of one of the keys asked for; nil for another key.
func (b *BatchLoad[K]) For(k K) *Load { return b.loads[k] }
