package storetest

import (
	"errors"
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"github.com/freshetdev/freshet/store"
)

var modelRules = []rule{
	{"random operations agree with a plain map", func(e *env) {
		conns := []store.Store{e.s, e.connect()}
		rapid.Check(e.T, func(t *rapid.T) {
			e.fx.Foreign.FlushAll()
			m := &model{T: t, e: e, conns: conns, keys: map[string]*modelKey{}, stamps: map[string]modelStamp{}}
			t.Repeat(map[string]func(*rapid.T){
				"":            m.check,
				"claim":       m.claim,
				"fill":        m.fill,
				"release":     m.release,
				"write":       m.write,
				"foreign set": m.foreignSet,
				"foreign del": m.foreignDel,
				"drop":        m.drop,
				"register":    m.register,
				"evict stamp": m.evictStamp,
				"new epoch":   m.newEpoch,
				"flush":       m.flush,
			})
		})
	}},
}

// A model is what the contract says the server holds. Nothing in it expires.
type model struct {
	*rapid.T
	e     *env
	conns []store.Store
	steps int // makes every image differ

	keys   map[string]*modelKey // absent ones have a version, too
	leases []modelLease
	head   store.Head // zero: no log
	log    []store.LogEntry
	stamps map[string]modelStamp
}

type modelKey struct {
	image   string // "" absent, or leased plainly
	lease   store.ID
	leased  bool
	refresh store.ID // a refresh is under way
	void    bool     // the key changed under a refresh, whose side lease may still be in the way
	version int      // counts the changes
}

// A modelLease is good as long as its key didn't change.
type modelLease struct {
	store.Lease
	version int
}

// A modelStamp lies between two positions: a new epoch may keep it or begin it anew.
type modelStamp struct{ low, high store.Pos }

var (
	recordKeys = []string{"user:1", "user:2"}
	plainKeys  = []string{"plain:1"}
	allKeys    = append(slices.Clone(recordKeys), plainKeys...)
	modelTags  = []string{"red", "green", "blue"}
)

// conn draws a connection, by number so that the story of a failure stays readable.
func (m *model) conn(t *rapid.T) store.Store {
	return m.conns[rapid.IntRange(0, len(m.conns)-1).Draw(t, "conn")]
}

func (m *model) key(t *rapid.T) (string, *modelKey) {
	name := rapid.SampledFrom(allKeys).Draw(t, "key")
	if m.keys[name] == nil {
		m.keys[name] = &modelKey{}
	}
	return name, m.keys[name]
}

func (m *model) image() []byte {
	m.steps++
	return record(fmt.Sprint("step ", m.steps))
}

// set changes a key; every lease on it is void.
func (k *modelKey) set(image string) {
	*k = modelKey{image: image, version: k.version + 1, void: k.void || k.refresh != store.ID{}}
}

func (m *model) claim(t *rapid.T) {
	name, k := m.key(t)
	req := store.ClaimRequest{Key: name, ID: newID(), TTL: long, Plain: slices.Contains(plainKeys, name)}
	req.Refresh = !req.Plain && rapid.Bool().Draw(t, "refresh")
	switch rapid.SampledFrom([]string{"nothing", "current", "other"}).Draw(t, "seen") {
	case "current":
		req.Seen = store.IdentityOf([]byte(k.image))
	case "other":
		req.Seen = store.IdentityOf(m.image())
	}
	again := rapid.Bool().Draw(t, "again")
	if again && k.leased {
		req.ID = k.lease
	} else if again && req.Refresh && k.refresh != (store.ID{}) {
		req.ID = k.refresh
	}

	want, grant := store.Held, false
	switch {
	case k.leased && k.lease != req.ID:
		want = store.Busy
	case k.leased:
		want = store.Leased
		if req.Refresh {
			return // nobody repeats a claim as another kind
		}
	case k.image == "" && req.Refresh:
		want = store.Gone
	case k.image == "":
		want, grant = store.Leased, true
	case store.IdentityOf([]byte(k.image)) != req.Seen:
	case !req.Refresh:
		want, grant = store.Leased, true
	case k.refresh != (store.ID{}) && k.refresh != req.ID:
		want = store.Busy
	default:
		want = store.Leased
	}
	var regs []*store.Registration
	for range rapid.IntRange(0, 2).Draw(t, "registrations") {
		regs = append(regs, &store.Registration{Tags: rapid.SliceOfN(rapid.SampledFrom(modelTags), 0, 3).Draw(t, "tags")})
	}
	c := m.conn(t).Claim(bg, []store.ClaimRequest{req}, regs...)[0]
	for _, r := range regs {
		m.registered(t, r.Tags, r.Head, r.Stamps, r.Err)
	}
	if req.Refresh && want == store.Leased && c.Outcome == store.Busy && k.void {
		return // a store may keep side leases by key alone: they end with their TTL
	}
	if c.Outcome != want {
		t.Fatalf("claim %+v is %s (%v); want %s", req, outcome(c.Outcome), c.Err, outcome(want))
	}
	if c.Outcome == store.Held && string(c.Image) != k.image {
		t.Fatalf("claim %+v holds %q; want %q", req, c.Image, k.image)
	}
	if c.Outcome != store.Leased {
		return
	}
	if req.Refresh {
		k.refresh, k.void = req.ID, false
	}
	if grant {
		k.set("")
		k.leased, k.lease = true, req.ID
		if !req.Plain {
			k.image = string(store.LeaseImage(req.ID))
		}
	}
	m.leases = append(m.leases, modelLease{c.Lease, k.version})
}

// lease draws one that was ever granted, and tells whether it is still good.
func (m *model) lease(t *rapid.T) (l modelLease, k *modelKey, good bool) {
	if len(m.leases) == 0 {
		t.Skip("no lease yet")
	}
	l = m.leases[len(m.leases)-1-rapid.IntRange(0, min(len(m.leases)-1, 7)).Draw(t, "lease")]
	k = m.keys[l.Key]
	good = k.version == l.version && (!l.Refresh || k.refresh == l.ID)
	return l, k, good
}

func (m *model) fill(t *rapid.T) {
	l, k, good := m.lease(t)
	image := m.image()
	err := m.conn(t).Fill(bg, []store.FillRequest{{Lease: l.Lease, Image: image, TTL: long}})[0]
	switch {
	case good && err != nil:
		t.Fatalf("fill %+v: %v; want it stored", l, err)
	case !good && !errors.Is(err, store.ErrLeaseLost):
		t.Fatalf("fill %+v: %v; want ErrLeaseLost", l, err)
	case good:
		k.set(string(image))
		k.void = false // the fill took the side lease away
	}
}

func (m *model) release(t *rapid.T) {
	l, k, good := m.lease(t)
	if err := m.conn(t).Release(bg, l.Lease); err != nil {
		t.Fatalf("release %+v: %v", l, err)
	}
	switch {
	case good && l.Refresh:
		k.refresh = store.ID{}
	case good:
		k.set("")
	}
}

func (m *model) write(t *rapid.T) {
	name, k := m.key(t)
	image := m.image()
	if err := m.conn(t).Write(bg, name, image, long); err != nil {
		t.Fatalf("write: %v", err)
	}
	k.set(string(image))
}

func (m *model) foreignSet(t *rapid.T) {
	name, k := m.key(t)
	m.steps++
	val := fmt.Sprint("foreign ", m.steps)
	m.e.fx.Foreign.Set(name, []byte(val), 0)
	k.set(val)
}

func (m *model) foreignDel(t *rapid.T) {
	name, k := m.key(t)
	m.e.fx.Foreign.Del(name)
	k.set("")
}

func (m *model) drop(t *rapid.T) {
	d := store.Drop{
		Keys: rapid.SliceOfN(rapid.SampledFrom(allKeys), 0, 2).Draw(t, "keys"),
		Tags: rapid.SliceOfN(rapid.SampledFrom(modelTags), 0, 2).Draw(t, "tags"),
		By:   "model",
	}
	known := m.head
	behind := m.head.Epoch != 0 && rapid.IntRange(0, 9).Draw(t, "behind") == 0
	if behind {
		known.Pos++
	}
	entry, err := m.conn(t).Drop(bg, 0, d, known)
	for _, name := range d.Keys {
		if m.keys[name] == nil {
			m.keys[name] = &modelKey{}
		}
		m.keys[name].set("")
	}
	switch {
	case m.head.Epoch == 0 && errors.Is(err, store.ErrNoLog), behind && errors.Is(err, store.ErrBehind):
		// After an error the keys may be gone or not: make it sure.
		if len(d.Keys) > 0 {
			m.e.fx.Foreign.Del(d.Keys...)
		}
		return
	case m.head.Epoch == 0 || behind || err != nil:
		t.Fatalf("drop at head %+v, knowing %+v: %v", m.head, known, err)
	}
	m.appended(t, store.LogEntry{Head: store.Head{Epoch: m.head.Epoch}, Drop: d}, entry)
	for _, tag := range d.Tags {
		if s, used := m.stamps[tag]; used {
			// A stamp that the epoch may have forgotten is raised or stays away.
			if s.low == s.high {
				s.high = entry.Pos
			}
			m.stamps[tag] = modelStamp{entry.Pos, s.high}
		}
	}
}

// appended checks an entry against the model's end of the log, and appends it there.
func (m *model) appended(t *rapid.T, want, got store.LogEntry) {
	want.Prev, want.PrevNonce = m.head.Pos, m.head.Nonce
	want.Pos, want.Nonce = got.Pos, got.Nonce
	if !sameEntry(got, want) || got.Pos <= m.head.Pos {
		t.Fatalf("appended %+v; want %+v", got, want)
	}
	m.head = got.Head
	m.log = append(m.log, got)
}

func (m *model) register(t *rapid.T) {
	tags := rapid.SliceOfN(rapid.SampledFrom(modelTags), 0, 3).Draw(t, "tags")
	head, stamps, err := m.conn(t).Register(bg, 0, tags)
	m.registered(t, tags, head, stamps, err)
}

func (m *model) registered(t *rapid.T, tags []string, head store.Head, stamps []store.Pos, err error) {
	if m.head.Epoch == 0 {
		if !errors.Is(err, store.ErrNoLog) {
			t.Fatalf("register: %v; want ErrNoLog", err)
		}
		return
	}
	if err != nil || head != m.head || len(stamps) != len(tags) {
		t.Fatalf("register %v: %+v, %v, %v; want head %+v", tags, head, stamps, err, m.head)
	}
	for i, tag := range tags {
		want, used := m.stamps[tag]
		if !used {
			want = modelStamp{m.head.Pos, m.head.Pos}
		}
		if stamps[i] < want.low || stamps[i] > want.high {
			t.Fatalf("the stamp of %q is %d; want %+v", tag, stamps[i], want)
		}
		m.stamps[tag] = modelStamp{stamps[i], stamps[i]}
	}
}

func (m *model) evictStamp(t *rapid.T) {
	tag := rapid.SampledFrom(modelTags).Draw(t, "tag")
	m.e.fx.Foreign.EvictStamp(tag)
	delete(m.stamps, tag)
}

func (m *model) newEpoch(t *rapid.T) {
	entry, err := m.conn(t).NewEpoch(bg, 0, m.head, 0)
	if err != nil {
		t.Fatalf("new epoch: %v", err)
	}
	if entry.Epoch <= m.head.Epoch || entry.Began() != entry.Pos {
		t.Fatalf("the new epoch is %x, from %d, after %x; it began at %d", entry.Epoch, entry.Began(), m.head.Epoch, entry.Pos)
	}
	m.appended(t, store.LogEntry{Head: store.Head{Epoch: entry.Epoch}, NewEpoch: true}, entry)
	for tag, s := range m.stamps {
		m.stamps[tag] = modelStamp{s.low, maxPos}
	}
}

func (m *model) flush(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
		t.Skip("too often")
	}
	m.e.fx.Foreign.FlushAll()
	for _, k := range m.keys {
		k.set("")
	}
	m.head, m.log = store.Head{}, nil
	clear(m.stamps)
}

// check compares everything that can be read.
func (m *model) check(t *rapid.T) {
	s := m.conn(t)
	for _, names := range [][]string{recordKeys, plainKeys} {
		vals, err := s.Read(bg, names, &names[0] == &plainKeys[0])
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		for i, name := range names {
			want := ""
			if k := m.keys[name]; k != nil {
				want = k.image
			}
			if string(vals[i].Image) != want || (vals[i].Image == nil) != (want == "") {
				t.Fatalf("%q holds %q; want %q", name, vals[i].Image, want)
			}
		}
	}
	head, err := s.Head(bg, 0)
	if m.head.Epoch == 0 {
		if !errors.Is(err, store.ErrNoLog) {
			t.Fatalf("head: %+v, %v; want ErrNoLog", head, err)
		}
		return
	}
	if err != nil || head != m.head {
		t.Fatalf("head: %+v, %v; want %+v", head, err, m.head)
	}
	entries, err := s.Tail(bg, 0, 0, len(m.log)+1)
	if err != nil || !slices.EqualFunc(entries, m.log, sameEntry) {
		t.Fatalf("tail: %+v, %v; want %+v", entries, err, m.log)
	}
}
