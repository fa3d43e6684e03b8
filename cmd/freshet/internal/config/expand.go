package config

import (
	"fmt"
	"strings"
)

// expand puts in what the environment has: ${VAR}, ${VAR:-default} where the variable is missing or empty, $$ for a dollar. problem says what is
// wrong with the text; env that something was put in.
func expand(text string, lookup func(string) (string, bool)) (out string, env bool, problem string) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		b.WriteString(before)
		switch {
		case !found:
			return b.String(), env, ""
		case strings.HasPrefix(rest, "$"):
			b.WriteByte('$')
			text = rest[1:]
		case strings.HasPrefix(rest, "{"):
			inner, after, closed := strings.Cut(rest[1:], "}")
			name, instead, given := strings.Cut(inner, ":-")
			switch {
			case !closed:
				return "", env, "has a ${ that isn't closed; want ${VAR}, or $$ for a dollar"
			case !isVariable(name):
				return "", env, fmt.Sprintf("has ${%s}; want the name of a variable: letters, digits and underscores", masking(inner))
			case strings.Contains(instead, "$"):
				return "", env, fmt.Sprintf("has a $ in the default of ${%s}; want plain text there", name)
			}
			value, ok := lookup(name)
			switch {
			case given && value == "":
				value = instead
			case !ok:
				return "", env, fmt.Sprintf("needs the environment variable %s, which isn't set; set it, or write ${%s:-default}", name, name)
			}
			b.WriteString(value)
			env = true
			text = after
		default:
			return "", env, "has a $ that begins nothing; want ${VAR}, or $$ for a dollar"
		}
	}
}

func isVariable(name string) bool {
	for i, r := range name {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}
