package memstore

import (
	"bytes"
	"time"
)

// The methods in this file are a client that knows nothing of freshet, as redis-cli is one.
// They return after all watchers have been told.

// Get returns what key holds. Nobody is told that it was read.
func (s *Server) Get(key string) (val []byte, ok bool) {
	s.mu.Lock()
	defer s.unlock()
	it := s.data.get(key, time.Now(), nil)
	if it == nil {
		return nil, false
	}
	return bytes.Clone(it.image), true
}

// Set stores val at key, for ever if ttl is zero.
func (s *Server) Set(key string, val []byte, ttl time.Duration) {
	val = append([]byte{}, val...)
	s.mu.Lock()
	defer s.unlockTold()
	s.data.put(key, val, ttl, time.Now(), nil, s.opts.MaxBytes)
}

// Del deletes keys and returns how many there were.
func (s *Server) Del(keys ...string) (n int) {
	s.mu.Lock()
	defer s.unlockTold()
	now := time.Now()
	for _, key := range keys {
		if s.data.del(key, now, nil) {
			n++
		}
	}
	return n
}

// FlushAll loses everything: entries, leases, logs and stamps.
func (s *Server) FlushAll() {
	s.mu.Lock()
	defer s.unlockTold()
	s.data.flush()
	for i := range s.parts {
		s.parts[i].flush()
	}
	for c := range s.conns {
		s.tellLocked(c, event{kind: evChanged})
	}
}
