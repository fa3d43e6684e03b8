package freshet_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/observe"
)

// The examples that need a server: what README and docs say of two instances and of Node.

// Two instances share one Redis. What one of them drops, the other forgets.
func TestExampleTwoInstances(t *testing.T) {
	ctx := t.Context()
	redis := testenv.Redis(t)

	var mu sync.Mutex
	name, queries := "Ada", 0
	instance := func() *freshet.Cache[int64, Profile] {
		client := open(t, redis.URL(), freshet.Options{StaleAtMost: 10 * time.Second})
		profiles, err := freshet.NewCache(client, freshet.Config[int64, Profile]{
			Name: "user", TTL: time.Hour,
			Load: func(_ context.Context, id int64, _ *freshet.Load) (Profile, error) {
				mu.Lock()
				defer mu.Unlock()
				queries++
				return Profile{id, name}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return profiles
	}
	a, b := instance(), instance()

	wantFrom(t, a, observe.LevelSource, "Ada")
	wantFrom(t, b, observe.LevelL2, "Ada") // it was loaded once for both
	wantFrom(t, b, observe.LevelL1, "Ada")

	mu.Lock()
	name = "Grace"
	mu.Unlock()
	if err := a.Drop(ctx, 7); err != nil {
		t.Fatal(err)
	}
	wantFrom(t, a, observe.LevelSource, "Grace")

	// B's copy is good for an hour, and its link for ten seconds: only the log tells it.
	lag := waitFor(t, b, "Grace")
	t.Logf("B had the new value %v after A had it", lag)
	if mu.Lock(); queries != 2 {
		t.Errorf("%d queries; want 2, one for each value", queries)
	}
	mu.Unlock()
}

// A Node service with node-redis, and nothing of ours, shares the keys of a plain cache.
func TestExampleNodeRedis(t *testing.T) {
	ctx := t.Context()
	redis := testenv.Redis(t)
	node := startNode(t, redis.URL())

	client := open(t, redis.URL(), freshet.Options{StaleAtMost: 10 * time.Second})
	loading, goOn := make(chan struct{}, 10), make(chan struct{}, 10)
	profiles, err := freshet.NewCache(client, freshet.Config[int64, Profile]{
		Name: "user", TTL: time.Hour, Plain: true,
		Load: func(_ context.Context, id int64, _ *freshet.Load) (Profile, error) {
			loading <- struct{}{}
			<-goOn
			return Profile{id, "Ada"}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !client.Stats().Tracks {
		t.Fatal("this Redis doesn't tell of foreign writes")
	}

	// Node writes, Go reads.
	node.is(http.MethodPut, "/user:7?ex=3600", `{"id":7,"name":"Grace"}`, 204, "")
	wantFrom(t, profiles, observe.LevelL2, "Grace")
	wantFrom(t, profiles, observe.LevelL1, "Grace")

	// Node deletes, and Go's L1 forgets: nothing else would make it look before an hour has passed.
	goOn <- struct{}{}
	deleted := time.Now()
	node.is(http.MethodDelete, "/user:7", "", 204, "")
	waitFor(t, profiles, "Ada")
	if lag := time.Since(deleted); lag > 5*time.Second {
		t.Errorf("Go's L1 forgot %v after Node's DEL; want milliseconds", lag)
	} else {
		t.Logf("from Node's DEL to the value loaded anew: %v", lag)
	}
	<-loading

	// Go loaded, Node reads the same JSON.
	node.is(http.MethodGet, "/user:7", "", 200, `{"id":7,"name":"Ada"}`)

	// While Go loads, Node finds an empty string: false in if (cached), and no value.
	node.is(http.MethodDelete, "/user:7", "", 204, "")
	got := make(chan Profile)
	for {
		if _, ok := profiles.Peek(ctx, 7); !ok {
			break
		}
		time.Sleep(time.Millisecond)
	}
	go func() {
		p, _ := profiles.Get(ctx, 7)
		got <- p
	}()
	<-loading
	if there := redis.CLI(t, "EXISTS", "user:7"); there != "1" {
		t.Errorf("EXISTS says %s; want 1, the lease", there)
	}
	if v := redis.CLI(t, "GET", "user:7"); v != "" {
		t.Errorf("the key holds %q; want an empty string", v)
	}
	node.is(http.MethodGet, "/user:7", "", 404, "")

	// Node writes while Go loads: Node wins. Go's callers still get what they waited for.
	node.is(http.MethodPut, "/user:7?ex=3600", `{"id":7,"name":"Edsger"}`, 204, "")
	goOn <- struct{}{}
	if p := <-got; p.Name != "Ada" {
		t.Errorf("the caller who waited got %q; want what was loaded, Ada", p.Name)
	}
	node.is(http.MethodGet, "/user:7", "", 200, `{"id":7,"name":"Edsger"}`)
	waitFor(t, profiles, "Edsger")
	if n := client.Stats().Refused[observe.ReasonLeaseLost]; n != 1 {
		t.Errorf("%d fills refused; want 1", n)
	}
}

// TestReadmeStory counts the queries of the story in README.md: its numbers are these.
func TestReadmeStory(t *testing.T) {
	ctx := t.Context()
	redis := testenv.Redis(t)

	var queries atomic.Int64 // of both tables, each of 20 ms
	var version atomic.Int64
	query := func() { queries.Add(1); time.Sleep(20 * time.Millisecond) }

	type instance struct {
		client *freshet.Client
		users  *freshet.Cache[int, int64]
		pages  *freshet.Cache[int, int64]
	}
	start := func() instance {
		// Not the 50 ms of the default: on a busy machine they are too few, and a query is one too many.
		client := open(t, redis.URL(), freshet.Options{StoreBudget: 5 * time.Second})
		users, err := freshet.NewCache(client, freshet.Config[int, int64]{
			Name: "user", TTL: time.Hour,
			Tags: func(id int) []string { return []string{freshet.Tag("users", id)} },
			Load: func(context.Context, int, *freshet.Load) (int64, error) { query(); return version.Load(), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		pages, err := freshet.NewCache(client, freshet.Config[int, int64]{
			Name: "users-page", TTL: time.Hour,
			Load: func(_ context.Context, page int, l *freshet.Load) (int64, error) {
				query()
				for id := 10 * page; id < 10*page+10; id++ {
					l.Tag(freshet.Tag("users", id))
				}
				return version.Load(), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return instance{client, users, pages}
	}
	// read has 100 callers read at the same time: ten times each, the same user or the ten pages.
	read := func(c *freshet.Cache[int, int64], key func(i int) int, want int64) {
		t.Helper()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for i := range 10 {
					if v, err := c.Get(ctx, key(i)); err != nil || v != want {
						t.Errorf("got version %d, %v; want %d", v, err, want)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	user7 := func(int) int { return 7 }
	eachPage := func(i int) int { return i }

	var rows []string
	row := func(reads int) {
		n := queries.Swap(0)
		rows = append(rows, fmt.Sprintf("| %d | %d |", reads, n))
	}

	// 1. Get or load.
	a := start()
	read(a.users, user7, 0)
	row(1000)

	// 2. Drop on update.
	version.Store(1)
	if err := a.users.Drop(ctx, 7); err != nil {
		t.Fatal(err)
	}
	read(a.users, user7, 1)
	row(1000)

	// 3. Ten pages of a list.
	read(a.pages, eachPage, 1)
	row(1000)

	// 4. User 7 is updated: its own entry and the page that shows it.
	if err := a.client.DropTags(ctx, freshet.Tag("users", 7)); err != nil {
		t.Fatal(err)
	}
	read(a.users, user7, 1)
	read(a.pages, eachPage, 1)
	row(2000)

	// 5. A second instance.
	b := start()
	read(b.users, user7, 1)
	read(b.pages, eachPage, 1)
	row(2000)

	// 6. It updates user 7.
	version.Store(2)
	if err := b.users.Drop(ctx, 7); err != nil {
		t.Fatal(err)
	}
	read(b.users, user7, 2)
	waitFor(t, a.users, 2)
	read(a.users, user7, 2)
	row(2000)

	// 7. Redis dies, for longer than StaleAtMost.
	redis.Kill()
	for _, i := range []instance{a, b} {
		for held := true; held; _, held = i.users.Peek(ctx, 7) {
			time.Sleep(5 * time.Millisecond) // L1 answers for StaleAtMost
		}
	}
	read(a.users, user7, 2)
	read(b.users, user7, 2)
	row(2000)

	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rows {
		found := false
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, fmt.Sprintf("| %d | ", i+1)) {
				found = true
				if got := strings.ReplaceAll(line, ",", ""); !strings.HasSuffix(strings.TrimSpace(got), r) {
					t.Errorf("README.md says %q; counted %s", strings.TrimSpace(line), r)
				}
			}
		}
		if !found {
			t.Errorf("README.md has no row %d; counted %s", i+1, r)
		}
	}
}

func open(t *testing.T, url string, o freshet.Options) *freshet.Client {
	t.Helper()
	c, err := freshet.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func wantFrom(t *testing.T, c *freshet.Cache[int64, Profile], level observe.Level, name string) {
	t.Helper()
	r, err := c.Lookup(t.Context(), 7)
	if err != nil || r.Level != level || r.Value.Name != name {
		t.Errorf("got %q from %v, %v; want %q from %v", r.Value.Name, r.Level, err, name, level)
	}
}

// waitFor reads key 7 until it has the value, and returns how long that took.
func waitFor[K int | int64, V int64 | Profile](t *testing.T, c *freshet.Cache[K, V], want any) time.Duration {
	t.Helper()
	for began := time.Now(); ; time.Sleep(200 * time.Microsecond) {
		v, err := c.Get(t.Context(), 7)
		if err != nil {
			t.Fatal(err)
		}
		switch v := any(v).(type) {
		case Profile:
			if v.Name == want {
				return time.Since(began)
			}
		case int64:
			if v == int64(want.(int)) {
				return time.Since(began)
			}
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("still %v after 10s; want %v", v, want)
		}
	}
}

// A nodeService is examples/node-redis, running.
type nodeService struct {
	t   *testing.T
	url string
}

func startNode(t *testing.T, redisURL string) *nodeService {
	t.Helper()
	dir := filepath.Join("examples", "node-redis")
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("%v; install it with \"make setup\" or \"apt-get install nodejs npm\"", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "redis")); err != nil {
		npm := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
		npm.Dir = dir
		if out, err := npm.CombinedOutput(); err != nil {
			t.Fatalf("npm ci in %s: %v; \"make setup\" installs npm and runs this\n%s", dir, err, out)
		}
	}
	cmd := exec.Command(node, "app.mjs", "serve", "0")
	cmd.Dir, cmd.Stderr = dir, t.Output()
	cmd.Env = append(os.Environ(), "REDIS_URL="+redisURL)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("node app.mjs serve said %q, %v; want listening on http://…", line, err)
	}
	return &nodeService{t, url}
}

// is makes a request and checks the answer's status and, if it has one, body.
func (n *nodeService) is(method, path, body string, status int, want string) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.url+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != status || strings.TrimSpace(string(got)) != want {
		n.t.Errorf("%s %s: %d %s, %v; want %d %s", method, path, res.StatusCode, got, err, status, want)
	}
}
