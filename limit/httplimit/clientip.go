package httplimit

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// IPOptions say how the address of a client is found. Zero values are defaults.
type IPOptions struct {
	// Trusted are the addresses of your own proxies. What they say of where a request came from is believed, and
	// nobody else's word is. Default: none, so the client is whoever connected.
	Trusted []netip.Prefix

	// TrustUnix believes who connects by a Unix socket, as a proxy on the same machine does.
	TrustUnix bool

	// Header is the field in which the proxies say it: X-Forwarded-For (default), Forwarded (RFC 7239), or another
	// one that holds an address or a list of them, such as X-Real-Ip. Only the one that your proxies write: others
	// may come from the client.
	Header string

	// IPv6Bits and IPv4Bits are how much of an address is counted as one client. Defaults 56 (what a provider gives
	// one customer at least, as RFC 6177 has it) and 32.
	IPv6Bits, IPv4Bits int
}

// ClientIP counts by the address of the client. Of what proxies say, the rightmost address that isn't one of theirs
// is the client: each proxy appends who connected to it, so what stands further left is what the client wrote itself.
// Where an entry can't be read, the walk ends at the hop before it. IPv4-mapped IPv6 addresses are IPv4; zones are
// left out.
//
// Keys read 192.0.2.7, or 2001:db8:0:100::/56 if they are of more than one address.
func ClientIP(o IPOptions) (Identity, error) {
	f, err := newIPFinder(o)
	if err != nil {
		return nil, err
	}
	return func(r *http.Request) (string, bool) {
		addr, ok := f.client(r)
		if !ok {
			return "", false
		}
		return f.key(addr), true
	}, nil
}

// ClientAddr is like ClientIP, for other uses than limits: the whole address.
func ClientAddr(o IPOptions) (func(r *http.Request) (netip.Addr, bool), error) {
	f, err := newIPFinder(o)
	if err != nil {
		return nil, err
	}
	return f.client, nil
}

type ipFinder struct {
	trusted []netip.Prefix // of unmapped addresses
	unix    bool
	header  string // canonical
	last    func(list string) (rest, addr string)
	v6, v4  int
}

func newIPFinder(o IPOptions) (*ipFinder, error) {
	f := &ipFinder{unix: o.TrustUnix, header: http.CanonicalHeaderKey(o.Header), last: lastInList, v6: o.IPv6Bits, v4: o.IPv4Bits}
	switch f.header {
	case "":
		f.header = "X-Forwarded-For"
	case "Forwarded":
		f.last = lastForwarded
	}
	if f.v6 == 0 {
		f.v6 = 56
	}
	if f.v4 == 0 {
		f.v4 = 32
	}
	if f.v6 < 1 || f.v6 > 128 {
		return nil, fmt.Errorf("httplimit: IPOptions.IPv6Bits is %d; want 1 to 128, or 0 for 56", o.IPv6Bits)
	}
	if f.v4 < 1 || f.v4 > 32 {
		return nil, fmt.Errorf("httplimit: IPOptions.IPv4Bits is %d; want 1 to 32, or 0 for 32", o.IPv4Bits)
	}
	for _, p := range o.Trusted {
		switch {
		case !p.IsValid():
			return nil, fmt.Errorf("httplimit: IPOptions.Trusted has the zero netip.Prefix; want the addresses of a proxy, such as 10.0.0.0/8")
		case p.Addr().Is4In6() && p.Bits() >= 96:
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if p.Bits() == 0 {
			return nil, fmt.Errorf("httplimit: IPOptions.Trusted has %v, which is everybody: then clients choose their own address; want the addresses of your proxies", p)
		}
		f.trusted = append(f.trusted, p.Masked())
	}
	return f, nil
}

// client walks from the connection towards the client, as far as each hop is one of our own.
func (f *ipFinder) client(r *http.Request) (netip.Addr, bool) {
	addr, ok := parseHop(r.RemoteAddr)
	if !ok && (!f.unix || !fromUnix(r)) {
		return netip.Addr{}, false
	}
	if ok && !f.trusts(addr) {
		return addr, true
	}
	lines := r.Header[f.header]
	for i := len(lines) - 1; i >= 0; i-- { // several lines are one list (RFC 9110 §5.3)
		for list := lines[i]; list != ""; {
			var text string
			list, text = f.last(list)
			hop, valid := parseHop(text)
			if !valid {
				return addr, ok
			}
			if addr, ok = hop, true; !f.trusts(addr) {
				return addr, true
			}
		}
	}
	return addr, ok
}

func (f *ipFinder) trusts(a netip.Addr) bool {
	for _, p := range f.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (f *ipFinder) key(a netip.Addr) string {
	bits := f.v6
	if a.Is4() {
		bits = f.v4
	}
	if bits == a.BitLen() {
		return a.String()
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return a.String() // can't happen: bits are in range, and there is no zone
	}
	return p.String()
}

// parseHop reads an address with or without a port: 192.0.2.7, 192.0.2.7:80, 2001:db8::1, [2001:db8::1],
// [2001:db8::1]:80.
func parseHop(s string) (netip.Addr, bool) {
	host, port := s, ""
	switch {
	case strings.HasPrefix(s, "["):
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return netip.Addr{}, false
		}
		host, port = s[1:end], s[end+1:]
		if !strings.Contains(host, ":") {
			return netip.Addr{}, false
		}
	case strings.Count(s, ":") == 1:
		colon := strings.IndexByte(s, ':')
		host, port = s[:colon], s[colon:]
	}
	if port != "" && !isPort(port) {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, false
	}
	return a.Unmap().WithZone(""), true
}

// isPort reports whether s is a colon and one to five digits. RFC 7239 also allows names made up for ports.
func isPort(s string) bool {
	if len(s) < 2 || len(s) > 6 || s[0] != ':' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func fromUnix(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}
