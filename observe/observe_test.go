package observe_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// recorder returns hooks that note the name of each event, whatever hooks there are.
func recorder(note func(string)) observe.Hooks {
	var h observe.Hooks
	v := reflect.ValueOf(&h).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		v.Field(i).Set(reflect.MakeFunc(v.Field(i).Type(), func([]reflect.Value) []reflect.Value {
			note(name)
			return nil
		}))
	}
	return h
}

// fire calls one hook with a zero event.
func fire(hook reflect.Value) {
	hook.Call([]reflect.Value{reflect.Zero(hook.Type().In(0))})
}

func TestTeeCarriesEveryHook(t *testing.T) {
	var got []string
	both := reflect.ValueOf(observe.Tee(
		recorder(func(name string) { got = append(got, "first "+name) }),
		observe.Hooks{},
		recorder(func(name string) { got = append(got, "second "+name) }),
	))
	for i := range both.NumField() {
		name := both.Type().Field(i).Name
		if both.Field(i).IsNil() {
			t.Errorf("Tee loses the hook %s; add it to tee.go", name)
			continue
		}
		got = nil
		fire(both.Field(i))
		if want := []string{"first " + name, "second " + name}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s reached %q; want %q", name, got, want)
		}
	}
}

func TestTeeOfOneKeepsEveryHook(t *testing.T) {
	var got string
	one := reflect.ValueOf(observe.Tee(observe.Hooks{}, recorder(func(name string) { got = name })))
	for i := range one.NumField() {
		name := one.Type().Field(i).Name
		if fire(one.Field(i)); got != name {
			t.Errorf("%s called %s", name, got)
		}
	}
}

func TestTeeLeavesNilWhatNobodyWants(t *testing.T) {
	for _, h := range []observe.Hooks{observe.Tee(), observe.Tee(observe.Hooks{}, observe.Hooks{})} {
		v := reflect.ValueOf(h)
		for i := range v.NumField() {
			if !v.Field(i).IsNil() {
				t.Errorf("%s is set although nobody listens", v.Type().Field(i).Name)
			}
		}
	}
}

// logged returns the lines that fire wrote, decoded.
func logged(t *testing.T, o observe.SlogOptions, fire func(observe.Hooks)) []map[string]any {
	t.Helper()
	var out bytes.Buffer
	fire(observe.Slog(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), o))
	var lines []map[string]any
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		delete(m, "time")
		lines = append(lines, m)
	}
	return lines
}

func TestSlogCarriesEveryHook(t *testing.T) {
	seen := map[string]string{}
	hooks := reflect.TypeFor[observe.Hooks]()
	for i := range hooks.NumField() {
		name := hooks.Field(i).Name
		lines := logged(t, observe.SlogOptions{}, func(h observe.Hooks) {
			hook := reflect.ValueOf(h).Field(i)
			if hook.IsNil() {
				t.Errorf("Slog has no %s; add it to slog.go", name)
				return
			}
			fire(hook)
		})
		if len(lines) != 1 {
			t.Errorf("%s wrote %d lines; want 1", name, len(lines))
			continue
		}
		msg, _ := lines[0]["msg"].(string)
		if other := seen[msg]; other != "" {
			t.Errorf("%s and %s write the same message %q", name, other, msg)
		}
		seen[msg] = name
	}
}

func TestSlogLines(t *testing.T) {
	boom := errors.New("boom")
	f := func(fire func(observe.Hooks), want map[string]any) {
		t.Helper()
		lines := logged(t, observe.SlogOptions{PlainKeys: true}, fire)
		if len(lines) != 1 || !reflect.DeepEqual(lines[0], want) {
			t.Errorf("got  %v\nwant %v", lines, want)
		}
	}
	type m = map[string]any

	f(func(h observe.Hooks) {
		h.Hit(observe.Hit{Cache: "user", Key: "user:7", Level: observe.LevelL2, Age: time.Second, Stale: true})
	},
		m{"level": "DEBUG", "msg": "cache hit", "cache": "user", "key": "user:7",
			"age": 1e9, "stale": true, "negative": false, "at": "l2"})
	f(func(h observe.Hooks) {
		h.Miss(observe.Miss{Cache: "user", Level: observe.LevelL1, Reason: observe.ReasonAbsent})
	},
		m{"level": "DEBUG", "msg": "cache miss", "cache": "user", "at": "l1", "reason": "absent"})
	f(func(h observe.Hooks) {
		h.Load(observe.Load{Cache: "user", Key: "user:7", Took: 5, Err: boom})
	},
		m{"level": "WARN", "msg": "load failed", "cache": "user", "key": "user:7", "took": 5., "refresh": false, "err": "boom"})
	f(func(h observe.Hooks) {
		h.Fill(observe.Fill{Cache: "user", Key: "user:7", Reason: observe.ReasonLeaseLost, Bytes: 12})
	},
		m{"level": "INFO", "msg": "fill refused", "cache": "user", "key": "user:7", "reason": "lease-lost", "bytes": 12.})
	f(func(h observe.Hooks) {
		h.Drop(observe.Drop{Keys: []string{"user:7"}, Tags: []string{"users"}, By: "a", Own: true, Pending: true, Err: boom})
	},
		m{"level": "WARN", "msg": "drop pending", "keys": []any{"user:7"}, "tags": []any{"users"}, "by": "a", "own": true, "err": "boom"})
	f(func(h observe.Hooks) {
		h.Drop(observe.Drop{Tags: []string{"users"}, By: "b", Lag: 3})
	},
		m{"level": "DEBUG", "msg": "dropped", "tags": []any{"users"}, "by": "b", "own": false, "lag": 3.})
	f(func(h observe.Hooks) {
		h.Shed(observe.Shed{Cache: "user", Key: "user:7", Reason: observe.ReasonOverload, Refresh: true})
	},
		m{"level": "WARN", "msg": "load not tried", "cache": "user", "key": "user:7", "reason": "overload", "refresh": true})
	f(func(h observe.Hooks) {
		h.Drop(observe.Drop{Tags: []string{"users"}, By: "cdc:shop", Lag: 3, Commit: 5})
	},
		m{"level": "DEBUG", "msg": "dropped", "tags": []any{"users"}, "by": "cdc:shop", "own": false, "lag": 3., "commit": 5.})
	f(func(h observe.Hooks) { h.Trust(observe.Trust{Since: 7, Source: "shop"}) },
		m{"level": "WARN", "msg": "trust lost", "part": 0., "held": 7., "source": "shop"})
	f(func(h observe.Hooks) {
		h.Mismatch(observe.Mismatch{Cache: "user", Key: "user:7", Level: observe.LevelL1, Age: 9, Differs: 2, Record: "ab",
			Tags: []observe.TagState{{Tag: "users:7", Read: 5, Stamp: 4, Known: true}}, LastDrop: &observe.LastDrop{Name: "users:7", By: "b", At: time.Unix(0, 0).UTC()}})
	},
		m{"level": "WARN", "msg": "a served value differs from the source", "cache": "user", "key": "user:7", "at": "l1", "age": 9., "differs": 2., "negative": false, "record": "ab",
			"tags": m{"users:7": m{"read": 5., "stamp": 4., "known": true}}, "last_drop": m{"name": "users:7", "by": "b", "at": "1970-01-01T00:00:00Z"}})
	f(func(h observe.Hooks) { h.Source(observe.Source{Cache: "user", Open: true, Cause: boom}) },
		m{"level": "WARN", "msg": "source given up", "cache": "user", "err": "boom"})
	f(func(h observe.Hooks) {
		h.Overflow(observe.Overflow{Keys: []string{"user:7"}, To: []string{"user!"}})
	},
		m{"level": "WARN", "msg": "pending drop made coarser", "keys": []any{"user:7"}, "to": []any{"user!"}})
	f(func(h observe.Hooks) { h.Overflow(observe.Overflow{Tags: []string{"users:7"}}) },
		m{"level": "ERROR", "msg": "drop not kept", "tags": []any{"users:7"}})
}

func TestSlogLevels(t *testing.T) {
	boom := errors.New("boom")
	f := func(want slog.Level, fire func(observe.Hooks)) {
		t.Helper()
		lines := logged(t, observe.SlogOptions{}, fire)
		if len(lines) != 1 || lines[0]["level"] != want.String() {
			t.Errorf("got %v; want one line at %v", lines, want)
		}
	}
	f(slog.LevelDebug, func(h observe.Hooks) { h.Load(observe.Load{}) })
	f(slog.LevelDebug, func(h observe.Hooks) { h.Load(observe.Load{Err: context.Canceled}) }) // nobody waited any more
	f(slog.LevelWarn, func(h observe.Hooks) { h.Load(observe.Load{Err: context.DeadlineExceeded}) })
	f(slog.LevelDebug, func(h observe.Hooks) { h.Fill(observe.Fill{Stored: true}) })
	f(slog.LevelDebug, func(h observe.Hooks) { h.Fill(observe.Fill{Reason: observe.ReasonNoStore}) }) // as asked
	f(slog.LevelInfo, func(h observe.Hooks) { h.Fill(observe.Fill{Reason: observe.ReasonNoLease}) })
	f(slog.LevelError, func(h observe.Hooks) { h.Fill(observe.Fill{Reason: observe.ReasonTooLarge}) })
	f(slog.LevelDebug, func(h observe.Hooks) { h.Shed(observe.Shed{Reason: observe.ReasonSourceDown}) })
	f(slog.LevelInfo, func(h observe.Hooks) { h.Source(observe.Source{}) })
	f(slog.LevelInfo, func(h observe.Hooks) { h.Link(observe.Link{Up: true}) })
	f(slog.LevelWarn, func(h observe.Hooks) { h.Link(observe.Link{Err: boom}) })
	f(slog.LevelInfo, func(h observe.Hooks) { h.Gap(observe.Gap{Healed: true}) })
	f(slog.LevelWarn, func(h observe.Hooks) { h.Gap(observe.Gap{Lost: true}) })
	f(slog.LevelWarn, func(h observe.Hooks) { h.Gap(observe.Gap{}) })
	f(slog.LevelWarn, func(h observe.Hooks) { h.Epoch(observe.Epoch{Why: "new server"}) })
	f(slog.LevelInfo, func(h observe.Hooks) { h.Trust(observe.Trust{Held: true}) })
	f(slog.LevelWarn, func(h observe.Hooks) { h.Trust(observe.Trust{}) })
	f(slog.LevelInfo, func(h observe.Hooks) { h.Breaker(observe.Breaker{}) })
	f(slog.LevelWarn, func(h observe.Hooks) { h.Breaker(observe.Breaker{Open: true, Cause: boom}) })
	f(slog.LevelWarn, func(h observe.Hooks) { h.StoreError(observe.StoreError{Op: "claim", Err: boom}) })
	f(slog.LevelError, func(h observe.Hooks) { h.Mutated(observe.Mutated{Key: "user:7"}) })
	f(slog.LevelWarn, func(h observe.Hooks) { h.Mismatch(observe.Mismatch{Key: "user:7"}) })
	f(slog.LevelError, func(h observe.Hooks) { h.Panic(observe.Panic{Value: boom}) })
}

func TestSlogHidesKeysAndTags(t *testing.T) {
	lines := logged(t, observe.SlogOptions{}, func(h observe.Hooks) {
		h.Hit(observe.Hit{Cache: "user", Key: "user:alice"})
		h.Drop(observe.Drop{Keys: []string{"user:alice"}, Tags: []string{"mail:alice"}})
		h.Mismatch(observe.Mismatch{Key: "user:alice", Tags: []observe.TagState{{Tag: "mail:alice"}}, LastDrop: &observe.LastDrop{Name: "mail:alice"}})
	})
	text, err := json.Marshal(lines)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "alice") {
		t.Errorf("a key is written in plain: %s", text)
	}
	hit, dropped := lines[0]["key"], lines[1]["keys"]
	if !reflect.DeepEqual(dropped, []any{hit}) {
		t.Errorf("one key is written as %v and as %v; want the same", hit, dropped)
	}
}

func TestSilentSlogAllocatesNothing(t *testing.T) {
	h := observe.Slog(slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil)), observe.SlogOptions{}) // Info and above
	n := testing.AllocsPerRun(100, func() {
		h.Hit(observe.Hit{Cache: "user", Key: "user:7", Level: observe.LevelL1})
		h.Miss(observe.Miss{Cache: "user", Key: "user:7", Level: observe.LevelL1})
	})
	if n != 0 {
		t.Errorf("a hit and a miss that are not logged make %v allocations; want none", n)
	}
}
