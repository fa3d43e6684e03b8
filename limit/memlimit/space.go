package memlimit

import (
	"sync"

	"github.com/freshetdev/freshet/limit"
)

// A space has the states of all keys of one policy name and kind, or their penalties.
type space struct {
	number int      // the order of locking
	gcra   []shard  // GCRA
	others []locker // all else; one of both is nil
}

type spaceID struct {
	name string
	kind limit.Kind
}

// penalties is the kind of a space of penalties' records.
const penalties limit.Kind = 255

// A locker is a part of the keys of a space that isn't of GCRA.
type locker struct {
	mu    sync.Mutex
	items map[string]*item // guarded by mu
}

type item struct {
	state limit.State
	ends  int64 // its state says nothing from then on, by Store.now
}

// sweepLocked looks at up to n items, and ends those that said nothing at a time.
func (l *locker) sweepLocked(then int64, n int) (looked, ended int) {
	for key, it := range l.items { // from a random one on
		if looked == n {
			break
		}
		looked++
		if it.ends <= then {
			delete(l.items, key)
			ended++
		}
	}
	return looked, ended
}

// A route is where the shards of a policy are: looked up once, and remembered by the policy's version.
type route struct {
	policy    *limit.Policy
	state     *space
	penalties *space // nil without a penalty
}

func (s *Store) route(p *limit.Policy) *route {
	at := &s.routes[p.Version()%uint64(len(s.routes))]
	if r := at.Load(); r != nil && r.policy == p {
		return r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &route{policy: p, state: s.spaceLocked(spaceID{p.Name(), p.Rule().Kind})}
	if p.Rule().After > 0 {
		r.penalties = s.spaceLocked(spaceID{p.Name(), penalties})
	}
	at.Store(r)
	return r
}

func (s *Store) spaceLocked(id spaceID) *space {
	sp := s.spaces[id]
	if sp != nil {
		return sp
	}
	sp = &space{number: len(s.ordered)}
	if id.kind == limit.GCRA {
		sp.gcra = make([]shard, s.shards)
		for i := range sp.gcra {
			sp.gcra[i].table.Store(newTable(0))
		}
	} else {
		sp.others = make([]locker, s.shards)
		for i := range sp.others {
			sp.others[i].items = map[string]*item{}
		}
	}
	s.spaces[id] = sp
	s.ordered = append(s.ordered, sp)
	return sp
}

// reserve makes room for n keys more; false if there is none. No lock may be held.
func (s *Store) reserve(n int, now int64) bool {
	if s.keys.Add(int64(n)) <= int64(s.opts.MaxKeys) {
		return true
	}
	s.keys.Add(int64(-n))
	s.reclaim(now, n)
	if s.keys.Add(int64(n)) <= int64(s.opts.MaxKeys) {
		return true
	}
	s.keys.Add(int64(-n))
	return false
}

// reclaimSteps bounds what a key that finds the store full pays for the search for room. What
// it doesn't find the next one does: the search goes on where it ended.
const reclaimSteps = 512

// reclaim looks for keys that say nothing any more, until n are found.
func (s *Store) reclaim(now int64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for left := reclaimSteps; left > 0 && n > 0 && len(s.ordered) > 0; {
		sp := s.ordered[s.hand.space%len(s.ordered)]
		at := s.hand.shard
		var looked, ended, size int
		if sp.gcra != nil {
			sh := &sp.gcra[at]
			looked, ended = sh.sweep(now, left)
			size = len(sh.table.Load().slots)
		} else {
			l := &sp.others[at]
			l.mu.Lock()
			size = len(l.items)
			looked, ended = l.sweepLocked(now, left)
			l.mu.Unlock()
		}
		s.keys.Add(int64(-ended))
		n -= ended
		left -= looked + 1
		if s.hand.looked += looked; s.hand.looked >= size {
			s.hand.looked = 0
			if s.hand.shard++; s.hand.shard == s.shards {
				s.hand.shard = 0
				s.hand.space++
			}
		}
	}
}
