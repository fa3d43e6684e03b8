package httplimit

import "strings"

// Both lists are read from the right. What a proxy appended is well-formed whatever the client wrote before it, so
// from that side nothing that the client wrote can change how it is read. From the left it could: a quote
// that the client opens would swallow what the proxy appended.

const space = " \t"

// lastInList cuts the last entry off a comma-separated list of addresses, as X-Forwarded-For has them.
func lastInList(list string) (rest, addr string) {
	if comma := strings.LastIndexByte(list, ','); comma >= 0 {
		list, rest = list[comma+1:], list[:comma]
	}
	return rest, strings.Trim(list, space)
}

// lastForwarded cuts the last element off a Forwarded field (RFC 7239 §4), and returns its for parameter; empty if it
// has none, or can't be read.
func lastForwarded(list string) (rest, addr string) {
	element := list
	if comma := lastOutsideQuotes(list, ','); comma >= 0 {
		element, rest = list[comma+1:], list[:comma]
	}
	found := false
	for element != "" {
		pair := element
		if semicolon := lastOutsideQuotes(element, ';'); semicolon >= 0 {
			pair, element = element[semicolon+1:], element[:semicolon]
		} else {
			element = ""
		}
		name, value, ok := strings.Cut(strings.Trim(pair, space), "=")
		if !ok {
			return rest, "" // no pair
		}
		if !strings.EqualFold(name, "for") {
			continue
		}
		if found {
			return rest, "" // a parameter stands once at most
		}
		found = true
		if addr, ok = unquote(value); !ok {
			return rest, ""
		}
	}
	return rest, addr
}

// lastOutsideQuotes is the index of the last c that stands outside of quoted strings, as seen from the right; -1 if
// there is none.
func lastOutsideQuotes(s string, c byte) int {
	quoted := false
	for i := len(s) - 1; i >= 0; i-- {
		switch {
		case s[i] == '"':
			// Within a string, an odd number of backslashes before makes it a part of that.
			if !quoted || !escaped(s[:i]) {
				quoted = !quoted
			}
		case s[i] == c && !quoted:
			return i
		}
	}
	return -1
}

func escaped(before string) bool {
	n := len(before)
	for n > 0 && before[n-1] == '\\' {
		n--
	}
	return (len(before)-n)%2 == 1
}

// unquote reads a token or a quoted string. Addresses need no escapes, so what has some is none.
func unquote(s string) (string, bool) {
	if strings.HasPrefix(s, `"`) {
		if len(s) < 2 || !strings.HasSuffix(s, `"`) {
			return "", false
		}
		s = s[1 : len(s)-1]
	}
	return s, !strings.ContainsAny(s, `"\`)
}
