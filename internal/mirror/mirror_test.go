package mirror

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/freshetdev/freshet/store"
)

func (f *fake) Now() time.Time { return time.Now() }

func TestChain(t *testing.T) {
	r := newRig(t, 1)
	deps := r.prepare("red", "blue")
	r.is("verdict", r.check(deps), Valid)
	version := r.m.Version()

	other := r.drop(0, "green")
	r.announce(0, other)
	r.is("verdict after another's drop", r.check(deps), Valid)
	r.is("version", r.m.Version(), version) // nothing in use: hits need not look again

	e := r.drop(0, "red", "green")
	r.announce(0, e)
	r.is("verdict", r.check(deps), Dropped)
	if r.m.Version() == version {
		t.Error("the version did not change with a cell")
	}
	r.announce(0, e, other) // repeated, late
	r.is("head", r.m.Head(0), e.Head)
	r.tells("drop [] [green] own=false", "drop [] [red green] own=false")

	k := r.f.parts[0].append(r.clock, store.LogEntry{Drop: store.Drop{Keys: []string{"k1", "k2"}, By: "me"}})
	r.announce(0, k, k)
	if !slices.Equal(r.keys, []string{"k1", "k2"}) {
		t.Errorf("keys %v; want k1 and k2 once", r.keys)
	}
	r.tells("drop [k1 k2] [] own=true")
	deps = r.prepare("red", "blue")
	r.is("verdict of a new load", r.check(deps), Valid)
	r.is("read position", deps[0].Read, k.Pos)
	r.is("resets", r.resets, 0)
	if d, ok := r.m.LastDrop("green"); !ok || d.Pos != e.Pos {
		t.Errorf("the last drop of green is %v, %v; want %d", d.Pos, ok, e.Pos)
	}
}

func TestGapHealedByTheLog(t *testing.T) {
	r := newRig(t, 1)
	deps, other := r.prepare("red"), r.prepare("blue")
	r.drop(0, "red") // lost
	late := r.drop(0, "green")
	r.announce(0, late)
	r.is("verdict while the gap is open", r.check(deps), Valid) // the trust has not moved
	asOf := r.m.Trust().AsOf()
	during := r.drop(0, "yellow")
	r.f.after = func(op string) {
		if op == "tail" && during.Pos != 0 {
			r.announce(0, during)
			during.Pos = 0
		}
	}
	r.probe()
	r.is("verdict", r.check(deps), Dropped)
	r.is("the other's verdict", r.check(other), Valid)
	r.is("head", r.m.Head(0), r.f.parts[0].head)
	if r.m.Trust().AsOf() <= asOf {
		t.Error("the trust did not move after the gap was healed")
	}
	r.is("resets", r.resets, 0)
	if !slices.Contains(r.told, "gap healed=true lost=false") {
		t.Errorf("told %q; want a healed gap", r.told)
	}
}

// What nobody announced shows at the next probe.
func TestLostAnnouncementShowsAtTheProbe(t *testing.T) {
	r := newRig(t, 1)
	deps := r.prepare("red")
	for range 3 * tailChunk {
		r.drop(0, "other")
	}
	r.drop(0, "red")
	r.probe()
	r.is("verdict", r.check(deps), Dropped)
	r.is("head", r.m.Head(0), r.f.parts[0].head)
}

func TestGapLost(t *testing.T) {
	r := newRig(t, 1)
	deps := r.prepare("red")
	trust := r.m.Trust()
	r.drop(0, "red")
	r.announce(0, r.drop(0, "green"))
	r.f.parts[0].entries = r.f.parts[0].entries[len(r.f.parts[0].entries)-1:]
	r.told = nil
	r.probe()
	r.tells("gap healed=false lost=true")
	r.is("resets", r.resets, 1)
	r.is("verdict", r.check(deps), Unknown)
	r.is("the old trust", trust.AsOf(), int64(dead))
	if _, known := deps[0].Cells[0].Stamp(); known {
		t.Error("the stamp is known though history was lost")
	}
	r.is("the new trust", r.m.Trust().AsOf(), int64(Never))
	r.probe()
	if r.m.Trust().AsOf() == Never {
		t.Error("no trust after the next probe")
	}
	r.is("the old trust", trust.AsOf(), int64(dead))
	// The epoch is the same: stamps read anew tell what is still good.
	fresh := r.prepare("red")
	r.is("verdict of the old load", r.check(deps), Dropped)
	r.is("verdict of a new one", r.check(fresh), Valid)
}

func TestRevertedLog(t *testing.T) {
	f := func(name string, revert func(r *rig, p *fakeLog, before store.Head)) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			deps := r.prepare("red")
			p := r.f.parts[0]
			before, stamp := p.head, p.stamps["red"]
			r.announce(0, r.drop(0, "red")) // acknowledged, and lost at the failover
			p.entries, p.head = slices.Clone(p.entries[:len(p.entries)-1]), before
			p.stamps["red"] = stamp
			revert(r, p, before)
			epoch := before.Epoch
			r.told = nil
			for range 3 {
				r.probe()
			}
			if p.head.Epoch == epoch {
				t.Errorf("no new epoch began; told %q", r.told)
			}
			r.is("mirror", r.m.Head(0), p.head)
			cells := r.prepare("red") // reads the stamp that the server has now
			r.is("verdict", r.check(cells), Valid)
			r.is("verdict of what the lost drop concerned", r.check(deps), OldEpoch)
			if r.m.Trust().AsOf() == Never {
				t.Error("no trust in the new epoch")
			}
		})
	}
	f("end behind", func(*rig, *fakeLog, store.Head) {})
	f("other end at the same place", func(r *rig, p *fakeLog, _ store.Head) { r.drop(0, "green") })
	f("grown past it since", func(r *rig, p *fakeLog, _ store.Head) {
		r.drop(0, "green")
		r.drop(0, "yellow")
	})
	f("grown past it, announced", func(r *rig, p *fakeLog, _ store.Head) {
		r.drop(0, "green")
		r.announce(0, r.drop(0, "yellow"))
	})
	f("no log at all", func(r *rig, p *fakeLog, _ store.Head) {
		p.head, p.entries = store.Head{}, nil
		clear(p.stamps)
	})
}

// Another instance's epoch is taken over; nothing of the old one stays valid.
func TestOtherEpoch(t *testing.T) {
	r := newRig(t, 1)
	deps, trust := r.prepare("red"), r.m.Trust()
	p := r.f.parts[0]
	e, err := r.f.NewEpoch(context.Background(), 0, p.head, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.announce(0, e)
	r.probe()
	r.is("mirror", r.m.Head(0), e.Head)
	r.is("verdict", r.check(deps), OldEpoch)
	r.is("the old trust", trust.AsOf(), int64(dead))
	r.is("resets", r.resets, 1)
	r.tells("epoch: the log is of another epoch")
	r.probe()
	r.is("verdict of a new load", r.check(r.prepare("red")), Valid)
}

// Two start an epoch at once: the slower one takes over that of the other.
func TestErrHeadMoved(t *testing.T) {
	r := newRig(t, 1)
	p := r.f.parts[0]
	p.head, p.entries = store.Head{}, nil
	moved, theirs := false, store.EpochAt(p.last+10, 4711)
	r.f.after = func(op string) {
		if op == "head" && !moved {
			moved = true
			p.append(r.clock, store.LogEntry{Head: store.Head{Epoch: theirs}, NewEpoch: true})
		}
	}
	r.probe()
	if p.head.Epoch != theirs {
		t.Errorf("the mirror started an epoch of its own: %d", p.head.Epoch)
	}
	r.probe()
	r.probe()
	r.is("epoch", r.m.Head(0).Epoch, theirs)
	r.tells("epoch: the log is of another epoch")
}

// A drop between the server's answer and its arrival counts, whichever of the two comes first.
func TestRegistrationRacesAnAnnouncement(t *testing.T) {
	r := newRig(t, 1)
	r.f.after = func(op string) {
		if op == "register" {
			r.f.after = func(string) {}
			r.announce(0, r.drop(0, "red"))
		}
	}
	deps := r.prepare("red")
	stamp, known := deps[0].Cells[0].Stamp()
	if !known || stamp != r.f.parts[0].head.Pos {
		t.Errorf("the stamp is %d, %v; want that of the drop, %d", stamp, known, r.f.parts[0].head.Pos)
	}
	// The position was taken after all this: the load sees the drop.
	r.is("verdict", r.check(deps), Valid)

	// Likewise for an entry from the store whose history the mirror doesn't know.
	blue := r.prepare("blue")
	stored := []store.Dep{{Part: 0, Epoch: blue[0].Epoch, Read: blue[0].Read, Tags: []string{"blue"}}}
	r.lose(0)
	old, err := r.m.Resolve(context.Background(), stored, true)
	if err != nil {
		t.Fatal(err)
	}
	r.is("verdict", r.check(old), Valid) // blue was not dropped
	r.lose(0)
	r.f.after = func(op string) {
		if op == "register" {
			r.f.after = func(string) {}
			r.announce(0, r.drop(0, "blue"))
		}
	}
	if old, err = r.m.Resolve(context.Background(), stored, true); err != nil {
		t.Fatal(err)
	}
	r.is("verdict of what was read", r.check(old), Dropped)
}

// The answer of a server that is behind the mirror proves nothing.
func TestReplyBehindTheMirror(t *testing.T) {
	r := newRig(t, 1)
	p := r.f.parts[0]
	old := p.head
	r.announce(0, r.drop(0, "red"))
	now := p.head
	p.head = old
	_, err := r.m.Prepare(context.Background(), []string{"red"})
	if !errors.Is(err, ErrResync) {
		t.Errorf("got %v; want a refusal", err)
	}
	p.head = now
	other := p.head
	other.Epoch++
	p.head = other
	if _, err := r.m.Prepare(context.Background(), []string{"blue"}); !errors.Is(err, ErrResync) {
		t.Errorf("got %v; want a refusal of another epoch", err)
	}
}

// History is lost while an answer is under way: the drop that was lost came after the answer.
func TestReplyFromBeforeLostHistory(t *testing.T) {
	r := newRig(t, 1)
	p := r.f.parts[0]
	red := r.prepare("red")
	r.lose(0)
	asked := r.f.asked["register"]
	r.f.after = func(op string) {
		if op != "register" {
			return
		}
		r.f.after = func(string) {}
		r.drop(0, "red") // not announced
		r.announce(0, r.drop(0, "green"))
		p.entries = p.entries[len(p.entries)-1:]
		r.probe() // the gap is lost
		r.probe() // and there is trust again
	}
	deps, err := r.m.Resolve(context.Background(), []store.Dep{{Part: 0, Epoch: red[0].Epoch, Read: red[0].Read, Tags: []string{"red"}}}, true)
	if r.f.asked["register"] == asked {
		t.Error("the stamp was not read")
	}
	if v := r.check(deps); v == Valid {
		t.Errorf("red was dropped after the answer, and the entry is %v (resolved: %v)", v, err)
	}
}

func TestAdopt(t *testing.T) {
	f := func(name string, want bool, during func(r *rig)) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			deps := r.prepare("early")
			r.prepare("late") // in use already
			during(r)
			got, ok := r.adopt(deps, "late", "new")
			r.is("adopted", ok, want)
			if ok {
				r.is("verdict", r.check(got), Valid)
				r.is("cells", len(got[0].Cells), 3)
				r.is("cells of the original", len(deps[0].Cells), 1)
				r.announce(0, r.drop(0, "new"))
				r.is("verdict after a drop", r.check(got), Dropped)
			}
		})
	}
	f("nothing happened", true, func(r *rig) {})
	f("something else was dropped", true, func(r *rig) { r.announce(0, r.drop(0, "other")) }) // extends, for "new"
	f("it was dropped", false, func(r *rig) { r.announce(0, r.drop(0, "late")) })
	f("it was dropped, unheard", false, func(r *rig) { r.drop(0, "late") })
	f("something else was dropped, unheard", false, func(r *rig) { r.drop(0, "other") }) // can't be proven yet
	f("another of its tags was dropped", false, func(r *rig) { r.announce(0, r.drop(0, "early")) })
	f("its stamp was lost", true, func(r *rig) {
		r.announce(0, r.drop(0, "other"))
		delete(r.f.parts[0].stamps, "late")
	})
	f("more was dropped than is remembered", false, func(r *rig) {
		for range keepRecent + 1 {
			r.announce(0, r.drop(0, "other"))
		}
	})
	f("almost more was dropped than is remembered", true, func(r *rig) {
		for range keepRecent {
			r.announce(0, r.drop(0, "other"))
		}
	})
	f("the store fails", false, func(r *rig) { r.f.fail["register"] = errors.New("down") })
	f("another epoch began", false, func(r *rig) {
		if _, err := r.f.NewEpoch(context.Background(), 0, r.f.parts[0].head, 0); err != nil {
			t.Fatal(err)
		}
		r.probe()
		r.probe()
	})
}

// A link that goes down leaves what was proven, and no more is.
func TestTrustAtLinkDown(t *testing.T) {
	r := newRig(t, 1)
	trust := r.m.Trust()
	asOf, version := trust.AsOf(), r.m.Version()
	r.m.link(store.Link{Err: errors.New("gone")})
	r.is("the old trust", trust.AsOf(), asOf)
	r.is("the new trust", r.m.Trust().AsOf(), int64(Never))
	if r.m.Version() == version {
		t.Error("the version is the same: calm hits would not notice")
	}
	r.m.changed(nil) // says nothing new while the link is down
	r.is("the old trust", trust.AsOf(), asOf)
	r.m.link(store.Link{Up: true, Tracks: true})
	r.probe()
	r.is("the old trust after the link came back", trust.AsOf(), asOf)
	if r.m.Trust().AsOf() <= asOf {
		t.Error("the new link is not proven")
	}
}

func TestChangedNil(t *testing.T) {
	r := newRig(t, 1)
	trust, deps := r.m.Trust(), r.prepare("red")
	r.m.changed(nil)
	r.is("trust", trust.AsOf(), int64(dead))
	r.is("resets", r.resets, 1)
	r.is("verdict", r.check(deps), Valid) // the log was not concerned
	r.m.changed([]string{"a", "b"})
	if !slices.Equal(r.keys, []string{"a", "b"}) {
		t.Errorf("keys %v; want a and b", r.keys)
	}
	r.is("resets", r.resets, 1)
}

// A probe proves nothing for a trust that ended, or began, while it was under way.
func TestProbesOutOfOrder(t *testing.T) {
	for _, op := range []string{"head", "tail"} {
		for name, happens := range map[string]func(r *rig){
			"changed":   func(r *rig) { r.m.changed(nil) },
			"link lost": func(r *rig) { r.m.link(store.Link{}); r.m.link(store.Link{Up: true, Tracks: true}) },
			"epoch":     func(r *rig) { r.m.adopt(r.m.parts[0], r.m.Head(0), store.Head{Epoch: 7, Pos: 9999, Nonce: 1}) },
		} {
			r := newRig(t, 1)
			old := r.m.Trust()
			asOf := old.AsOf()
			r.drop(0, "x") // so that there is a tail to read
			r.f.after = func(o string) {
				if o == op {
					r.f.after = func(string) {}
					happens(r)
				}
			}
			r.probe()
			if got := old.AsOf(); got != dead && got != asOf {
				t.Errorf("%s during %s: the old trust moved", name, op)
			}
			if r.m.Trust() == old || r.m.Trust().AsOf() != Never {
				t.Errorf("%s during %s: a probe sent before vouches for what comes after", name, op)
			}
		}
	}
	// An old probe that is answered late changes nothing.
	tr := newTrust()
	tr.advance(10)
	tr.advance(5)
	if tr.AsOf() != 10 {
		t.Errorf("asOf went back to %d", tr.AsOf())
	}
	tr.asOf.Store(dead)
	tr.advance(20)
	if tr.AsOf() != dead {
		t.Errorf("a dead trust came back: %d", tr.AsOf())
	}
}

// A probe that fails, or can't catch up, proves nothing.
func TestFailedProbe(t *testing.T) {
	for _, op := range []string{"head", "tail"} {
		r := newRig(t, 1)
		asOf := r.m.Trust().AsOf()
		r.f.fail[op] = errors.New("down")
		r.drop(0, "x")
		r.probe()
		r.is(op+" failed: trust", r.m.Trust().AsOf(), asOf)
	}
}

// Cells live as long as an entry points to them, and the last ones made a little longer.
func TestCellsAreCollected(t *testing.T) {
	r := newRig(t, 1)
	kept := r.prepare("kept")
	p := r.m.parts[0]
	const extra = 10_000
	tags := make([]string, len(p.kept)+extra)
	for i := range tags {
		tags[i] = fmt.Sprint("t", i)
	}
	r.m.cells(0, tags)
	cells := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.cells)
	}
	for range 400 {
		if runtime.GC(); cells() <= len(p.kept)+1 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.is("cells", cells(), len(p.kept)+1)
	e := r.drop(0, "kept", "t0")
	r.announce(0, e)
	r.is("verdict", r.check(kept), Dropped)
	again := r.m.cells(0, []string{"t0"})[0] // comes back, with what was heard of it
	if stamp, _ := again.Stamp(); stamp != e.Pos {
		t.Errorf("the stamp is %d; want that of the drop while nobody had the cell, %d", stamp, e.Pos)
	}
	runtime.KeepAlive(kept)
}

func TestPartitions(t *testing.T) {
	r := newRig(t, 4)
	tags := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	deps := r.prepare(tags...)
	r.is("partitions", len(deps), 4)
	for _, tag := range tags {
		part := r.m.Partition(tag)
		r.is("partition of "+tag, part, store.PartitionOf(tag, 4))
		other := r.prepare(tags...)
		r.announce(part, r.drop(part, tag))
		r.is("verdict after "+tag, r.check(other), Dropped)
	}
	r.is("verdict", r.check(r.prepare(tags...)), Valid)

	// Another partition's drops don't concern them; its lost history makes the entry unknown, its new epoch invalid.
	one := r.prepare("a")
	away := (r.m.Partition("a") + 1) % 4
	r.announce(away, r.drop(away, "a"))
	r.is("verdict", r.check(one), Valid)
	p := r.f.parts[away]
	if _, err := r.f.NewEpoch(context.Background(), away, p.head, 0); err != nil {
		t.Fatal(err)
	}
	r.probe()
	r.probe()
	r.is("verdict", r.check(one), OldEpoch) // its load recorded that partition too

	// One partition that can't be read is enough not to vouch.
	asOf := r.m.Trust().AsOf()
	p.head.Pos -= 5
	r.f.fail["epoch"] = errors.New("down")
	r.probe()
	r.is("trust", r.m.Trust().AsOf(), asOf)
}

func TestNoteOwn(t *testing.T) {
	r := newRig(t, 1)
	deps := r.prepare("red", "blue")
	e := r.f.parts[0].append(r.clock, store.LogEntry{Drop: store.Drop{Tags: []string{"red"}, By: "me"}})
	r.m.NoteOwn(0, e)
	r.is("verdict", r.check(deps), Dropped)
	r.announce(0, e)
	r.tells("drop [] [red] own=true")

	// Others' entries come before it: it takes effect at once, and the chain is followed in order.
	deps = r.prepare("red", "blue")
	theirs := r.drop(0, "green")
	mine := r.f.parts[0].append(r.clock, store.LogEntry{Drop: store.Drop{Tags: []string{"blue"}, Keys: []string{"k"}, By: "me"}})
	r.m.NoteOwn(0, mine)
	r.is("verdict", r.check(deps), Dropped)
	r.is("head", r.m.Head(0).Pos, theirs.Prev)
	stored := []store.Dep{{Part: 0, Epoch: mine.Epoch, Read: theirs.Prev, Tags: []string{"new"}}}
	newer := r.f.parts[0].append(r.clock, store.LogEntry{Drop: store.Drop{Tags: []string{"new"}, By: "me"}})
	r.m.NoteOwn(0, newer)
	own, err := r.m.Resolve(context.Background(), stored, true)
	if v := r.check(own); err != nil || v == Valid {
		t.Errorf("what this instance dropped itself is %v, %v to it", v, err)
	}
	r.announce(0, theirs, mine, newer)
	r.is("head", r.m.Head(0), newer.Head)
	r.is("resets", r.resets, 0)
}

func TestDropLocal(t *testing.T) {
	r := newRig(t, 1)
	deps := r.prepare("red")
	began := r.clock.Exact()
	version := r.m.Version()
	r.m.DropLocal([]string{"red", "unused"})
	r.is("verdict of a load before", r.m.Check(deps, began), Dropped)
	if r.m.Version() == version {
		t.Error("the version is the same")
	}
	time.Sleep(time.Microsecond)
	r.is("verdict of a load after", r.check(deps), Valid)
}

func TestVerify(t *testing.T) {
	r := newRig(t, 1)
	deps := r.prepare("red")
	verify := func() Verdict {
		v, err := r.m.Verify(context.Background(), deps)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	r.is("verdict", verify(), Valid)
	r.drop(0, "blue")
	r.is("verdict", verify(), Valid)
	r.drop(0, "red") // unheard
	r.is("what the mirror thinks", r.check(deps), Valid)
	r.is("verdict", verify(), Dropped)
	if _, err := r.f.NewEpoch(context.Background(), 0, r.f.parts[0].head, 0); err != nil {
		t.Fatal(err)
	}
	r.is("verdict", verify(), OldEpoch)
}

// A failover lost a drop that the mirror knows of: stamps from before it prove nothing.
func TestVerifyByRevertedLog(t *testing.T) {
	r := newRig(t, 1)
	deps := r.prepare("red")
	before := r.f.parts[0].head
	r.announce(0, r.drop(0, "blue"))
	r.f.parts[0].head = before
	if v, err := r.m.Verify(context.Background(), deps); v != Unknown || !errors.Is(err, ErrResync) {
		t.Errorf("verdict is %v, %v; want Unknown and %v", v, err, ErrResync)
	}
}

// Where the server may be another, the log must have all that the mirror knows of before its stamps prove anything. The key of
// a dropped entry may be back, and keys have no stamps.
func TestVerifyAfterFailover(t *testing.T) {
	f := func(name string, want error, happens func(r *rig, relink, lose func())) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			deps := r.prepare("red")
			r.m.link(store.Link{Up: true, Tracks: true, Server: "one"})
			r.probe()
			p := r.f.parts[0]
			before, kept := p.head, len(p.entries)
			happens(r, func() {
				r.m.link(store.Link{})
				r.m.link(store.Link{Up: true, Tracks: true, Server: "two"})
			}, func() { p.entries, p.head = p.entries[:kept], before })
			v, err := r.m.Verify(t.Context(), deps)
			if want == nil {
				r.is("verdict", v, Valid)
			}
			if !errors.Is(err, want) {
				t.Errorf("verdict is %v, %v; want %v", v, err, want)
			}
		})
	}
	f("nothing is lost", nil, func(r *rig, relink, _ func()) {
		r.drop(0, "blue") // unheard
		relink()
	})
	f("an own drop that was ahead of the mirror is lost", ErrResync, func(r *rig, _, lose func()) {
		r.drop(0, "blue")
		r.m.NoteOwn(0, r.drop(0, "green"))
		lose()
	})
	for name, ahead := range map[string]bool{"an own drop": false, "an own drop that was ahead of the mirror": true} {
		f(name+" is lost, and the log goes on", ErrResync, func(r *rig, relink, lose func()) {
			if ahead {
				r.drop(0, "blue")
			}
			r.m.NoteOwn(0, r.drop(0, "green"))
			lose()
			r.drop(0, "yellow")
			relink()
		})
	}
	f("while the link is down", ErrResync, func(r *rig, _, lose func()) {
		r.m.NoteOwn(0, r.drop(0, "green"))
		lose()
		r.drop(0, "yellow")
		r.m.link(store.Link{})
	})
	f("a link is lost meanwhile", ErrResync, func(r *rig, relink, _ func()) {
		r.f.after = func(string) { relink() }
	})
}

// Run follows by itself, and ends with its context.
func TestRun(t *testing.T) {
	r := newRig(t, 2)
	fresh := New(r.f, r.clock, r.m.opts)
	fresh.opts.Probe, fresh.inTurn = time.Millisecond, true
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { fresh.Run(ctx); close(done) }()
	wait, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	fresh.WaitSynced(wait)
	if wait.Err() != nil {
		t.Error("the logs were not read")
	}
	for range 1000 {
		if fresh.Trust().AsOf() > Never {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if fresh.Trust().AsOf() <= Never {
		t.Error("no trust")
	}
	cancel()
	<-done
}

// An entry of the log that can't be read counts as lost: the mirror goes on behind it.
func TestUnreadableEntry(t *testing.T) {
	r := newRig(t, 1)
	deps := r.prepare("red")
	r.drop(0, "unheard")
	r.announce(0, r.drop(0, "heard"))
	r.f.fail["tail"] = store.ErrCorrupt
	before := r.m.Trust()
	r.probe()
	delete(r.f.fail, "tail")
	r.tells("gap healed=false lost=true")
	r.is("verdict", r.check(deps), Unknown)
	r.is("trust of before", before.AsOf() <= Never, true)
	r.probe()
	if r.m.Trust().AsOf() == Never {
		t.Error("the mirror did not recover")
	}
}
