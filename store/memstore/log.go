package memstore

import (
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"github.com/freshetdev/freshet/store"
)

// A partition is one log: its end, the stamps of the tags in use and the last entries.
type partition struct {
	head    store.Head // zero: there is no log
	stamps  map[string]store.Pos
	entries []store.LogEntry
	marks   map[string]store.Mark // by source

	// last is the highest position ever given. It outlives a flush, since the clock alone
	// can't tell the new log from the old one within a microsecond, nor in a
	// synctest bubble, where it stands.
	last store.Pos
}

// next is the position of an entry that is appended now.
func (p *partition) next(now time.Time) store.Pos { return max(p.last+1, store.Pos(now.UnixMicro())) }

// append links e to the log and makes it the head. Its epoch is set by the caller.
func (p *partition) append(e store.LogEntry, now time.Time, keep int) store.LogEntry {
	e.Prev, e.PrevNonce = p.head.Pos, p.head.Nonce
	e.Pos = p.next(now)
	e.Nonce = rand.Uint64()
	p.head, p.last = e.Head, e.Pos
	p.entries = append(p.entries, e)
	p.trim(keep)
	return e
}

// drop appends d and raises the stamps of its tags.
func (p *partition) drop(d store.Drop, known store.Head, now time.Time, keep int) (store.LogEntry, error) {
	if p.head.Epoch == 0 {
		return store.LogEntry{}, store.ErrNoLog
	}
	if p.head.Epoch == known.Epoch && (p.head.Pos < known.Pos || p.head.Pos == known.Pos && p.head.Nonce != known.Nonce) {
		return store.LogEntry{}, store.ErrBehind
	}
	d.Keys, d.Tags = slices.Clone(d.Keys), slices.Clone(d.Tags)
	e := p.append(store.LogEntry{Head: store.Head{Epoch: p.head.Epoch}, Drop: d}, now, keep)
	for _, tag := range d.Tags {
		if _, used := p.stamps[tag]; used {
			p.stamps[tag] = e.Pos
		}
	}
	return e, nil
}

// newEpoch starts a new epoch if the log is still at seen. The stamps may stay: they are at or
// below its first position, and entries of earlier epochs are invalid anyway.
func (p *partition) newEpoch(seen store.Head, above store.Pos, now time.Time, keep int) (store.LogEntry, error) {
	if p.head != seen {
		return store.LogEntry{}, store.ErrHeadMoved
	}
	p.last = max(p.last, above)
	epoch := store.EpochAt(p.next(now), rand.Uint64())
	return p.append(store.LogEntry{Head: store.Head{Epoch: epoch}, NewEpoch: true}, now, keep), nil
}

// register returns the stamps of tags. A missing one is created at the log's position.
func (p *partition) register(tags []string, limit int) []store.Pos {
	if p.stamps == nil {
		p.stamps = map[string]store.Pos{}
	}
	stamps := make([]store.Pos, len(tags))
	for i, tag := range tags {
		pos, used := p.stamps[tag]
		if !used {
			pos = p.head.Pos
			if len(p.stamps) >= limit {
				for victim := range p.stamps { // any one
					delete(p.stamps, victim)
					break
				}
			}
			p.stamps[tag] = pos
		}
		stamps[i] = pos
	}
	return stamps
}

// tail returns up to limit entries after pos.
func (p *partition) tail(after store.Pos, limit int) []store.LogEntry {
	from := sort.Search(len(p.entries), func(i int) bool { return p.entries[i].Pos > after })
	n := max(0, min(limit, len(p.entries)-from))
	return slices.Clone(p.entries[from : from+n])
}

// trim forgets all but the last keep entries.
func (p *partition) trim(keep int) {
	if n := len(p.entries) - max(keep, 0); n > 0 {
		clear(p.entries[:n])
		p.entries = p.entries[n:]
	}
}

// flush loses the log and its stamps.
func (p *partition) flush() { *p = partition{last: p.last} }
