//go:build unix

package readme

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopTime is how long a process has to end after Ctrl-C. A program that closes its
// servers in order needs a second or two on a busy machine.
const stopTime = 15 * time.Second

// A process is a command with all that it starts, in a process group of its own, so that
// nothing of it outlives stop.
type process struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{} // closed after the command ended; err is written before that
	err  error
}

// start runs the command in dir.
func start(dir string, env []string, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.out.grew = make(chan struct{})
	p.cmd.Dir, p.cmd.Env = dir, append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A child left behind holds the output open; Wait must not wait for it.
	p.cmd.WaitDelay = 300 * time.Millisecond
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		if errors.Is(p.err, exec.ErrWaitDelay) {
			p.err = nil // the command itself succeeded
		}
		p.signal(syscall.SIGKILL) // what it left behind in its group
		close(p.done)
	}()
	return p, nil
}

// wait returns when the command ended, and stops it when ctx ends first.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		p.signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("stopped after the time limit: %w", context.Cause(ctx))
	}
}

// until returns when the output has text.
func (p *process) until(ctx context.Context, text string) error {
	for {
		out, grew := p.out.read()
		if strings.Contains(out, text) {
			return nil
		}
		select {
		case <-grew:
		case <-p.done:
			if out, _ := p.out.read(); strings.Contains(out, text) {
				return nil // printed as its last words; what follows will notice
			}
			return fmt.Errorf("ended before it printed %q: %v", text, p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("did not print %q in time: %w", text, context.Cause(ctx))
		}
	}
}

// stop ends the command as Ctrl-C does and returns after it has ended. An error
// means that it had to be killed.
func (p *process) stop() error {
	p.signal(syscall.SIGINT)
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTime):
		p.signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("still running %v after Ctrl-C", stopTime)
	}
}

// signal reaches the whole group, unless the command has ended: then its number
// may belong to somebody else.
func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s) // fails only when nobody is left
	}
}

// output collects what a process prints.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer  // guarded by mu
	grew chan struct{} // guarded by mu; closed and made anew with each write
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.grew)
	o.grew = make(chan struct{})
	return o.buf.Write(b)
}

// read returns the output so far, and what will be closed when there is more.
func (o *output) read() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String(), o.grew
}
