package mirror

import (
	"testing"

	"github.com/freshetdev/freshet/internal/clock"
	"github.com/freshetdev/freshet/store"
)

// A reading counts once a tick that was announced after it is certified.
func TestFeed(t *testing.T) {
	var f feed
	f.forget()
	seq := uint64(0)
	hear := func(sent int64, tick, cert uint64, want int64) {
		t.Helper()
		seq++
		f.heard(store.Mark{Owner: "a", Seq: seq, Tick: tick, Cert: cert}, sent)
		if f.asOf != want {
			t.Errorf("tick %d, cert %d at %d: known up to %d; want %d", tick, cert, sent, f.asOf, want)
		}
	}
	hear(10, 5, 5, Never) // tick 6 is not announced yet
	hear(20, 6, 5, Never)
	hear(30, 6, 6, 10) // when 10 was noted, tick 6 wasn't announced
	hear(40, 9, 8, 30) // ticks may be jumped over
	hear(50, 9, 9, 30)
	hear(60, 10, 10, 50)
	for i := range int64(3 * readings) { // a certificate that stands still
		hear(100+i, 11, 10, 50)
	}
	hear(1000, 12, 12, 100+3*readings-1)
	hear(1010, 4, 4, Never) // it went back
	hear(1020, 5, 5, 1010)
	seq = 3
	hear(1030, 9, 9, Never)
	f.heard(store.Mark{}, 1040)
	if f.asOf != Never {
		t.Error("a mark that is gone leaves a certificate")
	}
}

// A position is reached once the marks of all partitions are there, as far as they were read over the present link.
func TestReached(t *testing.T) {
	f := &fake{parts: make([]*fakeLog, 2)}
	m := New(f, clock.New(true), Options{Sources: []string{"other", "db"}})
	covers := func(pos string) bool { return pos >= "5" }
	is := func(what string, want bool) {
		t.Helper()
		if link, ok := m.Reached(1, covers); ok != want || ok && link != m.Trust() {
			t.Errorf("%s: %v, over %p; want %v", what, ok, link, want)
		}
	}
	marks := func(a, b string) {
		m.parts[0].feeds[1].last.Pos, m.parts[1].feeds[1].last.Pos = a, b
		m.reach.Store(m.reached(m.Trust()))
	}
	is("nothing was read", false)
	marks("5", "6")
	is("both are there", true)
	marks("5", "4")
	is("the second is behind", false)
	marks("4", "5")
	is("the first is behind", false)
	covers = func(string) bool { return true }
	marks("5", "")
	is("one isn't known", false)
	marks("5", "5")
	m.link(store.Link{Up: false})
	is("the link is down", false)
	m.link(store.Link{Up: true})
	is("another link, over which nothing was read", false)
	if _, ok := m.Reached(0, covers); ok {
		t.Error("the other source has no marks")
	}
}
