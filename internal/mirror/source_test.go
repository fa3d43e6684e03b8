package mirror

import (
	"testing"

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
