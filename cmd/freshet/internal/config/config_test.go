package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// env is the environment of these tests.
func env(name string) (string, bool) {
	v, ok := map[string]string{
		"DATABASE_URL": "postgres://app:hunter2@db.internal/shop", "REDIS_URL": "redis://:hunter2@cache:6379/1", "EMPTY": "", "SLOT": "freshet_shop",
		"SECRET": "hunter2", "YES": "true", "MYSQL_URL": "mysql://app:hunter2@db/shop",
	}[name]
	return v, ok
}

// good is around what a test is about.
func good(source string) string {
	return "store: { url: redis://localhost }\ncdc:\n  db:\n    postgres: { url: postgres://db/shop }\n" + source
}

const someRules = "    rules:\n      - { table: public.t, tags: [t] }\n"

func TestParse(t *testing.T) {
	c, err := Parse("freshet.yaml", []byte(`# a comment
version: 1
store:
  url: ${REDIS_URL:-memory://}
  prefix: shop
  timeout: 75ms
  stale_at_most: 1s
  local: { max_size: 256MiB }
cdc:
  shop-db:
    postgres: { url: "${DATABASE_URL}", slot: "${SLOT}", publication: "${NONE:-pub}", create: "${YES}", max_slot_lag: 2GiB, timeout: 5s }
    rules:
      - { table: public.products, tags: ["product:{id}"] }
      - &rule
        table: public.users
        ops: [insert, update]
        when_changed: [name, "e-mail"]
        keys: ["user:{id}:profile", "price$$:{id}"]
        publish: [{ channel: user-changed, payload: "{id}" }]
        no_sweep: true
        bulk: 10
      - *rule
    on_gap: stop
    tick: 100ms
    hold_back: 1m
    again: never
    take_over: 5s
    batch: 500
  other:
    postgres:
      url: 'postgresql://db/other'
      max_slot_lag: none
    rules: [{ table: "*", tags: [all] }]
  ledger:
    mysql: { url: "${MYSQL_URL}", timeout: 3s }
    rules: [{ table: ledger.entries, tags: [entries] }]
  same-server:
    mysql: { url: "mysql://app:hunter2@db/shop" }
    rules: [{ table: "*", tags: [all] }]
  local:
    mysql: { url: mariadb://app@/?socket=/run/mysqld/mysqld.sock }
    rules: [{ table: "*", tags: [all] }]
`), env)
	if err != nil {
		t.Fatal(err)
	}
	users := cdc.Rule{
		Table: "public.users", Ops: []string{"insert", "update"}, WhenChanged: []string{"name", "e-mail"}, Keys: []string{"user:{id}:profile", "price$:{id}"},
		Publish: []cdc.Publish{{Channel: "user-changed", Payload: "{id}"}}, NoSweep: true, Bulk: 10,
	}
	want := &Config{
		File:  "freshet.yaml",
		Store: Store{URL: "redis://:hunter2@cache:6379/1", Prefix: "shop:", Timeout: 75 * time.Millisecond, StaleAtMost: time.Second, MaxSize: 256 << 20},
		Sources: []Source{{
			Name: "shop-db", Kind: "postgres", URL: "postgres://app:hunter2@db.internal/shop",
			Postgres: Postgres{Slot: "freshet_shop", Publication: "pub", Create: true, MaxSlotLag: 2 << 30, Timeout: 5 * time.Second},
			Rules:    []cdc.Rule{{Table: "public.products", Tags: []string{"product:{id}"}}, users, users},
			OnGap:    cdc.GapStop, Tick: 100 * time.Millisecond, HoldBack: time.Minute, Again: -1, TakeOver: 5 * time.Second, Batch: 500,
		}, {
			Name: "other", Kind: "postgres", URL: "postgresql://db/other", Postgres: Postgres{MaxSlotLag: -1}, Rules: []cdc.Rule{{Table: "*", Tags: []string{"all"}}},
		}, {
			Name: "ledger", Kind: "mysql", URL: "mysql://app:hunter2@db/shop", MySQL: MySQL{Timeout: 3 * time.Second}, Rules: []cdc.Rule{{Table: "ledger.entries", Tags: []string{"entries"}}},
		}, {
			// A binary log has any number of readers.
			Name: "same-server", Kind: "mysql", URL: "mysql://app:hunter2@db/shop", Rules: []cdc.Rule{{Table: "*", Tags: []string{"all"}}},
		}, {
			Name: "local", Kind: "mysql", URL: "mariadb://app@/?socket=/run/mysqld/mysqld.sock", Rules: []cdc.Rule{{Table: "*", Tags: []string{"all"}}},
		}},
	}
	lines := []int{c.Line("store.url"), c.Line("cdc.shop-db.rules[1]"), c.Line("cdc.shop-db.rules[1].keys"), c.Line("cdc.none")}
	if want := []int{4, 14, 18, 0}; !reflect.DeepEqual(lines, want) {
		t.Errorf("lines are %v; want %v", lines, want)
	}
	mistake := c.Mistake("cdc.other.rules[0].tags[7].none", "is wrong").Error()
	if want := "freshet.yaml:32:35: cdc.other.rules[0].tags[7].none is wrong\n  32 |     rules: [{ table: \"*\", tags: [all] }]\n     |                           ^^^^"; mistake != want {
		if !strings.HasPrefix(mistake, "freshet.yaml:") || !strings.Contains(mistake, "tags: [all]") {
			t.Errorf("a later mistake is\n%s\nwant\n%s", mistake, want)
		}
	}
	c.src, c.at = nil, nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	asJSON, err := json.Marshal(c)
	for _, shown := range []string{fmt.Sprintf("%v %+v %#v", c, c, *c), fmt.Sprint(c.Store.URL), fmt.Sprintf("%q", c.Sources[0].URL), string(asJSON)} {
		if strings.Contains(shown, "hunter2") || err != nil {
			t.Errorf("printed, a config shows a password: %s, %v", shown, err)
		}
	}
	if s := c.Sources[0].URL.String(); s != "postgres://xxxxx@db.internal/shop" {
		t.Errorf("a URL is printed as %s", s)
	}
}

// Each mistake, with where it is, what it is, and what was wanted.
func TestMistakes(t *testing.T) {
	f := func(text string, want string) {
		t.Helper()
		_, err := Parse("f.yaml", []byte(text), env)
		if err == nil || err.Error() != strings.TrimPrefix(want, "\n") {
			t.Errorf("%s\nis told as\n%v\nwant%s", text, err, want)
		}
	}
	// The whole, once.
	f("stor:\n  url: x\nstore:\n  url: redis://localhost\n  timeout: 50\n  prefx: shop\n", `
f.yaml:1:1: stor isn't known here; did you mean store?
   1 | stor:
     | ^^^^
f.yaml:5:12: store.timeout is "50"; want a duration from 1ms to 1m, such as 50ms
   5 |   timeout: 50
     |            ^^
f.yaml:6:3: store.prefx isn't known here; did you mean prefix?
   6 |   prefx: shop
     |   ^^^^^`)
	f("", "f.yaml:1:1: the file is empty; want store and cdc, see docs/watch.md")
	f("store: { url: \"redis://localhost\n", `
f.yaml:1:15: can't be read as YAML: could not find end character of double-quoted text
   1 | store: { url: "redis://localhost
     |               ^^^^^^^^^^^^^^^^^^`)

	// The caret moves along with what a secret is replaced by.
	f("store: { url: \"redis://app:hunter2hunter2@h\", timeout: 50 }", `
f.yaml:1:56: store.timeout is "50"; want a duration from 1ms to 1m, such as 50ms
   1 | store: { url: "redis://xxxxx@h", timeout: 50 }
     |                                           ^^`)
	// Of a long line, what is around the place is shown.
	f("store: { url: redis://h, prefix: \""+strings.Repeat("a", 300)+"\", timeout: 50 }", `
f.yaml:1:347: store.timeout is "50"; want a duration from 1ms to 1m, such as 50ms
   1 | …`+strings.Repeat("a", 68)+`", timeout: 50 }
     | `+strings.Repeat(" ", 81)+`^^`)

	// What and where, of one or more.
	g := func(text string, wants ...string) {
		t.Helper()
		_, err := Parse("f.yaml", []byte(text), env)
		var got []string
		errs, _ := errors.AsType[Errors](err)
		for _, e := range errs {
			got = append(got, fmt.Sprintf("%d:%d %s", e.Line, e.Column, e.Message()))
			if !strings.Contains(e.Error(), "^") && e.Line > 0 && e.Key != "store" {
				t.Errorf("%s has no caret", e)
			}
		}
		if !reflect.DeepEqual(got, wants) {
			t.Errorf("%s\nhas the mistakes\n%s\nwant\n%s", text, strings.Join(got, "\n"), strings.Join(wants, "\n"))
		}
	}
	g("version: 2\nstore: { url: redis://h }", `1:10 version is "2"; want 1`)
	g("cdc: { a: 1 }", `1:1 store is missing; want store: { url: redis://localhost:6379 }`, `1:11 cdc.a is "1"; want a mapping of again, batch, hold_back, mysql, on_gap, postgres, rules, sqlite, take_over, tick`)
	g("store: { prefix: a b }", `1:1 store.url is missing; want a URL such as redis://localhost:6379`, `1:18 store.prefix is "a b"; want a word without blanks and braces, such as shop`)
	g("store: { url: redis://h, url: redis://i }", `1:26 store.url is given twice; the first is in line 1`)
	g("store: { url: redis://h, local: { max_size: 5x } }", `1:45 store.local.max_size is "5x"; want a size with a unit, such as 256MiB`)
	g("store: { url: redis://h, stale_at_most: 1ms }", `1:41 store.stale_at_most is "1ms"; want a duration from 50ms to 1h, such as 1s`)
	g("store: { url: [a] }", `1:15 store.url is a list; want a URL such as redis://localhost:6379`)
	g("store: { url: localhost }", `1:15 store.url is "localhost"; want a URL such as redis://localhost:6379`)
	g("store: { url: reddis://h }", `1:15 store.url has the scheme reddis; did you mean redis?`)
	g("store: { url: postgres://h/d }", `1:15 store.url has the scheme postgres; want memory, redis, redis+cluster, redis+sentinel, rediss, rediss+cluster, rediss+sentinel, unix; that is the URL of a database, for postgres of a source in cdc`)
	g("store: { url: }", `1:10 store.url has no value; want a URL such as redis://localhost:6379`)
	g("store: { url: redis://h, slot: x }", `1:26 store.slot isn't known here; it belongs in cdc.<name>.postgres`)
	g("store: { url: redis://h, <<: { prefix: x } }", `1:26 store has <<, which isn't known; write the keys out, or use an alias for a whole value`)
	g("store: { url: !!str redis://h }", `1:15 store.url has the tag !!str; want none`)
	g("store: { url: *u }", `1:15 store.url is the alias *u; no anchor before it has that name`)
	g("- a", `1:1 the file is a list; want a mapping of cdc, store, version`)
	g("store: { url: redis://h }\n---\nstore: { url: redis://i }", `2:1 a second document begins here; want one in a file`)

	g(good("    tick: 50ms\n"), `3:3 cdc.db has no rules; want a list of them`)
	g(good("    rules: []\n"), `5:5 cdc.db.rules is empty; want a list of rules`)
	g(good(someRules+"    slot: x\n"), `7:5 cdc.db.slot isn't known here; it belongs in cdc.db.postgres`)
	g(good(someRules+"    on_gap: drop\n    tick: 1\n    hold_back: 1ms\n    again: -1s\n    take_over: x\n    batch: 0\n"),
		`7:13 cdc.db.on_gap is "drop"; want drop_all or stop`, `8:11 cdc.db.tick is "1"; want a duration from 5ms to 1m, such as 50ms`,
		`9:16 cdc.db.hold_back is "1ms"; want a duration from 1s to 1h, such as 30s`, `10:12 cdc.db.again is "-1s"; want a duration from 1ms to 1m, such as 1s, or never`,
		`11:16 cdc.db.take_over is "x"; want a duration from 100ms to 1h, such as 3s`, `12:12 cdc.db.batch is "0"; want a number from 1 to 10000000`)
	g("store: { url: redis://h }\ncdc:\n  a b: { rules: [{ table: t, tags: [x] }] }\n",
		`3:3 cdc.a b is no name of a source; want 1 to 100 letters, digits, dots, dashes and underscores`, `3:3 cdc.a b has no database; want mysql or postgres or sqlite`)
	g("store: { url: redis://h }\ncdc:\n  a:\n    rules: [{ table: t, tags: [x] }]\n    postgres: { slot: Bad-1, create: yes, timeout: 1ms, max_slot_lag: 2TiB }\n",
		`5:5 cdc.a.postgres.url is missing; want a URL such as postgres://user@host/database`, `5:23 cdc.a.postgres.slot is "Bad-1"; want 1 to 63 lower-case letters, digits and underscores`,
		`5:38 cdc.a.postgres.create is "yes"; want true or false`, `5:52 cdc.a.postgres.timeout is "1ms"; want a duration from 1s to 1h, such as 10s`,
		`5:71 cdc.a.postgres.max_slot_lag is "2TiB"; want a size with a unit, such as 2GiB, or none`)
	g("store: { url: redis://h }\ncdc:\n  a: { postgres: { url: redis://h }, rules: [{ table: t, tags: [x] }] }\n",
		`3:25 cdc.a.postgres.url has the scheme redis; want postgres, postgresql; that is the URL of a store, for store.url`)
	g("store: { url: redis://h }\ncdc:\n  a:\n    rules: [{ table: t, tags: [x] }]\n    mysql: { timeout: 1s, slot: x, timout: 3s, create: true }\n",
		`5:5 cdc.a.mysql.url is missing; want a URL such as mysql://user@host/`, `5:23 cdc.a.mysql.timeout is "1s"; want a duration from 2s to 1h, such as 10s`,
		`5:27 cdc.a.mysql.slot isn't known here; it belongs in cdc.a.postgres`, `5:36 cdc.a.mysql.timout isn't known here; did you mean timeout?`,
		`5:48 cdc.a.mysql.create isn't known here; it belongs in cdc.a.postgres`)
	g("store: { url: redis://h }\ncdc:\n  a: { mysql: { url: \"postgres://u:hunter2@h/d\" }, rules: [{ table: t, tags: [x] }] }\n",
		`3:22 cdc.a.mysql.url has the scheme postgres; want mariadb, mysql; that is the URL of a database, for postgres of a source in cdc`)
	g("store: { url: redis://h }\ncdc:\n  a: { postgres: { url: \"${MYSQL_URL}\" }, rules: [{ table: t, tags: [x] }] }\n",
		`3:25 cdc.a.postgres.url has the scheme mysql; want postgres, postgresql; that is the URL of a database, for mysql of a source in cdc`)
	g("store: { url: redis://h }\ncdc:\n  a: { mysql: { url: maridb://h/ }, rules: [{ table: t, tags: [x] }] }\n", `3:22 cdc.a.mysql.url has the scheme maridb; did you mean mariadb?`)
	g("store: { url: redis://h }\ncdc:\n  a: { mysql: mysql://h/, rules: [{ table: t, tags: [x] }] }\n", `3:15 cdc.a.mysql is "mysql://h/"; want a mapping of timeout, url`)
	g("store: { url: redis://h }\ncdc:\n  a: { mariadb: { url: mysql://h/ }, rules: [{ table: t, tags: [x] }] }\n",
		`3:3 cdc.a has no database; want mysql or postgres or sqlite`, `3:8 cdc.a.mariadb isn't known here; want again, batch, hold_back, mysql, on_gap, postgres, rules, sqlite, take_over, tick`)
	g("store: { url: redis://h }\ncdc:\n  a: { sqlite: { url: \"mysql://h/\", name: A, poll: 1us, max_rows: 99 }, rules: [{ table: t, tags: [x] }] }\n",
		`3:23 cdc.a.sqlite.url has the scheme mysql; want sqlite; that is the URL of a database, for mysql of a source in cdc`,
		`3:43 cdc.a.sqlite.name is "A"; want 1 to 30 lower-case letters, digits and underscores, a letter first`,
		`3:52 cdc.a.sqlite.poll is "1us"; want a duration from 1ms to 1m, such as 10ms`,
		`3:67 cdc.a.sqlite.max_rows is "99"; want a number from 100 on, such as 1000000`)
	g(good(someRules+"    mysql: { url: mysql://h/ }\n"), `7:5 cdc.db.mysql is one database more, beside postgres; want one in a source`)
	g(good(someRules+"    timeout: 5s\n"), `7:5 cdc.db.timeout isn't known here; it belongs in cdc.db.mysql or cdc.db.postgres or store`)
	g(good(someRules)+"  again:\n    postgres: { url: postgres://db/shop }\n"+someRules, `7:3 cdc.again has the database and slot of db, and a slot has one reader; want another slot`)

	rules := func(rules string, wants ...string) {
		t.Helper()
		g(good("    rules:\n"+rules), wants...)
	}
	rules("      - { tags: [x] }\n", `6:9 cdc.db.rules[0] has no table; want schema.table, such as public.users`)
	rules("      - { table: t, tags: [x], taggs: [x] }\n", `6:32 cdc.db.rules[0].taggs isn't known here; did you mean tags?`)
	rules("      - { table: t }\n", `6:9 cdc.db.rules[0] has no tags, keys or publish; want one of them`)
	rules("      - { table: t, tags: [\"a:{id}\", \"{id}\"] }\n", `6:38 cdc.db.rules[0].tags[1] is wrong: "{id}": column id comes before the first colon; want the name of a table there: table:{id}`)
	rules("      - { table: t, keys: [\"a:{id\"] }\n", `6:28 cdc.db.rules[0].keys[0] is wrong: "a:{id": { at byte 2 is not closed; want {column}, or {{ for a brace`)
	rules("      - { table: t, ops: [remove], tags: [x], publish: [{ payload: x }] }\n", `6:57 cdc.db.rules[0].publish[0] has no channel; want { channel: …, payload: … }`)
	rules("      - { table: t, ops: [remove], tags: [x] }\n      - { table: a., tags: [x] }\n",
		`6:21 cdc.db.rules[0].ops has "remove"; want insert, update or delete`, `7:11 cdc.db.rules[1].table is "a."; want schema.table`)
	rules("      - { table: t, tags: x }\n", `6:27 cdc.db.rules[0].tags is "x"; want a list of tags, such as ["user:{id}"]`)
	rules("      - { table: t, tags: [[x]] }\n", `6:28 cdc.db.rules[0].tags[0] is a list; want a text`)

	// The environment.
	g("store: { url: \"${NONE}\" }", `1:15 store.url needs the environment variable NONE, which isn't set; set it, or write ${NONE:-default}`)
	g("store: { url: redis://h, prefix: \"${SECRET} x\" }", `1:34 store.prefix is "${SECRET} x", and what the environment has for it is wrong; want a word without blanks and braces, such as shop`)
	g("store: { url: redis://h, prefix: \"a$b\" }", `1:34 store.prefix has a $ that begins nothing; want ${VAR}, or $$ for a dollar`)
	g("store: { url: redis://h, prefix: \"${A\" }", `1:34 store.prefix has a ${ that isn't closed; want ${VAR}, or $$ for a dollar`)
	g("store: { url: redis://h, prefix: \"${a-b}\" }", `1:34 store.prefix has ${a-b}; want the name of a variable: letters, digits and underscores`)
	g("store: { url: redis://h, prefix: \"${A:-$B}\" }", `1:34 store.prefix has a $ in the default of ${A}; want plain text there`)
}

func TestExpand(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got, _, problem := expand(text, env); got != want || problem != "" {
			t.Errorf("%s: %q, %q; want %q", text, got, problem, want)
		}
	}
	f("", "")
	f("plain {id}", "plain {id}")
	f("${SLOT}", "freshet_shop")
	f("a${SLOT}b${SLOT}", "afreshet_shopbfreshet_shop")
	f("${EMPTY}", "")
	f("${EMPTY:-x}", "x")
	f("${NONE:-x:-y}", "x:-y")
	f("${NONE:-}", "")
	f("${SLOT:-x}", "freshet_shop")
	f("$$", "$")
	f("$${SLOT}", "${SLOT}")
	f("{id}$$", "{id}$")
}

// Whatever is wrong with a file: passwords stay out of the error.
func TestSecrets(t *testing.T) {
	f := func(text string) {
		t.Helper()
		_, err := Parse("f.yaml", []byte(text), env)
		if err == nil {
			t.Errorf("%s is taken; want a mistake", text)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the password:\n%v", text, err)
		}
	}
	for _, url := range []string{
		"redis://app:hunter2@h", "redis://:hunter2@h", "redis://app:hun/hunter2@h", "redis://app:x@hunter2@h", "redis://h?password=hunter2", "redis+sentinel://h?sentinel_password=hunter2",
		"app:hunter2@h", "redis://app:hunter2", "redis://app:hunter2 x@h", "host=h password=hunter2 user=u", "${NONE}://app:hunter2@h", "postgres://app:hunter2@h/d",
		"redis://app:${NONE:-hunter2}@h", "${SECRET}", "${SECRET}@x", "x ${SECRET}",
	} {
		f("store: { url: \"" + url + "\", timeout: 5 }")
		f("store:\n  url: '" + url + "'\n  timeout: 5\n")
		f("store:\n  urll: '" + url + "'\n")
		f("store:\n  url: '" + url + "\n")
		f("store: { prefix: \"" + url + "\" }")
		f("store:\n  timeout: >-\n    " + url + "\n")
		f("store: [\"" + url + "\", {")
		f("store: { token: hunter2 }")
	}
	f("store: { url: redis://h, timeout: \"${SECRET}\" }")
	f("store: { url: \"${MYSQL_URL}\" }")
	f(good("    tick: \"${SECRET}\"\n    on_gap: \"${SECRET}\"\n    rules: [{ table: \"${SECRET}\", tagz: [] }]\n"))
}

func TestNearest(t *testing.T) {
	known := []string{"slot", "publication", "create", "max_slot_lag", "timeout"}
	f := func(name, want string) {
		t.Helper()
		if got := Nearest(name, known); got != want {
			t.Errorf("%s: %q; want %q", name, got, want)
		}
	}
	f("slott", "slot")
	f("solt", "slot")
	f("Slot", "slot")
	f("publicaton", "publication")
	f("max-slot-lag", "max_slot_lag")
	f("url", "")
	f("x", "")
	f("", "")
	f(strings.Repeat("x", 1000), "")
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	if _, err := Load(file, env); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(file, []byte(good(someRules)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, env)
	if err != nil || len(c.Sources) != 1 {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := Parse("f.yaml", make([]byte, maxFile+1), env); err == nil || !strings.Contains(err.Error(), "want at most 262144") {
		t.Errorf("a file that is too large: %v", err)
	}
	const many = 32 << 10
	for _, deep := range []string{strings.Repeat("[", many), strings.Repeat("{a: ", many), strings.Repeat("- ", many), strings.Repeat("&a ", many/10)} {
		_, err := Parse("f.yaml", []byte(deep), env)
		if err == nil || deep[0] != '&' && !strings.Contains(err.Error(), "is nested deeper than 100 levels") {
			t.Errorf("%.10s...: %v; want that it is too deep", deep, err)
		}
	}
	// An alias of many aliases, over and over.
	bomb := "store: { url: redis://h }\ncdc: { a: { rules: &a0 [x, x, x, x, x, x, x, x, x, x], "
	if _, err := Parse("f.yaml", []byte(bomb+"postgres: *a0 } }"), env); err == nil {
		t.Error("aliases of the wrong kind are taken")
	}
}

// FuzzParse: whatever the bytes, there is a config or there are mistakes with a place in the file, and no panic; and no secret is told.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good(someRules)))
	f.Add([]byte("store: { url: \"${SECRET}\" }"))
	f.Add([]byte("store: &a [*a]"))
	f.Add([]byte("version: 1\n---\n- |\n  x\n"))
	f.Add([]byte("\ufeff\t\x00: {"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("f.yaml", text, env)
		if (c == nil) == (err == nil) {
			t.Fatalf("%v, %v; want one of them", c, err)
		}
		if err == nil {
			return
		}
		errs, ok := errors.AsType[Errors](err)
		if !ok || len(errs) == 0 {
			t.Fatalf("%T; want Errors", err)
		}
		for _, e := range errs {
			if e.Line < 1 || e.Column < 1 || e.Problem == "" {
				t.Errorf("%+v has no place", e)
			}
			if strings.Contains(e.Error(), "hunter2") && !strings.Contains(string(text), "hunter2") {
				t.Errorf("%v tells what the environment has", e)
			}
		}
	})
}
