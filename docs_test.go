package freshet_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestReasonsAreExplained: operations.md has an anchor for every reason code, so that a log line or
// header leads to what to do about it.
func TestReasonsAreExplained(t *testing.T) {
	text, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	there := anchors(string(text))
	for _, file := range []string{"observe/observe.go", "cmd/freshet/internal/proxy/reason.go"} {
		codes := reasonsIn(t, file)
		if len(codes) < 10 {
			t.Errorf("%s: found only the reasons %v; is the list elsewhere now?", file, codes)
		}
		for _, code := range codes {
			if !slices.Contains(there, code) {
				t.Errorf("docs/operations.md has no entry #%s; %s has that reason", code, file)
			}
		}
	}
}

// reasonsIn returns the constants of type Reason in a Go file, but the empty one.
func reasonsIn(t *testing.T, file string) (codes []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range f.Decls {
		consts, ok := decl.(*ast.GenDecl)
		if !ok || consts.Tok != token.CONST {
			continue
		}
		for _, spec := range consts.Specs {
			for i, v := range spec.(*ast.ValueSpec).Values {
				lit, ok := v.(*ast.BasicLit)
				if !ok || !strings.HasPrefix(spec.(*ast.ValueSpec).Names[i].Name, "Reason") {
					continue
				}
				if code, err := strconv.Unquote(lit.Value); err == nil && code != "" {
					codes = append(codes, code)
				}
			}
		}
	}
	return codes
}

// TestLinks: what the documents link to in this repository is there, headings included.
func TestLinks(t *testing.T) {
	for _, complaint := range checkLinks(os.DirFS(".")) {
		t.Error(complaint)
	}
}

var (
	fence   = regexp.MustCompile("(?ms)^ *```.*?^ *```[^`]*?$")
	codeRun = regexp.MustCompile("`[^`\n]*`")
	link    = regexp.MustCompile(`\]\(([^()\s]+(?:\([^()\s]*\))?)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	anchor  = regexp.MustCompile(`<a id="([^"]+)">`)
	notSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

func checkLinks(tree fs.FS) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	found := 0
	err := fs.WalkDir(tree, ".", func(file string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && file != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "bin"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(file) != ".md":
			return nil
		}
		text, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		prose := codeRun.ReplaceAllString(fence.ReplaceAllString(string(text), ""), "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				complain("%s: link %q: %v", file, m[1], err)
				continue
			}
			if u.Scheme != "" {
				continue // not ours to check
			}
			found++
			target := file
			if u.Path != "" {
				target = path.Join(path.Dir(file), u.Path)
			}
			to, err := fs.Stat(tree, target)
			if err != nil {
				complain("%s: link %q: there is no %s", file, m[1], target)
				continue
			}
			if u.Fragment == "" || to.IsDir() || path.Ext(target) != ".md" {
				continue
			}
			text, err := fs.ReadFile(tree, target)
			if err != nil {
				return err
			}
			if !slices.Contains(anchors(string(text)), u.Fragment) {
				complain("%s: link %q: %s has no heading or anchor of that name", file, m[1], target)
			}
		}
		return nil
	})
	if err != nil {
		complain("%v", err)
	}
	if found == 0 {
		complain("no links found; the pattern is wrong")
	}
	return complaints
}

// anchors returns what can stand after # in a link to a document: its headings, as GitHub
// writes them, and explicit anchors.
func anchors(text string) (names []string) {
	text = fence.ReplaceAllString(text, "")
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		slug := strings.ToLower(strings.TrimSpace(m[1]))
		names = append(names, strings.ReplaceAll(notSlug.ReplaceAllString(slug, ""), " ", "-"))
	}
	for _, m := range anchor.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

var coveredGo = regexp.MustCompile("(?ms)^<!-- test: covered by (\\S+\\.go) -->\n```go\n(.*?)^```")

// TestDocsShowTestedCode: each line of Go in docs stands in an example that is run. (The
// blocks of README.md are run themselves.)
func TestDocsShowTestedCode(t *testing.T) {
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, doc := range docs {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		blocks := coveredGo.FindAllStringSubmatch(string(text), -1)
		if all := strings.Count(string(text), "\n```go\n"); all != len(blocks) {
			t.Errorf("%s: %d of %d Go blocks say by which example they are covered", doc, len(blocks), all)
		}
		for _, b := range blocks {
			code, err := os.ReadFile(b[1])
			if err != nil {
				t.Errorf("%s: %v", doc, err)
				continue
			}
			for line := range strings.Lines(b[2]) {
				shown++
				if !strings.Contains(string(code), line) {
					t.Errorf("%s: %s has no line %q", doc, b[1], line)
				}
			}
		}
	}
	if shown == 0 {
		t.Error("no Go shown in docs; the pattern is wrong")
	}
}
