package memlimit

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// An entry is the TAT of one key. Its word is changed by compare and swap:
//
//	TAT·4          the key's TAT
//	TAT·4 + held   one decision over several keys holds it; the TAT is still that of before
//	dead           it was swept, and is no longer in its table: look the key up again
//
// Only an entry that isn't held and whose TAT has passed dies, so no debt is forgotten, and a charge can't be made on an
// entry that nobody finds any more:
//
//	A: finds the entry
//	B: sweeps it
//	A: charges it → refused, since the word changed: dead
type entry struct {
	key  string
	word atomic.Int64
}

const (
	held  = 1
	dead  = 2
	flags = 3
)

// hold takes the entry; false if it is dead.
func (e *entry) hold() bool {
	for spin := 0; ; spin++ {
		switch w := e.word.Load(); {
		case w&dead != 0:
			return false
		case w&held == 0 && e.word.CompareAndSwap(w, w|held):
			return true
		}
		pause(spin)
	}
}

// pause lets whoever holds an entry go on: it does so for a few hundred nanoseconds, unless it lost its processor.
func pause(spin int) {
	if spin > 8 {
		runtime.Gosched()
	}
}

// A table finds entries without a lock. Slots are probed one after the other; a tag, once set, says that its
// slot is or was in use, and an empty one ends the search. Changes are made under the shard's lock, and a full table is
// replaced by a new one with the same entries. So a search may miss what is being changed (then it is done again under
// the lock), but never finds a wrong entry.
type table struct {
	slots []slot
	taken int // tags set; guarded by the shard's mu
}

type slot struct {
	entry atomic.Pointer[entry] // nil if it was swept
	tag   atomic.Uint32         // of the hash; 0: never in use
}

// A table is replaced when three quarters of its slots are taken; the new one is at most half full. With larger steps, a key would
// take more than 60 bytes after one.
const fill, full = 2, 4 // the new one has fill slots an entry; it is full when 3/full are taken

func newTable(entries int) *table { return &table{slots: make([]slot, max(8, fill*entries))} }

func (t *table) isFull() bool { return t.taken >= len(t.slots)/full*3 }

func tagOf(hash uint64) uint32 { return uint32(hash) | 1 }

// first is the slot where the search for a hash begins: the hash as a fraction of the table. The shard is of its other bits.
func (t *table) first(hash uint64) int { return int(hash >> 32 * uint64(len(t.slots)) >> 32) }

func (t *table) find(hash uint64, key string) *entry {
	tag := tagOf(hash)
	for i := t.first(hash); ; {
		s := &t.slots[i]
		switch s.tag.Load() {
		case tag:
			if e := s.entry.Load(); e != nil && e.key == key {
				return e
			}
		case 0:
			return nil
		}
		if i++; i == len(t.slots) {
			i = 0
		}
	}
}

// add puts an entry into a table that has room for it.
func (t *table) add(hash uint64, e *entry) {
	for i := t.first(hash); ; {
		if s := &t.slots[i]; s.tag.Load() == 0 {
			s.entry.Store(e) // before the tag, which tells of it
			s.tag.Store(tagOf(hash))
			t.taken++
			return
		}
		if i++; i == len(t.slots) {
			i = 0
		}
	}
}

// A shard is a part of the keys of a GCRA policy.
type shard struct {
	table atomic.Pointer[table] // never nil

	mu   sync.Mutex // held while the table is changed
	live int        // entries; guarded by mu
	hand int        // where the sweep goes on; guarded by mu
}

// idleKept is for how long (µs) a key that owes nothing stays, unless the store is full: one that is used now and
// then would otherwise be swept and made anew each time.
const idleKept = 10_000_000

// sweepStep is how many slots an insert looks at. With two, the sweep comes around before the table has doubled; four leave a margin.
const sweepStep = 4

// insert adds a key with its word, unless it is there. It sweeps some slots on the way, and returns how many
// entries there are more; fewer if it is negative.
func (sh *shard) insert(s *Store, hash uint64, key string, word, now int64) (e *entry, added bool, more int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.table.Load()
	if e = t.find(hash, key); e != nil {
		return e, false, 0
	}
	before := sh.live
	sh.sweepLocked(now-idleKept, sweepStep)
	if t.isFull() {
		t = sh.rebuildLocked(s, now)
	}
	e = &entry{key: strings.Clone(key)} // the caller's may be a part of something large
	e.word.Store(word)
	t.add(hash, e)
	sh.live++
	return e, true, sh.live - before
}

// rebuildLocked makes a new table of the entries that are still in debt.
func (sh *shard) rebuildLocked(s *Store, now int64) *table {
	old := sh.table.Load()
	sh.sweepLocked(now-idleKept, len(old.slots))
	t := newTable(sh.live + 1)
	for i := range old.slots {
		if e := old.slots[i].entry.Load(); e != nil {
			t.add(s.hash(e.key), e)
		}
	}
	sh.hand = 0
	sh.table.Store(t)
	return t
}

// sweepLocked looks at n slots, and ends the entries there that owed nothing at a time.
func (sh *shard) sweepLocked(then int64, n int) {
	t := sh.table.Load()
	for range min(n, len(t.slots)) {
		if sh.hand >= len(t.slots) {
			sh.hand = 0
		}
		s := &t.slots[sh.hand]
		sh.hand++
		e := s.entry.Load()
		if e == nil {
			continue
		}
		if w := e.word.Load(); w&flags == 0 && w>>2 <= then && e.word.CompareAndSwap(w, dead) {
			s.entry.Store(nil)
			sh.live--
		}
	}
}

// sweep is sweepLocked of up to n slots; it returns how many it looked at, and how many entries it ended.
func (sh *shard) sweep(now int64, n int) (looked, ended int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	before := sh.live
	n = min(n, len(sh.table.Load().slots))
	sh.sweepLocked(now, n)
	return n, before - sh.live
}

// remove ends a key's entry.
func (sh *shard) remove(hash uint64, key string) (ended int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.table.Load()
	for i := t.first(hash); t.slots[i].tag.Load() != 0; {
		if e := t.slots[i].entry.Load(); e != nil && e.key == key {
			e.hold() // whoever holds it goes on without sh.mu
			e.word.Store(dead)
			t.slots[i].entry.Store(nil)
			sh.live--
			return 1
		}
		if i++; i == len(t.slots) {
			i = 0
		}
	}
	return 0
}
