package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/freshetdev/freshet/store"
)

// maxPos is where doubles, and so Lua's numbers, stop being exact.
const maxPos = 1 << 53

var logRules = []rule{
	{"a server without a log says so", func(e *env) {
		f := func(step string, err error) {
			e.Helper()
			if !errors.Is(err, store.ErrNoLog) {
				e.Errorf("%s: %v; want ErrNoLog", step, err)
			}
		}
		check := func() {
			e.Helper()
			_, err := e.s.Head(bg, 0)
			f("head", err)
			_, _, err = e.s.Register(bg, 0, []string{"t"})
			f("register", err)
			_, err = e.s.Tail(bg, 0, 0, 10)
			f("tail", err)
			_, err = e.s.Drop(bg, 0, store.Drop{Tags: []string{"t"}}, store.Head{})
			f("drop", err)
		}
		check()
		e.epoch(store.Head{})
		e.head(e.s)
		e.fx.Foreign.FlushAll() // a log can be lost, too
		check()
	}},
	{"an epoch starts a log", func(e *env) {
		entry := e.epoch(store.Head{})
		if !entry.NewEpoch || entry.Epoch == 0 || entry.Pos == 0 || len(entry.Keys)+len(entry.Tags) != 0 {
			e.Errorf("the first entry is %+v; want the start of an epoch", entry)
		}
		if h := e.head(e.s); h != entry.Head {
			e.Errorf("head is %+v; want %+v", h, entry.Head)
		}
		if got := e.tail(0, 10); len(got) != 1 || !sameEntry(got[0], entry) {
			e.Errorf("tail is %+v; want %+v", got, entry)
		}
	}},
	{"an epoch starts only where the log is still as seen", func(e *env) {
		f := func(seen store.Head) {
			e.Helper()
			if _, err := e.s.NewEpoch(bg, 0, seen, 0); !errors.Is(err, store.ErrHeadMoved) {
				e.Errorf("new epoch at %+v: %v; want ErrHeadMoved", seen, err)
			}
		}
		f(store.Head{Epoch: 1, Pos: 1, Nonce: 1}) // there is none
		first := e.epoch(store.Head{}).Head
		f(store.Head{})
		f(store.Head{Epoch: first.Epoch + 1, Pos: first.Pos, Nonce: first.Nonce})
		f(store.Head{Epoch: first.Epoch, Pos: first.Pos + 1, Nonce: first.Nonce})
		f(store.Head{Epoch: first.Epoch, Pos: first.Pos, Nonce: first.Nonce + 1})
		dropped := e.drop(e.s, store.Drop{Keys: []string{"k"}}).Head
		f(first)
		second := e.epoch(dropped)
		if second.Epoch == first.Epoch || !second.NewEpoch || second.Prev != dropped.Pos || second.PrevNonce != dropped.Nonce {
			e.Errorf("the second epoch is %+v; want it chained to %+v", second, dropped)
		}
		f(dropped)
		e.fx.Foreign.FlushAll()
		f(second.Head)
		e.epoch(store.Head{})
	}},
	{"positions grow over drops, an epoch change and a lost log, below 2^53", func(e *env) {
		var last store.Pos
		f := func(entry store.LogEntry) {
			e.Helper()
			if entry.Pos <= last || entry.Pos >= maxPos {
				e.Errorf("position %d after %d", entry.Pos, last)
			}
			last = entry.Pos
		}
		f(e.epoch(store.Head{}))
		for range 50 {
			f(e.drop(e.s, store.Drop{Tags: []string{"t"}}))
		}
		f(e.epoch(e.head(e.s)))
		f(e.drop(e.s, store.Drop{}))
		e.fx.Foreign.FlushAll()
		f(e.epoch(store.Head{}))
		f(e.drop(e.s, store.Drop{}))
	}},
	{"of many that start an epoch, one does", func(e *env) {
		conns := []store.Store{e.s, e.connect()}
		for range 5 {
			seen, _ := e.s.Head(bg, 0)
			var mu sync.Mutex
			var started []store.LogEntry
			crowd(16, func(i int) {
				entry, err := conns[i%2].NewEpoch(bg, 0, seen, 0)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					started = append(started, entry)
				} else if !errors.Is(err, store.ErrHeadMoved) {
					e.Errorf("new epoch: %v; want ErrHeadMoved", err)
				}
			})
			if len(started) != 1 || started[0].Head != e.head(e.s) {
				e.Fatalf("%d epochs were started; want one", len(started))
			}
		}
	}},
	{"a drop deletes its keys and appends one entry", func(e *env) {
		first := e.epoch(store.Head{})
		for _, key := range []string{"a", "b", "c"} {
			e.write(e.s, key, record(key))
		}
		d := store.Drop{Keys: []string{"a", "b", "absent"}, Tags: []string{"t", "u"}, By: "app-1"}
		entry := e.drop(e.s, d)
		e.holds("a", "")
		e.holds("b", "")
		if readOne(e, e.s, "c", false).Image == nil {
			e.Error("a key that was not dropped is gone")
		}
		if entry.Prev != first.Pos || entry.PrevNonce != first.Nonce || entry.Epoch != first.Epoch || entry.NewEpoch {
			e.Errorf("the entry %+v doesn't follow %+v", entry, first)
		}
		if !sameEntry(entry, store.LogEntry{Head: entry.Head, Prev: first.Pos, PrevNonce: first.Nonce, Drop: d}) {
			e.Errorf("the entry holds %+v; want %+v", entry.Drop, d)
		}
		if h := e.head(e.connect()); h != entry.Head {
			e.Errorf("head is %+v; want %+v", h, entry.Head)
		}
	}},
	{"a log entry keeps any bytes, and nothing at all", func(e *env) {
		start := e.epoch(store.Head{})
		odd := []string{"with space", "a,b", "line\r\nbreak", "zero\x00", "\xff\xfe", "{x}", "ключ", `"quoted"\`, "-", "1", " "}
		var many []string
		for i := range 1200 {
			many = append(many, fmt.Sprintf("many:%d", i))
		}
		drops := []store.Drop{
			{Keys: odd, Tags: odd, By: "host/1:2"},
			{}, // a link of the chain all the same
			{Keys: odd}, {Tags: odd},
			{Keys: many, Tags: many, By: "many"},
			{Tags: []string{"twice", "twice"}, Keys: []string{"twice", "twice"}},
		}
		var entries []store.LogEntry
		for _, d := range drops {
			entry := e.drop(e.s, d)
			if !sameDrop(entry.Drop, d) {
				e.Errorf("dropped %.200q; want %.200q", fmt.Sprint(entry.Drop), fmt.Sprint(d))
			}
			entries = append(entries, entry)
		}
		got := e.tail(start.Pos, 100)
		if !slices.EqualFunc(got, entries, sameEntry) {
			e.Errorf("the log holds %.500q; want %.500q", fmt.Sprint(got), fmt.Sprint(entries))
		}
	}},
	{"a drop is an entry of its own, even if it is repeated", func(e *env) {
		e.epoch(store.Head{})
		d := store.Drop{Keys: []string{"k"}, Tags: []string{"t"}}
		a, b := e.drop(e.s, d), e.drop(e.s, d)
		if b.Prev != a.Pos || b.PrevNonce != a.Nonce || a.Nonce == b.Nonce {
			e.Errorf("the second drop %+v doesn't follow %+v", b.Head, a.Head)
		}
	}},
	{"a drop raises the stamps of the tags that have one", func(e *env) {
		start := e.epoch(store.Head{})
		if got := e.stamp("used"); got != start.Pos {
			e.Errorf("a new stamp is %d; want the log's position %d", got, start.Pos)
		}
		e.stamp("other")
		d := e.drop(e.s, store.Drop{Tags: []string{"used", "unused"}})
		later := e.drop(e.s, store.Drop{Tags: []string{"nobody"}})
		f := func(tag string, want store.Pos) {
			e.Helper()
			if got := e.stamp(tag); got != want {
				e.Errorf("the stamp of %q is %d; want %d", tag, got, want)
			}
		}
		f("used", d.Pos)
		f("other", start.Pos)
		f("unused", later.Pos) // had none, so it begins at the log's end
		f("used", d.Pos)
	}},
	{"register answers in order, with the head", func(e *env) {
		e.epoch(store.Head{})
		e.stamp("a")
		d := e.drop(e.s, store.Drop{Tags: []string{"a"}})
		e.stamp("b")
		last := e.drop(e.s, store.Drop{Tags: []string{"b"}})
		var tags []string
		for i := range 700 {
			tags = append(tags, fmt.Sprintf("many:%d", i))
		}
		tags = append(tags, "b", "a", "b")
		head, stamps, err := e.s.Register(bg, 0, tags)
		if err != nil || head != last.Head || len(stamps) != len(tags) {
			e.Fatalf("register: head %+v, %d stamps, %v; want %+v, %d", head, len(stamps), err, last.Head, len(tags))
		}
		for i, got := range stamps {
			want := last.Pos
			if tags[i] == "a" {
				want = d.Pos
			}
			if got != want {
				e.Errorf("the stamp of %q is %d; want %d", tags[i], got, want)
			}
		}
		if head, stamps, err := e.s.Register(bg, 0, nil); err != nil || head != last.Head || len(stamps) != 0 {
			e.Errorf("register of nothing: %+v, %v, %v", head, stamps, err)
		}
	}},
	{"a lost stamp is re-created at the log's position, not at zero", func(e *env) {
		e.epoch(store.Head{})
		e.stamp("t")
		e.drop(e.s, store.Drop{Tags: []string{"t"}})
		e.fx.Foreign.EvictStamp("t")
		last := e.drop(e.s, store.Drop{Tags: []string{"t"}}) // sets no stamp, and doesn't create one that is lower
		after := e.drop(e.s, store.Drop{Tags: []string{"other"}})
		if got := e.stamp("t"); got != after.Pos || got < last.Pos {
			e.Errorf("the stamp is %d; want the log's position %d", got, after.Pos)
		}
		e.drop(e.s, store.Drop{})
		if got := e.stamp("t"); got != after.Pos {
			e.Errorf("the stamp moved to %d without a drop; want %d", got, after.Pos)
		}
	}},
	{"an epoch change takes no stamp below its last drop, nor above the log", func(e *env) {
		e.epoch(store.Head{})
		e.stamp("t")
		d := e.drop(e.s, store.Drop{Tags: []string{"t"}})
		now := e.epoch(d.Head)
		if got := e.stamp("t"); got < d.Pos || got > now.Pos {
			e.Errorf("the stamp is %d; want it between %d and %d", got, d.Pos, now.Pos)
		}
	}},
	{"a drop refuses a log that is behind", func(e *env) {
		start := e.epoch(store.Head{})
		e.stamp("t")
		known := start.Head
		known.Pos += 1000
		if _, err := e.s.Drop(bg, 0, store.Drop{Tags: []string{"t"}}, known); !errors.Is(err, store.ErrBehind) {
			e.Errorf("drop: %v; want ErrBehind", err)
		}
		if h := e.head(e.s); h != start.Head {
			e.Errorf("head is %+v; want %+v: nothing was appended", h, start.Head)
		}
		if got := e.stamp("t"); got != start.Pos {
			e.Errorf("the stamp is %d; want %d: nothing was raised", got, start.Pos)
		}
	}},
	{"a drop takes a log that is not behind", func(e *env) {
		start := e.epoch(store.Head{})
		f := func(what string, known store.Head) {
			e.Helper()
			if _, err := e.s.Drop(bg, 0, store.Drop{Tags: []string{"t"}}, known); err != nil {
				e.Errorf("drop, knowing %s: %v", what, err)
			}
		}
		f("nothing", store.Head{})
		f("the head", e.head(e.s))
		f("an older entry", start.Head)
		other := e.head(e.s)
		other.Epoch++
		other.Pos += 1000
		f("another epoch", other)
	}},
	{"the tail comes in order, after a position and up to a limit", func(e *env) {
		all := []store.LogEntry{e.epoch(store.Head{})}
		for i := range 20 {
			all = append(all, e.drop(e.s, store.Drop{Keys: []string{fmt.Sprint(i)}}))
		}
		f := func(after store.Pos, limit int, want []store.LogEntry) {
			e.Helper()
			if got := e.tail(after, limit); !slices.EqualFunc(got, want, sameEntry) {
				e.Errorf("tail after %d, up to %d: %+v; want %+v", after, limit, got, want)
			}
		}
		f(0, 100, all)
		f(0, 3, all[:3])
		f(all[4].Pos, 100, all[5:])
		f(all[4].Pos-1, 2, all[4:6])
		f(all[19].Pos, 100, all[20:])
		f(all[20].Pos, 100, nil)
		f(all[20].Pos+1000, 100, nil)
		e.fx.Foreign.TrimLog(5)
		f(0, 100, all[16:])
		f(all[2].Pos, 2, all[16:18]) // what is left; the chain shows the gap
		e.fx.Foreign.TrimLog(0)
		f(0, 100, nil)
		next := e.drop(e.s, store.Drop{Keys: []string{"k"}}) // the head outlives its entry
		if next.Prev != all[20].Pos || next.PrevNonce != all[20].Nonce {
			e.Errorf("after a trim %+v doesn't follow %+v", next, all[20])
		}
		f(0, 100, []store.LogEntry{next})
	}},
	{"drops at once by two connections form one chain", func(e *env) {
		prev := e.epoch(store.Head{})
		conns := []store.Store{e.s, e.connect()}
		const n = 200
		crowd(n, func(i int) {
			if _, err := conns[i%2].Drop(bg, 0, store.Drop{Keys: []string{fmt.Sprint(i)}, Tags: []string{"t"}}, prev.Head); err != nil {
				e.Errorf("drop %d: %v", i, err)
			}
		})
		got := e.tail(prev.Pos, 2*n)
		if len(got) != n {
			e.Fatalf("%d entries; want %d", len(got), n)
		}
		seen := map[string]bool{}
		for _, entry := range got {
			if entry.Prev != prev.Pos || entry.PrevNonce != prev.Nonce || entry.Pos <= prev.Pos {
				e.Fatalf("%+v doesn't follow %+v", entry, prev)
			}
			seen[entry.Keys[0]] = true
			prev = entry
		}
		if len(seen) != n || e.head(e.s) != prev.Head {
			e.Errorf("%d drops are there; want %d, and the head at the last", len(seen), n)
		}
	}},
	{"partitions are apart", func(e *env) {
		n := e.s.Partitions()
		if n < 1 {
			e.Fatalf("%d partitions; want at least one", n)
		}
		if n == 1 {
			e.Skip("one partition")
		}
		a := e.epoch(store.Head{})
		if _, err := e.s.Head(bg, 1); !errors.Is(err, store.ErrNoLog) {
			e.Errorf("head of the second: %v; want ErrNoLog", err)
		}
		b, err := e.s.NewEpoch(bg, 1, store.Head{}, 0)
		if err != nil || b.Epoch == a.Epoch {
			e.Fatalf("new epoch of the second: %+v, %v", b, err)
		}
		if _, _, err := e.s.Register(bg, 1, []string{"t"}); err != nil {
			e.Error(err)
		}
		e.drop(e.s, store.Drop{Tags: []string{"t"}})
		if h, err := e.s.Head(bg, 1); err != nil || h != b.Head {
			e.Errorf("head of the second is %+v, %v; want %+v", h, err, b.Head)
		}
		if _, stamps, err := e.s.Register(bg, 1, []string{"t"}); err != nil || stamps[0] != b.Pos {
			e.Errorf("the second's stamp is %v, %v; want %d", stamps, err, b.Pos)
		}
		if entries, err := e.s.Tail(bg, 1, 0, 10); err != nil || len(entries) != 1 {
			e.Errorf("the second's tail is %+v, %v; want its epoch alone", entries, err)
		}
	}},
}

func sameEntry(a, b store.LogEntry) bool {
	return a.Head == b.Head && a.Prev == b.Prev && a.PrevNonce == b.PrevNonce && a.NewEpoch == b.NewEpoch && sameDrop(a.Drop, b.Drop)
}

// sameDrop takes nil for empty.
func sameDrop(a, b store.Drop) bool {
	return a.By == b.By && (len(a.Keys)+len(b.Keys) == 0 || reflect.DeepEqual(a.Keys, b.Keys)) &&
		(len(a.Tags)+len(b.Tags) == 0 || reflect.DeepEqual(a.Tags, b.Tags))
}
