package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/freshetdev/freshet/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A screen collects what is printed, and tells when something is there.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) wait(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		text := s.text.String()
		s.mu.Unlock()
		switch m := re.FindStringSubmatch(text); {
		case m != nil:
			return m[len(m)-1]
		case time.Now().After(end):
			t.Fatalf("no %s in\n%s", pattern, text)
		}
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "limits.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const limits = "domain: d\ndescriptors:\n- key: k\n  rate_limit: { unit: year, requests_per_unit: 2, algorithm: strict }\n"

// TestRun is the program's life: it serves, takes a new config, and stops.
func TestRun(t *testing.T) {
	name := file(t, limits)
	redis := testenv.Redis(t)
	ctx, stop := context.WithCancel(t.Context())
	var out screen
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-listen", "127.0.0.1:0", "-store", redis.URL(), "-reload", "10ms", "-timeout", "5s", "-headers", "draft", name}, &out)
	}()
	conn, err := grpc.NewClient(out.wait(t, `msg=serving address=(\S+) domains=1`), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := ratelimitv3.NewRateLimitServiceClient(conn)
	ask := func() *ratelimitv3.RateLimitResponse {
		t.Helper()
		// Until the store is connected it can't decide.
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			resp, err := client.ShouldRateLimit(t.Context(), &ratelimitv3.RateLimitRequest{Domain: "d", Descriptors: []*commonv3.RateLimitDescriptor{
				{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "k", Value: "v"}}},
			}})
			switch {
			case err == nil:
				return resp
			case time.Now().After(end):
				t.Fatal(err)
			}
		}
	}
	for i, want := range []ratelimitv3.RateLimitResponse_Code{ratelimitv3.RateLimitResponse_OK, ratelimitv3.RateLimitResponse_OK, ratelimitv3.RateLimitResponse_OVER_LIMIT} {
		if resp := ask(); resp.GetOverallCode() != want || len(resp.GetResponseHeadersToAdd()) < 2 {
			t.Errorf("%d: %v; want %v, with headers", i, resp, want)
		}
	}
	if err := os.WriteFile(name, []byte("domain: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	out.wait(t, `level=ERROR msg="the config is wrong, the last good one stays"`)
	if err := os.WriteFile(name, []byte(strings.ReplaceAll(limits, ": 2", ": 3")), 0o600); err != nil {
		t.Fatal(err)
	}
	out.wait(t, `(?s)the config is wrong.*msg="config set"`)
	if resp := ask(); resp.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
		t.Errorf("%v; want OK after the limit was raised", resp)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	out.wait(t, "msg=stopped")
}

func TestMistakes(t *testing.T) {
	good := file(t, limits)
	f := func(want string, args ...string) {
		t.Helper()
		var out screen
		err := run(t.Context(), args, &out)
		if said := out.text.String(); err == nil || !strings.Contains(said+err.Error(), want) {
			t.Errorf("%v: error %v, said %s; want %q", args, err, said, want)
		}
	}
	f("CONFIG is missing")
	f("flag provided but not defined: -lissen", "-lissen", ":1")
	f(`-headers is "all"; want none, draft or legacy`, "-headers", "all", good)
	f("-timeout is 0s; want more than zero", "-timeout", "0", good)
	f("-reload is -1s; want zero or more", "-reload", "-1s", good)
	f("-drain is 0s; want more than zero", "-drain", "0", good)
	f("-memory-keys is 0; want 1 or more", "-memory-keys", "0", good)
	f("one of -tls-cert and -tls-key is given", "-tls-cert", good, good)
	f("no such file or directory", good+".no")
	f("limits.yaml:1:1: the file is empty", file(t, ""))
	f("failed to find any PEM data", "-tls-cert", good, "-tls-key", good, good)
	f(`-store is "memory://there"; memory:// has no host`, "-store", "memory://there", good)
	f("redislimit:", "-store", "postgres://x", good)
	f("listen tcp", "-listen", "127.0.0.1:99999", good)
	if err := run(t.Context(), []string{"-help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help: %v", err)
	}
}
