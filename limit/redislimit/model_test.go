package redislimit

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/limittest"
)

var seed = flag.Uint64("seed", 0, "seed of random tests; 0 for a new one")

// random returns a source of numbers whose seed is printed if the test fails.
func random(t testing.TB) *rand.Rand {
	n := *seed
	if n == 0 {
		n = rand.Uint64N(1e9)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again with -seed %d", n)
		}
	})
	return rand.New(rand.NewPCG(n, 1))
}

func newID() (id limit.ID) {
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	return id
}

// virtual are scripts that read the clock from a list on the server. It is set far ahead of the server's own clock, so
// that nothing expires: what is over must be seen by its times.
var virtual = newScripts(func(text string) string {
	return strings.ReplaceAll(text, "call('TIME')", "call('LRANGE', 'clock', 0, 1)")
})

func setClock(t testing.TB, s *Store, now int64) {
	t.Helper()
	b := s.one.live.Load().client.B()
	for _, r := range s.one.live.Load().client.DoMulti(t.Context(), b.Del().Key("clock").Build(), b.Rpush().Key("clock").Element(text(now/1e6), text(now%1e6)).Build()) {
		if err := r.Error(); err != nil {
			t.Fatal(err)
		}
	}
}

// A model keeps states as Go values, and does what limit.Rule says. A state is written only when the scripts write it too, so that
// what is over can come back when the clock is set back.
type model struct{ states map[string]*limit.State }

func (m *model) state(p *limit.Policy, key string) *limit.State {
	name := fmt.Sprint(p.Name(), p.Rule().Kind, key)
	s := m.states[name]
	if s == nil {
		s = new(limit.State)
		m.states[name] = s
	}
	return s
}

// cells are for charges, with copies of the states.
func (m *model) cells(c []limit.Charge, now int64) []limit.Cell {
	cells := make([]limit.Cell, len(c))
	for i := range c {
		cells[i] = limit.Cell{Charge: c[i], State: copied(m.state(c[i].Policy, c[i].Key)), Now: now}
	}
	return cells
}

func (m *model) take(cells []limit.Cell) {
	limit.TakeCells(cells)
	for _, c := range cells {
		st, r := m.state(c.Charge.Policy, c.Charge.Key), c.Charge.Policy.Rule()
		if c.Status.Charged || ahead(r, st, c.Now) {
			m.write(c.Charge.Policy, c.Charge.Key, c.State, c.Now)
		}
		if r.After > 0 && (!c.Status.Fits || st.Record.Since > c.Now || st.Record.Until > c.Now+r.Block) {
			st.Record = c.State.Record
		}
	}
}

func (m *model) write(p *limit.Policy, key string, s *limit.State, now int64) {
	known := m.state(p, key)
	record := known.Record
	if left, _ := p.Rule().Expires(s, now); left <= 0 {
		s = &limit.State{}
	}
	*known = *copied(s)
	known.Record = record
}

// ahead reports whether a state must be written though nothing was charged, since the clock was set back.
func ahead(r *limit.Rule, s *limit.State, now int64) bool {
	switch r.Kind {
	case limit.GCRA:
		return s.TAT-now > r.Cap
	case limit.Strict:
		return len(s.Spent) > 0 && s.Spent[len(s.Spent)-1].At > now
	case limit.Fixed:
		return s.Start > r.Windows(now)[1]
	}
	for _, h := range s.Held {
		if h.Until > now+r.TTL {
			return true
		}
	}
	return false
}

func (m *model) adjust(a limit.Adjustment, now int64) {
	r, st := a.Policy.Rule(), copied(m.state(a.Policy, a.Key))
	r.Clean(st, now)
	r.Adjust(st, now, a.Units, a.At)
	m.write(a.Policy, a.Key, st, now)
}

func copied(s *limit.State) *limit.State {
	c := *s
	c.Spent = slices.Clone(s.Spent)
	c.Held = slices.Clone(s.Held)
	return &c
}

// somePolicies are several versions of a few policies.
func somePolicies(r *rand.Rand) (all [][]*limit.Policy) {
	pick := func(n ...int64) int64 { return n[r.IntN(len(n))] }
	penalty := func(i int) limit.Penalty {
		if i%2 == 0 {
			return limit.Penalty{}
		}
		return limit.Penalty{After: pick(1, 2, 5), Within: time.Duration(pick(1, 50, 5000)) * time.Millisecond, Block: time.Duration(pick(1, 200, 3000)) * time.Millisecond}
	}
	for i := range 12 {
		var versions []*limit.Policy
		for range 3 {
			spec := limit.Spec{Kind: limit.Kind(i % 4), Limit: pick(0, 1, 2, 5, 100, 128, 129, 1000), Penalty: penalty(i / 4)}
			period := time.Duration(pick(1, 7, 1000, 60_000)) * time.Duration(pick(1000, 1777)) * time.Microsecond
			switch spec.Kind {
			case limit.GCRA:
				spec.Period = max(period, time.Duration(spec.Limit)*time.Microsecond)
				spec.Burst = pick(0, 1, 3, 50)
				if spec.Limit == 0 {
					spec.Burst = 0
				}
				spec.Debt = pick(-1, 0, 2)
			case limit.Strict:
				spec.Period, spec.Debt = period, pick(-1, 0, 3)
			case limit.Fixed:
				spec.Debt = pick(-1, 0, 3)
				if spec.Period = period; r.IntN(2) == 0 {
					spec.Period, spec.Calendar = 0, limit.Calendar(pick(1, 2, 3, 4, 5, 6))
				}
			case limit.Concurrency:
				spec.TTL = period
			}
			versions = append(versions, limit.MustPolicy(fmt.Sprintf("p%d", i), spec))
		}
		all = append(all, versions)
	}
	return all
}

// TestModel compares decision for decision with the rules of package limit, on a clock that also steps.
func TestModel(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s, err := openWith(srv.URL(), Options{}, virtual)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "connected", func() bool { return s.one.live.Load() != nil })
	r := random(t)
	for range 12 {
		modelRound(t, srv, s, r)
		if t.Failed() {
			return
		}
	}
}

func modelRound(t *testing.T, srv *testenv.RedisServer, s *Store, r *rand.Rand) {
	srv.CLI(t, "FLUSHALL")
	m := &model{states: map[string]*limit.State{}}
	policies := somePolicies(r)
	now := time.Now().Add(24 * time.Hour * time.Duration(400+r.IntN(4000))).UnixMicro()
	version := make([]int, len(policies))
	keys := []string{"", "a", "{t}b", "x}y{", "\xff\x00 ü", strings.Repeat("k", limit.MaxKey)}
	var log []string
	var held []limit.Charge
	for step := range 600 {
		switch r.IntN(12) {
		case 0:
			now += r.Int64N(100_000_000)
		case 1:
			now += r.Int64N(5_000)
		case 2:
			if r.IntN(4) == 0 {
				now -= r.Int64N(10_000_000) // the clock is set back
			}
		case 3, 4, 5, 6:
			now += r.Int64N(300)
		case 7:
			if r.IntN(3) == 0 {
				p := r.IntN(len(policies))
				version[p] = r.IntN(len(policies[p])) // the policy is changed
			}
		}
		setClock(t, s, now)
		if r.IntN(3) == 0 {
			s.skew.Store(now - time.Now().UnixMicro() + r.Int64N(6_000_000) - 3_000_000) // what the client thinks
		}
		policy := func() *limit.Policy {
			i := r.IntN(len(policies))
			return policies[i][version[i]]
		}
		var charges []limit.Charge
		used := map[string]bool{}
		for range 1 + r.IntN(4)*r.IntN(2) {
			p := policy()
			if used[p.Name()] {
				continue
			}
			used[p.Name()] = true
			c := limit.Charge{Policy: p, Key: keys[r.IntN(len(keys))], Cost: []int64{0, 1, 1, 1, 2, 5, 130, limit.MaxUnits}[r.IntN(8)], Shadow: r.IntN(6) == 0, Lease: newID()}
			charges = append(charges, c)
		}
		got, want := make([]limit.Status, len(charges)), make([]limit.Status, len(charges))
		op, err := "", error(nil)
		ctx := t.Context()
		switch k := r.IntN(20); {
		case k < 12:
			op = "take"
			if len(charges) == 1 {
				got[0], err = s.Take(ctx, charges[0])
			} else {
				err = s.TakeAll(ctx, charges, got)
			}
			cells := m.cells(charges, now)
			m.take(cells)
			for i := range cells {
				want[i] = cells[i].Status
				if c := cells[i]; c.Charge.Policy.Rule().Kind == limit.Concurrency && c.Status.Charged {
					held = append(held, c.Charge)
				}
			}
		case k < 14:
			op = "peek"
			err = s.Peek(ctx, charges, got)
			cells := m.cells(charges, now)
			limit.PeekCells(cells)
			for i := range cells {
				want[i] = cells[i].Status
			}
		case k < 17:
			op = "adjust"
			adj := make([]limit.Adjustment, len(charges))
			for i, c := range charges {
				adj[i] = limit.Adjustment{Policy: c.Policy, Key: c.Key, Units: []int64{-1, -3, 1, 4, -limit.MaxUnits, limit.MaxUnits}[r.IntN(6)]}
				if r.IntN(2) == 0 {
					adj[i].At = now - r.Int64N(2_000_000)
				}
				charges[i].Cost, charges[i].Shadow = 1, false
				m.adjust(adj[i], now)
				cell := m.cells(charges[i:i+1], now)
				limit.PeekCells(cell)
				want[i] = cell[0].Status
			}
			err = s.Adjust(ctx, adj, got)
		case k < 18 && len(held) > 0:
			c := held[r.IntN(len(held))]
			rule, st := c.Policy.Rule(), m.state(c.Policy, c.Key)
			op, charges = "renew", nil
			st = copied(st)
			rule.Clean(st, now)
			there := rule.Renew(st, now, c.Lease)
			if there {
				m.write(c.Policy, c.Key, st, now)
			}
			if e := s.Renew(ctx, c.Policy, c.Key, c.Lease); there != (e == nil) {
				t.Errorf("step %d: renew says %v; want there: %t", step, e, there)
			}
		case k < 19 && len(held) > 0:
			op = "release"
			i := r.IntN(len(held))
			c := held[i]
			held = append(held[:i], held[i+1:]...)
			rule, st := c.Policy.Rule(), m.state(c.Policy, c.Key)
			st = copied(st)
			rule.Clean(st, now)
			if rule.Release(st, c.Lease) {
				m.write(c.Policy, c.Key, st, now)
			}
			charges, err = nil, s.Release(ctx, c.Policy, c.Key, c.Lease)
		case r.IntN(4) == 0:
			op = "reset"
			*m.state(charges[0].Policy, charges[0].Key) = limit.State{}
			err = s.Reset(ctx, charges[0].Policy, charges[0].Key)
			charges = nil
		default:
			continue
		}
		if err != nil {
			t.Fatalf("step %d: %s: %v", step, op, err)
		}
		for i, c := range charges {
			want[i].Key, want[i].Policy = got[i].Key, got[i].Policy
			log = append(log, fmt.Sprintf("%d at %d: %s %s %v %q cost %d shadow %t: %s", step, now, op, c.Policy.Name(), c.Policy.Rule().Kind, c.Key, c.Cost, c.Shadow, sprint(got[i])))
			if got[i] != want[i] {
				t.Errorf("step %d: %s %+v\n got %s\nwant %s\nstate %+v", step, op, *c.Policy.Rule(), sprint(got[i]), sprint(want[i]), *m.state(c.Policy, c.Key))
			}
			checkExpiry(t, s, m, c, want[i].Charged, now)
		}
		if t.Failed() {
			t.Logf("the last steps:\n%s", strings.Join(log[max(0, len(log)-12):], "\n"))
			return
		}
	}
	everythingExpires(t, srv)
}

// checkExpiry compares when the server will forget what was just written with when it may: by a policy that was changed meanwhile, older
// state may be good for longer.
func checkExpiry(t *testing.T, s *Store, m *model, c limit.Charge, charged bool, now int64) {
	t.Helper()
	st := copied(m.state(c.Policy, c.Key))
	c.Policy.Rule().Clean(st, now)
	state, record := c.Policy.Rule().Expires(st, now)
	if !charged {
		state = 0
	}
	if r := st.Record; c.Policy.Rule().After == 0 || r.Since != now && r.Until != now+c.Policy.Rule().Block {
		record = 0
	}
	for _, k := range []struct {
		name string
		left int64
	}{{s.stateName(c.Policy, c.Key), state}, {s.name('p', c.Policy, c.Key), record}} {
		if k.left <= 0 {
			continue
		}
		l := s.one.live.Load()
		at, err := l.client.Do(t.Context(), l.client.B().Pexpiretime().Key(k.name).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		if want := (now + k.left + 999) / 1000; at < want {
			t.Errorf("%q expires at %d ms; want %d or later: %+v", k.name, at, want, *st)
		}
	}
}

// TestContract is the suite that all stores pass.
func TestContract(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	limittest.Run(t, limittest.Options{}, func(t *testing.T) limit.Store {
		srv.CLI(t, "FLUSHALL")
		return open(t, srv.URL())
	})
}

// TestCompare compares with the suite's model, on a clock that also steps back.
func TestCompare(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s, err := openWith(srv.URL(), Options{}, virtual)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "connected", func() bool { return s.one.live.Load() != nil })
	limittest.Compare(t, func() limittest.Pair {
		srv.CLI(t, "FLUSHALL")
		now := time.Now().Add(24 * 400 * time.Hour).UnixMicro()
		setClock(t, s, now)
		return limittest.Pair{Steps: true, A: s, B: limittest.NewModel(func() int64 { return now }), Advance: func(d time.Duration) {
			now += d.Microseconds()
			setClock(t, s, now)
		}}
	})
}
