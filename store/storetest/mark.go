package storetest

import (
	"errors"

	"github.com/freshetdev/freshet/store"
)

// marker is the store as a Marker. Every store of ours is one; one that isn't fails by name.
func (e *env) marker(s store.Store) store.Marker {
	e.Helper()
	m, ok := s.(store.Marker)
	if !ok {
		e.Fatalf("%T is no store.Marker", s)
	}
	return m
}

func (e *env) outsider(s store.Store) store.Outsider {
	e.Helper()
	o, ok := s.(store.Outsider)
	if !ok {
		e.Fatalf("%T is no store.Outsider", s)
	}
	return o
}

func (e *env) setMark(m store.Marker, seen, next store.Mark, want error, has ...store.Head) {
	e.Helper()
	if err := m.SetMark(bg, 0, "db", seen, next, has); !errors.Is(err, want) {
		e.Errorf("mark %d of %q after %d of %q: %v; want %v", next.Seq, next.Owner, seen.Seq, seen.Owner, err, want)
	}
}

func (e *env) markIs(m store.Marker, want store.Mark) {
	e.Helper()
	if got, err := m.Mark(bg, 0, "db"); err != nil || got != want {
		e.Errorf("mark %+v, %v; want %+v", got, err, want)
	}
}

var markRules = []rule{
	{"there is none at first", func(e *env) {
		e.markIs(e.marker(e.s), store.Mark{})
	}},
	{"every field is kept, of each source by itself", func(e *env) {
		m := e.marker(e.s)
		one := store.Mark{Owner: "a:1/1", Seq: 1, Pos: "7312/1/0/16B3748", Tick: 1 << 60, Cert: 9}
		e.setMark(m, store.Mark{}, one, nil)
		e.markIs(e.marker(e.connect()), one)
		if other, err := m.Mark(bg, 0, "db2"); err != nil || other != (store.Mark{}) {
			e.Errorf("another source has %+v, %v; want none", other, err)
		}
	}},
	{"it is replaced only by who saw it", func(e *env) {
		a, b := e.marker(e.s), e.marker(e.connect())
		one, two, three := store.Mark{Owner: "a", Seq: 1, Pos: "1"}, store.Mark{Owner: "b", Seq: 2, Pos: "2"}, store.Mark{Owner: "a", Seq: 3, Pos: "3"}
		e.setMark(a, store.Mark{}, one, nil)
		e.setMark(b, store.Mark{}, two, store.ErrMoved)
		e.setMark(b, store.Mark{Owner: "b", Seq: 1}, two, store.ErrMoved)
		e.setMark(b, store.Mark{Owner: "a", Seq: 2}, two, store.ErrMoved)
		e.setMark(b, one, two, nil)
		e.setMark(a, one, three, store.ErrMoved)
		e.markIs(a, two)
	}},
	{"setting it again is no harm", func(e *env) {
		m := e.marker(e.s)
		one := store.Mark{Owner: "a", Seq: 1, Pos: "1"}
		e.setMark(m, store.Mark{}, one, nil)
		e.setMark(m, store.Mark{}, one, nil) // the first answer was lost
		e.markIs(m, one)
	}},
	{"the log must have what was appended", func(e *env) {
		m := e.marker(e.s)
		first := e.epoch(store.Head{}).Head
		drops := []store.Head{first, e.drop(e.s, store.Drop{Tags: []string{"t:1"}}).Head, e.drop(e.s, store.Drop{Tags: []string{"t:2"}}).Head}
		one := store.Mark{Owner: "a", Seq: 1, Pos: "1"}
		e.setMark(m, store.Mark{}, one, store.ErrMoved, drops[0], store.Head{Epoch: first.Epoch, Pos: first.Pos + 1_000_000_000, Nonce: 1})
		e.setMark(m, store.Mark{}, one, store.ErrMoved, store.Head{Epoch: first.Epoch, Pos: drops[1].Pos, Nonce: drops[1].Nonce + 1})
		e.markIs(m, store.Mark{})
		e.setMark(m, store.Mark{}, one, nil, drops...)
		e.markIs(m, one)
	}},
	{"what was cut off counts as lost", func(e *env) {
		m := e.marker(e.s)
		e.epoch(store.Head{})
		old := e.drop(e.s, store.Drop{Tags: []string{"t:1"}}).Head
		e.drop(e.s, store.Drop{Tags: []string{"t:2"}})
		e.fx.Foreign.TrimLog(1)
		e.setMark(m, store.Mark{}, store.Mark{Owner: "a", Seq: 1}, store.ErrMoved, old)
	}},
	{"a flush takes it", func(e *env) {
		m := e.marker(e.s)
		one := store.Mark{Owner: "a", Seq: 1, Pos: "1"}
		e.setMark(m, store.Mark{}, one, nil)
		e.fx.Foreign.FlushAll()
		e.markIs(m, store.Mark{})
		e.setMark(m, one, store.Mark{Owner: "a", Seq: 2}, store.ErrMoved)
	}},
}

var outsideRules = []rule{
	{"Unlink deletes keys of others, and their readers are told", func(e *env) {
		o := e.outsider(e.s)
		for _, key := range []string{"a", "b", "c"} {
			e.fx.Foreign.Set(key, []byte("x"), 0)
		}
		if err := o.Unlink(bg, o.Prefix()+"a", o.Prefix()+"b", o.Prefix()+"missing"); err != nil {
			e.Fatal(err)
		}
		e.holds("a", "")
		e.holds("b", "")
		e.holds("c", "x")
	}},
	{"Sweep deletes what matches, and nothing else", func(e *env) {
		o := e.outsider(e.s)
		for _, key := range []string{"user:1:page", "user:2:page", "user:1", "users:1:page", "u*ser:1", "u?x", "user:é:page"} {
			e.fx.Foreign.Set(key, []byte("x"), 0)
		}
		sweep := func(pattern string, want int) {
			e.Helper()
			if n, err := o.Sweep(bg, o.Prefix()+pattern); err != nil || n != want {
				e.Errorf("sweep %q: %d, %v; want %d", pattern, n, err, want)
			}
		}
		sweep("user:*:page", 3)
		e.holds("user:1", "x")
		e.holds("users:1:page", "x")
		sweep(`u\*ser:*`, 1)
		sweep(`u\?x`, 1)
		sweep("user:*", 1)
		e.holds("users:1:page", "x")
		sweep("nothing:*", 0)
	}},
	{"Sweep goes through more keys than one step", func(e *env) {
		o := e.outsider(e.s)
		const n = 3000
		for i := range n {
			e.fx.Foreign.Set("page:"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676)), []byte("x"), 0)
		}
		if got, err := o.Sweep(bg, o.Prefix()+"page:*"); err != nil || got < n {
			e.Errorf("swept %d, %v; want %d", got, err, n)
		}
		e.holds("page:aaa", "")
	}},
	{"Publish needs no listener", func(e *env) {
		if err := e.outsider(e.s).Publish(bg, "storetest{freshet:", "x"); err != nil {
			e.Error(err)
		}
	}},
	{"after Close nothing works", func(e *env) {
		s := e.fx.New()
		m, o := e.marker(s), e.outsider(s)
		_ = s.Close()
		_, err := m.Mark(bg, 0, "db")
		_, swept := o.Sweep(bg, "x*")
		for what, err := range map[string]error{
			"mark": err, "set mark": m.SetMark(bg, 0, "db", store.Mark{}, store.Mark{Owner: "a", Seq: 1}, nil),
			"unlink": o.Unlink(bg, "x"), "sweep": swept, "publish": o.Publish(bg, "c", "x"),
		} {
			if !errors.Is(err, store.ErrClosed) {
				e.Errorf("%s: %v; want ErrClosed", what, err)
			}
		}
	}},
}
