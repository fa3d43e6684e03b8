package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/freshetdev/freshet/limit/httplimit"
)

// A Response is a stored answer: always a complete 200. It is shared by everybody who
// reads it and must not be changed.
type Response struct {
	// Header holds the end-to-end fields. Age and Content-Length are left out, since they
	// are made anew for each client; Set-Cookie is never in it, nor is what tells one client of its limits.
	Header http.Header
	Body   []byte

	Length int64         // Content-Length of the answer; -1: unknown (only for HEAD)
	Age    time.Duration // how old it was when its load began
}

// size is what an answer weighs in memory, roughly.
func (s *Response) size() int {
	n := 256 + len(s.Body)
	for name, values := range s.Header {
		n += 48 + len(name)
		for _, v := range values {
			n += 16 + len(v)
		}
	}
	return n
}

// newResponse makes what is stored of a response: no fields that belong to the
// connection, and none that are made anew.
func newResponse(resp *http.Response, body []byte, head bool, received time.Time, age time.Duration) *Response {
	h := resp.Header.Clone()
	removeHopByHop(h)
	for name := range h {
		if isNotStored(name) {
			delete(h, name)
		}
	}
	if h.Get("Date") == "" { // RFC 9110 §6.6.1
		h.Set("Date", received.UTC().Format(http.TimeFormat))
	}
	for name, values := range h {
		h[name] = slices.Clip(values) // an append by a later writer must copy
	}
	s := &Response{Header: h, Body: body, Length: int64(len(body)), Age: age}
	if head {
		s.Length = resp.ContentLength
	}
	return s
}

var notStored = [...]string{"Age", "Content-Length", "Set-Cookie", "Set-Cookie2"}

// hopByHop are the fields of one connection (RFC 9110 §7.6.1), with those that old
// software sends without listing them in Connection.
var hopByHop = [...]string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Authentication-Info", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// isNotStored says it of a name in canonical form.
func isNotStored(name string) bool {
	return slices.Contains(notStored[:], name) || httplimit.IsField(name)
}

func removeHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// replayable reports whether a header is fit to be sent again: tokens as names, no control
// characters in values. What comes back from the store passes the same check.
func replayable(h http.Header) bool {
	for name, values := range h {
		if !isToken(name) {
			return false
		}
		for _, v := range values {
			for i := range len(v) {
				if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
					return false
				}
			}
		}
	}
	return true
}

func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// The bytes of a stored answer, in the payload of a record (see docs/wire.md); v is an
// unsigned varint, v+n a varint length and that many bytes:
//
//	1    format, 1
//	v    age when its load began, in milliseconds
//	v    Content-Length + 1, 0 if unknown
//	v    number of field lines, and for each, sorted by name
//	     v+n name, v+n value
//	v+n  body
const responseFormat = 1

// ErrResponse is returned for bytes that are no stored answer.
var ErrResponse = errors.New("proxy: not a stored response")

// append encodes the answer at the end of b.
func (s *Response) append(b []byte) []byte {
	b = append(b, responseFormat)
	b = binary.AppendUvarint(b, uint64(max(0, s.Age.Milliseconds())))
	b = binary.AppendUvarint(b, uint64(s.Length+1))
	names, lines := make([]string, 0, len(s.Header)), 0
	for name, values := range s.Header {
		names = append(names, name)
		lines += len(values)
	}
	slices.Sort(names)
	b = binary.AppendUvarint(b, uint64(lines))
	for _, name := range names {
		for _, v := range s.Header[name] {
			b = appendString(b, name)
			b = appendString(b, v)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(s.Body)))
	return append(b, s.Body...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decodeResponse reads what append wrote. The body is copied, so b may be reused.
func decodeResponse(b []byte) (*Response, error) {
	if len(b) == 0 || b[0] != responseFormat {
		return nil, fmt.Errorf("%w: unknown format", ErrResponse)
	}
	d := decoder{rest: b[1:]}
	age, length, lines := d.uvarint(), d.uvarint(), d.uvarint()
	if lines > uint64(len(d.rest)) || age > uint64(maxAgeMillis) || length > 1<<62 {
		return nil, fmt.Errorf("%w: number out of range", ErrResponse)
	}
	s := &Response{Header: make(http.Header, lines), Length: int64(length) - 1, Age: time.Duration(age) * time.Millisecond}
	for range lines {
		name, value := string(d.bytes()), string(d.bytes())
		s.Header[name] = append(s.Header[name], value)
	}
	s.Body = slices.Clone(d.bytes())
	for name, values := range s.Header {
		s.Header[name] = slices.Clip(values)
	}
	switch {
	case d.short || len(d.rest) > 0:
		return nil, fmt.Errorf("%w: wrong length", ErrResponse)
	case len(s.Body) > 0 && int64(len(s.Body)) != s.Length:
		return nil, fmt.Errorf("%w: the body is not of its Content-Length", ErrResponse)
	case !replayable(s.Header):
		return nil, fmt.Errorf("%w: invalid field", ErrResponse)
	}
	for name := range s.Header {
		if isNotStored(name) {
			return nil, fmt.Errorf("%w: field %s must not be stored", ErrResponse, name)
		}
	}
	return s, nil
}

const maxAgeMillis = int64(1<<63-1) / int64(time.Millisecond)

// A decoder cuts values from rest; once that was too short, it returns zeros.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.short, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.short, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}
