package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc/mysqlcdc"
	"github.com/freshetdev/freshet/internal/testenv"
)

// newMariaDBSite starts the servers. app may log in, and nothing else. settings are of MariaDB, more is of the source in the file.
func newMariaDBSite(t *testing.T, settings []string, more string) *site {
	t.Helper()
	s := &site{t: t, my: testenv.MariaDB(t, append(settings, "max-connections=60", "sync-binlog=0")...), redis: testenv.Redis(t), file: filepath.Join(t.TempDir(), "freshet.yaml")}
	s.my.SQL(t, "create user app@'127.0.0.1' identified by 'hunter2'")
	t.Setenv("TEST_DATABASE_URL", "mariadb://app:hunter2@"+s.my.Addr()+"/")
	s.write(s.redis.URL(), more)
	return s
}

// allRights are what docs/mysql.md says, and no more.
const allRights = "grant replication slave, binlog monitor on *.* to app@'127.0.0.1'; grant select, references on test.* to app@'127.0.0.1'"

const teamsRules = `    rules:
      - table: test.users
        tags: ["users:{id}"]
        keys: ["user:{id}:profile", "team:{team_id?}:members"]
        publish: [{ channel: user-changed, payload: "{id}" }]
`

// As for PostgreSQL: keys of another program go, and messages come, by rows that are updated, a foreign key that is emptied, and one that the
// server empties by itself, of which the binary log says nothing. What was committed before SIGTERM is applied.
func TestWatchMariaDB(t *testing.T) {
	s := newMariaDBSite(t, []string{"binlog-row-metadata=FULL"}, "    again: never\n"+teamsRules) // a second time would delete what comes after
	s.my.SQL(t, allRights+`;
		create table teams (id int primary key);
		create table users (id int primary key, team_id int, name text not null, foreign key (team_id) references teams (id) on delete set null);
		insert into teams values (1), (2), (3); insert into users select seq, 1, 'Ada' from seq_1_to_1000`)
	came := s.subscribe("user-changed")
	next := func(want string) {
		t.Helper()
		select {
		case m := <-came:
			if m != want {
				t.Errorf("the message is %q; want %q", m, want)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("no message came; want %q", want)
		}
	}
	set := func(keys ...string) {
		t.Helper()
		args := []string{"MSET"}
		for _, key := range keys {
			args = append(args, key, "old")
		}
		s.redis.CLI(t, args...)
	}
	gone := func(keys ...string) {
		t.Helper()
		for _, key := range keys {
			eventually(t, key+" is gone", func() bool { return !s.has(key) })
		}
	}

	set("user:2:profile")
	p := testenv.Child(t, "freshet", "watch", "-c", s.file, "--log", "text")
	if line := p.Line(); !strings.Contains(line, "watching shop  mariadb://xxxxx@"+s.my.Addr()+"/  1 rule") {
		t.Errorf("the banner is %q", line)
	}
	gone("user:2:profile") // the first start drops everything
	next("*")

	set("user:1:profile", "user:2:profile", "team:1:members", "team:2:members")
	s.my.SQL(t, "update users set name = 'Grace', team_id = null where id = 1")
	gone("user:1:profile", "team:1:members")
	next("1")
	if !s.has("user:2:profile") || !s.has("team:2:members") {
		t.Error("keys of rows that didn't change are gone")
	}

	s.my.SQL(t, "update users set team_id = 3 where id = 7")
	next("7")
	set("user:7:profile", "team:3:members")
	s.my.SQL(t, "delete from teams where id = 3")
	gone("user:7:profile", "team:3:members")
	next("*")

	set("user:1:profile", "user:1000:profile")
	s.my.SQL(t, "update users set name = 'Edsger'")
	if err := syscall.Kill(p.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d; want 0", code)
	}
	if s.has("user:1:profile") || s.has("user:1000:profile") {
		t.Error("keys of what was committed before SIGTERM are there")
	}
	var said strings.Builder
	for line := range p.Lines() {
		said.WriteString(line + "\n")
	}
	if strings.Contains(said.String(), "hunter2") || !regexp.MustCompile(`shop: \d+ changes in \d+ transactions: \d+ tags and \d+ keys dropped, \d+ messages\n`).MatchString(said.String()) {
		t.Errorf("it says:\n%s", &said)
	}
}

// On a server that lacks everything, check prints what to run; once that was run, all is well.
func TestCheckMariaDBPrintsStatements(t *testing.T) {
	s := newMariaDBSite(t, []string{"binlog-format=MIXED", "binlog-row-image=MINIMAL"}, quickly+`    rules:
      - { table: test.users, keys: ["user:{nme}:profile"] }
      - { table: test.orders, tags: ["orders:{user_id}"] }
      - { table: test.w, tags: [w] }
`)
	s.my.SQL(t, "create table users (id int primary key, name text not null); create table orders (id int primary key, user_id int not null); create view w as select 1 as x")
	got := s.report("check", 1)
	wants(t, "check", got, "store\n  fine     redis://", "shop\n",
		"  problem  binlog_format is MIXED; want ROW: statements don't say which rows they change\n    fix    SET GLOBAL binlog_format = 'ROW';",
		"  warning  binlog_row_metadata is NO_LOG: ", "  warning  binlog_row_image is MINIMAL: ",
		"  problem  app@127.0.0.1 lacks the privilege BINLOG MONITOR, which tells where the binary log ends\n    fix    GRANT BINLOG MONITOR ON *.* TO 'app'@'127.0.0.1';\n",
		"  problem  app@127.0.0.1 lacks the privilege REPLICATION SLAVE, with which the binary log is read\n    fix    GRANT REPLICATION SLAVE ON *.* TO 'app'@'127.0.0.1';\n",
		"    fix    GRANT SELECT ON `database`.* TO 'app'@'127.0.0.1';\n",
		s.file+":8: rule 1, test.users: no table has this name\n",
	)

	// What it says, done.
	done := 0
	fix := func(code int) {
		t.Helper()
		var asJSON findings
		if err := json.Unmarshal([]byte(s.report("check", code, "--json")), &asJSON); err != nil {
			t.Fatal(err)
		}
		for _, f := range asJSON.All {
			if sql, _, ok := strings.Cut(f.Fix, ";"); ok && f.Line == 0 && f.Level != levelFine {
				s.my.SQL(t, strings.ReplaceAll(sql, "`database`", "test"))
				done++
			}
		}
	}
	fix(1)
	if done != 6 {
		t.Errorf("%d statements were printed; want 6", done)
	}
	got = s.report("check", 1)
	wants(t, "with all rights", got, "  problem  test.w: is a view, of which the binary log says nothing\n    fix    name the tables that it is made of\n",
		s.file+":8: rule 1, test.users.nme: the table has no such column, which \"user:{nme}:profile\" needs\n    fix    did you mean name?\n", ": 2 problems, no warnings\n")
	if strings.Contains(got, "rule 3") {
		t.Errorf("check complains twice of a view:\n%s", got)
	}
	s.my.SQL(t, "alter table users rename column name to nme; drop view w; create table w (id int primary key)")
	wants(t, "after all that", s.report("check", 0), "can be followed: 3 rules, 3 tables", ": no problems, no warnings\n")

	s.my.SQL(t, "set global binlog_row_image = MINIMAL")
	wants(t, "a row image that lacks what a rule needs", s.report("check", 1),
		s.file+":9: rule 2, test.orders.user_id: updates and deletes don't carry its old value, which \"orders:{user_id}\" needs\n    fix    SET GLOBAL binlog_row_image = 'FULL';\n")
	s.my.SQL(t, "set password for app@'127.0.0.1' = password('another')")
	wants(t, "with another password", s.report("check", 1), "problem  can't look at mariadb://xxxxx@"+s.my.Addr()+"/: ", "Access denied", "mend cdc.shop.mysql.url, line 4, or the database")
}

// A server without a binary log is told as that, and not as an error of doctor.
func TestDoctorMariaDBWithoutLog(t *testing.T) {
	s := newMariaDBSite(t, []string{"skip-log-bin"}, quickly+teamsRules)
	s.my.SQL(t, allRights+"; create table users (id int primary key, team_id int, name text not null)")
	got := s.report("doctor", 1)
	wants(t, "doctor", got, "  problem  there is no binary log (log_bin)\n    fix    log_bin = binlog and server_id = 1 in the section [mysqld]")
	if strings.Contains(got, "can't look") {
		t.Errorf("doctor complains twice of it:\n%s", got)
	}
}

// Doctor says how long the log is kept, and that what a pump has not read is gone.
func TestDoctorMariaDB(t *testing.T) {
	s := newMariaDBSite(t, []string{"binlog-row-metadata=FULL"}, quickly+teamsRules)
	s.my.SQL(t, allRights+"; create table users (id int primary key, team_id int, name text not null)")
	wants(t, "before the first start", s.report("doctor", 0), "  fine     the binary log has ", "no pump has worked on it")

	p := begin(t, "watch", "-c", s.file, "--log", "text")
	p.says(regexp.MustCompile(`following`))
	wants(t, "doctor", s.report("doctor", 0), "store\n  fine     redis://", "  fine     the binary log has ", " of it is not applied\n", "works, and is certified up to tick ", ": no problems, no warnings\n")
	p.stop()

	s.my.SQL(t, "flush binary logs; set global binlog_expire_logs_seconds = 3600")
	wants(t, "a log that is kept for an hour", s.report("doctor", 1), "no pump works: ", "of the binary log is not applied, and begins in its oldest file, binlog.0000",
		"  warning  the server throws its binary log away after 1h\n", "SET GLOBAL binlog_expire_logs_seconds = 604800;")
	last := s.my.SQL(t, "select substring_index(variable_value, '/', -1) from information_schema.global_status where variable_name = 'binlog_snapshot_file'")
	// Until the server has noticed that the last reader of a file is gone, it keeps the file.
	eventually(t, "the file is purged", func() bool {
		s.my.SQL(t, "purge binary logs to '"+last+"'")
		return strings.HasPrefix(s.my.SQL(t, "show binary logs"), last)
	})
	wants(t, "a log that was thrown away", s.report("doctor", 1), "  problem  no pump can go on where the last one was: ", "the next pump to start drops everything once")
}

func TestLogFindings(t *testing.T) {
	ok := mysqlcdc.LogState{Oldest: "b.1", Newest: "b.3", Files: 3, Size: 3 << 20, Expires: 24 * time.Hour, File: "b.3", Unread: 2 << 10}
	f := func(what string, change func(*mysqlcdc.LogState), all ...string) {
		t.Helper()
		log := ok
		change(&log)
		r := findings{}
		r.add("shop", logFindings(log)...)
		var out bytes.Buffer
		_ = r.print(&out, false)
		wants(t, what, out.String(), all...)
	}
	f("fine", func(*mysqlcdc.LogState) {}, "fine     the binary log has 3 files, 3 MiB; 2 KiB of it is not applied", "no problems, no warnings")
	f("no mark", func(l *mysqlcdc.LogState) { l.File = "" }, "fine     the binary log has 3 files, 3 MiB\n", "no problems, no warnings")
	f("never purged", func(l *mysqlcdc.LogState) { l.Expires = 0; l.File = "b.1" }, "no problems, no warnings")
	f("one file", func(l *mysqlcdc.LogState) { l.Files, l.Oldest, l.File = 1, "b.3", "b.3" }, "has 1 file,", "no problems, no warnings")
	f("short", func(l *mysqlcdc.LogState) { l.Expires = 90 * time.Minute }, "warning  the server throws its binary log away after 1h30m", "no problems, 1 warning")
	f("the oldest file", func(l *mysqlcdc.LogState) { l.File = "b.1" }, "warning  2 KiB of the binary log is not applied, and begins in its oldest file, b.1", "no problems, 1 warning")
	f("gone", func(l *mysqlcdc.LogState) { l.File, l.Gap = "", errors.New("it was purged") }, "problem  no pump can go on where the last one was: it was purged", "1 problem, no warnings")
}

// Whatever is wrong with the URL of a server: the password stays out of the error.
func TestMySQLURL(t *testing.T) {
	s := &site{t: t, file: filepath.Join(t.TempDir(), "freshet.yaml"), my: &testenv.MariaDBServer{}}
	s.write("redis://h", teamsRules)
	f := func(url, want string) {
		t.Helper()
		t.Setenv("TEST_DATABASE_URL", url)
		wants(t, url, s.report("check", 1), fmt.Sprintf("%s:4:14: cdc.shop.mysql.url is wrong: mysqlcdc: url", s.file), want)
	}
	f("mysql://u:hunter2@h:port/", `invalid port ":port" after host`)
	f("mysql://u:hun/hunter2@h/", "what stands before the @ can't be read; want user:password, with %2F for /")
	f("mysql://u:hunter2/", "it can't be read; want mariadb://user:password@host:3306/")
	f("mysql:u:hunter2@h/", "has no host")
	f("mysql://h/?password=hunter2", "option password; want tls=true")
	f("mysql://u:hunter2@h/?tls=maybe", "mysql://h: option tls=maybe; want tls=true")
	f("mysql://h/?socket=/x", "option socket=/x; want")
	f("mysql://h/hunter2", "has no user")
}
