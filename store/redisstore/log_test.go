package redisstore

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
)

func TestLog(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), roomy)
	d := watch(t, s)
	ctx := t.Context()
	none := store.Head{}

	_, err := s.Drop(ctx, 0, store.Drop{Keys: []string{"k"}}, none)
	if !errors.Is(err, store.ErrNoLog) {
		t.Fatalf("drop: %v; want no log", err)
	}
	first, err := s.NewEpoch(ctx, 0, none, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewEpoch(ctx, 0, none, 0); !errors.Is(err, store.ErrHeadMoved) {
		t.Errorf("a second new epoch: %v; want head moved", err)
	}
	h, stamps, err := s.Register(ctx, 0, []string{"a", "b", "a"})
	if err != nil || h != first.Head || !reflect.DeepEqual(stamps, []store.Pos{h.Pos, h.Pos, h.Pos}) {
		t.Errorf("register: %v %v %v; want stamps at %v", h, stamps, err, first.Head)
	}
	drop := store.Drop{Keys: []string{"k", "a key\nwith: all"}, Tags: []string{"a", "unused"}, By: "me"}
	e, err := s.Drop(ctx, 0, drop, h)
	if err != nil {
		t.Fatal(err)
	}
	if e.Prev != first.Pos || e.PrevNonce != first.Nonce || e.Epoch != first.Epoch || e.Pos <= first.Pos || !reflect.DeepEqual(e.Drop, drop) {
		t.Errorf("the entry is %+v; want a link to %+v", e, first)
	}
	_, stamps, err = s.Register(ctx, 0, []string{"a", "b", "unused"})
	if err != nil || !reflect.DeepEqual(stamps, []store.Pos{e.Pos, first.Pos, e.Pos}) {
		t.Errorf("stamps are %v, %v; want a raised, b not, and the new one at the end", stamps, err)
	}
	if h, err := s.Head(ctx, 0); err != nil || h != e.Head {
		t.Errorf("head is %v, %v; want %v", h, err, e.Head)
	}
	tail, err := s.Tail(ctx, 0, 0, 10)
	if err != nil || !reflect.DeepEqual(tail, []store.LogEntry{first, e}) {
		t.Errorf("tail is %+v, %v; want both entries", tail, err)
	}
	if tail, _ := s.Tail(ctx, 0, first.Pos, 1); len(tail) != 1 || tail[0].Pos != e.Pos {
		t.Errorf("tail after the first is %+v", tail)
	}
	if !d.has(func(d *diary) bool { return reflect.DeepEqual(d.logged, []store.LogEntry{first, e}) })() {
		t.Errorf("told %+v; want both entries", d.logged)
	}

	for _, known := range []store.Head{
		{Epoch: e.Epoch, Pos: e.Pos + 1, Nonce: 7},
		{Epoch: e.Epoch, Pos: e.Pos, Nonce: e.Nonce + 1},
	} {
		srv.CLI(t, "SET", "k", "v")
		if _, err := s.Drop(ctx, 0, drop, known); !errors.Is(err, store.ErrBehind) {
			t.Errorf("drop by one who knows %v: %v; want behind", known, err)
		}
		if srv.CLI(t, "EXISTS", "k") != "0" {
			t.Error("the refused drop left the key")
		}
	}
	if _, err := s.Drop(ctx, 0, drop, store.Head{Epoch: e.Epoch + 1, Pos: e.Pos + 1}); err != nil {
		t.Errorf("drop by one who knows another epoch: %v", err)
	}

	h, _ = s.Head(ctx, 0)
	e2, err := s.NewEpoch(ctx, 0, h, 0)
	if err != nil || e2.Epoch == h.Epoch || e2.Prev != h.Pos || e2.PrevNonce != h.Nonce || e2.Pos <= h.Pos {
		t.Errorf("the new epoch is %+v, %v; want a link to %+v", e2, err, h)
	}

	// The head is evicted, the stream is not.
	srv.CLI(t, "DEL", "{freshet:0}:head")
	if _, _, err := s.Register(ctx, 0, []string{"a"}); !errors.Is(err, store.ErrNoLog) {
		t.Errorf("register: %v; want no log", err)
	}
	if _, err := s.Tail(ctx, 0, 0, 1); !errors.Is(err, store.ErrNoLog) {
		t.Errorf("tail: %v; want no log", err)
	}
	srv.CLI(t, "XADD", "{freshet:0}:log", "9000000000000000-0", "m", "from the future")
	if _, err := s.NewEpoch(ctx, 0, h, 0); !errors.Is(err, store.ErrHeadMoved) {
		t.Errorf("new epoch by one who saw a log: %v; want moved", err)
	}
	if e3, err := s.NewEpoch(ctx, 0, none, 0); err != nil || e3.Pos != 9000000000000001 {
		t.Errorf("the new epoch is %+v, %v; want it behind the stream", e3, err)
	}
	if e4, err := s.Drop(ctx, 0, drop, none); err != nil || e4.Pos != 9000000000000002 {
		t.Errorf("the drop is %+v, %v; want the next position", e4, err)
	}
	// Somebody else's data at our names is lost history.
	srv.CLI(t, "SET", "{freshet:0}:head", "x")
	srv.CLI(t, "DEL", "{freshet:0}:log")
	srv.CLI(t, "SET", "{freshet:0}:log", "x")
	if _, err := s.Head(ctx, 0); !errors.Is(err, store.ErrNoLog) {
		t.Errorf("head: %v; want no log", err)
	}
	if _, err := s.Drop(ctx, 0, drop, none); !errors.Is(err, store.ErrNoLog) {
		t.Errorf("drop: %v; want no log", err)
	}
	if _, err := s.NewEpoch(ctx, 0, none, 0); err != nil {
		t.Error(err)
	}
	if _, err := s.Drop(ctx, 0, drop, none); err != nil {
		t.Error(err)
	}
	if _, err := s.Head(ctx, 1); err == nil {
		t.Error("partition 1 of 1 was accepted")
	}
}

func TestLargeDrop(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), Options{Budget: roomy.Budget, Prefix: "p:", LogLength: 100})
	ctx := t.Context()
	first, err := s.NewEpoch(ctx, 0, store.Head{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var d store.Drop
	for i := range 1201 {
		d.Keys = append(d.Keys, fmt.Sprint("k", i))
		if i < 600 {
			d.Tags = append(d.Tags, fmt.Sprint("t", i))
		}
	}
	srv.CLI(t, "MSET", "p:k0", "x", "p:k1200", "x", "p:freshet:lease:{p:k1200}", "x")
	if _, _, err := s.Register(ctx, 0, d.Tags); err != nil {
		t.Fatal(err)
	}
	last, err := s.Drop(ctx, 0, d, first.Head)
	if err != nil {
		t.Fatal(err)
	}
	tail, err := s.Tail(ctx, 0, first.Pos, 10)
	if err != nil || len(tail) != 1 {
		t.Fatalf("%d entries, %v; want one", len(tail), err)
	}
	var got store.Drop
	prev := first.Head
	for _, e := range tail {
		if e.Prev != prev.Pos || e.PrevNonce != prev.Nonce {
			t.Errorf("entry %v does not follow %v", e.Head, prev)
		}
		prev = e.Head
		got.Keys = append(got.Keys, e.Keys...)
		got.Tags = append(got.Tags, e.Tags...)
	}
	if last.Head != prev || !reflect.DeepEqual(got, d) {
		t.Error("the entries are not the drop")
	}
	_, stamps, err := s.Register(ctx, 0, d.Tags)
	if err != nil || len(stamps) != 600 || stamps[0] != tail[0].Pos || stamps[599] != tail[0].Pos {
		t.Errorf("stamps are not raised: %v", err)
	}
	if n := srv.CLI(t, "EXISTS", "p:k0", "p:k1200", "p:freshet:lease:{p:k1200}"); n != "0" {
		t.Errorf("%s keys are left", n)
	}
}

// The server forgets its scripts (SCRIPT FLUSH, a failover): nobody notices.
func TestForgottenScripts(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), roomy)
	ctx := t.Context()
	e, err := s.NewEpoch(ctx, 0, store.Head{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		srv.CLI(t, "SCRIPT", "FLUSH")
		reqs := make([]store.ClaimRequest, 20)
		for i := range reqs {
			reqs[i] = store.ClaimRequest{Key: fmt.Sprint("k", i), ID: newID(), TTL: time.Minute, Plain: i%2 == 0}
		}
		var fills []store.FillRequest
		for _, c := range s.Claim(ctx, reqs) {
			if c.Outcome != store.Leased {
				t.Fatalf("claim is %+v; want leased", c)
			}
			fills = append(fills, store.FillRequest{Lease: c.Lease, Image: []byte("v"), TTL: time.Minute})
		}
		srv.CLI(t, "SCRIPT", "FLUSH")
		for _, err := range s.Fill(ctx, fills) {
			if err != nil {
				t.Fatal(err)
			}
		}
		srv.CLI(t, "SCRIPT", "FLUSH")
		d := store.Drop{Tags: []string{"t"}}
		for i := range 700 {
			d.Keys = append(d.Keys, fmt.Sprint("k", i))
		}
		prev := e
		if e, err = s.Drop(ctx, 0, d, e.Head); err != nil {
			t.Fatal(err)
		}
		if tail, err := s.Tail(ctx, 0, prev.Pos, 9); err != nil || len(tail) != 1 {
			t.Fatalf("%d entries, %v; want one", len(tail), err)
		}
	}
}

func TestServerClock(t *testing.T) {
	var c serverClock
	if d := time.Since(c.now()).Abs(); d > time.Second {
		t.Errorf("without answers the clock is %v off the local one", d)
	}
	base := time.Now()
	hear := func(ahead, after, rtt time.Duration) {
		c.heard(base.Add(ahead+after+rtt/2), base.Add(after), base.Add(after+rtt))
	}
	off := func() time.Duration { return c.now().Sub(time.Now()).Round(10 * time.Millisecond) }
	if _, _, ok := c.at(); ok {
		t.Error("without answers it says how far off it is")
	}
	hear(time.Hour, 0, 100*time.Millisecond)
	if now, err, ok := c.at(); !ok || err < 49*time.Millisecond || err > 60*time.Millisecond || time.Until(now).Round(10*time.Millisecond) != time.Hour {
		t.Errorf("the clock is %v ahead, give or take %v; want an hour, and half of the round trip", time.Until(now), err)
	}
	if off() != time.Hour {
		t.Errorf("the clock is %v ahead; want an hour", off())
	}
	hear(time.Hour+40*time.Millisecond, 0, 10*time.Millisecond)  // more exact
	hear(time.Hour-20*time.Millisecond, 0, 200*time.Millisecond) // less exact, not contradicting
	if off() != time.Hour+40*time.Millisecond {
		t.Errorf("the clock is %v ahead; want that of the shortest round trip", off())
	}
	hear(time.Minute, 0, 300*time.Millisecond) // the server's clock was set back
	if off() != time.Minute {
		t.Errorf("the clock is %v ahead; want a minute, since it was set", off())
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ key, want string }{
		{"user:1", "freshet:lease:{user:1}"},
		{"a{b}c", "freshet:lease:a{b}c"},
		{"a{}c", "freshet:lease:a{}c"}, // no tag, and can't be wrapped
		{"a{b", "freshet:lease:{a{b}"},
		{"a}b", "freshet:lease:a}b"},
		{"", "freshet:lease:{}"},
	} {
		if got := sideLease("", c.key); got != c.want {
			t.Errorf("side lease of %q is %q; want %q", c.key, got, c.want)
		}
		if !strings.HasPrefix(sideLease("p:", "p:"+c.key), "p:freshet:lease:") {
			t.Errorf("side lease of %q leaves the prefix", c.key)
		}
	}
}

// Whoever has access to the server can put rubbish into the log. What comes before it is told.
func TestTailOfRubbish(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), roomy)
	ctx := t.Context()
	watch(t, s)
	first, err := s.NewEpoch(ctx, 0, store.Head{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	srv.CLI(t, "XADD", "{freshet:0}:log", fmt.Sprint(uint64(first.Pos)+1), "m", "rubbish")
	e, err := s.Drop(ctx, 0, store.Drop{Tags: []string{"a"}}, first.Head)
	if err != nil {
		t.Fatal(err)
	}
	if es, err := s.Tail(ctx, 0, 0, 10); len(es) != 1 || es[0].Pos != first.Pos || err != nil {
		t.Errorf("from the start: %+v, %v; want the first entry", es, err)
	}
	if es, err := s.Tail(ctx, 0, first.Pos, 10); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("from the rubbish: %+v, %v; want %v", es, err, store.ErrCorrupt)
	}
	if es, err := s.Tail(ctx, 0, first.Pos+1, 10); len(es) != 1 || es[0].Pos != e.Pos || err != nil {
		t.Errorf("behind the rubbish: %+v, %v; want the last entry", es, err)
	}
}
