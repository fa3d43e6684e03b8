// Package storetest is the contract of package store in executable form. Every store runs it:
//
//	func TestContract(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Fixture {
//			srv := memstore.NewServer(memstore.Options{})
//			return storetest.Fixture{New: func() store.Store { return srv.Connect() }, Foreign: srv}
//		})
//	}
//
// The cases are named as rules. They run one after the other, since some of them
// flush the server.
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet/store"
)

// A Fixture is one server, empty and without a log, for one case.
type Fixture struct {
	// New returns another connection to the server. The suite closes it at the end of the
	// case. Its time budget should be generous: several suites may share the machine.
	New func() store.Store

	// Foreign reaches the same server by other means.
	Foreign Foreign

	// Advance makes d pass on the server. If it is nil, the suite sleeps.
	Advance func(d time.Duration)
}

// Foreign is a client that knows nothing of freshet, and bad luck. A failure is
// the test's failure, so no method returns an error. memstore.Server is one.
type Foreign interface {
	Get(key string) (val []byte, ok bool)
	Set(key string, val []byte, ttl time.Duration) // for ever if ttl is zero
	Del(keys ...string) int
	FlushAll()             // entries, logs, stamps
	EvictStamp(tag string) // in every partition
	TrimLog(keep int)      // every log forgets all but its last keep entries
}

// Run checks every rule against a fixture of its own.
func Run(t *testing.T, fixture func(t *testing.T) Fixture) {
	groups := []struct {
		name  string
		rules []rule
	}{
		{"read", readRules},
		{"lease", leaseRules},
		{"refresh", refreshRules},
		{"plain", plainRules},
		{"void", voidRules()},
		{"log", logRules},
		{"watch", watchRules},
		{"life", lifeRules},
		{"mark", markRules},
		{"outside", outsideRules},
		{"model", modelRules},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, r := range g.rules {
				t.Run(r.name, func(t *testing.T) {
					e := &env{T: t, fx: fixture(t)}
					e.s = e.connect()
					r.check(e)
				})
			}
		})
	}
}

// A rule is one sentence of the contract.
type rule struct {
	name  string
	check func(e *env)
}

const (
	patience = 15 * time.Second       // for what surely comes; two noisy cores
	short    = 150 * time.Millisecond // a TTL that is waited for
	long     = time.Hour              // a TTL that isn't
)

// env is what a case works with: a server, a first connection, and verbs that fail the
// test when the store refuses them.
type env struct {
	*testing.T
	fx Fixture
	s  store.Store
}

var bg = context.Background()

func (e *env) connect() store.Store {
	s := e.fx.New()
	e.Cleanup(func() { _ = s.Close() })
	return s
}

// pass lets d go by on the server.
func (e *env) pass(d time.Duration) {
	if e.fx.Advance != nil {
		e.fx.Advance(d)
	} else {
		time.Sleep(d)
	}
}

// eventually waits until ok holds. Between two looks a little time passes.
func (e *env) eventually(what string, ok func() bool) {
	e.Helper()
	for deadline := time.Now().Add(patience); !ok(); e.pass(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.Fatalf("waited in vain: %s", what)
		}
	}
}

func newID() (id store.ID) {
	rand.Read(id[:])
	return id
}

// record returns the image of a value: the header that stores look at, and text.
func record(text string) []byte {
	image := store.LeaseImage(newID())
	image[4] = byte(store.KindValue)
	return append(image, text...)
}

func readOne(e *env, s store.Store, key string, plain bool) store.Value {
	e.Helper()
	vals, err := s.Read(bg, []string{key}, plain)
	if err != nil || len(vals) != 1 {
		e.Fatalf("read %q: %d values, %v; want one", key, len(vals), err)
	}
	return vals[0]
}

// holds checks what a key reads as; "" is absent.
func (e *env) holds(key, image string) {
	e.Helper()
	if got := readOne(e, e.s, key, false); string(got.Image) != image || (got.Image == nil) != (image == "") {
		e.Errorf("%q holds %q; want %q", key, got.Image, image)
	}
}

// holdsPlain is holds for a plain key.
func (e *env) holdsPlain(key, image string) {
	e.Helper()
	if got := readOne(e, e.s, key, true); string(got.Image) != image || (got.Image == nil) != (image == "") {
		e.Errorf("%q holds %q; want %q", key, got.Image, image)
	}
}

func claimOne(e *env, s store.Store, req store.ClaimRequest) store.Claim {
	e.Helper()
	if req.ID == (store.ID{}) {
		req.ID = newID()
	}
	if req.TTL == 0 {
		req.TTL = long
	}
	claims := s.Claim(bg, []store.ClaimRequest{req})
	if len(claims) != 1 {
		e.Fatalf("claim %q: %d claims; want one", req.Key, len(claims))
	}
	c := claims[0]
	if c.Outcome == store.Failed {
		e.Fatalf("claim %q: %v", req.Key, c.Err)
	}
	if c.Outcome == store.Leased && (c.Lease.Key != req.Key || c.Lease.ID != req.ID || c.Lease.Plain != req.Plain || c.Lease.Refresh != req.Refresh) {
		e.Errorf("claim %+v got the lease %+v", req, c.Lease)
	}
	if c.Outcome == store.Busy && (c.Wait <= 0 || c.Wait > long) {
		e.Errorf("claim %q: busy for %v; want the rest of a lease", req.Key, c.Wait)
	}
	return c
}

// claim is a claim whose outcome is given.
func (e *env) claim(req store.ClaimRequest, want store.Outcome) store.Claim {
	e.Helper()
	c := claimOne(e, e.s, req)
	if c.Outcome != want {
		e.Fatalf("claim %q is %s; want %s", req.Key, outcome(c.Outcome), outcome(want))
	}
	return c
}

// lease claims an absent key.
func (e *env) lease(key string) store.Lease {
	e.Helper()
	return e.claim(store.ClaimRequest{Key: key}, store.Leased).Lease
}

func fillOne(e *env, s store.Store, l store.Lease, image []byte, ttl time.Duration) error {
	e.Helper()
	errs := s.Fill(bg, []store.FillRequest{{Lease: l, Image: image, TTL: ttl}})
	if len(errs) != 1 {
		e.Fatalf("fill %q: %d errors; want one", l.Key, len(errs))
	}
	return errs[0]
}

func (e *env) fill(l store.Lease, image []byte) {
	e.Helper()
	if err := fillOne(e, e.s, l, image, long); err != nil {
		e.Fatalf("fill %q: %v", l.Key, err)
	}
}

// lost checks that a lease is not good any more.
func (e *env) lost(l store.Lease) {
	e.Helper()
	if err := fillOne(e, e.s, l, record("too late"), long); !errors.Is(err, store.ErrLeaseLost) {
		e.Errorf("fill %q: %v; want ErrLeaseLost", l.Key, err)
	}
}

func (e *env) write(s store.Store, key string, image []byte) {
	e.Helper()
	if err := s.Write(bg, key, image, long); err != nil {
		e.Fatalf("write %q: %v", key, err)
	}
}

func (e *env) release(l store.Lease) {
	e.Helper()
	if err := e.s.Release(bg, l); err != nil {
		e.Errorf("release %q: %v", l.Key, err)
	}
}

func (e *env) epoch(seen store.Head) store.LogEntry {
	e.Helper()
	entry, err := e.s.NewEpoch(bg, 0, seen, 0)
	if err != nil {
		e.Fatalf("new epoch: %v", err)
	}
	return entry
}

func (e *env) drop(s store.Store, d store.Drop) store.LogEntry {
	e.Helper()
	entry, err := s.Drop(bg, 0, d, store.Head{})
	if err != nil {
		e.Fatalf("drop %v: %v", d, err)
	}
	return entry
}

func (e *env) head(s store.Store) store.Head {
	e.Helper()
	h, err := s.Head(bg, 0)
	if err != nil {
		e.Fatalf("head: %v", err)
	}
	return h
}

// stamp registers one tag.
func (e *env) stamp(tag string) store.Pos {
	e.Helper()
	_, stamps, err := e.s.Register(bg, 0, []string{tag})
	if err != nil || len(stamps) != 1 {
		e.Fatalf("register %q: %d stamps, %v; want one", tag, len(stamps), err)
	}
	return stamps[0]
}

func (e *env) tail(after store.Pos, limit int) []store.LogEntry {
	e.Helper()
	entries, err := e.s.Tail(bg, 0, after, limit)
	if err != nil {
		e.Fatalf("tail: %v", err)
	}
	return entries
}

func outcome(o store.Outcome) string {
	names := []string{"failed", "leased", "held", "busy", "gone"}
	if int(o) < len(names) {
		return names[o]
	}
	return fmt.Sprintf("outcome %d", o)
}

// crowd calls f n times at once and waits for all.
func crowd(n int, f func(i int)) {
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-gate
			f(i)
		})
	}
	close(gate)
	wg.Wait()
}

// A recorder keeps what a watcher is told.
type recorder struct {
	e    *env
	busy atomic.Bool
	stop func()

	mu      sync.Mutex
	wake    chan struct{} // closed and replaced at every event
	logged  []store.LogEntry
	parts   []int
	changed map[string]int
	all     int // Changed(nil)
	links   []store.Link
	calls   int
}

// watch starts a recorder on s and waits for the link.
func (e *env) watch(s store.Store) *recorder {
	e.Helper()
	r := &recorder{e: e, wake: make(chan struct{}), changed: map[string]int{}}
	r.stop = s.Watch(store.Watcher{
		Logged: func(part int, entry store.LogEntry) {
			r.event(func() { r.logged, r.parts = append(r.logged, entry), append(r.parts, part) })
		},
		Changed: func(keys []string) {
			r.event(func() {
				if keys == nil {
					r.all++
				}
				for _, k := range keys {
					r.changed[k]++
				}
			})
		},
		Link: func(l store.Link) { r.event(func() { r.links = append(r.links, l) }) },
	})
	e.Cleanup(r.stop)
	r.until("the link is up", func() bool { return len(r.links) > 0 && r.links[len(r.links)-1].Up })
	return r
}

// tracks skips the case for a store that isn't told of foreign writes.
func (r *recorder) tracks() *recorder {
	r.e.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.links[len(r.links)-1].Tracks {
		r.e.Skip("this store's link doesn't track")
	}
	return r
}

func (r *recorder) event(f func()) {
	if r.busy.Swap(true) {
		r.e.Error("a watcher is called by two at once")
	}
	defer r.busy.Store(false)
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.calls++
	close(r.wake)
	r.wake = make(chan struct{})
}

// has looks at what was recorded so far.
func (r *recorder) has(ok func() bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ok()
}

// until waits for an event that makes ok true.
func (r *recorder) until(what string, ok func() bool) {
	r.e.Helper()
	timeout := time.After(patience)
	for {
		r.mu.Lock()
		done, wake := ok(), r.wake
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-wake:
		case <-timeout:
			r.e.Fatalf("waited in vain: %s", what)
		}
	}
}
