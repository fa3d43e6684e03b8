package replica

import (
	"fmt"
	"strings"
)

// A Token is a place in the log of a source: everything that was committed before it was taken. It is a freshet.Token.
// Its text has letters, digits and -._@/ only, so it may stand in a header, a cookie or a URL.
type Token struct {
	source string
	pos    Position
}

// NewToken returns the token of a place. source has letters, digits, dots, dashes and underscores.
func NewToken(source string, pos Position) (Token, error) {
	if !validSource(source) {
		return Token{}, fmt.Errorf("replica: source is %.110q; want 1 to 100 letters, digits, dots, dashes and underscores", source)
	}
	return Token{source, pos}, nil
}

// ParseToken reads what String wrote, and nothing else. Who may write such a text may choose how new his reads are, so what comes from outside
// should be signed.
func ParseToken(text string) (Token, error) {
	source, at, ok := strings.Cut(text, "@")
	if !ok {
		return Token{}, fmt.Errorf("replica: token is %.60q; want source@position", text)
	}
	pos, err := ParsePosition(at)
	if err != nil {
		return Token{}, fmt.Errorf("replica: token is %.200q: %w", text, err)
	}
	return NewToken(source, pos)
}

// String returns the token as ParseToken reads it: "shop-db@7312404012/1/0/16B3748". Of the zero Token it is empty.
func (t Token) String() string {
	if t.source == "" {
		return ""
	}
	return t.source + "@" + t.pos.String()
}

// Source returns the name of the source.
func (t Token) Source() string { return t.source }

// Position returns the place.
func (t Token) Position() Position { return t.pos }

// Covered reports whether a position of the source's mark is at or after the token. A later timeline is: its pump has dropped everything by
// the time it marks one, and what is left of the time before was visible then.
func (t Token) Covered(mark string) bool {
	p, err := ParsePosition(mark)
	if err != nil || p.System != t.pos.System {
		return false
	}
	return p.Timeline > t.pos.Timeline || p.Timeline == t.pos.Timeline && p.LSN >= t.pos.LSN
}

func validSource(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz"
	return s != "" && len(s) <= 100 && strings.Trim(s, letters+"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}
