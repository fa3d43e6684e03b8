package mirror

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/freshetdev/freshet/store"
)

// Whatever happens to announcements, answers, links and stamps: what the mirror vouches for is what the log says.
// An entry that it calls valid was not concerned by any drop from before the time it vouches for.
func TestMirrorNeverClaimsLessThanTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.IntRange(1, 3).Draw(t, "partitions")
		w := &world{r: newRig(t, parts), t: t}
		w.r.f.after = func(op string) {
			// Between an answer and its arrival anything may happen.
			for range rapid.IntRange(0, 2).Draw(t, "meanwhile") {
				w.act(true)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.act(false)
			w.verify()
		}
		// Left alone, the mirror recovers.
		w.r.f.after = nil
		clear(w.r.f.fail)
		w.r.m.link(store.Link{Up: true, Tracks: true})
		for range 4*parts + 4 {
			w.r.probe()
		}
		w.verify()
		if w.r.m.Trust().AsOf() == Never {
			t.Fatal("no trust though nothing fails any more")
		}
		for part, p := range w.r.f.parts {
			if w.r.m.Head(part) != p.head {
				t.Fatalf("the mirror of %d is at %+v; the log at %+v", part, w.r.m.Head(part), p.head)
			}
		}
	})
}

// A world is a rig with entries, and with announcements that are under way.
type world struct {
	r       *rig
	t       *rapid.T
	entries []held
	under   []message // delayed announcements
	depth   int
}

// held is an entry of L1 or L2 with what was known when its load began.
type held struct {
	deps  Deps
	trust *Trust
	began int64
}

type message struct {
	part int
	e    store.LogEntry
}

var someTags = []string{"a", "b", "c", "d", "e"}

func (w *world) act(nested bool) {
	if w.depth > 2 {
		return
	}
	w.depth++
	defer func() { w.depth-- }()
	last := 9
	if nested {
		last = 5 // what the mirror's own goroutine or its users do doesn't overlap with itself
	}
	part := rapid.IntRange(0, len(w.r.f.parts)-1).Draw(w.t, "part")
	p := w.r.f.parts[part]
	switch rapid.IntRange(0, last).Draw(w.t, "act") {
	case 0, 1: // a drop
		if p.head.Epoch == 0 {
			return
		}
		tag := rapid.SampledFrom(someTags).Draw(w.t, "tag")
		part = w.r.m.Partition(tag)
		if w.r.f.parts[part].head.Epoch == 0 {
			return
		}
		e := w.r.drop(part, tag)
		switch rapid.SampledFrom([]string{"announced", "announced", "delayed", "lost", "own"}).Draw(w.t, "fate") {
		case "announced":
			w.r.announce(part, e)
		case "delayed":
			w.under = append(w.under, message{part, e})
		case "own":
			w.r.m.NoteOwn(part, e)
			w.under = append(w.under, message{part, e})
		}
	case 2: // a late announcement, perhaps not for the last time
		if len(w.under) == 0 {
			return
		}
		i := rapid.IntRange(0, len(w.under)-1).Draw(w.t, "message")
		m := w.under[i]
		if rapid.Bool().Draw(w.t, "once") {
			w.under = slices.Delete(w.under, i, i+1)
		}
		w.r.announce(m.part, m.e)
	case 3: // the server forgets
		switch rapid.IntRange(0, 2).Draw(w.t, "forgets") {
		case 0:
			delete(p.stamps, rapid.SampledFrom(someTags).Draw(w.t, "tag"))
		case 1:
			keep := rapid.IntRange(0, 2).Draw(w.t, "keep")
			p.entries = slices.Clone(p.entries[max(len(p.entries)-keep, 0):])
		case 2:
			if rapid.IntRange(0, 4).Draw(w.t, "all") == 0 {
				p.head, p.entries = store.Head{}, nil
				clear(p.stamps)
			}
		}
	case 4: // the link
		if rapid.Bool().Draw(w.t, "up") {
			w.r.m.link(store.Link{Up: true, Tracks: true})
		} else {
			w.r.m.link(store.Link{})
		}
	case 5: // the store fails, or not
		op := rapid.SampledFrom([]string{"head", "tail", "register"}).Draw(w.t, "op")
		w.r.f.fail[op] = nil
		if rapid.IntRange(0, 3).Draw(w.t, "fails") == 0 {
			w.r.f.fail[op] = fmt.Errorf("%s fails", op)
		}
	case 6: // a load
		tags := rapid.SliceOfNDistinct(rapid.SampledFrom(someTags), 1, 3, rapid.ID).Draw(w.t, "tags")
		trust := w.r.m.Trust()
		deps, err := w.r.m.Prepare(context.Background(), tags)
		began := w.r.clock.Exact()
		if err == nil {
			w.entries = append(w.entries, held{deps, trust, began})
		}
	case 7: // an entry read from the store, by an instance that knew nothing of its tags
		if len(w.entries) == 0 {
			return
		}
		e := rapid.SampledFrom(w.entries).Draw(w.t, "entry")
		var stored []store.Dep
		for _, d := range e.deps {
			s := store.Dep{Part: d.Part, Epoch: d.Epoch, Read: d.Read}
			for _, c := range d.Cells {
				s.Tags = append(s.Tags, c.Tag())
			}
			stored = append(stored, s)
		}
		// As if nobody held the cells any more.
		for _, p := range w.r.m.parts {
			if rapid.Bool().Draw(w.t, "collected") {
				p.mu.Lock()
				clear(p.cells)
				p.mu.Unlock()
				w.entries = slices.DeleteFunc(w.entries, func(h held) bool { return true })
			}
		}
		trust, began := w.r.m.Trust(), w.r.clock.Exact()
		if deps, _ := w.r.m.Resolve(context.Background(), stored, true); deps != nil {
			w.entries = append(w.entries, held{deps, trust, began})
		}
	case 8: // tags that only the answer names
		if len(w.entries) == 0 {
			return
		}
		i := rapid.IntRange(0, len(w.entries)-1).Draw(w.t, "entry")
		e := w.entries[i]
		tag := rapid.SampledFrom(someTags).Draw(w.t, "tag")
		if deps, ok := w.r.adopt(e.deps, tag); ok {
			w.verifyAdopted(e.deps, deps, tag)
			w.entries[i].deps = deps
		}
	default:
		w.r.probe()
	}
}

// verify compares what the mirror vouches for with the logs.
func (w *world) verify() {
	for _, h := range w.entries {
		if w.r.m.Check(h.deps, h.began) != Valid {
			continue
		}
		for _, d := range h.deps {
			p := w.r.f.parts[d.Part]
			for _, e := range w.all(d.Part) {
				if e.Pos <= d.Read || p.times[e.Pos] >= h.trust.AsOf() {
					continue
				}
				for _, c := range d.Cells {
					if slices.Contains(e.Tags, c.Tag()) {
						w.t.Fatalf("%s was dropped at %d, the entry was read at %d, and is called valid", c.Tag(), e.Pos, d.Read)
					}
				}
			}
		}
	}
}

// verifyAdopted: an extended read position passes no drop of the entry's tags.
func (w *world) verifyAdopted(before, after Deps, late string) {
	for i, d := range after {
		for _, e := range w.all(d.Part) {
			if e.Epoch != d.Epoch || e.Pos <= before[i].Read || e.Pos > d.Read {
				continue
			}
			for _, c := range d.Cells {
				if slices.Contains(e.Tags, c.Tag()) {
					w.t.Fatalf("the read position went from %d to %d, over the drop of %s at %d (late tag %s)", before[i].Read, d.Read, c.Tag(), e.Pos, late)
				}
			}
		}
	}
}

// all returns every entry that a log ever had.
func (w *world) all(part int) []store.LogEntry { return w.r.f.parts[part].ever }
