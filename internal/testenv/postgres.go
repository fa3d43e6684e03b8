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

// A PostgresServer is a PostgreSQL of one test, with the database "postgres" and the superuser "freshet". Pause stops
// its main process only: connections that are open go on, new ones get no answer.
type PostgresServer struct {
	server
	bin      string // folder of the programs
	settings []string
	args     []string // the same as arguments
	cred     *syscall.Credential
}

// Postgres makes a database in a folder of its own and starts a server on a free port and a Unix socket. It returns when
// the server answers; the server ends with the test. settings are of postgresql.conf: "wal_level=logical".
//
// The programs are looked for in $FRESHET_TEST_POSTGRES_BIN, $PATH, where pg_config says, and where packages put them.
// PostgreSQL refuses to run as root: then it runs as the user postgres, or nobody.
func Postgres(t testing.TB, settings ...string) *PostgresServer {
	t.Helper()
	s := newPostgres(t, settings)
	s.begin("initdb", "-A", "trust", "-E", "UTF8", "--locale=C")
	return s
}

// Standby makes a copy of a running server, with the same settings and more, that follows it by streaming replication and answers queries. When it
// returns, the copy shows what was committed before.
func (s *PostgresServer) Standby(t testing.TB, settings ...string) *PostgresServer {
	t.Helper()
	c := newPostgres(t, append(slices.Clone(s.settings), settings...))
	c.begin("pg_basebackup", "-h", s.dir, "-p", strconv.Itoa(s.port), "-R", "-X", "stream", "--checkpoint=fast")
	c.CaughtUp(t, s)
	return c
}

// CaughtUp waits until a standby shows what is committed on the primary now.
func (s *PostgresServer) CaughtUp(t testing.TB, primary *PostgresServer) {
	t.Helper()
	end := primary.SQL(t, "select pg_current_wal_flush_lsn()")
	for deadline := time.Now().Add(patience); s.SQL(t, "select coalesce(pg_last_wal_replay_lsn() >= '"+end+"', false)") != "t"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("testenv: the standby doesn't catch up to %s", end)
		}
	}
}

// newPostgres makes the folder of a server. It is stopped and removed with the test.
func newPostgres(t testing.TB, settings []string) *PostgresServer {
	t.Helper()
	s := &PostgresServer{server: server{t: t, program: "postgres"}, settings: settings}
	var err error
	if s.bin, err = findPostgres(); err != nil {
		t.Fatalf("testenv: %v; install it with \"make setup\" or \"apt-get install postgresql\"", err)
	}
	for _, set := range settings {
		s.args = append(s.args, "-c", set)
	}
	s.folder("freshet-pg-", s.Stop)
	if os.Getuid() == 0 {
		if s.cred, err = unprivileged(); err == nil {
			err = os.Chown(s.dir, int(s.cred.Uid), int(s.cred.Gid))
		}
		if err != nil {
			t.Fatalf("testenv: postgres doesn't run as root: %v", err)
		}
	}
	return s
}

// begin makes the data by a program, and starts the server.
func (s *PostgresServer) begin(program string, args ...string) {
	s.t.Helper()
	if out, err := s.run(program, append([]string{"-D", s.data(), "-U", "freshet", "--no-sync"}, args...)...); err != nil {
		s.t.Fatalf("testenv: %s: %v\n%s", program, err, out)
	}
	s.onFreePort(s.start)
}

// URL returns a connection string for the server itself.
func (s *PostgresServer) URL() string { return s.URLAt(s.Addr()) }

// URLAt returns a connection string by which the server is reached at another host:port, such as a proxy's.
func (s *PostgresServer) URLAt(addr string) string {
	return "postgres://freshet@" + addr + "/postgres?sslmode=disable"
}

// Bin returns the folder of the programs: psql and others.
func (s *PostgresServer) Bin() string { return s.bin }

// Stop ends the server at once, without a checkpoint, and returns when it is gone. What was committed is recovered at the
// next start. (A kill -9 would leave its shared memory behind.)
func (s *PostgresServer) Stop() {
	if !s.proc.alive() {
		return
	}
	s.proc.signal(syscall.SIGCONT)
	s.proc.signal(syscall.SIGQUIT)
	select {
	case <-s.proc.exited:
	case <-time.After(patience):
		s.proc.kill()
	}
}

// Restart stops the server if it runs, and starts it again on the same port with the same data.
func (s *PostgresServer) Restart() {
	s.t.Helper()
	s.Stop()
	if err := s.start(); err != nil {
		s.t.Fatalf("testenv: restart: %v", err)
	}
}

// SQL runs statements with psql and returns what it prints, unaligned and without headings. An error fails the test.
func (s *PostgresServer) SQL(t testing.TB, statements string) string {
	t.Helper()
	out, err := s.run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", s.dir, "-p", strconv.Itoa(s.port), "-U", "freshet", "-d", "postgres", "-c", statements)
	if err != nil {
		t.Fatalf("testenv: psql: %v\n%s", err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func (s *PostgresServer) data() string { return filepath.Join(s.dir, "data") }

func (s *PostgresServer) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if s.cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred}
	}
	return cmd
}

// run runs a program to its end. A database is made on a slow machine, too.
func (s *PostgresServer) run(name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	return s.command(ctx, name, args...).CombinedOutput()
}

func (s *PostgresServer) start() error {
	cmd := s.command(context.Background(), s.program, append([]string{
		"-D", s.data(), "-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + s.dir,
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=50", "-c", "shared_buffers=16MB",
	}, s.args...)...)
	return s.launch(cmd, patience, s.says("ready to accept")) // a standby: read-only connections
}

// findPostgres returns the folder of initdb and postgres, of the newest version if packages left several.
func findPostgres() (string, error) {
	var dirs []string
	if dir := os.Getenv("FRESHET_TEST_POSTGRES_BIN"); dir != "" {
		dirs = append(dirs, dir)
	}
	if file, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(file))
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"} {
		found, _ := filepath.Glob(pattern)
		slices.Reverse(found)
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		if has(dir, "initdb") && has(dir, "postgres") && has(dir, "psql") {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no initdb, postgres and psql found in any of %q", dirs)
}

func has(dir, program string) bool {
	_, err := exec.LookPath(filepath.Join(dir, program))
	return err == nil
}

// unprivileged is who runs the server when the test runs as root.
func unprivileged() (*syscall.Credential, error) {
	var errs []error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			errs = append(errs, err)
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.Join(errs...)
}
