package mirror

import (
	"testing"
	"time"

	"github.com/freshetdev/freshet/store"
)

// A log that doesn't have any more what a mirror missed was cut off for its length, if the server is the same;
// if it may be another, what is missing may be lost with all that knew of it.
func TestCutOrLost(t *testing.T) {
	f := func(name string, begins bool, links ...store.Link) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			deps := r.prepare("red")
			epoch := r.m.Head(0).Epoch
			r.m.link(store.Link{Up: true, Tracks: true, Server: "one"})
			r.probe() // all is known of server one
			r.drop(0, "red")
			for _, l := range links {
				r.m.link(l)
			}
			r.drop(0, "blue")
			r.f.parts[0].entries = r.f.parts[0].entries[len(r.f.parts[0].entries)-1:]
			for range 3 {
				r.probe()
			}
			r.is("a new epoch began", r.m.Head(0).Epoch != epoch, begins)
			want := Unknown
			if begins {
				want = OldEpoch
			}
			r.is("verdict", r.check(deps), want)
			if r.m.Trust().AsOf() == Never {
				t.Error("no trust afterwards")
			}
		})
	}
	up := func(server string) store.Link { return store.Link{Up: true, Tracks: true, Server: server} }
	down := store.Link{}
	f("the same link", false)
	f("the same server", false, down, up("one"))
	f("another server", true, down, up("two"))
	f("back again", true, down, up("two"), down, up("one"))
	f("a server that doesn't tell", true, down, up(""))
}

// What was told of ahead of the mirror must be in the log.
func TestToldOfAhead(t *testing.T) {
	f := func(name string, tell func(r *rig)) {
		for after, goOn := range map[string]func(r *rig, link func(server string)){
			"and the log ends there":  func(*rig, func(string)) {},
			"and the log goes on":     func(r *rig, _ func(string)) { r.drop(0, "green"); r.drop(0, "yellow") },
			"and the next is told of": func(r *rig, _ func(string)) { r.announce(0, r.drop(0, "green"), r.drop(0, "yellow")) },
			"and another epoch begins": func(r *rig, link func(string)) {
				link("two")
				if _, err := r.f.NewEpoch(r.t.(*testing.T).Context(), 0, r.f.parts[0].head, 1000); err != nil {
					r.t.Fatal(err)
				}
			},
		} {
			lostAhead(t, name+" "+after, tell, goOn)
		}
	}
	f("an own drop", func(r *rig) { r.m.NoteOwn(0, r.drop(0, "red")) })
	f("an announcement", func(r *rig) { r.announce(0, r.drop(0, "red")) })
	f("one while there is a gap", func(r *rig) {
		r.announce(0, r.drop(0, "red"))
		r.announce(0, r.drop(0, "red"))
	})
	f("the head that came with a stamp", func(r *rig) {
		r.drop(0, "red")
		r.prepare("another")
	})
}

func lostAhead(t *testing.T, name string, tell func(r *rig), goOn func(r *rig, link func(server string))) {
	t.Run(name, func(t *testing.T) {
		r := newRig(t, 1)
		deps := r.prepare("red")
		p := r.f.parts[0]
		before, kept := p.head, len(p.entries)
		r.drop(0, "unheard") // its announcement is lost
		tell(r)
		r.is("furthest", r.m.Furthest(0), p.head)
		p.entries, p.head = p.entries[:kept], before // a failover loses both
		p.stamps["red"] = before.Pos
		began := store.Pos(0)
		goOn(r, func(server string) {
			r.m.link(store.Link{})
			r.m.link(store.Link{Up: true, Tracks: true, Server: server})
			began = 1000
		})
		for range 3 {
			r.probe()
		}
		if got := r.m.Head(0); began > 0 && got.Began() <= began+10 {
			t.Errorf("the epoch began at %d, as that of others; want one after it", got.Began())
		}
		r.is("verdict of what the lost drop concerned", r.check(deps), OldEpoch)
		r.is("furthest afterwards", r.m.Furthest(0), r.m.Head(0))
	})
}

// An epoch that began before what was told of is one that the server went back to.
func TestOlderEpoch(t *testing.T) {
	r := newRig(t, 1)
	p := r.f.parts[0]
	before, kept := p.head, len(p.entries)
	e, err := r.f.NewEpoch(t.Context(), 0, p.head, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.announce(0, e)
	for range 3 {
		r.probe()
	}
	r.is("epoch", r.m.Head(0).Epoch, e.Epoch)
	r.announce(0, r.drop(0, "red"))
	last := p.head
	p.entries, p.head, p.last = p.entries[:kept], before, before.Pos // its clock is behind, too
	for range 3 {
		r.probe()
	}
	if got := r.m.Head(0); got.Epoch == before.Epoch || got.Began() <= last.Pos {
		t.Errorf("the mirror is at %+v; want an epoch that began after %d", got, last.Pos)
	}
}

// An own drop into an epoch that the mirror doesn't know yet: its cells say nothing any more, but that what is older was dropped.
func TestOwnDropIntoAnotherEpoch(t *testing.T) {
	r := newRig(t, 1)
	deps := r.prepare("red")
	r.is("verdict", r.check(deps), Valid)
	if _, err := r.f.NewEpoch(t.Context(), 0, r.f.parts[0].head, 0); err != nil { // nobody hears of it
		t.Fatal(err)
	}
	version, before := r.m.Version(), r.clock.Exact()
	r.m.NoteOwn(0, r.drop(0, "red", "late"))
	r.is("verdict of what was read before the drop", r.m.Check(deps, before), Dropped)
	late := Deps{{Part: 0, Epoch: deps[0].Epoch, Read: deps[0].Read, Cells: r.m.cells(0, []string{"late"})}}
	r.is("verdict of that, by a tag that is named only now", r.m.Check(late, before), Dropped)
	time.Sleep(time.Microsecond)
	r.is("verdict of what was read after it", r.check(deps), Unknown)
	if r.m.Version() == version {
		t.Error("the version is the same: calm hits would not notice")
	}
}
