package freshet

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// Panics of the user's functions become errors, whoever's goroutine they run in, and leave nothing behind: no
// lease, no place among the loads, nobody who waits for ever.
func TestPanics(t *testing.T) {
	bad := map[string]func(){
		"panic":       func() { panic("ouch") },
		"nil panic":   func() { panic(nil) }, //nolint:govet // that is the test
		"error panic": func() { panic(errBoom) },
		"Goexit":      runtime.Goexit,
	}
	for name, ouch := range bad {
		t.Run(name, func(t *testing.T) {
			places := map[string]func(c *Config[string, int]){
				"Load": func(c *Config[string, int]) {
					c.Load = func(context.Context, string, *Load) (int, error) { ouch(); return 1, nil }
				},
				"LoadMany": func(c *Config[string, int]) {
					c.LoadMany = func(context.Context, []string, *BatchLoad[string]) (map[string]int, error) {
						ouch()
						return map[string]int{"k": 1}, nil
					}
				},
				"Tags": func(c *Config[string, int]) { c.Tags = func(string) []string { ouch(); return nil } },
			}
			for place, put := range places {
				inLab(t, func(t *testing.T, l *lab) {
					var panics []observe.Panic
					client := l.client(func(o *Options) {
						o.Hooks.Panic = func(p observe.Panic) { panics = append(panics, p) }
					})
					broken := true
					cfg := Config[string, int]{TTL: time.Minute, LeaseTime: time.Hour, MaxLoads: 1}
					put(&cfg)
					if load := cfg.Load; load != nil {
						cfg.Load = func(ctx context.Context, k string, l *Load) (int, error) {
							if broken {
								return load(ctx, k, l)
							}
							return 1, nil
						}
					} else if cfg.LoadMany == nil {
						cfg.Load = func(context.Context, string, *Load) (int, error) { return 1, nil }
						tags := cfg.Tags
						cfg.Tags = func(k string) []string {
							if broken {
								return tags(k)
							}
							return nil
						}
					} else {
						load := cfg.LoadMany
						cfg.LoadMany = func(ctx context.Context, ks []string, b *BatchLoad[string]) (map[string]int, error) {
							if broken {
								return load(ctx, ks, b)
							}
							return map[string]int{"k": 1}, nil
						}
					}
					c := cacheIn(t, client, cfg)
					other := inBackground(t.Context(), c, "k")
					r, err := c.Lookup(t.Context(), "k")
					_, merr := c.GetMany(t.Context(), []string{"k"})
					for _, err := range []error{err, merr} {
						var pe *PanicError
						var le *LoadError
						if !errors.As(err, &pe) || !errors.As(err, &le) || len(pe.Stack) == 0 || pe.Value == nil {
							t.Errorf("%s: got %s; want a PanicError", place, show(r, err))
						} else if name == "Goexit" && pe.Value != "runtime.Goexit" || name == "panic" && pe.Error() != "loader panicked: ouch" {
							t.Errorf("%s: %v", place, pe)
						}
					}
					if !strings.HasPrefix(other(), "error ") {
						t.Errorf("%s: a waiter got a value", place)
					}
					if len(panics) == 0 || panics[0].Cache != "n" {
						t.Errorf("%s: the hook was told %+v", place, panics)
					}
					broken = false
					synctest.Wait()
					is(t, place+": time of the next load", took(func() { expect(t, c, "k", "1 source") }), 0)
				})
			}
		})
	}
}

// A badCodec does what it is told for some values.
type badCodec struct {
	encode, decode func(v string) error
}

func (badCodec) Name() string { return "bad" }
func (b badCodec) Append(dst []byte, v string) ([]byte, error) {
	if b.encode != nil {
		if err := b.encode(v); err != nil {
			return dst, err
		}
	}
	return append(dst, v...), nil
}
func (b badCodec) Decode(data []byte) (string, error) {
	if b.decode != nil {
		if err := b.decode(string(data)); err != nil {
			return "", err
		}
	}
	return string(data), nil
}

func TestBadCodec(t *testing.T) {
	ways := map[string]func(string) error{
		"error": func(string) error { return errBoom },
		"panic": func(string) error { panic("ouch") },
	}
	for name, ouch := range ways {
		inLab(t, func(t *testing.T, l *lab) {
			load := func(context.Context, string, *Load) (string, error) { return "v", nil }
			client := l.client()
			c := cacheIn(t, client, Config[string, string]{Name: "enc", TTL: time.Minute, Load: load, Codec: badCodec{encode: ouch}})
			expect(t, c, "k", "v source refused encode-error") // the caller gets it all the same
			err := c.Set(t.Context(), "k", "w")
			if err == nil || err.Error() != `freshet: set "enc:k": the codec "bad" refused the value` {
				t.Errorf("%s: Set says %v", name, err)
			}
			synctest.Wait()
			if l.record("enc:k") != nil {
				t.Errorf("%s: something is left at the key", name)
			}

			cfg := Config[string, string]{Name: "dec", TTL: time.Minute, Load: load, Codec: badCodec{}}
			a := cacheIn(t, client, cfg)
			cfg.Codec = badCodec{decode: ouch}
			b := cacheIn(t, l.client(), cfg)
			expect(t, a, "k", "v source")
			r := expect(t, b, "k", "v source") // what can't be decoded is a miss, and replaced
			is(t, "reason", r.Reason, observe.ReasonCodec)
			expect(t, b, "k", "v l1")
		})
	}
}

// Weigh is asked in the goroutine of whoever reads or loads.
func TestWeighPanics(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var src source
		cfg := Config[string, int]{TTL: time.Minute, Load: src.load, MaxBytes: 1000, Weigh: func(int) int { panic("ouch") }}
		a, b := cacheIn(t, l.client(), cfg), cacheIn(t, l.client(), cfg)
		var pe *PanicError
		if _, err := a.Get(t.Context(), "k"); !errors.As(err, &pe) && err != nil {
			t.Errorf("got %v", err)
		}
		func() {
			defer func() { recover() }() // in the caller's own goroutine a panic may be its own
			b.Get(t.Context(), "k")
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d := took(func() {
			defer func() { recover() }()
			b.Get(ctx, "k")
		})
		is(t, "time of the next read", d, 0)
	})
}

// A hook that panics in the goroutine of the caller who leads leaves nobody waiting.
func TestPanickingHookOfALeader(t *testing.T) {
	for _, batch := range []bool{false, true} {
		inLab(t, func(t *testing.T, l *lab) {
			broken := true
			client := l.client(func(o *Options) {
				o.Hooks.Miss = func(m observe.Miss) {
					if broken && m.Level == observe.LevelL2 {
						broken = false
						panic("ouch")
					}
				}
			})
			var src source
			c := cacheIn(t, client, Config[string, int]{TTL: time.Minute, Load: src.load})
			func() {
				defer func() {
					if p := recover(); p != "ouch" {
						t.Errorf("the caller got %v; want its hook's panic", p)
					}
				}()
				if batch {
					_, _ = c.GetMany(t.Context(), []string{"j", "k"})
				} else {
					_, _ = c.Get(t.Context(), "k")
				}
			}()
			expect(t, c, "k", "1 source")
		})
	}
}

// The user's code runs for one key of a batch while the calls of others are under way already.
func TestPanicBetweenTheKeysOfABatch(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		broken := false
		c := cacheIn(t, l.client(), Config[string, int]{
			TTL: time.Minute, Load: new(source).load,
			Clone: func(v int) int {
				if broken {
					panic("ouch")
				}
				return v
			},
		})
		expect(t, c, "warm", "1 source")
		broken = true
		func() {
			defer func() {
				if p := recover(); p != "ouch" {
					t.Errorf("the caller got %v; want the panic", p)
				}
			}()
			_, _ = c.GetMany(t.Context(), []string{"cold", "warm"})
		}()
		broken = false
		expect(t, c, "cold", "2 source")
	})
}
