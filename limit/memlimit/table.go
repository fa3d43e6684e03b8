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
	tags    []atomic.Uint32
	entries []atomic.Pointer[entry]
	taken   int // tags set; guarded by the shard's mu
}

func newTable(entries int) *table {
	n := 8
	for n < 2*entries {
		n *= 2
	}
	return &table{tags: make([]atomic.Uint32, n), entries: make([]atomic.Pointer[entry], n)}
}

func tagOf(hash uint64) uint32 { return uint32(hash>>32) | 1 }

func (t *table) find(hash uint64, key string) *entry {
	mask := uint64(len(t.tags) - 1)
	tag := tagOf(hash)
	for i := hash & mask; ; i = (i + 1) & mask {
		switch t.tags[i].Load() {
		case tag:
			if e := t.entries[i].Load(); e != nil && e.key == key {
				return e
			}
		case 0:
			return nil
		}
	}
}

// add puts an entry into a table that has room for it.
func (t *table) add(hash uint64, e *entry) {
	mask := uint64(len(t.tags) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if t.tags[i].Load() == 0 {
			t.entries[i].Store(e) // before the tag, which tells of it
			t.tags[i].Store(tagOf(hash))
			t.taken++
			return
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
	sh.sweepLocked(now, sweepStep)
	if t.taken >= len(t.tags)/4*3 {
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
	sh.sweepLocked(now, len(old.tags))
	t := newTable(sh.live + 1)
	for i := range old.entries {
		if e := old.entries[i].Load(); e != nil {
			t.add(s.hash(e.key), e)
		}
	}
	sh.hand = 0
	sh.table.Store(t)
	return t
}

// sweepLocked looks at n slots, and ends the entries there that owe nothing.
func (sh *shard) sweepLocked(now int64, n int) {
	t := sh.table.Load()
	for range min(n, len(t.tags)) {
		at := sh.hand & (len(t.tags) - 1)
		sh.hand = at + 1
		e := t.entries[at].Load()
		if e == nil {
			continue
		}
		if w := e.word.Load(); w&flags == 0 && w>>2 <= now && e.word.CompareAndSwap(w, dead) {
			t.entries[at].Store(nil)
			sh.live--
		}
	}
}

// sweep is sweepLocked of up to n slots; it returns how many it looked at, and how many entries it ended.
func (sh *shard) sweep(now int64, n int) (looked, ended int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	before := sh.live
	n = min(n, len(sh.table.Load().tags))
	sh.sweepLocked(now, n)
	return n, before - sh.live
}

// remove ends a key's entry.
func (sh *shard) remove(hash uint64, key string) (ended int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.table.Load()
	mask := uint64(len(t.tags) - 1)
	for i := hash & mask; t.tags[i].Load() != 0; i = (i + 1) & mask {
		if e := t.entries[i].Load(); e != nil && e.key == key {
			e.hold() // whoever holds it goes on without sh.mu
			e.word.Store(dead)
			t.entries[i].Store(nil)
			sh.live--
			return 1
		}
	}
	return 0
}
