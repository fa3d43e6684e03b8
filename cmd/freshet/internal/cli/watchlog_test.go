package cli

import (
	"bytes"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
)

func TestPumpLogStates(t *testing.T) {
	var out bytes.Buffer
	l := newPumpLog(slog.New(slog.NewTextHandler(&out, nil)), false)
	f := func(s cdc.PumpState, want string, opened bool) {
		t.Helper()
		out.Reset()
		l.state(s)
		if got := out.String(); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q; want %q", s, got, want)
		}
		select {
		case <-l.opened:
			if !opened {
				t.Errorf("%s: opened", s)
			}
		default:
			if opened {
				t.Errorf("%s: not opened", s)
			}
		}
	}
	f(cdc.Opening, "", false)
	f(cdc.Standby, "standing by", true)
	for range 3 { // it looks again
		f(cdc.Opening, "", false)
		f(cdc.Standby, "", false)
	}
	f(cdc.Opening, "", false)
	f(cdc.Running, "following", false)
	f(cdc.Waiting, "", false) // an error, of which Error tells
	f(cdc.Opening, "", false)
	f(cdc.Running, "following", true)
	f(cdc.Opening, "", false) // another pump took over
	f(cdc.Standby, "standing by", false)
	f(cdc.Waiting, "", false)
	f(cdc.Opening, "", false)
	f(cdc.Standby, "standing by", true)
	f(cdc.Stopped, "stopped", false)
}

func TestHealthOf(t *testing.T) {
	now := time.Now()
	f := func(want cdc.PumpState, s cdc.PumpState, cert, since, tick time.Duration) {
		t.Helper()
		stats := cdc.Stats{State: s}
		if cert >= 0 {
			stats.LastTick = now.Add(-cert)
		}
		if got := healthOf(stats, now.Add(-since), tick, now); got != want {
			t.Errorf("%s since %v, certified %v ago, tick %v: %s; want %s", s, since, cert, tick, got, want)
		}
	}
	const s, ms = time.Second, time.Millisecond
	f(cdc.Running, cdc.Running, 50*ms, time.Hour, 50*ms)
	f(cdc.Running, cdc.Running, 9*s, time.Hour, 50*ms)
	f(uncertified, cdc.Running, 11*s, time.Hour, 50*ms)
	f(cdc.Running, cdc.Running, 11*s, time.Hour, s) // 100 ticks
	f(uncertified, cdc.Running, 101*s, time.Hour, s)
	f(cdc.Running, cdc.Running, time.Hour, 2*s, 50*ms) // it stood by until then
	f(cdc.Running, cdc.Running, -1, 2*s, 50*ms)
	f(uncertified, cdc.Running, -1, 11*s, 50*ms)
	f(cdc.Standby, cdc.Standby, time.Hour, time.Hour, 50*ms)
	f(cdc.Waiting, cdc.Waiting, time.Hour, time.Hour, 50*ms)
}

// Rules that can't work are told of at the start, with the words of check, and what works goes on.
func TestWatchTellsOfRulesThatCantWork(t *testing.T) {
	s := newSite(t, logical, quickly+`    rules:
      - { table: public.users, keys: ["user:{id}:profile"] }
      - { table: public.users, keys: ["user:{nme}:profile"] }
      - { table: public.orders, keys: ["order:{id}"] }
`)
	s.pg.SQL(t, usersTable)
	p := begin(t, "watch", "-c", s.file, "--log", "json")
	p.says(regexp.MustCompile(`"level":"WARN","msg":"something can't work","source":"shop","what":"rule 2, public.users.nme: the table has no such column.*"line":"[^"]*freshet.yaml:\d+","fix":"did you mean name\?"`))
	p.says(regexp.MustCompile(`"level":"WARN","msg":"something can't work","source":"shop","what":"rule 3, public.orders: .*"fix":`))
	s.redis.CLI(t, "SET", "user:1:profile", "old")
	s.pg.SQL(t, "update users set name = 'Grace' where id = 1")
	eventually(t, "the key is gone", func() bool { return !s.has("user:1:profile") })
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d; want 0", code)
	}
	if strings.Count(p.stderr.String(), "something can't work") != 2 {
		t.Errorf("stderr:\n%s\nwant two warnings", p.stderr)
	}
}

// Each reason why the store is away is told once, and that it is back.
func TestStoreLog(t *testing.T) {
	var out bytes.Buffer
	logs := &accesslog.Log{Logger: slog.New(slog.NewTextHandler(&out, nil))}
	l := newStoreLog(logs, func(err error) { logs.Warn("away", "error", err) })
	for _, step := range []struct {
		err  error // nil: up
		want string
	}{
		{nil, ""}, {errors.New("NOAUTH"), "NOAUTH"}, {errors.New("NOAUTH"), ""}, {errors.New("WRONGPASS"), "WRONGPASS"}, {nil, "answers again"}, {nil, ""},
	} {
		out.Reset()
		l.note(step.err == nil, step.err)
		if got := out.String(); (step.want == "") != (got == "") || !strings.Contains(got, step.want) {
			t.Errorf("%v: %q; want %q", step.err, got, step.want)
		}
	}
}
