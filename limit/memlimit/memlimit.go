// Package memlimit keeps what limits have used in this process.
//
// A key that owes something is never forgotten before its time: when the store is full, and no key that owes nothing can
// make place, new keys are refused (Options.WhenFull). Keys that have owed nothing for ten seconds make place for
// others as these come; when the store is full, those that owe nothing do so at once.
//
// A GCRA key takes at most 60 bytes beside the bytes of its key, and a decision on one makes no allocation. Other
// kinds take more: about 200 bytes, and 16 for each time that Strict keeps, or 32 for each lease.
//
// Time is that of the process's monotonic clock, so steps of the wall clock change nothing. Only windows
// of Fixed are by the wall clock.
package memlimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/clock"
	"github.com/freshetdev/freshet/limit"
)

// Options of a Store. Zero values are defaults.
type Options struct {
	// MaxKeys is the largest number of keys. A key of two policies counts twice, and once more for each
	// penalty that isn't over. Default 1,048,576.
	MaxKeys int

	// WhenFull is what happens to keys that there is no place for.
	WhenFull WhenFull
}

// A WhenFull says what happens to new keys when all that are there owe something.
type WhenFull uint8

const (
	// FullRefuse refuses them, with a RetryAfter of a second. So nobody gets more than his limits by
	// filling the store with made-up keys, but he can keep new keys out.
	FullRefuse WhenFull = iota

	// FullAllow admits them, and charges nothing. So nobody can keep new keys out, but made-up keys are without a limit then.
	FullAllow
)

// A Store is a [limit.Store] in this process.
type Store struct {
	opts   Options
	clock  *clock.Fine
	base   int64 // its start, in ns since 1970
	seed   maphash.Seed
	shards int // of each space; a power of two

	routes [64]atomic.Pointer[route] // by version of the policy
	holds  [16]atomic.Pointer[hold]
	keys   atomic.Int64
	full   atomic.Int64
	closed atomic.Bool
	fake   func() int64 // of tests: the time in µs since 1970; else nil

	mu      sync.Mutex         // taken before that of a shard
	spaces  map[spaceID]*space // guarded by mu
	ordered []*space           // by number; guarded by mu
	hand    struct {           // of reclaim; guarded by mu
		space, shard, looked int
	}
}

var (
	_ limit.Store     = (*Store)(nil)
	_ limit.GCRATaker = (*Store)(nil)
)

// New makes a store. It panics if the options are wrong.
func New(opts Options) *Store {
	if opts.MaxKeys == 0 {
		opts.MaxKeys = 1 << 20
	}
	if opts.MaxKeys < 1 || opts.WhenFull > FullAllow {
		panic(fmt.Sprintf("memlimit: MaxKeys is %d, WhenFull is %d; want MaxKeys 1 or more, 0 for 1048576, and WhenFull FullRefuse or FullAllow", opts.MaxKeys, opts.WhenFull))
	}
	s := &Store{opts: opts, clock: clock.NewFine(), seed: maphash.MakeSeed(), shards: 1, spaces: map[spaceID]*space{}}
	s.base = s.clock.Start().UnixNano()
	// As many that two processors seldom meet in one, but not more than there are a thousand keys for.
	for s.shards < 64 && s.shards*1024 < opts.MaxKeys {
		s.shards *= 2
	}
	return s
}

// Stats are the counts of a store.
type Stats struct {
	Keys int64 // there now, those that owe nothing but were not swept yet included
	Full int64 // charges for which there was no place, since New
}

// Stats are the counts.
func (s *Store) Stats() Stats { return Stats{Keys: s.keys.Load(), Full: s.full.Load()} }

// Traits says that it is in this process.
func (s *Store) Traits() limit.Traits { return limit.Traits{InProcess: true, KeepsDeadline: true} }

// Slot is 0: all keys can be decided together.
func (s *Store) Slot(*limit.Policy, string) int { return 0 }

// Close ends the store: every method then fails with ErrClosed.
func (s *Store) Close() error {
	s.closed.Store(true)
	return nil
}

// now is the time in µs since 1970, as far as it went on since New.
func (s *Store) now() int64 {
	if s.fake != nil {
		return s.fake()
	}
	return (s.base + s.clock.Now()) / 1000
}

// nowFor is the time by which a rule counts.
func (s *Store) nowFor(r *limit.Rule, now int64) int64 {
	if r.Kind == limit.Fixed && s.fake == nil {
		return time.Now().UnixMicro()
	}
	return now
}

func (s *Store) hash(key string) uint64 { return maphash.String(s.seed, key) }

func (s *Store) shardOf(hash uint64) int { return int(hash) & (s.shards - 1) }

func (s *Store) check(step string) error {
	if s.closed.Load() {
		return fmt.Errorf("memlimit: %s: %w", step, limit.ErrClosed)
	}
	return nil
}

// Take implements [limit.Store].
func (s *Store) Take(_ context.Context, c limit.Charge) (st limit.Status, err error) {
	if s.closed.Load() {
		return st, s.check("take")
	}
	if debt, fits, ok := s.TakeGCRA(c.Policy, c.Key, c.Cost); ok {
		c.Policy.Rule().AnswerGCRA(&st, &c, debt, fits, fits && c.Cost > 0)
		return st, nil
	}
	charges := [1]limit.Charge{c}
	var out [1]limit.Status
	s.takeAll(charges[:], out[:])
	return out[0], nil
}

// TakeGCRA implements [limit.GCRATaker]: one key, changed by compare and swap.
func (s *Store) TakeGCRA(p *limit.Policy, key string, cost int64) (debt int64, fits, ok bool) {
	rule := p.Rule()
	if rule.Kind != limit.GCRA || rule.After != 0 || s.closed.Load() {
		return 0, false, false
	}
	hash := s.hash(key)
	sh := &s.route(p).state.gcra[s.shardOf(hash)]
	now := s.now()
	for spin := 0; ; spin++ {
		e := sh.table.Load().find(hash, key)
		var word int64
		if e != nil {
			if word = e.word.Load(); word&flags != 0 {
				pause(spin)
				continue
			}
		}
		next, fits, write := rule.TakeGCRA(word>>2, now, cost)
		switch {
		case !write:
			return next - now, fits, true
		case e != nil:
			if e.word.CompareAndSwap(word, next<<2) {
				return next - now, fits, true
			}
		case s.keys.Add(1) > int64(s.opts.MaxKeys):
			s.keys.Add(-1)
			return 0, false, false
		default:
			_, added, more := sh.insert(s, hash, key, next<<2, now)
			s.keys.Add(int64(more - 1))
			if added {
				return next - now, fits, true
			}
		}
	}
}

// noPlace is the answer to a charge of a new key when the store is full.
func (s *Store) noPlace(c *limit.Charge) limit.Status {
	s.full.Add(1)
	st := limit.Status{Policy: c.Policy, Key: c.Key, Cost: c.Cost, Shadow: c.Shadow}
	if s.opts.WhenFull == FullAllow {
		st.Fits = true
	} else {
		st.RetryAfter = time.Second
	}
	return st
}
