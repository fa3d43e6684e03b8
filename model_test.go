package freshet_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/codec"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store/memstore"
)

// Random operations on several instances against a model of what P1 and P2 promise: for each key the
// version that the source has, and when each version was acknowledged as dropped to.
// Whoever reads gets a version at least as new as the promises say, whatever is held, lost or evicted.
// In memory a drop is known everywhere at once and time is synctest's; over Redis a drop is
// known at once where it was made, and elsewhere within StaleAtMost.

func TestModelMemory(t *testing.T) {
	checks(t, "200")
	rapid.Check(t, func(rt *rapid.T) {
		var failed any
		synctest.Test(t, func(t *testing.T) {
			defer func() { failed = recover() }() // rapid stops a run by a panic
			srv := memstore.NewServer(memstore.Options{Partitions: rapid.SampledFrom([]int{1, 3}).Draw(rt, "partitions")})
			m := &model{
				T: rt, strict: true, staleAtMost: time.Second, ttl: time.Minute,
				pauses: []time.Duration{time.Millisecond, 100 * time.Millisecond, time.Second, 11 * time.Second, time.Minute},
				connect: func(o freshet.Options) (*freshet.Client, error) {
					o.ExactClock = true
					return freshet.New(srv.Connect(), o)
				},
				settle: synctest.Wait,
				del:    func(key string) { srv.Del(key) },
				set:    func(key, v string) { srv.Set(key, []byte(v), 0) },
				flush:  srv.FlushAll,
				stamp:  srv.EvictStamp,
				trim:   srv.TrimLog,
				evict:  srv.Evict,
				lose:   srv.LoseNext,
			}
			m.run()
		})
		// Two lines, since rapid tells a failure by where it comes from.
		if fmt.Sprintf("%T", failed) == "rapid.invalidData" {
			panic(failed)
		}
		if failed != nil {
			panic(failed)
		}
	})
}

func TestModelRedis(t *testing.T) {
	checks(t, "25") // a run waits for StaleAtMost and more
	srv := testenv.Redis(t)
	do := func(args ...string) { redisDo(t, srv.Socket(), args...) }
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		prefix := fmt.Sprint("m", n)
		m := &model{
			T: rt, staleAtMost: staleAtMost, ttl: 60 * time.Millisecond,
			pauses: []time.Duration{time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond},
			connect: func(o freshet.Options) (*freshet.Client, error) {
				o.Prefix, o.StoreBudget = prefix, 2*time.Second
				return freshet.Open(context.Background(), srv.URL(), o)
			},
			settle: func() {},
			del:    func(key string) { do("del", prefix+":"+key) },
			set:    func(key, v string) { do("set", prefix+":"+key, v) },
			flush:  func() { do("flushall") },
			stamp:  func(tag string) { do("del", prefix+":{freshet:0}:stamp:"+tag) },
			trim:   func(n int) { do("xtrim", prefix+":{freshet:0}:log", "maxlen", fmt.Sprint(n)) },
			evict:  func(n int) { do("del", prefix+":r:"+fmt.Sprint(n%modelKeys)) },
			lose:   func(int) {},
		}
		m.run()
	})
}

// checks is how often a property is tried, unless -rapid.checks says it.
func checks(t *testing.T, n string) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set(n)
		t.Cleanup(func() { f.Value.Set(f.DefValue) })
	}
}

const modelKeys = 3

// A model is one run: what was done so far, and what it promises.
type model struct {
	*rapid.T
	strict      bool // a drop is known everywhere when it returns
	staleAtMost time.Duration
	ttl         time.Duration
	pauses      []time.Duration

	connect           func(freshet.Options) (*freshet.Client, error)
	settle            func() // returns when nothing moves without time passing
	del, stamp        func(string)
	set               func(key, v string)
	flush             func()
	trim, evict, lose func(int)

	late      bool // loads name a tag that only the answer tells
	instances []*modelInstance
	acks      []ack
	reads     []*modelRead // that have not returned yet
	deaf      bool         // the next drop is not announced
	gap       time.Time    // until then a drop may be unknown elsewhere, since one before it was not announced

	mu     sync.Mutex
	source [modelKeys]int // version of each key; 0: not there; guarded by mu
	failed [modelKeys]int // loads of the key that are to fail; guarded by mu
}

type modelInstance struct {
	n      int
	client *freshet.Client
	cache  *freshet.Cache[int, version]
	gates  [modelKeys]gate
	held   [modelKeys]bool // told to hold, and not opened since
}

type version struct{ Key, V int }

// An ack says that whoever reads key gets v or later: at once on the instances of at, and everywhere
// once StaleAtMost has passed.
type ack struct {
	key, v int
	at     map[int]bool // nil: everywhere at once
	when   time.Time
}

type modelRead struct {
	what   string
	keys   []int
	want   map[int]int // by key: the least version
	result chan map[int]version
	err    error // written before result is sent
}

func (m *model) run() {
	m.late = rapid.Bool().Draw(m.T, "late tags")
	for range rapid.IntRange(1, 3).Draw(m.T, "instances") {
		m.join(rapid.Bool().Draw(m.T, "batches"))
	}
	defer func() {
		for _, in := range m.instances {
			for k := range in.gates {
				in.gates[k].open()
			}
		}
		for _, in := range m.instances {
			in.client.Close()
		}
	}()
	// What matters is what happens between the start of a load and its end, so those actions that
	// make up such a story go together, and mostly about one key.
	m.Repeat(map[string]func(*rapid.T){
		"":             func(*rapid.T) { m.settle(); m.collect() },
		"get":          m.get,
		"get many":     m.getMany,
		"write":        m.write,
		"drop":         m.drop,
		"write, drop":  func(*rapid.T) { m.write(nil); m.drop(nil) },
		"write, drop ": func(*rapid.T) { m.write(nil); m.drop(nil); m.get(nil) },
		"put":          m.put,
		"hold, get":    func(*rapid.T) { m.hold(nil) },
		"hold, many":   func(*rapid.T) { m.hold(nil); m.getMany(nil) },
		"open":         m.open,
		"open, get":    func(*rapid.T) { m.open(nil); m.get(nil) },
		"fail":         m.fail,
		"join":         m.newcomer,
		"lose":         m.loss,
		"pause":        m.pause,
	})
	// In the end everybody knows everything, one that comes now included.
	for _, in := range m.instances {
		for k := range in.gates {
			in.gates[k].open()
			in.held[k] = false
		}
	}
	time.Sleep(m.staleAtMost + 20*time.Millisecond)
	m.join(false)
	m.mu.Lock()
	m.failed = [modelKeys]int{}
	m.mu.Unlock()
	for _, in := range m.instances {
		for k := range modelKeys {
			m.read(fmt.Sprintf("at the end, get %d at %d", k, in.n), in, []int{k})
		}
	}
	for deadline := time.Now().Add(20 * time.Second); len(m.reads) > 0; {
		time.Sleep(5 * time.Millisecond)
		m.settle()
		m.collect()
		if time.Now().After(deadline) {
			m.Fatalf("%s does not return", m.reads[0].what)
		}
	}
}

// newcomer is an instance that knows no stamps, and asks for something at once.
func (m *model) newcomer(*rapid.T) {
	if len(m.instances) < 5 {
		m.join(false)
		in, k := m.instances[len(m.instances)-1], m.key()
		m.read(fmt.Sprintf("get %d at %d, who is new", k, in.n), in, []int{k})
	}
}

// join adds an instance.
func (m *model) join(batches bool) {
	in := &modelInstance{n: len(m.instances)}
	var err error
	if in.client, err = m.connect(freshet.Options{Name: fmt.Sprint("i", in.n), StaleAtMost: m.staleAtMost}); err != nil {
		m.Fatal(err)
	}
	m.instances = append(m.instances, in)
	load := func(k int, l *freshet.Load) (version, error) {
		if m.late {
			l.Tag(lateTag(k))
		}
		m.mu.Lock()
		v := m.source[k]
		fail := m.failed[k] > 0
		if fail {
			m.failed[k]--
		}
		m.mu.Unlock()
		switch {
		case fail:
			return version{}, errSource
		case v == 0:
			return version{}, freshet.ErrNotFound
		}
		return version{k, v}, nil
	}
	cfg := freshet.Config[int, version]{
		Name: "r", TTL: m.ttl, NegativeTTL: m.ttl / 2, LeaseTime: 5 * time.Second,
		Stale: freshet.Stale{WhileRevalidate: m.ttl, IfError: 2 * m.ttl, RetryAfter: m.ttl / 10},
		Tags:  func(k int) []string { return []string{ownTag(k)} },
		Codec: modelCodec{codec.JSON[version](), in},
		Load: func(ctx context.Context, k int, l *freshet.Load) (version, error) {
			v, err := load(k, l)
			in.gates[k].pass(ctx, "load")
			return v, err
		},
	}
	if batches {
		cfg.LoadMany = func(ctx context.Context, ks []int, b *freshet.BatchLoad[int]) (map[int]version, error) {
			out := make(map[int]version)
			var failed error
			for _, k := range ks {
				v, err := load(k, b.For(k))
				switch {
				case err == nil:
					out[k] = v
				case !errors.Is(err, freshet.ErrNotFound):
					failed = err
				}
			}
			for _, k := range ks {
				in.gates[k].pass(ctx, "load")
			}
			return out, failed
		}
	}
	if in.cache, err = freshet.NewCache(in.client, cfg); err != nil {
		m.Fatal(err)
	}
	m.settle()
}

// A modelCodec can be held after it has decoded, so that a read of the shared level is under way.
type modelCodec struct {
	codec.Codec[version]
	in *modelInstance
}

func (c modelCodec) Decode(b []byte) (version, error) {
	v, err := c.Codec.Decode(b)
	if err == nil {
		c.in.gates[v.Key].pass(context.Background(), "decode")
	}
	return v, err
}

var errSource = errors.New("the source fails")

func ownTag(k int) string  { return fmt.Sprint("own:", k%2) }
func lateTag(k int) string { return fmt.Sprint("late:", k%2) }

func (m *model) key() int { return rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2}).Draw(m.T, "key") }

func (m *model) instance() *modelInstance {
	return rapid.SampledFrom(m.instances).Draw(m.T, "instance")
}

// read starts a read and notes what it must bring at least.
func (m *model) read(what string, in *modelInstance, keys []int) {
	r := &modelRead{what: what, keys: keys, want: make(map[int]int), result: make(chan map[int]version, 1)}
	now := time.Now()
	for _, a := range m.acks {
		if a.at == nil || a.at[in.n] || now.Sub(a.when) >= m.staleAtMost {
			r.want[a.key] = max(r.want[a.key], a.v)
		}
	}
	go func() {
		var got map[int]version
		if len(keys) == 1 {
			v, err := in.cache.Get(context.Background(), keys[0])
			if err == nil {
				got = map[int]version{keys[0]: v}
			} else if !errors.Is(err, freshet.ErrNotFound) {
				r.err = err
			}
		} else {
			got, r.err = in.cache.GetMany(context.Background(), keys)
		}
		r.result <- got
	}()
	m.reads = append(m.reads, r)
	m.settle()
	if !m.strict {
		wait := 5 * time.Second
		for _, in := range m.instances {
			for _, k := range keys {
				if in.held[k] {
					wait = 2 * time.Millisecond // it may well wait for that load
				}
			}
		}
		select {
		case got := <-r.result:
			r.result <- got
		case <-time.After(wait):
		}
	}
	m.collect()
}

// collect checks the reads that have returned.
func (m *model) collect() {
	var left []*modelRead
	for _, r := range m.reads {
		select {
		case got := <-r.result:
			m.check(r, got)
		default:
			left = append(left, r)
		}
	}
	m.reads = left
}

func (m *model) check(r *modelRead, got map[int]version) {
	if r.err != nil && !errors.Is(r.err, errSource) {
		m.Fatalf("%s: %v", r.what, r.err)
	}
	for _, k := range r.keys {
		v, ok := got[k]
		if !ok && r.err != nil {
			continue
		}
		m.mu.Lock()
		newest := m.source[k]
		m.mu.Unlock()
		if ok && v.Key != k || v.V > newest {
			m.Fatalf("%s: got %+v for key %d; the source is at version %d", r.what, v, k, newest)
		}
		if v.V < r.want[k] {
			m.Fatalf("%s: got version %d of key %d; want %d or later", r.what, v.V, k, r.want[k])
		}
	}
}

func (m *model) get(*rapid.T) {
	in, k := m.instance(), m.key()
	m.read(fmt.Sprintf("get %d at %d", k, in.n), in, []int{k})
}

func (m *model) getMany(*rapid.T) {
	in := m.instance()
	m.read(fmt.Sprintf("get many at %d", in.n), in, []int{0, 1, 2})
}

// write changes the source, and nobody is told.
func (m *model) write(*rapid.T) {
	k := m.key()
	m.mu.Lock()
	m.source[k]++
	m.mu.Unlock()
}

// ack notes that keys were dropped, by in or a stranger (nil).
func (m *model) ack(in *modelInstance, err error, keys ...int) {
	if err != nil && !errors.Is(err, freshet.ErrPending) {
		m.Fatal(err)
	}
	a := ack{when: time.Now()}
	switch {
	case in == nil && !m.strict:
		a.at = map[int]bool{}
	case err != nil, in != nil && (m.deaf || !m.strict || a.when.Before(m.gap)):
		a.at = map[int]bool{in.n: true}
	}
	if err != nil {
		a.when = a.when.Add(time.Hour) // pending: it took effect there, and nobody else knows
	}
	if in != nil && m.deaf {
		m.deaf, m.gap = false, time.Now().Add(m.staleAtMost)
	}
	m.mu.Lock()
	for _, k := range keys {
		a.key, a.v = k, m.source[k]
		m.acks = append(m.acks, a)
	}
	m.mu.Unlock()
	m.settle()
}

// drop makes a key invalid in one of the ways there are.
func (m *model) drop(*rapid.T) {
	in, k := m.instance(), m.key()
	ctx := context.Background()
	kin := []int{k} // the keys that share its tags
	if k%2 == 0 {
		kin = []int{0, 2}
	}
	switch rapid.IntRange(0, 5).Draw(m.T, "how") {
	case 0:
		m.ack(in, in.cache.Drop(ctx, k), k)
	case 1:
		m.ack(in, in.client.DropTags(ctx, ownTag(k)), kin...)
	case 2:
		if !m.late {
			kin = nil
		}
		m.ack(in, in.client.DropTags(ctx, lateTag(k)), kin...)
	case 3:
		m.ack(in, in.cache.Clear(ctx), 0, 1, 2)
	case 4: // a client that knows nothing of us
		m.del(fmt.Sprint("r:", k))
		m.ack(nil, nil, k)
	case 5:
		m.set(fmt.Sprint("r:", k), "rubbish")
		m.ack(nil, nil, k)
	}
}

// put writes the source and sets the new value.
func (m *model) put(*rapid.T) {
	in, k := m.instance(), m.key()
	m.mu.Lock()
	m.source[k]++
	v := version{k, m.source[k]}
	m.mu.Unlock()
	var tags []string
	if m.late {
		tags = []string{lateTag(k)}
	}
	m.ack(in, in.cache.Set(context.Background(), k, v, tags...), k)
}

// hold stops the next load of a key at an instance, or its next read of the shared level, which a
// read there may well begin.
func (m *model) hold(*rapid.T) {
	in, k := m.instance(), m.key()
	if !in.held[k] {
		in.held[k] = true
		in.gates[k].hold(rapid.SampledFrom([]string{"load", "load", "decode"}).Draw(m.T, "what"))
		m.read(fmt.Sprintf("get %d at %d, held", k, in.n), in, []int{k})
	}
}

// open lets all loads of an instance go on.
func (m *model) open(*rapid.T) {
	in := m.instance()
	for k := range in.gates {
		in.gates[k].open()
		in.held[k] = false
	}
	m.settle()
}

func (m *model) fail(*rapid.T) {
	k := m.key()
	m.mu.Lock()
	m.failed[k] = 1
	m.mu.Unlock()
}

func (m *model) loss(*rapid.T) {
	n := rapid.IntRange(0, 3).Draw(m.T, "n")
	switch rapid.IntRange(0, 4).Draw(m.T, "what") {
	case 0:
		m.flush()
	case 1:
		m.stamp(rapid.SampledFrom([]string{"r!", ownTag(n), lateTag(n)}).Draw(m.T, "tag"))
	case 2:
		m.trim(n)
	case 3:
		m.evict(n)
	case 4:
		if m.strict {
			m.lose(1)
			m.deaf = true
		}
	}
	m.settle()
}

func (m *model) pause(*rapid.T) {
	time.Sleep(rapid.SampledFrom(m.pauses).Draw(m.T, "pause"))
	m.settle()
}
