package mirror

import (
	"context"
	"math"

	"github.com/freshetdev/freshet/store"
)

// A database whose changes become drops is followed by its marks. A pump announces a tick in the mark, reads how far the database
// is, and, once everything up to there is in the log, certifies the tick in the mark. So
//
//	t     this mirror reads a mark: tick 7 is announced       tick 8 isn't: it comes after t
//	      a mark says that tick 8 is certified                what was visible in the database before t is in the log
//	      the log is followed to a head that was read later   and known here
//
// and what is in L1 was, at t, what the database had.

// readings is how many readings of a mark are kept. More ticks than that between an announcement and its certificate make the
// distance look longer than it is.
const readings = 128

// A feed is what a partition's marks say of a source. It is used by probe only.
type feed struct {
	last store.Mark
	ring [readings]reading
	next int
	asOf int64
}

type reading struct {
	sent int64 // before the mark was read
	tick uint64
}

func (f *feed) forget() { *f = feed{asOf: Never} }

// heard takes in a mark that was asked for at sent. The log must be followed to a head that was read after it.
func (f *feed) heard(mark store.Mark, sent int64) {
	if mark.Seq < f.last.Seq || mark.Tick < f.last.Tick || mark == (store.Mark{}) {
		f.forget() // it went back in time
	}
	f.last = mark
	if mark == (store.Mark{}) {
		return
	}
	f.ring[f.next%readings] = reading{sent, mark.Tick}
	f.next++
	for i := range min(f.next, readings) {
		if r := f.ring[i]; r.tick < mark.Cert {
			f.asOf = max(f.asOf, r.sent)
		}
	}
}

// marks reads the marks of all sources in a partition; nil if it can't.
func (m *Mirror) marks(ctx context.Context, p *partition) []store.Mark {
	marker, ok := m.store.(store.Marker)
	if !ok || len(m.opts.Sources) == 0 {
		return nil
	}
	all := make([]store.Mark, len(m.opts.Sources))
	for i, name := range m.opts.Sources {
		var err error
		if all[i], err = marker.Mark(ctx, p.n, name); err != nil {
			m.storeError("mark", err)
			return nil
		}
	}
	return all
}

func (m *Mirror) forgetFeeds() {
	for _, p := range m.parts {
		for i := range p.feeds {
			p.feeds[i].forget()
		}
	}
}

// certify takes in what the partitions heard of the sources, and returns up to when all is known of all of them; math.MaxInt64 if
// there are none. What was known once stays so: should the log lose some of it, this mirror is one that knows, and begins a new epoch.
func (m *Mirror) certify() int64 {
	asOf := int64(math.MaxInt64)
	for i := range m.opts.Sources {
		least := int64(math.MaxInt64)
		for _, p := range m.parts {
			least = min(least, p.feeds[i].asOf)
		}
		least = max(least, m.sources[i].Load())
		m.sources[i].Store(least)
		asOf = min(asOf, least)
	}
	m.certified.Store(asOf)
	return asOf
}

// SourceAsOf is the time, on the mirror's clock, up to which every change of a source is known. There must be such a source.
func (m *Mirror) SourceAsOf(i int) int64 { return m.sources[i].Load() }

// Certified is the least SourceAsOf; math.MaxInt64 if there is no source.
func (m *Mirror) Certified() int64 { return m.certified.Load() }

// A reach is where the marks were when the logs were followed last: every change up to there has its drops in what was processed.
type reach struct {
	trust *Trust     // of the link over which that was read
	pos   [][]string // by source and partition; empty: not known
}

// reached is for probe: the logs were just followed past what the feeds' marks speak of.
func (m *Mirror) reached(trust *Trust) *reach {
	r := &reach{trust: trust, pos: make([][]string, len(m.opts.Sources))}
	for i := range r.pos {
		r.pos[i] = make([]string, len(m.parts))
		for j, p := range m.parts {
			r.pos[i][j] = p.feeds[i].last.Pos
		}
	}
	return r
}

// Reached reports whether every change of a source up to some position is known here, and returns the trust of the link over which that
// was learned: what is valid and was read under that trust contains them. covers reports whether a mark's position is at or after
// the one meant. What is known ends with the link. There must be such a source.
func (m *Mirror) Reached(i int, covers func(pos string) bool) (*Trust, bool) {
	r := m.reach.Load()
	if r == nil || r.trust != m.Trust() {
		return nil, false
	}
	for _, pos := range r.pos[i] {
		if pos == "" || !covers(pos) {
			return nil, false
		}
	}
	return r.trust, true
}

// uncertified is the source that is furthest behind, if it is too far for anything to be trusted.
func (m *Mirror) uncertified(now int64) string {
	for i, name := range m.opts.Sources {
		if at := m.sources[i].Load(); at == m.Certified() && now-at > int64(m.opts.StaleAtMost) {
			return name
		}
	}
	return ""
}
