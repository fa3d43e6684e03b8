package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/httplimit"
	"github.com/freshetdev/freshet/limit/memlimit"
	"github.com/freshetdev/freshet/observe"
)

// A quota is of one client at one moment: no field that tells of one is ever served to another, whoever sent it. Who asked gets it.
func TestLimitFieldsAreNotStored(t *testing.T) {
	fields := []string{"RateLimit", "RateLimit-Policy", "RateLimit-Limit", "X-RateLimit-Limit", "X-Ratelimit-Reset", "X-Rate-Limit-Remaining"}
	r := newRig(t, rigOptions{ttl: 30 * time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		for i, name := range fields {
			w.Header().Set(name, fmt.Sprint(i))
		}
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, "x")
	})
	there := func(rep reply) (n int) {
		for _, name := range fields {
			if rep.header.Get(name) != "" {
				n++
			}
		}
		return n
	}
	if n := there(r.get("/a", "x", "freshet; fwd=uri-miss; stored; ttl=30")); n != len(fields) {
		t.Errorf("who asked got %d fields of %d", n, len(fields))
	}
	for range 3 {
		if n := there(r.get("/a", "x", "freshet; hit; ttl=30")); n != 0 {
			t.Errorf("a hit has %d fields of another's quota", n)
		}
	}
	if rep := r.do("GET", "/a", `If-None-Match: "1"`); rep.status != 304 || there(rep) != 0 {
		t.Errorf("%d with %d fields; want 304 without", rep.status, there(rep))
	}
	r.asked(1)
}

// Of many who wait for one load, only the one that leads it is told of the quota.
func TestLimitFieldsAreNotShared(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(300 * time.Millisecond)
		w.Header().Set("RateLimit", `"p";r=1`)
		fmt.Fprint(w, "x")
	})
	told := 0
	for _, rep := range r.crowd(20, "/a", nil) {
		if rep.header.Get("RateLimit") != "" {
			told++
			if strings.Contains(rep.cacheStatus(), "collapsed") {
				t.Error("who joined a load is told of the quota of another")
			}
		}
	}
	r.asked(1)
	if told != 1 {
		t.Errorf("%d are told of the quota; want 1", told)
	}
}

// Every way to answer comes after the limit; the exchange says which one refused.
func TestLimitComesFirst(t *testing.T) {
	r := newRig(t, rigOptions{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") })
	limiter, err := limit.New(memlimit.New(memlimit.Options{}), limit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer limiter.Close()
	key := func(r *http.Request) (string, bool) { return r.Header.Get("Key"), true }
	r.proxy.opts.Limits, err = httplimit.New(limiter, httplimit.Options{
		Limits: []httplimit.Limit{{Policy: limit.MustPolicy("p", limit.Spec{Limit: 2, Period: time.Hour}), By: key}}, Refuse: Refused,
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	f := func(status int, outcome Outcome, reason observe.Reason, method, path string, fields ...string) reply {
		t.Helper()
		rep := r.do(method, path, fields...)
		x := r.exchange(n)
		n++
		if rep.status != status || x.Status != status || x.Outcome != outcome || x.Reason != reason || (outcome == Limit) != (rep.header.Get("Cache-Status") == "") {
			t.Errorf("%s %s %q: %d, Cache-Status %q, %+v; want %d, %v, %q", method, path, fields, rep.status, rep.header.Get("Cache-Status"), x, status, outcome, reason)
		}
		if outcome == Limit && reason != ReasonLimitStore && (len(x.Limits) != 1 || x.Limits[0] != "p" || x.Method != method || x.Path != path || x.Bytes != int64(len(rep.body))) {
			t.Errorf("%s %s: %+v", method, path, x)
		}
		return rep
	}
	f(200, Miss, observe.ReasonAbsent, "GET", "/a", "Key: a")
	f(200, Hit, "", "GET", "/a", "Key: a")
	rep := f(429, Limit, ReasonOverLimit, "GET", "/a", "Key: a") // it is in the cache
	if rep.header.Get("Retry-After") == "" || rep.header.Get("Cache-Control") != "no-store" || rep.header.Get("Age") != "" {
		t.Errorf("refused with %v", rep.header)
	}
	f(429, Limit, ReasonOverLimit, "PUT", "/a", "Key: a") // drops nothing
	f(429, Limit, ReasonOverLimit, "HEAD", "/a", "Key: a")
	f(429, Limit, ReasonOverLimit, "OPTIONS", "/a", "Key: a")
	f(429, Limit, ReasonOverLimit, "GET", "/ws", "Key: a", "Connection: Upgrade", "Upgrade: websocket")
	f(200, Hit, "", "GET", "/a", "Key: b")
	f(400, Limit, ReasonNoIdentity, "GET", "/a")
	r.asked(1)

	limiter.Close()
	f(503, Limit, ReasonLimitStore, "GET", "/a", "Key: b")
}
