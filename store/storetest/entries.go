package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/freshetdev/freshet/store"
)

var readRules = []rule{
	{"no keys, no values", func(e *env) {
		if vals, err := e.s.Read(bg, nil, false); err != nil || len(vals) != 0 {
			e.Errorf("read of nothing: %v, %v", vals, err)
		}
	}},
	{"values come in the order of the keys, absent ones as nil", func(e *env) {
		var keys []string
		for i := range 300 {
			keys = append(keys, fmt.Sprintf("key:%d", i))
			if i%3 != 0 {
				e.fx.Foreign.Set(keys[i], []byte(keys[i]), 0)
			}
		}
		keys = append(keys, keys[1], keys[0]) // repeated ones, too
		vals, err := e.s.Read(bg, keys, false)
		if err != nil || len(vals) != len(keys) {
			e.Fatalf("read: %d values, %v; want %d", len(vals), err, len(keys))
		}
		for i, key := range keys {
			want := key
			if key == "key:0" || i < 300 && i%3 == 0 {
				want = ""
			}
			if string(vals[i].Image) != want || (vals[i].Image == nil) != (want == "") {
				e.Errorf("%q reads as %q; want %q", key, vals[i].Image, want)
			}
		}
	}},
	{"keys and images are any bytes", func(e *env) {
		image := append(record("\x00\r\n\xff"), bytes.Repeat([]byte{0, 13, 10, 255}, 5000)...)
		for _, key := range []string{"with space", "line\r\nbreak", "zero\x00", "\xff\xfe", "{tag}:x", "ключ"} {
			e.write(e.s, key, image)
			if got := readOne(e, e.s, key, false).Image; !bytes.Equal(got, image) {
				e.Errorf("%q reads as %d other bytes", key, len(got))
			}
			e.fill(e.claim(store.ClaimRequest{Key: key, Seen: store.IdentityOf(image)}, store.Leased).Lease, []byte("v"))
			e.holds(key, "v")
		}
	}},
	{"a foreign value reads as it is", func(e *env) {
		e.fx.Foreign.Set("k", []byte(`{"json":1}`), 0)
		e.holds("k", `{"json":1}`)
		e.holdsPlain("k", `{"json":1}`)
	}},
	{"a leased key reads as its lease record", func(e *env) {
		l := e.lease("k")
		e.holds("k", string(store.LeaseImage(l.ID)))
		if got, _ := e.fx.Foreign.Get("k"); !bytes.Equal(got, store.LeaseImage(l.ID)) {
			e.Errorf("others read %q; want the lease record", got)
		}
	}},
	{"what is written has a TTL", func(e *env) {
		if err := e.s.Write(bg, "k", record("v"), short); err != nil {
			e.Fatal(err)
		}
		e.eventually("the value expires", func() bool { return readOne(e, e.s, "k", false).Image == nil })
	}},
	{"a write replaces whatever is there", func(e *env) {
		a, b := record("a"), record("b")
		e.write(e.s, "k", a)
		e.write(e.s, "k", b)
		e.holds("k", string(b))
		l := e.lease("leased")
		e.write(e.s, "leased", a)
		e.holds("leased", string(a))
		e.lost(l)
		e.holds("leased", string(a))
	}},
	{"a plain value tells the time it has left", func(e *env) {
		e.fx.Foreign.Set("forever", []byte("v"), 0)
		e.fx.Foreign.Set("hour", []byte("v"), long)
		if v := readOne(e, e.s, "forever", true); string(v.Image) != "v" || v.TTL != 0 {
			e.Errorf("a value without expiry reads as %q, %v; want zero left", v.Image, v.TTL)
		}
		if v := readOne(e, e.s, "hour", true); string(v.Image) != "v" || v.TTL <= long-patience || v.TTL > long {
			e.Errorf("a value of an hour reads as %q, %v left", v.Image, v.TTL)
		}
		vals, err := e.s.Read(bg, []string{"hour", "none", "forever"}, true)
		if err != nil || len(vals) != 3 || vals[0].TTL <= 0 || vals[1].Image != nil || vals[1].TTL != 0 || vals[2].TTL != 0 {
			e.Errorf("a batch reads as %v, %v", vals, err)
		}
	}},
	{"the store's clock runs and is about right", func(e *env) {
		readOne(e, e.s, "k", false) // an answer to estimate from
		a := e.s.Now()
		if d := time.Since(a); d < -time.Minute || d > time.Minute {
			e.Errorf("the clock is %v off", d)
		}
		e.eventually("the clock runs", func() bool { return e.s.Now().After(a) })
	}},
	{"a store that is Clocked dates positions within what it says", func(e *env) {
		c, is := e.s.(store.Clocked)
		if !is {
			return
		}
		e.epoch(store.Head{})
		for range 20 {
			e.head(e.s)
			before, off1, ok1 := c.Clock(0)
			d := e.drop(e.s, store.Drop{Tags: []string{"t"}})
			after, off2, ok2 := c.Clock(0)
			at := time.UnixMicro(int64(d.Pos))
			if !ok1 || !ok2 || at.Before(before.Add(-off1-time.Microsecond)) || at.After(after.Add(off2+time.Microsecond)) {
				e.Errorf("a drop is dated %v before it was asked for, and %v after it was done, by clocks that are %v and %v off (%v, %v)", before.Sub(at), at.Sub(after), off1, off2, ok1, ok2)
			}
		}
	}},
}

var leaseRules = []rule{
	{"an absent key is leased, and filled once", func(e *env) {
		l, v := e.lease("k"), record("v")
		if l.Seen != "" {
			e.Errorf("the lease saw %q; want nothing", l.Seen)
		}
		e.fill(l, v)
		e.holds("k", string(v))
		e.lost(l)
		e.holds("k", string(v))
	}},
	{"two claims: one leased, one busy", func(e *env) {
		l := e.claim(store.ClaimRequest{Key: "k", TTL: time.Minute}, store.Leased).Lease
		other := e.connect()
		c := claimOne(e, other, store.ClaimRequest{Key: "k"})
		if c.Outcome != store.Busy || c.Wait > time.Minute || c.Wait < time.Minute-patience {
			e.Errorf("the second claim is %s for %v; want busy for what is left of a minute", outcome(c.Outcome), c.Wait)
		}
		e.fill(l, record("v"))
		if c := claimOne(e, other, store.ClaimRequest{Key: "k"}); c.Outcome != store.Held {
			e.Errorf("a claim after the fill is %s; want held", outcome(c.Outcome))
		}
	}},
	{"a claim that is repeated with its id is leased again", func(e *env) {
		id := newID()
		e.claim(store.ClaimRequest{Key: "k", ID: id}, store.Leased)
		l := e.claim(store.ClaimRequest{Key: "k", ID: id}, store.Leased).Lease
		e.fill(l, record("v"))
	}},
	{"a value that was not seen is held", func(e *env) {
		v := record("v")
		e.write(e.s, "k", v)
		for _, seen := range []store.Identity{"", store.IdentityOf(record("old")), store.IdentityOf([]byte("foreign"))} {
			if c := e.claim(store.ClaimRequest{Key: "k", Seen: seen}, store.Held); !bytes.Equal(c.Image, v) {
				e.Errorf("held %q; want %q", c.Image, v)
			}
		}
		e.fx.Foreign.Set("foreign", []byte("f"), 0)
		if c := e.claim(store.ClaimRequest{Key: "foreign"}, store.Held); string(c.Image) != "f" {
			e.Errorf("held %q; want f", c.Image)
		}
		e.holds("k", string(v))
	}},
	{"a value that was seen is replaced by the lease", func(e *env) {
		for _, v := range [][]byte{record("v"), []byte("foreign"), []byte("\xF5FR\x02 another version and long enough")} {
			e.fx.Foreign.Set("k", v, 0)
			l := e.claim(store.ClaimRequest{Key: "k", Seen: store.IdentityOf(v)}, store.Leased).Lease
			e.holds("k", string(store.LeaseImage(l.ID)))
			w := record("w")
			e.fill(l, w)
			e.holds("k", string(w))
		}
	}},
	{"a key that went away meanwhile is leased all the same", func(e *env) {
		e.fill(e.claim(store.ClaimRequest{Key: "k", Seen: store.IdentityOf(record("gone"))}, store.Leased).Lease, record("v"))
	}},
	{"a lease that ran out goes to the next, and its fill is refused", func(e *env) {
		old := e.claim(store.ClaimRequest{Key: "k", TTL: short}, store.Leased).Lease
		var l store.Lease
		e.eventually("the lease runs out", func() bool {
			c := claimOne(e, e.s, store.ClaimRequest{Key: "k"})
			l = c.Lease
			return c.Outcome == store.Leased
		})
		e.lost(old)
		v := record("v")
		e.fill(l, v)
		e.lost(old)
		e.holds("k", string(v))
	}},
	{"an expired lease can't be filled, even if nobody took over", func(e *env) {
		l := e.claim(store.ClaimRequest{Key: "k", TTL: short}, store.Leased).Lease
		e.eventually("the lease runs out", func() bool { return readOne(e, e.s, "k", false).Image == nil })
		e.lost(l)
		e.holds("k", "")
	}},
	{"a fill ends the TTL of the lease and sets its own", func(e *env) {
		l := e.claim(store.ClaimRequest{Key: "k", TTL: short}, store.Leased).Lease
		v := record("v")
		e.fill(l, v)
		m := e.lease("short")
		if err := fillOne(e, e.s, m, v, short); err != nil {
			e.Fatal(err)
		}
		e.eventually("the short value expires", func() bool { return readOne(e, e.s, "short", false).Image == nil })
		e.pass(short)
		e.holds("k", string(v))
	}},
	{"a TTL below a millisecond is rounded up, not refused", func(e *env) {
		if err := fillOne(e, e.s, e.lease("k"), record("v"), time.Nanosecond); err != nil {
			e.Errorf("fill for a nanosecond: %v", err)
		}
		e.eventually("the value expires", func() bool { return readOne(e, e.s, "k", false).Image == nil })
	}},
	{"a release gives the key to the next", func(e *env) {
		l := e.lease("k")
		e.release(l)
		e.holds("k", "")
		e.lost(l)
		e.lease("k")
	}},
	{"a release of a lost lease is no error and touches nothing", func(e *env) {
		l, v := e.lease("k"), record("v")
		e.fill(l, v)
		e.release(l)
		e.holds("k", string(v))

		old := e.lease("other")
		e.fx.Foreign.Del("other")
		e.release(old)
		m := e.lease("other")
		e.release(old)
		e.fill(m, v)
	}},
	{"a claim registers tags on the way, whatever comes of either", func(e *env) {
		v := record("v")
		e.write(e.s, "held", v)
		e.lease("busy")
		reqs := []store.ClaimRequest{
			{Key: "free", ID: newID(), TTL: long},
			{Key: "held", ID: newID(), TTL: long},
			{Key: "busy", ID: newID(), TTL: long},
			{Key: "gone", ID: newID(), TTL: long, Refresh: true, Seen: store.IdentityOf(v)},
			{Key: "held", ID: newID(), TTL: long, Refresh: true, Seen: store.IdentityOf(v)},
			{Key: "plain", ID: newID(), TTL: long, Plain: true},
			{Key: "wrong", ID: newID()},
		}
		want := []store.Outcome{store.Leased, store.Held, store.Busy, store.Gone, store.Leased, store.Leased, store.Failed}
		many := make([]string, 1200)
		for i := range many {
			many[i] = fmt.Sprint("many", i)
		}
		check := func(claims []store.Claim, want []store.Outcome, regs []*store.Registration) {
			e.Helper()
			if len(claims) != len(want) {
				e.Fatalf("%d claims; want %d", len(claims), len(want))
			}
			for i, w := range want {
				if claims[i].Outcome != w {
					e.Errorf("claim %d is %s (%v); want %s", i, outcome(claims[i].Outcome), claims[i].Err, outcome(w))
				}
			}
			for _, r := range regs {
				head, stamps, err := e.s.Register(bg, r.Part, r.Tags)
				if r.Err != nil || err != nil || r.Head != head || !slices.Equal(r.Stamps, stamps) {
					e.Errorf("registered with a claim: %+v; by itself: %+v, %v, %v", r, head, stamps, err)
				}
			}
		}
		nowhere := &store.Registration{Tags: []string{"t"}}
		check(e.s.Claim(bg, []store.ClaimRequest{{Key: "early", ID: newID(), TTL: long}}, nowhere), []store.Outcome{store.Leased}, nil)
		if !errors.Is(nowhere.Err, store.ErrNoLog) {
			e.Errorf("registered without a log: %v; want ErrNoLog", nowhere.Err)
		}
		e.epoch(store.Head{})
		e.stamp("old")
		e.drop(e.s, store.Drop{Tags: []string{"old"}})
		for i, r := range reqs { // one by one, as single loads do
			regs := []*store.Registration{{Tags: []string{"old", fmt.Sprint("new", i), "old"}}}
			check(e.s.Claim(bg, []store.ClaimRequest{r}, regs...), want[i:i+1], regs)
		}
		reqs[0].Key, reqs[4].Key, reqs[5].Key = "free2", "held2", "plain2"
		e.write(e.s, "held2", v)
		regs := []*store.Registration{{Tags: many}, {Tags: []string{"old"}}, {}}
		check(e.s.Claim(bg, reqs, regs...), want, regs)
		check(e.s.Claim(bg, nil, regs...), nil, regs)
		bad := &store.Registration{Part: e.s.Partitions(), Tags: []string{"t"}}
		good := &store.Registration{Tags: many}
		check(e.s.Claim(bg, []store.ClaimRequest{{Key: "free3", ID: newID(), TTL: long}}, bad, good), want[:1], []*store.Registration{good})
		if bad.Err == nil {
			e.Error("a partition that isn't there has stamps")
		}
	}},
	{"a batch of claims is answered in order", func(e *env) {
		v := record("v")
		e.write(e.s, "held", v)
		e.lease("busy")
		claims := e.s.Claim(bg, []store.ClaimRequest{
			{Key: "free", ID: newID(), TTL: long},
			{Key: "held", ID: newID(), TTL: long},
			{Key: "busy", ID: newID(), TTL: long},
			{Key: "gone", ID: newID(), TTL: long, Refresh: true, Seen: store.IdentityOf(v)},
			{Key: "free", ID: newID(), TTL: long}, // the first one has it
			{Key: "plain", ID: newID(), TTL: long, Plain: true},
			{Key: "held", ID: newID(), TTL: long, Refresh: true, Seen: store.IdentityOf(v)},
		})
		want := []store.Outcome{store.Leased, store.Held, store.Busy, store.Gone, store.Busy, store.Leased, store.Leased}
		if len(claims) != len(want) {
			e.Fatalf("%d claims; want %d", len(claims), len(want))
		}
		for i, w := range want {
			if claims[i].Outcome != w {
				e.Errorf("claim %d is %s (%v); want %s", i, outcome(claims[i].Outcome), claims[i].Err, outcome(w))
			}
		}
		if !bytes.Equal(claims[1].Image, v) {
			e.Errorf("the held one has the image %q", claims[1].Image)
		}
		if len(e.s.Claim(bg, nil)) != 0 || len(e.s.Fill(bg, nil)) != 0 {
			e.Error("empty batches have answers")
		}
	}},
	{"a batch of fills is answered in order", func(e *env) {
		var reqs []store.FillRequest
		for i := range 200 {
			key := fmt.Sprintf("k%d", i)
			r := store.FillRequest{Image: record(key), TTL: long}
			switch i % 4 {
			case 0, 1:
				r.Lease = e.lease(key)
			case 2:
				r.Lease = e.claim(store.ClaimRequest{Key: key, Plain: true}, store.Leased).Lease
			case 3:
				old := record("old")
				e.write(e.s, key, old)
				r.Lease = e.claim(store.ClaimRequest{Key: key, Seen: store.IdentityOf(old), Refresh: true}, store.Leased).Lease
			}
			reqs = append(reqs, r)
		}
		for i := 1; i < len(reqs); i += 4 {
			e.fx.Foreign.Del(reqs[i].Lease.Key)
		}
		errs := e.s.Fill(bg, reqs)
		if len(errs) != len(reqs) {
			e.Fatalf("%d errors; want %d", len(errs), len(reqs))
		}
		for i, err := range errs {
			if wantLost := i%4 == 1; errors.Is(err, store.ErrLeaseLost) != wantLost || !wantLost && err != nil {
				e.Errorf("fill %d: %v; want lost: %v", i, err, wantLost)
			}
			want := string(reqs[i].Image)
			if i%4 == 1 {
				want = ""
			}
			e.holds(reqs[i].Lease.Key, want)
		}
	}},
	{"of 64 claims at once, exactly one is leased", func(e *env) { e.oneOf64(store.ClaimRequest{Key: "k"}) }},
	{"the caller may reuse what it gave", func(e *env) {
		v := record("v")
		want := string(v)
		e.write(e.s, "w", v)
		e.fill(e.lease("f"), v)
		for i := range v {
			v[i] = 'x'
		}
		e.holds("w", want)
		e.holds("f", want)
	}},
}

// oneOf64 has many claim a key at once, through two connections.
func (e *env) oneOf64(req store.ClaimRequest) {
	e.Helper()
	req.TTL = long
	conns := []store.Store{e.s, e.connect()}
	for round := range 10 {
		claims := make([]store.Claim, 64)
		crowd(len(claims), func(i int) {
			r := req
			r.ID = newID()
			claims[i] = conns[i%2].Claim(bg, []store.ClaimRequest{r})[0]
		})
		var winner *store.Lease
		for _, c := range claims {
			switch c.Outcome {
			case store.Leased:
				if winner != nil {
					e.Fatalf("round %d: two were leased", round)
				}
				winner = &c.Lease
			case store.Busy:
			default:
				e.Fatalf("round %d: a claim is %s, %v; want leased or busy", round, outcome(c.Outcome), c.Err)
			}
		}
		if winner == nil {
			e.Fatalf("round %d: nobody was leased", round)
		}
		e.release(*winner)
	}
}

var refreshRules = []rule{
	{"a refresh leaves the old value readable until the fill", func(e *env) {
		old, v := record("old"), record("new")
		e.write(e.s, "k", old)
		l := e.claim(store.ClaimRequest{Key: "k", Seen: store.IdentityOf(old), Refresh: true}, store.Leased).Lease
		if l.Seen != store.IdentityOf(old) {
			e.Errorf("the lease saw %q; want %q", l.Seen, store.IdentityOf(old))
		}
		e.holds("k", string(old))
		e.fill(l, v)
		e.holds("k", string(v))
		e.lost(l)
		e.holds("k", string(v))
	}},
	{"a foreign value can be refreshed, too", func(e *env) {
		e.fx.Foreign.Set("k", []byte("foreign"), 0)
		l := e.claim(store.ClaimRequest{Key: "k", Seen: store.IdentityOf([]byte("foreign")), Refresh: true}, store.Leased).Lease
		e.fill(l, []byte("new"))
		e.holds("k", "new")
	}},
	{"a refresh of an absent key finds it gone", func(e *env) {
		e.claim(store.ClaimRequest{Key: "k", Seen: store.IdentityOf(record("v")), Refresh: true}, store.Gone)
		e.holds("k", "")
		e.lease("k")
	}},
	{"a refresh of what changed finds it held", func(e *env) {
		v := record("v")
		e.write(e.s, "k", v)
		if c := e.claim(store.ClaimRequest{Key: "k", Seen: store.IdentityOf(record("old")), Refresh: true}, store.Held); !bytes.Equal(c.Image, v) {
			e.Errorf("held %q; want %q", c.Image, v)
		}
	}},
	{"a refresh of a leased key is busy", func(e *env) {
		e.lease("k")
		e.claim(store.ClaimRequest{Key: "k", Seen: store.IdentityOf(record("v")), Refresh: true}, store.Busy)
	}},
	{"two refreshes: one leased, one busy", func(e *env) {
		req := e.refreshable("k")
		l := e.claim(req, store.Leased).Lease
		if c := claimOne(e, e.connect(), req); c.Outcome != store.Busy {
			e.Errorf("the second refresh is %s; want busy", outcome(c.Outcome))
		}
		req.ID = l.ID // a repeated claim
		e.claim(req, store.Leased)
		e.fill(l, record("new"))
		req.ID = store.ID{}
		e.claim(req, store.Held)
	}},
	{"after a fill the next refresh is leased", func(e *env) {
		v := record("v")
		e.fill(e.claim(e.refreshable("k"), store.Leased).Lease, v)
		e.claim(store.ClaimRequest{Key: "k", Seen: store.IdentityOf(v), Refresh: true}, store.Leased)
	}},
	{"a refresh that ran out goes to the next, and its fill is refused", func(e *env) {
		req := e.refreshable("k")
		req.TTL = short
		old := e.claim(req, store.Leased).Lease
		req.TTL = long
		var l store.Lease
		e.eventually("the refresh runs out", func() bool {
			c := claimOne(e, e.s, req)
			l = c.Lease
			return c.Outcome == store.Leased
		})
		e.lost(old)
		e.fill(l, record("new"))
	}},
	{"a released refresh leaves the value and frees its lease", func(e *env) {
		req := e.refreshable("k")
		l := e.claim(req, store.Leased).Lease
		before := readOne(e, e.s, "k", false).Image
		e.release(l)
		e.holds("k", string(before))
		e.lost(l)
		m := e.claim(req, store.Leased).Lease
		e.release(l) // lost: touches nothing
		e.fill(m, record("new"))
	}},
	{"who must have a new value takes the key from a refresh", func(e *env) {
		req := e.refreshable("k")
		l := e.claim(req, store.Leased).Lease
		m := e.claim(store.ClaimRequest{Key: "k", Seen: req.Seen}, store.Leased).Lease
		e.lost(l)
		v := record("new")
		e.fill(m, v)
		e.lost(l)
		e.holds("k", string(v))
	}},
	{"an old refresh can't fill over the value of a later load", func(e *env) {
		req := e.refreshable("k")
		l := e.claim(req, store.Leased).Lease
		e.fx.Foreign.Del("k")
		v := record("new")
		e.fill(e.lease("k"), v)
		e.lost(l)
		e.holds("k", string(v))
	}},
	{"of 64 refreshes at once, exactly one is leased", func(e *env) { e.oneOf64(e.refreshable("k")) }},
}

// refreshable writes a value and returns the claim that refreshes it.
func (e *env) refreshable(key string) store.ClaimRequest {
	e.Helper()
	v := record("old")
	e.write(e.s, key, v)
	return store.ClaimRequest{Key: key, Seen: store.IdentityOf(v), Refresh: true}
}

var plainRules = []rule{
	{"a plain lease is an empty string to others and nothing to us", func(e *env) {
		l := e.claim(store.ClaimRequest{Key: "k", Plain: true}, store.Leased).Lease
		if val, ok := e.fx.Foreign.Get("k"); !ok || len(val) != 0 {
			e.Errorf("others read %q, %v; want an empty string", val, ok)
		}
		if v := readOne(e, e.s, "k", true); v.Image != nil || v.TTL != 0 {
			e.Errorf("we read %q, %v; want nothing", v.Image, v.TTL)
		}
		e.fill(l, []byte("v"))
		if val, _ := e.fx.Foreign.Get("k"); string(val) != "v" {
			e.Errorf("others read %q; want the bare value", val)
		}
		if v := readOne(e, e.s, "k", true); string(v.Image) != "v" || v.TTL <= 0 || v.TTL > long {
			e.Errorf("we read %q, %v; want v for an hour", v.Image, v.TTL)
		}
		e.lost(l)
		e.holdsPlain("k", "v")
	}},
	{"two plain claims: one leased, one busy", func(e *env) {
		l := e.claim(store.ClaimRequest{Key: "k", Plain: true, TTL: time.Minute}, store.Leased).Lease
		c := claimOne(e, e.connect(), store.ClaimRequest{Key: "k", Plain: true})
		if c.Outcome != store.Busy || c.Wait > time.Minute {
			e.Errorf("the second claim is %s for %v; want busy for at most a minute", outcome(c.Outcome), c.Wait)
		}
		e.claim(store.ClaimRequest{Key: "k", Plain: true, ID: l.ID}, store.Leased) // a repeated claim
		e.fill(l, []byte("v"))
	}},
	{"a plain value that was not seen is held, one that was is replaced", func(e *env) {
		e.fx.Foreign.Set("k", []byte("foreign"), 0)
		if c := e.claim(store.ClaimRequest{Key: "k", Plain: true}, store.Held); string(c.Image) != "foreign" {
			e.Errorf("held %q; want foreign", c.Image)
		}
		l := e.claim(store.ClaimRequest{Key: "k", Plain: true, Seen: store.IdentityOf([]byte("foreign"))}, store.Leased).Lease
		e.holdsPlain("k", "")
		e.fill(l, []byte("new"))
		e.holdsPlain("k", "new")
	}},
	{"a side lease left behind lets no old fill through", func(e *env) {
		a := e.claim(store.ClaimRequest{Key: "k", Plain: true}, store.Leased).Lease
		e.fx.Foreign.Del("k")
		b := e.claim(store.ClaimRequest{Key: "k", Plain: true}, store.Leased).Lease
		e.lost(a)
		e.release(a)
		e.fill(b, []byte("b"))
		e.lost(a)
		e.holdsPlain("k", "b")
	}},
	{"an empty value of another client is nothing, and can be leased", func(e *env) {
		e.fx.Foreign.Set("k", nil, 0)
		e.holdsPlain("k", "")
		e.fill(e.claim(store.ClaimRequest{Key: "k", Plain: true}, store.Leased).Lease, []byte("v"))
		e.holdsPlain("k", "v")
	}},
	{"a plain lease that ran out goes to the next, and its fill is refused", func(e *env) {
		old := e.claim(store.ClaimRequest{Key: "k", Plain: true, TTL: short}, store.Leased).Lease
		var l store.Lease
		e.eventually("the lease runs out", func() bool {
			c := claimOne(e, e.s, store.ClaimRequest{Key: "k", Plain: true})
			l = c.Lease
			return c.Outcome == store.Leased
		})
		e.lost(old)
		e.fill(l, []byte("v"))
		e.lost(old)
		e.holdsPlain("k", "v")
	}},
	{"a plain lease is given back", func(e *env) {
		l := e.claim(store.ClaimRequest{Key: "k", Plain: true}, store.Leased).Lease
		e.release(l)
		if val, ok := e.fx.Foreign.Get("k"); ok {
			e.Errorf("others still read %q", val)
		}
		e.lost(l)
		e.claim(store.ClaimRequest{Key: "k", Plain: true}, store.Leased)
	}},
	{"a plain key can't be refreshed", func(e *env) {
		e.fx.Foreign.Set("k", []byte("v"), 0)
		c := e.s.Claim(bg, []store.ClaimRequest{{Key: "k", ID: newID(), TTL: long, Plain: true, Refresh: true, Seen: store.IdentityOf([]byte("v"))}})[0]
		if c.Outcome != store.Failed || c.Err == nil {
			e.Errorf("the claim is %s, %v; want failed with an error", outcome(c.Outcome), c.Err)
		}
		e.holdsPlain("k", "v")
	}},
	{"of 64 plain claims at once, exactly one is leased", func(e *env) {
		e.oneOf64(store.ClaimRequest{Key: "k", Plain: true})
	}},
}

// voidRules are all pairs of a kind of lease and an event that voids it.
func voidRules() []rule {
	kinds := []struct {
		name  string
		lease func(e *env, key string) store.Lease
	}{
		{"lease", func(e *env, key string) store.Lease { return e.lease(key) }},
		{"refresh", func(e *env, key string) store.Lease {
			return e.claim(e.refreshable(key), store.Leased).Lease
		}},
		{"plain lease", func(e *env, key string) store.Lease {
			return e.claim(store.ClaimRequest{Key: key, Plain: true}, store.Leased).Lease
		}},
	}
	v := record("written by others")
	events := []struct {
		name   string
		happen func(e *env, key string)
		after  string // what the key holds then
	}{
		{"a drop", func(e *env, key string) {
			e.epoch(store.Head{})
			e.drop(e.s, store.Drop{Keys: []string{"unrelated", key}})
		}, ""},
		{"a drop by another", func(e *env, key string) {
			e.epoch(store.Head{})
			e.drop(e.connect(), store.Drop{Keys: []string{key}})
		}, ""},
		{"a write", func(e *env, key string) { e.write(e.s, key, v) }, string(v)},
		{"a write by another", func(e *env, key string) { e.write(e.connect(), key, v) }, string(v)},
		{"a foreign DEL", func(e *env, key string) { e.fx.Foreign.Del(key) }, ""},
		{"a foreign SET", func(e *env, key string) { e.fx.Foreign.Set(key, v, 0) }, string(v)},
		{"a flush", func(e *env, key string) { e.fx.Foreign.FlushAll() }, ""},
	}
	var rules []rule
	for _, ev := range events {
		for _, k := range kinds {
			name := fmt.Sprintf("%s voids a %s", ev.name, k.name)
			rules = append(rules, rule{name, func(e *env) {
				l := k.lease(e, "k")
				spared := k.lease(e, "spared")
				ev.happen(e, "k")
				e.lost(l)
				e.holds("k", ev.after)
				e.release(l)
				e.holds("k", ev.after)
				if !strings.Contains(ev.name, "flush") {
					e.fill(spared, []byte("v")) // other keys' leases stay good
				}
			}})
		}
	}
	return append(rules, rule{"no load outlives a drop", noLoadOutlivesADrop})
}

// noLoadOutlivesADrop lets loaders and droppers of one key race: when all is quiet, the key
// holds the latest version or nothing.
func noLoadOutlivesADrop(e *env) {
	e.epoch(store.Head{})
	conns := []store.Store{e.s, e.connect()}
	for _, plain := range []bool{false, true} {
		key := fmt.Sprintf("k-%v", plain)
		for round := range 30 {
			var (
				mu      sync.Mutex
				version int
			)
			crowd(8, func(i int) {
				s := conns[i%2]
				if i < 2 { // changes the source, then drops
					mu.Lock()
					version++
					mu.Unlock()
					if i == 0 {
						e.fx.Foreign.Del(key)
					} else if _, err := s.Drop(bg, 0, store.Drop{Keys: []string{key}}, store.Head{}); err != nil {
						e.Errorf("drop: %v", err)
					}
					return
				}
				req := store.ClaimRequest{Key: key, ID: newID(), TTL: long, Plain: plain}
				if i%3 == 0 {
					vals, err := s.Read(bg, []string{key}, plain)
					if err != nil {
						e.Errorf("read: %v", err)
						return
					}
					if image := vals[0].Image; image != nil && !store.IsLease(image) {
						req.Seen, req.Refresh = store.IdentityOf(image), !plain
					}
				}
				c := s.Claim(bg, []store.ClaimRequest{req})[0]
				if c.Outcome != store.Leased {
					return
				}
				mu.Lock()
				image := fmt.Sprintf("version %d", version)
				mu.Unlock()
				if err := s.Fill(bg, []store.FillRequest{{Lease: c.Lease, Image: []byte(image), TTL: long}})[0]; err != nil && !errors.Is(err, store.ErrLeaseLost) {
					e.Errorf("fill: %v", err)
				}
			})
			if got := readOne(e, e.s, key, plain).Image; got != nil && string(got) != fmt.Sprintf("version %d", version) {
				e.Fatalf("round %d: the key holds %q; want version %d or nothing", round, got, version)
			}
			e.fx.Foreign.Del(key)
		}
	}
}
