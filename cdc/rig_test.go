package cdc_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// items is the table of most tests: id and name.
var items = &cdc.Table{Schema: "public", Name: "items", Columns: []cdc.Column{{Name: "id"}, {Name: "name"}}}

// put is an insert, or an update of old.
func put(old []cdc.Value, id int, name string) cdc.Change {
	c := cdc.Change{Op: cdc.OpInsert, Table: items, New: []cdc.Value{cdc.Text(strconv.Itoa(id)), cdc.Text(name)}}
	if old != nil {
		c.Op, c.Old = cdc.OpUpdate, old
	}
	return c
}

var itemRules = cdc.Rule{Table: "public.items", Tags: []string{"item:{id}"}}

// A rig is a scripted database, a store, and pumps between them.
type rig struct {
	testing.TB
	d     *cdctest.Database
	srv   *memstore.Server
	rules []cdc.Rule
	watch *memstore.Store
	alive []*running

	exclusive bool

	mu     sync.Mutex
	logged []store.LogEntry // guarded by mu
}

type running struct {
	*cdc.Pump
	stop func()
}

func newRig(t testing.TB, d *cdctest.Database, rules ...cdc.Rule) *rig {
	r := &rig{TB: t, d: d, srv: memstore.NewServer(memstore.Options{}), rules: rules, exclusive: true}
	r.watch = r.srv.Connect()
	r.watch.Watch(store.Watcher{Logged: func(_ int, e store.LogEntry) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.logged = append(r.logged, e)
	}})
	return r
}

// pump starts a pump over a connection of its own.
func (r *rig) pump(o cdc.Options, with ...func(*cdc.Pump)) *running {
	r.Helper()
	return r.pumpOn(r.srv.Connect(), r.d.Source(r.exclusive), o, with...)
}

func (r *rig) pumpOn(s store.Store, src cdc.Source, o cdc.Options, with ...func(*cdc.Pump)) *running {
	r.Helper()
	a, err := cdc.NewApplier(s)
	if err != nil {
		r.Fatal(err)
	}
	return r.pumpTo(a, src, o, with...)
}

func (r *rig) pumpTo(a cdc.Applier, src cdc.Source, o cdc.Options, with ...func(*cdc.Pump)) *running {
	r.Helper()
	o.Name = "db"
	o.Rules = mustRules(r, r.rules...)
	p, err := cdc.NewPump(src, a, o)
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range with {
		f(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	run := &running{Pump: p, stop: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, cdc.ErrGap) {
			r.Errorf("Run: %v", err)
		}
	})}
	r.alive = append(r.alive, run)
	return run
}

// stop stops all pumps and waits for them.
func (r *rig) stop() {
	for _, p := range r.alive {
		p.stop()
	}
	r.alive = nil
}

// settle waits until a pump has certified a tick that was announced from now on: all that is visible is applied.
func (r *rig) settle() {
	r.Helper()
	began := time.Now()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		for _, p := range r.alive {
			if p.Stats().LastTick.After(began) {
				return
			}
		}
		if time.Now().After(deadline) {
			for _, p := range r.alive {
				r.Logf("%+v", p.Stats())
			}
			r.Fatal("no certificate within two minutes")
		}
	}
}

// tags counts the drops in the log, by tag; names of keys are with "key " before.
func (r *rig) tags() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := make(map[string]int)
	for _, e := range r.logged {
		for _, t := range e.Tags {
			n[t]++
		}
		for _, k := range e.Keys {
			n["key "+k]++
		}
		if e.NewEpoch {
			n["epoch"]++
		}
	}
	return n
}

// A reader is an instance in small: it caches rows of items under their tags, by the protocol that package freshet
// follows: note the position, then read the database; valid while no stamp is above it, in the same epoch.
type reader struct {
	s  store.Store
	d  *cdctest.Database
	mu sync.Mutex
	at map[int]cachedRow
}

type cachedRow struct {
	row  string
	head store.Head
}

func newReader(s store.Store, d *cdctest.Database) *reader {
	return &reader{s: s, d: d, at: make(map[int]cachedRow)}
}

// lookup returns what is cached, if it is valid.
func (c *reader) lookup(id int) (row string, head store.Head, valid bool, err error) {
	part := store.PartitionOf("item:"+strconv.Itoa(id), c.s.Partitions())
	head, stamps, err := c.s.Register(context.Background(), part, []string{"item:" + strconv.Itoa(id), "item!"})
	if err != nil {
		return "", head, false, err
	}
	c.mu.Lock()
	e, ok := c.at[id]
	c.mu.Unlock()
	return e.row, head, ok && e.head.Epoch == head.Epoch && stamps[0] <= e.head.Pos && stamps[1] <= e.head.Pos, nil
}

// get reads through the cache; slow passes between noting the position, reading the row, and storing it.
func (c *reader) get(id int, slow func()) {
	_, head, valid, err := c.lookup(id)
	if err != nil || valid {
		return
	}
	slow()
	row := c.d.Read("public.items", strconv.Itoa(id))
	slow()
	c.mu.Lock()
	c.at[id] = cachedRow{row, head}
	c.mu.Unlock()
}

// stale returns what is cached, valid, and not what the database has.
func (c *reader) stale() (bad []string) {
	for id := range c.at {
		row, _, valid, err := c.lookup(id)
		if now := c.d.Read("public.items", strconv.Itoa(id)); err == nil && valid && row != now {
			bad = append(bad, "item "+strconv.Itoa(id)+": cached "+row+", the database has "+now)
		}
	}
	return bad
}

// rows is how many rows load works on: so many that most change once or twice, and a lost drop isn't made good by the next.
const rows = 150

// load has readers and writers at work for a while: n transactions of one to three rows.
func load(d *cdctest.Database, caches []*reader, n int, pause func() time.Duration) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	for _, c := range caches {
		for id := range rows {
			c.get(id, func() {})
		}
		for worker := range 4 {
			wg.Go(func() {
				for i := worker * 37; ; i++ {
					select {
					case <-done:
						return
					default:
					}
					c.get(i%rows, func() { time.Sleep(pause()) })
					time.Sleep(10 * time.Microsecond) // in a bubble, who never waits keeps time from passing
				}
			})
		}
	}
	last := make(map[int][]cdc.Value)
	for i := range n {
		var changes []cdc.Change
		for j := range 1 + i%3 {
			id := (i*3 + j) % rows
			c := put(last[id], id, "v"+strconv.Itoa(i))
			last[id] = c.New
			changes = append(changes, c)
		}
		d.Commit(changes...)
		time.Sleep(pause())
	}
	close(done)
	wg.Wait()
}

// A mortal applier, and source, can be killed: then nothing they are asked for happens.
type mortal struct {
	dead   chan struct{}
	kill   func()
	during func(op string)
}

var errKilled = errors.New("killed")

func newMortal() *mortal {
	m := &mortal{dead: make(chan struct{})}
	m.kill = sync.OnceFunc(func() { close(m.dead) })
	return m
}

func (m *mortal) err() error {
	select {
	case <-m.dead:
		return errKilled
	default:
		return nil
	}
}

type mortalApplier struct {
	cdc.Applier
	*mortal
}

func (a mortalApplier) Mark(ctx context.Context, source string) (store.Mark, error) {
	if err := a.err(); err != nil {
		return store.Mark{}, err
	}
	return a.Applier.Mark(ctx, source)
}

func (a mortalApplier) SetMark(ctx context.Context, source string, m store.Mark) error {
	if err := a.err(); err != nil {
		return err
	}
	return a.Applier.SetMark(ctx, source, m)
}

func (a mortalApplier) Apply(ctx context.Context, d *cdc.Drops) error {
	if err := a.err(); err != nil {
		return err
	}
	// A crash half-way: some of it is done.
	if n := len(d.Tags); n > 1 && a.during != nil {
		if err := a.Applier.Apply(ctx, &cdc.Drops{Tags: d.Tags[:n/2]}); err != nil {
			return err
		}
		a.during("half applied")
		if err := a.err(); err != nil {
			return err
		}
	}
	return a.Applier.Apply(ctx, d)
}

func (a mortalApplier) Epoch(ctx context.Context) error {
	if err := a.err(); err != nil {
		return err
	}
	return a.Applier.Epoch(ctx)
}

type mortalSource struct {
	cdc.Source
	*mortal
}

func (s mortalSource) Open(ctx context.Context, from cdc.Position) (cdc.Stream, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	st, err := s.Source.Open(ctx, from)
	return mortalStream{st, s.mortal}, err
}

type mortalStream struct {
	cdc.Stream
	*mortal
}

func (s mortalStream) Ack(ctx context.Context, pos cdc.Position) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Stream.Ack(ctx, pos)
}

// lines joins what a test complains of.
func lines(bad []string) string { return strings.Join(bad, "\n") }
