package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var yamlBlock = regexp.MustCompile("(?ms)^ *```yaml\n(.*?)^ *```")

// TestDocs: every block of YAML in the documents is a file without mistakes. The one with "all keys" has all there are, and so have the tables.
func TestDocs(t *testing.T) {
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"REDIS_URL": "redis://cache", "DATABASE_URL": "postgres://app@db/shop", "LEDGER_URL": "mariadb://app@db/"}[name]
		return v, ok
	}
	var all *reader
	for _, file := range []string{"../../../../docs/watch.md", "../../../../docs/mysql.md", "../../../../README.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		blocks := yamlBlock.FindAllSubmatch(text, -1)
		if len(blocks) == 0 {
			t.Errorf("%s has no YAML", file)
		}
		for _, b := range blocks {
			r := newReader(file, b[1], lookup)
			if root := r.parse(b[1]); root != nil {
				r.config(root, &Config{})
			}
			if errs := r.sorted(); len(errs) > 0 {
				t.Errorf("%s has a block with mistakes: %v", file, errs)
			}
			if strings.HasPrefix(string(b[1]), "# all keys\n") {
				all = r
			}
		}
	}
	if all == nil {
		t.Fatal("docs/watch.md has no block \"# all keys\"")
	}
	doc, err := os.ReadFile("../../../../docs/watch.md")
	if err != nil {
		t.Fatal(err)
	}
	// Items of lists count together, and so do sources: one has one database.
	item, source := regexp.MustCompile(`\[\d+\]`), regexp.MustCompile(`^cdc\.[^.]+`)
	plain := func(key string) string { return source.ReplaceAllString(item.ReplaceAllString(key, ""), "cdc.<name>") }
	given := map[string]bool{}
	for key := range all.given {
		given[plain(key)] = true
	}
	n := 0
	for place, names := range all.known {
		for _, name := range names {
			n++
			if key := plain(under(place, name)); !given[key] {
				t.Errorf("the block with all keys has no %s", key)
			}
			if !strings.Contains(string(doc), "`"+name+"`") {
				t.Errorf("docs/watch.md doesn't say what %s is", name)
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d keys are known; is the test looking at them?", n)
	}
}

// The list of places where keys belong is that of the readers.
func TestPlaces(t *testing.T) {
	r := newReader("f.yaml", nil, env)
	for _, database := range []string{"postgres: { url: postgres://h/d }", "mysql: { url: mysql://h/ }", "sqlite: { url: \"sqlite:x.db\" }"} {
		text := "store: { url: redis://h }\ncdc:\n  <name>: { " + database + ", rules: [{ table: t, tags: [x] }] }\n"
		r.config(r.parse([]byte(text)), &Config{})
	}
	for kind := range kinds {
		if r.known["cdc.<name>."+kind] == nil {
			t.Errorf("this test doesn't look at the keys of %s", kind)
		}
	}
	for place, names := range places {
		known := r.known[place]
		if known == nil {
			known = r.known[place+"[0]"]
		}
		for _, name := range names {
			if !slices.Contains(known, name) {
				t.Errorf("places has %s in %s, which has %v", name, place, known)
			}
		}
		if len(names) != len(known) {
			t.Errorf("%s has %v; places says %v", place, known, names)
		}
	}
	for _, e := range r.errs {
		if !strings.Contains(e.Problem, "is no name of a source") {
			t.Error(e)
		}
	}
}
