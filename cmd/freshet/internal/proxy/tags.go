package proxy

import (
	"net/http"
	"strings"
)

// tagsOf returns the tags that the origin gives an answer: Surrogate-Key has blanks between them, Cache-Tag commas. Whoever drops one of
// them in the store, a pump for example, drops the answer. The fields go on to the client: a CDN in front may want them, too.
func tagsOf(h http.Header) (tags []string) {
	for _, line := range h["Surrogate-Key"] {
		tags = append(tags, strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })...) // not at every blank of Unicode
	}
	for _, line := range h["Cache-Tag"] {
		tags = append(tags, strings.FieldsFunc(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })...)
	}
	return tags
}
