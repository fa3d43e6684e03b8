package freshet_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/codec"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/observe"
)

// A row is what the source of these tests has.
type row struct{ V string }

// A source is a folder with a file for each row, so that several processes can read it.
type source string

func (s source) write(name, v string) {
	file := filepath.Join(string(s), name)
	if v == "none" {
		os.Remove(file)
		return
	}
	if err := errors.Join(os.WriteFile(file+"~", []byte(v), 0o600), os.Rename(file+"~", file)); err != nil {
		panic(err)
	}
}

func (s source) read(name string) (row, error) {
	b, err := os.ReadFile(filepath.Join(string(s), name))
	if err != nil {
		return row{}, freshet.ErrNotFound
	}
	return row{string(b)}, nil
}

// A host is one instance: a client with the caches that its commands define. The same host runs
// in the test's process and, told by lines, in a child.
type host struct {
	client *freshet.Client
	src    source

	mu     sync.Mutex
	caches map[string]*hosted
}

type hosted struct {
	*freshet.Cache[string, row]
	gate gate
	late string // the tag that only the answer names
}

// staleAtMost is short in these tests, so that waiting for it is.
const staleAtMost = 100 * time.Millisecond

func newHost(c *freshet.Client, src source) *host {
	for deadline := time.Now().Add(5 * time.Second); c.Stats().StaleFor < 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	return &host{client: c, src: src, caches: make(map[string]*hosted)}
}

// do carries out one command, and returns what came of it in words:
//
//	new C KIND    defines cache C; KIND is a list of the words below, joined by "-"
//	hold C WHAT   the next "load" or "decode" of C stops where it has what it wants to return
//	held C        returns when it has stopped
//	open C        lets it go on
//	seed C        gets it until it is in the shared level
//	get C         the value of C's key "7"; "many C" gets it in a batch
//	drop, tag, late, clear, set C
func (h *host) do(command string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	f := strings.Fields(command)
	if f[0] == "new" {
		return h.define(f[1], f[2])
	}
	h.mu.Lock()
	c := h.caches[f[1]]
	h.mu.Unlock()
	var err error
	switch f[0] {
	case "hold":
		c.gate.hold(f[2])
	case "held":
		return c.gate.held(ctx)
	case "open":
		c.gate.open()
	case "get":
		r, err := c.Lookup(ctx, "7")
		return inWords(r.Value, r.Stale, err)
	case "seed":
		// Drops of other tags can keep a load with a late tag from being stored.
		for range 1000 {
			r, err := c.Lookup(ctx, "7")
			if r.Stored || r.Level != observe.LevelSource {
				return inWords(r.Value, r.Stale, err)
			}
		}
		return "error: never stored"
	case "many":
		m, err := c.GetMany(ctx, []string{"7", "8"})
		v, ok := m["7"]
		if err == nil && !ok {
			err = freshet.ErrNotFound
		}
		return inWords(v, false, err)
	case "drop":
		err = c.Drop(ctx, "7")
	case "tag":
		err = h.client.DropTags(ctx, "row:"+f[1])
	case "late":
		err = h.client.DropTags(ctx, c.late)
	case "clear":
		err = c.Clear(ctx)
	case "set":
		err = c.Set(ctx, "7", row{f[2]})
	default:
		err = fmt.Errorf("no command %q", command)
	}
	if err != nil {
		return "error: " + err.Error()
	}
	return "ok"
}

func inWords(v row, stale bool, err error) string {
	switch {
	case errors.Is(err, freshet.ErrNotFound):
		return "none"
	case err != nil:
		return "error: " + err.Error()
	case stale:
		return v.V + " stale"
	}
	return v.V
}

func (h *host) define(name, kind string) string {
	is := func(word string) bool { return strings.Contains(kind, word) }
	c := &hosted{late: "late:" + name}
	load := func(ctx context.Context, key string, l *freshet.Load) (row, error) {
		v, err := h.src.read(name + "." + key)
		if is("late") {
			l.Tag(c.late)
		}
		return v, err
	}
	cfg := freshet.Config[string, row]{
		Name: name, TTL: time.Hour, Jitter: -1, EarlyRefresh: -1,
		Tags:  func(string) []string { return []string{"row:" + name} },
		Codec: gatedCodec{codec.JSON[row](), &c.gate},
		Load: func(ctx context.Context, key string, l *freshet.Load) (row, error) {
			v, err := load(ctx, key, l)
			if key == "7" {
				c.gate.pass(ctx, "load")
			}
			return v, err
		},
	}
	if is("loadmany") {
		cfg.LoadMany = func(ctx context.Context, keys []string, b *freshet.BatchLoad[string]) (map[string]row, error) {
			m := make(map[string]row)
			for _, k := range keys {
				if v, err := load(ctx, k, b.For(k)); err == nil {
					m[k] = v
				}
			}
			c.gate.pass(ctx, "load")
			return m, nil
		}
	}
	if is("plain") {
		cfg.Plain, cfg.Tags = true, nil
	}
	if is("refresh") {
		cfg.TTL, cfg.Stale.WhileRevalidate = 200*time.Millisecond, time.Hour
	}
	if is("slow") {
		cfg.TTL, cfg.Stale.IfError, cfg.SoftTimeout = 200*time.Millisecond, time.Hour, 20*time.Millisecond
	}
	var err error
	if c.Cache, err = freshet.NewCache(h.client, cfg); err != nil {
		return "error: " + err.Error()
	}
	h.mu.Lock()
	h.caches[name] = c
	h.mu.Unlock()
	return "ok"
}

// close lets everything go and closes the client.
func (h *host) close() {
	h.mu.Lock()
	for _, c := range h.caches {
		c.gate.open()
	}
	h.mu.Unlock()
	h.client.Close()
}

// A gate stops whoever passes it next with the word that it was told.
type gate struct {
	mu   sync.Mutex
	word string        // who is to be stopped; guarded by mu
	in   chan struct{} // closed when somebody has stopped; guarded by mu
	out  chan struct{} // closed to let go on; guarded by mu
}

func (g *gate) hold(word string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.word, g.in, g.out = word, make(chan struct{}), make(chan struct{})
}

func (g *gate) pass(ctx context.Context, word string) {
	g.mu.Lock()
	if g.word != word {
		g.mu.Unlock()
		return
	}
	g.word = ""
	in, out := g.in, g.out
	g.mu.Unlock()
	close(in)
	select {
	case <-out:
	case <-ctx.Done():
	}
}

func (g *gate) held(ctx context.Context) string {
	g.mu.Lock()
	in := g.in
	g.mu.Unlock()
	select {
	case <-in:
		return "ok"
	case <-ctx.Done():
		return "error: nobody came to the gate"
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.word = ""
	if g.out != nil {
		close(g.out)
		g.out = nil
	}
}

type gatedCodec struct {
	codec.Codec[row]
	gate *gate
}

func (c gatedCodec) Decode(b []byte) (row, error) {
	v, err := c.Codec.Decode(b)
	c.gate.pass(context.Background(), "decode")
	return v, err
}

// runHost is the child: a host that reads "id command" and answers "id words".
func runHost(args []string) int {
	c, err := freshet.Open(context.Background(), args[0], hostOptions("child"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	h := newHost(c, source(args[1]))
	var mu sync.Mutex
	for sc := bufio.NewScanner(os.Stdin); sc.Scan(); {
		id, command, _ := strings.Cut(sc.Text(), " ")
		go func() {
			reply := h.do(command)
			mu.Lock()
			defer mu.Unlock()
			fmt.Println(id, reply)
		}()
	}
	h.close()
	return 0
}

func hostOptions(name string) freshet.Options {
	// A store budget for a machine on which everything runs at once: what these tests ask is
	// what is served, not how soon.
	return freshet.Options{Name: name, StaleAtMost: staleAtMost, StoreBudget: 2 * time.Second}
}

// A child is a host in another process.
type child struct {
	proc *testenv.Process

	mu      sync.Mutex
	n       int
	waiting map[string]chan string // by id; guarded by mu
}

func newChild(t *testing.T, url string, src source) *child {
	c := &child{proc: testenv.Child(t, "host", url, string(src)), waiting: make(map[string]chan string)}
	lines := c.proc.Lines()
	go func() {
		for line := range lines { // ends with the child
			id, reply, _ := strings.Cut(line, " ")
			c.mu.Lock()
			c.waiting[id] <- reply
			delete(c.waiting, id)
			c.mu.Unlock()
		}
	}()
	return c
}

func (c *child) do(command string) string {
	reply := make(chan string, 1)
	c.mu.Lock()
	c.n++
	id := strconv.Itoa(c.n)
	c.waiting[id] = reply
	c.proc.Send(id + " " + command)
	c.mu.Unlock()
	select {
	case r := <-reply:
		return r
	case <-time.After(30 * time.Second):
		return "error: no answer of the child"
	}
}
