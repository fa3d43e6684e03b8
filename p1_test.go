package freshet_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store/memstore"
)

// P1, "a drop is never undone", as a table: ways of having an old value under way, times ways of
// dropping it, times places. In each the source changes from v1 to v2 and the drop comes
// while v1 is held; then it is let go. Nobody who asks after the drop may get v1, not even
// as stale: not where it was dropped, not where it was loaded, not a third instance that has nothing but
// the shared level.

// underWay are the ways of having v1 under way: the kind of cache (see host.define), what is
// held, and by which command.
var underWay = []struct {
	name, kind string
	seeded     bool // v1 is in the shared level before
	hold, get  string
	v1, v2     string
}{
	{name: "load", kind: "a", hold: "load", get: "get"},
	{name: "load of a batch", kind: "loadmany", hold: "load", get: "many"},
	{name: "loads side by side", kind: "a", hold: "load", get: "many"},
	{name: "load that finds nothing", kind: "a", hold: "load", get: "get", v1: "none"},
	{name: "batch that finds nothing", kind: "loadmany", hold: "load", get: "many", v1: "none"},
	{name: "load of what will be deleted", kind: "a", hold: "load", get: "get", v2: "none"},
	{name: "background refresh", kind: "refresh", seeded: true, hold: "load", get: "get"},
	{name: "load past its soft timeout", kind: "slow", seeded: true, hold: "load", get: "get"},
	{name: "load with a late tag", kind: "late", hold: "load", get: "get"},
	{name: "batch with a late tag", kind: "late-loadmany", hold: "load", get: "many"},
	{name: "refresh with a late tag", kind: "late-refresh", seeded: true, hold: "load", get: "get"},
	{name: "read of the shared level", kind: "a", seeded: true, hold: "decode", get: "get"},
	{name: "batch read of the shared level", kind: "a", seeded: true, hold: "decode", get: "many"},
	{name: "read with a late tag", kind: "late", seeded: true, hold: "decode", get: "get"},
	{name: "nothing, v1 is cached", kind: "late", seeded: true},
	{name: "load of a plain key", kind: "plain", hold: "load", get: "get"},
	{name: "read of a plain key", kind: "plain", seeded: true, hold: "decode", get: "get"},
	{name: "nothing, v1 is cached plainly", kind: "plain", seeded: true},
}

// drops are the ways of dropping it. A step without a colon is a command of the host that drops; "cli:" is
// redis-cli or what stands for it.
var drops = []struct {
	name  string
	steps []string
	late  bool // needs a late tag
	plain int  // 0 not possible in a plain namespace, 1 possible, 2 only there
}{
	{name: "drop of the key", steps: []string{"drop C"}, plain: 1},
	{name: "drop of a tag", steps: []string{"tag C"}},
	{name: "drop of a late tag", steps: []string{"late C"}, late: true},
	{name: "clear", steps: []string{"clear C"}},
	{name: "set", steps: []string{"set C V2"}, plain: 1},
	{name: "DEL", steps: []string{"cli:del C:7"}, plain: 1},
	{name: "UNLINK", steps: []string{"cli:unlink C:7"}, plain: 1},
	{name: "SET to rubbish", steps: []string{"cli:set C:7 rubbish"}},
	{name: "SET to a value", steps: []string{`cli:set C:7 {"V":"V2"}`}, plain: 2},
	{name: "drop of a tag whose stamp is lost then", steps: []string{"tag C", "cli:stamp row:C"}},
	{name: "drop of a tag whose stamp was lost", steps: []string{"cli:stamp row:C", "tag C"}},
	{name: "drop of a late tag whose stamp is lost then", steps: []string{"late C", "cli:stamp late:C"}, late: true},
	{name: "drop of a tag that is not announced", steps: []string{"cli:deaf", "tag C", "cli:stamp row:C"}},
	{name: "drop of a key that is not announced", steps: []string{"cli:deaf", "drop C"}, plain: 1},
}

// A place is where the cases happen: a loads, b drops, seed has put v1 into the shared level before, and
// third hasn't heard of the key before it comes and asks after the drop.
type place struct {
	src     source
	a, b    instance
	seed    instance
	third   instance
	fresh   func() *host // an instance that heard of no drop at all: only the stamps tell it
	foreign func(t *testing.T, command string)
	settle  func() // returns when what b did is known to a, as far as it is promised
	deaf    bool   // drops are not announced here
}

// An instance carries out commands: see host.do.
type instance interface{ do(command string) string }

func TestDropIsNeverUndone(t *testing.T) {
	t.Run("memory, one instance", func(t *testing.T) { memoryPlace(t, 1, false).run(t) })
	t.Run("memory, two instances", func(t *testing.T) { memoryPlace(t, 2, false).run(t) })
	t.Run("memory, two instances, one deaf", func(t *testing.T) { memoryPlace(t, 2, true).run(t) })
	t.Run("Redis, one instance", func(t *testing.T) { redisPlace(t, 1).run(t) })
	t.Run("Redis, two instances", func(t *testing.T) { redisPlace(t, 2).run(t) })
	t.Run("Redis, two processes", func(t *testing.T) { redisPlace(t, 3).run(t) })
}

func memoryPlace(t *testing.T, instances int, deaf bool) *place {
	srv := memstore.NewServer(memstore.Options{})
	src := source(t.TempDir())
	connect := func(name string) *host {
		o := hostOptions(name)
		c, err := freshet.New(srv.Connect(), o)
		if err != nil {
			panic(err)
		}
		h := newHost(c, src)
		t.Cleanup(h.close)
		return h
	}
	a := connect("a")
	p := &place{src: src, a: a, b: a, deaf: deaf, seed: connect("seed"), third: connect("third"), fresh: func() *host { return connect("fresh") }}
	if instances == 2 {
		p.b = connect("b")
	}
	p.foreign = func(_ *testing.T, command string) {
		f := strings.SplitN(command, " ", 3)
		switch f[0] {
		case "del", "unlink":
			srv.Del(f[1])
		case "set":
			srv.Set(f[1], []byte(f[2]), 0)
		case "stamp":
			srv.EvictStamp(f[1])
		case "deaf":
			srv.LoseNext(1)
		}
	}
	p.settle = func() {
		srv.Evict(0) // which returns when everybody has been told
		if deaf {
			time.Sleep(staleAtMost)
		}
	}
	return p
}

func redisPlace(t *testing.T, instances int) *place {
	srv := testenv.Redis(t)
	src := source(t.TempDir())
	open := func(name string) *host {
		c, err := freshet.Open(context.Background(), srv.URL(), hostOptions(name))
		if err != nil {
			panic(err)
		}
		h := newHost(c, src)
		t.Cleanup(h.close)
		return h
	}
	b := open("b")
	p := &place{src: src, a: b, b: b, seed: open("seed"), third: open("third"), fresh: func() *host { return open("fresh") }}
	switch instances {
	case 2:
		p.a = open("a")
	case 3:
		p.a = newChild(t, srv.URL(), src)
	}
	p.foreign = func(t *testing.T, command string) {
		f := strings.SplitN(command, " ", 3)
		if f[0] == "stamp" {
			f = []string{"del", "{freshet:0}:stamp:" + f[1]}
		}
		srv.CLI(t, f...)
	}
	p.settle = func() { time.Sleep(staleAtMost) }
	return p
}

// run plays every case, many at a time: they mostly wait.
func (p *place) run(t *testing.T) {
	var wg sync.WaitGroup
	places := make(chan struct{}, 24)
	n := 0
	for _, u := range underWay {
		plain := strings.Contains(u.kind, "plain")
		for _, d := range drops {
			if plain && d.plain == 0 || !plain && d.plain == 2 || d.late && !strings.Contains(u.kind, "late") {
				continue
			}
			if p.deaf != (d.steps[0] == "cli:deaf") {
				continue
			}
			for _, eager := range []bool{false, true} {
				n++
				c := &dropCase{place: p, cache: fmt.Sprint("c", n), kind: u.kind, seeded: u.seeded,
					hold: u.hold, get: u.get, v1: u.v1, v2: u.v2, steps: d.steps, eager: eager}
				name := u.name + "/" + d.name
				if eager {
					name += "/asked at once"
				}
				places <- struct{}{}
				wg.Go(func() {
					defer func() { <-places }()
					t.Run(name, c.run)
				})
			}
		}
	}
	wg.Wait()
}

type dropCase struct {
	*place
	cache, kind string
	seeded      bool
	hold, get   string
	v1, v2      string
	steps       []string
	eager       bool // others ask between the drop and the end of the load
}

func (c *dropCase) run(t *testing.T) {
	if c.v1 == "" {
		c.v1 = "v1"
	}
	if c.v2 == "" {
		c.v2 = "v2"
	}
	if c.get == "" {
		c.get = "get"
	}
	at := func(in instance, command string) string {
		return in.do(strings.ReplaceAll(strings.ReplaceAll(command, "C", c.cache), "V2", c.v2))
	}
	go1 := func(in instance, command string) <-chan string {
		got := make(chan string, 1)
		go func() { got <- at(in, command) }()
		return got
	}
	// f is one fact: command at an instance gives want.
	f := func(in instance, command, want string) {
		t.Helper()
		if got := at(in, command); got != want {
			t.Errorf("%s: got %q; want %q", command, got, want)
		}
	}
	after := func(who, got string) {
		t.Helper()
		if got != c.v2 && got != c.v2+" stale" {
			t.Errorf("after the drop, %s gets %q; want %q", who, got, c.v2)
		}
	}

	a, b := c.a, c.b
	c.src.write(c.cache+".7", c.v1)
	f(a, "new C "+c.kind, "ok")
	if a != b {
		f(b, "new C "+c.kind, "ok")
	}
	if c.seeded {
		f(c.seed, "new C "+c.kind, "ok")
		f(c.seed, "seed C", c.v1)
		if c.hold != "decode" {
			at(a, "get C")
			at(b, "get C")
		}
	}
	var before <-chan string
	if c.hold != "" {
		f(a, "hold C "+c.hold, "ok")
		held := go1(a, "held C")
		for stopped := false; !stopped; {
			before = go1(a, c.get+" C")
			select {
			case got := <-held:
				if stopped = true; got != "ok" {
					t.Fatal(got)
				}
			case <-before: // still fresh; or stale, and the load is on its way
				before = nil
				time.Sleep(5 * time.Millisecond)
				select {
				case <-held:
					stopped = true
				default:
				}
			}
		}
		defer at(a, "open C")
	}

	c.src.write(c.cache+".7", c.v2)
	for _, s := range c.steps {
		if cli, ok := strings.CutPrefix(s, "cli:"); ok {
			c.foreign(t, strings.ReplaceAll(strings.ReplaceAll(cli, "C", c.cache), "V2", c.v2))
			continue
		}
		f(b, s, "ok")
	}
	if strings.HasPrefix(c.steps[len(c.steps)-1], "cli:") {
		c.settle() // nobody is told by a foreign client at once
	}
	var early []<-chan string
	if c.eager {
		early = append(early, go1(b, "get C"))
		c.settle()
		early = append(early, go1(a, "get C"), go1(a, "many C"))
		time.Sleep(5 * time.Millisecond) // they are waiting for the load now, or have loaded
	} else {
		c.settle()
	}
	if c.hold != "" {
		f(a, "open C", "ok")
		if before == nil { // it got the stale value at once
		} else if got := strings.TrimSuffix(<-before, " stale"); got != c.v1 && got != c.v2 {
			t.Errorf("who waited before the drop got %q; want %q or %q", got, c.v1, c.v2)
		}
	}
	for _, got := range early {
		after("who asked before the load ended", <-got)
	}

	third := c.third
	if strings.Contains(strings.Join(c.steps, " "), "cli:stamp") {
		fresh := c.fresh()
		defer fresh.close()
		third = fresh
	}
	f(third, "new C "+c.kind, "ok")
	after("a third instance", at(third, "get C"))
	after("where it was dropped,", at(b, "get C"))
	after("where it was loaded,", at(a, "get C"))
	after("where it was loaded, a batch", at(a, "many C"))
	after("where it was dropped, a batch", at(b, "many C"))
}

// A joiner comes after the drop of a tag, but joins a read of the shared level that was found valid before
// and is just being handed over.
func TestDropBetweenReadAndHandOver(t *testing.T) {
	srv := memstore.NewServer(memstore.Options{})
	src := source(t.TempDir())
	var g gate
	connect := func(hooks observe.Hooks) *host {
		o := hostOptions("x")
		o.Hooks = hooks
		c, err := freshet.New(srv.Connect(), o)
		if err != nil {
			t.Fatal(err)
		}
		h := newHost(c, src)
		t.Cleanup(h.close)
		if got := h.do("new c late"); got != "ok" {
			t.Fatal(got)
		}
		return h
	}
	for _, get := range []string{"get c", "many c"} {
		for _, drop := range []string{"tag c", "late c", "clear c", "drop c"} {
			seed := connect(observe.Hooks{})
			a := connect(observe.Hooks{Hit: func(h observe.Hit) {
				if h.Level == observe.LevelL2 {
					g.pass(context.Background(), "hit")
				}
			}})
			src.write("c.7", "v1")
			seed.do("drop c")
			seed.do("get c")
			g.hold("hit")
			before := make(chan string, 1)
			go func() { before <- a.do("get c") }()
			g.held(t.Context())
			src.write("c.7", "v2")
			if got := a.do(drop); got != "ok" {
				t.Fatal(got)
			}
			joined := make(chan string, 1)
			go func() { joined <- a.do(get) }()
			time.Sleep(20 * time.Millisecond)
			g.open()
			<-before
			if got := <-joined; got != "v2" {
				t.Errorf("%s after %s: got %q; want v2", get, drop, got)
			}
		}
	}
}
