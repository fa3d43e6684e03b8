package proxy

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// cacheControl is what the directives of a message say. Where it is repeated or
// contradicts itself, the stricter reading wins.
type cacheControl struct {
	noStore, noCache, private, mustRevalidate bool

	maxAge  directiveSeconds
	sMaxAge directiveSeconds
}

// directiveSeconds is the argument of max-age and the like. A present argument that is no
// number counts as zero: it was meant to limit something.
type directiveSeconds struct {
	present bool
	d       time.Duration
}

func (s *directiveSeconds) add(arg string) {
	d := parseSeconds(arg)
	if !s.present || d < s.d {
		s.present, s.d = true, d
	}
}

// parseSeconds reads delta-seconds, saturating; anything else is zero.
func parseSeconds(s string) time.Duration {
	const most = math.MaxInt64 / int64(time.Second)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
	}
	n, _ := strconv.ParseInt(s, 10, 64) // digits only, so the one error left saturates
	return time.Duration(min(n, most)) * time.Second
}

// parseCacheControl reads Cache-Control and, just as strictly, the targeted fields of
// RFC 9213 that a shared cache might obey: a "no" in any of them is a no.
func parseCacheControl(h http.Header) cacheControl {
	var c cacheControl
	for _, name := range [...]string{"Cache-Control", "Cdn-Cache-Control", "Surrogate-Control"} {
		for _, line := range h[name] {
			for line != "" {
				var directive string
				directive, line = nextDirective(line)
				c.add(directive)
			}
		}
	}
	return c
}

// add takes one directive. no-cache and private with field names count as without:
// to honor them field by field is left to package httpcache.
func (c *cacheControl) add(directive string) {
	name, arg, _ := strings.Cut(directive, "=")
	arg = strings.Trim(strings.TrimSpace(arg), `"`)
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "no-store":
		c.noStore = true
	case "no-cache":
		c.noCache = true
	case "private":
		c.private = true
	case "must-revalidate", "proxy-revalidate":
		c.mustRevalidate = true
	case "max-age":
		c.maxAge.add(arg)
	case "s-maxage":
		c.sMaxAge.add(arg)
	}
}

// nextDirective cuts the text before the next comma outside quotes.
func nextDirective(s string) (directive, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if quoted {
				i++
			}
		case '"':
			quoted = !quoted
		case ',':
			if !quoted {
				return s[:i], s[i+1:]
			}
		}
	}
	if quoted { // never closed: don't let a lone quote hide what follows
		if i := strings.IndexByte(s, ','); i >= 0 {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
