package freshet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/observe"
)

// P5: Redis is never in the way. A service of 64 goroutines reads 200 keys while Redis hangs, dies and
// comes back.

const (
	serviceCallers = 64
	serviceKeys    = 200
	serviceLoad    = 5 * time.Millisecond
	serviceLoads   = 16 // MaxLoads
	serviceBudget  = 50 * time.Millisecond
)

// A service is one instance with two caches over the same source: one with L1, one that asks the
// shared level each time.
type service struct {
	t       *testing.T
	client  *freshet.Client
	l1, l2  *freshet.Cache[int, int64]
	version [serviceKeys]atomic.Int64 // the source

	running, most atomic.Int64 // loads under way, and the most there ever were
	breaker       struct {
		sync.Mutex
		states []bool
	}
}

func newService(t *testing.T, url string, source *service) *service {
	t.Helper()
	s := &service{t: t}
	if source == nil {
		source = s
	}
	began := time.Now()
	var err error
	s.client, err = freshet.Open(t.Context(), url, freshet.Options{
		StaleAtMost: faultBound, MaxLoads: serviceLoads, StoreBudget: serviceBudget,
		Hooks: observe.Hooks{Breaker: func(b observe.Breaker) {
			s.breaker.Lock()
			s.breaker.states = append(s.breaker.states, b.Open)
			s.breaker.Unlock()
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 500*time.Millisecond+faultSlack {
		t.Errorf("Open took %v; want half a second at most", took)
	}
	t.Cleanup(func() { s.client.Close() })
	load := func(ctx context.Context, k int, _ *freshet.Load) (int64, error) {
		n := s.running.Add(1)
		defer s.running.Add(-1)
		for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
		}
		v := source.version[k].Load()
		select {
		case <-time.After(serviceLoad):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		return v, nil
	}
	tags := func(k int) []string { return []string{freshet.Tag("items", k)} }
	cfg := freshet.Config[int, int64]{Name: "item", TTL: time.Hour, Tags: tags, Load: load}
	if s.l1, err = freshet.NewCache(s.client, cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Name, cfg.MaxEntries = "bare", -1
	if s.l2, err = freshet.NewCache(s.client, cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) sawBreaker(open bool) bool {
	s.breaker.Lock()
	defer s.breaker.Unlock()
	return slices.Contains(s.breaker.states, open)
}

// A siege is what the callers of a service met.
type siege struct {
	sync.Mutex
	took   []time.Duration
	errors int
	levels map[observe.Level]int
	stall  time.Duration // by which the machine made a goroutine that does nothing late at worst
}

// besiege reads with all goroutines until stop is called.
func (s *service) besiege() (stop func() *siege) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	all := &siege{levels: make(map[observe.Level]int)}
	wg.Go(func() {
		for {
			began := time.Now()
			select {
			case <-quit:
				return
			case <-time.After(time.Millisecond):
			}
			all.stall = max(all.stall, time.Since(began)-time.Millisecond)
		}
	})
	for g := range serviceCallers {
		wg.Go(func() {
			var took []time.Duration
			levels := make(map[observe.Level]int)
			for i := 0; ; i++ {
				select {
				case <-quit:
					all.Lock()
					all.took = append(all.took, took...)
					for l, n := range levels {
						all.levels[l] += n
					}
					all.Unlock()
					return
				default:
				}
				cache := s.l1
				if (g+i)%4 == 0 {
					cache = s.l2
				}
				began := time.Now()
				r, err := cache.Lookup(context.Background(), (g*31+i*7)%serviceKeys)
				took = append(took, time.Since(began))
				levels[r.Level]++
				if err != nil {
					all.Lock()
					if all.errors++; all.errors < 5 {
						s.t.Errorf("read: %v; want no error while the source works", err)
					}
					all.Unlock()
				}
				time.Sleep(time.Millisecond) // so that two cores can serve the 64
			}
		})
	}
	return func() *siege {
		close(quit)
		wg.Wait()
		slices.Sort(all.took)
		return all
	}
}

// longest is what one Get may take while Redis hangs: the budget of the store, a turn among the loads, and a load.
const longest = serviceBudget + serviceCallers/serviceLoads*serviceLoad + serviceLoad

func (s *service) judge(what string, got *siege) {
	s.t.Helper()
	n := len(got.took)
	s.t.Logf("%s: %d reads, p50 %v, p99 %v, max %v; by level %v; at most %d loads at once; the machine stood still for %v", what, n, got.took[n/2], got.took[n*99/100], got.took[n-1], got.levels, s.most.Load(), got.stall)
	// A read is handed from goroutine to goroutine, and each may be made late.
	if worst := got.took[n-1]; worst > longest+faultSlack+4*got.stall {
		s.t.Errorf("%s: a read took %v; want at most %v and what two noisy cores add", what, worst, longest)
	}
	if m := s.most.Load(); m > serviceLoads {
		s.t.Errorf("%s: %d loads at once; want at most %d", what, m, serviceLoads)
	}
}

// change writes the source and drops the key, in both caches.
func (s *service) change(source *service, k int) error {
	source.version[k].Add(1)
	return s.client.DropTags(context.Background(), freshet.Tag("items", k))
}

// wants checks what an instance has for a key.
func (s *service) wants(what string, k int, want int64) {
	s.t.Helper()
	for _, c := range []*freshet.Cache[int, int64]{s.l1, s.l2} {
		r, err := c.Lookup(context.Background(), k)
		if err != nil || r.Value != want {
			s.t.Errorf("%s: key %d is %d (%v, from %v), want %d", what, k, r.Value, err, r.Level, want)
		}
	}
}

// warm fills L1 and the shared level.
func (s *service) warm() {
	var ks []int
	for k := range serviceKeys {
		if k%8 != 0 { // a few keys are cold when Redis goes
			ks = append(ks, k)
		}
	}
	for _, c := range []*freshet.Cache[int, int64]{s.l1, s.l2} {
		if _, err := c.GetMany(context.Background(), ks); err != nil {
			s.t.Fatal(err)
		}
	}
}

// back waits for the recovery of an instance: trust, hits from the shared level, no pending drops.
func (s *service) back(limit time.Duration) time.Duration {
	s.t.Helper()
	const probe = serviceKeys - 1
	return faultEventually(s.t, "trust is back, the shared level answers, and no drop is pending", limit, func() bool {
		st := s.client.Stats()
		r, err := s.l2.Lookup(context.Background(), probe)
		return err == nil && r.Level == observe.LevelL2 && st.LinkUp && st.StaleFor >= 0 && st.StaleFor < faultBound && st.PendingNow == 0
	})
}

// dropMeanwhile changes two keys while Redis is away, and returns what they are then.
func (s *service) dropMeanwhile(t *testing.T) {
	t.Helper()
	for _, k := range []int{1, 9} {
		began := time.Now()
		err := s.change(s, k)
		if took := time.Since(began); took > serviceBudget+faultSlack {
			t.Errorf("the drop took %v", took)
		}
		if pe, ok := errors.AsType[*freshet.PendingError](err); !errors.Is(err, freshet.ErrPending) || !ok || !slices.Equal(pe.Tags, []string{freshet.Tag("items", k)}) {
			t.Errorf("drop: %v; want a PendingError for the tag", err)
		}
		s.wants("right after the drop", k, s.version[k].Load())
	}
	s.version[2].Add(1)
	if err := s.l1.Drop(context.Background(), 2); !errors.Is(err, freshet.ErrPending) {
		t.Errorf("drop: %v; want pending", err)
	}
	if v, err := s.l1.Get(context.Background(), 2); err != nil || v != s.version[2].Load() {
		t.Errorf("right after the drop, key 2 is %d (%v); want %d", v, err, s.version[2].Load())
	}
}

// An outage is how Redis goes and comes back.
type outage struct {
	name      string
	down, up  func(*testenv.RedisServer)
	recovered time.Duration // wanted
}

func TestOutage(t *testing.T) {
	for _, o := range []outage{
		{"Stopped", (*testenv.RedisServer).Pause, (*testenv.RedisServer).Resume, 2 * time.Second},
		{"KilledAndEmpty", (*testenv.RedisServer).Kill, func(s *testenv.RedisServer) { s.Restart() }, 2 * time.Second},
	} {
		t.Run(o.name, func(t *testing.T) {
			srv := testenv.Redis(t)
			a := newService(t, srv.URL(), nil)
			b := newService(t, srv.URL(), a)
			a.warm()
			b.warm()
			stop := a.besiege()
			time.Sleep(300 * time.Millisecond)
			a.judge("before", stop())

			stop = a.besiege()
			o.down(srv)
			time.Sleep(300 * time.Millisecond)
			a.dropMeanwhile(t)
			time.Sleep(900 * time.Millisecond)
			a.dropMeanwhile(t)
			if !a.sawBreaker(true) {
				t.Error("the hook never told that the breaker is open")
			}
			if a.client.Stats().PendingNow != 3 {
				t.Errorf("%d drops pending; want 3", a.client.Stats().PendingNow)
			}
			a.judge("during", stop())

			stop = a.besiege()
			o.up(srv)
			took := a.back(o.recovered)
			took = max(took, b.back(o.recovered))
			for _, k := range []int{1, 9} {
				a.wants("after recovery", k, a.version[k].Load())
				b.wants("after recovery, on the other instance", k, a.version[k].Load())
			}
			if v, err := b.l1.Get(t.Context(), 2); err != nil || v != a.version[2].Load() {
				t.Errorf("after recovery, key 2 is %d (%v) on the other instance; want %d", v, err, a.version[2].Load())
			}
			time.Sleep(faultBound) // and so it stays
			a.judge("after", stop())
			t.Logf("recovered in %v", took)
			c := newService(t, srv.URL(), a)
			for _, k := range []int{1, 9} {
				c.wants("on a new instance", k, a.version[k].Load())
			}
			if !a.sawBreaker(false) {
				t.Error("the hook never told that the breaker is closed again")
			}
			for k := range serviceKeys {
				if k == 2 {
					continue // dropped in one cache only
				}
				a.wants("in the end", k, a.version[k].Load())
				b.wants("in the end, on the other instance", k, a.version[k].Load())
			}
		})
	}
}

// Open doesn't need Redis, and picks it up when it comes.
func TestOpenWithoutRedis(t *testing.T) {
	srv := testenv.Redis(t)
	srv.Kill()
	a := newService(t, srv.URL(), nil)
	stop := a.besiege()
	time.Sleep(300 * time.Millisecond)
	a.judge("without Redis", stop())
	a.dropMeanwhile(t)
	stop = a.besiege()
	srv.Restart()
	took := a.back(2 * time.Second)
	a.judge("when it comes", stop())
	t.Logf("picked up in %v", took)
	b := newService(t, srv.URL(), a)
	for _, k := range []int{1, 2, 9} {
		b.wants("on another instance", k, a.version[k].Load())
	}
	if got := b.client.Stats().Loads; got > 4 {
		t.Logf("the other instance had to load %d times", got)
	}
}

// A hiccup shorter than a lease: leases asked for or held while Redis hung must not block their keys
// until they run out, since their holders gave up.
func TestHiccupLeavesNoLeases(t *testing.T) {
	srv := testenv.Redis(t)
	a, b := newService(t, srv.URL(), nil), newService(t, srv.URL(), nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var next atomic.Int64
	for _, s := range []*service{a, b} {
		for range 32 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := s.l2.Get(context.Background(), int(next.Add(1))%serviceKeys); err != nil {
						t.Errorf("read: %v", err)
					}
				}
			})
		}
	}
	for range 5 { // all keys are cold again and again
		time.Sleep(50 * time.Millisecond)
		a.client.DropTags(t.Context(), "items!")
		srv.CLI(t, "FLUSHALL")
		time.Sleep(10 * time.Millisecond)
		srv.Pause()
		time.Sleep(150 * time.Millisecond)
		srv.Resume()
	}
	close(stop)
	began := time.Now()
	wg.Wait()
	t.Logf("the last readers were back %v after the last hiccup", time.Since(began))
	a.back(2 * time.Second)
	b.back(2 * time.Second)
	var worst time.Duration
	for k := range serviceKeys {
		for _, s := range []*service{a, b} {
			began := time.Now()
			s.l2.Get(t.Context(), k)
			worst = max(worst, time.Since(began))
		}
	}
	t.Logf("after it, a read took %v at most", worst)
	if worst > time.Second {
		t.Errorf("after the hiccups, a read took %v: an abandoned lease blocks its key", worst)
	}
	left := 0
	for line := range strings.Lines(srv.CLI(t, "EVAL", `local n = 0
		for _, k in ipairs(redis.call('KEYS', 'bare:*')) do if redis.call('PTTL', k) < 40000 then n = n + 1 end end
		return n`, "0")) {
		fmt.Sscan(line, &left)
	}
	if left > 0 {
		t.Errorf("%d keys hold leases that nobody uses", left)
	}
}

// denyDrops makes every drop fail on a server that is well otherwise.
func denyDrops(t *testing.T, srv *testenv.RedisServer) {
	srv.CLI(t, "ACL", "SETUSER", "default", "-xadd", "-unlink", "-del")
}

func allowDrops(t *testing.T, srv *testenv.RedisServer) {
	srv.CLI(t, "ACL", "SETUSER", "default", "+@all")
}

// What a pending drop concerns is not read from the shared level, which still has it, nor stored there by a
// load that began before the drop.
func TestPendingDropHoldsHere(t *testing.T) {
	srv := testenv.Redis(t)
	a := newService(t, srv.URL(), nil)
	a.warm()
	denyDrops(t, srv)
	for range 3 {
		if err := a.change(a, 3); !errors.Is(err, freshet.ErrPending) {
			t.Fatalf("drop of a tag: %v; want pending", err)
		}
		a.wants("while the drop of its tag is pending", 3, a.version[3].Load())
		a.version[4].Add(1)
		if err := a.l2.Drop(t.Context(), 4); !errors.Is(err, freshet.ErrPending) {
			t.Fatalf("drop of a key: %v; want pending", err)
		}
		if v, err := a.l2.Get(t.Context(), 4); err != nil || v != a.version[4].Load() {
			t.Errorf("while its drop is pending, the key is %d (%v); want %d", v, err, a.version[4].Load())
		}
		if m, err := a.l2.GetMany(t.Context(), []int{3, 4, 5}); err != nil || m[3] != a.version[3].Load() || m[4] != a.version[4].Load() {
			t.Errorf("GetMany brings %v (%v); want versions %d and %d", m, err, a.version[3].Load(), a.version[4].Load())
		}
	}
	// A load that a drop overtakes.
	loading, dropped := make(chan struct{}), make(chan struct{})
	var r freshet.Result[int64]
	var wg sync.WaitGroup
	wg.Go(func() {
		r, _ = a.l1.LookupFunc(context.Background(), 1000, func(context.Context, *freshet.Load) (int64, error) {
			close(loading)
			<-dropped
			return 1, nil
		})
	})
	<-loading
	if err := a.l1.Drop(t.Context(), 1000); !errors.Is(err, freshet.ErrPending) {
		t.Fatalf("drop: %v; want pending", err)
	}
	close(dropped)
	wg.Wait()
	if r.Stored || r.Refused != observe.ReasonLeaseLost {
		t.Errorf("a load that a pending drop overtook: stored %v, refused %q; want it refused", r.Stored, r.Refused)
	}
	if v, err := a.l1.GetFunc(t.Context(), 1000, func(context.Context, *freshet.Load) (int64, error) { return 2, nil }); err != nil || v != 2 {
		t.Errorf("afterwards the key is %d (%v); want 2", v, err)
	}
	allowDrops(t, srv)
	faultEventually(t, "the drops are delivered", 2*time.Second, func() bool { return a.client.Stats().PendingNow == 0 })
	b := newService(t, srv.URL(), a)
	b.wants("on another instance, after the delivery", 3, a.version[3].Load())
	if v, err := b.l2.Get(t.Context(), 4); err != nil || v != a.version[4].Load() {
		t.Errorf("on another instance, after the delivery, the key is %d (%v); want %d", v, err, a.version[4].Load())
	}
}

// More pending drops than the outbox keeps become coarser ones, never fewer.
func TestOutboxOverflows(t *testing.T) {
	const many = 10_000 // maxPending
	srv := testenv.Redis(t)
	a := newService(t, srv.URL(), nil)
	b := newService(t, srv.URL(), a)
	a.warm()
	b.warm()
	denyDrops(t, srv)
	names := make([]string, many)
	for i := range names {
		names[i] = fmt.Sprintf("item:%d", 1_000_000+i)
	}
	if err := a.client.DropKeys(t.Context(), names...); !errors.Is(err, freshet.ErrPending) {
		t.Fatalf("drop: %v; want pending", err)
	}
	for k := range 20 {
		a.version[k].Add(1)
		if err := a.l1.Drop(t.Context(), k); !errors.Is(err, freshet.ErrPending) {
			t.Fatalf("drop: %v; want pending", err)
		}
		if v, err := a.l1.Get(t.Context(), k); err != nil || v != a.version[k].Load() {
			t.Errorf("with a full outbox, a dropped key is %d (%v); want %d", v, err, a.version[k].Load())
		}
	}
	for i := range names {
		names[i] = freshet.Tag("items", 1_000_000+i)
	}
	if err := a.client.DropTags(t.Context(), names...); !errors.Is(err, freshet.ErrPending) {
		t.Fatalf("drop: %v; want pending", err)
	}
	for k := 20; k < 40; k++ {
		if err := a.change(a, k); !errors.Is(err, freshet.ErrPending) {
			t.Fatalf("drop: %v; want pending", err)
		}
		a.wants("with a full outbox", k, a.version[k].Load())
	}
	n := a.client.Stats().PendingNow
	t.Logf("%d drops pending", n)
	if n > 2*many+10 {
		t.Errorf("%d drops pending; want about %d keys and as many tags at most", n, many)
	}
	allowDrops(t, srv)
	took := faultEventually(t, "the drops are delivered", 5*time.Second, func() bool { return a.client.Stats().PendingNow == 0 })
	t.Logf("delivered in %v", took)
	for k := range 20 {
		if v, err := b.l1.Get(t.Context(), k); err != nil || v != a.version[k].Load() {
			t.Errorf("after the delivery, a key is %d (%v) on the other instance; want %d", v, err, a.version[k].Load())
		}
	}
	for k := 20; k < 40; k++ {
		b.wants("after the delivery, on the other instance", k, a.version[k].Load())
	}
}

// Never more than MaxLoads at once: of a client, and of a cache with a limit of its own.
func TestMaxLoadsOverRedis(t *testing.T) {
	srv := testenv.Redis(t)
	c, err := freshet.Open(t.Context(), srv.URL(), freshet.Options{MaxLoads: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var shared, own struct{ now, most atomic.Int64 }
	count := func(n *struct{ now, most atomic.Int64 }) func() {
		v := n.now.Add(1)
		for m := n.most.Load(); v > m && !n.most.CompareAndSwap(m, v); m = n.most.Load() {
		}
		time.Sleep(2 * time.Millisecond)
		return func() { n.now.Add(-1) }
	}
	define := func(name string, limit int, n *struct{ now, most atomic.Int64 }) *freshet.Cache[int, int] {
		cfg := freshet.Config[int, int]{Name: name, TTL: time.Hour, MaxLoads: limit}
		cfg.Load = func(_ context.Context, k int, l *freshet.Load) (int, error) {
			defer count(n)()
			if k%10 == 3 {
				l.NoShare()
			}
			return k, nil
		}
		if name == "batch" {
			cfg.LoadMany = func(_ context.Context, ks []int, _ *freshet.BatchLoad[int]) (map[int]int, error) {
				defer count(n)()
				m := make(map[int]int)
				for _, k := range ks {
					m[k] = k
				}
				return m, nil
			}
		}
		cache, err := freshet.NewCache(c, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return cache
	}
	x, y, z := define("x", 0, &shared), define("batch", 0, &shared), define("own", 2, &own)
	var wg sync.WaitGroup
	for g := range 40 {
		wg.Go(func() {
			for i := range 10 {
				k := i*10 + g%10
				var err error
				switch g % 4 {
				case 0:
					_, err = x.Get(context.Background(), k)
				case 1:
					_, err = y.GetMany(context.Background(), []int{k, k + 1, k + 2, 1000*g + i})
				case 2:
					_, err = x.GetMany(context.Background(), []int{k, k + 1, 1000*g + i})
				case 3:
					_, err = z.Get(context.Background(), 1000*(g%8)+k)
				}
				if err != nil {
					t.Errorf("read: %v", err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("at once: %d loads of those who share the limit of 5, %d of the cache with a limit of 2", shared.most.Load(), own.most.Load())
	if m := shared.most.Load(); m != 5 {
		t.Errorf("%d loads at once; want the limit of 5 reached and kept", m)
	}
	if m := own.most.Load(); m != 2 {
		t.Errorf("%d loads at once of the cache with a limit of its own; want the limit of 2 reached and kept", m)
	}
}

// Close in the middle of an outage: it returns soon, and tells what was not delivered.
func TestCloseInAnOutage(t *testing.T) {
	for _, o := range []struct {
		name string
		down func(*testenv.RedisServer, *testenv.FaultProxy)
	}{
		{"Stopped", func(s *testenv.RedisServer, _ *testenv.FaultProxy) { s.Pause() }},
		{"Killed", func(s *testenv.RedisServer, _ *testenv.FaultProxy) { s.Kill() }},
		{"Frozen", func(_ *testenv.RedisServer, p *testenv.FaultProxy) { p.Freeze() }},
		{"Cut", func(_ *testenv.RedisServer, p *testenv.FaultProxy) { p.Cut() }},
		{"Well", func(*testenv.RedisServer, *testenv.FaultProxy) {}},
	} {
		t.Run(o.name, func(t *testing.T) {
			srv := testenv.Redis(t)
			proxy := testenv.Proxy(t, srv.Addr())
			s := newService(t, "redis://"+proxy.Addr(), nil)
			s.warm()
			quit := make(chan struct{})
			var wg sync.WaitGroup
			for g := range 32 {
				wg.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-quit:
							return
						default:
						}
						_, err := s.l2.Get(context.Background(), (g*31+i)%serviceKeys)
						if errors.Is(err, freshet.ErrClosed) {
							return
						}
						if err != nil && !errors.Is(err, context.Canceled) {
							t.Errorf("read: %v", err)
						}
					}
				})
			}
			time.Sleep(20 * time.Millisecond)
			o.down(srv, proxy)
			err := s.client.DropKeys(t.Context(), "item:5")
			if pending := errors.Is(err, freshet.ErrPending); pending == (o.name == "Well") {
				t.Errorf("drop: %v", err)
			}
			began := time.Now()
			err = s.client.Close()
			took := time.Since(began)
			close(quit)
			wg.Wait()
			t.Logf("Close took %v and said %v", took, err)
			if took > serviceBudget+serviceLoad+faultSlack {
				t.Errorf("Close took %v", took)
			}
			if o.name == "Well" {
				if err != nil {
					t.Errorf("Close: %v", err)
				}
				return
			}
			if pe, ok := errors.AsType[*freshet.PendingError](err); !ok || !errors.Is(err, freshet.ErrPending) || !slices.Equal(pe.Keys, []string{"item:5"}) {
				t.Errorf("Close: %v; want a PendingError that names item:5", err)
			}
			if err := s.client.DropKeys(t.Context(), "item:6"); !errors.Is(err, freshet.ErrClosed) {
				t.Errorf("a drop after Close: %v; want ErrClosed", err)
			}
		})
	}
}
