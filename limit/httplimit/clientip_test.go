package httplimit

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func prefixes(t testing.TB, list string) (all []netip.Prefix) {
	t.Helper()
	for s := range strings.FieldsSeq(list) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// from is a request of a peer with fields "Name: value".
func from(remote string, fields ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = remote
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func clientIP(t testing.TB, o IPOptions) Identity {
	t.Helper()
	id, err := ClientIP(o)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// The client at 10.0.0.1's back is 203.0.113.9; all else that stands in the fields is what it made up.
func TestClientIP(t *testing.T) {
	none := clientIP(t, IPOptions{})
	xff := clientIP(t, IPOptions{Trusted: prefixes(t, "10.0.0.0/8 fd00::/8")})
	fwd := clientIP(t, IPOptions{Trusted: prefixes(t, "10.0.0.0/8 fd00::/8"), Header: "forwarded"})
	realIP := clientIP(t, IPOptions{Trusted: prefixes(t, "10.0.0.0/8"), Header: "X-Real-IP"})
	f := func(id Identity, want, remote string, fields ...string) {
		t.Helper()
		key, ok := id(from(remote, fields...))
		if key != want || ok != (want != "") {
			t.Errorf("%s %q: %q, %v; want %q", remote, fields, key, ok, want)
		}
	}
	const proxy = "10.0.0.1:5000"

	// By default no field is believed.
	f(none, "203.0.113.9", "203.0.113.9:1234")
	f(none, "203.0.113.9", "203.0.113.9:1234", "X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Real-Ip: 6.6.6.6")
	f(none, "10.0.0.1", proxy, "X-Forwarded-For: 203.0.113.9")
	f(none, "2001:db8:1:200::/56", "[2001:db8:1:2ff:3:4:5:6]:80")
	f(none, "2001:db8:1:200::/56", "[2001:db8:1:201::1]:80")
	f(none, "2001:db8:1:300::/56", "[2001:db8:1:300::1]:80")
	f(none, "fe80::/56", "[fe80::1%eth0]:80")
	f(none, "203.0.113.9", "[::ffff:203.0.113.9]:80")
	f(none, "", "@")
	f(none, "", "")
	f(none, "", "localhost:80")

	// Nor one of a peer that isn't trusted.
	f(xff, "203.0.113.9", "203.0.113.9:1234", "X-Forwarded-For: 6.6.6.6")
	f(xff, "11.0.0.1", "11.0.0.1:1", "X-Forwarded-For: 6.6.6.6")

	// The rightmost hop that isn't ours.
	f(xff, "203.0.113.9", proxy, "X-Forwarded-For: 203.0.113.9")
	f(xff, "203.0.113.9", proxy, "X-Forwarded-For: 6.6.6.6, 203.0.113.9")
	f(xff, "203.0.113.9", proxy, "X-Forwarded-For: 6.6.6.6, 7.7.7.7", "X-Forwarded-For: 203.0.113.9")
	f(xff, "203.0.113.9", proxy, "X-Forwarded-For: 6.6.6.6,203.0.113.9 ,\t10.1.2.3")
	f(xff, "203.0.113.9", proxy, "X-Forwarded-For: 10.9.9.9, 203.0.113.9, 10.1.2.3, fd00::7")
	f(xff, "203.0.113.9", "[::ffff:10.0.0.1]:80", "X-Forwarded-For: 6.6.6.6, 203.0.113.9")
	f(xff, "203.0.113.9", "[fd00::1%eth0]:80", "X-Forwarded-For: 6.6.6.6, 203.0.113.9")
	f(xff, "203.0.113.9", proxy, "X-Forwarded-For: , 203.0.113.9")

	// All of them ours: the first that we know of.
	f(xff, "10.7.7.7", proxy, "X-Forwarded-For: 10.7.7.7, 10.1.2.3")
	f(xff, "10.0.0.1", proxy)
	f(xff, "10.0.0.1", proxy, "X-Forwarded-For: ")

	// The forms in which addresses come.
	f(xff, "203.0.113.9", proxy, "X-Forwarded-For: 203.0.113.9:4711")
	f(xff, "203.0.113.9", proxy, "X-Forwarded-For: ::ffff:203.0.113.9")
	f(xff, "203.0.113.9", proxy, "X-Forwarded-For: [::ffff:203.0.113.9]:4711")
	f(xff, "2001:db8::/56", proxy, "X-Forwarded-For: 2001:db8::1")
	f(xff, "2001:db8::/56", proxy, "X-Forwarded-For: [2001:db8::1]")
	f(xff, "2001:db8::/56", proxy, "X-Forwarded-For: [2001:db8::1]:443")
	f(xff, "2001:db8::/56", proxy, "X-Forwarded-For: 2001:db8::1%25eth0")

	// What can't be read ends the walk, at the last hop that could.
	for _, bad := range []string{
		"unknown", "_hidden", "203.0.113", "203.0.113.9.1", "203.0.113.9:", "203.0.113.9:x", "203.0.113.9:123456", "203.0.113.009", "[203.0.113.9]",
		"[2001:db8::1", "2001:db8::1]", "[2001:db8::1]443", "203.0.113.9 10.0.0.7", "\"203.0.113.9\"", "0x7f.1", "1", ",", "%", "::1::", "203.0.113.9;",
	} {
		f(xff, "10.1.2.3", proxy, "X-Forwarded-For: 6.6.6.6, "+bad+", 10.1.2.3")
		f(xff, "10.0.0.1", proxy, "X-Forwarded-For: 6.6.6.6, "+bad)
	}
	f(xff, "10.0.0.1", proxy, "X-Forwarded-For: 6.6.6.6,")

	// Only the field that was named.
	f(xff, "10.0.0.1", proxy, "Forwarded: for=6.6.6.6", "X-Real-Ip: 6.6.6.6")
	f(realIP, "203.0.113.9", proxy, "X-Real-Ip: 203.0.113.9", "X-Forwarded-For: 6.6.6.6")
	f(fwd, "10.0.0.1", proxy, "X-Forwarded-For: 6.6.6.6")

	// Forwarded (RFC 7239).
	f(fwd, "203.0.113.9", proxy, "Forwarded: for=203.0.113.9")
	f(fwd, "203.0.113.9", proxy, "Forwarded: for=6.6.6.6, For=203.0.113.9;proto=https;by=10.0.0.1")
	f(fwd, "203.0.113.9", proxy, "Forwarded: for=6.6.6.6", "Forwarded: proto=https ; for=\"203.0.113.9:4711\"")
	f(fwd, "203.0.113.9", proxy, "Forwarded: for=6.6.6.6, for=203.0.113.9, for=\"[fd00::7]:80\"")
	f(fwd, "2001:db8:cafe::/56", proxy, "Forwarded: for=6.6.6.6,for=\"[2001:db8:cafe::17]:4711\"")
	f(fwd, "2001:db8:cafe::/56", proxy, "Forwarded: for=\"[2001:db8:cafe::17]\";host=\"a,b;for=6.6.6.6\"")
	f(fwd, "203.0.113.9", proxy, `Forwarded: for=203.0.113.9;ext="a\"b, for=6.6.6.6;c\\"`)
	f(fwd, "10.0.0.1", proxy, "Forwarded: for=unknown")
	f(fwd, "10.0.0.1", proxy, "Forwarded: for=_gazonk")
	f(fwd, "10.0.0.1", proxy, "Forwarded: for=\"_gazonk:_port\"")
	f(fwd, "10.0.0.1", proxy, "Forwarded: for=6.6.6.6, by=10.0.0.1;proto=https") // who that was isn't said
	f(fwd, "10.0.0.1", proxy, "Forwarded: for=6.6.6.6;for=7.7.7.7")
	f(fwd, "10.0.0.1", proxy, "Forwarded: for=6.6.6.6;nonsense")
	f(fwd, "10.0.0.1", proxy, "Forwarded: for=\"6.6.6.6")
	f(fwd, "10.0.0.1", proxy, `Forwarded: for="6.6.6.\6"`)
	f(fwd, "10.0.0.1", proxy, "Forwarded: for=")
	f(fwd, "10.0.0.1", proxy, "Forwarded: ;")
	f(fwd, "10.0.0.1", proxy, "Forwarded: for = 6.6.6.6")

	// What the client wrote can't change how the proxy's part is read.
	for _, own := range []string{`for=203.0.113.9`, `for="203.0.113.9";proto="http"`, `proto=http;for="203.0.113.9:80";host="x"`} {
		for _, written := range []string{`for="`, `for=6.6.6.6;x="`, `for=6.6.6.6;x="\`, `"`, `\`, `for=6.6.6.6;x="a\"`, `;;;`, `for="6.6.6.6`, `,",",`} {
			f(fwd, "203.0.113.9", proxy, "Forwarded: "+written+", "+own)
			f(fwd, "203.0.113.9", proxy, "Forwarded: "+written, "Forwarded: "+own)
		}
	}
}

func TestClientIPBits(t *testing.T) {
	f := func(want string, o IPOptions, remote string) {
		t.Helper()
		if key, ok := clientIP(t, o)(from(remote)); !ok || key != want {
			t.Errorf("%+v %s: %q, %v; want %q", o, remote, key, ok, want)
		}
	}
	f("192.0.2.0/24", IPOptions{IPv4Bits: 24}, "192.0.2.7:1")
	f("192.0.2.0/24", IPOptions{IPv4Bits: 24}, "[::ffff:192.0.2.7]:1")
	f("2001:db8::1", IPOptions{IPv6Bits: 128}, "[2001:db8::1%eth0]:1")
	f("2001:db8:0:1::/64", IPOptions{IPv6Bits: 64}, "[2001:db8:0:1::1]:1")
	f("2000::/3", IPOptions{IPv6Bits: 3}, "[2001:db8:0:1::1]:1")
}

// Connections by a Unix socket have no address: only what a proxy says can tell.
func TestClientIPUnix(t *testing.T) {
	unix := func(r *http.Request) *http.Request {
		local := &net.UnixAddr{Name: "/run/api.sock", Net: "unix"}
		return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
	}
	trusting := clientIP(t, IPOptions{TrustUnix: true})
	f := func(want string, id Identity, r *http.Request) {
		t.Helper()
		if key, ok := id(r); key != want || ok != (want != "") {
			t.Errorf("%s %q: %q, %v; want %q", r.RemoteAddr, r.Header, key, ok, want)
		}
	}
	f("203.0.113.9", trusting, unix(from("@", "X-Forwarded-For: 6.6.6.6, 203.0.113.9")))
	f("", trusting, unix(from("@")))
	f("", trusting, unix(from("@", "X-Forwarded-For: unknown")))
	f("", trusting, from("@", "X-Forwarded-For: 203.0.113.9")) // not by a socket
	f("192.0.2.1", trusting, unix(from("192.0.2.1:80", "X-Forwarded-For: 6.6.6.6")))
	f("", clientIP(t, IPOptions{}), unix(from("@", "X-Forwarded-For: 203.0.113.9")))
}

func TestClientAddr(t *testing.T) {
	client, err := ClientAddr(IPOptions{Trusted: prefixes(t, "10.0.0.0/8")})
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := client(from("10.0.0.1:1", "X-Forwarded-For: 2001:db8::1")); !ok || a != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("%v, %v; want the whole address", a, ok)
	}
}

func TestIPOptions(t *testing.T) {
	f := func(want string, o IPOptions) {
		t.Helper()
		_, err := ClientIP(o)
		_, err2 := ClientAddr(o)
		if err == nil || err2 == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v; want %q", o, err, err2, want)
		}
	}
	f("IPv6Bits is 129; want 1 to 128", IPOptions{IPv6Bits: 129})
	f("IPv6Bits is -1", IPOptions{IPv6Bits: -1})
	f("IPv4Bits is 33; want 1 to 32", IPOptions{IPv4Bits: 33})
	f("the zero netip.Prefix", IPOptions{Trusted: []netip.Prefix{{}}})
	f("0.0.0.0/0, which is everybody", IPOptions{Trusted: prefixes(t, "10.0.0.0/8 0.0.0.0/0")})
	f("::/0, which is everybody", IPOptions{Trusted: prefixes(t, "::/0")})
	f("0.0.0.0/0, which is everybody", IPOptions{Trusted: prefixes(t, "::ffff:0.0.0.0/96")})

	// A mapped prefix is one of IPv4.
	id := clientIP(t, IPOptions{Trusted: prefixes(t, "::ffff:10.0.0.0/104")})
	if key, _ := id(from("10.0.0.1:1", "X-Forwarded-For: 203.0.113.9")); key != "203.0.113.9" {
		t.Errorf("behind ::ffff:10.0.0.0/104: %q; want 203.0.113.9", key)
	}
}

// FuzzForwardedFor: whatever the client wrote, in whatever lines, what the proxy appended is the client.
func FuzzForwardedFor(f *testing.F) {
	trusted := prefixes(f, "10.0.0.0/8")
	type form struct {
		name, own string
		id        Identity
	}
	var forms []form
	for name, own := range map[string]string{"X-Forwarded-For": "203.0.113.9", "Forwarded": `proto="https";for="203.0.113.9:80"`} {
		forms = append(forms, form{name, own, clientIP(f, IPOptions{Trusted: trusted, Header: name})})
	}
	for _, s := range []string{"", "6.6.6.6", "6.6.6.6, ", `for="`, `for=6.6.6.6;x="\`, ",,,", `"\"`, "[::1]:80", "10.0.0.1", "unknown"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, written string) {
		for _, form := range forms {
			check := func(want string, lines ...string) {
				t.Helper()
				r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{form.name: lines}}
				if key, ok := form.id(r); !ok || want != "" && key != want {
					t.Errorf("%s %q: %q, %v; want %q", form.name, lines, key, ok, want)
				}
			}
			check("203.0.113.9", written, form.own)
			check("203.0.113.9", written+", "+form.own)
			check("", written) // no panic, and somebody
		}
	})
}
