package mirror

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// What is measured, all of it without asking anybody:
//
//	voided   a drop by somebody else    its position, which is a time of the server's clock → known here
//	commits  a drop that a pump made    the commit of the oldest change, by the database's clock → known here
//	proven   each round of probes       how long ago the last proof was: StaleFor at its largest
//	sources  each round of probes       the same of each source
//
// The first two compare with the server's clock as the store estimates it, which is off by at most half of a round trip. The
// other two depend on no clock but this instance's.
type measures struct {
	voided  observe.Recorder
	commits atomic.Pointer[map[string]*observe.Recorder] // by source; copied on write
	proven  observe.Recorder
	sources []observe.Recorder
}

// maxSources bounds the sources whose commits are measured: the log names them, and anybody may write to it.
const maxSources = 100

// now is the clock by which a partition's log is dated. It reports false before the store was heard of.
func (m *Mirror) now(part int) (time.Time, bool) {
	if m.clocked == nil {
		return m.store.Now(), true
	}
	now, _, ok := m.clocked.Clock(part)
	return now, ok
}

// measure notes how long an entry that was just processed took to get here: since it was logged, and, if a pump made it, since the
// commit. Both are zero if that isn't known.
func (m *Mirror) measure(part int, e store.LogEntry) (lag, commit time.Duration) {
	now, ok := m.now(part)
	if !ok || len(e.Keys)+len(e.Tags) == 0 {
		return 0, 0
	}
	lag = max(now.Sub(time.UnixMicro(int64(e.Pos))), 0)
	if e.By == m.opts.Name {
		return lag, 0 // it was void here before the store was asked
	}
	m.measures.voided.Record(lag)
	source, committed, _ := store.PumpOf(e.By)
	if committed.IsZero() {
		return lag, 0
	}
	commit = max(now.Sub(committed), 0)
	if r := m.commitsOf(source); r != nil {
		r.Record(commit)
	}
	return lag, commit
}

func (m *Mirror) commitsOf(source string) *observe.Recorder {
	for {
		old := m.measures.commits.Load()
		if r := (*old)[source]; r != nil || len(*old) >= maxSources {
			return r
		}
		more := map[string]*observe.Recorder{source: new(observe.Recorder)}
		maps.Copy(more, *old)
		m.measures.commits.CompareAndSwap(old, &more)
	}
}

// measureProof notes how far back the last proofs are, before new ones take their place.
func (m *Mirror) measureProof() {
	now := m.clock.Exact()
	if asOf := m.proof.Load(); asOf > Never {
		m.measures.proven.Record(time.Duration(now - asOf))
	}
	for i := range m.sources {
		if asOf := m.sources[i].Load(); asOf > Never {
			m.measures.sources[i].Record(time.Duration(now - asOf))
		}
	}
}

// Voided is how long drops by others took from the log to here.
func (m *Mirror) Voided() observe.Histogram { return m.measures.voided.Histogram() }

// Commits is, by source, how long drops that pumps made took from the commit to here.
func (m *Mirror) Commits() map[string]observe.Histogram {
	out := make(map[string]observe.Histogram)
	for name, r := range *m.measures.commits.Load() {
		out[name] = r.Histogram()
	}
	return out
}

// Proven is how long ago the last proof was, at each round of probes.
func (m *Mirror) Proven() observe.Histogram { return m.measures.proven.Histogram() }

// SourceProven is the same of a source. There must be such a source.
func (m *Mirror) SourceProven(i int) observe.Histogram { return m.measures.sources[i].Histogram() }

// ClockError is by how much Voided and Commits may be off; negative if that isn't known.
func (m *Mirror) ClockError() time.Duration {
	if m.clocked == nil {
		return -1
	}
	var most time.Duration
	for _, p := range m.parts {
		_, off, ok := m.clocked.Clock(p.n)
		if !ok {
			return -1
		}
		most = max(most, off)
	}
	return most
}
