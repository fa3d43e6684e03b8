// Package stats counts what a gateway did, and sums it up in words when it ends.
package stats

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
	"github.com/freshetdev/freshet/observe"
)

// Stats counts exchanges. The zero Stats is ready; safe for concurrent use.
type Stats struct {
	requests, hits, stale, joined, stored, errors, limited atomic.Uint64
	origin, unrefreshed                                    atomic.Uint64

	hitTime, missTime observe.Recorder

	mu      sync.Mutex
	refused map[observe.Reason]uint64 // answers that were not stored; guarded by mu
	paths   map[string]*pathStats     // of misses; guarded by mu
	hinted  bool                      // guarded by mu
}

// pathStats tells why a path is missed.
type pathStats struct {
	misses uint64
	query  queryStats
}

// Over this many paths, new ones are not followed: the most missed have been seen by then.
const maxPaths = 1000

// Origin counts a call of the origin.
func (s *Stats) Origin(time.Duration, error) { s.origin.Add(1) }

// Refreshed counts a refresh in the background that failed.
func (s *Stats) Refreshed(r proxy.Refresh) {
	if r.Err != nil {
		s.unrefreshed.Add(1)
	}
}

// Done counts an exchange.
func (s *Stats) Done(x proxy.Exchange) {
	s.requests.Add(1)
	if x.Joined {
		s.joined.Add(1)
	}
	if x.Stored {
		s.stored.Add(1)
	}
	switch x.Outcome {
	case proxy.Hit:
		s.hits.Add(1)
		s.hitTime.Record(x.Took)
		return
	case proxy.Stale:
		s.stale.Add(1)
		s.hitTime.Record(x.Took)
		return
	case proxy.Limit:
		s.limited.Add(1)
		return
	case proxy.Error:
		s.errors.Add(1)
	case proxy.Miss:
		s.missTime.Record(x.Took)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !x.Stored && x.Reason != "" && x.Reason != proxy.ReasonMethod && x.Outcome != proxy.Error {
		if s.refused == nil {
			s.refused = make(map[observe.Reason]uint64)
		}
		s.refused[x.Reason]++
	}
	if x.Outcome == proxy.Miss && !x.Joined {
		s.missedLocked(x)
	}
}

func (s *Stats) missedLocked(x proxy.Exchange) {
	if s.paths == nil {
		s.paths = make(map[string]*pathStats)
	}
	name := x.Method + " " + x.Path
	p := s.paths[name]
	if p == nil {
		if len(s.paths) >= maxPaths {
			return
		}
		p = new(pathStats)
		s.paths[name] = p
	}
	p.misses++
	p.query.add(x.Query)
}

// NothingStored returns the commonest reason why nothing is stored, once several
// requests that looked cacheable were answered and none was. It tells so once only.
func (s *Stats) NothingStored() observe.Reason {
	if s.stored.Load() > 0 || s.hits.Load() > 0 {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var total, most uint64
	var worst observe.Reason
	for r, n := range s.refused {
		total += n
		if n > most || n == most && r < worst {
			worst, most = r, n
		}
	}
	if s.hinted || total < nothingStoredAfter {
		return ""
	}
	s.hinted = true
	return worst
}

// One answer that isn't stored says nothing, three say it all.
const nothingStoredAfter = 3
