package redisx

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// A Target is where the server is and how to greet it.
type Target struct {
	Network, Addr  string // "tcp" or "unix"
	User, Password string
	DB             int
	TLS            *tls.Config // nil: in the clear
}

// String names the server without its secrets.
func (t Target) String() string { return t.Addr }

func (t Target) Dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	if t.TLS != nil {
		return (&tls.Dialer{NetDialer: &d, Config: t.TLS}).DialContext(ctx, t.Network, t.Addr)
	}
	return d.DialContext(ctx, t.Network, t.Addr)
}

// A Place is what a URL names: one server, or how to find several.
type Place struct {
	Target // how to greet the servers; its Addr is that of a single one
	Kind   Kind
	Addrs  []string // of the sentinels, or of some nodes of a Cluster

	Master         string // what the sentinels call the primary
	SentinelUser   string
	SentinelSecret string
}

// A Kind is how servers are found.
type Kind uint8

// The kinds of places.
const (
	Single Kind = iota
	Sentinel
	Cluster
)

// At is how to greet the server at addr.
func (t Target) At(addr string) Target {
	t.Network, t.Addr = "tcp", addr
	if t.TLS != nil && t.TLS.ServerName == "" {
		t.TLS = t.TLS.Clone()
		t.TLS.ServerName, _, _ = net.SplitHostPort(addr)
	}
	return t
}

// ErrUnknownOption is for options that nobody knows.
var ErrUnknownOption = errors.New("unknown option")

// Parse reads the URL of a store. conf, which may be nil, is for rediss schemes. What stands behind '?' and doesn't say where the servers are
// goes to option, whose error is reported; ErrUnknownOption means that there is no such option.
func Parse(raw string, conf *tls.Config, option func(k Kind, name, value string) error) (Place, error) {
	p, err := readURL(raw, conf, option)
	if err != nil {
		return Place{}, fmt.Errorf("redis url %q: %w", masked(raw), err)
	}
	return p, nil
}

func readURL(raw string, conf *tls.Config, option func(k Kind, name, value string) error) (p Place, err error) {
	text, hosts := cutHosts(raw)
	u, err := url.Parse(text)
	if err != nil {
		// The whole error would repeat the URL with the password in it.
		return p, errors.New("malformed; want redis://user:password@host:port/db")
	}
	at := 0
	if u.User != nil {
		at = 1
	}
	// An '@' elsewhere means a password cut short by an unescaped '/', '?' or '#': what
	// follows would be taken for a path or an option, and be printed.
	if strings.Count(raw, "@") != at || u.Fragment != "" {
		return p, errors.New("malformed; write / ? # @ in user, password and options as %2F %3F %23 %40")
	}
	p.User = u.User.Username()
	p.Password, _ = u.User.Password()

	scheme, secure := u.Scheme, false
	if strings.HasPrefix(scheme, "rediss") {
		scheme, secure = "redis"+scheme[len("rediss"):], true
	}
	port, db := "6379", strings.TrimPrefix(u.Path, "/")
	switch {
	case scheme == "redis":
	case scheme == "redis+sentinel":
		p.Kind, port = Sentinel, "26379"
	case scheme == "redis+cluster":
		p.Kind = Cluster
		if db != "" {
			return p, fmt.Errorf("path is %q; want none, since a Cluster has no databases", u.Path)
		}
	case u.Scheme == "unix":
		if u.Path == "" || hosts != "" {
			return p, errors.New("want unix:///path/to/socket")
		}
		p.Network, p.Addr, db = "unix", u.Path, ""
	default:
		return p, fmt.Errorf("scheme is %q; want redis, rediss or unix, or redis or rediss with +sentinel or +cluster", u.Scheme)
	}
	if p.Network == "" {
		if p.Addrs, err = parseHosts(hosts, port); err != nil {
			return p, err
		}
	}
	if p.Network == "" && p.Kind == Single {
		if len(p.Addrs) != 1 {
			return p, fmt.Errorf("%d hosts; want one, or redis+sentinel or redis+cluster", len(p.Addrs))
		}
		p.Network, p.Addr, p.Addrs = "tcp", p.Addrs[0], nil
	}
	if db != "" {
		if p.DB, err = parseDB(db); err != nil {
			return p, err
		}
	}

	switch {
	case secure:
		p.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		if conf != nil {
			p.TLS = conf.Clone()
		}
	case conf != nil:
		return p, fmt.Errorf("scheme is %q, but TLS is set; want rediss", u.Scheme)
	}

	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return p, errors.New("malformed options")
	}
	files := make(map[string]string) // of TLS
	for name, values := range q {
		v := values[0]
		if len(values) > 1 {
			return p, fmt.Errorf("option %q is given %d times; want once", name, len(values))
		}
		switch {
		case strings.HasPrefix(name, "tls_") && p.TLS != nil:
			files[name] = v
		case name == "db" && p.Kind != Cluster:
			if p.DB != 0 {
				return p, errors.New(`option "db" is given, and a path too; want one of them`)
			}
			if p.DB, err = parseDB(v); err != nil {
				return p, err
			}
		case name == "master" && p.Kind == Sentinel:
			p.Master = v
		case name == "sentinel_user" && p.Kind == Sentinel:
			p.SentinelUser = v
		case name == "sentinel_password" && p.Kind == Sentinel:
			p.SentinelSecret = v
		default:
			switch err := option(p.Kind, name, v); {
			case err == nil:
			case errors.Is(err, ErrUnknownOption):
				return p, fmt.Errorf("unknown option %q", name)
			default:
				return p, err
			}
		}
	}
	if p.Kind == Sentinel && p.Master == "" {
		return p, errors.New(`no option "master"; want the name that the sentinels know, like ?master=mymaster`)
	}
	if len(files) > 0 && conf != nil {
		return p, errors.New("options for TLS are given, and a TLS configuration too; want one of them")
	}
	if p.TLS != nil {
		if err := readTLS(p.TLS, files); err != nil {
			return p, err
		}
		if p.Kind == Single {
			p.Target = p.At(p.Addr)
		}
	}
	return p, nil
}

// readTLS puts what the files named by the options tls_… hold into c.
func readTLS(c *tls.Config, files map[string]string) error {
	cert, key := files["tls_cert"], files["tls_key"]
	if (cert == "") != (key == "") {
		return errors.New("one of the options tls_cert and tls_key is given; want both or none")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("options tls_cert and tls_key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	for name, file := range files {
		switch name {
		case "tls_cert", "tls_key":
		case "tls_ca":
			text, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("option tls_ca: %w", err)
			}
			c.RootCAs = x509.NewCertPool()
			if !c.RootCAs.AppendCertsFromPEM(text) {
				return fmt.Errorf("option tls_ca: %s has no certificate; want PEM", file)
			}
		default:
			return fmt.Errorf("unknown option %q", name)
		}
	}
	return nil
}

// cutHosts takes the hosts out of raw, since package url knows only one, and puts
// a host in their place that it takes.
func cutHosts(raw string) (text, hosts string) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return raw, ""
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	begin := strings.LastIndexByte(rest[:end], '@') + 1
	if begin == end {
		return raw, ""
	}
	return scheme + "://" + rest[:begin] + "host" + rest[end:], rest[begin:end]
}

func parseHosts(list, port string) ([]string, error) {
	var addrs []string
	for _, h := range strings.Split(list, ",") {
		u := url.URL{Host: h}
		p := cmp.Or(u.Port(), port)
		n, err := strconv.ParseUint(p, 10, 16)
		name := u.Hostname()
		switch {
		case name == "" && list == "":
			return nil, errors.New("no host")
		case name == "":
			return nil, fmt.Errorf("hosts are %q; want host:port,host:port", list)
		case err != nil || n == 0, strings.HasSuffix(h, ":"), strings.ContainsAny(name, "[] %"),
			strings.Contains(name, ":") && !strings.HasPrefix(h, "["):
			return nil, fmt.Errorf("host is %q; want host:port", h)
		}
		addrs = append(addrs, net.JoinHostPort(name, p))
	}
	return addrs, nil
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
		if q := strings.IndexByte(rest, '?'); q >= 0 && q < i && strings.Contains(rest, "password") {
			return scheme + "xxxxx" // the '@' may be part of either password
		}
		user, _, has := strings.Cut(rest[:i], ":")
		if has {
			user += ":xxxxx"
		}
		rest = user + rest[i:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + rest
}
