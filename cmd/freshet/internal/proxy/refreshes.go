package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// A Refresh is a load in the background, while an old answer is served, that came to its end. It is handed to Hooks.Refreshed.
type Refresh struct {
	Err     error // of the origin; nil if it answered
	Failing bool  // there is an answer whose last refresh failed a short while ago
}

// A refreshes remembers which answers couldn't be refreshed: nobody waits for a refresh, so nobody else would hear of it.
type refreshes struct {
	mu    sync.RWMutex
	notes map[string]time.Time // by key: when the last refresh failed; guarded by mu
}

// Who is asked for is refreshed again within a second. So after this time without another try nobody asks for
// an answer any more, and its failure says nothing of how the origin is now.
const refreshMemory = 10 * time.Second

// failed notes that a refresh failed.
func (m *refreshes) failed(key string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.notes == nil {
		m.notes = make(map[string]time.Time)
	}
	if _, ok := m.notes[key]; !ok && len(m.notes) >= memorySize {
		for other := range m.notes {
			delete(m.notes, other) // any: it is said to be refreshed until that fails again
			break
		}
	}
	m.notes[key] = now
}

// loaded notes that the origin answered.
func (m *refreshes) loaded(key string) {
	m.mu.Lock()
	delete(m.notes, key)
	m.mu.Unlock()
}

// failing reports whether the refresh of any answer failed lately.
func (m *refreshes) failing(now time.Time) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, at := range m.notes {
		if now.Sub(at) < refreshMemory {
			return true
		}
	}
	return false
}

// failedSince reports whether a refresh of an answer that was loaded at a time failed after that.
func (m *refreshes) failedSince(key string, loaded time.Time) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	at, ok := m.notes[key]
	return ok && at.After(loaded)
}

// loaded takes down how a load ended, and tells of refreshes. One that was not tried, since the origin has enough to do or the gateway
// ends, says nothing.
func (p *Proxy) loaded(l *load, refresh bool, err error) {
	now := time.Now()
	oe, _ := errors.AsType[*OriginError](err)
	switch {
	case err == nil:
		p.refreshes.loaded(l.key)
	case !refresh, oe != nil && oe.Reason == observe.ReasonOverload:
		return
	case errors.Is(err, context.Canceled) && (oe == nil || oe.Reason != ReasonTimeout):
		return
	default:
		p.refreshes.failed(l.key, now)
	}
	if refresh && p.opts.Hooks.Refreshed != nil {
		p.opts.Hooks.Refreshed(Refresh{Err: err, Failing: p.refreshes.failing(now)})
	}
}
