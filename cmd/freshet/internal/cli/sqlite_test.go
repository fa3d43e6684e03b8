package cli

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc/sqlitecdc"
	"github.com/freshetdev/freshet/internal/testenv"
)

// An UPDATE in an SQLite file deletes the key of another program.
func TestWatchSQLite(t *testing.T) {
	s := &site{t: t, redis: testenv.Redis(t), file: filepath.Join(t.TempDir(), "freshet.yaml")}
	path := filepath.Join(t.TempDir(), "shop 1%2.db") // to be escaped
	write := func(url string) {
		t.Helper()
		text := "store: { url: \"" + s.redis.URL() + "\", timeout: 500ms }\ncdc:\n  shop:\n    sqlite: { url: \"" + url + "\", poll: 5ms }\n    again: 20ms\n    tick: 20ms\n" +
			"    rules: [{ table: users, keys: [\"user:{id}:profile\"] }]\n"
		if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"sqlite:", "sqlite:x.db?mode=ro"} {
		write(bad)
		wants(t, bad, s.report("check", 1), "cdc.shop.sqlite.url is wrong: want sqlite: and a path")
	}
	write("sqlite://" + path)
	wants(t, "no file", s.report("check", 1), "can't look at sqlite:")
	if _, err := os.Stat(path); err == nil {
		t.Fatal("check made the file")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", sqliteDSN(path))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(statement string) {
		t.Helper()
		if _, err := db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	exec("create table users (id integer primary key, name text); insert into users values (1, 'Ada'), (2, 'Alan')")
	wants(t, "check", s.report("check", 0), "the journal mode is delete", "PRAGMA journal_mode = WAL;", "no problems, 1 warning")
	exec("pragma journal_mode = wal")
	wants(t, "doctor", s.report("doctor", 0), "there is no outbox in the file yet")

	p := begin(t, "watch", "-c", s.file, "--log", "text")
	eventually(t, "it follows", func() bool { return strings.Contains(p.stderr.String(), "following") })
	s.redis.CLI(t, "SET", "user:1:profile", "{}")
	s.redis.CLI(t, "SET", "user:2:profile", "{}")
	exec("update users set name = 'Grace' where id = 1")
	eventually(t, "the key is gone", func() bool { return !s.has("user:1:profile") })
	if !s.has("user:2:profile") {
		t.Error("the other key is gone, too")
	}
	wants(t, "doctor", s.report("doctor", 0), "the outbox has 2 changes")
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
}

func TestOutboxFindings(t *testing.T) {
	f := func(o sqlitecdc.OutboxState, want string) {
		t.Helper()
		if got := outboxFindings(o); len(got) != 1 || !strings.Contains(got[0].What, want) {
			t.Errorf("%+v: %+v; want %s", o, got, want)
		}
	}
	f(sqlitecdc.OutboxState{}, "there is no outbox")
	f(sqlitecdc.OutboxState{Exists: true, Rows: 1}, "the outbox has 1 change")
	f(sqlitecdc.OutboxState{Exists: true, Rows: 9, Max: 100, Oldest: time.Hour}, "nobody takes changes out of the outbox: it has 9, the oldest made 1h ago")
}
