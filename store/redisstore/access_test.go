package redisstore

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/storetest"
)

// The user of docs/operations.md can do all that the contract asks for, and all that Replicas needs.
func TestUser(t *testing.T) {
	srv := testenv.Redis(t)
	srv.CLI(t, documentedUser(t)...)
	url := strings.Replace(srv.URL(), "redis://", "redis://freshet:secret@", 1)
	f := newForeigner(t, srv.Addr(), "")
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		f.t = t
		f.FlushAll()
		return storetest.Fixture{
			New: func() store.Store {
				s := open(t, url, Options{Budget: 5 * time.Second})
				if l := s.one.gate.live.Load(); !l.tracks || l.server == "" {
					t.Errorf("tracks %v, server %q; want tracking and a history", l.tracks, l.server)
				}
				return s
			},
			Foreign: f,
		}
	})
	if log := srv.CLI(t, "ACL", "LOG"); strings.Contains(log, "reason") {
		t.Errorf("the server refused:\n%s", log)
	}
}

// documentedUser returns the arguments of the ACL SETUSER in docs/operations.md.
func documentedUser(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^ACL SETUSER (?:.*\\\n)*.*$`).Find(text)
	if line == nil {
		t.Fatal("docs/operations.md has no line that begins with ACL SETUSER")
	}
	return strings.Fields(strings.ReplaceAll(string(line), "\\\n", " "))
}

// A server that lacks a command is away, and says which one it lacks.
func TestMissingCommand(t *testing.T) {
	for _, name := range needs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := testenv.Redis(t, testenv.Args("--rename-command", name, "", "--rename-command", "SCRIPT", ""))
			s, err := Open(srv.URL(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			eventually(t, "the reason is told", func() bool {
				_, err := s.Read(t.Context(), []string{"k"}, false)
				return err != nil && strings.Contains(err.Error(), "the server has no "+name+"; freshet needs Redis 6.2 or later")
			})
		})
	}
}
