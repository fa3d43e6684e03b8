package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
)

const exampleDir = "../../../../examples/node-postgres"

// The whole story: a Node API with get-or-set and no invalidation, two Go instances with a cache in memory, and freshet watch beside them. An
// UPDATE in psql changes all their answers.
func TestExampleNodePostgres(t *testing.T) {
	s := &site{t: t, pg: testenv.Postgres(t, logical...), redis: testenv.Redis(t), file: filepath.Join(exampleDir, "freshet.yaml")}
	t.Setenv("DATABASE_URL", s.pg.URL())
	t.Setenv("REDIS_URL", s.redis.URL())
	schema, err := os.ReadFile(filepath.Join(exampleDir, "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	s.pg.SQL(t, string(schema))
	wants(t, "check", s.report("check", 0), "can be followed: 1 rule, 1 table", "no problems, no warnings")

	api := startNode(t)
	get := func(path string) (body, cache string) {
		t.Helper()
		resp, err := http.Get(api + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text)), resp.Header.Get("X-Cache")
	}
	is := func(path, wantBody, wantCache string) {
		t.Helper()
		if body, cache := get(path); body != wantBody || cache != wantCache {
			t.Errorf("%s: %s, %s; want %s, %s", path, body, cache, wantBody, wantCache)
		}
	}
	becomes := func(path, want string) {
		t.Helper()
		eventually(t, path+" is "+want, func() bool { body, _ := get(path); return body == want })
	}

	// Two Go instances, each with the user in memory. With keys of their own: they have nothing to do with Node.
	var loads atomic.Int64
	instance := func() *freshet.Cache[int, string] {
		client, err := freshet.Open(t.Context(), s.redis.URL(), freshet.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		c, err := freshet.NewCache(client, freshet.Config[int, string]{
			Name: "go-user", TTL: time.Hour, Tags: func(id int) []string { return []string{freshet.Tag("users", id)} },
			Load: func(context.Context, int, *freshet.Load) (string, error) {
				loads.Add(1)
				return s.pg.SQL(t, "select name from users where id = 1"), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := instance(), instance()

	// The example's rules, and one for the tags of the Go service.
	text, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	s.file = filepath.Join(t.TempDir(), "freshet.yaml")
	if err := os.WriteFile(s.file, append(text, "      - { table: public.users, tags: [\"users:{id}\"] }\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	s.redis.CLI(t, "SET", "user:0", "from before")
	p := testenv.Child(t, "freshet", "watch", "-c", s.file, "--log", "text")
	eventually(t, "the first start", func() bool { return !s.has("user:0") })

	ada, red := `{"id":1,"name":"Ada","team":"red"}`, `[{"id":1,"name":"Ada"},{"id":2,"name":"Grace"}]`
	is("/users/1", ada, "miss")
	is("/users/1", ada, "hit")
	is("/teams/red", red, "miss")
	is("/teams/red", red, "hit")
	is("/teams/blue", `[{"id":3,"name":"Edsger"}]`, "miss")
	for _, c := range []*freshet.Cache[int, string]{a, b, a, b} {
		if v, err := c.Get(t.Context(), 1); v != "Ada" || err != nil {
			t.Errorf("%q, %v; want Ada", v, err)
		}
	}
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads by the Go service; want 1", n)
	}

	s.pg.SQL(t, "UPDATE users SET name = 'Lovelace', team = 'blue' WHERE id = 1")
	becomes("/users/1", `{"id":1,"name":"Lovelace","team":"blue"}`)
	becomes("/teams/red", `[{"id":2,"name":"Grace"}]`)
	becomes("/teams/blue", `[{"id":1,"name":"Lovelace"},{"id":3,"name":"Edsger"}]`)
	for _, c := range []*freshet.Cache[int, string]{a, b} {
		eventually(t, "the Go service knows", func() bool { v, err := c.Get(t.Context(), 1); return v == "Lovelace" && err == nil })
	}

	// A write by the API itself, which has no line for it either.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, api+"/users/2", strings.NewReader(`{"name":"Hopper","team":"red"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	becomes("/users/2", `{"id":2,"name":"Hopper","team":"red"}`)
	becomes("/teams/red", `[{"id":2,"name":"Hopper"}]`)
	p.Kill()

	app, err := os.ReadFile(filepath.Join(exampleDir, "app.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{".del(", "unlink", "expire(", "publish", "'freshet"} {
		if strings.Contains(strings.ToLower(string(app)), word) {
			t.Errorf("app.mjs has %q; it is to have no line of invalidation", word)
		}
	}
}

// startNode runs the example's API, and returns its URL.
func startNode(t *testing.T) string {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("%v; install it with \"make setup\" or \"apt-get install nodejs npm\"", err)
	}
	if _, err := os.Stat(filepath.Join(exampleDir, "node_modules", "pg")); errors.Is(err, os.ErrNotExist) {
		npm := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
		npm.Dir = exampleDir
		if out, err := npm.CombinedOutput(); err != nil {
			t.Fatalf("npm ci in %s: %v; \"make setup\" installs npm and runs this\n%s", exampleDir, err, out)
		}
	}
	cmd := exec.Command(node, "app.mjs", "0")
	cmd.Dir, cmd.Stderr = exampleDir, t.Output()
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
		t.Fatalf("node app.mjs said %q, %v; want listening on http://…", line, err)
	}
	return url
}
