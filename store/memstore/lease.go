package memstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/freshetdev/freshet/store"
)

var (
	errPlainRefresh = errors.New("a plain key can't be refreshed")
	errTTL          = errors.New("the TTL is not positive")
)

// claim decides one claim by what the key holds, and carries it out:
//
//	key holds           Refresh  outcome
//	nothing             no       Leased  a lease record, or a placeholder (plain)
//	nothing             yes      Gone
//	another's lease     any      Busy
//	the lease req.ID    any      Leased  once more, as it stands: a repeated claim
//	what was seen       no       Leased  replaced
//	what was seen       yes      Leased  beside it, or Busy if another refreshes it
//	anything else       any      Held
//
// An empty value counts as nothing, unless a live side lease makes it the
// placeholder of a plain key. A lease that never expires (somebody restored
// or persisted it) would block the key for ever and counts as nothing, too.
func (s *Server) claim(req *store.ClaimRequest, now time.Time, by *Store) store.Claim {
	lease := store.Lease{Key: req.Key, ID: req.ID, Plain: req.Plain}
	switch {
	case req.Plain && req.Refresh:
		return failed(req, errPlainRefresh)
	case req.TTL <= 0:
		return failed(req, errTTL)
	}
	it := s.data.get(req.Key, now, by)
	s.data.track(req.Key, it, by, s.opts.MaxAbsent)

	if it != nil {
		if id, rest, ok := it.leased(now); ok {
			if id == req.ID {
				return store.Claim{Outcome: store.Leased, Lease: lease}
			}
			return store.Claim{Outcome: store.Busy, Wait: rest}
		}
	}
	if it == nil || it.empty() {
		if req.Refresh {
			return store.Claim{Outcome: store.Gone}
		}
		return s.lease(lease, req.TTL, now, by)
	}
	if store.IdentityOf(it.image) != req.Seen {
		return store.Claim{Outcome: store.Held, Image: it.image}
	}
	if !req.Refresh {
		return s.lease(lease, req.TTL, now, by)
	}
	if it.side.live(now) && it.side.id != req.ID {
		return store.Claim{Outcome: store.Busy, Wait: it.side.expires.Sub(now)}
	}
	lease.Refresh, lease.Seen = true, req.Seen
	it.side = &side{req.ID, now.Add(lifetime(req.TTL))}
	return store.Claim{Outcome: store.Leased, Lease: lease}
}

// lease puts the mark of l at its key.
func (s *Server) lease(l store.Lease, ttl time.Duration, now time.Time, by *Store) store.Claim {
	image := []byte{}
	if !l.Plain {
		image = store.LeaseImage(l.ID)
	}
	it := s.data.put(l.Key, image, ttl, now, by, s.opts.MaxBytes)
	if l.Plain {
		it.side = &side{l.ID, it.expires}
	}
	return store.Claim{Outcome: store.Leased, Lease: l}
}

// empty reports whether there is nothing that a reader could take for a value.
func (it *item) empty() bool {
	return len(it.image) == 0 || it.expires.IsZero() && store.IsLease(it.image)
}

// leased returns whose lease record or placeholder the key holds, and for how long.
func (it *item) leased(now time.Time) (id store.ID, rest time.Duration, ok bool) {
	switch {
	case len(it.image) == 0 && it.side.live(now):
		return it.side.id, it.side.expires.Sub(now), true
	case store.IsLease(it.image) && !it.expires.IsZero():
		id, _ = store.RecordID(it.image)
		return id, it.rest(now), true
	}
	return id, 0, false
}

// holds reports whether l is still good for what its key holds.
func (it *item) holds(l *store.Lease, now time.Time) bool {
	switch {
	case it == nil:
		return false
	case l.Refresh:
		return it.side.live(now) && it.side.id == l.ID && store.IdentityOf(it.image) == l.Seen
	case l.Plain:
		return it.side.live(now) && it.side.id == l.ID && len(it.image) == 0
	default:
		id, _ := store.RecordID(it.image)
		return store.IsLease(it.image) && id == l.ID
	}
}

// fill stores image, which it keeps, if the lease is still good.
func (s *Server) fill(l *store.Lease, image []byte, ttl time.Duration, now time.Time, by *Store) error {
	if err := s.storable(l.Key, image, ttl); err != nil {
		return err
	}
	if !s.data.get(l.Key, now, by).holds(l, now) {
		return store.ErrLeaseLost
	}
	s.data.put(l.Key, image, ttl, now, by, s.opts.MaxBytes)
	return nil
}

// release takes the lease back, if it is still good.
func (s *Server) release(l *store.Lease, now time.Time, by *Store) {
	it := s.data.get(l.Key, now, by)
	switch {
	case !it.holds(l, now):
	case l.Refresh:
		it.side = nil
	default:
		s.data.remove(it, by)
	}
}

// storable refuses what would never be found again, and what would evict everything else.
func (s *Server) storable(key string, image []byte, ttl time.Duration) error {
	if ttl <= 0 {
		return errTTL
	}
	if itemSize(key, image) > s.opts.MaxBytes {
		return errTooBig
	}
	return nil
}

func failed(req *store.ClaimRequest, err error) store.Claim {
	return store.Claim{Err: fmt.Errorf("memstore: claim %q: %w", req.Key, err)}
}
