package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// An API that answers nobody: 20 requests reach it, with which --shed begins, as many wait for a while, and the rest is shed.
func TestShed(t *testing.T) {
	var inside, most atomic.Int64
	release := make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := inside.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-release
		fmt.Fprint(w, "hello")
	}))
	defer api.Close()
	p := start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--log", "text", "--shed")
	var wg sync.WaitGroup
	var answered, shed atomic.Int64
	for i := range 60 {
		wg.Go(func() {
			resp, err := http.Get(fmt.Sprintf("%s/%d", p.url, i))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			switch resp.StatusCode {
			case 200:
				answered.Add(1)
			case 503:
				if shed.Add(1) == 40 {
					close(release)
				}
			default:
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	wg.Wait()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	p.stop()
	if answered.Load() != 20 || shed.Load() != 40 || most.Load() != 20 {
		t.Errorf("%d answered, %d shed, %d in the API; want 20, 40, 20", answered.Load(), shed.Load(), most.Load())
	}
	if want := "40 errors · 40 shed (limit "; !strings.Contains(p.stdout.String(), want) {
		t.Errorf("stdout:\n%s\nwant %q in it", p.stdout, want)
	}
	if got := strings.Count(p.stderr.String(), "the upstream has enough to do"); got != 1 {
		t.Errorf("stderr:\n%s\nwant the warning once", p.stderr)
	}
}
