//go:build unix

package testenv

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A MariaDBServer is a MariaDB of one test, with the database "test" and the user "freshet", who may do everything and has no
// password.
type MariaDBServer struct {
	server
	args []string
	user string // who runs the server; empty: who runs the test
}

// MariaDB makes a database in a folder of its own and starts a server on a free port and a Unix socket, with a
// binary log of rows. It returns when the server answers; the server ends with the test. settings are options of
// mariadbd without the dashes: "binlog_row_image=MINIMAL".
//
// The programs are looked for in $PATH, /usr/sbin and /usr/libexec. MariaDB refuses to run as root: then it runs as the user mysql.
func MariaDB(t testing.TB, settings ...string) *MariaDBServer {
	t.Helper()
	s := &MariaDBServer{server: server{t: t, program: "mariadbd"}}
	for _, set := range settings {
		s.args = append(s.args, "--"+set)
	}
	install := findMariaDB("mariadb-install-db")
	if findMariaDB(s.program) == "" || install == "" || findMariaDB("mariadb") == "" {
		t.Fatal("testenv: no mariadbd, mariadb-install-db and mariadb found; install them with \"make setup\" or \"apt-get install mariadb-server\"")
	}
	s.folder("freshet-my-", s.Kill)
	if os.Getuid() == 0 {
		s.user = "mysql"
		u, err := user.Lookup(s.user)
		if err != nil {
			t.Fatalf("testenv: mariadbd doesn't run as root: %v", err)
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2, os.Chown(s.dir, uid, gid)); err != nil {
			t.Fatalf("testenv: %v", err)
		}
	}
	if out, err := s.run(install, append(s.own(), "--auth-root-authentication-method=normal", "--skip-test-db")...); err != nil {
		t.Fatalf("testenv: mariadb-install-db: %v\n%s", err, out)
	}
	s.onFreePort(s.start)
	s.sql(t, "mysql", "create database test; create user freshet@localhost; create user freshet@'127.0.0.1';"+
		"grant all on *.* to freshet@localhost with grant option; grant all on *.* to freshet@'127.0.0.1' with grant option", "root")
	return s
}

// Kill ends the server as a crash would, and returns when it is gone. What was committed is recovered at the next start.
func (s *MariaDBServer) Kill() { s.proc.kill() }

// Restart kills the server if it runs, and starts it again on the same port with the same data.
func (s *MariaDBServer) Restart() {
	s.t.Helper()
	s.Kill()
	if err := s.start(); err != nil {
		s.t.Fatalf("testenv: restart: %v", err)
	}
}

// SQL runs statements on the database "test" and returns what they print, tabs between columns and without headings. An error fails the test.
func (s *MariaDBServer) SQL(t testing.TB, statements string) string {
	t.Helper()
	return s.sql(t, "test", statements, "freshet")
}

func (s *MariaDBServer) sql(t testing.TB, database, statements, as string) string {
	t.Helper()
	out, err := s.run(findMariaDB("mariadb"), "--no-defaults", "--batch", "--skip-column-names", "--socket", s.socket(), "--user", as, "--execute", statements, database)
	if err != nil {
		t.Fatalf("testenv: mariadb: %v\n%s", err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func (s *MariaDBServer) socket() string { return filepath.Join(s.dir, "my.sock") }

// own are the options by which the programs work in the server's folder, and as its user.
func (s *MariaDBServer) own() []string {
	args := []string{"--no-defaults", "--datadir=" + filepath.Join(s.dir, "data")}
	if s.user != "" {
		args = append(args, "--user="+s.user)
	}
	return args
}

// run runs a program to its end. A database is made on a slow machine, too.
func (s *MariaDBServer) run(program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	return exec.CommandContext(ctx, program, args...).CombinedOutput()
}

func (s *MariaDBServer) start() error {
	cmd := exec.Command(findMariaDB(s.program), slices.Concat(s.own(), []string{
		"--port=" + strconv.Itoa(s.port), "--bind-address=127.0.0.1", "--socket=" + s.socket(), "--pid-file=" + filepath.Join(s.dir, "my.pid"),
		"--log-bin=binlog", "--binlog-format=ROW", "--server-id=1", "--gtid-strict-mode=ON", "--skip-name-resolve", "--character-set-server=utf8mb4",
		"--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=16M", "--innodb-use-native-aio=OFF",
	}, s.args)...)
	cmd.Dir = s.dir
	return s.launch(cmd, 2*patience, s.says("ready for connections"))
}

// findMariaDB returns the path of a program of MariaDB; "" if there is none.
func findMariaDB(program string) string {
	if file, err := exec.LookPath(program); err == nil {
		return file
	}
	for _, dir := range []string{"/usr/sbin", "/usr/libexec", "/usr/local/sbin"} {
		if has(dir, program) {
			return filepath.Join(dir, program)
		}
	}
	return ""
}
