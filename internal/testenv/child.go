package testenv

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// roleEnv names the role that a re-executed test binary plays.
const roleEnv = "FRESHET_TEST_ROLE"

// RunChildRole plays the role that [Child] started this process for, and exits with what
// it returns. In every other process it does nothing. Call it first in TestMain:
//
//	func TestMain(m *testing.M) {
//		testenv.RunChildRole(map[string]func(args []string) int{"loader": runLoader})
//		goleak.VerifyTestMain(m)
//	}
func RunChildRole(roles map[string]func(args []string) int) {
	name, ok := os.LookupEnv(roleEnv)
	if !ok {
		return
	}
	role, ok := roles[name]
	if !ok {
		os.Stderr.WriteString("testenv: no child role " + name + "\n")
		os.Exit(2)
	}
	os.Exit(role(os.Args[1:]))
}

// A Process is a child that plays a role. Its standard error is the test's.
type Process struct {
	t     testing.TB
	proc  *proc
	stdin *os.File
	lines chan string // what it printed; closed at the end
	quit  chan struct{}
}

// Child starts this test binary again to play role, which [RunChildRole] must know. It is
// killed at the end of the test.
func Child(t testing.TB, role string, args ...string) *Process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatalf("testenv: %v", err)
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatalf("testenv: %v", err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatalf("testenv: %v", err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, os.Stderr
	p := &Process{t: t, stdin: inW, lines: make(chan string, 1024), quit: make(chan struct{})}
	p.proc, err = startProc(cmd)
	inR.Close()
	outW.Close()
	if err != nil {
		t.Fatalf("testenv: child %s: %v", role, err)
	}
	var reader sync.WaitGroup
	reader.Go(func() { p.read(outR) })
	t.Cleanup(func() {
		p.Kill()
		close(p.quit)
		outR.Close() // a grandchild may hold the other end
		reader.Wait()
		inW.Close()
	})
	return p
}

// Pid returns the child's process id.
func (p *Process) Pid() int { return p.proc.pid() }

// Send writes one line to the child's standard input.
func (p *Process) Send(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatalf("testenv: send %q to child: %v", line, err)
	}
}

// Line returns the next line that the child prints. It fails the test when none comes.
func (p *Process) Line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatal("testenv: the child ended; want a line of it")
		}
		return line
	case <-time.After(patience):
		p.t.Fatal("testenv: no line of the child in time")
	}
	return ""
}

// Lines returns the channel of the lines that the child prints; it is closed at their end.
func (p *Process) Lines() <-chan string { return p.lines }

// Pause stops the child, as a long garbage collection or a suspended machine would.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume lets a paused child go on.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

// Kill ends the child as a crash would and returns when it is gone.
func (p *Process) Kill() { p.proc.kill() }

// Wait waits for the child to end by itself and returns its exit code, or -1 if
// a signal ended it.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.proc.exited:
		return p.proc.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatal("testenv: the child doesn't end")
	}
	return 0
}

func (p *Process) read(out *os.File) {
	defer close(p.lines)
	sc := bufio.NewScanner(out)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		select {
		case p.lines <- sc.Text():
		case <-p.quit:
			return
		}
	}
}

func (p *Process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.proc.signal(s); err != nil {
		p.t.Fatalf("testenv: signal %v to child: %v", s, err)
	}
}
