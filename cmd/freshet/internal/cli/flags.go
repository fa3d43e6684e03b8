package cli

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"
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
type size struct {
	n   int64
	min int64
}

func (f *size) Set(s string) error {
	n, ok := config.Size(s)
	switch {
	case !ok:
		return errors.New("want a size such as 2MiB")
	case n < f.min:
		return errors.New("want at least " + (&size{n: f.min}).String())
	}
	f.n = n
	return nil
}

func (f *size) String() string { return strings.ReplaceAll(accesslog.Bytes(f.n), " ", "") }
func (f *size) Type() string   { return "size" }

// An address is a flag that says where to listen: host:port, :port for all addresses of this machine, or a port alone for this machine only.
type address string

func (f *address) Set(s string) error {
	wrong := errors.New("want an address such as 127.0.0.1:8080, :8080 for all of this machine's, or a port alone for 127.0.0.1")
	full := s
	if isNumber(s) {
		full = "127.0.0.1:" + s
	}
	_, port, err := net.SplitHostPort(full)
	if err != nil {
		return wrong
	}
	if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
		return fmt.Errorf("the port is %q; want one from 0 to 65535, where 0 is any that is free", port)
	}
	*f = address(full)
	return nil
}

func (f *address) String() string { return string(*f) }
func (f *address) Type() string   { return "address" }

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// listen listens at the address of a flag.
func listen(flag string, a address) (net.Listener, error) {
	l, err := net.Listen("tcp", string(a))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--%s %s: %w; choose another, or port 0 for any that is free", flag, a, errInUse)
	case err != nil:
		return nil, fmt.Errorf("--%s %s: %w", flag, a, err)
	}
	return l, nil
}

var errInUse = errors.New("the address is in use")

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
	if isNumber(s) {
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
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return bad("the port is " + p + ", and not from 1 to 65535")
		}
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
