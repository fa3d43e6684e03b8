package memstore

import (
	"maps"
	"slices"
	"time"
)

// The methods in this file are bad luck, for tests.

// Evict removes n entries as a server does that is short of memory. It returns after all
// watchers have been told.
func (s *Server) Evict(n int) {
	s.mu.Lock()
	defer s.unlockTold()
	for ; n > 0 && len(s.data.all) > 0; n-- {
		s.data.evict(time.Now(), nil)
	}
}

// EvictStamp loses the stamp of tag, in every partition. Nobody is told.
func (s *Server) EvictStamp(tag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.parts {
		delete(s.parts[i].stamps, tag)
	}
}

// TrimLog makes every log forget all but its last keep entries. Nobody is told.
func (s *Server) TrimLog(keep int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.parts {
		s.parts[i].trim(keep)
	}
}

// LoseNext loses the announcements of the next n log entries; the entries themselves are kept.
func (s *Server) LoseNext(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = n
}

// Snapshot keeps the state of the server and returns a function that brings it back: entries,
// leases, logs and stamps, as a failover to a replica that lagged behind
// does. Nobody is told; a real failover also breaks the links (see Store.Cut).
func (s *Server) Snapshot() (revert func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	type kept struct {
		image   []byte
		expires time.Time
		side    *side
	}
	items := map[string]kept{}
	for key, it := range s.data.items {
		items[key] = kept{it.image, it.expires, it.side}
	}
	parts := clonePartitions(s.parts)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.history++
		s.data.flush()
		now := time.Now()
		for key, k := range items {
			it := s.data.put(key, k.image, 0, now, nil, s.opts.MaxBytes)
			it.expires, it.side = k.expires, k.side
		}
		for i, p := range clonePartitions(parts) {
			p.last = s.parts[i].last // positions are never used twice
			s.parts[i] = p
		}
	}
}

func clonePartitions(parts []partition) []partition {
	parts = slices.Clone(parts)
	for i := range parts {
		parts[i].stamps = maps.Clone(parts[i].stamps)
		parts[i].entries = slices.Clone(parts[i].entries)
		parts[i].marks = maps.Clone(parts[i].marks)
	}
	return parts
}

// Cut takes the link of this connection down: its operations fail with
// [store.ErrUnavailable], and it is told nothing until Mend.
func (c *Store) Cut() { c.setCut(true) }

// Mend brings the link up again. What happened meanwhile is not told.
func (c *Store) Mend() { c.setCut(false) }

func (c *Store) setCut(cut bool) {
	s := c.srv
	s.mu.Lock()
	if c.cut == cut || c.closed {
		s.mu.Unlock()
		return
	}
	c.cut = cut
	c.out.add(event{kind: evLink, link: c.linkLocked()})
	n := c.out.end()
	s.mu.Unlock()
	c.out.flush(n)
}
