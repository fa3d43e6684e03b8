package proxy

import (
	"strconv"
	"strings"
)

// An encoding is what a load asks the origin for. Clients send a hundred different
// Accept-Encoding fields; the origin sees two, and each has its own key.
type encoding uint8

const (
	encodingPlain encoding = iota // identity
	encodingGzip                  // gzip, and identity as well
	encodingOther                 // the client refuses the plain form
)

// header is the Accept-Encoding of the load.
func (e encoding) header() string {
	if e == encodingGzip {
		return "gzip"
	}
	return "identity"
}

// takes reports whether a client of this encoding understands an answer.
func (e encoding) takes(contentEncoding []string) bool {
	for _, line := range contentEncoding {
		for c := range strings.SplitSeq(line, ",") {
			switch strings.ToLower(strings.TrimSpace(c)) {
			case "", "identity":
			case "gzip", "x-gzip":
				if e != encodingGzip {
					return false
				}
			default:
				return false
			}
		}
	}
	return true
}

// acceptedEncoding reduces Accept-Encoding to what the cache distinguishes.
func acceptedEncoding(lines []string) encoding {
	if len(lines) == 0 {
		return encodingPlain
	}
	const unset = -1.0
	gzip, identity, star := unset, unset, unset
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(item, ";")
			switch q := quality(params); strings.ToLower(strings.TrimSpace(name)) {
			case "gzip", "x-gzip":
				gzip = q
			case "identity":
				identity = q
			case "*":
				star = q
			}
		}
	}
	if identity == unset && star == 0 {
		identity = 0
	}
	switch {
	case identity == 0: // even if gzip is fine: what is stored may be plain
		return encodingOther
	case gzip > 0:
		return encodingGzip
	}
	return encodingPlain
}

// quality reads the weight of an item; what can't be read counts as refused.
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		name, value, ok := strings.Cut(strings.TrimSpace(p), "=")
		if !ok || !strings.EqualFold(name, "q") {
			continue
		}
		q, err := strconv.ParseFloat(value, 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return q
	}
	return 1
}
