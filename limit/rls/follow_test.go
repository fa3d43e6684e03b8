package rls_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/memlimit"
	"github.com/freshetdev/freshet/limit/rls"
)

// TestFollow: what changes in a file is set, mistakes are told once and change nothing.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "limits.yaml")
		write := func(requests string) {
			t.Helper()
			text := "domain: d\ndescriptors:\n- key: k\n  rate_limit: { unit: day, requests_per_unit: " + requests + ", algorithm: strict }\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s, err := rls.NewServer(l, &rls.Config{}, rls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		var heard []string // guarded by mu
		ended := make(chan error)
		write("2")
		go func() {
			ended <- s.Follow(ctx, time.Second, func(err error) {
				if err != nil {
					err = fmt.Errorf("%s", strings.ReplaceAll(err.Error(), file, "FILE"))
				}
				mu.Lock()
				defer mu.Unlock()
				heard = append(heard, fmt.Sprint(err))
			}, file)
		}()
		ask := func(want string) {
			t.Helper()
			time.Sleep(1500 * time.Millisecond)
			synctest.Wait()
			resp, err := s.ShouldRateLimit(ctx, request("d", descriptor("k", hits(0))))
			if err != nil {
				t.Fatal(err)
			}
			st := resp.GetStatuses()[0]
			mu.Lock()
			defer mu.Unlock()
			if got := fmt.Sprintf("%d/%d %q", st.GetLimitRemaining(), st.GetCurrentLimit().GetRequestsPerUnit(), heard); got != want {
				t.Errorf("got %s; want %s", got, want)
			}
			heard = nil
		}
		ask(`2/2 ["<nil>"]`)
		if _, err := s.ShouldRateLimit(ctx, request("d", descriptor("k"))); err != nil {
			t.Fatal(err)
		}
		ask(`1/2 []`)
		write("5")
		ask(`4/5 ["<nil>"]`) // what was used stays used
		write("five")
		ask(`4/5 ["FILE:4:47: descriptors[0].rate_limit.requests_per_unit is the text \"five\"; want a decimal number, 0 to 4294967295"]`)
		ask(`4/5 []`)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		ask(`4/5 ["rls: stat FILE: no such file or directory"]`)
		write("5")
		ask(`4/5 []`) // nothing changed
		write("five")
		ask(`4/5 ["FILE:4:47: descriptors[0].rate_limit.requests_per_unit is the text \"five\"; want a decimal number, 0 to 4294967295"]`)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Follow(t.Context(), 0, nil, file); err == nil {
			t.Error("no error for every 0")
		}
	})
}
