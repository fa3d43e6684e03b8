package proxy

import (
	"net/http"
	"strings"
)

// A resource is what all representations of one URL share, and what a write to it
// makes invalid: the host and the URL exactly as they are forwarded. Keys never merge
// what the origin may tell apart, so nothing but the case of the host is normalised.
type resource struct {
	scheme string
	host   string
	uri    string // path and query
}

func resourceOf(r *http.Request) resource {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return resource{scheme: scheme, host: strings.ToLower(r.Host), uri: r.URL.RequestURI()}
}

// key is the name of one stored answer:
//
//	GET http://api.example.com/users/7?full=1
//	GET+gzip http://api.example.com/users/7?full=1
//
// Methods, encodings and hosts hold no space or slash, so two requests share a key only if they
// agree in all parts.
func (res resource) key(method string, e encoding) string {
	if e == encodingGzip {
		method += "+gzip"
	}
	return method + " " + res.scheme + "://" + res.host + res.uri
}

// keys lists every key under which an answer for the resource may be stored.
func (res resource) keys() []string {
	var keys []string
	for _, method := range [...]string{http.MethodGet, http.MethodHead} {
		for _, e := range [...]encoding{encodingPlain, encodingGzip} {
			keys = append(keys, res.key(method, e))
		}
	}
	return keys
}

// sibling is the resource that a Location or Content-Location of this one's answer names. It
// is false for another host: nobody may drop what isn't theirs (RFC 9111 §4.4).
func (res resource) sibling(r *http.Request, location string) (resource, bool) {
	if location == "" {
		return resource{}, false
	}
	u, err := r.URL.Parse(location)
	if err != nil || u.Host != "" && !strings.EqualFold(u.Host, res.host) || u.Opaque != "" {
		return resource{}, false
	}
	return resource{scheme: res.scheme, host: res.host, uri: u.RequestURI()}, true
}
