package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A target is where the server is and how to greet it.
type target struct {
	network, addr  string // "tcp" or "unix"
	user, password string
	db             int
	tls            *tls.Config // nil: in the clear
}

// String names the server without its secrets.
func (t target) String() string { return t.addr }

func (t target) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	if t.tls != nil {
		return (&tls.Dialer{NetDialer: &d, Config: t.tls}).DialContext(ctx, t.network, t.addr)
	}
	return d.DialContext(ctx, t.network, t.addr)
}

// parseURL reads the URL of a store. Options in it fill what o leaves open.
func parseURL(raw string, o Options) (target, Options, error) {
	t, o, err := readURL(raw, o)
	if err != nil {
		return target{}, o, fmt.Errorf("redis url %q: %w", masked(raw), err)
	}
	return t, o, nil
}

func readURL(raw string, o Options) (t target, _ Options, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The whole error would repeat the URL with the password in it.
		return t, o, errors.New("malformed; want redis://user:password@host:port/db")
	}
	at := 0
	if u.User != nil {
		at = 1
	}
	// An '@' elsewhere means a password cut short by an unescaped '/', '?' or '#': what
	// follows would be taken for a path or an option, and be printed.
	if strings.Count(raw, "@") != at || u.Fragment != "" {
		return t, o, errors.New("malformed; write / ? # @ in user, password and options as %2F %3F %23 %40")
	}
	t.user = u.User.Username()
	t.password, _ = u.User.Password()

	switch u.Scheme {
	case "redis", "rediss":
		if u.Hostname() == "" {
			return t, o, errors.New("no host")
		}
		port := u.Port()
		if port == "" {
			port = "6379"
		}
		t.network, t.addr = "tcp", net.JoinHostPort(u.Hostname(), port)
		if db := strings.TrimPrefix(u.Path, "/"); db != "" {
			if t.db, err = parseDB(db); err != nil {
				return t, o, err
			}
		}
	case "unix":
		if u.Path == "" || u.Host != "" {
			return t, o, errors.New("want unix:///path/to/socket")
		}
		t.network, t.addr = "unix", u.Path
	default:
		return t, o, fmt.Errorf("scheme is %q; want redis, rediss or unix", u.Scheme)
	}

	switch {
	case u.Scheme == "rediss":
		t.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if o.TLS != nil {
			t.tls = o.TLS.Clone()
		}
		if t.tls.ServerName == "" {
			t.tls.ServerName = u.Hostname()
		}
	case o.TLS != nil:
		return t, o, fmt.Errorf("scheme is %q, but TLS is set; want rediss", u.Scheme)
	}

	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return t, o, errors.New("malformed options")
	}
	for name, values := range q {
		v := values[0]
		if len(values) > 1 {
			return t, o, fmt.Errorf("option %q is given %d times; want once", name, len(values))
		}
		switch name {
		case "db":
			if t.db != 0 {
				return t, o, errors.New(`option "db" is given, and a path too; want one of them`)
			}
			if t.db, err = parseDB(v); err != nil {
				return t, o, err
			}
		case "name":
			if o.Name == "" {
				o.Name = v
			}
		case "budget":
			d, err := time.ParseDuration(v)
			if err != nil || d <= 0 {
				return t, o, fmt.Errorf("option budget is %q; want a duration like 50ms", v)
			}
			if o.Budget == 0 {
				o.Budget = d
			}
		default:
			return t, o, fmt.Errorf("unknown option %q", name)
		}
	}
	return t, o, nil
}

func parseDB(s string) (int, error) {
	db, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("db is %q; want a number", s)
	}
	return int(db), nil
}

// masked is raw without its options, and with xxxxx for its password. It doesn't rely on
// raw being well formed: a password with a '/' in it is what people get wrong.
func masked(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		scheme, rest = "", raw
	} else {
		scheme += "://"
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		user, _, has := strings.Cut(rest[:i], ":")
		if has {
			user += ":xxxxx"
		}
		rest = user + rest[i:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + rest
}
