//go:build unix

package readme

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// check runs a document in a small tree. The document is written with ' for `.
func check(t *testing.T, doc string, o Options) error {
	t.Helper()
	o.Root = t.TempDir()
	for name, text := range map[string]string{
		"go.mod":      "module example.org/small\n\ngo 1.26.0\n",
		"small.go":    "package small\n\nfunc Two() int { return 2 }\n",
		"ci.sh":       "make test\n",
		"bin/ignored": "",
		"README.md":   strings.ReplaceAll(doc, "'''", "```"),
	} {
		if err := writeFile(filepath.Join(o.Root, name), text); err != nil {
			t.Fatal(err)
		}
	}
	o.Log = t.Logf
	t.Chdir(o.Root)
	o.Root = "."
	return Check(t.Context(), "README.md", o)
}

func TestGoodDocument(t *testing.T) {
	err := check(t, `# Small

<!-- test: expect "two is 2" -->
'''go
package main

import (
	"fmt"

	"example.org/small"
)

func main() { fmt.Println("two is", small.Two()) }
'''

A fragment, with what it needs around it in a comment that readers don't see:

<!-- test: with
import "example.org/small"
var limit int
-->
'''go
n := small.Two()
var m = n + limit
'''

A file, used by a command, which goes on in the next block:

<!-- test: file conf/small.yaml -->
'''yaml
port: 80
'''

'''sh
test ! -e bin/ignored
port=$(cat conf/small.yaml)
'''

<!-- test: same shell -->
<!-- test: expect "port: 80" -->
'''sh
echo "read $port"
echo "took 31 ms"
'''

<!-- test: output -->
'''text
read port: 80
took … ms
'''

1. A server that runs until the end, in a list:

   <!-- test: background until "ready" -->
   '''sh
   trap 'echo bye > stopped; exit 130' INT
   echo ready > up; echo ready; while :; do sleep 0.05; done
   '''

   '''sh
   grep ready up
   '''

<!-- test: covered by ci.sh -->
'''sh
make test   # all of it
'''
`, Options{})
	if err != nil {
		t.Error(err)
	}
}

func TestMistakesAreFound(t *testing.T) {
	f := func(doc string, want ...string) {
		t.Helper()
		err := check(t, doc, Options{})
		if err == nil {
			t.Errorf("no error; want %q", want)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("got %q; want it to contain %q", err, w)
			}
		}
	}
	f("\n'''sh\ntrue\nnosuchcommand\n'''\n", "README.md:3: exit status 127", "README.md: line 4: nosuchcommand")
	f("'''sh\nfalse | cat\n'''\n", "README.md:2: exit status 1")
	f("'''sh\necho $unset\n'''\n", "unset: unbound variable")
	f("<!-- test: expect \"two\" -->\n'''sh\necho one\n'''\n", `did not print "two"`, "one")
	f("<!-- test: expect \"b\" -->\n<!-- test: expect \"a\" -->\n'''sh\necho a; echo b\n'''\n", `did not print "a" (in this order)`)
	f("'''sh\necho one\n'''\n<!-- test: output -->\n'''\ntwo\n'''\n", `README.md:6: did not print "two"`)
	f("<!-- test: background until \"up\" -->\n'''sh\necho down\n'''\n", `ended before it printed "up"`)
	f("<!-- test: background until \"up\" -->\n'''sh\necho up; exit 3\n'''\n'''sh\nsleep 0.5\n'''\n", "a background block ended by itself")
	f("<!-- test: covered by ci.sh -->\n'''sh\nmake lint\n'''\n", `ci.sh does not run "make lint"`)
	f("<!-- test: same shell -->\n'''sh\ntrue\n'''\n", "same shell: ")
	f("<!-- test: file ../x -->\n'''\nx\n'''\n", "want a path inside the tree")
	f("'''yaml\na: b\n'''\n", `"yaml" blocks can't be run`)
	f("\n'''go\nx := nosuch()\n'''\n", "does not build", "README.md:3", "nosuch")
	f("'''go\npackage small\n'''\n", "package small can't be run")
	f("<!-- test: run twice -->\n'''sh\n'''\n", `line 1: unknown test comment "run twice"`)
	f("<!-- test: same shell -->\nwords\n'''sh\n'''\n", "line 2: text between")
	f("<!-- test: same shell -->\n", "test comment without a block")
	f("'''sh\ntrue\n", "line 1: block has no end")
	f("<!-- test: with\n", "line 1: comment has no end")
}

// Nothing that a block starts may outlive it, whether it ends, fails or hangs.
func TestNothingIsLeftRunning(t *testing.T) {
	f := func(limit time.Duration, doc, want string) {
		t.Helper()
		pids := filepath.Join(t.TempDir(), "pids")
		err := check(t, doc, Options{Limit: limit, Env: []string{"PIDS=" + pids}})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got error %v; want %q", err, want)
		}
		text, err := os.ReadFile(pids)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			if !gone(pid) {
				t.Errorf("process %d still runs", pid)
			}
		}
	}
	f(time.Minute, "'''sh\nsleep 600 & echo $! >> $PIDS\n'''\n", "")
	f(time.Minute, "'''sh\nsleep 600 & echo $! >> $PIDS; exit 1\n'''\n", "exit status 1")
	f(time.Second, "'''sh\necho $$ >> $PIDS; sleep 600 & echo $! >> $PIDS; wait\n'''\n", "stopped after the time limit")
	f(time.Second, "<!-- test: background until \"up\" -->\n'''sh\necho $$ >> $PIDS; sleep 600\n'''\n", `did not print "up" in time`)
	f(time.Minute, "<!-- test: background until \"up\" -->\n'''sh\necho $$ >> $PIDS; echo up; sleep 600\n'''\n", "")
}

// gone reports whether the process has ended. A killed one may take a moment to go, and
// one whose parent died stays as a zombie until init looks.
func gone(pid int) bool {
	for range 100 {
		if syscall.Kill(pid, 0) != nil {
			return true
		}
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err == nil && strings.Contains(string(stat), ") Z ") {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}
