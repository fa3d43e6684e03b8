package redislimit

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
)

// short policies of each kind, with a penalty.
func onePerKind() (all []*limit.Policy) {
	penalty := limit.Penalty{After: 1, Within: time.Minute, Block: time.Minute}
	for kind, spec := range map[string]limit.Spec{
		"gcra":        {Limit: 3, Period: time.Hour, Burst: 3},
		"strict":      {Kind: limit.Strict, Limit: 3, Period: time.Hour},
		"fixed":       {Kind: limit.Fixed, Limit: 3, Calendar: limit.Year},
		"concurrency": {Kind: limit.Concurrency, Limit: 3, TTL: time.Hour},
	} {
		spec.Penalty = penalty
		all = append(all, limit.MustPolicy(kind, spec))
	}
	return append(all, limit.MustPolicy("plain", limit.Spec{Limit: 3, Period: time.Hour}))
}

// TestHeal: a key that was robbed of its expiry is given another by the next decision, admitted or not.
func TestHeal(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL())
	for _, p := range onePerKind() {
		for _, left := range []int{2, 0} { // units that are left when the expiry is lost
			key := fmt.Sprint("k", left)
			for range 3 - left {
				take(t, s, p, key, 1)
			}
			if left == 0 {
				take(t, s, p, key, 1) // refused: with a penalty there is a record
			}
			for _, how := range []string{"take", "ask"} {
				names := strings.Fields(srv.CLI(t, "KEYS", "limit:*"))
				for _, name := range names {
					srv.CLI(t, "PERSIST", name)
				}
				cost := int64(1)
				if how == "ask" {
					cost = 0
				}
				take(t, s, p, key, cost)
				for _, name := range []string{s.stateName(p, key), s.name('p', p, key)} {
					if got := srv.CLI(t, "PTTL", name); got == "-1" {
						t.Errorf("%s, %d left, %s: %s has no expiry", p.Name(), left, how, name)
					}
				}
			}
		}
		srv.CLI(t, "FLUSHALL")
	}

	// A merged charge heals, too.
	take(t, s, forEver, "m", 5)
	srv.CLI(t, "PERSIST", s.stateName(forEver, "m"))
	if got := merge(s, chargeArgs{s.stateName(forEver, "m"), s.argsOf(forEver).one}, 1); got[0].debt >= 0 {
		t.Errorf("got %+v; want a refusal", got)
	}
	everythingExpires(t, srv)
}

// merge sends n equal charges of each kind together, and returns the answers.
func merge(s *Store, c chargeArgs, n int) (got []debtOrError) {
	return mergeAll(s, []chargeArgs{c}, []int{n})[0]
}

func mergeAll(s *Store, c []chargeArgs, n []int) [][]debtOrError {
	batch, all := make([]*merged, len(c)), make([][]*waiter, len(c))
	for i := range c {
		batch[i] = &merged{chargeArgs: c[i]}
		for range n[i] {
			w := &waiter{done: make(chan debtOrError, 1)}
			batch[i].waiting = append(batch[i].waiting, w)
		}
		all[i] = slices.Clone(batch[i].waiting)
	}
	s.merger.send(slices.Clone(batch))
	got := make([][]debtOrError, len(c))
	for i := range c {
		for _, w := range all[i] {
			got[i] = append(got[i], <-w.done)
		}
	}
	return got
}

// TestMerged compares charges that go together with the same charges one after the other.
func TestMerged(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s, err := openWith(srv.URL(), Options{}, virtual)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "connected", func() bool { return s.one.live.Load() != nil })
	r := random(t)
	m := &model{states: map[string]*limit.State{}}
	var policies []*limit.Policy
	for i, spec := range []limit.Spec{
		{Limit: 10, Period: time.Second}, {Limit: 3, Period: time.Second, Burst: 1}, {Limit: 3, Period: time.Second, Burst: 7, Debt: -1},
		{Limit: 1_000_000, Period: time.Second}, {Limit: 1, Period: limit.MaxPeriod, Burst: 9, Debt: 1}, {Limit: 0, Period: time.Second},
	} {
		policies = append(policies, limit.MustPolicy(fmt.Sprint("p", i/2), spec)) // two versions of each
	}
	now := time.Now().Add(24 * 3650 * time.Hour).UnixMicro()
	for step := range 1500 {
		now += []int64{0, 1, 50_000, 1_000_000, -300_000}[r.IntN(5)]
		setClock(t, s, now)
		var args []chargeArgs
		var n []int
		var charges []limit.Charge
		for range 1 + r.IntN(5) {
			c := limit.Charge{Policy: policies[r.IntN(len(policies))], Key: strconv.Itoa(r.IntN(3)), Cost: []int64{1, 1, 0, 2, 5}[r.IntN(5)]}
			charges = append(charges, c)
			args = append(args, chargeArgs{s.stateName(c.Policy, c.Key), s.argsOf(c.Policy).gcra(&c)})
			n = append(n, 1+r.IntN(6)*r.IntN(2))
		}
		for i, answers := range mergeAll(s, args, n) {
			for j, got := range answers {
				if got.err != nil {
					t.Fatal(got.err)
				}
				cells := m.cells(charges[i:i+1], now)
				m.take(cells)
				if st := gcraStatus(&charges[i], got.debt, true); st != cells[0].Status {
					t.Fatalf("step %d, charge %d of %d of cost %d by %+v:\n got %s\nwant %s", step, j, n[i], charges[i].Cost, *charges[i].Policy.Rule(), sprint(st), sprint(cells[0].Status))
				}
			}
		}
	}
	everythingExpires(t, srv)
}

// FuzzState puts any bytes where a state is kept. No decision may fail, the answers must be such as the rules can give, and what
// is written must expire.
func FuzzState(f *testing.F) {
	now := uint64(time.Now().UnixMicro())
	numbers := func(n ...uint64) (b []byte) {
		for _, v := range n {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		return b
	}
	for kind := range uint8(5) {
		for _, b := range [][]byte{
			nil, []byte("x"), []byte("-1"), []byte("1e400"), []byte("-nan"), []byte("inf"), []byte("0x7fffffffffffffff"), []byte(text(int64(now)+1000) + ".5"),
			[]byte(text(int64(now) + 1e6)), []byte(text(1 << 53)), numbers(now, 2), numbers(1<<63, 1<<63), numbers(2, now, 2), numbers(1, now+1e12, 1<<63),
			numbers(3, now, 1, now-5, 1, now, 1), numbers(1, now, 0), numbers(now, 1, now+1e6), numbers(1<<63, 1<<63, 1<<63), numbers(0, 0, 0),
		} {
			f.Add(kind, byte(0), b)
			f.Add(kind, byte(1), b)
		}
		f.Add(kind, byte(0), []byte("\x00\v00000000000000\x00\x00000000"))
		f.Add(kind, byte(2), []byte("list"))
		f.Add(kind, byte(3), []byte("1.5"))
		f.Add(kind, byte(4), []byte("-inf"))
	}
	srv := testenv.Redis(f)
	s := open(f, srv.URL())
	policies := onePerKind()
	slices.SortFunc(policies, func(a, b *limit.Policy) int { return strings.Compare(a.Name(), b.Name()) })
	f.Fuzz(func(t *testing.T, kind, how byte, state []byte) {
		p := policies[int(kind)%len(policies)]
		name := s.stateName(p, "k")
		l := s.one.live.Load()
		b := l.client.B()
		do := func(args ...string) {
			if err := l.client.Do(t.Context(), b.Arbitrary(args...).Build()).Error(); err != nil && how < 3 {
				t.Fatal(err)
			}
		}
		do("FLUSHALL")
		record := s.name('p', p, "k")
		switch how %= 5; how {
		case 0:
			do("SET", name, string(state))
		case 1:
			do("SET", record, string(state))
		case 2:
			do("LPUSH", name, string(state))
			do("LPUSH", record, string(state))
		case 3: // as the sum; redis may refuse the number
			do("ZADD", name, string(state), "")
			do("ZADD", name, text(int64(now+3600e6)), "0123456789abcdef")
		case 4:
			do("ZADD", name, "-2", "")
			do("ZADD", name, string(state), "0123456789abcdef")
			do("ZADD", name, string(state), "0123456789abcdefu")
		}
		var id limit.ID
		copy(id[:], "0123456789abcdef")
		check := func(op string, st limit.Status, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", op, err)
			}
			if st.Remaining < 0 || st.Remaining > 3 || st.RetryAfter < 0 || st.MoreAfter < 0 || st.ResetAfter < 0 || st.Charged && !st.Fits || !st.Fits && st.RetryAfter == 0 {
				t.Errorf("%s by %s: %s", op, p.Name(), sprint(st))
			}
			if most := 366 * 24 * time.Hour; st.RetryAfter > most || st.ResetAfter > most {
				t.Errorf("%s by %s takes too long: %s", op, p.Name(), sprint(st))
			}
		}
		var out [1]limit.Status
		charge := limit.Charge{Policy: p, Key: "k", Cost: 1, Lease: newID()}
		check("peek", out[0], s.Peek(t.Context(), []limit.Charge{charge}, out[:]))
		check("peek", out[0], nil)
		st, err := s.Take(t.Context(), charge)
		check("take", st, err)
		check("adjust", st, s.Adjust(t.Context(), []limit.Adjustment{{Policy: p, Key: "k", Units: -1, At: int64(now)}}, out[:]))
		check("adjust", out[0], nil)
		if err := s.Renew(t.Context(), p, "k", id); err != nil && err != limit.ErrLeaseLost {
			t.Error(err)
		}
		if err := s.Release(t.Context(), p, "k", id); err != nil {
			t.Error(err)
		}
		charge.Cost = 2
		st, err = s.Take(t.Context(), charge)
		check("take of 2", st, err)
		if st.Charged {
			if n, err := l.client.Do(t.Context(), b.Pttl().Key(name).Build()).AsInt64(); err != nil || n < 0 {
				t.Errorf("what was charged has PTTL %d, %v", n, err)
			}
		}
		if err := s.Reset(t.Context(), p, "k"); err != nil {
			t.Error(err)
		}
		if st, err = s.Take(t.Context(), charge); err != nil || !st.Charged {
			t.Errorf("after a reset: %s, %v", sprint(st), err)
		}
	})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL())
	f := func(memory, policy, want string) {
		t.Helper()
		srv.CLI(t, "CONFIG", "SET", "maxmemory", memory)
		srv.CLI(t, "CONFIG", "SET", "maxmemory-policy", policy)
		got := ""
		if err := s.Check(t.Context()); err != nil {
			got = err.Error()
		}
		if want != "" {
			want = "redislimit: check of " + srv.Addr() + ": " + ErrEvicts.Error() + ": " + want + "; want noeviction or volatile-ttl"
		}
		if got != want {
			t.Errorf("%s and %s:\n got %s\nwant %s", memory, policy, got, want)
		}
	}
	f("0", "allkeys-lru", "")
	f("100mb", "noeviction", "")
	f("100mb", "volatile-ttl", "")
	f("100mb", "allkeys-lru", "maxmemory is 104857600 and maxmemory-policy allkeys-lru")
	f("100mb", "volatile-random", "maxmemory is 104857600 and maxmemory-policy volatile-random")
}

// TestSkew: what this process thinks of the time doesn't matter.
func TestSkew(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s := open(t, srv.URL())
	p := limit.MustPolicy("second", limit.Spec{Kind: limit.Fixed, Limit: 1e15, Period: time.Second})
	for _, skew := range []time.Duration{0, 3 * time.Second, -3 * time.Second, 300 * 24 * time.Hour, -50 * 365 * 24 * time.Hour} {
		s.skew.Store(skew.Microseconds())
		before := time.Now()
		st := take(t, s, p, "k", 1)
		// The server's clock is ours.
		if at := time.UnixMicro(st.At); at.Before(before) || at.After(time.Now()) || st.ResetAfter > time.Second {
			t.Errorf("with a clock %v off: %s", skew, sprint(st))
		}
	}
	st := take(t, s, forEver, "k", 1)
	if want := forEver.Rule().Interval; st.ResetAfter.Microseconds() != want {
		t.Errorf("it resets in %v; want %d µs", st.ResetAfter, want)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	f := func(url string, o Options, want string) {
		t.Helper()
		s, err := Open(url, o)
		if err == nil {
			s.Close()
			t.Errorf("%s %+v was opened; want %s", url, o, want)
		} else if err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", url, err, want)
		}
	}
	f("redis://h?budget=5ms", Options{}, `redislimit: redis url "redis://h": unknown option "budget"`)
	f("http://h", Options{}, `redislimit: redis url "http://h": scheme is "http"; want redis, rediss or unix, or redis or rediss with +sentinel or +cluster`)
	f("redis://h", Options{Prefix: "{a}"}, `redislimit: Prefix is "{a}"; want no braces`)
	f("redis://h?name=a%20b", Options{}, `redislimit: Name is "a b"; want no spaces`)
}

// TestOtherWays: a prefix, a database, a socket, a name.
func TestOtherWays(t *testing.T) {
	t.Parallel()
	srv := testenv.Redis(t)
	s, err := Open("unix://"+srv.Socket()+"?db=3&name=me", Options{Prefix: "app:"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	connected(t, s)
	take(t, s, forEver, "k", 1)
	if got := srv.CLI(t, "-n", "3", "EXISTS", "app:limit:g:{for-ever:k}"); got != "1" {
		t.Errorf("EXISTS says %s; want 1", got)
	}
	srv.CLI(t, "SCRIPT", "FLUSH") // a forgotten script is sent again
	if st := take(t, s, forEver, "k", 1); st.Remaining != 3 {
		t.Errorf("%d remain; want 3", st.Remaining)
	}
	if got := srv.CLI(t, "CLIENT", "LIST"); !strings.Contains(got, " name=me ") {
		t.Errorf("the connection is not named: %s", got)
	}
}
