package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// crowd sends n requests at once and returns their replies.
func (r *rig) crowd(n int, path string, fields func(i int) []string) []reply {
	r.t.Helper()
	replies := make([]reply, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var f []string
			if fields != nil {
				f = fields(i)
			}
			replies[i], errs[i] = r.try("GET", path, nil, f...)
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			r.t.Fatalf("request %d: %v", i, err)
		}
	}
	return replies
}

func TestOneLoadForAll(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(300 * time.Millisecond)
		fmt.Fprint(w, "x")
	})
	joined := 0
	for _, rep := range r.crowd(50, "/a", nil) {
		if rep.status != 200 || rep.body != "x" {
			t.Errorf("%+v", rep)
		}
		if rep.cacheStatus() == "freshet; fwd=uri-miss; stored; ttl=30; collapsed" {
			joined++
		}
	}
	r.asked(1)
	if joined != 49 {
		t.Errorf("%d replies say collapsed; want 49", joined)
	}
}

// P6: an answer that may not be stored is never given to another request, however many wait.
func TestPrivateAnswersAreNeverShared(t *testing.T) {
	for _, field := range []string{"Set-Cookie: id=%d", "Cache-Control: private", "Cache-Control: no-store", "Cache-Control: no-cache", "Vary: X-Who", "Status: 404", "Status: 500", "Status: 503"} {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{grace: time.Minute}, func(w http.ResponseWriter, req *http.Request) {
				who := req.Header.Get("X-Who")
				time.Sleep(50 * time.Millisecond)
				name, value, _ := strings.Cut(field, ": ")
				if strings.Contains(value, "%d") {
					value = "id=" + who
				}
				if name == "Status" {
					status := 0
					_, _ = fmt.Sscan(value, &status)
					w.WriteHeader(status)
				} else {
					w.Header().Set(name, value)
				}
				fmt.Fprint(w, "secret of "+who)
			})
			for range 3 {
				for i, rep := range r.crowd(50, "/me", func(i int) []string { return []string{fmt.Sprintf("X-Who: %d", i)} }) {
					if want := fmt.Sprintf("secret of %d", i); rep.body != want {
						t.Errorf("request %d got %q", i, rep.body)
					}
					if c := rep.header.Get("Set-Cookie"); c != "" && c != fmt.Sprintf("id=%d", i) {
						t.Errorf("request %d got the cookie %q", i, c)
					}
				}
			}
		})
	}
}

// A private URL may not make its users wait in a line.
func TestPrivateAnswersDontQueue(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(200 * time.Millisecond)
		w.Header().Set("Cache-Control", "private")
		fmt.Fprint(w, "x")
	})
	begun := time.Now()
	r.crowd(30, "/me", nil)
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("a cold crowd of 30 took %v; want about two times 200ms", took)
	}
	begun = time.Now()
	r.crowd(30, "/me", nil)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the next crowd took %v; want about 200ms", took)
	}
	for i := 30; i < 60; i++ {
		if x := r.exchange(i); x.Outcome != Pass || x.Reason != ReasonPrivate {
			t.Errorf("exchange %d: %+v; want it to pass, since the last answer was private", i, x)
		}
	}
}

func TestLeaderLeaves(t *testing.T) {
	begun, release := make(chan struct{}, 10), make(chan struct{})
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		begun <- struct{}{}
		<-release
		if req.URL.Path == "/private" {
			w.Header().Set("Set-Cookie", "a=b")
		}
		fmt.Fprint(w, "x")
	})
	for _, path := range []string{"/shared", "/private"} {
		leader := &rig{t: t, url: r.url, client: &http.Client{Transport: r.transport, Timeout: 200 * time.Millisecond}}
		left := make(chan error, 1)
		go func() {
			_, err := leader.try("GET", path, nil)
			left <- err
		}()
		<-begun
		second := make(chan reply, 1)
		go func() {
			rep, _ := r.try("GET", path, nil)
			second <- rep
		}()
		if err := <-left; err == nil {
			t.Error("the leader did not leave")
		}
		time.Sleep(50 * time.Millisecond)
		close(release)
		if rep := <-second; rep.status != 200 || rep.body != "x" {
			t.Errorf("%s: who stayed got %+v", path, rep)
		}
		release = make(chan struct{})
		for len(begun) > 0 {
			<-begun
		}
	}
	close(release)
}

// Different forms of one URL at the same time: each client gets one it understands.
func TestEncodingsUnderLoad(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, req *http.Request) {
		time.Sleep(20 * time.Millisecond)
		w.Header().Set("Vary", "Accept-Encoding")
		fmt.Fprint(w, req.Header.Get("Accept-Encoding"))
	})
	for i, rep := range r.crowd(50, "/a", func(i int) []string {
		if i%2 == 0 {
			return nil
		}
		return []string{"Accept-Encoding: gzip, br"}
	}) {
		if want := [...]string{"identity", "gzip"}[i%2]; rep.body != want {
			t.Errorf("request %d got %q; want %q", i, rep.body, want)
		}
	}
	r.asked(2)
}
