package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A server is a redis-server of our own: a free port below the ephemeral range, a folder of
// its own, nothing persistent. It dies with this process.
type server struct {
	Addr string
	port int
	dir  string
	cmd  *exec.Cmd
}

func startServer(ctx context.Context) (*server, error) {
	dir, err := os.MkdirTemp("", "freshet-bench-redis-")
	if err != nil {
		return nil, err
	}
	for range 20 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue // taken
		}
		_ = l.Close()
		s := &server{Addr: fmt.Sprintf("127.0.0.1:%d", port), port: port, dir: dir}
		if err = s.start(ctx); err == nil {
			return s, nil
		}
		s.kill()
	}
	_ = os.RemoveAll(dir)
	return nil, errors.New("redis-server does not start on any of 20 ports")
}

// start runs the process and waits until it answers. It is also the restart after a kill.
func (s *server) start(ctx context.Context) error {
	s.cmd = exec.Command("redis-server", "--port", strconv.Itoa(s.port), "--bind", "127.0.0.1",
		"--dir", s.dir, "--save", "", "--appendonly", "no", "--logfile", "redis.log")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		a, err := dialAdmin(ctx, s.Addr)
		if err != nil {
			continue
		}
		_, err = a.do("PING")
		a.close()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("redis-server on %s does not answer", s.Addr)
}

func (s *server) hang() error   { return s.cmd.Process.Signal(syscall.SIGSTOP) }
func (s *server) resume() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

func (s *server) kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

func (s *server) close() {
	s.kill()
	_ = os.RemoveAll(s.dir)
}

// An admin is a bare connection for INFO and FLUSHALL: no client whose CPU would be counted.
type admin struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialAdmin(ctx context.Context, addr string) (*admin, error) {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &admin{conn, bufio.NewReader(conn)}, nil
}

func (a *admin) close() { _ = a.conn.Close() }

// do sends one inline command and returns a status, integer or bulk reply as text.
func (a *admin) do(command string) (string, error) {
	if err := a.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(a.conn, command+"\r\n"); err != nil {
		return "", err
	}
	line, err := a.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSpace(line)
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			return "", err
		}
		b := make([]byte, n+2)
		_, err = io.ReadFull(a.r, b)
		return string(b[:n]), err
	}
	return "", fmt.Errorf("redis: %s: %s", command, line)
}

// reset empties the server and its counters.
func (a *admin) reset() error {
	if _, err := a.do("FLUSHALL SYNC"); err != nil {
		return err
	}
	_, err := a.do("CONFIG RESETSTAT")
	return err
}

// A usage is what Redis has done so far.
type usage struct {
	cpu      float64 // seconds
	commands float64 // those inside scripts counted one by one
	scripts  float64
	lookups  float64 // keys that were read, whatever the command
}

func (a *admin) usage() (u usage, err error) {
	text, err := a.do("INFO everything")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "used_cpu_sys", "used_cpu_user":
			u.cpu += number(value)
		case "keyspace_hits", "keyspace_misses":
			u.lookups += number(value)
		}
		verb, ok := strings.CutPrefix(name, "cmdstat_")
		if !ok || verb == "info" || strings.HasPrefix(verb, "config") || verb == "flushall" {
			continue
		}
		first, _, _ := strings.Cut(value, ",")
		calls := number(strings.TrimPrefix(first, "calls="))
		u.commands += calls
		switch verb {
		case "eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro":
			u.scripts += calls
		}
	}
	return u, nil
}

func (u usage) since(before usage) usage {
	return usage{u.cpu - before.cpu, u.commands - before.commands, u.scripts - before.scripts, u.lookups - before.lookups}
}

func (a *admin) version() string {
	text, _ := a.do("INFO server")
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "redis_version:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func number(s string) float64 {
	f, _ := strconv.ParseFloat(s, 64)
	return f
}
