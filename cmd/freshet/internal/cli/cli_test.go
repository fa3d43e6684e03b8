package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	f := func(args string, code int, stdout, stderr string) {
		t.Helper()
		var out, err bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // or what should fail would serve for ever
		defer cancel()
		got := Main(ctx, strings.Fields(args), &out, &err)
		if got != code || !strings.Contains(out.String(), stdout) || !strings.Contains(err.String(), stderr) {
			t.Errorf("freshet %s: exit %d\nstdout: %s\nstderr: %s\nwant exit %d, %q, %q", args, got, &out, &err, code, stdout, stderr)
		}
		if strings.Contains(out.String()+err.String(), "secret") {
			t.Errorf("freshet %s tells a secret: %s%s", args, &out, &err)
		}
	}
	f("", 0, "Usage:", "")
	f("help", 0, "freshet proxy", "")
	f("help proxy", 0, "--grace", "")
	f("help watch", 0, "--admin", "")
	f("watch -c nowhere.yaml", 1, "", "freshet: open nowhere.yaml: no such file")
	f("check -c nowhere.yaml", 1, "", "freshet: open nowhere.yaml: no such file")
	f("doctor -c nowhere.yaml", 1, "", "freshet: open nowhere.yaml: no such file")
	f("watch x", 2, "", "unknown command")
	f("watch --log loud", 2, "", "--log loud: want auto, text, json or off")
	f("check --jason", 2, "", "unknown flag: --jason")
	f("proxy --help", 0, "pass uncached", "")
	f("version", 0, "freshet ", "")

	f("prox", 2, "", "Did you mean this?\n\tproxy")
	f("proxy", 2, "", "0 arguments; want one, the URL of the API")
	f("proxy a b", 2, "", "2 arguments; want one")
	f("demo x", 2, "", "unknown command")
	f("demo sql", 2, "", "0 arguments; want one, a statement in quotes")
	f("demo sql x --db nowhere.db", 1, "", "freshet: ")
	f("proxy 3000 --ttl 30", 2, "", "freshet: --ttl 30: want a duration such as 30s\n")
	f("proxy 3000 --ttl 0s", 2, "", "--ttl 0s: want more than zero")
	f("proxy 3000 --grace -1s", 2, "", "--grace -1s: want more than zero")
	f("proxy 3000 --stale-at-most 1ms", 2, "", "--stale-at-most 1ms: want at least 50ms")
	f("proxy 3000 --max-body lots", 2, "", "--max-body lots: want a size such as 2MiB")
	f("proxy 3000 --log loud", 2, "", "--log loud: want auto, text, json or off")
	f("proxy 3000 --rewrite-host=maybe", 2, "", "--rewrite-host maybe: want true or false")
	f("proxy 3000 --shed=maybe", 2, "", "--shed maybe: want true or false")
	f("proxy 3000 --tll 30s", 2, "", "unknown flag: --tll")
	f("proxy 3000 --store mysql://u:secret@x", 2, "", "unknown scheme")
	f("proxy 3000 --store redis://u:secret@x:port", 2, "", "")
	f("proxy 3000 --limit 100", 2, "", "freshet: --limit 100: want a number and a time, such as 100/s\n")
	f("proxy 3000 --limit 1/s --limit 100/w", 2, "", `--limit 100/w: the time is "w"; want s, m, h or d`)
	f("proxy 3000 --limit-by cookie", 2, "", `--limit-by cookie: by "cookie"; want ip, header:X-Api-Key or all`)
	f("proxy 3000 --limit 1/s --limit 2/s", 2, "", "--limit 1/s and --limit 2/s count the same; want different times or identities\n")
	f("proxy 3000 --limit 1/s,by=ip --limit 2/s,by=header:A --limit 3/s,by=header:a", 2, "", "--limit 2/s,by=header:A and --limit 3/s,by=header:A count the same")
	f("proxy 3000 --limit 1/s --trusted-proxy here", 2, "", "--trusted-proxy here: want an address such as 10.0.0.7, or a network such as 10.0.0.0/8\n")
	f("proxy 3000 --limit 1/s --trusted-proxy ::/0", 2, "", "--trusted-proxy ::/0: Trusted has ::/0, which is everybody")
	f("proxy 3000 --trusted-proxy 10.0.0.1", 2, "", "--trusted-proxy 10.0.0.1/32: there is no --limit")
	f("proxy 3000 --limit 1/s --trusted-header Forwarded", 2, "", "--trusted-header Forwarded: there is no --trusted-proxy")
	f("proxy 3000 --limit 1/s --trusted-proxy ::1 --trusted-header a:b", 2, "", "--trusted-header a:b: want the name of a field")
	f("proxy 3000"+strings.Repeat(" --limit 1/s", 17), 2, "", "count the same")
	f("proxy 3000 --limit 1/s --store mysql://u:secret@x", 2, "", "unknown scheme")
	f("proxy 3000 --limit-by all", 2, "", "freshet: --limit-by all: there is no --limit that would count\n")
	f("proxy 3000 --max-memory 10", 2, "", "freshet: --max-memory 10: want at least 1MiB\n")
	f("proxy 3000 --max-memory 1MiB", 2, "", "freshet: --max-memory 1MiB: want at least 4 times --max-body, which is 2MiB\n")
	f("proxy 3000 --prefix a{b", 2, "", "freshet: --prefix \"a{b\": want a word without braces and white space\n")
	f("proxy 3000 --store postgres://x", 2, "", `freshet: --store postgres://x: unknown scheme "postgres"; want memory, redis`)
	f("proxy 3000 --store redis:/localhost", 2, "", "freshet: --store redis:/localhost: no host; want a URL such as redis://localhost:6379\n")
	f("proxy 3000 --store redis://localhost:99999", 2, "", `freshet: --store redis://localhost:99999: host is "localhost:99999"; want host:port, with a port from 1 to 65535`)
	f("proxy 3000 --store redis://u:secret@h?tll=1", 2, "", `freshet: --store redis://u:xxxxx@h: unknown option "tll"`)
	f("proxy 3000 --store localhost:6379", 2, "", `freshet: --store localhost:6379: unknown scheme "localhost"`)
	f("proxy 3000 --store memory:x", 2, "", "freshet: --store memory:x: want memory: alone\n")
	f("proxy 99999", 2, "", "upstream 99999: the port is 99999, and not from 1 to 65535; want a URL such as")
	f("proxy 0", 2, "", "upstream 0: the port is 0, and not")
	f("proxy localhost:99999", 2, "", "upstream localhost:99999: the port is 99999, and not")
	f("explain", 2, "", "freshet: 0 arguments; want one, a key or a tag\n")
	f("explain a b", 2, "", "2 arguments; want one")
	f("--version", 0, versionLine(), "")
	f("version", 0, versionLine(), "")
	f("proxy ftp://x", 2, "", "unknown scheme ftp; want a URL such as http://127.0.0.1:3000")
	f("proxy http://u:secret@h", 2, "", "upstream http://xxxxx@h: a user name or password can't be part of it")
	f("proxy http://u:secret@h:x", 2, "", "not a URL")
	f("proxy http://h/?q=1", 2, "", "a query")
	f("proxy http://", 2, "", "want a URL")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	if err := os.WriteFile(file, []byte("store: { url: redis://127.0.0.1:1 }\ncdc: { a: { sqlite: { url: sqlite:none.db }, rules: [{ table: t, keys: [t] }] } }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f("proxy 3000 --listen "+l.Addr().String(), 1, "", "--listen "+l.Addr().String()+": the address is in use")
	f("watch -c "+file+" --admin "+l.Addr().String(), 1, "", "--admin "+l.Addr().String()+": the address is in use; choose another")
	for _, flag := range []string{"proxy 3000 --listen", "demo --listen", "watch --admin"} {
		f(flag+" nowhere", 2, "", " nowhere: want an address such as 127.0.0.1:8080")
		f(flag+" 127.0.0.1", 2, "", " 127.0.0.1: want an address such as")
		f(flag+" 127.0.0.1:", 2, "", `127.0.0.1:: the port is ""; want one from 0 to 65535`)
		f(flag+" 99999", 2, "", ` 99999: the port is "99999"; want one from 0 to 65535`)
		f(flag+" [::1]:99999", 2, "", `the port is "99999"; want one`)
	}
	f("demo --listen "+l.Addr().String(), 1, "", "the address is in use") // asked for, so not replaced
}

func TestUpstreamURL(t *testing.T) {
	f := func(s, want string) {
		t.Helper()
		u, err := upstreamURL(s)
		if err != nil || u.String() != want {
			t.Errorf("%s: %v, %v; want %s", s, u, err, want)
		}
	}
	f("http://127.0.0.1:3000", "http://127.0.0.1:3000")
	f("https://api.example/v1/", "https://api.example/v1")
	f("localhost:3000", "http://localhost:3000")
	f("localhost", "http://localhost")
	f(":3000", "http://localhost:3000")
	f("3000", "http://localhost:3000")
	f("[::1]:3000", "http://[::1]:3000")
}

func TestFlagValues(t *testing.T) {
	var s size
	var a address
	if err := a.Set("9311"); err != nil || a != "127.0.0.1:9311" {
		t.Errorf("9311: %s, %v; want it on 127.0.0.1", a, err)
	}
	if err := a.Set(":0"); err != nil || a != ":0" {
		t.Errorf(":0: %s, %v; want it as it is", a, err)
	}
	f := func(text string, want int64, shown string) {
		t.Helper()
		if err := s.Set(text); err != nil || s.n != want || s.String() != shown {
			t.Errorf("%s: %d, shown as %s, %v; want %d, %s", text, s.n, s.String(), err, want, shown)
		}
	}
	f("2MiB", 2<<20, "2MiB")
	f("2 mib", 2<<20, "2MiB")
	f("512KiB", 512<<10, "512KiB")
	f("1GiB", 1<<30, "1GiB")
	f("100B", 100, "100B")
	f("100", 100, "100B")
	f("1MB", 1e6, "976.6KiB")
	for _, bad := range []string{"", "0", "-1", "MiB", "1TiB", "99999999999GiB", "1.5MiB"} {
		if err := s.Set(bad); err == nil {
			t.Errorf("%q was taken as %d", bad, s.n)
		}
	}
	d := func(want string, d time.Duration) {
		t.Helper()
		if got := readable(d); got != want {
			t.Errorf("%d: %s; want %s", d, got, want)
		}
	}
	d("30s", 30*time.Second)
	d("5m", 5*time.Minute)
	d("1h", time.Hour)
	d("1h30m", 90*time.Minute)
	d("0s", 0)
	d("10m", 10*time.Minute)
	d("20m5s", 20*time.Minute+5*time.Second)
}

// A program is a freshet that runs until it is stopped.
type program struct {
	t      *testing.T
	url    string
	stop   func() int // ends it, and returns its exit code
	ended  chan int   // has the exit code, if it ended by itself
	stdout *safeBuffer
	stderr *safeBuffer
}

// A safeBuffer may be read while it is written to.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var listensOn = regexp.MustCompile(`(?:gateway  |"url":")(http://[^" ]+)`)

// start runs a command until it says where it listens.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	p := begin(t, args...)
	p.url = p.says(listensOn)
	return p
}

// begin runs a command.
func begin(t *testing.T, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &program{t: t, stdout: new(safeBuffer), stderr: new(safeBuffer)}
	ended := make(chan int, 1)
	go func() { ended <- Main(ctx, args, p.stdout, p.stderr) }()
	p.stop = sync.OnceValue(func() int { cancel(); return <-ended })
	t.Cleanup(func() { p.stop() })
	p.ended = ended
	return p
}

// says waits until the command has printed something, and returns its first group.
func (p *program) says(what *regexp.Regexp) string {
	p.t.Helper()
	for range 3000 {
		if m := what.FindStringSubmatch(p.stdout.String() + p.stderr.String()); m != nil {
			return m[len(m)-1]
		}
		select {
		case code := <-p.ended:
			p.ended <- code // for stop
			p.t.Fatalf("ended with %d: %s%s", code, p.stdout, p.stderr)
		case <-time.After(10 * time.Millisecond):
		}
	}
	p.t.Fatalf("does not say %s: %s%s", what, p.stdout, p.stderr)
	return ""
}

// curl sends a request on a connection of its own, and checks the answer.
func (p *program) curl(method, path, send string, body, cacheStatus string) time.Duration {
	p.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, p.url+path, strings.NewReader(send))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Close = true
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	begun := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	took := time.Since(begun)
	if err != nil || !strings.Contains(string(b), body) || !regexp.MustCompile("^"+cacheStatus+"$").MatchString(resp.Header.Get("Cache-Status")) {
		p.t.Errorf("%s %s: %d %s, Cache-Status %q, %v; want %s, %q", method, path, resp.StatusCode, b, resp.Header.Get("Cache-Status"), err, body, cacheStatus)
	}
	return took
}

func TestDemo(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	// Somebody sits on the default port, perhaps; then demo takes another.
	if l, err := net.Listen("tcp", "127.0.0.1:8080"); err == nil {
		defer l.Close()
	}
	p := start(t, "demo")
	if strings.HasSuffix(p.url, ":8080") || !strings.Contains(p.stderr.String(), "the port is taken") {
		t.Errorf("listens on %s and says %s", p.url, p.stderr)
	}

	if took := p.curl("GET", "/users/1", "", `"name":"Ada"`, "freshet; fwd=uri-miss; stored; ttl=30"); took < 100*time.Millisecond {
		t.Errorf("the first answer took %v; want at least 100ms", took)
	}
	quickest := time.Hour
	for range 4 {
		quickest = min(quickest, p.curl("GET", "/users/1", "", `"name":"Ada"`, "freshet; hit; ttl=(30|29)"))
	}
	if quickest > 50*time.Millisecond {
		t.Errorf("the quickest hit took %v; want far less than 100ms", quickest)
	}
	p.curl("PUT", "/users/1", `{"name":"Grace"}`, `"name":"Grace"`, "freshet; fwd=method")
	if took := p.curl("GET", "/users/1", "", `"name":"Grace"`, "freshet; fwd=uri-miss; stored; ttl=30(; detail=dropped)?"); took < 100*time.Millisecond {
		t.Errorf("the answer after the write took %v; want it read anew", took)
	}
	p.curl("GET", "/users/1", "", `"name":"Grace"`, "freshet; hit; ttl=(30|29)")

	// The database is changed past the gateway.
	p.curl("GET", "/users/2", "", `"name":"Alan"`, "freshet; fwd=uri-miss; stored; ttl=30")
	var out, complaint bytes.Buffer
	if code := Main(t.Context(), []string{"demo", "sql", "UPDATE users SET name = 'Lin' WHERE id = 1"}, &out, &complaint); code != 0 || out.String() != "1 row changed\n" {
		t.Errorf("demo sql: %d, %s%s", code, &out, &complaint)
	}
	p.curl("GET", "/users/1", "", `"name":"Lin","email":"user1@example.com","city":"Lisbon","version":3`, "freshet; fwd=uri-miss; stored; ttl=30; detail=dropped")
	p.curl("GET", "/users/1", "", `"name":"Lin"`, "freshet; hit; ttl=(30|29)")
	p.curl("GET", "/users/2", "", `"name":"Alan"`, "freshet; hit; ttl=(30|29)")

	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d; want 0", code)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("the demo left %v, %v", left, err)
	}
	for _, want := range []string{
		"database " + temp + "/freshet-demo-", "/users.db (SQLite)\n",
		` demo sql "UPDATE users SET name = 'Lin' WHERE id = 1"`,
		"->  demo API (100ms a read)\n", "ttl 30s\n", "memory (this process only)\n",
		"limits   60/m by ip\n",
		"  try:  curl -i " + p.url + "/users/1  ",
		"curl -si '" + p.url + "/users/1#[1-70]' | tail -n 10 ",
		"12 requests · 58 % hits · origin calls 5 instead of 12 · hit p50 ",
		"  most missed: GET /users/1 3 times\n",
		"  next:        freshet proxy http://127.0.0.1:3000",
	} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("stdout:\n%s\nwant %q in it", p.stdout, want)
		}
	}
	for _, want := range []string{
		`GET /users/1 +200  miss +\d+ ms  stored 30s`, `GET /users/1 +200  hit +[\d.]+ ms  age 0s`,
		`PUT /users/1 +200  pass +[\d.]+ ms  dropped /users/1 \(`,
	} {
		if !regexp.MustCompile(want).MatchString(p.stderr.String()) {
			t.Errorf("stderr:\n%s\nwant %q in it", p.stderr, want)
		}
	}
}

func TestProxy(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/session") {
			w.Header().Set("Set-Cookie", "id=1")
		}
		fmt.Fprint(w, "hello")
	}))
	defer api.Close()
	p := start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--ttl", "1m", "--grace", "5m", "--log", "json")
	p.curl("GET", "/a?token=secret", "", "hello", "freshet; fwd=uri-miss; stored; ttl=60")
	p.curl("GET", "/a?token=secret", "", "hello", "freshet; hit; ttl=(60|59)")
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d; want 0", code)
	}
	if p.stdout.String() != "" {
		t.Errorf("stdout with --log json:\n%s", p.stdout)
	}
	for _, want := range []string{`"msg":"listening"`, `"msg":"request","method":"GET","path":"/a","status":200`, `"cache":{"status":"hit"}`, `"msg":"summary","requests":2,"hits":1`} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("stderr:\n%s\nwant %q in it", p.stderr, want)
		}
	}
	if strings.Contains(p.stderr.String(), "secret") {
		t.Errorf("the log tells secrets:\n%s", p.stderr)
	}

	p = start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--log", "text")
	for i := range 4 {
		p.curl("GET", fmt.Sprintf("/session/%d", i), "", "hello", "freshet; fwd=uri-miss; detail=set-cookie")
	}
	p.stop()
	if got := strings.Count(p.stderr.String(), "nothing is stored so far"); got != 1 {
		t.Errorf("stderr:\n%s\nwant the hint once", p.stderr)
	}
	if want := "  next:        a session middleware"; !strings.Contains(p.stdout.String(), want) {
		t.Errorf("stdout:\n%s\nwant %q in it", p.stdout, want)
	}
}

func TestUnreachableUpstreamIsAWarning(t *testing.T) {
	p := start(t, "proxy", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--log", "text")
	p.curl("GET", "/a", "", `"code":"origin-unreachable"`, "freshet; fwd=uri-miss; detail=origin-unreachable")
	p.says(regexp.MustCompile("the upstream does not answer yet"))
}

// The store may be away: the gateway answers, and says so.
func TestUnreachableStoreIsAWarning(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer api.Close()
	p := start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--log", "text", "--store", "redis://:secret@127.0.0.1:1")
	p.curl("GET", "/a", "", "hello", "freshet; fwd=.*")
	p.says(regexp.MustCompile("the store is away"))
	p.stop()
	if strings.Contains(p.stdout.String()+p.stderr.String(), "secret") {
		t.Errorf("a secret is told:\n%s%s", p.stdout, p.stderr)
	}
}

// Requests under way are finished before the gateway ends.
func TestDrain(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-release
		fmt.Fprint(w, "hello")
	}))
	defer api.Close()
	p := start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--log", "text")
	answered, ended := make(chan struct{}), make(chan struct{})
	go func() { p.curl("GET", "/a", "", "hello", "freshet; fwd=uri-miss; stored; ttl=30"); close(answered) }()
	<-begun
	go func() { p.stop(); close(ended) }()
	time.Sleep(100 * time.Millisecond)
	select {
	case <-ended:
		t.Error("ended while a request was under way")
	default:
	}
	close(release)
	<-answered
	<-ended
	if !strings.Contains(p.stdout.String(), "1 request ·") {
		t.Errorf("stdout:\n%s\nwant the summary", p.stdout)
	}
}

// With --store memory: both levels are in this process, and --max-memory is for both.
func TestMaxMemoryIsForBothLevels(t *testing.T) {
	f := func(store string, want int64) {
		t.Helper()
		if got := (&gateway{store: store, maxMemory: 64 << 20}).levelMemory(); got != want {
			t.Errorf("%s: %d bytes for a level; want %d", store, got, want)
		}
	}
	f("memory:", 32<<20)
	f("redis://localhost", 64<<20)

	body := make([]byte, 256<<10)
	_, _ = rand.Read(body) // the shared level compresses what it can
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	defer api.Close()
	p := start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--log", "off", "--max-memory", "1MiB", "--max-body", "256KiB")
	const answers = 16 // 4 MiB
	for i := range answers {
		p.curl("GET", fmt.Sprint("/", i), "", "", "freshet; fwd=uri-miss; stored; ttl=30")
	}
	for i := range answers {
		p.curl("GET", fmt.Sprint("/", i), "", "", "freshet; .*")
	}
	p.stop()
	m := regexp.MustCompile(`origin calls (\d+) instead of 32`).FindStringSubmatch(p.stdout.String())
	if m == nil || m[1] < "26" { // four in 1 MiB at most, and the half of one more
		t.Errorf("stdout:\n%s\nwant the API asked again for most of what doesn't fit into 1 MiB", p.stdout)
	}
}
