package mysqlcdc

import "strings"

// A statement is what a query event says that matters here.
type statement struct {
	kind    statementKind
	tables  []tableName // of schema and truncate
	xid     string      // of the kinds of XA, as it is written
	foreign bool        // schema: foreign keys may have changed
}

type tableName struct{ schema, name string }

func (t tableName) String() string { return t.schema + "." + t.name }

type statementKind uint8

const (
	unread    statementKind = iota // not understood, or rows change in a way that can't be told: the zero value is the safe one
	harmless                       // no row changes, no table does
	begins                         // BEGIN
	commits                        // COMMIT
	rollsBack                      // ROLLBACK of a whole group
	alters                         // tables
	truncates                      // tables
	xaStarts                       // the group is one of XA PREPARE
	xaCommits
	xaRollsBack
)

// parseStatement reads a statement of the binary log, as far as need be. schema is the default database. What isn't surely known is unread.
//
//	CREATE, ALTER, DROP, RENAME TABLE   alters
//	TRUNCATE                            truncates
//	other CREATE, ALTER, DROP           harmless, but for databases
//	GRANT, FLUSH, ANALYZE ...           harmless
//	all else: INSERT, CALL, LOAD ...    unread
func parseStatement(text, schema string) statement {
	p := &parser{scan: scanner{text: text}, schema: schema}
	p.next()
	switch first := p.word(); first {
	case "BEGIN", "START":
		if first == "START" && !p.follows("TRANSACTION") {
			return statement{}
		}
		return statement{kind: begins}
	case "COMMIT":
		return statement{kind: commits}
	case "ROLLBACK":
		p.next()
		if p.accept("WORK"); p.word() == "TO" {
			return statement{kind: harmless}
		}
		return statement{kind: rollsBack}
	case "XA":
		p.next()
		verb := p.word()
		p.next()
		from := p.tok.at
		xid := strings.Join(strings.Fields(strings.TrimRight(text[from:], "; \t\r\n")), "")
		xid = strings.TrimSuffix(xid, "ONEPHASE")
		kind := map[string]statementKind{"START": xaStarts, "BEGIN": xaStarts, "END": harmless, "PREPARE": harmless, "COMMIT": xaCommits, "ROLLBACK": xaRollsBack}[verb]
		return statement{kind: kind, xid: strings.ToLower(xid)}
	case "SAVEPOINT", "RELEASE", "GRANT", "REVOKE", "FLUSH", "ANALYZE", "OPTIMIZE", "REPAIR", "CHECK", "INSTALL", "UNINSTALL", "":
		if first == "" && p.tok.kind != endOfText {
			return statement{}
		}
		return statement{kind: harmless}
	case "SET":
		p.next()
		if w := p.word(); w == "PASSWORD" || w == "DEFAULT" || w == "RESOURCE" {
			return statement{kind: harmless}
		}
		return statement{}
	case "TRUNCATE":
		p.next()
		p.accept("TABLE")
		if t, ok := p.table(); ok {
			return statement{kind: truncates, tables: []tableName{t}}
		}
		return statement{}
	case "RENAME":
		p.next()
		if p.accept("USER") {
			return statement{kind: harmless}
		}
		if !p.accept("TABLE") && !p.accept("TABLES") {
			return statement{}
		}
		return p.renames()
	case "CREATE", "ALTER", "DROP":
		return p.definition(first)
	}
	return statement{}
}

// definition reads CREATE, ALTER and DROP after that word.
func (p *parser) definition(verb string) statement {
	temporary := false
	for p.next(); p.tok.kind != endOfText; p.next() {
		switch p.word() {
		case "TEMPORARY":
			temporary = true
		case "TABLE", "TABLES":
			p.next()
			switch {
			case temporary:
				return statement{kind: harmless}
			case verb == "DROP":
				return p.drops()
			}
			return p.defines()
		case "DATABASE", "SCHEMA":
			if verb == "DROP" {
				return statement{}
			}
			return statement{kind: harmless}
		case "INDEX", "VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "USER", "ROLE", "SERVER", "TABLESPACE", "LOGFILE", "PACKAGE", "SEQUENCE", "INSTANCE", "RESOURCE":
			return statement{kind: harmless}
		}
	}
	return statement{}
}

// defines reads CREATE TABLE and ALTER TABLE after TABLE. Other tables may be named later on: RENAME TO x, EXCHANGE PARTITION p WITH TABLE x.
func (p *parser) defines() statement {
	st := statement{kind: alters, foreign: true}
	p.exists()
	t, ok := p.table()
	if !ok {
		return statement{}
	}
	st.tables = append(st.tables, t)
	for p.tok.kind != endOfText {
		w := p.word()
		p.next()
		switch w {
		case "RENAME":
			if w := p.word(); w == "COLUMN" || w == "INDEX" || w == "KEY" {
				continue
			}
			if !p.accept("TO") && !p.accept("AS") {
				p.acceptMark('=')
			}
		case "TABLE":
		default:
			continue
		}
		if t, ok := p.table(); ok {
			st.tables = append(st.tables, t)
		}
	}
	return st
}

// drops reads DROP TABLE after TABLE.
func (p *parser) drops() statement {
	st := statement{kind: alters}
	p.exists()
	for {
		t, ok := p.table()
		if !ok {
			return statement{}
		}
		st.tables = append(st.tables, t)
		if !p.acceptMark(',') {
			return st
		}
	}
}

// renames reads RENAME TABLE after TABLE.
func (p *parser) renames() statement {
	st := statement{kind: alters, foreign: true}
	p.exists()
	for {
		for {
			t, ok := p.table()
			if !ok {
				return statement{}
			}
			st.tables = append(st.tables, t)
			for p.tok.kind == number || p.word() == "WAIT" || p.word() == "NOWAIT" {
				p.next()
			}
			if !p.accept("TO") {
				break
			}
		}
		if !p.acceptMark(',') {
			return st
		}
	}
}

// exists reads IF EXISTS or IF NOT EXISTS.
func (p *parser) exists() {
	if p.accept("IF") {
		p.accept("NOT")
		p.accept("EXISTS")
	}
}

// A parser is the token that was read last.
type parser struct {
	scan   scanner
	tok    token
	schema string
}

func (p *parser) next() { p.tok = p.scan.next() }

// word is the token as a keyword; empty if it can't be one.
func (p *parser) word() string {
	if p.tok.kind != word {
		return ""
	}
	return strings.ToUpper(p.tok.text)
}

func (p *parser) follows(w string) bool {
	p.next()
	return p.word() == w
}

func (p *parser) accept(w string) bool {
	if p.word() != w {
		return false
	}
	p.next()
	return true
}

func (p *parser) acceptMark(c byte) bool {
	if p.tok.kind != mark || p.tok.text[0] != c {
		return false
	}
	p.next()
	return true
}

// table reads "name" or "schema.name".
func (p *parser) table() (tableName, bool) {
	if !p.tok.names() {
		return tableName{}, false
	}
	t := tableName{p.schema, p.tok.text}
	if p.next(); p.acceptMark('.') {
		if !p.tok.names() {
			return tableName{}, false
		}
		t = tableName{t.name, p.tok.text}
		p.next()
	}
	return t, t.schema != ""
}

type tokenKind uint8

const (
	endOfText tokenKind = iota
	word                // also names without quotes
	quoted              // `name`, and "name"
	literal             // 'text'
	number
	mark // one other byte
)

type token struct {
	kind tokenKind
	text string // without quotes
	at   int
}

func (t token) names() bool { return t.kind == word || t.kind == quoted || t.kind == number }

// A scanner splits SQL into tokens. Comments are skipped, but those that the server executes are read.
type scanner struct {
	text string
	at   int
}

func (s *scanner) next() token {
	for s.at < len(s.text) {
		from, rest := s.at, s.text[s.at:]
		c := rest[0]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			s.at++
		case c == '#', strings.HasPrefix(rest, "--") && (len(rest) == 2 || rest[2] <= ' '):
			s.skipTo(rest, "\n")
		case strings.HasPrefix(rest, "/*!"), strings.HasPrefix(rest, "/*M!"):
			s.at += strings.IndexByte(rest, '!') + 1
			for s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9' {
				s.at++
			}
		case strings.HasPrefix(rest, "*/"):
			s.at += 2
		case strings.HasPrefix(rest, "/*"):
			s.skipTo(rest, "*/")
		case c == '`', c == '"':
			return token{quoted, s.quoted(c, false), from}
		case c == '\'':
			return token{literal, s.quoted(c, true), from}
		case inWord(c):
			n := 1
			digits := c >= '0' && c <= '9'
			for n < len(rest) && inWord(rest[n]) {
				digits = digits && rest[n] >= '0' && rest[n] <= '9'
				n++
			}
			s.at += n
			if digits {
				return token{number, rest[:n], from}
			}
			return token{word, rest[:n], from}
		default:
			s.at++
			return token{mark, rest[:1], from}
		}
	}
	return token{at: len(s.text)}
}

func (s *scanner) skipTo(rest, end string) {
	if i := strings.Index(rest, end); i >= 0 {
		s.at += i + len(end)
	} else {
		s.at = len(s.text)
	}
}

// quoted reads up to the closing quote; a doubled one is itself.
func (s *scanner) quoted(q byte, escapes bool) string {
	var b strings.Builder
	for s.at++; s.at < len(s.text); s.at++ {
		c := s.text[s.at]
		switch {
		case c == '\\' && escapes && s.at+1 < len(s.text):
			s.at++
			c = s.text[s.at]
		case c == q:
			if s.at++; s.at >= len(s.text) || s.text[s.at] != q {
				return b.String()
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

func inWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c >= 0x80 || c == '@'
}
