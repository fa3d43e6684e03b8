package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var staleStatus = regexp.MustCompile(`^freshet; hit; ttl=(0|-1); detail=stale-while-revalidate$`)

func TestGraceServesStaleWhileItRefreshes(t *testing.T) {
	var n atomic.Int64
	r := newRig(t, rigOptions{ttl: 200 * time.Millisecond, grace: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) > 1 {
			time.Sleep(time.Second)
		}
		fmt.Fprintf(w, "v%d", n.Load())
	})
	r.do("GET", "/a")
	time.Sleep(250 * time.Millisecond)
	begun := time.Now()
	for i, rep := range r.crowd(20, "/a", nil) {
		if rep.body != "v1" || !staleStatus.MatchString(rep.cacheStatus()) {
			t.Errorf("request %d: %q, %q", i, rep.body, rep.cacheStatus())
		}
	}
	if took := time.Since(begun); took > 800*time.Millisecond {
		t.Errorf("stale answers took %v; want them at once", took)
	}
	eventually(t, "refreshed", func() bool { return r.do("GET", "/a").body != "v1" })
	if got := n.Load(); got > 4 { // v2 may be stale by now
		t.Errorf("the origin was asked %d times", got)
	}
}

func TestGraceWhenTheOriginFails(t *testing.T) {
	for _, failure := range []string{"500", "502", "503", "504", "abort", "half"} {
		t.Run(failure, func(t *testing.T) {
			t.Parallel()
			var broken atomic.Bool
			r := newRig(t, rigOptions{ttl: 100 * time.Millisecond, grace: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
				status := 0
				switch {
				case !broken.Load():
					fmt.Fprint(w, "good")
				case failure == "abort":
					panic(http.ErrAbortHandler)
				case failure == "half":
					w.Header().Set("Content-Length", "100")
					fmt.Fprint(w, "bad")
				default:
					_, _ = fmt.Sscan(failure, &status)
					w.WriteHeader(status)
					fmt.Fprint(w, "bad")
				}
			})
			r.do("GET", "/a")
			broken.Store(true)
			time.Sleep(150 * time.Millisecond)
			for range 5 {
				rep := r.do("GET", "/a")
				if rep.status != 200 || rep.body != "good" || !strings.Contains(rep.cacheStatus(), "detail=stale") {
					t.Errorf("%+v; want the stale answer", rep)
				}
				time.Sleep(20 * time.Millisecond)
			}
			if rep := r.do("GET", "/never-seen"); rep.status < 500 || rep.body == "good" {
				t.Errorf("%+v; want an error", rep)
			}
		})
	}
}

// A refresh that failed is told of: nobody waits for it. What is served meanwhile says so, until the origin answers again.
func TestRefreshFails(t *testing.T) {
	var broken atomic.Bool
	told := make(chan Refresh, 100)
	r := newRig(t, rigOptions{ttl: 100 * time.Millisecond, grace: time.Minute, hooks: Hooks{Refreshed: func(f Refresh) { told <- f }}}, func(w http.ResponseWriter, req *http.Request) {
		if broken.Load() && req.URL.Path != "/good" {
			time.Sleep(50 * time.Millisecond) // the old answer is out by then
			w.WriteHeader(503)
		}
	})
	r.do("GET", "/a")
	r.do("GET", "/good")
	broken.Store(true)
	time.Sleep(150 * time.Millisecond)
	if rep := r.do("GET", "/a"); !strings.HasSuffix(rep.cacheStatus(), "detail=stale-while-revalidate") {
		t.Errorf("before a refresh failed: %q", rep.cacheStatus())
	}
	f := <-told
	if oe, ok := errors.AsType[*OriginError](f.Err); !ok || oe.Status != 503 || !f.Failing {
		t.Errorf("told %+v; want a failure by 503", f)
	}
	for range 3 {
		rep := r.do("GET", "/a")
		if cs := rep.cacheStatus(); rep.status != 200 || !strings.HasPrefix(cs, "freshet; hit; ttl=") || !strings.HasSuffix(cs, "detail=stale-if-error") {
			t.Errorf("after a refresh failed: %d, %q", rep.status, cs)
		}
	}
	r.do("GET", "/good")
	eventually(t, "told of a refresh that worked, while another fails", func() bool { f := <-told; return f.Err == nil && f.Failing })
	broken.Store(false)
	eventually(t, "refreshed", func() bool { return r.do("GET", "/a").cacheStatus() == "freshet; hit; ttl=0" })
	eventually(t, "told that refreshes work", func() bool { f := <-told; return f.Err == nil && !f.Failing })
	broken.Store(true)
	time.Sleep(150 * time.Millisecond)
	// It was refreshed since the failure, so that says nothing any more.
	eventually(t, "stale again", func() bool {
		return strings.HasSuffix(r.do("GET", "/a").cacheStatus(), "detail=stale-while-revalidate")
	})
}

// must-revalidate and s-maxage forbid stale answers.
func TestNoGrace(t *testing.T) {
	var broken atomic.Bool
	r := newRig(t, rigOptions{ttl: 100 * time.Millisecond, grace: time.Minute}, func(w http.ResponseWriter, req *http.Request) {
		if broken.Load() {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("Cache-Control", req.URL.Query().Get("cc"))
		fmt.Fprint(w, "good")
	})
	paths := []string{"/a?cc=must-revalidate", "/a?cc=proxy-revalidate", "/a?cc=s-maxage%3D60"}
	for _, p := range paths {
		r.do("GET", p)
	}
	broken.Store(true)
	time.Sleep(150 * time.Millisecond)
	for _, p := range paths {
		if rep := r.do("GET", p); rep.status != 503 {
			t.Errorf("%s: %+v; want 503", p, rep)
		}
	}
}

// An answer that became private or went away is not served stale any longer.
func TestStaleEndsWhenTheOriginSaysSo(t *testing.T) {
	for _, change := range []string{"private", "404"} {
		var changed atomic.Bool
		r := newRig(t, rigOptions{ttl: 100 * time.Millisecond, grace: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
			switch {
			case !changed.Load():
				fmt.Fprint(w, "public")
				return
			case change == "404":
				w.WriteHeader(404)
			default:
				w.Header().Set("Cache-Control", change)
			}
			fmt.Fprint(w, "changed")
		})
		r.do("GET", "/a")
		changed.Store(true)
		time.Sleep(150 * time.Millisecond)
		r.do("GET", "/a") // stale, and starts the refresh that finds out
		eventually(t, "the stale answer is gone", func() bool { return r.do("GET", "/a").body == "changed" })
		for range 5 {
			if rep := r.do("GET", "/a"); rep.body != "changed" {
				t.Errorf("%s: %+v", change, rep)
			}
		}
		// Not only because this gateway remembers: another one must not find it either.
		r.proxy.private.forget("GET " + r.url + "/a")
		if rep := r.do("GET", "/a"); rep.body != "changed" {
			t.Errorf("%s: %+v from the cache", change, rep)
		}
	}
}
