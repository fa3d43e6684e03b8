package redislimit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
)

// A crowd is what one of several processes does.
type crowd struct {
	URL      string
	Specs    []limit.Spec // the limits of one decision
	Keys     int          // over which the decisions are spread
	Callers  int
	Attempts int // of each caller
}

// decide takes one unit of each limit, as the crowd's processes do.
func (c crowd) decide(ctx context.Context, s *Store, policies []*limit.Policy, key string) (bool, error) {
	charges, out := make([]limit.Charge, len(policies)), make([]limit.Status, len(policies))
	for i, p := range policies {
		charges[i] = limit.Charge{Policy: p, Key: key, Cost: 1, Lease: newID()}
	}
	var err error
	if len(charges) == 1 {
		out[0], err = s.Take(ctx, charges[0])
	} else {
		err = s.TakeAll(ctx, charges, out)
	}
	if err != nil {
		return false, err
	}
	all := true
	for _, st := range out {
		all = all && st.Fits
		if st.Charged != out[0].Charged {
			return false, fmt.Errorf("one was charged and another wasn't: %+v", out)
		}
	}
	if all != out[0].Charged {
		return false, fmt.Errorf("all fit: %t, charged: %t", all, out[0].Charged)
	}
	return all, nil
}

func (c crowd) policies() (all []*limit.Policy) {
	for i, spec := range c.Specs {
		all = append(all, limit.MustPolicy(fmt.Sprintf("p%d", i), spec))
	}
	return all
}

// taker is the process: it prints "ready", waits for a line, and prints how many of its decisions were admitted, and how many failed.
func taker(args []string) int {
	var c crowd
	err := json.Unmarshal([]byte(args[0]), &c)
	var s *Store
	if err == nil {
		s, err = Open(c.URL, Options{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer s.Close()
	ctx, cancel := within(2 * time.Minute)
	defer cancel()
	for {
		if _, err := s.Take(ctx, limit.Charge{Policy: anything, Key: "hello", Cost: 1}); !errors.Is(err, limit.ErrUnavailable) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	fmt.Println("ready")
	var line string
	fmt.Scanln(&line)
	policies := c.policies()
	var admitted, failed atomic.Int64
	var wg sync.WaitGroup
	for g := range c.Callers {
		wg.Go(func() {
			for i := range c.Attempts {
				ok, err := c.decide(ctx, s, policies, fmt.Sprintf("{k%d}", (g+i)%c.Keys))
				switch {
				case err != nil:
					failed.Add(1)
					fmt.Fprintln(os.Stderr, err)
				case ok:
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	fmt.Println(admitted.Load(), failed.Load())
	return 0
}

// nothing flows back while a test runs.
const long = 366 * 24 * time.Hour

var kinds = map[string]limit.Spec{
	"gcra":        {Limit: 500, Period: long},
	"strict log":  {Kind: limit.Strict, Limit: 128, Period: long},
	"strict":      {Kind: limit.Strict, Limit: 500, Period: long},
	"fixed":       {Kind: limit.Fixed, Limit: 500, Period: long},
	"concurrency": {Kind: limit.Concurrency, Limit: 500, TTL: time.Hour},
	"penalty":     {Limit: 500, Period: long, Penalty: limit.Penalty{After: 10, Within: time.Minute, Block: time.Minute}},
}

// TestExactly: of any number of concurrent requests of any number of processes, exactly the limit is admitted, with no error.
//
// It runs alone: hundreds of callers leave nothing to others, least of all when they are watched for races.
func TestExactly(t *testing.T) {
	const processes = 4
	srv := testenv.Redis(t)
	f := func(name string, keys int, specs ...limit.Spec) {
		t.Run(fmt.Sprint(name, " ", keys), func(t *testing.T) {
			srv.CLI(t, "FLUSHALL")
			least := specs[0].Limit
			for _, s := range specs {
				least = min(least, s.Limit)
			}
			c := crowd{URL: srv.URL(), Specs: specs, Keys: keys, Callers: 64, Attempts: 4*keys*int(least)/64/processes/2 + 8}
			spec, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			var all []*testenv.Process
			for range processes {
				all = append(all, testenv.Child(t, "taker", string(spec)))
			}
			for _, p := range all {
				if got := p.Line(); got != "ready" {
					t.Fatalf("a process says %q", got)
				}
			}
			for _, p := range all {
				p.Send("go")
			}
			var admitted int64
			for _, p := range all {
				var n, failed int64
				if line := p.Line(); true {
					if _, err := fmt.Sscan(line, &n, &failed); err != nil || failed > 0 {
						t.Errorf("a process says %q: %v", line, err)
					}
				}
				admitted += n
			}
			if want := least * int64(keys); admitted != want {
				t.Errorf("%d were admitted of %d attempts; want %d", admitted, processes*c.Callers*c.Attempts, want)
			}
			everythingExpires(t, srv)
		})
	}
	for name, spec := range kinds {
		f(name, 1, spec)
		if spec.Limit = 20; spec.Kind == limit.Strict && name == "strict" {
			spec.Limit = 200
		}
		f(name, 16, spec)
	}
	f("three of gcra", 1, limit.Spec{Limit: 700, Period: long}, kinds["gcra"], limit.Spec{Limit: 501, Period: long})
	f("one of each", 3, kinds["gcra"], kinds["strict log"], kinds["fixed"], kinds["concurrency"], kinds["penalty"])
}

// used counts what the server keeps of each of n keys, and fails if that is more than one unit of any; at is where it is.
func used(t *testing.T, s *Store, p *limit.Policy, n int) (all []bool) {
	t.Helper()
	most := p.Rule().Most()
	for i := range n {
		var out [1]limit.Status
		eventually(t, "the store answers", func() bool {
			ctx, cancel := within(5 * time.Second)
			defer cancel()
			return s.Peek(ctx, []limit.Charge{{Policy: p, Key: fmt.Sprint(i)}}, out[:]) == nil
		})
		switch gone := most - out[0].Remaining; gone {
		case 0, 1:
			all = append(all, gone == 1)
		default:
			t.Errorf("key %d was charged %d times", i, gone)
			all = append(all, true)
		}
	}
	return all
}

// onceEach asks for one unit of each of n keys, from several callers at once while trouble goes on, each call with a deadline; and reports
// which were answered. No call may last much longer than its deadline.
func onceEach(t *testing.T, s *Store, p *limit.Policy, n int, deadline time.Duration, pause time.Duration) (answered []bool, longest time.Duration, failed error) {
	t.Helper()
	answered = make([]bool, n)
	var mu sync.Mutex
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= n {
					return
				}
				ctx, cancel := within(deadline)
				began := time.Now()
				st, err := s.Take(ctx, limit.Charge{Policy: p, Key: fmt.Sprint(i), Cost: 1, Lease: newID()})
				took := time.Since(began)
				cancel()
				mu.Lock()
				answered[i] = err == nil
				if err != nil {
					failed = err
				}
				longest = max(longest, took)
				mu.Unlock()
				if err == nil && !st.Charged {
					t.Errorf("key %d was refused: %s", i, sprint(st))
				}
				time.Sleep(pause)
			}
		})
	}
	wg.Wait()
	return answered, longest, failed
}

// slack is what a busy machine may add to a deadline; a server in these tests hangs for far longer.
const slack = time.Second

func TestNames(t *testing.T) {
	s := &Store{}
	p, q := limit.MustPolicy("a", limit.Spec{Limit: 1, Period: 1e9}), limit.MustPolicy("a.b", limit.Spec{Limit: 1, Period: 1e9})
	seen := map[string]string{}
	for _, key := range []string{"", "x", "{x}", "{x", "x}", "{}", "{}{x}", "x}:{a:x", "a:{x}", "b:x", "}{", "{x}}", "{{x}}"} {
		for _, p := range []*limit.Policy{p, q} {
			name := s.stateName(p, key)
			if was, twice := seen[name]; twice {
				t.Errorf("%q is the name of %s and of %s %q", name, was, p.Name(), key)
			}
			seen[name] = fmt.Sprintf("%s %q", p.Name(), key)
			if !strings.HasPrefix(name, "limit:g:") {
				t.Errorf("%q begins otherwise than limit:g:", name)
			}
		}
	}
	if got := s.stateName(p, "{t}x"); got != "limit:g:a:{t}x" {
		t.Errorf("a key with a hash tag has the name %q", got)
	}
}
