package redisstore

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

// A place is what a URL names: one server, or how to find several.
type place struct {
	target // how to greet the servers; its addr is that of a single one
	kind   kind
	addrs  []string // of the sentinels, or of some nodes of a Cluster

	master         string // what the sentinels call the primary
	sentinelUser   string
	sentinelSecret string
}

type kind uint8

const (
	single kind = iota
	sentinel
	clustered
)

// at is how to greet the server at addr.
func (t target) at(addr string) target {
	t.network, t.addr = "tcp", addr
	if t.tls != nil && t.tls.ServerName == "" {
		t.tls = t.tls.Clone()
		t.tls.ServerName, _, _ = net.SplitHostPort(addr)
	}
	return t
}

// parseURL reads the URL of a store. Options in it fill what o leaves open.
func parseURL(raw string, o Options) (place, Options, error) {
	p, o, err := readURL(raw, o)
	if err != nil {
		return place{}, o, fmt.Errorf("redis url %q: %w", masked(raw), err)
	}
	return p, o, nil
}

func readURL(raw string, o Options) (p place, _ Options, err error) {
	text, hosts := cutHosts(raw)
	u, err := url.Parse(text)
	if err != nil {
		// The whole error would repeat the URL with the password in it.
		return p, o, errors.New("malformed; want redis://user:password@host:port/db")
	}
	at := 0
	if u.User != nil {
		at = 1
	}
	// An '@' elsewhere means a password cut short by an unescaped '/', '?' or '#': what
	// follows would be taken for a path or an option, and be printed.
	if strings.Count(raw, "@") != at || u.Fragment != "" {
		return p, o, errors.New("malformed; write / ? # @ in user, password and options as %2F %3F %23 %40")
	}
	p.user = u.User.Username()
	p.password, _ = u.User.Password()

	scheme, secure := u.Scheme, false
	if strings.HasPrefix(scheme, "rediss") {
		scheme, secure = "redis"+scheme[len("rediss"):], true
	}
	port, db := "6379", strings.TrimPrefix(u.Path, "/")
	switch {
	case scheme == "redis":
	case scheme == "redis+sentinel":
		p.kind, port = sentinel, "26379"
	case scheme == "redis+cluster":
		p.kind = clustered
		if db != "" {
			return p, o, fmt.Errorf("path is %q; want none, since a Cluster has no databases", u.Path)
		}
	case u.Scheme == "unix":
		if u.Path == "" || hosts != "" {
			return p, o, errors.New("want unix:///path/to/socket")
		}
		p.network, p.addr, db = "unix", u.Path, ""
	default:
		return p, o, fmt.Errorf("scheme is %q; want redis, rediss or unix, or redis or rediss with +sentinel or +cluster", u.Scheme)
	}
	if p.network == "" {
		if p.addrs, err = parseHosts(hosts, port); err != nil {
			return p, o, err
		}
	}
	if p.network == "" && p.kind == single {
		if len(p.addrs) != 1 {
			return p, o, fmt.Errorf("%d hosts; want one, or redis+sentinel or redis+cluster", len(p.addrs))
		}
		p.network, p.addr, p.addrs = "tcp", p.addrs[0], nil
	}
	if db != "" {
		if p.db, err = parseDB(db); err != nil {
			return p, o, err
		}
	}

	switch {
	case secure:
		p.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if o.TLS != nil {
			p.tls = o.TLS.Clone()
		}
	case o.TLS != nil:
		return p, o, fmt.Errorf("scheme is %q, but TLS is set; want rediss", u.Scheme)
	}

	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return p, o, errors.New("malformed options")
	}
	files := make(map[string]string) // of TLS
	for name, values := range q {
		v := values[0]
		if len(values) > 1 {
			return p, o, fmt.Errorf("option %q is given %d times; want once", name, len(values))
		}
		switch {
		case strings.HasPrefix(name, "tls_") && p.tls != nil:
			files[name] = v
		case name == "db" && p.kind != clustered:
			if p.db != 0 {
				return p, o, errors.New(`option "db" is given, and a path too; want one of them`)
			}
			if p.db, err = parseDB(v); err != nil {
				return p, o, err
			}
		case name == "name":
			if o.Name == "" {
				o.Name = v
			}
		case name == "budget":
			d, err := time.ParseDuration(v)
			if err != nil || d <= 0 {
				return p, o, fmt.Errorf("option budget is %q; want a duration like 50ms", v)
			}
			if o.Budget == 0 {
				o.Budget = d
			}
		case name == "partitions" && p.kind == clustered:
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil || n == 0 || n > maxPartitions {
				return p, o, fmt.Errorf("option partitions is %q; want a number from 1 to %d", v, maxPartitions)
			}
			if o.Partitions == 0 {
				o.Partitions = int(n)
			}
		case name == "replicas":
			n, err := strconv.ParseUint(v, 10, 8)
			if err != nil {
				return p, o, fmt.Errorf("option replicas is %q; want a number up to 255", v)
			}
			if o.Replicas == 0 {
				o.Replicas = int(n)
			}
		case name == "master" && p.kind == sentinel:
			p.master = v
		case name == "sentinel_user" && p.kind == sentinel:
			p.sentinelUser = v
		case name == "sentinel_password" && p.kind == sentinel:
			p.sentinelSecret = v
		default:
			return p, o, fmt.Errorf("unknown option %q", name)
		}
	}
	if p.kind == sentinel && p.master == "" {
		return p, o, errors.New(`no option "master"; want the name that the sentinels know, like ?master=mymaster`)
	}
	if len(files) > 0 && o.TLS != nil {
		return p, o, errors.New("options for TLS are given, and a TLS configuration too; want one of them")
	}
	if p.tls != nil {
		if err := readTLS(p.tls, files); err != nil {
			return p, o, err
		}
		if p.kind == single {
			p.target = p.at(p.addr)
		}
	}
	return p, o, nil
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
