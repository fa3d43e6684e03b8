package cli

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
)

func TestRefreshLog(t *testing.T) {
	var out bytes.Buffer
	l := &refreshLog{logs: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))}
	now := time.Now()
	f := func(after time.Duration, r proxy.Refresh, want string) {
		t.Helper()
		out.Reset()
		now = now.Add(after)
		l.tell(r, now)
		if got := strings.TrimSpace(out.String()); got != want {
			t.Errorf("after %+v: %q; want %q", r, got, want)
		}
	}
	down := func(port int) proxy.Refresh {
		return proxy.Refresh{Failing: true, Err: &proxy.OriginError{Reason: proxy.ReasonUnreachable, Err: fmt.Errorf("dial from :%d", port)}}
	}
	status := func(n int) proxy.Refresh {
		return proxy.Refresh{Failing: true, Err: &proxy.OriginError{Reason: proxy.ReasonOriginStatus, Status: n}}
	}
	const warn = `level=WARN msg="refreshes fail: old answers are served, at most for --grace" `
	f(0, proxy.Refresh{}, "")
	f(0, down(1), warn+`error="upstream is unreachable: dial from :1" failed=1`)
	f(time.Second, down(2), "") // the same cause
	f(time.Second, status(500), warn+`error="upstream failed: 500" failed=3`)
	f(time.Second, status(503), warn+`error="upstream failed: 503" failed=4`)
	f(time.Second, status(503), "")
	f(time.Second, status(500), "") // another URL may fail in another way
	f(time.Minute, status(503), warn+`error="upstream failed: 503" failed=7`)
	f(time.Second, proxy.Refresh{Failing: true}, "") // another answer
	f(time.Second, proxy.Refresh{}, `level=INFO msg="refreshes work again" failed=7`)
	f(time.Second, proxy.Refresh{}, "")
	f(time.Second, proxy.Refresh{Err: errors.New("x"), Failing: true}, warn+`error=x failed=1`)
}

// With --grace the answers look well while the API is down: log and summary say that it is.
func TestGraceTellsOfFailures(t *testing.T) {
	var broken atomic.Bool
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			time.Sleep(50 * time.Millisecond) // the old answer is out by then
			w.WriteHeader(500)
		}
		fmt.Fprint(w, "hello")
	}))
	defer api.Close()
	p := start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--ttl", "100ms", "--grace", "5m", "--log", "json")
	p.curl("GET", "/a", "", "hello", "freshet; fwd=uri-miss; stored; ttl=0")
	broken.Store(true)
	time.Sleep(150 * time.Millisecond)
	p.curl("GET", "/a", "", "hello", "freshet; hit; ttl=.*; detail=stale-while-revalidate")
	p.says(regexp.MustCompile(`"level":"WARN","msg":"refreshes fail: [^"]*","error":"upstream failed: 500"`))
	for range 3 {
		p.curl("GET", "/a", "", "hello", "freshet; hit; ttl=.*; detail=stale-if-error")
	}
	broken.Store(false)
	time.Sleep(time.Second) // for as long no refresh is tried again
	p.curl("GET", "/a", "", "hello", "freshet; hit; ttl=.*")
	p.says(regexp.MustCompile(`"level":"INFO","msg":"refreshes work again"`))
	p.stop()
	if log := p.stderr.String(); strings.Count(log, "refreshes fail:") != 1 || !regexp.MustCompile(`"refreshes_failed":[1-9]`).MatchString(log) {
		t.Errorf("stderr:\n%s\nwant one warning, and a failure in the summary", log)
	}
}
