package redisstore

import (
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a store that is connected and closed at the end of the test.
func open(t testing.TB, url string, o Options) *Store {
	t.Helper()
	s, err := Open(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	up(t, s)
	return s
}

// up waits until the store answers.
func up(t testing.TB, s *Store) {
	t.Helper()
	eventually(t, "the store is up", s.linked)
}

// linked reports whether calls are let through, everywhere.
func (s *Store) linked() bool {
	if s.one != nil {
		return s.one.gate.live.Load() != nil
	}
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	return s.events.up
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// roomy is for tests that don't test the budget: two noisy cores may stall for longer.
var roomy = Options{Budget: 2 * time.Second}

func newID() (id store.ID) {
	rand.Read(id[:])
	return id
}

func record(payload string) []byte {
	return store.AppendRecord(nil, &store.Record{Kind: store.KindValue, ID: newID(), Codec: "raw", Payload: []byte(payload)})
}

// A diary is a watcher that remembers.
type diary struct {
	mu      sync.Mutex
	logged  []store.LogEntry
	changed []string // "*" for any key
	links   []store.Link
	breaker []bool
	all     []string // kinds, in order
}

func watch(t testing.TB, s *Store) *diary {
	d := new(diary)
	stop := s.Watch(store.Watcher{
		Logged: func(_ int, e store.LogEntry) {
			d.note("logged", func() { d.logged = append(d.logged, e) })
		},
		Changed: func(keys []string) {
			if keys == nil {
				keys = []string{"*"}
			}
			d.note("changed", func() { d.changed = append(d.changed, keys...) })
		},
		Link: func(l store.Link) {
			d.note("link", func() { d.links = append(d.links, l) })
		},
		Breaker: func(open bool, _ error) {
			d.note("breaker", func() { d.breaker = append(d.breaker, open) })
		},
	})
	t.Cleanup(stop)
	return d
}

func (d *diary) note(kind string, f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, kind)
	f()
}

func (d *diary) has(ok func(*diary) bool) func() bool {
	return func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return ok(d)
	}
}

func (d *diary) sawChange(key string) func() bool {
	return d.has(func(d *diary) bool { return slices.Contains(d.changed, key) })
}

func TestReadsWhatIsThere(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), roomy)
	ctx := t.Context()
	srv.CLI(t, "SET", "a", "1")
	srv.CLI(t, "SET", "b", "2", "PX", "60000")
	srv.CLI(t, "SET", "empty", "")
	srv.CLI(t, "RPUSH", "list", "x")

	vals, err := s.Read(ctx, []string{"a", "none", "b", "empty", "list"}, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"1", "", "2", "", ""} {
		if got := string(vals[i].Image); got != want || (vals[i].Image == nil) != (want == "") {
			t.Errorf("value %d is %q; want %q", i, vals[i].Image, want)
		}
	}
	for _, key := range []string{"none", "empty", "list"} {
		if vals, err := s.Read(ctx, []string{key}, false); err != nil || vals[0].Image != nil {
			t.Errorf("%s is %q, %v; want nothing", key, vals, err)
		}
	}
	vals, err = s.Read(ctx, []string{"a", "b", "none", "list"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if vals[0].TTL != 0 || vals[1].TTL < 50*time.Second || vals[1].TTL > time.Minute || vals[2].Image != nil {
		t.Errorf("plain values are %v; want no ttl, about a minute, nothing", vals)
	}

	many := make([]string, 3*readKeys+5)
	for i := range many {
		many[i] = "none"
	}
	many[0], many[readKeys], many[len(many)-1] = "a", "b", "b"
	for _, plain := range []bool{false, true} {
		vals, err := s.Read(ctx, many, plain)
		if err != nil || len(vals) != len(many) {
			t.Fatalf("got %d values, %v; want %d", len(vals), err, len(many))
		}
		if string(vals[0].Image)+string(vals[readKeys].Image)+string(vals[len(many)-1].Image) != "122" {
			t.Errorf("plain=%v: values are in the wrong places", plain)
		}
	}
}

func TestReadsInGroups(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), roomy)
	for _, k := range strings.Fields("k0 k1 k2 k3 k4 k5 k6 k7 k8 k9") {
		srv.CLI(t, "SET", k, "v"+k, "EX", "100")
	}
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := range 300 {
				a, b := "k"+string(rune('0'+(g+i)%10)), "k"+string(rune('0'+i%10))
				plain := (g+i)%7 == 0
				vals, err := s.Read(t.Context(), []string{a, "none", b}, plain)
				if err != nil {
					t.Error(err)
					return
				}
				if string(vals[0].Image) != "v"+a || vals[1].Image != nil || string(vals[2].Image) != "v"+b {
					t.Errorf("%s, none, %s are %q", a, b, vals)
					return
				}
				if plain != (vals[0].TTL > 0) {
					t.Errorf("plain is %v, ttl is %v", plain, vals[0].TTL)
				}
			}
		})
	}
	wg.Wait()
	if s.one.reads.groups != 0 || s.one.reads.first != nil {
		t.Errorf("%d groups are left, queue %v", s.one.reads.groups, s.one.reads.first)
	}
}

// Whatever made us know a key, a foreign change of it must be told.
func TestForeignChangeIsTold(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL(), Options{Budget: roomy.Budget, Prefix: "app:"})
	d := watch(t, s)
	ctx := t.Context()
	image := record("v")

	claim := func(key string, seen store.Identity, refresh, plain bool) store.Lease {
		t.Helper()
		c := s.Claim(ctx, []store.ClaimRequest{{Key: key, ID: newID(), TTL: time.Minute, Seen: seen, Refresh: refresh, Plain: plain}})[0]
		if c.Outcome != store.Leased {
			t.Fatalf("claim of %s is %+v; want leased", key, c)
		}
		return c.Lease
	}
	fill := func(l store.Lease) {
		t.Helper()
		if err := s.Fill(ctx, []store.FillRequest{{Lease: l, Image: image, TTL: time.Minute}})[0]; err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		key string
		do  func(key string)
	}{
		{"read-absent", func(key string) { s.Read(ctx, []string{key}, false) }},
		{"read-present", func(key string) {
			srv.CLI(t, "SET", "app:"+key, "x")
			s.Read(ctx, []string{key, "other"}, false)
		}},
		{"read-plain", func(key string) {
			srv.CLI(t, "SET", "app:"+key, "x", "EX", "100")
			s.Read(ctx, []string{key}, true)
		}},
		{"claimed", func(key string) { claim(key, "", false, false) }},
		{"claimed-plain", func(key string) { claim(key, "", false, true) }},
		{"filled", func(key string) { fill(claim(key, "", false, false)) }},
		{"filled-plain", func(key string) { fill(claim(key, "", false, true)) }},
		{"written", func(key string) {
			if err := s.Write(ctx, key, image, time.Minute); err != nil {
				t.Fatal(err)
			}
		}},
		{"refreshing", func(key string) {
			s.Write(ctx, key, image, time.Minute)
			claim(key, store.IdentityOf(image), true, false)
		}},
		{"refreshed", func(key string) {
			s.Write(ctx, key, image, time.Minute)
			fill(claim(key, store.IdentityOf(image), true, false))
		}},
		{"held", func(key string) {
			srv.CLI(t, "SET", "app:"+key, "x")
			s.Claim(ctx, []store.ClaimRequest{{Key: key, ID: newID(), TTL: time.Minute}})
		}},
	} {
		t.Run(c.key, func(t *testing.T) {
			c.do(c.key)
			if d.sawChange(c.key)() {
				t.Error("told of our own change")
			}
			srv.CLI(t, "SET", "app:"+c.key, "foreign")
			srv.CLI(t, "DEL", "app:"+c.key)
			eventually(t, "the change is told", d.sawChange(c.key))
		})
	}
	s.Read(ctx, []string{"flushed"}, false)
	srv.CLI(t, "FLUSHALL")
	eventually(t, "a flush is told", d.sawChange("*"))
	d.has(func(d *diary) bool {
		for _, k := range d.changed {
			if strings.Contains(k, "freshet:") {
				t.Errorf("told of a change of %q", k)
			}
		}
		return true
	})()
}

// Head promises that everything before it was handed over: without the promise this
// would fail at once, with messages from a channel as well as with a second connection.
func TestHeadComesLast(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	a, b := open(t, srv.URL(), roomy), open(t, srv.URL(), roomy)
	ctx := t.Context()
	if _, err := a.NewEpoch(ctx, 0, store.Head{}, 0); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var last store.Head
	changed := false
	defer b.Watch(store.Watcher{
		Logged:  func(_ int, e store.LogEntry) { mu.Lock(); last = e.Head; mu.Unlock() },
		Changed: func([]string) { mu.Lock(); changed = true; mu.Unlock() },
	})()
	for range 500 {
		b.Read(ctx, []string{"k"}, false)
		mu.Lock()
		changed = false
		mu.Unlock()
		if err := a.Write(ctx, "k", []byte("v"), time.Minute); err != nil {
			t.Fatal(err)
		}
		e, err := a.Drop(ctx, 0, store.Drop{Keys: []string{"k"}, Tags: []string{"t"}}, store.Head{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := b.Head(ctx, 0)
		if err != nil || h != e.Head {
			t.Fatalf("head is %v, %v; want %v", h, err, e.Head)
		}
		mu.Lock()
		if last != h || !changed {
			t.Fatalf("after the head %v came, the last message was %v, changed %v", h, last, changed)
		}
		mu.Unlock()
	}
}
