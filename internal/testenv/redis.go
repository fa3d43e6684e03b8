package testenv

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A RedisServer is a redis-server (or valkey-server) of one test.
type RedisServer struct {
	server
	config string // a file that the server may rewrite; empty: none
	extra  []string
	certs  *Certs // nil: in the clear
}

// An Option changes how [Redis] starts its server.
type Option func(*RedisServer)

// Args appends arguments of redis-server, which win over those of testenv:
// Args("--appendonly", "yes").
func Args(args ...string) Option {
	return func(s *RedisServer) { s.extra = append(s.extra, args...) }
}

// Binary chooses the server program. The default is $FRESHET_TEST_REDIS_SERVER, or redis-server.
func Binary(path string) Option {
	return func(s *RedisServer) { s.program = path }
}

// withConfig makes the server read a file of its folder, with this text.
func withConfig(text string) Option {
	return func(s *RedisServer) { s.config = text }
}

// Redis starts a server on a free port and on a Unix socket, without persistence, and
// returns when it answers. It is killed at the end of the test.
func Redis(t testing.TB, opts ...Option) *RedisServer {
	t.Helper()
	s := &RedisServer{server: server{t: t, program: cmp.Or(os.Getenv("FRESHET_TEST_REDIS_SERVER"), "redis-server")}}
	for _, o := range opts {
		o(s)
	}
	if _, err := exec.LookPath(s.program); err != nil {
		t.Fatalf("testenv: %v; install it with \"make setup\" or \"apt-get install redis-server\"", err)
	}
	s.folder("freshet-redis-", s.Kill)
	if s.config != "" {
		path := filepath.Join(s.dir, "redis.conf")
		if err := os.WriteFile(path, []byte(s.config), 0o600); err != nil {
			t.Fatalf("testenv: %v", err)
		}
		s.config = path
	}
	s.onFreePort(func() error { return s.start() })
	return s
}

// URL returns redis://host:port, or rediss:// with the certificates that it takes.
func (s *RedisServer) URL() string { return s.certs.url("redis", s.Addr(), "") }

// Socket returns the path of the Unix socket.
func (s *RedisServer) Socket() string { return filepath.Join(s.dir, "redis.sock") }

// Pid returns the process id of the running server.
func (s *RedisServer) Pid() int { return s.proc.pid() }

// Kill ends the server as a crash would (kill -9) and returns when it is gone.
func (s *RedisServer) Kill() { s.proc.kill() }

// Save writes a snapshot, with which Restart begins. While the server writes one for a replica, it waits.
func (s *RedisServer) Save(t testing.TB) {
	t.Helper()
	await(t, "a snapshot is written", func() bool {
		_, err := s.cli("SAVE")
		return err == nil
	})
}

// ForgetSnapshot removes what Save wrote: the next Restart begins empty.
func (s *RedisServer) ForgetSnapshot() { os.Remove(filepath.Join(s.dir, "dump.rdb")) }

// Restart kills the server if it still runs and starts it again on the same port, in the same
// folder: it finds there what it saved (see Save and --appendonly). More are arguments for this start, which win.
func (s *RedisServer) Restart(more ...string) {
	s.t.Helper()
	s.Kill()
	deadline := time.Now().Add(patience)
	err := s.start(more...)
	for errors.Is(err, errPortTaken) && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
		err = s.start(more...)
	}
	if err != nil {
		s.t.Fatalf("testenv: restart: %v", err)
	}
}

// CLI runs redis-cli against the server and returns what it prints, less the last newline:
// a client that knows nothing of us. An error reply fails the test.
func (s *RedisServer) CLI(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.cli(args...)
	if err != nil {
		t.Fatalf("testenv: redis-cli %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// cli is CLI for what may fail.
func (s *RedisServer) cli(args ...string) (string, error) {
	cli := "redis-cli"
	if strings.HasSuffix(s.program, "valkey-server") {
		cli = strings.TrimSuffix(s.program, "server") + "cli"
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	at := []string{"-e", "-p", strconv.Itoa(s.port)}
	if s.certs != nil {
		at = []string{"-e", "-s", s.Socket()}
	}
	cmd := exec.CommandContext(ctx, cli, append(at, args...)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSuffix(string(out), "\n"), err
}

// start starts the server and waits until it answers.
func (s *RedisServer) start(more ...string) error {
	os.Remove(s.Socket()) // a killed server leaves it behind
	var args []string
	if s.config != "" {
		args = append(args, s.config)
	}
	port := []string{"--port", strconv.Itoa(s.port)}
	if s.certs != nil {
		port = s.certs.args(s.port)
	}
	args = append(args, port...)
	args = append(args, "--bind", "127.0.0.1", "--unixsocket", s.Socket(),
		"--dir", s.dir, "--save", "", "--appendonly", "no", "--daemonize", "no")
	args = append(args, s.extra...)
	// Asked over the socket, which only our own server can own.
	return s.launch(exec.Command(s.program, append(args, more...)...), patience, func() error { return ping(s.Socket()) })
}

// ping reports nil once the server has answered, with PONG or with an error that shows that it
// is up (a password is wanted); -LOADING is not an answer.
func ping(socket string) error {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.HasPrefix(line, "-LOADING") {
		return errors.New(strings.TrimSpace(line))
	}
	return nil
}
