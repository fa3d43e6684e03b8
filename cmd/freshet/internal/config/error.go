package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// An Error is one thing that is wrong with a file.
type Error struct {
	File         string
	Line, Column int    // from 1
	Key          string // "cdc.shop-db.postgres.slot"; empty if it is about the whole file
	Problem      string // "isn't known here; did you mean slot?"

	excerpt string // the line, and carets below
}

// Message is "cdc.shop-db.postgres.slott isn't known here; did you mean slot?"
func (e *Error) Message() string {
	if e.Key == "" {
		return e.Problem
	}
	return e.Key + " " + e.Problem
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s%s", e.File, e.Line, e.Column, e.Message(), e.excerpt)
}

// Errors are all that is wrong with a file, in its order.
type Errors []*Error

func (es Errors) Error() string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap lets errors.As find the single ones.
func (es Errors) Unwrap() []error {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e
	}
	return all
}

// A span is a piece of a line, counted in characters from 1.
type span struct{ line, column, width int }

// A text is a file's, for excerpts.
type text struct {
	file  string
	lines []string
}

func newText(file string, content []byte) *text {
	return &text{file, strings.Split(strings.ReplaceAll(string(content), "\r\n", "\n"), "\n")}
}

func (t *text) mistake(key string, at span, problem string) *Error {
	at.line, at.column = max(at.line, 1), max(at.column, 1)
	return &Error{File: t.file, Line: at.line, Column: at.column, Key: key, Problem: problem, excerpt: t.excerpt(at)}
}

// longest is how much of a line is shown.
const longest = 160

// excerpt shows the line, without its secrets, and carets below the span:
//
//	12 |       slott: freshet_shop
//	   |       ^^^^^
func (t *text) excerpt(at span) string {
	if at.line > len(t.lines) || strings.TrimSpace(t.lines[at.line-1]) == "" {
		return ""
	}
	line := []rune(strings.ReplaceAll(t.lines[at.line-1], "\t", " "))
	from := min(at.column-1, len(line))
	to := min(from+max(at.width, 1), len(line))
	// Secrets are cut out before and after, and the span moves along.
	shown, places := mask(string(line))
	from, to = moved(from, places), moved(to, places)
	line = []rune(shown)
	if skip := from - longest/2; len(line) > longest && skip > 0 {
		line = append([]rune("…"), line[skip:]...)
		from, to = from-skip+1, to-skip+1
	}
	if len(line) > longest {
		line = append(line[:longest], '…')
	}
	for i, r := range line {
		if r < ' ' || r == 0x7f {
			line[i] = '?' // a terminal might obey
		}
	}
	number := fmt.Sprintf("%4d", at.line)
	return fmt.Sprintf("\n%s | %s\n%s | %s%s", number, strings.TrimRight(string(line), " "),
		strings.Repeat(" ", len(number)), strings.Repeat(" ", from), strings.Repeat("^", max(min(to, len(line))-from, 1)))
}

// A place is where something was replaced, in characters.
type place struct{ from, to, width int }

// moved is where a character is after that.
func moved(at int, places []place) int {
	shift := 0
	for _, p := range places {
		switch {
		case at >= p.to:
			shift += p.width - (p.to - p.from)
		case at > p.from:
			return p.from + shift
		}
	}
	return at + shift
}

// What may be a secret in a line, well formed or not: all from :// to the last @; of a text without scheme, what stands between a colon and an
// @; what follows a name like password= or token: ; and, without an @, what stands where a password would, unless it is a port.
var secrets = regexp.MustCompile(`://(.*@)|[^\s:/@"']:([^\s:/@][^\s@]*)@|` +
	`(?i:pass(?:word|wd|phrase)?|secret|token)["']?[=:] *([^\s&,}]+)|://[^\s/:@"']*:([^\s/@"'},\]]*[^\s/@"'},\]0-9][^\s/@"'},\]]*)`)

const masked = "xxxxx"

// mask takes secrets out of a line.
func mask(line string) (string, []place) {
	var b strings.Builder
	var places []place
	done := 0
	for _, m := range secrets.FindAllStringSubmatchIndex(line, -1) {
		for g := 2; g < len(m); g += 2 {
			from, to := m[g], m[g+1]
			if from < 0 {
				continue
			}
			keep := ""
			if g == 2 { // the user and the @ may stay
				keep = "@"
			}
			b.WriteString(line[done:from] + masked + keep)
			places = append(places, place{len([]rune(line[:from])), len([]rune(line[:to])), len(masked) + len(keep)})
			done = to
		}
	}
	return b.String() + line[done:], places
}

func masking(s string) string {
	s, _ = mask(s)
	return s
}

// A URL may hold a password: printed, it doesn't.
type URL string

// Reveal returns it with the password.
func (u URL) Reveal() string { return string(u) }

// String returns it without password and options.
func (u URL) String() string {
	s, _, _ := strings.Cut(masking(string(u)), "?")
	return s
}

// GoString is String, for %#v.
func (u URL) GoString() string { return u.String() }

// MarshalText is String, for JSON.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// scheme is what stands before ://, and whether that is there.
func (u URL) scheme() (string, bool) {
	scheme, _, ok := strings.Cut(string(u), ":")
	return scheme, ok && scheme != "" && strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz0123456789+.-") == ""
}

// didYouMean is "; did you mean slot?", or what is known.
func didYouMean(name string, known []string) string {
	if best := Nearest(name, known); best != "" {
		return "; did you mean " + best + "?"
	}
	known = slices.Clone(known)
	slices.Sort(known)
	return "; want " + strings.Join(known, ", ")
}

// Nearest is which of the known names is what somebody meant; empty if none is like it.
func Nearest(name string, known []string) string {
	best, least := "", 1+max(1, len(name)/3)
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is how many characters were left out, added, mistaken or swapped with the next.
func distance(a, b string) int {
	const far = 1 << 10
	if len(a) > 100 || len(b) > 100 {
		return far
	}
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(x)][len(y)]
}
