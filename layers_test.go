package freshet_test

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/freshetdev/freshet"

// A layer says what one package may import. Paths are relative to the module; "x/..." is x and all
// below it. The standard library is open to all.
type layer struct {
	pkg     string
	may     string // packages of ours
	outside string // modules of others
	testing bool   // a suite or helper for tests: may import testing outside of _test.go files
}

// layers is the architecture, bottom up: a package imports only what stands above it
// in this list. ARCHITECTURE.md shows the same table.
var layers = []layer{
	// Mechanisms that know nothing of ours.
	{pkg: "internal/clock", outside: "golang.org/x/sys"},
	{pkg: "internal/deadline"},
	{pkg: "internal/flight"},
	{pkg: "internal/keys"},
	{pkg: "internal/model"},
	{pkg: "internal/near", outside: "github.com/maypok86/otter/v2"},
	{pkg: "internal/readme"},

	// Contracts. They don't import each other.
	{pkg: "codec", outside: "github.com/cespare/xxhash/v2 github.com/go-json-experiment/json github.com/klauspost/compress"},
	{pkg: "limit", may: "internal/deadline"},
	{pkg: "limit/overload"},
	{pkg: "observe"},
	{pkg: "store", outside: "github.com/cespare/xxhash/v2"},

	// Changes of databases: the contract of sources, and the pump that takes them to a store.
	{pkg: "cdc", may: "observe store internal/keys"},
	{pkg: "cdc/cdctest", may: "cdc store", testing: true},

	// What follows the log.
	{pkg: "internal/mirror", may: "internal/clock observe store"},

	// Adapters and suites: their own contract, and their own client.
	{pkg: "internal/redisx", outside: "github.com/redis/rueidis"},
	{pkg: "internal/testenv", may: "internal/redisx", testing: true},
	{pkg: "limit/httplimit", may: "limit"},
	{pkg: "limit/limittest", may: "limit", outside: "pgregory.net/rapid", testing: true},
	{pkg: "limit/memlimit", may: "limit internal/clock"},
	{pkg: "limit/redislimit", may: "limit internal/deadline internal/redisx", outside: "github.com/redis/rueidis"},
	{pkg: "store/memstore", may: "store internal/clock internal/keys"},
	{pkg: "store/redisstore", may: "store internal/clock internal/keys internal/redisx", outside: "github.com/redis/rueidis"},
	{pkg: "store/storetest", may: "store", outside: "pgregory.net/rapid", testing: true},

	// The cache. It opens stores by URL, so it knows the adapters.
	{pkg: ".", may: "codec observe store store/memstore store/redisstore internal/clock internal/flight internal/keys internal/mirror internal/near", outside: "github.com/cespare/xxhash/v2"},

	// What stands on the cache.
	{pkg: "freshettest", may: ". store store/memstore", testing: true},
	{pkg: "httpcache", may: ". observe"},
	{pkg: "internal/torture", may: ". observe"}, // the root in its tests only
	{pkg: "sqltx", may: "."},
	{pkg: "replica", may: "."},                                                                      // the root in its tests only: what it makes fits its interface
	{pkg: "cdc/mysqlcdc", may: ". cdc", outside: "github.com/go-mysql-org/go-mysql"},                // a module of its own; the root in its tests only
	{pkg: "cdc/pgcdc", may: ". cdc", outside: "github.com/jackc/pgx/v5 github.com/jackc/pglogrepl"}, // a module of its own; the root in its tests only
	{pkg: "cdc/sqlitecdc", may: ". cdc"},                                                            // a module of its own, for the driver of its tests; the root in its tests only
	{pkg: "internal/feedtest", may: ". cdc store/redisstore internal/testenv", testing: true},
	{pkg: "observe/promobserve", may: ". cdc observe", outside: "github.com/prometheus/client_golang/prometheus"}, // a module of its own
	{pkg: "pgxtx", may: ". sqltx", outside: "github.com/jackc/pgx/v5"},                                            // a module of its own
	{pkg: "pgxtx/pgxreplica", may: ". cdc/pgcdc replica", outside: "github.com/jackc/pgx/v5"},                     // in the module pgxtx; the root and pgcdc in its tests only

	// What stands on the limiter.
	{pkg: "limit/rls", may: "limit", outside: "github.com/envoyproxy/go-control-plane/envoy github.com/goccy/go-yaml google.golang.org/grpc google.golang.org/protobuf"}, // a module of its own

	// Programs. They join everything, by what users can import too.
	{pkg: "bench/...", may: "bench/... " + public, outside: "*"},
	{pkg: "cmd/freshet/...", may: "cmd/freshet/... " + public, outside: "*"},
	{pkg: "examples/...", may: public},
	{pkg: "limit/rls/cmd/...", may: "limit/rls/cmd/... " + public, outside: "*"},
}

const (
	public = ". cdc cdc/cdctest cdc/mysqlcdc cdc/pgcdc cdc/sqlitecdc codec freshettest httpcache limit limit/httplimit limit/memlimit limit/overload limit/redislimit limit/rls observe observe/promobserve pgxtx pgxtx/pgxreplica replica sqltx store store/memstore store/redisstore"

	// What _test.go files may import beyond what their package may. No test of an adapter may
	// import the root.
	inTests        = "cdc cdc/cdctest internal/clock internal/feedtest internal/readme internal/redisx internal/testenv limit limit/limittest limit/memlimit limit/redislimit observe store store/memstore store/redisstore store/storetest"
	outsideInTests = "github.com/dunglas/httpsfv github.com/ncruces/go-sqlite3 github.com/prometheus/client_golang github.com/prometheus/client_model/go github.com/prometheus/common github.com/redis/rueidis go.uber.org/goleak pgregory.net/rapid"
)

func TestLayers(t *testing.T) {
	for _, complaint := range checkLayers(os.DirFS("."), layers) {
		t.Error(complaint)
	}
}

// checkLayers reads every Go file of the tree and returns what breaks the table. It reads the
// files itself rather than asking "go list": the test cache doesn't see what a child process
// reads, so a bad import would stay "(cached)".
func checkLayers(tree fs.FS, layers []layer) (complaints []string) {
	complain := func(format string, args ...any) {
		complaints = append(complaints, fmt.Sprintf(format, args...))
	}
	comments := map[string][]string{} // package -> its files that have a package comment
	err := fs.WalkDir(tree, ".", func(file string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && file != "." && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") ||
			name == "testdata" || name == "node_modules" || name == "bin"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(file) != ".go":
			return nil
		}
		text, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		if ignored(f) {
			return nil
		}
		pkg, isTest := path.Dir(file), strings.HasSuffix(file, "_test.go")
		at := slices.IndexFunc(layers, func(l layer) bool { return covers(l.pkg, pkg) })
		if at < 0 {
			complain("%s: package %s is in no layer; add it to layers in layers_test.go and to the table in ARCHITECTURE.md", file, pkg)
			return nil
		}
		if !isTest {
			has := comments[pkg]
			if f.Doc != nil {
				has = append(has, file)
			}
			comments[pkg] = has
		}
		for _, imp := range f.Imports {
			to, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			if why := layers[at].refuses(pkg, to, isTest); why != "" {
				complain("%s: imports %s: %s", file, to, why)
			}
		}
		return nil
	})
	if err != nil {
		complain("%v", err)
	}
	for pkg, files := range comments {
		if len(files) != 1 {
			complain("package %s has %d package comments %v; want one, which teaches its model", pkg, len(files), files)
		}
	}
	slices.Sort(complaints)
	return complaints
}

// refuses says why a file of pkg must not import to; empty if it may.
func (l layer) refuses(pkg, to string, isTest bool) string {
	may, outside := strings.Fields(l.may), strings.Fields(l.outside)
	if isTest {
		may = append(may, strings.Fields(inTests)...)
		outside = append(outside, strings.Fields(outsideInTests)...)
	}
	ours, isOurs := strings.CutPrefix(to, module)
	ours = strings.TrimPrefix(ours, "/")
	if ours == "" {
		ours = "."
	}
	switch {
	case isOurs && ours == pkg && isTest: // an external test of the package
	case isOurs:
		if !slices.ContainsFunc(may, func(pattern string) bool { return covers(pattern, ours) }) {
			return fmt.Sprintf("layer %s may import %v of ours", l.pkg, may)
		}
	case to == "testing" || strings.HasPrefix(to, "testing/"):
		if !isTest && !l.testing {
			return "only tests, and the suites marked so, may import testing"
		}
	case strings.Contains(strings.Split(to, "/")[0], "."):
		if !slices.ContainsFunc(outside, func(m string) bool { return m == "*" || covers(m+"/...", to) }) {
			return fmt.Sprintf("layer %s may import %v of others; a dependency is a decision (CONTRIBUTING.md)", l.pkg, outside)
		}
	}
	return ""
}

// covers reports whether the pattern "x" or "x/..." names pkg.
func covers(pattern, pkg string) bool {
	tree, isTree := strings.CutSuffix(pattern, "/...")
	return pkg == tree || isTree && strings.HasPrefix(pkg, tree+"/")
}

// ignored reports whether the file is built by nobody: a generator with "//go:build ignore".
func ignored(f *ast.File) bool {
	for _, group := range f.Comments {
		for _, c := range group.List {
			if expr, err := constraint.Parse(c.Text); err == nil && c.Pos() < f.Package {
				return expr.String() == "ignore"
			}
		}
	}
	return false
}

// TestLayersTable checks the table against itself: imports only point down.
func TestLayersTable(t *testing.T) {
	for i, l := range layers {
		for _, to := range strings.Fields(l.may) {
			at := slices.IndexFunc(layers, func(l layer) bool { return l.pkg == to })
			if at < 0 || at > i || at == i && !strings.HasSuffix(to, "/...") {
				t.Errorf("%s may import %s, which does not stand below it in the table", l.pkg, to)
			}
		}
	}
}

// TestLayersFindsMistakes runs the checker on a small tree with one mistake of each kind.
func TestLayersFindsMistakes(t *testing.T) {
	table := []layer{
		{pkg: "store"},
		{pkg: "store/memstore", may: "store", outside: "example.org/client"},
		{pkg: "store/storetest", may: "store", outside: "pgregory.net/rapid", testing: true},
		{pkg: ".", may: "store store/memstore"},
		{pkg: "cmd/...", may: "cmd/... .", outside: "*"},
	}
	good := map[string]string{
		"freshet.go":                "// Package freshet is.\npackage freshet\nimport (\n\"context\"\n\"" + module + "/store/memstore\"\n)",
		"more.go":                   "package freshet",
		"freshet_test.go":           "package freshet_test\nimport (\n\"testing\"\n\"" + module + "\"\n)",
		"gen.go":                    "//go:build ignore\n\n// Gen makes.\npackage main\nimport \"example.org/gen\"",
		"store/store.go":            "// Package store is.\npackage store",
		"store/store_test.go":       "package store_test\nimport \"" + module + "/store/storetest\"",
		"store/memstore/m.go":       "// Package memstore is.\npackage memstore\nimport (\n\"" + module + "/store\"\n\"example.org/client/v2/x\"\n)",
		"store/storetest/s.go":      "// Package storetest is.\npackage storetest\nimport \"testing\"",
		"cmd/tool/main.go":          "// Tool does.\npackage main\nimport (\n\"" + module + "/cmd/tool/internal/x\"\n\"example.org/any\"\n)",
		"cmd/tool/internal/x/x.go":  "// Package x is.\npackage x\nimport \"" + module + "\"",
		"store/testdata/broken.go":  "not Go",
		"node_modules/some/some.go": "package some",
	}
	f := func(file, text string, want ...string) {
		t.Helper()
		tree := fstest.MapFS{}
		for name, text := range good {
			tree[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if file != "" {
			tree[file] = &fstest.MapFile{Data: []byte(text)}
		}
		got := checkLayers(tree, table)
		ok := len(got) == len(want)
		for i := 0; ok && i < len(got); i++ {
			ok = strings.Contains(got[i], want[i])
		}
		if !ok {
			t.Errorf("%s: got %q; want %q", file, got, want)
		}
	}
	f("", "")
	f("store/up.go", "package store\nimport \""+module+"\"", "store/up.go: imports "+module+": layer store may import [] of ours")
	f("store/side.go", "package store\nimport \""+module+"/store/memstore\"", "store/side.go: imports "+module+"/store/memstore")
	f("store/memstore/up_test.go", "package memstore\nimport \""+module+"\"", "store/memstore/up_test.go: imports "+module)
	f("store/out.go", "package store\nimport \"example.org/client\"", "store/out.go: imports example.org/client: layer store may import [] of others")
	f("store/memstore/out.go", "package memstore\nimport \"example.org/clientele\"", "store/memstore/out.go: imports example.org/clientele")
	f("store/help.go", "package store\nimport \"testing/synctest\"", "store/help.go: imports testing/synctest: only tests")
	f("cmd/tool/deep.go", "package main\nimport \""+module+"/store/memstore\"", "cmd/tool/deep.go: imports "+module+"/store/memstore")
	f("newpkg/new.go", "// Package newpkg is.\npackage newpkg", "newpkg/new.go: package newpkg is in no layer; add it to layers in layers_test.go")
	f("store/two.go", "// Package store is, again.\npackage store", "package store has 2 package comments [store/store.go store/two.go]")
	f("cmd/mute/main.go", "package main", "package cmd/mute has 0 package comments []")
	f("broken.go", "no Go", "broken.go:1:1: expected 'package'")
}
