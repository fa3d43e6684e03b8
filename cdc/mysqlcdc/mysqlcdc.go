package mysqlcdc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-mysql-org/go-mysql/client"
	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/freshetdev/freshet/cdc"
)

// Options of a [Source]. A field that is zero gets its default.
type Options struct {
	// Match says which tables are wanted: cdc.Rules.Match. It must be given.
	Match func(schema, table string) bool

	// Timeout is how long the server may be silent before the stream fails. It sends something every second. Default 10 s, at least 2 s.
	Timeout time.Duration

	// TLS is for encrypted connections, instead of what the URL says.
	TLS *tls.Config
}

// A Source is a MariaDB or MySQL server as a feed of its changes. Its methods are safe for concurrent use.
type Source struct {
	opts     Options
	addr     string // host:port, or the path of a socket
	user     string
	password string
	tls      *tls.Config
	also     string // more variables of the feed, for tests

	mu    sync.Mutex
	stats Stats // guarded by mu
}

var _ cdc.Source = (*Source)(nil)

// Stats count what a source met, over all its streams.
type Stats struct {
	Reconnects uint64 // streams that were opened
	Altered    uint64 // tables told of as altered
	Unnamed    uint64 // row events whose columns had no proven names, so that they dropped coarsely
	Cascades   uint64 // tables told of as truncated since a foreign key may have changed their rows
	Unreadable uint64 // row events that could not be read, told as a truncate
}

// New returns a source for a server: "mariadb://user:password@host:3306/" or "mysql://...". The scheme says nothing more; what the server is, it tells
// itself. A database in the path is not looked at. Options in the URL: tls=true (the certificate is checked against the host), tls=skip-verify,
// tls=false (default); socket=/path instead of host and port. New connects to nothing.
func New(rawURL string, o Options) (*Source, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("mysqlcdc: url: %w", err)
	}
	shown := u.Scheme + "://" + u.Host // the rest may have a password
	if u.Scheme != "mysql" && u.Scheme != "mariadb" {
		return nil, fmt.Errorf("mysqlcdc: url %s: scheme is %q; want mysql or mariadb", shown, u.Scheme)
	}
	s := &Source{opts: o, addr: u.Host, user: u.User.Username(), tls: o.TLS}
	s.password, _ = u.User.Password()
	if u.Port() == "" {
		s.addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	for name, values := range u.Query() {
		value := values[len(values)-1]
		switch {
		case name == "socket" && strings.HasPrefix(value, "/") && u.Host == "":
			s.addr = value
		case name == "tls" && value == "false":
		case name == "tls" && (value == "true" || value == "skip-verify"):
			if s.tls == nil {
				s.tls = &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: value == "skip-verify"}
			}
		default:
			if name == "tls" || name == "socket" {
				name += "=" + value
			}
			return nil, fmt.Errorf("mysqlcdc: url %s: option %s; want tls=true, tls=skip-verify, tls=false, or socket=/path without a host", shown, name)
		}
	}
	switch {
	case u.Hostname() == "" && !strings.HasPrefix(s.addr, "/"):
		return nil, fmt.Errorf("mysqlcdc: url %s has no host; want mariadb://user@host/, or socket=/path", shown)
	case s.user == "":
		return nil, fmt.Errorf("mysqlcdc: url %s has no user; want mariadb://user@host/", shown)
	case o.Match == nil:
		return nil, errors.New("mysqlcdc: Match is nil; want what says which tables are wanted, as Rules.Match does")
	case o.Timeout == 0:
		s.opts.Timeout = 10 * time.Second
	case o.Timeout < 2*time.Second:
		return nil, fmt.Errorf("mysqlcdc: Timeout is %v; want at least 2s", o.Timeout)
	}
	return s, nil
}

// parseURL is url.Parse, whose errors may have a password: what stands before the last @, or in place of a port.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err == nil {
		return u, nil
	}
	at := strings.LastIndexByte(raw, '@')
	if at < 0 {
		return nil, errors.New("it can't be read; want mariadb://user:password@host:3306/")
	}
	var ue *url.Error
	if _, err := url.Parse("mariadb://" + raw[at+1:]); errors.As(err, &ue) {
		return nil, ue.Err
	}
	return nil, errors.New("what stands before the @ can't be read; want user:password, with %2F for /, %3A for : and so on")
}

// Exclusive reports false: a binary log has any number of readers.
func (s *Source) Exclusive() bool { return false }

// Stats returns what was counted so far.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Source) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// gap wraps why changes are gone.
func gap(format string, args ...any) error {
	return fmt.Errorf("mysqlcdc: %w: %w", fmt.Errorf(format, args...), cdc.ErrGap)
}

// A heard is a connection that knows when it last heard something.
type heard struct {
	net.Conn
	last *atomic.Int64 // Unix nanoseconds
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 {
		h.last.Store(time.Now().UnixNano())
	}
	return n, err
}

// A link is a connection to the server.
type link struct {
	*client.Conn
	net  net.Conn
	last *atomic.Int64 // when the server said something, Unix nanoseconds
}

// connect makes a connection. It ends when ctx does, if that is before it is made.
func (s *Source) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	l := &link{last: new(atomic.Int64)}
	var stop func() bool
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		// The handshake knows of no context.
		stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		l.net = conn
		return heard{conn, l.last}, nil
	}
	conn, err := client.ConnectWithDialer(ctx, "", s.addr, s.user, s.password, "", dial, func(c *client.Conn) error {
		c.SetTLSConfig(s.tls)
		c.SetAttributes(map[string]string{"program_name": "freshet"})
		c.SetCapability(mysql.CLIENT_MULTI_STATEMENTS)
		return nil
	})
	if stop != nil && !stop() && err == nil {
		_ = conn.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("mysqlcdc: connect to %s: %w", s.addr, err)
	}
	l.Conn = conn
	// What the server or the account has as defaults must not change how names and texts are read.
	for _, sql := range []string{`set names utf8mb4`, `set session sql_mode = '', time_zone = '+00:00', autocommit = 1`} {
		if _, err := l.query(ctx, sql); err != nil {
			_ = l.Close()
			return nil, fmt.Errorf("mysqlcdc: connect to %s: %w", s.addr, err)
		}
	}
	return l, nil
}

// query runs one statement, or several with semicolons, and returns the rows of the last that has any as text; null is "". If ctx ends, the connection is broken.
func (l *link) query(ctx context.Context, sql string) (rows [][]string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.net.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	defer func() {
		if p := recover(); p != nil { // a reply that the client can't read
			err = fmt.Errorf("mysqlcdc: reply: %v", p)
		}
	}()
	var failed error
	_, err = l.ExecuteMultiple(sql, func(r *mysql.Result, err error) {
		if err != nil {
			failed = err
			return
		}
		if !r.HasResultset() {
			return
		}
		rows = nil
		for i := range r.RowNumber() {
			row := make([]string, r.ColumnNumber())
			for j := range row {
				if row[j], err = r.GetString(i, j); err != nil {
					failed = err
				}
			}
			rows = append(rows, row)
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// code returns the number of an error of the server, 0 if it is none. The client's errors have a Cause, not all of them Unwrap.
func code(err error) uint16 {
	for range 20 {
		var my *mysql.MyError
		if errors.As(err, &my) {
			return my.Code
		}
		var wrapped interface{ Cause() error }
		if !errors.As(err, &wrapped) {
			return 0
		}
		err = wrapped.Cause()
	}
	return 0
}

// The errors of servers that are told from others.
const (
	erAccess    = 1045
	erDenied    = 1227 // a privilege is missing
	erFatalRead = 1236 // the binary log can't be read from there
)

// quote makes a name an identifier.
func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// str makes a text a constant.
func str(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}
