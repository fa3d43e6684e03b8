package testenv

import (
	"os/exec"
	"runtime"
	"syscall"
)

// A proc is a running program. A goroutine of its own waits for its end.
type proc struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the program has ended and cmd.ProcessState is set
}

// startProc starts cmd. Its files must be real ones, since a pipe made by exec
// would keep a goroutine after the program's death as long as a grandchild holds it.
func startProc(cmd *exec.Cmd) (*proc, error) {
	p := &proc{cmd: cmd, exited: make(chan struct{})}
	dieWithParent(cmd)
	started := make(chan error)
	go func() {
		// Linux sends the parent-death signal when the thread ends that started the child,
		// so this one must live as long as the child does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() // how it ended is in ProcessState
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *proc) pid() int { return p.cmd.Process.Pid }

// alive reports whether the program runs. That of a nil proc doesn't.
func (p *proc) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal sends s. Wait has not reaped the child before exited is closed, so the pid can't
// belong to a stranger; os.Process checks that, too.
func (p *proc) signal(s syscall.Signal) error {
	return p.cmd.Process.Signal(s)
}

// kill ends the program at once, also a stopped one, and returns when it is gone.
func (p *proc) kill() {
	if !p.alive() {
		return
	}
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGKILL)
	<-p.exited
}
