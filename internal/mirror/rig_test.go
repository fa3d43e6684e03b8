package mirror

import (
	"context"
	"fmt"
	"slices"

	"github.com/freshetdev/freshet/internal/clock"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// A fakeLog is a partition of a fake: the test writes it.
type fakeLog struct {
	head    store.Head // zero: no log
	entries []store.LogEntry
	ever    []store.LogEntry // those that were forgotten, too
	stamps  map[string]store.Pos
	last    store.Pos           // outlives the log: positions are never used twice
	times   map[store.Pos]int64 // when each entry was appended, on the mirror's clock
}

// A fake is a store with bad luck on demand. Whatever a test wants to happen between the server's
// answer and its arrival happens in after, in the same goroutine.
type fake struct {
	store.Store // nil: what the mirror must not call

	parts []*fakeLog
	clock *clock.Clock
	after func(op string)
	fail  map[string]error
	asked map[string]int
}

func (f *fake) answer(op string) error {
	f.asked[op]++
	if after := f.after; after != nil {
		f.after = nil // not for what it asks itself
		after(op)
		if f.after == nil {
			f.after = after
		}
	}
	return f.fail[op]
}

func (f *fake) Partitions() int { return len(f.parts) }

func (f *fake) Head(_ context.Context, part int) (store.Head, error) {
	h := f.parts[part].head
	if err := f.answer("head"); err != nil {
		return store.Head{}, err
	}
	if h.Epoch == 0 {
		return h, store.ErrNoLog
	}
	return h, nil
}

func (f *fake) Tail(_ context.Context, part int, after store.Pos, limit int) (out []store.LogEntry, err error) {
	for _, e := range f.parts[part].entries {
		if e.Pos > after && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, f.answer("tail")
}

func (f *fake) Register(_ context.Context, part int, tags []string) (store.Head, []store.Pos, error) {
	p := f.parts[part]
	h := p.head
	if h.Epoch == 0 {
		return h, nil, store.ErrNoLog
	}
	var stamps []store.Pos
	for _, t := range tags {
		if _, ok := p.stamps[t]; !ok {
			p.stamps[t] = h.Pos
		}
		stamps = append(stamps, p.stamps[t])
	}
	if err := f.answer("register"); err != nil {
		return store.Head{}, nil, err
	}
	return h, stamps, nil
}

func (f *fake) NewEpoch(_ context.Context, part int, seen store.Head, above store.Pos) (store.LogEntry, error) {
	p := f.parts[part]
	if p.head != seen {
		return store.LogEntry{}, store.ErrHeadMoved
	}
	p.last = max(p.last, above)
	e := p.append(f.clock, store.LogEntry{Head: store.Head{Epoch: store.EpochAt(p.last+10, Random())}, NewEpoch: true})
	return e, f.answer("epoch")
}

func (p *fakeLog) append(c *clock.Clock, e store.LogEntry) store.LogEntry {
	e.Prev, e.PrevNonce = p.head.Pos, p.head.Nonce
	if e.Epoch == 0 {
		e.Epoch = p.head.Epoch
	}
	p.last += 10
	e.Pos, e.Nonce = p.last, Random()
	p.head = e.Head
	p.entries = append(p.entries, e)
	p.ever = append(p.ever, e)
	for _, t := range e.Tags {
		if _, used := p.stamps[t]; used {
			p.stamps[t] = e.Pos
		}
	}
	p.times[e.Pos] = c.Exact()
	return e
}

// A tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// A rig is a mirror of a fake, driven step by step: probe is one round of Run.
type rig struct {
	t      tester
	f      *fake
	m      *Mirror
	clock  *clock.Clock
	keys   []string
	resets int
	told   []string
}

// newRig returns a mirror that follows logs of an epoch of their own, and has proven it.
func newRig(t tester, parts int) *rig {
	r := &rig{t: t, clock: clock.New(true)}
	r.f = &fake{clock: r.clock, asked: map[string]int{}, fail: map[string]error{}}
	for range parts {
		r.f.parts = append(r.f.parts, &fakeLog{stamps: map[string]store.Pos{}, times: map[store.Pos]int64{}})
	}
	r.m = New(r.f, r.clock, Options{
		StaleAtMost: 1e9, Probe: 1e8, Timeout: 1e9, Name: "me",
		Keys:  func(keys []string) { r.keys = append(r.keys, keys...) },
		Reset: func() { r.resets++ },
		Hooks: observe.Hooks{
			Gap:   func(g observe.Gap) { r.told = append(r.told, fmt.Sprintf("gap healed=%v lost=%v", g.Healed, g.Lost)) },
			Epoch: func(e observe.Epoch) { r.told = append(r.told, "epoch: "+e.Why) },
			Drop:  func(d observe.Drop) { r.told = append(r.told, fmt.Sprintf("drop %v %v own=%v", d.Keys, d.Tags, d.Own)) },
		},
	})
	r.m.inTurn = true
	r.m.link(store.Link{Up: true, Tracks: true})
	for range 2*parts + 1 {
		r.probe()
	}
	if r.m.Trust().AsOf() == Never {
		t.Fatal("the mirror does not follow")
	}
	r.told, r.resets = nil, 0
	return r
}

func (r *rig) probe() { r.m.probe(context.Background()) }

// drop appends a drop of tags to a partition's log. It is announced by announce.
func (r *rig) drop(part int, tags ...string) store.LogEntry {
	return r.f.parts[part].append(r.clock, store.LogEntry{Drop: store.Drop{Tags: tags, By: "other"}})
}

func (r *rig) announce(part int, entries ...store.LogEntry) {
	for _, e := range entries {
		r.m.logged(part, e)
	}
}

// prepare is the beginning of a load.
func (r *rig) prepare(tags ...string) Deps {
	r.t.Helper()
	deps, err := r.m.Prepare(context.Background(), tags)
	if err != nil {
		r.t.Fatal(err)
	}
	return deps
}

// lose makes the mirror lose a part of the history of a partition, and recover.
func (r *rig) lose(part int) {
	p := r.f.parts[part]
	r.drop(part, "unheard")
	r.announce(part, r.drop(part, "heard"))
	p.entries = p.entries[len(p.entries)-1:]
	r.probe()
	r.probe()
	if r.m.Trust().AsOf() == Never {
		r.t.Fatal("the mirror did not recover")
	}
}

func (r *rig) check(deps Deps) Verdict { return r.m.Check(deps, r.clock.Exact()) }

func (r *rig) is(what string, got, want any) {
	r.t.Helper()
	if got != want {
		r.t.Errorf("%s: %v; want %v", what, got, want)
	}
}

// tells compares what the hooks were told since the last time.
func (r *rig) tells(want ...string) {
	r.t.Helper()
	if !slices.Equal(r.told, want) {
		r.t.Errorf("the hooks were told %q; want %q", r.told, want)
	}
	r.told = nil
}

// adopt registers late tags and adds them.
func (r *rig) adopt(deps Deps, tags ...string) (Deps, bool) {
	if err := r.m.Begin(tags).Register(context.Background()); err != nil {
		return deps, false
	}
	return r.m.Adopt(deps, tags)
}
