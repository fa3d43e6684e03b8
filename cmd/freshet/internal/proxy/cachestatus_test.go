package proxy

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/freshetdev/freshet/observe"
)

func TestCacheStatus(t *testing.T) {
	f := func(want string, x Exchange) {
		t.Helper()
		h := http.Header{}
		setCacheStatus(h, &x)
		if got := h.Get("Cache-Status"); got != want {
			t.Errorf("%+v: %q; want %q", x, got, want)
		}
		if err := checkCacheStatus(h.Get("Cache-Status")); err != nil {
			t.Errorf("%q: %v", h.Get("Cache-Status"), err)
		}
	}
	s := time.Second
	f("freshet; hit; ttl=28", Exchange{Outcome: Hit, TTL: 28 * s})
	f("freshet; hit; ttl=-12; detail=stale-while-revalidate", Exchange{Outcome: Stale, TTL: -12 * s, Reason: ReasonWhileRevalidate})
	f("freshet; hit; ttl=-12; detail=stale-if-error", Exchange{Outcome: Stale, TTL: -12 * s, Reason: ReasonIfError})
	f("freshet; fwd=stale; fwd-status=503; ttl=-12; detail=stale-if-error", Exchange{Outcome: Stale, TTL: -12 * s, Reason: ReasonIfError, Forwarded: true, FwdStatus: 503})
	f("freshet; fwd=stale; ttl=-12; detail=stale-if-error", Exchange{Outcome: Stale, TTL: -12 * s, Reason: ReasonIfError, Forwarded: true})
	f("freshet; fwd=uri-miss; stored; ttl=30", Exchange{Outcome: Miss, Stored: true, TTL: 30 * s, Reason: observe.ReasonAbsent})
	f("freshet; fwd=uri-miss; stored; ttl=30; collapsed", Exchange{Outcome: Miss, Stored: true, Joined: true, TTL: 30 * s, Reason: observe.ReasonAbsent})
	f("freshet; fwd=uri-miss; stored; ttl=30; detail=dropped", Exchange{Outcome: Miss, Stored: true, TTL: 30 * s, Reason: observe.ReasonDropped})
	f("freshet; fwd=stale; stored; ttl=30", Exchange{Outcome: Miss, Stored: true, TTL: 30 * s, Reason: observe.ReasonExpired})
	f("freshet; fwd=miss; detail=store-error", Exchange{Outcome: Miss, Reason: observe.ReasonStoreError})
	f("freshet; fwd=uri-miss; detail=set-cookie", Exchange{Outcome: Miss, Reason: ReasonSetCookie})
	f("freshet; fwd=bypass; detail=authorization", Exchange{Outcome: Pass, Reason: ReasonAuthorization})
	f("freshet; fwd=method", Exchange{Outcome: Pass, Reason: ReasonMethod})
	f("freshet; fwd=uri-miss; detail=origin-timeout", Exchange{Outcome: Error, Reason: ReasonTimeout})
	for r := range explanations {
		for o := Miss; o <= Error; o++ {
			h := http.Header{}
			setCacheStatus(h, &Exchange{Outcome: o, Reason: r})
			if err := checkCacheStatus(h.Get("Cache-Status")); err != nil {
				t.Errorf("%q: %v", h.Get("Cache-Status"), err)
			}
		}
	}

	x := &Exchange{Outcome: Hit, TTL: 28 * s}
	if canonical, err := httpsfv.Marshal(x.cacheStatusItem()); err != nil || strings.ReplaceAll(canonical, ";", "; ") != x.cacheStatus() {
		t.Errorf("the short way writes %q, the long one %q, %v", x.cacheStatus(), canonical, err)
	}
}

// checkCacheStatus reads a field by RFC 9211's grammar, independently of the library that
// wrote it.
func checkCacheStatus(field string) error {
	member := regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*( *; *[a-z][a-z0-9-]*(=(-?[0-9]{1,15}|[A-Za-z][A-Za-z0-9._-]*))?)*$`)
	fwd := regexp.MustCompile(`^(bypass|method|uri-miss|vary-miss|miss|request|stale|partial)$`)
	for m := range strings.SplitSeq(field, ",") {
		if m = strings.TrimSpace(m); !member.MatchString(m) {
			return fmt.Errorf("member %q is malformed", m)
		}
		params := map[string]string{}
		for _, p := range strings.Split(m, ";")[1:] {
			name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
			if _, twice := params[name]; twice {
				return fmt.Errorf("%s is there twice", name)
			}
			params[name] = value
		}
		_, isHit := params["hit"]
		forward, isFwd := params["fwd"]
		switch {
		case isHit == isFwd:
			return fmt.Errorf("want either hit or fwd")
		case isFwd && !fwd.MatchString(forward):
			return fmt.Errorf("fwd=%s is not in the registry", forward)
		}
		for name := range params {
			switch name {
			case "hit", "fwd", "fwd-status", "ttl", "stored", "collapsed", "detail":
			default:
				return fmt.Errorf("parameter %s should not be there", name)
			}
		}
	}
	return nil
}

// Every reason has words, and is a word that headers and logs can carry as it is.
func TestReasonsAreClosed(t *testing.T) {
	code := regexp.MustCompile(`^[a-z][a-z-]*$`)
	for r := range explanations {
		if !code.MatchString(string(r)) {
			t.Errorf("reason %q is no token", r)
		}
		if words, _ := Explain(r); words == "" {
			t.Errorf("reason %q has no words", r)
		}
	}
}
