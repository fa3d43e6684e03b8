//go:build unix

package readme

import (
	"fmt"
	"strings"
)

// A block is one fenced block of the document.
type block struct {
	line int    // of its first line of text, from 1
	lang string // first word after the fence
	text string
	marks
}

// marks is what the comments before a block ask for.
type marks struct {
	sameShell  bool     // goes on in the shell of the block before
	background string   // keep it running, and go on when it has printed this
	expect     []string // printed in this order
	file       string   // write the block there instead of running it
	output     bool     // the block is what the one before printed
	coveredBy  string   // every line stands in that file, which is run elsewhere
	with       string   // Go text that a fragment needs around it
}

// parse finds the fenced blocks of a document with their marks.
func parse(doc string) ([]block, error) {
	var blocks []block
	var next marks
	lines := strings.Split(doc, "\n")
	for i := 0; i < len(lines); i++ {
		text := strings.TrimSpace(lines[i])
		switch {
		case strings.HasPrefix(text, "<!--"):
			from := i
			for !strings.Contains(lines[i], "-->") {
				if i++; i == len(lines) {
					return nil, fmt.Errorf("line %d: comment has no end", from+1)
				}
			}
			comment := strings.Join(lines[from:i+1], "\n")
			comment, _, _ = strings.Cut(strings.TrimSpace(comment), "-->")
			mark, isMark := strings.CutPrefix(strings.TrimSpace(strings.TrimPrefix(comment, "<!--")), "test:")
			if !isMark {
				continue
			}
			if err := next.add(strings.TrimSpace(mark)); err != nil {
				return nil, fmt.Errorf("line %d: %w", from+1, err)
			}

		case strings.HasPrefix(text, "```"):
			fence := text[:len(text)-len(strings.TrimLeft(text, "`"))]
			lang, _, _ := strings.Cut(strings.TrimSpace(text[len(fence):]), " ")
			indent := lines[i][:strings.Index(lines[i], fence)]
			b := block{line: i + 2, lang: lang, marks: next}
			next = marks{}
			for i++; i < len(lines) && strings.TrimSpace(lines[i]) != fence; i++ {
				b.text += strings.TrimPrefix(lines[i], indent) + "\n"
			}
			if i == len(lines) {
				return nil, fmt.Errorf("line %d: block has no end", b.line-1)
			}
			blocks = append(blocks, b)

		case text != "" && next.any():
			return nil, fmt.Errorf("line %d: text between a test comment and its block", i+1)
		}
	}
	if next.any() {
		return nil, fmt.Errorf("line %d: test comment without a block", len(lines))
	}
	return blocks, nil
}

// add takes one comment's text after "test:".
func (m *marks) add(mark string) error {
	verb, arg, _ := strings.Cut(mark, "\n")
	quoted := func(prefix string) (string, bool) {
		s, ok := strings.CutPrefix(verb, prefix+` "`)
		s, closed := strings.CutSuffix(s, `"`)
		return s, ok && closed && s != ""
	}
	if text, ok := quoted("expect"); ok {
		m.expect = append(m.expect, text)
		return nil
	}
	if text, ok := quoted("background until"); ok {
		m.background = text
		return nil
	}
	if name, ok := strings.CutPrefix(verb, "file "); ok {
		m.file = strings.TrimSpace(name)
		return nil
	}
	if name, ok := strings.CutPrefix(verb, "covered by "); ok {
		m.coveredBy = strings.TrimSpace(name)
		return nil
	}
	switch verb {
	case "same shell":
		m.sameShell = true
	case "output":
		m.output = true
	case "with":
		m.with = arg
	default:
		return fmt.Errorf("unknown test comment %q; the package comment of internal/readme lists them", verb)
	}
	return nil
}

func (m *marks) any() bool {
	return m.sameShell || m.background != "" || len(m.expect) > 0 || m.file != "" || m.output || m.coveredBy != "" || m.with != ""
}
