package cli

import (
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/config"
)

// A duration is a flag that wants a unit, and more than zero unless zero is fine.
type duration struct {
	d    time.Duration
	zero bool // 0 is fine
	min  time.Duration
}

func (f *duration) Set(s string) error {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return errors.New("want a duration such as 30s")
	case d < 0 || d == 0 && !f.zero:
		return errors.New("want more than zero")
	case d < f.min:
		return errors.New("want at least " + readable(f.min))
	}
	f.d = d
	return nil
}

func (f *duration) String() string { return readable(f.d) }
func (f *duration) Type() string   { return "duration" }

// readable writes 5m and 1h30m for what String writes as 5m0s and 1h30m0s.
func readable(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// A size is a flag in bytes, KiB, MiB or GiB.
type size int64

func (f *size) Set(s string) error {
	if n, ok := config.Size(s); ok {
		*f = size(n)
		return nil
	}
	return errors.New("want a size such as 2MiB")
}

func (f *size) String() string { return strings.ReplaceAll(accesslog.Bytes(int64(*f)), " ", "") }
func (f *size) Type() string   { return "size" }

// A logFormat is the flag --log.
type logFormat accesslog.Format

func (f *logFormat) Set(s string) error {
	switch v := accesslog.Format(s); v {
	case accesslog.Auto, accesslog.Text, accesslog.JSON, accesslog.Off:
		*f = logFormat(v)
		return nil
	}
	return errors.New("want auto, text, json or off")
}

func (f *logFormat) String() string { return string(*f) }
func (f *logFormat) Type() string   { return "format" }

// upstreamURL reads the address of an API. The scheme may be left out, and so may the host:
// localhost:3000 and 3000 are http://localhost:3000.
func upstreamURL(s string) (*url.URL, error) {
	bad := func(why string) (*url.URL, error) {
		return nil, usagef("upstream %s: %s; want a URL such as http://127.0.0.1:3000", maskUserinfo(s), why)
	}
	full := s
	if _, err := strconv.ParseUint(s, 10, 16); err == nil {
		full = "localhost:" + s
	}
	if !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	switch {
	case err != nil:
		return bad("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("unknown scheme " + u.Scheme)
	case u.User != nil:
		return bad("a user name or password can't be part of it")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return bad("a query or fragment can't be part of it")
	}
	if strings.HasPrefix(u.Host, ":") {
		u.Host = "localhost" + u.Host
	}
	if u.Hostname() == "" || strings.HasSuffix(u.Host, ":") {
		return bad("no host or port")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// maskUserinfo keeps passwords out of messages about URLs that can't be parsed.
func maskUserinfo(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "", s
	} else {
		scheme += "://"
	}
	authority, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		s = scheme + "xxxxx@" + authority[i+1:]
		if path != "" {
			s += "/" + path
		}
	}
	return s
}

// dialAddress is where a TCP connection to the upstream goes.
func dialAddress(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
