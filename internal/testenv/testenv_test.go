package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	RunChildRole(map[string]func([]string) int{
		"echo": func(args []string) int {
			fmt.Println("args", strings.Join(args, ","))
			in := bufio.NewScanner(os.Stdin)
			for in.Scan() {
				if in.Text() == "exit" {
					return 3
				}
				fmt.Println("got", in.Text())
			}
			return 0
		},
	})
	goleak.VerifyTestMain(m)
}

// A conn speaks inline commands and reads single lines.
type conn struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &conn{t, c, bufio.NewReader(c)}
}

func (c *conn) send(cmd string) {
	c.t.Helper()
	if _, err := io.WriteString(c, cmd+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conn) want(line string) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	got, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("got %q, %v; want %q", got, err, line)
	}
	if strings.TrimSpace(got) != line {
		c.t.Fatalf("got %q; want %q", got, line)
	}
}

// silent checks that nothing comes for d.
func (c *conn) silent(d time.Duration) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(d))
	if b, err := c.r.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("got %q, %v; want silence", b, err)
	}
}

func (c *conn) closed() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if b, err := c.r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("got %q, %v; want the end", b, err)
	}
}

func TestRedisAnswersAndSurvivesARestart(t *testing.T) {
	s := Redis(t)
	if got := s.CLI(t, "SET", "k", "v"); got != "OK" {
		t.Errorf("SET says %q", got)
	}
	s.CLI(t, "SAVE")
	pid := s.Pid()
	s.Kill()
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Error("a killed server accepts")
	}
	s.Restart()
	if s.Pid() == pid {
		t.Error("same pid after a restart")
	}
	if got := s.CLI(t, "GET", "k"); got != "v" {
		t.Errorf("GET says %q after SAVE and a restart; want v", got)
	}
	if !strings.HasSuffix(s.URL(), s.Addr()) {
		t.Errorf("URL %q, Addr %q", s.URL(), s.Addr())
	}
	if c, err := net.Dial("unix", s.Socket()); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

func TestRedisPausedIsSilent(t *testing.T) {
	s := Redis(t, Args("--maxmemory", "7mb"))
	if got := s.CLI(t, "CONFIG", "GET", "maxmemory"); !strings.Contains(got, "7340032") {
		t.Errorf("maxmemory is %q", got)
	}
	c := dial(t, s.Addr())
	s.Pause()
	c.send("PING")
	c.silent(50 * time.Millisecond)
	s.Resume()
	c.want("+PONG")
	s.Pause() // the cleanup must end a stopped server, too
}

func TestRedisServersDontCollide(t *testing.T) {
	a, b := Redis(t), Redis(t)
	a.CLI(t, "SET", "k", "a")
	if got := b.CLI(t, "EXISTS", "k"); got != "0" {
		t.Errorf("the second server has the first one's key: %q", got)
	}
	// A port taken meanwhile shows as such, so that another is tried.
	c := &RedisServer{server: server{t: t, program: a.program, dir: t.TempDir(), port: a.port}}
	if err := c.start(); !errors.Is(err, errPortTaken) {
		t.Errorf("start on a taken port: %v; want errPortTaken", err)
	}
}

func TestProxyCutAndRestore(t *testing.T) {
	p := Proxy(t, Redis(t).Addr())
	c := dial(t, p.Addr())
	c.send("PING")
	c.want("+PONG")
	p.Cut()
	c.closed()
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial a cut proxy: %v; want refused", err)
	}
	p.Restore()
	c = dial(t, p.Addr())
	c.send("PING")
	c.want("+PONG")
	p.Reset()
	c.closed()
	dial(t, p.Addr())
}

func TestProxyFreeze(t *testing.T) {
	s := Redis(t)
	p := Proxy(t, s.Socket())
	c := dial(t, p.Addr())
	c.send("PING")
	c.want("+PONG")
	p.Freeze()
	c.send("PING")
	late := dial(t, p.Addr()) // accepted, and silent
	late.send("PING")
	c.silent(30 * time.Millisecond)
	s.Kill() // no FIN comes through
	late.silent(30 * time.Millisecond)
	p.Thaw()
	c.closed()
	late.closed()
	s.Restart()
	c = dial(t, p.Addr())
	p.Freeze()
	c.send("PING")
	p.Cut() // ends frozen links, too
	c.closed()
}

func TestProxyDelay(t *testing.T) {
	p := Proxy(t, Redis(t).Addr())
	c := dial(t, p.Addr())
	c.send("PING")
	c.want("+PONG")
	p.Delay(40 * time.Millisecond)
	start := time.Now()
	c.send("PING")
	time.Sleep(20 * time.Millisecond)
	c.send("PING")
	c.want("+PONG")
	if took := time.Since(start); took < 80*time.Millisecond {
		t.Errorf("a round trip took %v; want two delays of 40ms", took)
	}
	c.want("+PONG")
	p.Delay(time.Hour)
	c.send("PING")
	c.silent(20 * time.Millisecond)
	p.Restore()
	c.want("+PONG")
}

func TestProxyLosesAndDoublesPushes(t *testing.T) {
	s := Redis(t)
	p := Proxy(t, s.Addr())
	c := dial(t, p.Addr())
	c.send("HELLO 3")
	c.send("SUBSCRIBE news")
	c.send("ECHO ready")
	for line := ""; line != "ready\r\n"; {
		c.SetReadDeadline(time.Now().Add(patience))
		var err error
		if line, err = c.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	message := func(text string) {
		for _, line := range []string{">3", "$7", "message", "$4", "news", fmt.Sprintf("$%d", len(text)), text} {
			c.want(line)
		}
	}
	p.FilterPushes(func(frame []byte) int {
		switch {
		case strings.Contains(string(frame), "lose"):
			return 0
		case strings.Contains(string(frame), "double"):
			return 2
		}
		return 1
	})
	for _, text := range []string{"one", "lose", "double", "two"} {
		s.CLI(t, "PUBLISH", "news", text)
	}
	message("one")
	message("double")
	message("double")
	message("two")
	p.DropPushes(func([]byte) bool { return true })
	s.CLI(t, "PUBLISH", "news", "gone")
	c.send("ECHO still") // replies pass
	c.want("$5")
	c.want("still")
}

func TestSplitter(t *testing.T) {
	big := strings.Repeat("x", 5000)
	f := func(in, want string) {
		t.Helper()
		for _, size := range []int{1, 3, len(in)} {
			s := splitter{push: func(frame []byte) int { return strings.Count(string(frame), "2x") * 2 }}
			var got []byte
			for rest := in; rest != ""; {
				n := min(size, len(rest))
				got = s.feed(got, []byte(rest[:n]))
				rest = rest[n:]
			}
			if string(got) != want {
				t.Errorf("%.60q in pieces of %d gives %.60q; want %.60q", in, size, got, want)
			}
		}
	}
	f("+OK\r\n", "+OK\r\n")
	f(">2\r\n+a\r\n$3\r\nb\r\n\r\n+OK\r\n", "+OK\r\n")
	f(">1\r\n+2x\r\n:1\r\n", ">1\r\n+2x\r\n>1\r\n+2x\r\n:1\r\n")
	f("*2\r\n$-1\r\n%1\r\n+k\r\n*0\r\n>0\r\n_\r\n", "*2\r\n$-1\r\n%1\r\n+k\r\n*0\r\n_\r\n")
	f("|1\r\n+ttl\r\n:1\r\n+OK\r\n>1\r\n$1\r\n>\r\n#t\r\n", "|1\r\n+ttl\r\n:1\r\n+OK\r\n#t\r\n")
	f("*2\r\n>1\r\n+inner\r\n+x\r\n", "*2\r\n>1\r\n+inner\r\n+x\r\n") // never sent, and no frame of its own
	f("$5000\r\n"+big+"\r\n>1\r\n+gone\r\n(12\r\n", "$5000\r\n"+big+"\r\n(12\r\n")
	f("HTTP/1.1 200 OK\r\n>1\r\n+kept\r\n", "HTTP/1.1 200 OK\r\n>1\r\n+kept\r\n")
	f("*nonsense\r\n>1\r\n+kept\r\n", "*nonsense\r\n>1\r\n+kept\r\n")
	f(">1\r\n?\r\nrest", ">1\r\n?\r\nrest")
}

func FuzzSplitter(f *testing.F) {
	f.Add([]byte(">1\r\n+a\r\n$1\r\nb\r\n"), 3)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		// A filter that passes all changes nothing, but an unfinished push may be held back.
		s := splitter{push: func([]byte) int { return 1 }}
		var got []byte
		for rest := in; len(rest) > 0; {
			n := min(max(size, 1), len(rest))
			got = s.feed(got, rest[:n])
			rest = rest[n:]
		}
		if string(got)+string(s.held) != string(in) {
			t.Errorf("%q became %q, %q", in, got, s.held)
		}
	})
}

func TestChild(t *testing.T) {
	p := Child(t, "echo", "a", "b")
	if got := p.Line(); got != "args a,b" {
		t.Errorf("child says %q", got)
	}
	p.Send("hello")
	if got := p.Line(); got != "got hello" {
		t.Errorf("child says %q", got)
	}
	p.Pause()
	p.Send("later")
	select {
	case line := <-p.Lines():
		t.Errorf("a paused child says %q", line)
	case <-time.After(30 * time.Millisecond):
	}
	p.Resume()
	if got := p.Line(); got != "got later" {
		t.Errorf("child says %q", got)
	}
	p.Send("exit")
	if code := p.Wait(); code != 3 {
		t.Errorf("exit code %d; want 3", code)
	}
	if _, ok := <-p.Lines(); ok {
		t.Error("a line after the end")
	}
	if code := Child(t, "nobody").Wait(); code != 2 {
		t.Errorf("exit code %d of an unknown role; want 2", code)
	}
	Child(t, "echo").Pause() // the cleanup must end a stopped child, too
}
