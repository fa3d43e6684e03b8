package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc/pgcdc"
	"github.com/freshetdev/freshet/store/redisstore"
)

// report runs check or doctor and returns what it prints.
func (s *site) report(command string, code int, args ...string) string {
	s.t.Helper()
	var out, err bytes.Buffer
	if got := Main(s.t.Context(), append([]string{command, "-c", s.file}, args...), &out, &err); got != code {
		s.t.Errorf("freshet %s: exit %d\nstdout: %s\nstderr: %s\nwant %d", command, got, &out, &err, code)
	}
	if strings.Contains(out.String()+err.String(), "hunter2") {
		s.t.Errorf("freshet %s tells a password: %s%s", command, &out, &err)
	}
	return out.String()
}

func wants(t *testing.T, what, got string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(got, want) {
			t.Errorf("%s:\n%s\nhas no %q", what, got, want)
		}
	}
}

// On a database that lacks everything, check prints what to run; once that was run, all is well.
func TestCheckPrintsStatements(t *testing.T) {
	s := newSite(t, nil, quickly+`    rules:
      - { table: public.users, tags: ["users:{id}"], keys: ["user:{nme}:profile"] }
      - { table: public.user, tags: [users] }
      - { table: public.orders, tags: ["orders:{user_id}"] }
      - { table: public.bare, tags: [bare] }
`)
	s.pg.SQL(t, `create table users (id int primary key, name text not null); create table orders (id int primary key, user_id int not null);
		create table bare (id int); create role app login password 'hunter2'`)
	t.Setenv("TEST_DATABASE_URL", "postgres://app:hunter2@"+s.pg.Addr()+"/postgres?sslmode=disable")
	got := s.report("check", 1)
	wants(t, "check", got,
		"store\n  fine     redis://", "shop\n",
		"  problem  wal_level is replica; want logical\n    fix    ALTER SYSTEM SET wal_level = 'logical'; and restart the server\n",
		"  problem  role app may not replicate\n    fix    ALTER ROLE \"app\" REPLICATION;\n",
		`GRANT CREATE ON DATABASE "postgres" TO "app";`,
		"public.bare: has no replica identity", `ALTER TABLE "public"."bare" REPLICA IDENTITY FULL;`,
		s.file+":8: rule 1, public.users.nme: the table has no such column, which \"user:{nme}:profile\" needs\n    fix    did you mean name?\n",
		s.file+":9: rule 2, public.user: no table has this name\n    fix    did you mean public.users?\n",
		s.file+":10: rule 3, public.orders.user_id: updates and deletes don't carry its old value, which \"orders:{user_id}\" needs\n    fix    ALTER TABLE \"public\".\"orders\" REPLICA IDENTITY FULL;\n",
		"warning  nothing bounds the log",
	)
	if strings.Contains(got, "rule 4") {
		t.Errorf("check complains twice of a table without identity:\n%s", got)
	}
	var asJSON struct {
		OK       bool
		Findings []finding
	}
	if err := json.Unmarshal([]byte(s.report("check", 1, "--json")), &asJSON); err != nil || asJSON.OK || len(asJSON.Findings) < 8 || asJSON.Findings[0].About != "store" || asJSON.Findings[0].Level != levelFine {
		t.Errorf("as JSON: %+v, %v", asJSON, err)
	}

	// What it says, done.
	s.pg.SQL(t, "alter system set wal_level = 'logical'")
	s.pg.SQL(t, "alter system set max_slot_wal_keep_size = '8GB'")
	s.pg.Restart()
	s.pg.SQL(t, `alter role app replication; grant create on database postgres to app; alter table bare replica identity full; alter table orders replica identity full;
		alter table users owner to app; alter table bare owner to app; alter table orders owner to app; create table public.user (id int primary key); alter table public.user owner to app;
		alter table users rename column name to nme; alter table users replica identity full`)
	if got := s.report("check", 0); !strings.Contains(got, "can be followed: 4 rules, 4 tables") || !strings.HasSuffix(got, ": no problems, no warnings\n") {
		t.Errorf("after all that:\n%s", got)
	}

	s.redis.Kill()
	wants(t, "check without Redis", s.report("check", 1), "store\n  problem  redis://", "doesn't answer")
	s.pg.Stop()
	wants(t, "check without a database", s.report("check", 1), "problem  can't look at postgres://xxxxx@"+s.pg.Addr()+"/postgres")
}

func TestCheckFile(t *testing.T) {
	s := &site{t: t, file: filepath.Join(t.TempDir(), "freshet.yaml")}
	f := func(text string, all ...string) {
		t.Helper()
		if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		wants(t, text, s.report("check", 1), all...)
		var asJSON findings
		if err := json.Unmarshal([]byte(s.report("doctor", 1, "--json")), &asJSON); err != nil || asJSON.OK || asJSON.All[0].Line == 0 || strings.Contains(asJSON.All[0].What, "\n") {
			t.Errorf("as JSON: %+v, %v", asJSON, err)
		}
	}
	f("stor: {}\n", s.file+":1:1: stor isn't known here; did you mean store?\n   1 | stor: {}\n     | ^^^^\n", "2 problems, no warnings\n")
	f("store: { url: redis://h }\n", "cdc is missing; want at least one source of changes")
	source := "cdc: { a: { postgres: { url: \"postgres://u:hunter2@h:port/d\" }, rules: [{ table: t, tags: [t] }] } }\n"
	f("store: { url: redis://h }\n"+source, s.file+":2:25: cdc.a.postgres.url is wrong: pgcdc: ")
	source = "cdc: { a: { postgres: { url: postgres://h/d }, rules: [{ table: t, tags: [t] }] } }\n"
	f("store: { url: memory:// }\n"+source, "store.url is memory:, which no other program sees; want Redis")
	f("store: { url: \"redis://u:hunter2@h:port\" }\n"+source, "store.url is wrong: ", "want host:port")
}

// Doctor names what is stuck, and what never expires.
func TestDoctor(t *testing.T) {
	s := newSite(t, append([]string{"max_prepared_transactions=2"}, logical...), quickly+usersRules)
	s.pg.SQL(t, usersTable)
	wants(t, "before the first start", s.report("doctor", 0), "there is no slot freshet yet", "no pump has worked on it")

	p := begin(t, "watch", "-c", s.file, "--log", "text")
	p.says(regexp.MustCompile(`following`))
	wants(t, "doctor", s.report("doctor", 0), "store\n  fine     redis://", "slot freshet is read by process ", "works, and is certified up to tick ", ": no problems, no warnings\n")
	p.stop()

	for _, name := range []string{"rate:10.0.0.1", "rate:10.0.0.2", "rate:10.0.0.3"} {
		s.redis.CLI(t, "INCR", name)
	}
	s.redis.CLI(t, "SET", "ok", "1", "EX", "60")
	s.redis.CLI(t, "CONFIG", "SET", "maxmemory", "100mb")
	s.redis.CLI(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	s.pg.SQL(t, "update users set name = 'Grace'; create table public.none (id int)")
	s.write(s.redis.URL(), strings.Replace(usersRules, "public.users", "public.*", 1))
	got := s.report("doctor", 1)
	wants(t, "doctor", got,
		"  warning  Redis evicts any key when its memory is full: maxmemory-policy is allkeys-lru\n    why    among them may be the mark",
		"  warning  key \"rate:10.0.0.1\" holds the number 1 and never expires; so do 2 others that begin with \"rate:\"\n    why    if it counts requests",
		"  problem  nobody reads slot freshet, for which the server keeps ", "SELECT pg_drop_replication_slot('freshet');",
		"  problem  no pump works: the mark of shop in the store stands still",
		"  problem  public.none: has no replica identity",
	)
	if strings.Contains(got, `"ok"`) {
		t.Errorf("a key that expires is complained of:\n%s", got)
	}
}

func TestSlotFindings(t *testing.T) {
	ok := pgcdc.SlotState{Name: "s", Exists: true, Reader: 7, Retained: 1 << 20, Safe: -1, Status: "reserved"}
	f := func(what string, change func(before, now *pgcdc.SlotState), all ...string) {
		t.Helper()
		before, now := ok, ok
		change(&before, &now)
		r := findings{}
		r.add("shop", slotFindings(before, now, 8<<30)...)
		var out bytes.Buffer
		_ = r.print(&out, false)
		wants(t, what, out.String(), all...)
	}
	f("fine", func(_, _ *pgcdc.SlotState) {}, "fine     slot s is read by process 7; the server keeps 1 MiB of log", "no problems, no warnings")
	f("none", func(_, now *pgcdc.SlotState) { *now = pgcdc.SlotState{Name: "s"} }, "warning  there is no slot s yet")
	f("lost", func(_, now *pgcdc.SlotState) { now.Status = "lost" }, "problem  slot s was invalidated")
	f("nobody", func(_, now *pgcdc.SlotState) { now.Reader, now.Safe = 0, 5<<20 }, "problem  nobody reads slot s", "the server bears 5 MiB more")
	f("stuck", func(before, now *pgcdc.SlotState) {
		before.Unconfirmed, now.Unconfirmed, now.Retained = 1<<30, 1<<30+1, 2<<30
	}, "problem  slot s is stuck: process 7 reads it and acknowledges nothing, and the server keeps 2 GiB")
	f("catching up", func(before, now *pgcdc.SlotState) { before.Unconfirmed, now.Unconfirmed = 2<<30, 1<<30 }, "fine     slot s")
	f("a long transaction", func(_, now *pgcdc.SlotState) {
		now.Writer = &pgcdc.Writer{Pid: 9, User: "app", Application: "nightly", State: "idle in transaction", For: 2 * time.Hour}
	}, "warning  a transaction is open for 2h: process 9 of app (nightly), idle in transaction", "SELECT pg_terminate_backend(9);")
	f("a short one", func(_, now *pgcdc.SlotState) { now.Writer = &pgcdc.Writer{Pid: 9, For: time.Second} }, "no warnings")
	f("a prepared one", func(_, now *pgcdc.SlotState) {
		now.Writer = &pgcdc.Writer{User: "app", State: "prepared", For: time.Hour}
	}, "ROLLBACK PREPARED")
	f("nearly too much", func(_, now *pgcdc.SlotState) { now.Retained = 5 << 30 }, "warning  slot s keeps 5 GiB of log; at 8 GiB (max_slot_lag) it is dropped")
}

func TestServerFindings(t *testing.T) {
	f := func(s redisstore.Server, all ...string) {
		t.Helper()
		r := findings{}
		r.add("store", serverFindings(s)...)
		var out bytes.Buffer
		_ = r.print(&out, false)
		wants(t, "server", out.String(), all...)
	}
	f(redisstore.Server{Version: "7.0.15", Policy: "noeviction"}, "no problems, no warnings")
	f(redisstore.Server{Version: "7.0.15", Policy: "allkeys-lru"}, "no problems, no warnings") // nothing bounds its memory
	f(redisstore.Server{Version: "7.0.15", Policy: "volatile-lfu", MaxMemory: 1, UsedMemory: 1}, "no problems, no warnings")
	f(redisstore.Server{Version: "6.0.16"}, "problem  Redis is version 6.0.16; want 6.2 or later")
	f(redisstore.Server{Addr: "h:1", Version: "8.1.1", Policy: "allkeys-lfu", MaxMemory: 1}, "warning  Redis at h:1 evicts any key")
	f(redisstore.Server{Version: "7.0.15", Policy: "noeviction", MaxMemory: 100, UsedMemory: 95}, "problem  the memory of Redis is nearly full (95 of 100 bytes)")
}
