package proxy

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/observe"
)

func TestJudgeRequest(t *testing.T) {
	f := func(method, uri string, want observe.Reason, fields ...string) {
		t.Helper()
		r := httptest.NewRequest(method, uri, nil)
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			r.Header.Add(name, value)
		}
		if got := judgeRequest(r); got != want {
			t.Errorf("%s %.40s %q: %q; want %q", method, uri, fields, got, want)
		}
	}
	f("GET", "/", "")
	f("HEAD", "/", "")
	f("GET", "/a?b=c", "", "Accept: */*", "User-Agent: curl", "Accept-Language: de", "Accept-Encoding: gzip, br")
	f("GET", "/", "", "If-None-Match: \"a\"", "If-Modified-Since: x")
	f("GET", "/", "", "Cache-Control: no-cache", "Pragma: no-cache") // advice that a gateway may ignore
	f("GET", "/", "", "Cache-Control: max-age=0")
	f("GET", "/", "", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil") // overwritten
	f("GET", "/", "", "Sec-Fetch-User: ?1", "Sec-Fetch-Mode: cors")

	for _, m := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "PURGE", "get", "FOO"} {
		f(m, "/", ReasonMethod)
	}

	f("GET", "/", ReasonAuthorization, "Authorization: Bearer x")
	f("GET", "/", ReasonAuthorization, "Authorization: ")
	f("GET", "/", ReasonCookie, "Cookie: a=b")
	f("GET", "/", ReasonAuthorization, "Authorization: Bearer x", "Cookie: a=b", "Range: bytes=0-1")
	f("GET", "/", ReasonCredentials, "X-Api-Key: k")
	f("GET", "/", ReasonCredentials, "Apikey: k")
	f("GET", "/", ReasonCredentials, "Private-Token: k")
	f("GET", "/", ReasonCredentials, "X-Forwarded-User: ann")
	f("GET", "/", ReasonCredentials, "X-Tenant-Id: 7")
	f("GET", "/", ReasonCredentials, "Proxy-Authorization: Basic x")

	f("GET", "/", ReasonRequestNoStore, "Cache-Control: no-store")
	f("GET", "/", ReasonRequestNoStore, "Cache-Control: max-age=5, NO-STORE")
	f("GET", "/", ReasonRange, "Range: bytes=0-1")
	f("GET", "/", ReasonPrecondition, "If-Match: *")
	f("GET", "/", ReasonPrecondition, "If-Unmodified-Since: x")
	f("GET", "/", ReasonUpgrade, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
	f("GET", "/", ReasonEventStream, "Accept: text/event-stream")
	f("GET", "/", ReasonUnkeyed, "X-Original-URL: /admin")
	f("GET", "/", ReasonUnkeyed, "X-HTTP-Method-Override: DELETE")
	f("GET", "/", ReasonEncoding, "Accept-Encoding: identity;q=0, br")
	f("GET", "/"+strings.Repeat("x", longestURL), ReasonLongURL)

	r := httptest.NewRequest("GET", "/", strings.NewReader("fat"))
	if got := judgeRequest(r); got != ReasonRequestBody {
		t.Errorf("GET with a body: %q; want %q", got, ReasonRequestBody)
	}
	r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
	if got := judgeRequest(r); got != ReasonRequestBody {
		t.Errorf("GET with a chunked body: %q; want %q", got, ReasonRequestBody)
	}
}

// now is the time of the answers in these tables; date is one second earlier as a Date field.
var (
	now  = time.Date(2026, 11, 22, 20, 41, 7, 0, time.UTC)
	date = "Date: " + now.Format(http.TimeFormat)
)

func TestJudgeAnswer(t *testing.T) {
	const ttl = 30 * time.Second
	judge := func(fields []string, change func(*answer)) verdict {
		a := answer{
			resp: &http.Response{StatusCode: 200, ProtoMajor: 1, Header: http.Header{}, ContentLength: 2},
			now:  now, ttl: ttl, maxBody: 1000,
		}
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			a.resp.Header.Add(name, value)
		}
		if change != nil {
			change(&a)
		}
		return judgeAnswer(a)
	}
	refused := func(want observe.Reason, fields ...string) {
		t.Helper()
		if v := judge(fields, nil); v.reason != want {
			t.Errorf("%q: %+v; want reason %q", fields, v, want)
		}
	}
	stored := func(want verdict, fields ...string) {
		t.Helper()
		if v := judge(fields, nil); v != want {
			t.Errorf("%q: %+v; want %+v", fields, v, want)
		}
	}
	changed := func(what string, want observe.Reason, change func(*answer), fields ...string) {
		t.Helper()
		if v := judge(fields, change); v.reason != want {
			t.Errorf("%s %q: %+v; want reason %q", what, fields, v, want)
		}
	}
	s := time.Second
	full := verdict{ttl: ttl, grace: true}

	// What may be stored, and for how long.
	stored(full)
	stored(full, date)
	stored(full, "Cache-Control: public")
	stored(full, "Cache-Control: max-age=3600")
	stored(verdict{ttl: 10 * s, grace: true}, "Cache-Control: max-age=10")
	stored(verdict{ttl: 10 * s, grace: true}, "Cache-Control: MAX-AGE = \"10\"")
	stored(verdict{ttl: 10 * s, grace: true}, "Cache-Control: max-age=20", "Cache-Control: max-age=10")
	stored(verdict{ttl: 5 * s}, "Cache-Control: s-maxage=5, max-age=3600")
	stored(verdict{ttl: 20 * s}, "Cache-Control: max-age=0, s-maxage=20")
	stored(verdict{ttl: ttl}, "Cache-Control: must-revalidate")
	stored(verdict{ttl: ttl}, "Cache-Control: proxy-revalidate, max-age=60")
	stored(full, "Cache-Control: max-age=99999999999999999999")
	stored(full, `Cache-Control: x="no-store, private"`) // inside quotes it is no directive
	stored(verdict{ttl: 7 * s, grace: true, age: 3 * s}, "Cache-Control: max-age=10", "Age: 3")
	stored(verdict{ttl: ttl, grace: true, age: 3 * s}, "Age: 3")
	stored(verdict{ttl: 12 * s, grace: true}, date, "Expires: "+now.Add(12*s).Format(http.TimeFormat))
	stored(verdict{ttl: 25 * s, grace: true, age: 5 * s}, "Date: "+now.Add(-5*s).Format(http.TimeFormat), "Cache-Control: max-age=30")
	stored(full, "Vary: Accept-Encoding")
	stored(full, "Vary: accept-encoding, ,Accept-Encoding")
	stored(full, "ETag: \"x\"", "Content-Type: application/json; charset=utf-8")
	stored(full, "Pragma: no-cache", "Cache-Control: max-age=60") // Cache-Control says more

	// What may not.
	refused(ReasonSetCookie, "Set-Cookie: a=b")
	refused(ReasonSetCookie, "Set-Cookie: a=b", "Cache-Control: public, max-age=60")
	refused(ReasonPrivate, "Cache-Control: private")
	refused(ReasonPrivate, "Cache-Control: max-age=60", "Cache-Control: Private")
	refused(ReasonPrivate, "Cache-Control: private=\"X-User\", max-age=60")
	refused(ReasonNoStore, "Cache-Control: no-store")
	refused(ReasonNoStore, `Cache-Control: x="never closed, no-store`)
	refused(ReasonNoStore, "CDN-Cache-Control: no-store", "Cache-Control: max-age=60")
	refused(ReasonNoCache, "Cache-Control: no-cache")
	refused(ReasonNoCache, "Cache-Control: no-cache=\"Set-Cookie\", max-age=60")
	refused(ReasonNoCache, "Pragma: no-cache")
	refused(ReasonOutdated, "Cache-Control: max-age=0")
	refused(ReasonOutdated, "Cache-Control: s-maxage=0, max-age=60")
	refused(ReasonOutdated, "Cache-Control: max-age=-1")
	refused(ReasonOutdated, "Cache-Control: max-age=soon")
	refused(ReasonOutdated, "Cache-Control: max-age")
	refused(ReasonOutdated, "Cache-Control: max-age=10", "Age: 10")
	refused(ReasonOutdated, "Cache-Control: max-age=10", "Age: 3", "Age: 11")
	refused(ReasonOutdated, "Expires: 0")
	refused(ReasonOutdated, "Expires: "+now.Format(http.TimeFormat))
	refused(ReasonVary, "Vary: *")
	refused(ReasonVary, "Vary: Accept-Encoding, *")
	refused(ReasonVary, "Vary: Accept-Encoding", "Vary: Origin")
	refused(ReasonVary, "Vary: Accept-Language")
	refused(ReasonEncoding, "Content-Encoding: gzip") // the load asked for identity
	refused(ReasonEncoding, "Content-Encoding: br")
	refused(ReasonStreaming, "Content-Type: text/event-stream")
	refused(ReasonStreaming, "Content-Type: application/x-ndjson; charset=utf-8")
	refused(ReasonRange, "Content-Range: bytes 0-1/2")

	gzip := func(a *answer) { a.encoding = encodingGzip }
	changed("gzip", "", gzip, "Content-Encoding: gzip")
	changed("gzip", "", gzip)
	changed("gzip", ReasonEncoding, gzip, "Content-Encoding: br")
	changed("gzip", ReasonEncoding, gzip, "Content-Encoding: gzip, br")

	for _, status := range []int{101, 201, 203, 204, 206, 301, 304, 404, 410, 500} {
		changed(http.StatusText(status), ReasonStatus, func(a *answer) { a.resp.StatusCode = status })
	}
	changed("large", ReasonTooLarge, func(a *answer) { a.resp.ContentLength = 1001 })
	changed("limit", "", func(a *answer) { a.resp.ContentLength = 1000 })
	changed("large HEAD", "", func(a *answer) { a.resp.ContentLength, a.head = 1001, true })
	changed("no end", ReasonUnframed, func(a *answer) { a.resp.ContentLength = -1 })
	changed("chunks", "", func(a *answer) { a.resp.ContentLength, a.resp.TransferEncoding = -1, []string{"chunked"} })
	changed("HTTP/2", "", func(a *answer) { a.resp.ContentLength, a.resp.ProtoMajor = -1, 2 })
	changed("HEAD", "", func(a *answer) { a.resp.ContentLength, a.head = -1, true })
	changed("trailers", ReasonTrailers, func(a *answer) { a.resp.Trailer = http.Header{"X-Sum": nil} })
	changed("control character", ReasonBadHeaders, func(a *answer) { a.resp.Header["X"] = []string{"a\r\nb"} })
	changed("field name", ReasonBadHeaders, func(a *answer) { a.resp.Header["a b"] = []string{"c"} })
}

func TestAgeOnArrival(t *testing.T) {
	f := func(want time.Duration, delay time.Duration, fields ...string) {
		t.Helper()
		h := http.Header{}
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			h.Add(name, value)
		}
		if got := ageOnArrival(h, now, delay); got != want {
			t.Errorf("%q after %v: %v; want %v", fields, delay, got, want)
		}
	}
	s := time.Second
	f(0, 0)
	f(0, s, date)
	f(7*s, 0, "Age: 7")
	f(0, 0, "Age: -7")
	f(0, 0, "Age: old")
	f(9*s, 0, "Age: 9", "Age: 7")
	f(3*s, 2*s, "Date: "+now.Add(-5*s).Format(http.TimeFormat))
	f(8*s, 2*s, "Date: "+now.Add(-5*s).Format(http.TimeFormat), "Age: 8")
	f(0, 0, "Date: "+now.Add(time.Hour).Format(http.TimeFormat)) // its clock is ahead
}

func TestAcceptedEncoding(t *testing.T) {
	f := func(want encoding, lines ...string) {
		t.Helper()
		if got := acceptedEncoding(lines); got != want {
			t.Errorf("%q: %v; want %v", lines, got, want)
		}
	}
	f(encodingPlain)
	f(encodingPlain, "")
	f(encodingPlain, "br")
	f(encodingPlain, "identity")
	f(encodingPlain, "*") // anything goes, the plain form too
	f(encodingPlain, "gzip;q=0")
	f(encodingPlain, "gzip;q=0.000, br")
	f(encodingPlain, "gzip;q=nan")
	f(encodingPlain, "gzip;q=7")
	f(encodingGzip, "gzip")
	f(encodingGzip, "gzip, deflate, br, zstd")
	f(encodingGzip, "br", "GZIP;q=0.1")
	f(encodingGzip, "x-gzip")
	f(encodingGzip, "gzip, *;q=0, identity;q=0.5")
	f(encodingOther, "gzip, identity;q=0")
	f(encodingOther, "gzip, *;q=0")
	f(encodingOther, "br, *;q=0")
}

func TestNotModified(t *testing.T) {
	f := func(want bool, stored, request string) {
		t.Helper()
		header := func(s string) http.Header {
			h := http.Header{}
			for line := range strings.SplitSeq(s, "\n") {
				if name, value, ok := strings.Cut(line, ": "); ok {
					h.Add(name, value)
				}
			}
			return h
		}
		if got := notModified(header(request), header(stored)); got != want {
			t.Errorf("stored %q, request %q: %v; want %v", stored, request, got, want)
		}
	}
	const a, weak = `ETag: "a"`, `ETag: W/"a"`
	f(true, a, `If-None-Match: "a"`)
	f(true, a, `If-None-Match: W/"a"`)
	f(true, weak, `If-None-Match: "a"`)
	f(true, a, `If-None-Match: "b", "a"`)
	f(true, a, "If-None-Match: \"b\"\nIf-None-Match: \"a\"")
	f(true, a, `If-None-Match: *`)
	f(false, a, `If-None-Match: "b"`)
	f(false, a, `If-None-Match: a`)
	f(false, a, `If-None-Match: "b,"a`)
	f(false, "", `If-None-Match: "a"`)
	f(false, "", `If-None-Match: *`)

	const m = "Last-Modified: Sun, 22 Nov 2026 20:00:00 GMT"
	f(true, m, "If-Modified-Since: Sun, 22 Nov 2026 20:00:00 GMT")
	f(true, m, "If-Modified-Since: Sun, 22 Nov 2026 20:00:01 GMT")
	f(false, m, "If-Modified-Since: Sun, 22 Nov 2026 19:59:59 GMT")
	f(false, m, "If-Modified-Since: yesterday")
	f(false, "", "If-Modified-Since: Sun, 22 Nov 2026 20:00:00 GMT")
	f(false, a+"\n"+m, "If-None-Match: \"b\"\nIf-Modified-Since: Sun, 22 Nov 2026 20:00:00 GMT") // the tag decides
}
