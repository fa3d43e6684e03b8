package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
)

func TestRates(t *testing.T) {
	f := func(s, name string, want limit.Spec) {
		t.Helper()
		l := limits{by: identity{kind: "ip"}}
		if err := l.rates.Set(s); err != nil {
			t.Errorf("%s: %v", s, err)
			return
		}
		r := l.rates[0]
		want.Debt = -1
		p, err := r.policy(l.name(r))
		if err != nil || p.Name() != name || p.Spec() != want {
			t.Errorf("%s: %s %+v, %v; want %s %+v", s, p.Name(), p.Spec(), err, name, want)
		}
		if again, err := parseRate(r.String()); err != nil || again != r {
			t.Errorf("%s is written %s, which is %+v, %v", s, r, again, err)
		}
	}
	f("100/s", "ip-s", limit.Spec{Limit: 100, Period: time.Second})
	f("1/m", "ip-m", limit.Spec{Limit: 1, Period: time.Minute})
	f("1/h", "ip-h", limit.Spec{Limit: 1, Period: time.Hour})
	f("1/d", "ip-d", limit.Spec{Limit: 1, Period: 24 * time.Hour})
	f("1000/15m", "ip-15m", limit.Spec{Limit: 1000, Period: 15 * time.Minute})
	f("1/"+strings.Repeat("0", 80)+"15m", "ip-15m", limit.Spec{Limit: 1, Period: 15 * time.Minute})
	f("1/366d", "ip-366d", limit.Spec{Limit: 1, Period: 366 * 24 * time.Hour})
	f("100/s,burst=20", "ip-s", limit.Spec{Limit: 100, Period: time.Second, Burst: 20})
	f("60/m,strict", "ip-m", limit.Spec{Kind: limit.Strict, Limit: 60, Period: time.Minute})
	f("5/d,by=header:x-api-key", "x-api-key-d", limit.Spec{Limit: 5, Period: 24 * time.Hour})
	f("5/d,by=all,burst=1,outage=deny", "all-d", limit.Spec{Limit: 5, Period: 24 * time.Hour, Burst: 1, OnOutage: limit.OutageDeny})
	f("5/d,outage=local", "ip-d", limit.Spec{Limit: 5, Period: 24 * time.Hour, OnOutage: limit.OutageLocal})
	f("5/d,outage=allow", "ip-d", limit.Spec{Limit: 5, Period: 24 * time.Hour})

	bad := func(s, want string) {
		t.Helper()
		if r, err := parseRate(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %q", s, r, err, want)
		}
	}
	bad("", "want a number and a time, such as 100/s")
	bad("100", "want a number and a time, such as 100/s")
	bad("100 per s", "want a number and a time, such as 100/s")
	for _, n := range []string{"", "0", "-1", "+1", "1e3", " 1", "0x10", "99999999999999999999", "1_000"} {
		bad(n+"/s", fmt.Sprintf("the number is %q; want 1 or more", n))
	}
	for _, p := range []string{"", "w", "ms", "S", "1", "min"} {
		bad("1/"+p, fmt.Sprintf("the time is %q; want s, m, h or d", p))
	}
	for _, p := range []string{"0s", "-1s", "367d", "9223372036854775807d", "1.5h"} {
		bad("1/"+p, fmt.Sprintf("the time is %q; want s, m, h or d, or a number of them up to 366d", p))
	}
	bad("1/s,burst", `the burst is ""; want 1 or more`)
	bad("1/s,burst=0", `the burst is "0"; want 1 or more`)
	bad("1/s,brust=1", `"brust=1" is no option; want burst=20, strict, by=ip or outage=deny`)
	bad("1/s,,strict", `"" is no option`)
	bad("1/s,strict=no", `"strict=no"; want strict alone`)
	bad("1/s,strict,burst=2", "Burst is given; strict has none")
	bad("1/s,outage=", `outage is ""; want allow, deny or local`)
	bad("1/s,by=", `by ""; want ip, header:X-Api-Key or all`)
	bad("1/s,by=ip:4", `by "ip:4"; want ip, header:X-Api-Key or all`)
	bad("1/s,by=header:", `by "header:"; want the name of a field`)
	bad("1/s,by=header:a b", `by "header:a b"; want the name of a field`)
	bad("1/s,by=header:"+strings.Repeat("a", 41), "want the name of a field")
	bad("1000001/s", "less than a microsecond a unit")
	bad("1/d,burst=4000", "want at most 3660")
}

func FuzzRate(f *testing.F) {
	for _, s := range []string{"100/s", "1000/15m,burst=50", "60/m,strict", "5/d,by=header:X-Api-Key,outage=local", "1/s,by=all", "//,,==", "1/366d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l := limits{by: identity{kind: "ip"}}
		if l.rates.Set(s) != nil {
			return
		}
		r := l.rates[0]
		if again, err := parseRate(r.String()); err != nil || again != r {
			t.Errorf("%q is written %q, which is %+v, %v", s, r, again, err)
		}
		if _, err := r.policy(l.name(r)); err != nil {
			t.Errorf("%q makes no policy: %v", s, err)
		}
		if err := l.check(); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}

// call sends a request on a connection of its own, with fields "Name: value".
func (p *program) call(path string, fields ...string) (*http.Response, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), "GET", p.url+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		req.Header.Add(name, value)
	}
	req.Close = true
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp, string(b)
}

// What is over a limit is answered before the cache and the API are asked, hits count too, and clients are told apart.
func TestLimits(t *testing.T) {
	var calls atomic.Int64
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("RateLimit", `"api";r=7`) // of the API's own, for whoever asked
		w.Header().Set("X-RateLimit-Remaining", "7")
		fmt.Fprint(w, "hello")
	}))
	defer api.Close()
	p := start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--ttl", "1h", "--log", "text",
		"--limit", "3/h", "--limit", "2/d,by=header:X-Api-Key", "--limit", "100/h,by=all,strict", "--trusted-proxy", "127.0.0.1", "--trusted-header", "Forwarded")
	seconds := regexp.MustCompile(`;t=\d+`) // a busy machine may lose some
	f := func(status int, ratelimit, cacheStatus string, fields ...string) string {
		t.Helper()
		resp, body := p.call("/a", fields...)
		if got := seconds.ReplaceAllString(strings.Join(resp.Header["Ratelimit"], " + "), ";t"); resp.StatusCode != status || got != ratelimit || !strings.HasPrefix(resp.Header.Get("Cache-Status"), cacheStatus) ||
			(cacheStatus == "") != (resp.Header.Get("Cache-Status") == "") {
			t.Errorf("%q: %d %s, RateLimit %s, Cache-Status %s; want %d, %s, %s", fields, resp.StatusCode, body, got, resp.Header.Get("Cache-Status"), status, ratelimit, cacheStatus)
		}
		if got, want := resp.Header.Get("X-RateLimit-Remaining"), strings.Contains(ratelimit, `"api"`); (got == "7") != want {
			t.Errorf("%q: X-RateLimit-Remaining %q, with a RateLimit of %s", fields, got, ratelimit)
		}
		return body
	}
	ada, bob := "Forwarded: for=6.6.6.6, for=192.0.2.1", "Forwarded: for=192.0.2.2"
	f(200, `"ip-h";r=2;t, "x-api-key-d";r=1;t, "all-h";r=99;t + "api";r=7`, "freshet; fwd=uri-miss; stored", ada)
	f(200, `"ip-h";r=1;t, "x-api-key-d";r=0;t, "all-h";r=98;t`, "freshet; hit", ada)
	f(429, `"ip-h";r=1;t, "x-api-key-d";r=0;t, "all-h";r=98;t`, "", ada)
	f(200, `"ip-h";r=0;t, "x-api-key-d";r=1;t, "all-h";r=97;t + "api";r=7`, "freshet; fwd=bypass", ada, "X-Api-Key: secret")
	body := f(429, `"ip-h";r=0;t, "x-api-key-d";r=1, "all-h";r=97`, "", ada, "X-Api-Key: secret")
	f(200, `"ip-h";r=2;t, "x-api-key-d";r=0;t, "all-h";r=96;t + "api";r=7`, "freshet; fwd=bypass", bob, "X-Api-Key: secret")
	var problem struct {
		Violated []string `json:"violated-policies"`
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil || len(problem.Violated) != 1 || problem.Violated[0] != "ip-h" {
		t.Errorf("body %s, %v; want ip-h violated", body, err)
	}
	if n := calls.Load(); n != 3 {
		t.Errorf("the API was asked %d times; want 3", n)
	}
	p.stop()
	for _, want := range []string{"limits   3/h by ip, 2/d by header:X-Api-Key, 100/h,strict by all\n", "6 requests", "· 2 over a limit"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("stdout:\n%s\nwant %q in it", p.stdout, want)
		}
	}
	for _, want := range []string{"429  limit", "over the limit x-api-key-d\n", "over the limit ip-h\n"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("stderr:\n%s\nwant %q in it", p.stderr, want)
		}
	}
	if strings.Contains(p.stdout.String()+p.stderr.String(), "secret") {
		t.Errorf("a secret is told:\n%s%s", p.stdout, p.stderr)
	}

	p = start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--log", "json", "--limit", "1/h")
	p.call("/a", ada)
	if resp, _ := p.call("/b", bob); resp.StatusCode != 429 { // without --trusted-proxy nobody's word is believed
		t.Errorf("the second client of one address: %d; want 429", resp.StatusCode)
	}
	p.stop()
	for _, want := range []string{`"limits":"1/h by ip"`, `"status":429`, `"cache":{"status":"limit","reason":"over-limit"},"limits":["ip-h"]`, `"over_limit":1`} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("stderr:\n%s\nwant %q in it", p.stderr, want)
		}
	}
}

// Gateways with one Redis count together.
func TestLimitsShared(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer api.Close()
	store := testenv.Redis(t).URL() + "?budget=5s&name=gw&replicas=0"
	var ps []*program
	for range 2 {
		ps = append(ps, start(t, "proxy", api.URL, "--listen", "127.0.0.1:0", "--store", store, "--prefix", "app:", "--limit", "5/d"))
	}
	time.Sleep(time.Second) // who isn't connected yet counts by itself
	var got []int
	for i := range 8 {
		resp, _ := ps[i%2].call("/a")
		got = append(got, resp.StatusCode)
	}
	if want := []int{200, 200, 200, 200, 200, 429, 429, 429}; !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	for _, p := range ps {
		p.stop()
	}
	for url, want := range map[string]string{
		"redis://h/1?budget=5s":                           "redis://h/1",
		"redis+sentinel://a,b?replicas=1&master=m&name=x": "redis+sentinel://a,b?master=m&name=x",
		"redis+cluster://a,b?partitions=2":                "redis+cluster://a,b",
		"rediss://h":                                      "rediss://h",
	} {
		if got := limitURL(url); got != want {
			t.Errorf("%s is %s; want %s", url, got, want)
		}
	}
}

// The demo's last line to try shows a refusal.
func TestDemoLimit(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	p := start(t, "demo", "--listen", "127.0.0.1:0")
	for i := range 60 {
		if resp, body := p.call("/users/1"); resp.StatusCode != 200 {
			t.Fatalf("request %d: %d %s", i, resp.StatusCode, body)
		}
	}
	for range 70 { // one comes back each second
		resp, _ := p.call("/users/1")
		if resp.StatusCode == 429 {
			if resp.Header.Get("Retry-After") != "1" || resp.Header.Get("RateLimit") != `"ip-m";r=0;t=1` || resp.Header.Get("RateLimit-Policy") != `"ip-m";q=60;w=60` {
				t.Errorf("refused with %v", resp.Header)
			}
			return
		}
	}
	t.Error("130 requests, and none was refused")
}
