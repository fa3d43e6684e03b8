package proxy

import (
	"sync"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// A shortMemory remembers for a while which keys had answers that may not be stored.
// Requests for them pass at once, side by side and streaming, where they would else
// queue for a load that none can share. It is what Varnish calls hit-for-miss.
type shortMemory struct {
	mu    sync.RWMutex
	notes map[string]note // guarded by mu
}

type note struct {
	reason observe.Reason
	until  time.Time
}

const (
	// A key is given another chance after this time, or as soon as a passing answer could
	// have been stored. Longer would not help: one try in 10 s costs its waiters little.
	memoryTime = 10 * time.Second

	// Over this many keys some are forgotten, which costs each one more try.
	memorySize = 10_000
)

func (m *shortMemory) recall(key string, now time.Time) observe.Reason {
	m.mu.RLock()
	n, ok := m.notes[key]
	m.mu.RUnlock()
	if !ok || now.After(n.until) {
		return ""
	}
	return n.reason
}

func (m *shortMemory) note(key string, reason observe.Reason, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.notes == nil {
		m.notes = make(map[string]note)
	}
	if len(m.notes) >= memorySize {
		m.makeRoomLocked(now)
	}
	m.notes[key] = note{reason: reason, until: now.Add(memoryTime)}
}

func (m *shortMemory) forget(key string) {
	m.mu.Lock()
	delete(m.notes, key)
	m.mu.Unlock()
}

// makeRoomLocked removes what is over, and an eighth of the rest if that isn't enough.
func (m *shortMemory) makeRoomLocked(now time.Time) {
	for key, n := range m.notes {
		if now.After(n.until) {
			delete(m.notes, key)
		}
	}
	for key := range m.notes {
		if len(m.notes) <= memorySize*7/8 {
			return
		}
		delete(m.notes, key)
	}
}
