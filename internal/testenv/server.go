package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server is what all servers of tests have in common: a program that runs in a folder and on a port of its own.
type server struct {
	t       testing.TB
	program string // its name or path
	dir     string
	port    int
	proc    *proc // nil until it is started
}

var errPortTaken = errors.New("port is taken")

// folder makes the server's folder, whose name begins so. It is removed with the test, after stop.
func (s *server) folder(name string, stop func()) {
	s.t.Helper()
	// Not t.TempDir: its path holds the test's name, and a socket's path is at most 107 bytes. The folders above must
	// be open to the user who runs the server, too.
	dir, err := os.MkdirTemp("", name)
	if err != nil {
		s.t.Fatalf("testenv: %v", err)
	}
	s.dir = dir
	s.t.Cleanup(func() {
		stop()
		os.RemoveAll(dir)
	})
}

// onFreePort calls start with a free port in s.port, and again with another if it finds it taken meanwhile.
func (s *server) onFreePort(start func() error) {
	s.t.Helper()
	var err error
	for range 10 {
		if s.port, err = freePort(); err == nil {
			err = start()
		}
		if !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err != nil {
		s.t.Fatalf("testenv: %v", err)
	}
}

// launch starts cmd, and waits until ready returns nil. If that takes too long, the program goes on until the test ends.
func (s *server) launch(cmd *exec.Cmd, within time.Duration, ready func() error) error {
	log, err := os.Create(s.logPath())
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if s.proc, err = startProc(cmd); err != nil {
		return err
	}
	deadline := time.Now().Add(within)
	for {
		if err = ready(); err == nil {
			return nil
		}
		select {
		case <-s.proc.exited:
			said := s.said()
			if strings.Contains(said, "Address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("%s ended at its start:\n%s", s.program, said)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s isn't ready: %w\n%s", s.program, err, s.said())
		}
	}
}

func (s *server) logPath() string { return filepath.Join(s.dir, "stdout.log") }

// said is what the program has printed since it was started.
func (s *server) said() string {
	text, _ := os.ReadFile(s.logPath())
	return string(text)
}

// says returns a condition for launch: that the program has printed a text.
func (s *server) says(text string) func() error {
	return func() error {
		if !strings.Contains(s.said(), text) {
			return fmt.Errorf("it doesn't say %q", text)
		}
		return nil
	}
}

// Addr returns host:port.
func (s *server) Addr() string { return loopback(s.port) }

// Dir returns the folder in which the server keeps its files. It outlives restarts.
func (s *server) Dir() string { return s.dir }

// Pause stops the server without closing anything: its clients see silence.
func (s *server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *server) Resume() { s.signal(syscall.SIGCONT) }

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.proc.signal(sig); err != nil {
		s.t.Fatalf("testenv: signal %v to %s: %v", sig, s.program, err)
	}
}
