package proxy

import (
	"net/http"
	"strings"
)

// notModified reports whether a client that sent these conditions already has the stored
// answer (RFC 9110 §13.2.2). Loads never carry the client's conditions, so the origin
// always sends the whole answer and one copy serves all.
func notModified(request, stored http.Header) bool {
	if none := request["If-None-Match"]; len(none) > 0 {
		etag := stored.Get("Etag")
		return etag != "" && matchesETag(none, etag)
	}
	since, modified := request.Get("If-Modified-Since"), stored.Get("Last-Modified")
	if since == "" || modified == "" {
		return false
	}
	s, err := http.ParseTime(since)
	if err != nil {
		return false
	}
	m, err := http.ParseTime(modified)
	return err == nil && !m.After(s)
}

// matchesETag compares weakly, as RFC 9110 §13.1.2 asks for If-None-Match.
func matchesETag(lines []string, etag string) bool {
	etag = strings.TrimPrefix(etag, "W/")
	for _, line := range lines {
		for line = strings.TrimLeft(line, " \t,"); line != ""; line = strings.TrimLeft(line, " \t,") {
			if line[0] == '*' {
				return true
			}
			line = strings.TrimPrefix(line, "W/")
			if line == "" || line[0] != '"' {
				break // not a list of entity tags: no match
			}
			end := strings.IndexByte(line[1:], '"')
			if end < 0 {
				break
			}
			if line[:end+2] == etag {
				return true
			}
			line = line[end+2:]
		}
	}
	return false
}

// notModifiedFields are what a 304 repeats of the stored header (RFC 9110 §15.4.5).
var notModifiedFields = [...]string{
	"Cache-Control", "Content-Location", "Date", "Etag", "Expires", "Vary", "Cache-Status",
	"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers",
}
