//go:build unix

package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A MariaDBServer is a MariaDB of one test, with the database "test" and the user "freshet", who may do everything and has no
// password.
type MariaDBServer struct {
	t    testing.TB
	dir  string
	port int
	args []string
	user string // who runs the server; empty: who runs the test
	proc *proc
}

// MariaDB makes a database in a folder of its own and starts a server on a free port and a Unix socket, with a
// binary log of rows. It returns when the server answers; the server ends with the test. settings are options of
// mariadbd without the dashes: "binlog_row_image=MINIMAL".
//
// The programs are looked for in $PATH, /usr/sbin and /usr/libexec. MariaDB refuses to run as root: then it runs as the user mysql.
func MariaDB(t testing.TB, settings ...string) *MariaDBServer {
	t.Helper()
	s := &MariaDBServer{t: t}
	for _, set := range settings {
		s.args = append(s.args, "--"+set)
	}
	server, install := findMariaDB("mariadbd"), findMariaDB("mariadb-install-db")
	if server == "" || install == "" || findMariaDB("mariadb") == "" {
		t.Fatal("testenv: no mariadbd, mariadb-install-db and mariadb found; install them with \"make setup\" or \"apt-get install mariadb-server\"")
	}
	var err error
	// Not t.TempDir: the path of a socket is at most 107 bytes, and the folders above must be open to the other user.
	if s.dir, err = os.MkdirTemp("", "freshet-my-"); err != nil {
		t.Fatalf("testenv: %v", err)
	}
	t.Cleanup(func() {
		s.Kill()
		os.RemoveAll(s.dir)
	})
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
	if err := onFreePort(&s.port, s.start); err != nil {
		t.Fatalf("testenv: %v", err)
	}
	s.sql(t, "mysql", "create database test; create user freshet@localhost; create user freshet@'127.0.0.1';"+
		"grant all on *.* to freshet@localhost with grant option; grant all on *.* to freshet@'127.0.0.1' with grant option", "root")
	return s
}

// Addr returns host:port.
func (s *MariaDBServer) Addr() string { return loopback(s.port) }

// Dir returns the folder of the server.
func (s *MariaDBServer) Dir() string { return s.dir }

// Pause stops the server without closing anything.
func (s *MariaDBServer) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *MariaDBServer) Resume() { s.signal(syscall.SIGCONT) }

// Kill ends the server as a crash would, and returns when it is gone. What was committed is recovered at the next start.
func (s *MariaDBServer) Kill() {
	if s.proc != nil && s.proc.alive() {
		s.proc.kill()
	}
}

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
	logPath := filepath.Join(s.dir, "stdout.log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(findMariaDB("mariadbd"), slices.Concat(s.own(), []string{
		"--port=" + strconv.Itoa(s.port), "--bind-address=127.0.0.1", "--socket=" + s.socket(), "--pid-file=" + filepath.Join(s.dir, "my.pid"),
		"--log-bin=binlog", "--binlog-format=ROW", "--server-id=1", "--gtid-strict-mode=ON", "--skip-name-resolve", "--character-set-server=utf8mb4",
		"--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=16M", "--innodb-use-native-aio=OFF",
	}, s.args)...)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = log, log
	if s.proc, err = startProc(cmd); err != nil {
		return err
	}
	deadline := time.Now().Add(2 * patience)
	for {
		said, _ := os.ReadFile(logPath)
		if strings.Contains(string(said), "ready for connections") {
			return nil
		}
		select {
		case <-s.proc.exited:
			said, _ = os.ReadFile(logPath)
			if strings.Contains(string(said), "Address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("mariadbd ended at its start:\n%s", said)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.Kill()
			return fmt.Errorf("mariadbd isn't ready:\n%s", said)
		}
	}
}

func (s *MariaDBServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.proc.signal(sig); err != nil {
		s.t.Fatalf("testenv: signal %v to mariadbd: %v", sig, err)
	}
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
