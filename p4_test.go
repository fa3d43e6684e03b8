package freshet_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/codec"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// P4, "loss is a miss": whatever is lost or damaged in the shared level costs a load, counted
// with its reason. It is never an error, and never a wrong value.

// A level is the shared level as a stranger sees it, who may do anything to it.
type level struct {
	open func(t *testing.T, name string) *freshet.Client

	get   func(key string) []byte
	set   func(key string, image []byte) // for an hour
	del   func(key string)
	flush func()
	stamp func(tag string) // loses its stamp
	trim  func()           // forgets the log, but not where it is
	redis func(args ...string)
}

func levels(t *testing.T, f func(t *testing.T, l *level)) {
	t.Run("memory", func(t *testing.T) {
		srv := memstore.NewServer(memstore.Options{})
		f(t, &level{
			open: func(t *testing.T, name string) *freshet.Client {
				c, err := freshet.New(srv.Connect(), hostOptions(name))
				return opened(t, c, err)
			},
			get:   func(key string) []byte { b, _ := srv.Get(key); return b },
			set:   func(key string, image []byte) { srv.Set(key, image, time.Hour) },
			del:   func(key string) { srv.Del(key) },
			flush: srv.FlushAll,
			stamp: srv.EvictStamp,
			trim:  func() { srv.TrimLog(0) },
		})
	})
	t.Run("Redis", func(t *testing.T) {
		srv := testenv.Redis(t)
		do := func(args ...string) []byte { return redisDo(t, srv.Socket(), args...) }
		f(t, &level{
			open: func(t *testing.T, name string) *freshet.Client {
				c, err := freshet.Open(context.Background(), srv.URL(), hostOptions(name))
				return opened(t, c, err)
			},
			get:   func(key string) []byte { return do("get", key) },
			set:   func(key string, image []byte) { do("set", key, string(image), "ex", "3600") },
			del:   func(key string) { do("del", key) },
			flush: func() { do("flushall") },
			stamp: func(tag string) { do("del", "{freshet:0}:stamp:"+tag) },
			trim:  func() { do("xtrim", "{freshet:0}:log", "maxlen", "0") },
			redis: func(args ...string) { do(args...) },
		})
	})
}

func opened(t *testing.T, c *freshet.Client, err error) *freshet.Client {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for deadline := time.Now().Add(5 * time.Second); c.Stats().StaleFor < 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	return c
}

// redisDo sends one command, whose arguments may be any bytes, and returns a bulk reply's.
func redisDo(t *testing.T, socket string, args ...string) []byte {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	conn.Write(b)
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	line = strings.TrimSpace(line)
	if err != nil || line == "" || line[0] == '-' {
		t.Fatalf("redis: %.60q: %q, %v", args, line, err)
	}
	n, err := strconv.Atoi(line[1:])
	if line[0] != '$' || err != nil || n < 0 {
		return nil
	}
	bulk := make([]byte, n)
	if _, err := io.ReadFull(r, bulk); err != nil {
		t.Fatal(err)
	}
	return bulk
}

// A rotten codec has the name of JSON and writes or reads what it wants.
type rotten struct {
	codec.Codec[row]
	name   string
	append func([]byte, row) ([]byte, error)
	decode func([]byte) (row, error)
}

func (c rotten) Name() string {
	if c.name != "" {
		return c.name
	}
	return c.Codec.Name()
}

func (c rotten) Append(b []byte, v row) ([]byte, error) {
	if c.append != nil {
		return c.append(b, v)
	}
	return c.Codec.Append(b, v)
}

func (c rotten) Decode(b []byte) (row, error) {
	if c.decode != nil {
		return c.decode(b)
	}
	return c.Codec.Decode(b)
}

func l2Rows(t *testing.T, c *freshet.Client, name string, change func(*freshet.Config[string, row])) *freshet.Cache[string, row] {
	t.Helper()
	cfg := freshet.Config[string, row]{
		Name: name, TTL: time.Hour, MaxEntries: -1, EarlyRefresh: -1, // no L1: every read is of the shared level
		Tags: func(k string) []string { return []string{"row:" + k} },
		Load: func(_ context.Context, k string, _ *freshet.Load) (row, error) { return row{"value of " + k}, nil },
	}
	if change != nil {
		change(&cfg)
	}
	cache, err := freshet.NewCache(c, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func TestLossIsAMiss(t *testing.T) {
	levels(t, func(t *testing.T, l *level) {
		reader := l.open(t, "reader")
		rs := l2Rows(t, reader, "r", nil)
		other := l.open(t, "other")
		key := 0
		restored := time.Duration(0) // how long after a damage a value may come from the source again
		// f stores a good record, has it damaged and reads it: a miss for the reason, once or (a Claim
		// sees more than a Read) twice, the right value, and then a hit again.
		f := func(name string, why observe.Reason, damage func(key string, image []byte)) {
			t.Helper()
			key++
			k := strconv.Itoa(key)
			want := row{"value of " + k}
			if v, err := rs.Get(t.Context(), k); v != want || err != nil {
				t.Fatalf("%s: before it, got %v, %v", name, v, err)
			}
			damage("r:"+k, bytes.Clone(l.get("r:"+k)))
			had := reader.Stats().MissesL2[why]
			began := time.Now()
			r, err := rs.Lookup(t.Context(), k)
			if r.Value != want || err != nil || (why != "") != (r.Level == observe.LevelSource) {
				t.Errorf("%s: got %q from %v, %v; want %q", name, r.Value, r.Level, err, want)
			}
			if why != "" && reader.Stats().MissesL2[why] == had {
				t.Errorf("%s: not counted as %q; misses %v", name, why, reader.Stats().MissesL2)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s: took %v", name, took)
			}
			if m, err := rs.GetMany(t.Context(), []string{k, "x"}); m[k] != want || err != nil {
				t.Errorf("%s: after it, a batch got %v, %v", name, m, err)
			}
			for deadline := time.Now().Add(restored); ; time.Sleep(staleAtMost / 10) {
				r, err := rs.Lookup(t.Context(), k)
				right := r.Value == want && err == nil
				if right && r.Level == observe.LevelL2 {
					break
				}
				if !right || time.Now().After(deadline) {
					t.Errorf("%s: after it, got %q from %v, %v; want it stored again", name, r.Value, r.Level, err)
					break
				}
			}
		}
		// g is f for a record that was changed and encoded anew, so that its sum is right.
		g := func(name string, why observe.Reason, change func(*store.Record)) {
			t.Helper()
			f(name, why, func(key string, image []byte) {
				r, err := store.DecodeRecord(image)
				if err != nil {
					t.Fatal(err)
				}
				change(r)
				l.set(key, store.AppendRecord(nil, r))
			})
		}
		// s is f for a record that another program stored.
		stranger := 0
		s := func(name string, why observe.Reason, change func(*freshet.Config[string, row])) {
			t.Helper()
			f(name, why, func(key string, _ []byte) {
				l.del(key)
				stranger++
				c := l.open(t, fmt.Sprint("stranger", stranger))
				if _, err := l2Rows(t, c, "r", change).Get(t.Context(), key[2:]); err != nil {
					t.Fatal(err)
				}
				if l.get(key) == nil {
					t.Fatalf("%s: the stranger stored nothing", name)
				}
			})
		}

		f("nothing", "", func(string, []byte) {})
		f("evicted", observe.ReasonAbsent, func(key string, _ []byte) { l.del(key) })
		restored = 5 * time.Second // nothing is stored until the reader has followed the log to its new epoch
		f("flushed", observe.ReasonAbsent, func(string, []byte) { l.flush() })
		restored = 0
		f("restored from before a flush", observe.ReasonEpoch, func(key string, image []byte) {
			l.flush()
			time.Sleep(staleAtMost) // until there is a log again
			l.set(key, image)
		})
		f("stamp lost, nothing dropped since", "", func(key string, _ []byte) { l.stamp("row:" + key[2:]) })
		f("stamp lost, something dropped since", "", func(key string, _ []byte) {
			l.stamp("row:" + key[2:])
			drop(t, other, "something")
			// The reader has it in a cell: it need not ask.
		})
		f("log trimmed", "", func(string, []byte) { l.trim() })

		f("foreign string", observe.ReasonCorrupt, func(key string, _ []byte) { l.set(key, []byte(`{"V":"foreign"}`)) })
		empty := observe.ReasonCorrupt
		if l.redis != nil {
			empty = observe.ReasonAbsent // since MGET says so little
		}
		f("empty string", empty, func(key string, _ []byte) { l.set(key, nil) })
		f("cut in the middle, and longer", observe.ReasonCorrupt, func(key string, image []byte) {
			l.set(key, append(image[:len(image)/2], make([]byte, 300)...))
		})
		for n := range record(t, l, rs) {
			why := observe.ReasonCorrupt
			if n == 0 {
				why = empty
			}
			f(fmt.Sprint("cut to ", n), why, func(key string, image []byte) { l.set(key, image[:min(n, len(image)-1)]) })
			why = observe.ReasonCorrupt
			if n == 3 {
				why = observe.ReasonVersion
			}
			f(fmt.Sprint("bits flipped at ", n), why, func(key string, image []byte) {
				n := min(n, len(image)-1)
				image[n] ^= byte(1 + rand.IntN(255))
				l.set(key, image)
			})
		}
		f("a byte more", observe.ReasonCorrupt, func(key string, image []byte) { l.set(key, append(image, 0)) })
		f("a value that says it is a lease", observe.ReasonCorrupt, func(key string, image []byte) {
			image[4] = 'L'
			l.set(key, image)
		})
		for _, v := range []byte{0, 2, 255} {
			f(fmt.Sprint("wire version ", v), observe.ReasonVersion, func(key string, image []byte) {
				image[3] = v
				l.set(key, image)
			})
		}

		g("dropped long ago", observe.ReasonDropped, func(r *store.Record) { r.Deps[0].Read = 0 })
		g("of another epoch", observe.ReasonEpoch, func(r *store.Record) { r.Deps[0].Epoch++ })
		g("of a partition that isn't there", observe.ReasonCorrupt, func(r *store.Record) { r.Deps[0].Part = 7 })
		g("expired, and nobody removed it", observe.ReasonExpired, func(r *store.Record) {
			r.Fresh, r.Stale, r.Error = r.Created, r.Created, r.Created
		})
		g("without times", observe.ReasonExpired, func(r *store.Record) {
			r.Created, r.Fresh, r.Stale, r.Error = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		})
		g("not what its compression says", observe.ReasonCorrupt, func(r *store.Record) { r.Packed = store.PackS2 })
		g("payload that the codec refuses", observe.ReasonCodec, func(r *store.Record) { r.Payload = []byte("{") })
		g("no payload", observe.ReasonCodec, func(r *store.Record) { r.Payload = nil })
		g("another schema", observe.ReasonSchema, func(r *store.Record) { r.Schema++ })
		g("another codec", observe.ReasonCodec, func(r *store.Record) { r.Codec = "gob" })

		f("of another struct type", observe.ReasonSchema, func(key string, _ []byte) {
			type row struct{ V int }
			l.del(key)
			stranger++
			c := l.open(t, fmt.Sprint("stranger", stranger))
			cache, err := freshet.NewCache(c, freshet.Config[string, row]{Name: "r", TTL: time.Hour,
				Load: func(context.Context, string, *freshet.Load) (row, error) { return row{1}, nil }})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cache.Get(t.Context(), key[2:]); err != nil {
				t.Fatal(err)
			}
		})
		s("stored with another codec", observe.ReasonCodec, func(c *freshet.Config[string, row]) {
			c.Codec = rotten{Codec: codec.JSON[row](), name: "rotten"}
		})
		s("stored as rubbish", observe.ReasonCodec, func(c *freshet.Config[string, row]) {
			c.Codec = rotten{Codec: codec.JSON[row](), append: func(b []byte, _ row) ([]byte, error) { return append(b, 1, 2, 3), nil }}
		})

		if l.redis != nil {
			f("foreign hash", observe.ReasonCorrupt, func(key string, _ []byte) {
				l.redis("del", key)
				l.redis("hset", key, "V", "foreign")
			})
			f("scripts flushed", "", func(string, []byte) { l.redis("script", "flush") })
			f("log lost, entries kept", observe.ReasonEpoch, func(string, []byte) {
				l.redis("del", "{freshet:0}:head")
				time.Sleep(staleAtMost)
			})
			f("head and log lost, entries kept", observe.ReasonEpoch, func(string, []byte) {
				l.redis("del", "{freshet:0}:head", "{freshet:0}:log")
				time.Sleep(staleAtMost)
			})
			f("head is rubbish", observe.ReasonEpoch, func(string, []byte) {
				l.redis("set", "{freshet:0}:head", "x")
				time.Sleep(staleAtMost)
			})
			f("stamp is rubbish", "", func(key string, _ []byte) { l.redis("set", "{freshet:0}:stamp:row:"+key[2:], "x") })
			f("stamp is a hash", "", func(key string, _ []byte) {
				l.redis("del", "{freshet:0}:stamp:row:"+key[2:])
				l.redis("hset", "{freshet:0}:stamp:row:"+key[2:], "x", "y")
			})
		}
		if n := reader.Stats().LoadErrors; n != 0 {
			t.Errorf("%d loads failed; want none", n)
		}

		// One that comes later knows no stamps: those that are lost count as dropped at the end of the log.
		if _, err := rs.Get(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		l.stamp("row:1")
		drop(t, other, "something")
		late := l.open(t, "late")
		lateRows := l2Rows(t, late, "r", nil)
		if r, err := lateRows.Lookup(t.Context(), "1"); r.Value.V != "value of 1" || err != nil || late.Stats().MissesL2[observe.ReasonDropped] != 1 {
			t.Errorf("an instance that comes after the loss of a stamp got %q, %v, misses %v; want one dropped", r.Value, err, late.Stats().MissesL2)
		}
	})
}

func drop(t *testing.T, c *freshet.Client, tag string) {
	t.Helper()
	if err := c.DropTags(t.Context(), tag); err != nil && !errors.Is(err, freshet.ErrPending) {
		t.Fatal(err)
	}
}

// record returns how long a record is.
func record(t *testing.T, l *level, rs *freshet.Cache[string, row]) int {
	if _, err := rs.Get(t.Context(), "0"); err != nil {
		t.Fatal(err)
	}
	return len(l.get("r:0"))
}

// A codec that panics while it decodes is a miss as well.
func TestPanickingCodecIsAMiss(t *testing.T) {
	levels(t, func(t *testing.T, l *level) {
		c := l.open(t, "a")
		rs := l2Rows(t, c, "r", func(c *freshet.Config[string, row]) {
			c.Codec = rotten{Codec: codec.JSON[row](), decode: func([]byte) (row, error) { panic("rotten") }}
		})
		for range 3 {
			if v, err := rs.Get(t.Context(), "1"); v.V != "value of 1" || err != nil {
				t.Errorf("got %v, %v", v, err)
			}
		}
		if n := c.Stats().MissesL2[observe.ReasonCodec]; n < 2 {
			t.Errorf("%d misses for the codec; want 2 or more", n)
		}
	})
}

// In a plain namespace every string is a value, if the codec takes it; nothing else is.
func TestLossIsAMissPlainly(t *testing.T) {
	levels(t, func(t *testing.T, l *level) {
		c := l.open(t, "a")
		rs, err := freshet.NewCache(c, freshet.Config[string, []byte]{
			Name: "p", TTL: time.Hour, MaxEntries: -1, Plain: true, Codec: codec.Bytes(),
			Load: func(_ context.Context, k string, _ *freshet.Load) ([]byte, error) {
				return []byte("value of " + k), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		f := func(name, want string, damage func()) {
			t.Helper()
			if _, err := rs.Get(t.Context(), "1"); err != nil {
				t.Errorf("before %s: %v", name, err)
			}
			damage()
			if v, err := rs.Get(t.Context(), "1"); string(v) != want || err != nil {
				t.Errorf("%s: got %q, %v; want %q", name, v, err, want)
			}
			l.del("p:1")
		}
		f("deleted", "value of 1", func() { l.del("p:1") })
		f("foreign value", "foreign", func() { l.set("p:1", []byte("foreign")) })
		f("empty string", "value of 1", func() { l.set("p:1", nil) })
		f("flushed", "value of 1", func() { l.flush() })
		if l.redis != nil {
			f("foreign hash", "value of 1", func() {
				l.redis("del", "p:1")
				l.redis("hset", "p:1", "x", "y")
			})
		}
	})
}

// What happens to the store while a load runs is no matter of who waits for it.
func TestLossDuringALoad(t *testing.T) {
	levels(t, func(t *testing.T, l *level) {
		c := l.open(t, "a")
		f := func(name string, loss func(key string)) {
			t.Helper()
			var g gate
			cache := strings.ReplaceAll(name, " ", "-")
			rs := l2Rows(t, c, cache, func(cfg *freshet.Config[string, row]) {
				load := cfg.Load
				cfg.Load = func(ctx context.Context, k string, l *freshet.Load) (row, error) {
					v, err := load(ctx, k, l)
					g.pass(ctx, "load")
					return v, err
				}
			})
			get := func() string {
				v, err := rs.Get(t.Context(), "1")
				return inWords(v, false, err)
			}
			g.hold("load")
			got := make(chan string, 1)
			go func() { got <- get() }()
			g.held(t.Context())
			loss(cache + ":1")
			g.open()
			for _, got := range []string{<-got, get(), get()} {
				if got != "value of 1" {
					t.Errorf("%s: got %q", name, got)
				}
			}
		}
		f("lease evicted", func(key string) { l.del(key) })
		f("flushed", func(string) { l.flush() })
		f("flushed and followed again", func(string) { l.flush(); time.Sleep(staleAtMost) })
		f("stamp lost", func(string) { l.stamp("row:1") })
		f("log trimmed", func(string) { l.trim() })
		if l.redis != nil {
			f("scripts flushed", func(string) { l.redis("script", "flush") })
			f("head lost", func(string) { l.redis("del", "{freshet:0}:head") })
			f("lease is a hash", func(key string) { l.redis("del", key); l.redis("hset", key, "x", "y") })
		}
	})
}

// A closed instance gives back the leases of the loads that it cancels: nobody waits for their end.
func TestCloseGivesLeasesBack(t *testing.T) {
	levels(t, func(t *testing.T, l *level) {
		a, b := l.open(t, "a"), l.open(t, "b")
		loading := make(chan bool)
		as := l2Rows(t, a, "r", func(c *freshet.Config[string, row]) {
			c.Load = func(ctx context.Context, _ string, _ *freshet.Load) (row, error) {
				close(loading)
				<-ctx.Done()
				return row{}, ctx.Err()
			}
		})
		go as.Get(context.Background(), "1")
		<-loading
		a.Close()
		began := time.Now()
		if v, err := l2Rows(t, b, "r", nil).Get(t.Context(), "1"); v.V != "value of 1" || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("waited %v for the lease of an instance that was closed", took)
		}
	})
}

// Random loss under load, in a store that is too small: values fit their keys, and no drop is undone, whatever
// goes: entries, leases, stamps, or the log itself.
func TestRandomLoss(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		srv := memstore.NewServer(memstore.Options{MaxBytes: 8 << 10, MaxStamps: 10, LogLength: 5})
		randomLoss(t, func(name string) *freshet.Client {
			c, err := freshet.New(srv.Connect(), hostOptions(name))
			return opened(t, c, err)
		}, func(n int) {
			srv.Evict(n % 8)
			switch n % 5 {
			case 0:
				srv.EvictStamp(fmt.Sprint("row:", n%40))
			case 1:
				srv.TrimLog(n % 3)
			case 2:
				srv.LoseNext(1)
			}
			if n%97 == 0 {
				srv.FlushAll()
			}
		})
	})
	t.Run("Redis", func(t *testing.T) {
		srv := testenv.Redis(t, testenv.Args("--maxmemory-policy", "allkeys-random"))
		var full atomic.Bool
		randomLoss(t, func(name string) *freshet.Client {
			c, err := freshet.Open(context.Background(), srv.URL(), hostOptions(name))
			return opened(t, c, err)
		}, func(n int) {
			// Squeezed now and then, the server evicts of everything there is, the log included.
			if full.Swap(!full.Load()) {
				redisDo(t, srv.Socket(), "config", "set", "maxmemory", "0")
			} else {
				redisDo(t, srv.Socket(), "config", "set", "maxmemory", "1500kb")
			}
			srv.CLI(t, "eval", "redis.pcall('set', KEYS[1], string.rep('x', 20000))", "1", fmt.Sprint("junk", n%20))
			if n%29 == 0 {
				redisDo(t, srv.Socket(), "flushall")
			}
		})
	})
}

func randomLoss(t *testing.T, open func(name string) *freshet.Client, lose func(n int)) {
	const keys = 40
	var source [keys]atomic.Int64
	type cache = freshet.Cache[int, string]
	caches := make([]*cache, 3)
	clients := make([]*freshet.Client, len(caches))
	for i := range caches {
		clients[i] = open(fmt.Sprint("i", i))
		var err error
		if caches[i], err = freshet.NewCache(clients[i], freshet.Config[int, string]{
			Name: "r", TTL: time.Hour, LeaseTime: time.Second,
			Tags: func(k int) []string { return []string{fmt.Sprint("row:", k)} },
			Load: func(_ context.Context, k int, _ *freshet.Load) (string, error) {
				return fmt.Sprint(k, " ", source[k].Load()), nil
			},
		}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(c *cache, k int, atLeast int64) {
		var of int
		var version int64
		v, err := c.Get(t.Context(), k)
		if _, serr := fmt.Sscan(v, &of, &version); err != nil || serr != nil || of != k || version < atLeast {
			t.Errorf("key %d: got %q, %v; want version %d or later", k, v, err, atLeast)
		}
	}
	var wg sync.WaitGroup
	stop := time.Now().Add(2 * time.Second)
	for i, c := range caches {
		wg.Go(func() { // each instance writes its own share of the keys, and reads all
			for n := 0; time.Now().Before(stop) && !t.Failed(); n++ {
				k := rand.IntN(keys)
				if k%len(caches) != i || n%4 != 0 {
					check(c, k, 0)
					continue
				}
				version := source[k].Add(1)
				var err error
				if n%8 == 0 {
					err = c.Drop(t.Context(), k)
				} else {
					err = clients[i].DropTags(t.Context(), fmt.Sprint("row:", k))
				}
				if err != nil && !errors.Is(err, freshet.ErrPending) {
					t.Error(err)
				}
				check(c, k, version)
			}
		})
	}
	wg.Go(func() {
		for n := 1; time.Now().Before(stop); n++ {
			lose(n)
			time.Sleep(5 * time.Millisecond)
		}
	})
	wg.Wait()
	for i := range clients {
		for deadline := time.Now().Add(5 * time.Second); clients[i].Stats().PendingNow > 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(staleAtMost + 20*time.Millisecond)
	for k := range source {
		for _, c := range caches {
			check(c, k, source[k].Load())
		}
	}
}
