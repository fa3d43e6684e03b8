package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

func TestExplain(t *testing.T) {
	at := time.Date(2026, 11, 23, 15, 4, 5, 123e6, time.UTC)
	answers := map[string]string{}
	for _, touch := range []cdc.Touch{
		{Name: "user:1:profile", Table: "public.users", Op: cdc.OpUpdate, Rule: 0, Source: "shop", At: at, Tx: cdc.Tx{ID: "742", Pos: "0/15D8F20", Committed: at.Add(-1200 * time.Microsecond)}},
		{Name: "users!", Table: "public.users", Op: cdc.OpTruncate, Rule: 1, Why: cdc.WhyTruncate, Source: "shop", At: at, Tx: cdc.Tx{ID: "743", Committed: at.Add(time.Second)}}, // the database's clock is ahead
		{Name: "report", Op: cdc.OpMessage, Rule: -1, Source: "shop", At: at},
		{Name: "a&b=c", Rule: -1, Why: cdc.WhyGap, Source: "shop", At: at},
	} {
		rw := httptest.NewRecorder()
		answerExplain(rw, touch.Name, &touch)
		answers[touch.Name] = rw.Body.String()
	}
	admin := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch a, ok := answers[r.FormValue("name")]; {
		case r.URL.Path != "/explain":
			http.Error(rw, "<h1>not found</h1>", http.StatusNotFound)
		case ok:
			_, _ = rw.Write([]byte(a))
		default:
			explain(rw, r.FormValue("name"), nil)
		}
	}))
	defer admin.Close()
	f := func(wantCode int, wantOut, wantErr string, args ...string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		code := Main(t.Context(), append([]string{"explain"}, args...), &stdout, &stderr)
		if code != wantCode || stdout.String() != wantOut || !strings.Contains(stderr.String(), wantErr) || wantErr == "" && stderr.Len() > 0 {
			t.Errorf("%q: exit code %d\n%s%s\nwant %d\n%s%s", args, code, &stdout, &stderr, wantCode, wantOut, wantErr)
		}
	}
	f(0, `user:1:profile
  dropped      2026-11-23 15:04:05.123 UTC, 1.2 ms after the commit
  change       update of public.users
  rule         1 of shop
  transaction  742, at 0/15D8F20
`, "", "user:1:profile", "--admin", admin.URL)
	f(0, `users!
  dropped      2026-11-23 15:04:05.123 UTC
  change       truncate of public.users
  rule         2 of shop
  coarser      than by name: truncate
  transaction  743
`, "", "users!", "--admin", strings.TrimPrefix(admin.URL, "http://"))
	f(0, `report
  dropped      2026-11-23 15:04:05.123 UTC
  change       message
  source       shop
`, "", "report", "--admin", admin.URL+"/")
	f(0, `a&b=c
  dropped      2026-11-23 15:04:05.123 UTC
  source       shop
  coarser      than by name: gap
`, "", "a&b=c", "--admin", admin.URL)
	f(0, answers["report"], "", "report", "--admin", admin.URL, "--json")
	var x explained
	if err := json.Unmarshal([]byte(answers["report"]), &x); err != nil || x.Op != "message" || !x.Applied.Equal(at) || x.Rule != 0 {
		t.Errorf("%s: %+v, %v", answers["report"], x, err)
	}
	f(1, "", "none: none of the last 4,096 names", "none", "--admin", admin.URL)
	f(1, `{"error":"none of the last 4,096 names that were dropped here","name":"none"}`+"\n", "", "none", "--admin", admin.URL, "--json")
	f(1, "", "answers 404, and not as freshet watch does", "none", "--admin", admin.URL+"/elsewhere")
	f(1, "", "no answer from http://127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused; does freshet watch run, with --admin?", "none", "--admin", "127.0.0.1:1")
	f(2, "", "--admin ftp://xxxxx@h: want a URL such as", "none", "--admin", "ftp://u:secret@h")
	f(2, "", "want one, a key or a tag")
}
