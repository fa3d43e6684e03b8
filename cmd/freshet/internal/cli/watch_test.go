package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
)

// A site is a database, a Redis, and the freshet.yaml that joins them.
type site struct {
	t     *testing.T
	pg    *testenv.PostgresServer // or
	my    *testenv.MariaDBServer
	redis *testenv.RedisServer
	file  string
}

// newSite starts the servers. settings are of PostgreSQL, more is of the source in the file.
func newSite(t *testing.T, settings []string, more string) *site {
	t.Helper()
	s := &site{t: t, pg: testenv.Postgres(t, settings...), redis: testenv.Redis(t), file: filepath.Join(t.TempDir(), "freshet.yaml")}
	t.Setenv("TEST_DATABASE_URL", strings.Replace(s.pg.URL(), "freshet@", "freshet:hunter2@", 1))
	s.write(s.redis.URL(), more)
	return s
}

func (s *site) write(redis, more string) {
	s.t.Helper()
	database := "postgres: { url: \"${TEST_DATABASE_URL}\", create: true }"
	if s.my != nil {
		database = "mysql: { url: \"${TEST_DATABASE_URL}\" }"
	}
	text := "store: { url: \"" + redis + "\", timeout: 500ms }\ncdc:\n  shop:\n    " + database + "\n    tick: 20ms\n" + more
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

const (
	usersTable = "create table users (id int primary key, name text not null); insert into users select i, 'Ada' from generate_series(1, 3000) i"
	quickly    = "    again: 200ms\n"
	usersRules = `    rules:
      - table: public.users
        tags: ["users:{id}"]
        keys: ["user:{id}:profile"]
        publish: [{ channel: user-changed, payload: "{id}" }]
`
)

var logical = []string{"wal_level=logical", "max_slot_wal_keep_size=1GB"}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// subscribe listens to a channel, and returns what comes.
func (s *site) subscribe(channel string) <-chan string {
	s.t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.redis.Addr()}, DisableCache: true})
	if err != nil {
		s.t.Fatal(err)
	}
	came := make(chan string, 100_000)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = client.Receive(ctx, client.B().Subscribe().Channel(channel).Build(), func(m rueidis.PubSubMessage) { came <- m.Message })
	})
	s.t.Cleanup(func() { cancel(); wg.Wait(); client.Close() })
	eventually(s.t, "subscribed", func() bool { return strings.HasSuffix(s.redis.CLI(s.t, "PUBSUB", "NUMSUB", channel), "1") })
	return came
}

func (s *site) has(key string) bool { return s.redis.CLI(s.t, "EXISTS", key) == "1" }

// An UPDATE in psql: the key of another program is gone, a message came, a Go instance has forgotten the row. Then what was committed before
// SIGTERM is applied before the process ends.
func TestWatch(t *testing.T) {
	s := newSite(t, logical, "")
	s.write(s.redis.URL(), strings.Replace(usersRules, "    rules:", "    again: 2s\n    rules:", 1))
	s.pg.SQL(t, usersTable)
	client, err := freshet.Open(t.Context(), s.redis.URL(), freshet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	users, err := freshet.NewCache(client, freshet.Config[int, string]{
		Name: "u", TTL: time.Hour, Tags: func(id int) []string { return []string{freshet.Tag("users", id)} },
		Load: func(_ context.Context, id int, _ *freshet.Load) (string, error) {
			return s.pg.SQL(t, fmt.Sprintf("select name from users where id = %d", id)), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	came := s.subscribe("user-changed")

	s.redis.CLI(t, "SET", "user:2:profile", "from before")
	p := testenv.Child(t, "freshet", "watch", "-c", s.file, "--log", "text")
	if line := p.Line(); !strings.Contains(line, "watching shop  postgres://xxxxx@"+s.pg.Addr()+"/postgres  1 rule") {
		t.Errorf("the banner is %q", line)
	}
	// The first start drops everything: nobody knows what changed before.
	eventually(t, "the first start", func() bool { return !s.has("user:2:profile") })
	if m := <-came; m != "*" {
		t.Errorf("the first message is %q; want *", m)
	}

	if v, err := users.Get(t.Context(), 1); v != "Ada" || err != nil {
		t.Fatalf("%q, %v; want Ada", v, err)
	}
	s.redis.CLI(t, "SET", "user:1:profile", `{"name":"Ada"}`)
	s.redis.CLI(t, "SET", "user:2:profile", `{"name":"Ada"}`)
	s.pg.SQL(t, "update users set name = 'Grace' where id = 1")
	eventually(t, "the key is gone", func() bool { return !s.has("user:1:profile") })
	eventually(t, "the cache forgot", func() bool { v, err := users.Get(t.Context(), 1); return v == "Grace" && err == nil })
	if m := <-came; m != "1" {
		t.Errorf("the message is %q; want 1", m)
	}
	if !s.has("user:2:profile") {
		t.Error("the key of a row that didn't change is gone")
	}

	// The work under way is finished.
	args := []string{"MSET"}
	for i := 1; i <= 3000; i++ {
		args = append(args, fmt.Sprintf("user:%d:profile", i), "old")
	}
	s.redis.CLI(t, args...)
	s.pg.SQL(t, "update users set name = 'Edsger'")
	if err := syscall.Kill(p.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// A program that read the old row sets its key after it was deleted: it is deleted once more, by the same process.
	eventually(t, "the key is gone", func() bool { return !s.has("user:1:profile") })
	s.redis.CLI(t, "SET", "user:1:profile", "old")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d; want 0", code)
	}
	if n := s.redis.CLI(t, "DBSIZE"); s.has("user:1:profile") || s.has("user:3000:profile") {
		t.Errorf("keys of what was committed before SIGTERM are there (%s keys)", n)
	}
	var said []string
	for line := range p.Lines() {
		said = append(said, line)
	}
	if all := strings.Join(said, "\n"); !regexp.MustCompile(`shop: 3001 changes in 2 transactions: \d+ tags and \d+ keys dropped, \d+ messages; from commit to drop p50 .* p99 `).MatchString(all) {
		t.Errorf("it says at its end:\n%s", all)
	}
	if active := s.pg.SQL(t, "select active from pg_replication_slots"); active != "f" {
		t.Errorf("active is %s of the slot; want f", active)
	}
}

// Redis is away at the start: watch waits for it. Two of them: one stands by, and takes over.
func TestWatchWaitsAndStandsBy(t *testing.T) {
	s := newSite(t, logical, quickly+usersRules)
	s.pg.SQL(t, usersTable)
	s.redis.Kill()
	a := begin(t, "watch", "-c", s.file, "--log", "json", "--admin", "127.0.0.1:0")
	a.says(regexp.MustCompile(`"msg":"trying again","source":"shop","step":"mark"`))
	admin := a.says(regexp.MustCompile(`"admin":"([^"]+)"`))
	ask := func(path string) (int, string) {
		t.Helper()
		defer http.DefaultClient.CloseIdleConnections()
		resp, err := http.Get(admin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := ask("/healthz"); code != 503 || !strings.Contains(body, `"shop"`) {
		t.Errorf("/healthz without Redis: %d %s; want 503", code, body)
	}
	s.redis.Restart()
	a.says(regexp.MustCompile(`"msg":"following"`))
	if code, body := ask("/healthz"); code != 200 || !strings.Contains(body, `{"sources":{"shop":"running"}}`) {
		t.Errorf("/healthz: %d %s; want 200", code, body)
	}
	b := begin(t, "watch", "-c", s.file, "--log", "text")
	b.says(regexp.MustCompile(`another pump works; standing by`))

	s.redis.CLI(t, "SET", "user:5:profile", "old")
	s.pg.SQL(t, "update users set name = 'Grace' where id = 5")
	eventually(t, "the key is gone", func() bool { return !s.has("user:5:profile") })
	eventually(t, "it is explained", func() bool { code, _ := ask("/explain?name=user:5:profile"); return code == 200 })
	_, body := ask("/explain?name=user:5:profile")
	var why map[string]any
	if err := json.Unmarshal([]byte(body), &why); err != nil || why["table"] != "public.users" || why["op"] != "update" || why["rule"] != 1.0 || why["source"] != "shop" || why["transaction"] == nil {
		t.Errorf("/explain: %s, %v", body, err)
	}
	if code, body := ask("/explain?name=none"); code != 404 {
		t.Errorf("/explain of nothing: %d %s; want 404", code, body)
	}
	if code, body := ask("/explain"); code != 400 {
		t.Errorf("/explain without a name: %d %s; want 400", code, body)
	}
	told := begin(t, "explain", "user:5:profile", "--admin", admin)
	code := <-told.ended
	told.ended <- code
	if code != 0 || !regexp.MustCompile(`^user:5:profile\n  dropped .* ms after the commit\n  change       update of public.users\n  rule         1 of shop\n  transaction  \d+, at `).MatchString(told.stdout.String()) {
		t.Errorf("explain: exit code %d\n%s%s", code, told.stdout, told.stderr)
	}
	eventually(t, "the slot was looked at", func() bool {
		_, text := ask("/metrics")
		return strings.Contains(text, "freshet_cdc_slot_retained_bytes")
	})
	_, text := ask("/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Errorf("/metrics: %v\n%s", err, text)
	}
	metric := func(name string) *dto.Metric {
		t.Helper()
		if len(all[name].GetMetric()) == 0 {
			t.Fatalf("/metrics has no %s:\n%s", name, text)
		}
		return all[name].GetMetric()[0]
	}
	if v := metric("freshet_cdc_running").GetGauge().GetValue(); v != 1 {
		t.Errorf("running is %v; want 1", v)
	}
	if v := metric("freshet_cdc_changes_total").GetCounter().GetValue(); v != 1 {
		t.Errorf("changes are %v; want 1", v)
	}
	if h := metric("freshet_cdc_lag_seconds").GetHistogram(); h.GetSampleCount() != 1 || h.GetSampleSum() <= 0 || h.GetSampleSum() > 30 {
		t.Errorf("lag is %v; want one transaction, and a moment", h)
	}
	if v := metric("freshet_cdc_slot_max_lag_bytes").GetGauge().GetValue(); v != 8<<30 {
		t.Errorf("max_slot_lag is %v; want 8 GiB", v)
	}
	if v := metric("freshet_cdc_slot_retained_bytes").GetGauge().GetValue(); v <= 0 || v > 1<<30 {
		t.Errorf("the slot keeps %v bytes; want some", v)
	}
	if v := metric("freshet_cdc_behind_seconds").GetGauge().GetValue(); v < 0 || v > 30 {
		t.Errorf("behind is %v; want a moment", v)
	}

	if code := a.stop(); code != 0 {
		t.Errorf("exit code %d; want 0", code)
	}
	b.says(regexp.MustCompile(`following`))
	s.redis.CLI(t, "SET", "user:6:profile", "old")
	s.pg.SQL(t, "update users set name = 'Grace' where id = 6")
	eventually(t, "the other one works", func() bool { return !s.has("user:6:profile") })
	if code := b.stop(); code != 0 {
		t.Errorf("exit code %d; want 0", code)
	}
	if n := strings.Count(b.stderr.String(), "standing by"); n != 1 {
		t.Errorf("it says %d times that it stands by; want once:\n%s", n, b.stderr)
	}
	for _, p := range []*program{a, b} {
		if strings.Contains(p.stdout.String()+p.stderr.String(), "hunter2") {
			t.Errorf("a password is told:\n%s%s", p.stdout, p.stderr)
		}
	}
	if !strings.Contains(a.stderr.String(), `"msg":"applied","source":"shop","changes":1`) || !strings.Contains(a.stderr.String(), `"msg":"summary","source":"shop"`) {
		t.Errorf("the log has no word of what was applied:\n%s", a.stderr)
	}
}

// With on_gap: stop, a slot that was lost ends it with 1.
func TestWatchGap(t *testing.T) {
	s := newSite(t, logical, quickly+usersRules+"    on_gap: stop\n")
	s.pg.SQL(t, usersTable)
	p := begin(t, "watch", "-c", s.file, "--log", "text")
	p.says(regexp.MustCompile(`following`))
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d; want 0", code)
	}
	s.pg.SQL(t, "select pg_drop_replication_slot('freshet')")
	p = begin(t, "watch", "-c", s.file, "--log", "text")
	select {
	case code := <-p.ended:
		p.ended <- code
		if code != 1 || !strings.Contains(p.stderr.String(), "part of the changes is gone") {
			t.Errorf("exit code %d, %s; want 1", code, p.stderr)
		}
	case <-time.After(30 * time.Second):
		t.Error("it goes on after a gap")
	}
}
