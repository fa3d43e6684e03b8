package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/store"
)

var watchRules = []rule{
	{"a watcher is told of the link", func(e *env) { e.watch(e.s) }},
	{"every drop and epoch is announced to all, its own store included", func(e *env) {
		other := e.connect()
		recs := []*recorder{e.watch(e.s), e.watch(e.s), e.watch(other)}
		want := []store.LogEntry{e.epoch(store.Head{})}
		for i := range 20 {
			s := []store.Store{e.s, other}[i%2]
			want = append(want, e.drop(s, store.Drop{Keys: []string{fmt.Sprint("k ", i)}, Tags: []string{"t\n", "u"}, By: "me"}))
		}
		want = append(want, e.epoch(e.head(e.s)))
		for i, r := range recs {
			r.until("all entries are announced", func() bool { return len(r.logged) >= len(want) })
			r.has(func() bool {
				if !slices.EqualFunc(r.logged, want, sameEntry) {
					e.Errorf("watcher %d was told %+v; want %+v", i, r.logged, want)
				}
				if slices.ContainsFunc(r.parts, func(p int) bool { return p != 0 }) {
					e.Errorf("watcher %d was told of partitions %v; want 0", i, r.parts)
				}
				return true
			})
		}
	}},
	{"entries of each partition are announced as such", func(e *env) {
		r := e.watch(e.s)
		for part := range e.s.Partitions() {
			if _, err := e.s.NewEpoch(bg, part, store.Head{}, 0); err != nil {
				e.Fatal(err)
			}
		}
		r.until("all epochs are announced", func() bool {
			for part := range e.s.Partitions() {
				if !slices.Contains(r.parts, part) {
					return false
				}
			}
			return true
		})
	}},
	{"the watcher is called one at a time, in the order of the log", func(e *env) {
		r := e.watch(e.s) // it also checks that calls don't overlap
		prev := e.epoch(store.Head{})
		conns := []store.Store{e.s, e.connect()}
		crowd(100, func(i int) {
			key := fmt.Sprint("k", i%7)
			if _, err := conns[i%2].Read(bg, []string{key}, false); err != nil {
				e.Errorf("read: %v", err)
			}
			if _, err := conns[i%2].Drop(bg, 0, store.Drop{Keys: []string{key}}, store.Head{}); err != nil {
				e.Errorf("drop: %v", err)
			}
			if err := conns[i%2].Write(bg, key, record("v"), long); err != nil {
				e.Errorf("write: %v", err)
			}
		})
		r.until("all entries are announced", func() bool { return len(r.logged) == 101 })
		for _, entry := range r.logged[1:] {
			if entry.Prev != prev.Pos || entry.PrevNonce != prev.Nonce {
				e.Fatalf("%+v was announced after %+v", entry, prev)
			}
			prev = entry
		}
	}},
	{"head is a probe: what was announced before has been handed over", func(e *env) {
		other := e.connect()
		r := e.watch(e.s)
		e.epoch(store.Head{})
		for i := range 100 {
			entry := e.drop(other, store.Drop{Keys: []string{"k"}})
			h := e.head(e.s)
			if !r.has(func() bool { return len(r.logged) > 0 && r.logged[len(r.logged)-1].Head == entry.Head }) || h != entry.Head {
				e.Fatalf("round %d: head answered %+v, and entry %+v was not handed over", i, h, entry.Head)
			}
		}
	}},
	{"head is a probe: what was changed before has been handed over", func(e *env) {
		r := e.watch(e.s).tracks()
		e.epoch(store.Head{})
		for i := range 100 {
			key := fmt.Sprint("k", i)
			readOne(e, e.s, key, false)
			e.fx.Foreign.Set(key, []byte("v"), 0)
			e.probe(e.s)
			if !r.has(func() bool { return r.changed[key] > 0 }) {
				e.Fatalf("round %d: head answered, and the change of %q was not handed over", i, key)
			}
		}
	}},
	{"head is a probe even where there is no log", func(e *env) {
		r := e.watch(e.s).tracks()
		readOne(e, e.s, "k", false)
		e.fx.Foreign.Set("k", []byte("v"), 0)
		if _, err := e.s.Head(bg, 0); !errors.Is(err, store.ErrNoLog) {
			e.Errorf("head: %v; want ErrNoLog", err)
		}
		r.until("the change is told", func() bool { return r.changed["k"] > 0 })
	}},
	{"a foreign change of a key that was read is told, however it was read", func(e *env) {
		r := e.watch(e.s).tracks()
		v := record("v")
		used := map[string]func(key string){
			"read absent": func(key string) { readOne(e, e.s, key, false) },
			"read present": func(key string) {
				e.fx.Foreign.Set(key, v, 0)
				readOne(e, e.s, key, false)
			},
			"read plain": func(key string) {
				e.fx.Foreign.Set(key, v, 0)
				readOne(e, e.s, key, true)
			},
			"read in a batch": func(key string) {
				if _, err := e.s.Read(bg, []string{"a", key, "b"}, false); err != nil {
					e.Fatal(err)
				}
			},
			"leased": func(key string) { e.lease(key) },
			"held": func(key string) {
				e.fx.Foreign.Set(key, v, 0)
				e.claim(store.ClaimRequest{Key: key}, store.Held)
			},
			"busy": func(key string) {
				claimOne(e, e.connect(), store.ClaimRequest{Key: key})
				e.claim(store.ClaimRequest{Key: key}, store.Busy)
			},
			"gone":         func(key string) { e.claim(store.ClaimRequest{Key: key, Seen: "x", Refresh: true}, store.Gone) },
			"filled":       func(key string) { e.fill(e.lease(key), v) },
			"leased plain": func(key string) { e.claim(store.ClaimRequest{Key: key, Plain: true}, store.Leased) },
			"filled plain": func(key string) { e.fill(e.claim(store.ClaimRequest{Key: key, Plain: true}, store.Leased).Lease, v) },
			"refreshing":   func(key string) { e.claim(e.refreshable(key), store.Leased) },
			"refreshed":    func(key string) { e.fill(e.claim(e.refreshable(key), store.Leased).Lease, v) },
		}
		for name, use := range used {
			use(name)
			before := 0
			r.has(func() bool { before = r.changed[name]; return true })
			e.fx.Foreign.Set(name, []byte("changed"), 0)
			r.until(name+": the change is told", func() bool { return r.changed[name] > before })
		}
	}},
	{"every way to change a key is told to those who read it", func(e *env) {
		r := e.watch(e.s).tracks()
		other := e.connect()
		e.epoch(store.Head{})
		v := record("v")
		changes := map[string]func(key string){
			"set":   func(key string) { e.fx.Foreign.Set(key, []byte("new"), 0) },
			"del":   func(key string) { e.fx.Foreign.Del(key) },
			"write": func(key string) { e.write(other, key, record("new")) },
			"drop":  func(key string) { e.drop(other, store.Drop{Keys: []string{key}}) },
			"claim": func(key string) {
				claimOne(e, other, store.ClaimRequest{Key: key, Seen: store.IdentityOf(v)})
			},
			"fill": func(key string) {
				c := claimOne(e, other, store.ClaimRequest{Key: key, Seen: store.IdentityOf(v), Refresh: true})
				if err := fillOne(e, other, c.Lease, record("new"), long); err != nil {
					e.Fatal(err)
				}
			},
		}
		for name, change := range changes {
			e.fx.Foreign.Set(name, v, 0)
			readOne(e, e.s, name, false)
			before := 0
			r.has(func() bool { before = r.changed[name]; return true })
			change(name)
			r.until(name+" is told", func() bool { return r.changed[name] > before })
		}
	}},
	{"who waits for a lease is told of its fill, its release and its end", func(e *env) {
		r := e.watch(e.s).tracks()
		other := e.connect()
		for i, end := range []func(l store.Lease){
			func(l store.Lease) {
				if err := fillOne(e, other, l, record("v"), long); err != nil {
					e.Error(err)
				}
			},
			func(l store.Lease) {
				if err := other.Release(bg, l); err != nil {
					e.Error(err)
				}
			},
			func(l store.Lease) { // a server may tell late, but somebody's look brings it out
				e.eventually("the lease runs out", func() bool { return readOne(e, other, l.Key, false).Image == nil })
			},
		} {
			for _, plain := range []bool{false, true} {
				key := fmt.Sprint("k", i, plain)
				ttl := long
				if i == 2 {
					ttl = short
				}
				c := claimOne(e, other, store.ClaimRequest{Key: key, Plain: plain, TTL: ttl})
				e.claim(store.ClaimRequest{Key: key, Plain: plain}, store.Busy)
				end(c.Lease)
				r.until("the end of lease "+key+" is told", func() bool { return r.changed[key] > 0 })
			}
		}
	}},
	{"a store is never told of its own writes", func(e *env) {
		r := e.watch(e.s).tracks()
		e.epoch(store.Head{})
		readOne(e, e.s, "k", false)
		l := e.lease("k")
		e.fill(l, record("v"))
		readOne(e, e.s, "k", false)
		e.write(e.s, "k", record("w"))
		readOne(e, e.s, "k", false)
		e.drop(e.s, store.Drop{Keys: []string{"k"}})
		p := e.claim(store.ClaimRequest{Key: "p", Plain: true}, store.Leased).Lease
		readOne(e, e.s, "p", true)
		e.release(p)
		e.claim(e.refreshable("r"), store.Leased)
		e.head(e.s)
		if r.has(func() bool { return r.changed["k"]+r.changed["p"]+r.changed["r"]+r.all > 0 }) {
			e.Errorf("it was told of %v", r.changed)
		}
	}},
	{"a store that shares a key with another is told of the other's writes only", func(e *env) {
		other := e.connect()
		mine, theirs := e.watch(e.s).tracks(), e.watch(other)
		readOne(e, e.s, "k", false)
		readOne(e, other, "k", false)
		e.write(e.s, "k", record("v"))
		theirs.until("the other is told", func() bool { return theirs.changed["k"] > 0 })
		e.probe(e.s)
		if mine.has(func() bool { return mine.changed["k"] > 0 }) {
			e.Error("the writer is told")
		}
	}},
	{"a flush may have changed any key", func(e *env) {
		r := e.watch(e.s).tracks()
		e.write(e.s, "k", record("v"))
		readOne(e, e.s, "k", false)
		e.fx.Foreign.FlushAll()
		r.until("any key may have changed", func() bool { return r.all > 0 || r.changed["k"] > 0 })
	}},
	{"after stop returns, nothing is told any more", func(e *env) {
		e.epoch(store.Head{})
		other := e.connect()
		for range 20 {
			var stopped atomic.Bool
			stop := e.s.Watch(store.Watcher{Logged: func(int, store.LogEntry) {
				if stopped.Load() {
					e.Error("a call after stop")
				}
			}})
			var wg sync.WaitGroup
			for _, s := range []store.Store{e.s, other} {
				wg.Go(func() {
					for range 10 {
						if _, err := s.Drop(bg, 0, store.Drop{Keys: []string{"k"}}, store.Head{}); err != nil {
							e.Errorf("drop: %v", err)
						}
					}
				})
			}
			stop()
			stopped.Store(true)
			wg.Wait()
			e.head(e.s)
			stop() // again is no harm
		}
	}},
	{"stop waits for the call that is under way", func(e *env) {
		e.epoch(store.Head{})
		e.head(e.s) // the epoch's announcement is over
		entered, leave, left := make(chan struct{}), make(chan struct{}), false
		stop := e.s.Watch(store.Watcher{Logged: func(int, store.LogEntry) {
			close(entered)
			<-leave
			left = true
		}})
		e.drop(e.connect(), store.Drop{Keys: []string{"k"}})
		<-entered
		time.AfterFunc(20*time.Millisecond, func() { close(leave) })
		if stop(); !left {
			e.Error("stop returned during a call")
		}
	}},
	{"a watcher's functions are optional", func(e *env) {
		stop := e.s.Watch(store.Watcher{})
		defer stop()
		e.epoch(store.Head{})
		readOne(e, e.s, "k", false)
		e.fx.Foreign.Set("k", []byte("v"), 0)
		e.drop(e.s, store.Drop{Keys: []string{"k"}})
		e.head(e.s)
	}},
	{"a watcher may wait for a lock whose owner uses the store", func(e *env) {
		var mu sync.Mutex
		stop := e.s.Watch(store.Watcher{
			Logged:  func(int, store.LogEntry) { mu.Lock(); defer mu.Unlock() },
			Changed: func([]string) { mu.Lock(); defer mu.Unlock() },
		})
		defer stop()
		e.epoch(store.Head{})
		other := e.connect()
		// A store that fails here may well stand still for good.
		alarm := time.AfterFunc(4*patience, func() { panic("a watcher and a caller of the store wait for each other") })
		defer alarm.Stop()
		crowd(4, func(i int) {
			for range 50 {
				if i == 0 {
					if _, err := other.Drop(bg, 0, store.Drop{Keys: []string{"k"}}, store.Head{}); err != nil {
						e.Errorf("drop: %v", err)
					}
					continue
				}
				mu.Lock()
				c := e.s.Claim(bg, []store.ClaimRequest{{Key: "k", ID: newID(), TTL: long}})[0]
				if c.Outcome == store.Leased {
					e.s.Fill(bg, []store.FillRequest{{Lease: c.Lease, Image: record("v"), TTL: long}})
				}
				if _, err := e.s.Read(bg, []string{"k"}, false); err != nil {
					e.Errorf("read: %v", err)
				}
				mu.Unlock()
			}
		})
	}},
}

// probe asks for the head of every partition, whether or not there is a log.
func (e *env) probe(s store.Store) {
	e.Helper()
	for part := range s.Partitions() {
		if _, err := s.Head(bg, part); err != nil && !errors.Is(err, store.ErrNoLog) {
			e.Fatalf("head of partition %d: %v", part, err)
		}
	}
}

var lifeRules = []rule{
	{"a context that is over fails every operation", func(e *env) {
		head := e.epoch(store.Head{}).Head
		l := e.lease("k")
		canceled, cancel := context.WithCancel(bg)
		cancel()
		late, cancel2 := context.WithDeadline(bg, time.Now().Add(-time.Second))
		defer cancel2()
		for name, err := range operations(canceled, e.s, l, head) {
			if !errors.Is(err, context.Canceled) {
				e.Errorf("%s: %v; want context.Canceled", name, err)
			}
		}
		for name, err := range operations(late, e.s, l, head) {
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, store.ErrTimeout) {
				e.Errorf("%s: %v; want DeadlineExceeded or ErrTimeout", name, err)
			}
		}
		e.lease("other") // and the store goes on
	}},
	{"a closed store fails every operation, and others go on", func(e *env) {
		head := e.epoch(store.Head{}).Head
		other := e.connect()
		l := e.claim(store.ClaimRequest{Key: "k"}, store.Leased).Lease
		r := e.watch(e.s)
		if err := e.s.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
		calls := 0
		r.has(func() bool { calls = r.calls; return true })
		for name, err := range operations(bg, e.s, l, head) {
			if !errors.Is(err, store.ErrClosed) {
				e.Errorf("%s: %v; want ErrClosed", name, err)
			}
		}
		e.drop(other, store.Drop{Keys: []string{"k"}})
		e.head(other)
		if r.has(func() bool { return r.calls != calls }) {
			e.Error("a closed store tells its watcher")
		}
		r.stop()
		_ = e.s.Close() // again is no harm
	}},
}

// operations tries each operation with ctx and returns its error.
func operations(ctx context.Context, s store.Store, l store.Lease, head store.Head) map[string]error {
	errs := map[string]error{}
	_, errs["read"] = s.Read(ctx, []string{"x", "y"}, false)
	_, errs["read plain"] = s.Read(ctx, []string{"x"}, true)
	reg := store.Registration{Tags: []string{"t"}}
	for i, c := range s.Claim(ctx, []store.ClaimRequest{{Key: "x", ID: newID(), TTL: long}, {Key: "y", ID: newID(), TTL: long}}, &reg) {
		errs[fmt.Sprint("claim ", i)] = c.Err
		if c.Outcome != store.Failed {
			errs["claim outcome"] = fmt.Errorf("outcome is %s", outcome(c.Outcome))
		}
	}
	errs["register with a claim"] = reg.Err
	for i, err := range s.Fill(ctx, []store.FillRequest{{Lease: l, Image: record("v"), TTL: long}, {Lease: l, Image: record("v"), TTL: long}}) {
		errs[fmt.Sprint("fill ", i)] = err
	}
	errs["release"] = s.Release(ctx, l)
	errs["write"] = s.Write(ctx, "x", record("v"), long)
	_, errs["drop"] = s.Drop(ctx, 0, store.Drop{Keys: []string{"x"}}, store.Head{})
	_, errs["head"] = s.Head(ctx, 0)
	_, _, errs["register"] = s.Register(ctx, 0, []string{"t"})
	_, errs["tail"] = s.Tail(ctx, 0, 0, 10)
	_, errs["new epoch"] = s.NewEpoch(ctx, 0, head, 0)
	return errs
}
