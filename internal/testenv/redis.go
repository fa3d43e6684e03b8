package testenv

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A RedisServer is a redis-server (or valkey-server) of one test.
type RedisServer struct {
	t      testing.TB
	binary string
	dir    string
	port   int
	config string // a file that the server may rewrite; empty: none
	extra  []string
	certs  *Certs // nil: in the clear
	proc   *proc
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
	return func(s *RedisServer) { s.binary = path }
}

// withConfig makes the server read a file of its folder, with this text.
func withConfig(text string) Option {
	return func(s *RedisServer) { s.config = text }
}

// Redis starts a server on a free port and on a Unix socket, without persistence, and
// returns when it answers. It is killed at the end of the test.
func Redis(t testing.TB, opts ...Option) *RedisServer {
	t.Helper()
	s := &RedisServer{t: t, binary: os.Getenv("FRESHET_TEST_REDIS_SERVER")}
	if s.binary == "" {
		s.binary = "redis-server"
	}
	for _, o := range opts {
		o(s)
	}
	if _, err := exec.LookPath(s.binary); err != nil {
		t.Fatalf("testenv: %v; install it with \"make setup\" or \"apt-get install redis-server\"", err)
	}
	// Not t.TempDir: its path holds the test's name, and a socket's path is at most 107 bytes.
	dir, err := os.MkdirTemp("", "freshet-redis-")
	if err != nil {
		t.Fatalf("testenv: %v", err)
	}
	s.dir = dir
	if s.config != "" {
		path := filepath.Join(dir, "redis.conf")
		if err := os.WriteFile(path, []byte(s.config), 0o600); err != nil {
			t.Fatalf("testenv: %v", err)
		}
		s.config = path
	}
	t.Cleanup(func() {
		s.Kill()
		os.RemoveAll(dir)
	})
	if err := onFreePort(&s.port, func() error { return s.start() }); err != nil {
		t.Fatalf("testenv: %v", err)
	}
	return s
}

// Addr returns host:port.
func (s *RedisServer) Addr() string { return loopback(s.port) }

// URL returns redis://host:port, or rediss:// with the certificates that it takes.
func (s *RedisServer) URL() string { return s.certs.url("redis", s.Addr(), "") }

// Socket returns the path of the Unix socket.
func (s *RedisServer) Socket() string { return filepath.Join(s.dir, "redis.sock") }

// Dir returns the folder in which the server runs and keeps its files. It outlives restarts.
func (s *RedisServer) Dir() string { return s.dir }

// Pid returns the process id of the running server.
func (s *RedisServer) Pid() int { return s.proc.pid() }

// Pause stops the server without closing anything: its clients see silence.
func (s *RedisServer) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *RedisServer) Resume() { s.signal(syscall.SIGCONT) }

// Kill ends the server as a crash would (kill -9) and returns when it is gone.
func (s *RedisServer) Kill() {
	if s.proc != nil && s.proc.alive() {
		s.proc.kill()
	}
}

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
	if strings.HasSuffix(s.binary, "valkey-server") {
		cli = strings.TrimSuffix(s.binary, "server") + "cli"
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

var errPortTaken = errors.New("port is taken")

// start starts the server and waits until it answers.
func (s *RedisServer) start(more ...string) error {
	logPath := filepath.Join(s.dir, "stdout.log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
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
	cmd := exec.Command(s.binary, append(args, more...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if s.proc, err = startProc(cmd); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		// Asked over the socket, which only our own server can own.
		if err = ping(s.Socket()); err == nil {
			return nil
		}
		select {
		case <-s.proc.exited:
			said, _ := os.ReadFile(logPath)
			if strings.Contains(string(said), "Address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("%s ended at its start:\n%s", s.binary, said)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.Kill()
			said, _ := os.ReadFile(logPath)
			return fmt.Errorf("%s doesn't answer: %w\n%s", s.binary, err, said)
		}
	}
}

func (s *RedisServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.proc.signal(sig); err != nil {
		s.t.Fatalf("testenv: signal %v to %s: %v", sig, s.binary, err)
	}
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
