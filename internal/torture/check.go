package torture

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// The promises, as indices: P1 is 0.
const (
	P1 = iota
	P2
	P3
	P4
	P5
	promises
)

// A Violation is a promise that was broken.
type Violation struct {
	Promise int
	Text    string
}

func (v Violation) String() string { return fmt.Sprintf("P%d: %s", v.Promise+1, v.Text) }

// A Verdict is what became of a history.
type Verdict struct {
	Checks     [promises]int64
	Broken     [promises]int64
	Violations []Violation // the first ones
	byRow      map[int]int

	Late time.Duration // by which a read missed an acknowledged drop at worst
	Get  time.Duration // the longest read
	Slow Read          // that read
}

// OK reports whether nothing was broken.
func (v *Verdict) OK() bool { return v.Broken == [promises]int64{} }

// reported bounds the violations that are kept, and those of one row: the first ones tell the story.
const (
	reported  = 12
	reportRow = 3
)

func (v *Verdict) broken(promise, row int, format string, args ...any) {
	v.Broken[promise]++
	if v.byRow == nil {
		v.byRow = make(map[int]int)
	}
	if v.byRow[row]++; v.byRow[row] <= reportRow && len(v.Violations) < reported {
		v.Violations = append(v.Violations, Violation{promise, fmt.Sprintf(format, args...)})
	}
}

// never is later than any time.
const never = time.Duration(math.MaxInt64)

// A dropTable tells, for each version, when a later one was first known to be due: a read that begins after that
// must not bring it.
type dropTable struct {
	at []time.Duration // by version
	by []int           // the write
}

func newDropTable(versions int) dropTable {
	t := dropTable{at: make([]time.Duration, versions+1), by: make([]int, versions+1)}
	for i := range t.at {
		t.at[i] = never
	}
	return t
}

// add says that versions below that of a write are over from at on. Call finish afterwards.
func (t *dropTable) add(version int64, at time.Duration, write int) {
	if at != 0 && at < t.at[version-1] {
		t.at[version-1], t.by[version-1] = at, write
	}
}

func (t *dropTable) finish() {
	for v := len(t.at) - 2; v >= 0; v-- {
		if t.at[v+1] < t.at[v] {
			t.at[v], t.by[v] = t.at[v+1], t.by[v+1]
		}
	}
}

// A rowHistory is what a row's reads are judged by.
type rowHistory struct {
	began     []time.Duration // by version: it can't have been seen before
	committed dropTable
	acked     dropTable
	ackedKey  dropTable   // of drops that delete the key
	own       []dropTable // by instance: of drops that had returned there
	drops     []Window    // when a drop may have taken effect somewhere
	loads     []Load
}

// heardLate is by how much an instance may hear of a drop later than it was acknowledged, when the question is
// whether it had a reason to load again.
const heardLate = time.Second

func (h *History) byRow() []rowHistory {
	rows := make([]rowHistory, len(h.Rows))
	versions := make([]int, len(h.Rows))
	for i := range versions {
		versions[i] = 1 // there from the beginning
	}
	for _, w := range h.Writes {
		versions[w.Row] = max(versions[w.Row], int(w.Version))
	}
	for i := range rows {
		r, n := &rows[i], versions[i]
		r.began = make([]time.Duration, n+1)
		r.committed, r.acked, r.ackedKey = newDropTable(n), newDropTable(n), newDropTable(n)
		for range h.Instances {
			r.own = append(r.own, newDropTable(n))
		}
	}
	for i, w := range h.Writes {
		r := &rows[w.Row]
		r.began[w.Version] = w.Began
		r.committed.add(w.Version, w.Committed, i)
		r.acked.add(w.Version, w.Acked, i)
		if w.ofKey() {
			r.ackedKey.add(w.Version, w.Acked, i)
		}
		if w.Instance != Foreign {
			r.own[w.Instance].add(w.Version, w.Returned, i)
		}
		drop := Window{w.Asked, never}
		if w.Acked != 0 {
			drop.To = w.Acked + heardLate
		}
		for j := range rows {
			if j == w.Row || w.Wide && h.Rows[j].Cache == h.Rows[w.Row].Cache {
				rows[j].drops = append(rows[j].drops, drop)
			}
		}
	}
	for i := range rows {
		r := &rows[i]
		r.committed.finish()
		r.acked.finish()
		r.ackedKey.finish()
		for j := range r.own {
			r.own[j].finish()
		}
	}
	for _, l := range h.Loads {
		rows[l.Row].loads = append(rows[l.Row].loads, l)
	}
	for i := range rows {
		slices.SortFunc(rows[i].loads, func(a, b Load) int { return int(a.Start - b.Start) })
	}
	return rows
}

// Check judges a history.
func Check(h *History) *Verdict {
	v := new(Verdict)
	h.weigh()
	for _, n := range h.Noticed {
		v.broken(n.Promise, -1, "%s", n.Text)
	}
	rows := h.byRow()
	slices.SortFunc(h.Reads, func(a, b Read) int { return int(a.Start - b.Start) }) // the first violation comes first
	for _, r := range h.Reads {
		h.checkRead(v, &rows[r.Row], r)
	}
	for i := range rows {
		h.checkLoads(v, i, &rows[i])
	}
	return v
}

func (h *History) checkRead(v *Verdict, row *rowHistory, r Read) {
	h.checkTime(v, r)
	v.Checks[P5]++
	if r.Err != nil {
		v.broken(P5, r.Row, "%v; want none while the source works", r)
		return
	}
	version, ok := h.checkValue(v, row, r)
	if !ok || r.Failed {
		return
	}
	plain := h.Lossy && h.Rows[r.Row].Plain
	if plain {
		return
	}
	must := func(promise int, t *dropTable, grace time.Duration, why string) {
		v.Checks[promise]++
		if at := t.at[version]; at != never && r.Start > at+grace {
			v.broken(promise, r.Row, "%v,\n\t%v after %s of %v", r, r.Start-at, why, h.Writes[t.by[version]])
		}
	}
	must(P1, &row.own[r.Instance], 0, "its own drop had returned:")
	direct := r.Level != observe.LevelNone && !r.Joined && !r.Stale
	if direct && r.Level == observe.LevelSource {
		must(P1, &row.committed, 0, "the commit, though it came from the source:")
	}
	if direct && r.Level == observe.LevelL2 && !h.Rows[r.Row].Background && !h.Lossy {
		must(P1, &row.ackedKey, 0, "the drop of the key was acknowledged, though it came from the store:")
	}
	if slices.ContainsFunc(h.Losing, func(w Window) bool { return w.meets(r.Start, r.End) }) {
		return
	}
	if r.Last {
		must(P1, &row.committed, 0, "all had settled:")
	}
	must(P2, &row.acked, h.StaleAtMost+h.ClockError, "the acknowledgment")
	if at := row.acked.at[version]; at != never {
		v.Late = max(v.Late, r.Start-at)
	}
}

// checkValue tells which version was read.
func (h *History) checkValue(v *Verdict, row *rowHistory, r Read) (version int64, ok bool) {
	v.Checks[P4]++
	latest := int64(1)
	for i := len(row.began) - 1; i > 1; i-- {
		if row.began[i] <= r.End {
			latest = int64(i)
			break
		}
	}
	odd := h.Rows[r.Row].Odd
	switch {
	case r.Corrupt:
		v.broken(P4, r.Row, "%v", r)
	case r.Absent && !odd:
		v.broken(P4, r.Row, "%v, and the row was always there", r)
	case r.Absent:
		// An answer without a version: the newest that it can be.
		return latest - (latest+1)%2, true
	case odd && r.Version%2 == 1:
		v.broken(P4, r.Row, "%v, which is absent in that version", r)
	case r.Version < 1 || r.Version > latest:
		v.broken(P4, r.Row, "%v, and the newest was %d", r, latest)
	default:
		return r.Version, true
	}
	return 0, false
}

// checkTime compares how long a read took with what it may: a load before its own (of another instance, or one that a
// drop ended), its own, and two rounds with the store. Where some operation failed a while before, leases may not have been
// given back, and when the first is over, the next holder may have met the same silence.
func (h *History) checkTime(v *Verdict, r Read) {
	took := r.End - r.Start
	if took > v.Get {
		v.Get, v.Slow = took, r
	}
	may := 2*h.LongestLoad + 2*h.Budget + h.Slack
	if took <= may {
		return
	}
	if h.troubled(r.Start-2*h.Lease, r.End) {
		may += 2 * h.Lease
	}
	if may += perHop * h.late(r.Start, r.End); took > may {
		v.broken(P5, r.Row, "%v took %v; want at most %v", r, took, may)
	}
}

// troubled reports whether Redis didn't answer somebody, or an operation failed somewhere.
func (h *History) troubled(from, to time.Duration) bool {
	return slices.ContainsFunc(h.Broken, func(w Window) bool { return w.meets(from, to) }) ||
		slices.ContainsFunc(h.Trouble, func(t Trouble) bool { return t.At >= from && t.At <= to })
}

// perHop is how many times what waits for the processor is late, for each time that one goroutine was: it and the store
// wait for each other, each in its turn, and so do the proxy between them and the goroutine that is asked for by others.
const perHop = 8

// weigh adds up the stalls.
func (h *History) weigh() {
	h.lateBy = make([]time.Duration, len(h.Stalls)+1)
	for i, s := range h.Stalls {
		h.lateBy[i+1] = h.lateBy[i] + s.Late
	}
}

// late is what the machine was late by between two times. A stall that reaches into them counts as a whole.
func (h *History) late(from, to time.Duration) time.Duration {
	first, _ := slices.BinarySearchFunc(h.Stalls, from, func(s Stall, t time.Duration) int { return cmp.Compare(s.At, t) })
	end, _ := slices.BinarySearchFunc(h.Stalls, to, func(s Stall, t time.Duration) int { return cmp.Compare(s.At-s.Late, t) })
	return max(0, h.lateBy[max(first, end)]-h.lateBy[first])
}

func (h *History) worstStall() (worst time.Duration) {
	for _, s := range h.Stalls {
		worst = max(worst, s.Late)
	}
	return worst
}

// checkLoads looks for loads of one row at the same time.
func (h *History) checkLoads(v *Verdict, n int, row *rowHistory) {
	for i, a := range row.loads {
		v.Checks[P3]++
		for _, b := range row.loads[i+1:] {
			if b.Start >= a.End {
				break
			}
			switch {
			case h.mayOverlap(row, a, b):
			default:
				v.broken(P3, n, "row %d (%s) is loaded by instance %d from %v to %v, and by %d from %v on; loads before: %v",
					n, h.Rows[n].Key, a.Instance, a.Start, a.End, b.Instance, b.Start, row.loads[max(0, i-6):i])
			}
		}
	}
}

// before is how long before its load begins a lease may have been taken.
const before = 200 * time.Millisecond

// mayOverlap says whether there is a reason for b to begin while a is under way: a drop of the row, a lease that ran
// out, or a store that didn't answer.
//
// One that an instance has for itself: word of another instance's fill, which a broken link delivers late, can't be
// told from a foreign write. It ends a load that began without the store, and the next caller may get the lease.
//
//	A: the link hangs; loads without a lease
//	B: claim, load, fill; the value ends
//	A: the link is back: "the key changed"        whoever asks now doesn't join
//	A: claim → leased, load
func (h *History) mayOverlap(row *rowHistory, a, b Load) bool {
	from := a.Start - before - perHop*h.late(a.Start-before, b.Start)
	dropped := slices.ContainsFunc(row.drops, func(w Window) bool { return w.meets(from, b.Start) })
	ranOut := b.Start-a.Start > min(h.Lease, h.StaleAtMost)-before/4
	if dropped || ranOut {
		return true
	}
	broken := slices.ContainsFunc(h.Broken, func(w Window) bool { return w.meets(from, b.Start) })
	if a.Instance == b.Instance {
		broken = broken || slices.ContainsFunc(h.Trouble, func(t Trouble) bool {
			return t.Instance == a.Instance && t.At >= from-before && t.At <= b.Start
		})
		elsewhere := slices.ContainsFunc(row.loads, func(l Load) bool {
			return l.Instance != a.Instance && l.End <= b.Start && l.End >= a.Start-heardLate
		})
		return broken && elsewhere || slices.ContainsFunc(h.Trouble, func(t Trouble) bool {
			return t.Reset && t.Instance == a.Instance && t.At >= from && t.At <= b.Start
		})
	}
	return broken || slices.ContainsFunc(h.Trouble, func(t Trouble) bool { return t.At >= from-before && t.At <= b.Start+h.Budget })
}
