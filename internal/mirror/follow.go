package mirror

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// tailChunk is how many log entries one catch-up read asks for.
const tailChunk = 512

// Following the log of a partition:
//
//	state     event                            next      effect
//	unread    head read                        live      epoch and position adopted
//	live      entry follows the last one       live      cells raised, keys dropped
//	live      entry known already              live      none
//	live      entry that doesn't follow        gap       catch up soon; what follows waits
//	gap       log has the missing entries      live      they are processed in order
//	gap       log lost them, same epoch        live      all cells void, all keys reset
//	gap       log lost them, and the server    live      a new epoch is started
//	          may be another than before
//	any       head of a later epoch            live      all cells void, all keys reset
//	any       head of an earlier epoch         live      a new epoch is started
//	any       head behind what was told of     live      a new epoch is started
//	any       log goes on without that         live      a new epoch is started
//	any       no log                           live      a new epoch is started
//
// "What was told of" is more than what was processed: an own drop that is acknowledged, an announcement ahead
// of a gap, the head that came with a stamp. A drop is not lost while an instance that knows of it runs.
//
// logged is the announcement of one entry.
func (m *Mirror) logged(part int, e store.LogEntry) {
	p := m.parts[part]
	p.mu.Lock()
	defer p.unlockAndTell()
	switch {
	case p.head.Epoch == 0:
		// Not read yet: this entry is part of what the first probe reads.
	case p.gap:
		// The entries before it are being read from the log.
		if len(p.held) < maxHeld {
			p.held = append(p.held, e)
		}
		p.toldOfLocked(e.Head)
	case e.Pos <= p.head.Pos:
		// Repeated, or the late message of a log that was replaced.
	case p.followsLocked(e):
		m.processLocked(p, e)
	default:
		p.gap, p.held = true, append(p.held[:0], e)
		p.toldOfLocked(e.Head)
		m.poke()
	}
}

// followsLocked reports whether e is the next entry of the log.
func (p *partition) followsLocked(e store.LogEntry) bool {
	return e.Epoch == p.head.Epoch && e.Prev == p.head.Pos && e.PrevNonce == p.head.Nonce && !e.NewEpoch && !p.missesLocked(e)
}

// missesLocked reports whether a log that goes on with e, or is past it, lost an entry that was told of.
func (p *partition) missesLocked(e store.LogEntry) bool {
	for _, h := range p.ahead {
		if h.Pos > e.Pos {
			break
		}
		if h != e.Head {
			return true
		}
	}
	return false
}

// toldOfLocked notes an entry that the log must have.
func (p *partition) toldOfLocked(h store.Head) {
	if h.Epoch != p.head.Epoch || h.Pos <= p.head.Pos || slices.Contains(p.ahead, h) {
		return
	}
	if len(p.ahead) == maxHeld {
		p.ahead = p.ahead[:maxHeld-1]
	}
	i, _ := slices.BinarySearchFunc(p.ahead, h.Pos, func(h store.Head, pos store.Pos) int { return cmp.Compare(h.Pos, pos) })
	p.ahead = slices.Insert(p.ahead, i, h)
}

func (p *partition) furthestLocked() store.Head {
	if n := len(p.ahead); n > 0 {
		return p.ahead[n-1]
	}
	return p.head
}

// maxHeld bounds the announcements kept while a gap is open, and the entries that must show up in the log. Those
// beyond it are read from the log; of entries that must show up the furthest is kept.
const maxHeld = 1024

// processLocked takes in the entry that follows the last one.
func (m *Mirror) processLocked(p *partition, e store.LogEntry) {
	m.invalidateLocked(p, e)
	p.head = e.Head
	p.ahead = slices.DeleteFunc(p.ahead, func(h store.Head) bool { return h.Pos <= e.Pos })
	p.recent.add(e)
	lag, commit := m.measure(p.n, e)
	if h := m.opts.Hooks.Drop; h != nil {
		p.tellLocked(func() {
			h(observe.Drop{Keys: e.Keys, Tags: e.Tags, By: store.WhoDropped(e.By), Own: e.By == m.opts.Name, Lag: lag, Commit: commit})
		})
	}
}

func (m *Mirror) invalidateLocked(p *partition, e store.LogEntry) {
	used := false
	for _, tag := range e.Tags {
		if c := p.cells[tag].Value(); c != nil {
			c.raiseLocked(e.Pos)
			used = true
		}
	}
	if len(e.Keys) > 0 {
		m.opts.Keys(e.Keys)
	}
	if used {
		m.version.Add(1)
	}
}

// NoteOwn takes in an entry that this instance appended, ahead of its announcement.
func (m *Mirror) NoteOwn(part int, e store.LogEntry) {
	p := m.parts[part]
	p.mu.Lock()
	defer p.unlockAndTell()
	if e.Epoch != p.head.Epoch {
		// An epoch that was not adopted yet, or one that is over: what the cells say is of another. What was
		// read or loaded before is dropped, whatever they say, also where its tags are named only now.
		now := m.clock.Exact()
		for _, tag := range e.Tags {
			c := p.cellLocked(tag)
			c.local.Store(now)
			c.since.Store(unknown)
		}
		m.version.Add(1)
		m.poke()
		return
	}
	if e.Pos <= p.head.Pos {
		return
	}
	if p.followsLocked(e) && !p.gap {
		m.processLocked(p, e)
		return
	}
	// Others' entries come before it; it is announced in its turn. Cells made until then must know it.
	for _, tag := range e.Tags {
		p.cellLocked(tag)
	}
	m.invalidateLocked(p, e)
	p.heard = max(p.heard, e.Pos) // loads that begin now see it
	p.toldOfLocked(e.Head)
}

// Run follows the logs until ctx ends.
func (m *Mirror) Run(ctx context.Context) {
	t := time.NewTicker(m.opts.Probe)
	defer t.Stop()
	defer m.unkeep()
	held, since := false, m.clock.Exact()
	first := true
	for {
		m.probe(ctx)
		if first && m.followed.Load() {
			first = false
			close(m.synced)
		}
		now := m.clock.Exact()
		if ok := now-m.Trust().AsOf() <= int64(m.opts.StaleAtMost); ok != held {
			if h := m.opts.Hooks.Trust; h != nil {
				h(observe.Trust{Held: ok, Since: time.Duration(now - since), Source: m.uncertified(now)})
			}
			held, since = ok, now
		}
		select {
		case <-t.C:
		case <-m.wake:
		case <-ctx.Done():
			return
		}
	}
}

// unkeep lets go of the cells kept for their own sake. Their cleanups hold the partition, which would
// otherwise hold them, and so itself, for ever.
func (m *Mirror) unkeep() {
	for _, p := range m.parts {
		p.mu.Lock()
		clear(p.kept[:])
		p.mu.Unlock()
	}
}

// probe brings every partition up to date and, if it could, moves the trust up to the time
// at which it began: whatever was dropped before that is in what was processed.
func (m *Mirror) probe(ctx context.Context) {
	trust, sent := m.Trust(), m.clock.Exact()
	ctx, cancel := context.WithTimeout(ctx, m.opts.Timeout)
	defer cancel()
	if trust != m.fedBy {
		m.forgetFeeds() // what was read over another link, or before a part of the log was lost
		m.fedBy = trust
	}
	followed := m.followAll(ctx, trust)
	m.measureProof()
	if !followed {
		return
	}
	if m.trust.Load() == trust {
		asOf := min(sent, m.certify())
		trust.advance(asOf)
		m.proof.Store(asOf)
		m.reach.Store(m.reached(trust))
		m.followed.Store(true)
	}
}

// followAll follows all partitions, at the same time: a node of a Cluster that is slow delays no other.
func (m *Mirror) followAll(ctx context.Context, trust *Trust) bool {
	if len(m.parts) == 1 || m.inTurn {
		for _, p := range m.parts {
			if !m.followMarked(ctx, p, trust) {
				return false
			}
		}
		return true
	}
	var behind atomic.Bool
	var wg sync.WaitGroup
	for _, p := range m.parts {
		wg.Go(func() {
			if !m.followMarked(ctx, p, trust) {
				behind.Store(true)
			}
		})
	}
	wg.Wait()
	return !behind.Load()
}

// followMarked is follow, and reads the marks of the sources first: what they speak of is in the log up to the head.
func (m *Mirror) followMarked(ctx context.Context, p *partition, trust *Trust) bool {
	sent := m.clock.Exact()
	marks := m.marks(ctx, p)
	if !m.follow(ctx, p, trust) {
		return false
	}
	for i := range marks {
		p.feeds[i].heard(marks[i], sent)
	}
	return true
}

// follow reports whether everything logged before it was called has been processed. trust is that of the link
// it is to be read over.
func (m *Mirror) follow(ctx context.Context, p *partition, trust *Trust) bool {
	p.mu.Lock()
	known, ahead, unsure := p.head, slices.Clone(p.ahead), p.unsure
	furthest := p.furthestLocked()
	p.mu.Unlock()

	head, err := m.store.Head(ctx, p.n)
	switch {
	case errors.Is(err, store.ErrNoLog):
		m.startEpoch(ctx, p, store.Head{}, "the store has no log")
		return false
	case err != nil:
		m.storeError("head", err)
		return false
	case known.Epoch != 0 && head.Epoch != known.Epoch && head.Began() <= furthest.Pos:
		m.startEpoch(ctx, p, head, "the log is of an epoch that began before its last entries")
		return false
	case len(ahead) > 0 && unsure && head.Epoch != known.Epoch:
		m.startEpoch(ctx, p, head, "the log may have lost entries before the epoch")
		return false
	case known.Epoch == 0 || head.Epoch != known.Epoch:
		m.adopt(p, known, head)
		return false // what happened between the two is covered by the next probe
	case lacks(head, known) || slices.ContainsFunc(ahead, func(h store.Head) bool { return lacks(head, h) }):
		m.startEpoch(ctx, p, head, "the log lost its end")
		return false
	}
	if !m.catchUp(ctx, p, head) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.trust.Load() == trust { // under the lock: a link that changes after this makes it unsure after this
		p.unsure = false
	}
	return true
}

// lacks reports whether a log that ends at head can't have had an entry.
func lacks(head, entry store.Head) bool {
	return head.Pos < entry.Pos || head.Pos == entry.Pos && head.Nonce != entry.Nonce
}

// catchUp processes the log up to head.
func (m *Mirror) catchUp(ctx context.Context, p *partition, head store.Head) bool {
	for {
		p.mu.Lock()
		from, gap := p.head, p.gap
		p.mu.Unlock()
		switch {
		case from.Epoch != head.Epoch:
			return false
		case !gap && from.Pos >= head.Pos:
			return true
		}

		entries, err := m.store.Tail(ctx, p.n, from.Pos, tailChunk)
		if errors.Is(err, store.ErrCorrupt) {
			// What it said can't be known: go on behind it, as if it had been lost.
			m.storeError("tail", err)
			p.mu.Lock()
			unsure := p.unsure || !m.up.Load()
			if p.head == from && !unsure {
				_ = m.lostLocked(p, head)
			}
			p.unlockAndTell()
			if unsure {
				m.startEpoch(ctx, p, head, "the log can't be read up to where it was")
			}
			return false
		}
		if err != nil {
			m.storeError("tail", err)
			return false
		}
		switch ok, reverted := m.replay(p, from, head, entries); {
		case reverted:
			m.startEpoch(ctx, p, head, "the log went on without entries that it had")
			return false
		case !ok:
			return false
		}
	}
}

// replay processes entries read from the log after from. It reports false if the log can't prove
// what happened after from, and reverted if it proves that it lost what the mirror has seen: the
// stamps of those drops are lost, too, so an entry that they made invalid would look valid again.
func (m *Mirror) replay(p *partition, from, head store.Head, entries []store.LogEntry) (ok, reverted bool) {
	p.mu.Lock()
	defer p.unlockAndTell()
	if p.head.Epoch != from.Epoch {
		return false, false // another epoch was adopted meanwhile
	}
	healed := p.gap
	for _, e := range entries {
		if e.Pos <= p.head.Pos {
			continue // announced meanwhile
		}
		switch {
		case e.Epoch == p.head.Epoch && (e.Prev < p.head.Pos || e.Prev == p.head.Pos && e.PrevNonce != p.head.Nonce || p.missesLocked(e)):
			return false, true
		case p.followsLocked(e):
			m.processLocked(p, e)
		default:
			return false, m.lostLocked(p, head)
		}
	}
	if len(entries) == 0 && p.head.Pos < head.Pos {
		return false, m.lostLocked(p, head)
	}
	if len(entries) < tailChunk {
		p.gap = false
		for _, e := range p.held {
			switch {
			case e.Pos <= p.head.Pos:
			case p.followsLocked(e):
				m.processLocked(p, e)
			default:
				p.gap = true // there is another one behind this
			}
		}
		p.held = p.held[:0]
		if healed {
			m.gapLocked(p, observe.Gap{Part: p.n, Healed: true})
		}
	}
	return true, false
}

// lostLocked gives up on the history between the last entry processed and head: the log was cut off for its length.
// It reports true, and does nothing, if the log may as well have lost entries to a failover.
func (m *Mirror) lostLocked(p *partition, head store.Head) (reverted bool) {
	if p.unsure || !m.up.Load() {
		return true
	}
	m.voidLocked(p, head)
	m.gapLocked(p, observe.Gap{Part: p.n, Lost: true})
	m.poke()
	return false
}

// adopt takes over a log of another epoch, or reads one for the first time.
func (m *Mirror) adopt(p *partition, known, head store.Head) {
	p.mu.Lock()
	defer p.unlockAndTell()
	if p.head != known && p.head.Epoch == head.Epoch {
		return
	}
	if known.Epoch != 0 {
		m.epochLocked(p, observe.Epoch{Part: p.n, Epoch: head.Epoch, Why: "the log is of another epoch"})
	}
	m.voidLocked(p, head)
	m.poke()
}

// startEpoch makes everything stored so far invalid, since history was lost.
func (m *Mirror) startEpoch(ctx context.Context, p *partition, seen store.Head, why string) {
	p.mu.Lock()
	above := max(p.furthestLocked().Pos, p.heard) // no position that was given once is given again
	p.mu.Unlock()
	e, err := m.store.NewEpoch(ctx, p.n, seen, above)
	if errors.Is(err, store.ErrHeadMoved) {
		m.poke() // somebody else did
		return
	}
	if err != nil {
		m.storeError("epoch", err)
		return
	}
	p.mu.Lock()
	if p.head.Epoch != e.Epoch { // else it was adopted meanwhile
		m.epochLocked(p, observe.Epoch{Part: p.n, Epoch: e.Epoch, Why: why})
		m.voidLocked(p, e.Head)
	}
	p.unlockAndTell()
	m.poke()
}

// voidLocked goes on from head without knowing what was before it: it forgets what is known of
// the partition's tags, and nothing read so far keeps its proof.
func (m *Mirror) voidLocked(p *partition, head store.Head) {
	for _, w := range p.cells {
		if c := w.Value(); c != nil {
			c.since.Store(unknown)
		}
	}
	if head.Epoch != p.head.Epoch {
		// Positions of another epoch may be lower, if the server's clock went back.
		clear(p.cells)
		clear(p.kept[:])
	}
	p.head, p.gap, p.held, p.heard = head, false, nil, head.Pos
	p.ahead, p.unsure = nil, false
	p.epoch.Store(head.Epoch)
	p.recent = recentDrops{from: head.Pos}
	m.distrust()
	m.opts.Reset()
}

func (m *Mirror) gapLocked(p *partition, g observe.Gap) {
	if h := m.opts.Hooks.Gap; h != nil {
		p.tellLocked(func() { h(g) })
	}
}

func (m *Mirror) epochLocked(p *partition, e observe.Epoch) {
	if h := m.opts.Hooks.Epoch; h != nil {
		p.tellLocked(func() { h(e) })
	}
}

// tellLocked calls f once the lock is released: hooks are other people's code.
func (p *partition) tellLocked(f func()) { p.told = append(p.told, f) }

func (p *partition) unlockAndTell() {
	told := p.told
	p.told = nil
	p.mu.Unlock()
	for _, f := range told {
		f()
	}
}

func (m *Mirror) storeError(op string, err error) {
	if h := m.opts.Hooks.StoreError; h != nil && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, context.Canceled) {
		h(observe.StoreError{Op: op, Err: err})
	}
}

// onCollected removes a cell's name once nothing points to the cell.
func onCollected(c *Cell, p *partition, tag string) {
	runtime.AddCleanup(c, func(tag string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if w, ok := p.cells[tag]; ok && w.Value() == nil {
			delete(p.cells, tag)
		}
	}, tag)
}

// Random returns a random number that is not zero.
func Random() uint64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails
		if n := binary.LittleEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}
