package redisstore

import (
	"crypto/tls"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/redisx"
)

func TestURLs(t *testing.T) {
	for _, c := range []struct {
		url                       string
		network, addr, user, pass string
		db                        int
		tls                       bool
	}{
		{"redis://h", "tcp", "h:6379", "", "", 0, false},
		{"redis://:p@h:1/2", "tcp", "h:1", "", "p", 2, false},
		{"redis://u:p%2Fq@[::1]:1", "tcp", "[::1]:1", "u", "p/q", 0, false},
		{"rediss://h?db=5", "tcp", "h:6379", "", "", 5, true},
		{"unix:///run/r.sock?db=1", "unix", "/run/r.sock", "", "", 1, false},
		{"unix://u:p@/run/r.sock", "unix", "/run/r.sock", "u", "p", 0, false},
	} {
		got, _, err := parseURL(c.url, Options{})
		if err != nil {
			t.Error(err)
			continue
		}
		if got.Network != c.network || got.Addr != c.addr || got.User != c.user || got.Password != c.pass || got.DB != c.db || (got.TLS != nil) != c.tls {
			t.Errorf("%s is %+v; want %+v", c.url, got, c)
		}
	}
	for _, c := range []struct{ url, want string }{
		{"redis://app:secret@cache:6379?tll=1", `redis url "redis://app:xxxxx@cache:6379": unknown option "tll"`},
		{"http://h", `redis url "http://h": scheme is "http"; want redis, rediss or unix, or redis or rediss with +sentinel or +cluster`},
		{"redis://", `redis url "redis://": no host`},
		{"redis://h/x", `redis url "redis://h/x": db is "x"; want a number`},
		{"redis://h/1?db=2", `redis url "redis://h/1": option "db" is given, and a path too; want one of them`},
		{"redis://h?budget=5", `redis url "redis://h": option budget is "5"; want a duration like 50ms`},
		{"redis://h?db=1&db=2", `redis url "redis://h": option "db" is given 2 times; want once`},
		{"unix://h/sock", `redis url "unix://h/sock": want unix:///path/to/socket`},
		{"redis://u:1?secret@h", `redis url "redis://u:xxxxx@h": malformed; write / ? # @ in user, password and options as %2F %3F %23 %40`},
		{"redis://u:secret@h:port", `redis url "redis://u:xxxxx@h:port": host is "h:port"; want host:port`},
		{"redis://u:sec%ret@h", `redis url "redis://u:xxxxx@h": malformed; want redis://user:password@host:port/db`},
		{"redis://h1,h2", `redis url "redis://h1,h2": 2 hosts; want one, or redis+sentinel or redis+cluster`},
		{"redis+sentinel://h1,h2", `redis url "redis+sentinel://h1,h2": no option "master"; want the name that the sentinels know, like ?master=mymaster`},
		{"redis+sentinel://h1,,h2?master=m", `redis url "redis+sentinel://h1,,h2": hosts are "h1,,h2"; want host:port,host:port`},
		{"redis+sentinel://h1,h2:0?master=m", `redis url "redis+sentinel://h1,h2:0": host is "h2:0"; want host:port`},
		{"redis+sentinel://h?master=m&sentinel_password=a@b", `redis url "redis+sentinel://xxxxx": malformed; write / ? # @ in user, password and options as %2F %3F %23 %40`},
		{"redis+cluster://h1,h2/1", `redis url "redis+cluster://h1,h2/1": path is "/1"; want none, since a Cluster has no databases`},
		{"redis+cluster://h?db=1", `redis url "redis+cluster://h": unknown option "db"`},
		{"redis+cluster://h?partitions=0", `redis url "redis+cluster://h": option partitions is "0"; want a number from 1 to 256`},
		{"redis://h?tls_ca=x", `redis url "redis://h": unknown option "tls_ca"`},
		{"rediss://h?tls_crt=x", `redis url "rediss://h": unknown option "tls_crt"`},
		{"rediss://h?tls_key=x", `redis url "rediss://h": one of the options tls_cert and tls_key is given; want both or none`},
		{"rediss://h?tls_ca=nowhere.pem", `redis url "rediss://h": option tls_ca: open nowhere.pem: no such file or directory`},
		{"rediss://h?tls_ca=url.go", `redis url "rediss://h": option tls_ca: url.go has no certificate; want PEM`},
		{"rediss://h?tls_cert=url.go&tls_key=url.go", `redis url "rediss://h": options tls_cert and tls_key: tls: failed to find any PEM data in certificate input`},
		{"redis://h?replicas=-1", `redis url "redis://h": option replicas is "-1"; want a number up to 255`},
		{"redis://h?partitions=2", `redis url "redis://h": unknown option "partitions"`},
		{"redis://h?master=m", `redis url "redis://h": unknown option "master"`},
	} {
		if _, _, err := parseURL(c.url, Options{}); err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got %v\nwant %s", c.url, err, c.want)
		}
	}
	if _, _, err := parseURL("redis://h", Options{TLS: new(tls.Config)}); err == nil {
		t.Error("TLS for a plain scheme was accepted")
	}
	if _, _, err := parseURL("rediss://h?tls_ca=x", Options{TLS: new(tls.Config)}); err == nil {
		t.Error("a file of TLS beside a configuration was accepted")
	}
	want := redisx.Place{
		Target: redisx.Target{User: "u", Password: "p", DB: 2}, Kind: redisx.Sentinel, Addrs: []string{"a:26379", "[::1]:1"},
		Master: "m", SentinelUser: "su", SentinelSecret: "s@p",
	}
	if p, _, err := parseURL("redis+sentinel://u:p@a,[::1]:1/2?master=m&sentinel_user=su&sentinel_password=s%40p", Options{}); err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("got %+v, %v; want %+v", p, err, want)
	}
	if p, _, err := parseURL("rediss+sentinel://a,b?master=m", Options{}); err != nil || p.TLS == nil || p.At("c:1").TLS.ServerName != "c" {
		t.Errorf("got %+v, %v; want TLS for the host that is asked", p, err)
	}
	got, o, err := parseURL("rediss://h?budget=20ms&name=x", Options{TLS: &tls.Config{ServerName: "other"}, Name: "mine"})
	if err != nil || got.TLS.ServerName != "other" || o.Budget != 20*time.Millisecond || o.Name != "mine" {
		t.Errorf("got %+v %+v %v", got, o, err)
	}
	for _, o := range []Options{{Prefix: "{a}"}, {Name: "a b"}, {Budget: -1}, {BreakAfter: -1}, {ProbeEvery: -1}, {LogLength: -1}, {Partitions: -1}} {
		if s, err := Open("redis://h", o); err == nil {
			s.Close()
			t.Errorf("%+v was accepted", o)
		}
	}
}

func FuzzURL(f *testing.F) {
	for _, u := range []string{"/2?db=1", "?budget=1s&name=x", ":1/", "/#x", "h@/x?y", ",h2:1?master=m", ",?master=m&sentinel_user=u"} {
		for _, scheme := range []string{"redis", "rediss+sentinel", "redis+cluster"} {
			f.Add(scheme, "s3cr3t-pass", u)
		}
	}
	f.Fuzz(func(t *testing.T, scheme, pass, rest string) {
		if !strings.Contains(pass, "s3cr3t") || strings.Contains(scheme+rest, "s3cr3t") || strings.ContainsAny(scheme, ":/@") {
			return
		}
		if _, _, err := parseURL(scheme+"://user:"+pass+"@host"+rest, Options{}); err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("the password is in %q", err)
		}
		// As the password of the sentinels, too.
		sep := "?"
		if strings.Contains(rest, "?") {
			sep = "&"
		}
		if strings.ContainsAny(pass, "&=") {
			return // another option
		}
		if _, _, err := parseURL(scheme+"://user@host"+rest+sep+"sentinel_password="+pass, Options{}); err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("the sentinels' password is in %q", err)
		}
	})
}
