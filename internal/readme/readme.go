//go:build unix

// Package readme runs a Markdown document: every fenced block of it is executed, so
// that what the document tells people to type works. It is used by tests only.
//
// The tree is copied first, and the blocks run in the copy, in order:
//
//	```go     with "package main": built in a module of its own, as a user would, and run.
//	          A fragment of statements becomes the body of main.
//	```sh     bash -euo pipefail from the top of the tree; ```bash and ```shell too.
//	others    are refused, unless a comment says what they are.
//
// A block fails when it exits with an error, or takes longer than Options.Limit. Comments on
// the lines before a block say more; several may stand there:
//
//	<!-- test: expect "text" -->            it prints this (several: in this order)
//	<!-- test: background until "text" -->  keep it running from when it prints this until the
//	                                        end of the document, then stop it with Ctrl-C
//	<!-- test: same shell -->               goes on in the shell of the sh block before
//	<!-- test: output -->                   a block of any language: the block before prints these
//	                                        lines, in this order; … stands for anything
//	<!-- test: file NAME -->                write the block to NAME, for the blocks after it
//	<!-- test: covered by FILE -->          not run here (it would run this test): each of its
//	                                        commands must stand in FILE, which is run elsewhere
//	<!-- test: with                         Go that a fragment needs: imports and declarations,
//	import "context"                        over several lines
//	-->
//
// Errors name the lines of the document, also those of Go and bash.
package readme

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options of [Check]. Root must be given.
type Options struct {
	// Root is the top of the tree, with the go.mod that Go blocks import.
	Root string

	// Limit is how long one block may take, builds included. Default 5 minutes: a cold
	// build of a whole program on two slow cores takes two.
	Limit time.Duration

	// Env is added to the environment of every block.
	Env []string

	// Log, if set, is told what is run. It is called by one goroutine.
	Log func(format string, args ...any)
}

// Check runs the blocks of the document (a path below o.Root) and returns all that failed.
func Check(ctx context.Context, document string, o Options) (err error) {
	if o.Limit == 0 {
		o.Limit = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(o.Root, document))
	if err != nil {
		return err
	}
	blocks, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", document, err)
	}
	tmp, err := os.MkdirTemp("", "readme-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	r := &runner{document: document, o: o, tree: filepath.Join(tmp, "tree"), tmp: tmp}
	if err := copyTree(r.tree, o.Root); err != nil {
		return err
	}
	// Without it each copy of the tree would be compiled anew: paths go into the build cache's keys.
	r.env = append(slices.Clone(o.Env), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -trimpath"))
	return r.run(ctx, blocks)
}

// A runner executes the blocks of one document.
type runner struct {
	document string
	o        Options
	tmp      string // holds tree, scripts and modules
	tree     string // the copy in which blocks run
	env      []string
	behind   []*process // in the background
	printed  string     // by the last block that ran
}

func (r *runner) run(ctx context.Context, blocks []block) error {
	var failed []error
	fail := func(b block, err error) {
		if err != nil {
			failed = append(failed, fmt.Errorf("%s:%d: %w", r.document, b.line, err))
		}
	}
	for i := 0; i < len(blocks); i++ {
		b := blocks[i]
		r.o.Log("%s:%d: %s", r.document, b.line, firstLine(b.text))
		switch {
		case b.sameShell:
			fail(b, errors.New("same shell: the block before is not a sh block that ran to its end"))
		case b.coveredBy != "":
			fail(b, r.covered(b))
		case b.file != "":
			fail(b, r.write(b))
		case b.output:
			fail(b, inOrder(r.printed, outputLines(b.text)))
		case b.lang == "go":
			fail(b, r.goBlock(ctx, b))
		case isShell(b.lang):
			group := 1
			for i+group < len(blocks) && blocks[i+group-1].background == "" &&
				blocks[i+group].sameShell && isShell(blocks[i+group].lang) {
				group++
			}
			fail(b, r.shell(ctx, blocks[i:i+group]))
			i += group - 1
		default:
			fail(b, fmt.Errorf("%q blocks can't be run; say what it is with a test comment (see internal/readme)", b.lang))
		}
	}
	for _, p := range slices.Backward(r.behind) {
		select {
		case <-p.done:
			out, _ := p.out.read()
			failed = append(failed, fmt.Errorf("%s: a background block ended by itself: %v\n%s", r.document, p.cmd.ProcessState, tail(out)))
		default:
			if err := p.stop(); err != nil {
				failed = append(failed, fmt.Errorf("%s: background block: %w", r.document, err))
			}
		}
	}
	return errors.Join(failed...)
}

// shell runs blocks that share one shell. Each stands in the script at the line that it
// has in the document, so bash's messages name the right line.
func (r *runner) shell(ctx context.Context, group []block) error {
	var script strings.Builder
	script.WriteString("set -euo pipefail")
	line := 1
	for _, b := range group {
		for ; line < b.line; line++ {
			script.WriteByte('\n')
		}
		script.WriteString(b.text)
		line += strings.Count(b.text, "\n")
	}
	// Bash names the script as it was called: like the document, found beside the tree.
	name := filepath.Join(r.tmp, "scripts", r.document)
	if err := writeFile(name, script.String()); err != nil {
		return err
	}
	last := group[len(group)-1]
	var expect []string
	for _, b := range group {
		expect = append(expect, b.expect...)
	}
	return r.await(ctx, last.background, expect, "bash", name)
}

// goBlock builds and runs one Go program in a module of its own.
func (r *runner) goBlock(ctx context.Context, b block) error {
	program, err := goProgram(r.document, b)
	if err != nil {
		return err
	}
	dir := filepath.Join(r.tmp, fmt.Sprintf("line%d", b.line))
	if err := writeFile(filepath.Join(dir, "main.go"), program); err != nil {
		return err
	}
	if err := writeModule(dir, r.tree); err != nil {
		return err
	}
	build, cancel := context.WithTimeout(ctx, r.o.Limit)
	defer cancel()
	p, err := start(dir, append(r.env, "GOWORK=off"), "go", "build", "-mod=mod", "-o", "program", ".")
	if err != nil {
		return err
	}
	if err := p.wait(build); err != nil {
		out, _ := p.out.read()
		return fmt.Errorf("does not build: %w\n%s", err, tail(out))
	}
	return r.await(ctx, b.background, b.expect, filepath.Join(dir, "program"))
}

// await runs a command in the tree: to its end, or until it prints the text that
// a background block waits for.
func (r *runner) await(ctx context.Context, background string, expect []string, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, r.o.Limit)
	defer cancel()
	p, err := start(r.tree, r.env, name, args...)
	if err != nil {
		return err
	}
	if background == "" {
		err = p.wait(ctx)
	} else if err = p.until(ctx, background); err == nil {
		r.behind = append(r.behind, p)
	} else {
		_ = p.stop() // its failure is told already
	}
	r.printed, _ = p.out.read()
	if err == nil {
		err = inOrder(r.printed, expect)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(r.printed))
	}
	return nil
}

// covered checks that each command of the block stands in the file that runs it.
func (r *runner) covered(b block) error {
	text, err := os.ReadFile(filepath.Join(r.tree, b.coveredBy))
	if err != nil {
		return err
	}
	for line := range strings.Lines(b.text) {
		command, _, _ := strings.Cut(line, " #")
		if command = strings.TrimSpace(command); command != "" && !strings.HasPrefix(command, "#") &&
			!strings.Contains(string(text), command) {
			return fmt.Errorf("%s does not run %q", b.coveredBy, command)
		}
	}
	return nil
}

// write stores the block as a file of the tree.
func (r *runner) write(b block) error {
	if !filepath.IsLocal(b.file) {
		return fmt.Errorf("file %q: want a path inside the tree", b.file)
	}
	return writeFile(filepath.Join(r.tree, b.file), b.text)
}

// goProgram returns the text of the program that a Go block stands for.
func goProgram(document string, b block) (string, error) {
	line := fmt.Sprintf("//line %s:%d\n", document, b.line)
	if f, err := parser.ParseFile(token.NewFileSet(), "", b.text, parser.PackageClauseOnly); err == nil {
		if f.Name.Name != "main" {
			return "", fmt.Errorf("package %s can't be run; want package main, or statements", f.Name.Name)
		}
		return line + b.text, nil
	}
	program := "package main\n" + b.with + "\nfunc main() {\n" + line + b.text
	f, err := parser.ParseFile(token.NewFileSet(), "", program+"}\n", parser.SkipObjectResolution)
	if err != nil {
		return "", err
	}
	// A fragment shows how a thing is made and not what is done with it.
	for _, name := range defined(f.Decls[len(f.Decls)-1].(*ast.FuncDecl)) {
		program += "_ = " + name + "\n"
	}
	return program + "}\n", nil
}

// defined returns the names that a function's outermost statements define.
func defined(f *ast.FuncDecl) (names []string) {
	add := func(name string) {
		if name != "_" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, stmt := range f.Body.List {
		switch s := stmt.(type) {
		case *ast.AssignStmt:
			for _, left := range s.Lhs {
				if id, ok := left.(*ast.Ident); ok && s.Tok == token.DEFINE {
					add(id.Name)
				}
			}
		case *ast.DeclStmt:
			for _, spec := range s.Decl.(*ast.GenDecl).Specs {
				if v, ok := spec.(*ast.ValueSpec); ok && s.Decl.(*ast.GenDecl).Tok == token.VAR {
					for _, id := range v.Names {
						add(id.Name)
					}
				}
			}
		}
	}
	return names
}

// writeModule makes dir a module that imports the one at tree, with the versions and
// checksums that tree has, so that nothing need be looked up.
func writeModule(dir, tree string) error {
	text, err := os.ReadFile(filepath.Join(tree, "go.mod"))
	if err != nil {
		return err
	}
	line, rest, _ := strings.Cut(string(text[strings.Index(string(text), "module "):]), "\n")
	module := strings.TrimSpace(strings.TrimPrefix(line, "module "))
	mod := "module readme.example\n" + rest +
		fmt.Sprintf("\nrequire %s v0.0.0\nreplace %s => %s\n", module, module, tree)
	if err := writeFile(filepath.Join(dir, "go.mod"), mod); err != nil {
		return err
	}
	sum, err := os.ReadFile(filepath.Join(tree, "go.sum"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeFile(filepath.Join(dir, "go.sum"), string(sum))
}

// copyTree copies what a checkout has. Built things stay behind.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && (name == ".git" || name == "bin" || name == "node_modules"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another test's temporary file
		}
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, info.Mode().Perm())
	})
}

// inOrder checks that the texts stand in out, one after the other. … in a text stands
// for anything.
func inOrder(out string, texts []string) error {
	for _, text := range texts {
		for part := range strings.SplitSeq(text, "…") {
			part = strings.TrimSpace(part)
			_, after, ok := strings.Cut(out, part)
			if !ok {
				return fmt.Errorf("did not print %q (in this order)", text)
			}
			out = after
		}
	}
	return nil
}

func outputLines(text string) (lines []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

func isShell(lang string) bool { return lang == "sh" || lang == "bash" || lang == "shell" }

func firstLine(text string) string {
	line, _, more := strings.Cut(strings.TrimSpace(text), "\n")
	if more {
		line += " …"
	}
	return line
}

// tail returns the end of a long output, where the reason usually stands.
func tail(out string) string {
	const enough = 4000
	if len(out) > enough {
		out = "…" + out[len(out)-enough:]
	}
	return strings.TrimRight(out, "\n")
}

func writeFile(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o644)
}
