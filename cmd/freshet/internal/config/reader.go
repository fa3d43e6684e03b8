package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What a file may hold: more is a mistake, or an alias of aliases of aliases.
const (
	maxNodes   = 1 << 16
	maxAliases = 32 // one behind the other
	maxDepth   = 100
	maxErrors  = 50 // that are told
)

// A reader follows the nodes of a file by itself instead of having structs filled: it knows where everything stands, goes on after a
// mistake, and takes 1.10 for 1.10.
type reader struct {
	src     *text
	lookup  func(string) (string, bool)
	at      map[string]span // of keys, by their paths
	anchors map[string]ast.Node
	nodes   int
	errs    Errors
	known   map[string][]string // keys that a mapping may have, by its path: for tests
	given   map[string]bool     // keys that were read, by their paths: likewise
}

func newReader(file string, content []byte, lookup func(string) (string, bool)) *reader {
	return &reader{
		src: newText(file, content), lookup: lookup, at: map[string]span{}, anchors: map[string]ast.Node{},
		known: map[string][]string{}, given: map[string]bool{},
	}
}

// parse returns the node of the file; nil if there is none, which was complained of.
func (r *reader) parse(content []byte) (root ast.Node) {
	whole := func(at span, problem string) { r.errs = append(r.errs, r.src.mistake("", at, problem)) }
	if len(content) > maxFile {
		whole(span{}, fmt.Sprintf("the file has %d bytes; want at most %d", len(content), maxFile))
		return nil
	}
	defer func() {
		// The parser is for the input of friends; what makes it stumble is a mistake like others.
		if p := recover(); p != nil {
			root = nil
			whole(span{}, "can't be read as YAML")
		}
	}()
	tokens := lexer.Tokenize(string(content))
	depth, some := 0, false
	dashes, line := 0, 0 // in one line, each of which is a list in the one before
	for _, t := range tokens {
		if t.Position != nil && t.Position.Line != line {
			dashes, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.SequenceEntryType:
			dashes++
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.DocumentHeaderType:
			if some {
				whole(spanOf(t), "a second document begins here; want one in a file")
				return nil
			}
		}
		if depth+dashes > maxDepth {
			whole(spanOf(t), fmt.Sprintf("is nested deeper than %d levels", maxDepth))
			return nil
		}
		some = some || t.Type != token.CommentType
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var at yaml.Error
		if !errors.As(err, &at) || at.GetToken() == nil {
			whole(span{}, "can't be read as YAML: "+masking(err.Error()))
			return nil
		}
		whole(spanOf(at.GetToken()), "can't be read as YAML: "+masking(at.GetMessage()))
		return nil
	}
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.NullType {
			return doc.Body
		}
	}
	whole(span{}, "the file is empty; want store and cdc, see docs/watch.md")
	return nil
}

// sorted are the mistakes in the order of the file.
func (r *reader) sorted() Errors {
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	if len(r.errs) > maxErrors {
		r.errs = r.errs[:maxErrors]
	}
	return r.errs
}

func (r *reader) complain(key string, at span, format string, args ...any) {
	problem := fmt.Sprintf(format, args...)
	if key == "" {
		problem = "the file " + problem
	}
	r.errs = append(r.errs, r.src.mistake(key, at, problem))
}

// A field is what the reader does with the value of a key.
type field func(key string, n ast.Node)

func under(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// parent is the path above; an item of a list is below the list.
func parent(key string) string {
	return key[:max(strings.LastIndexByte(key, '.'), strings.LastIndexByte(key, '['), 0)]
}

// resolve is the node behind anchors and aliases; nil if it has no value, or that was complained of.
func (r *reader) resolve(key string, n ast.Node, want string) ast.Node {
	if r.nodes++; r.nodes > maxNodes {
		if r.nodes == maxNodes+1 {
			r.complain(key, spanAt(n), "is too much: the file has more than %d values, those of aliases included", maxNodes)
		}
		return nil
	}
	for range maxAliases {
		switch at := n.(type) {
		case *ast.AnchorNode:
			r.anchors[at.Name.GetToken().Value] = at.Value
			n = at.Value
		case *ast.AliasNode:
			name := at.Value.GetToken().Value
			to := r.anchors[name]
			if to == nil {
				r.complain(key, spanAt(n), "is the alias *%s; no anchor before it has that name", name)
				return nil
			}
			n = to
		case *ast.TagNode:
			r.complain(key, spanAt(n), "has the tag %s; want none", at.Start.Value)
			return nil
		case *ast.NullNode, nil:
			where := r.at[key]
			if n != nil && n.GetToken() != nil && n.GetToken().Type == token.NullType {
				where = spanAt(n)
			}
			r.complain(key, where, "has no value; want %s", want)
			return nil
		default:
			return n
		}
	}
	r.complain(key, spanAt(n), "is an alias of itself")
	return nil
}

// mapping reads a mapping whose keys are those of fields, and returns which it has; nil if it is none.
func (r *reader) mapping(key string, n ast.Node, fields map[string]field) map[string]bool {
	known := slices.Sorted(maps.Keys(fields))
	r.known[key] = known
	return r.entries(key, n, "a mapping of "+strings.Join(known, ", "), func(name string) field { return fields[name] }, func(name string) string {
		if places := placesOf(name, key); places != "" {
			return "isn't known here; it belongs " + places
		}
		return "isn't known here" + didYouMean(name, known)
	})
}

// entries reads a mapping of any keys: each says what to do with one, or nil if it is none, which unknown explains.
func (r *reader) entries(key string, n ast.Node, want string, each func(name string) field, unknown func(name string) string) map[string]bool {
	to := r.resolve(key, n, want)
	if to == nil {
		return nil
	}
	m, ok := to.(ast.MapNode)
	if !ok {
		r.complain(key, spanAt(to), "is %s; want %s", r.shown(to), want)
		return nil
	}
	given := map[string]bool{}
	for pairs := m.MapRange(); pairs.Next(); {
		where := spanAt(pairs.Key())
		if pairs.Key().IsMergeKey() {
			r.complain(key, where, "has <<, which isn't known; write the keys out, or use an alias for a whole value")
			continue
		}
		name, isText := scalarOf(pairs.Key())
		path := under(key, name)
		switch read := each(name); {
		case !isText:
			r.complain(key, where, "has a key that is no text")
		case given[name]:
			r.complain(path, where, "is given twice; the first is in line %d", r.at[path].line)
		case read == nil:
			given[name] = true
			r.at[path] = where
			r.complain(path, where, "%s", unknown(name))
		default:
			given[name] = true
			r.given[path] = true
			r.at[path] = where
			read(path, pairs.Value())
		}
	}
	return given
}

// list reads a list, at least one item long.
func (r *reader) list(key string, n ast.Node, want string, each field) {
	to := r.resolve(key, n, want)
	if to == nil {
		return
	}
	l, ok := to.(*ast.SequenceNode)
	switch {
	case !ok:
		r.complain(key, spanAt(to), "is %s; want %s", r.shown(to), want)
	case len(l.Values) == 0:
		r.complain(key, r.at[key], "is empty; want %s", want)
	default:
		for i, n := range l.Values {
			path := fmt.Sprintf("%s[%d]", key, i)
			r.at[path] = spanAt(n)
			each(path, n)
		}
	}
}

// value reads a scalar. parse says what its text means, want what it should be.
func value[T any](r *reader, to *T, want string, parse func(text string) (T, bool)) field {
	return func(key string, n ast.Node) {
		at := r.resolve(key, n, want)
		if at == nil {
			return
		}
		written, ok := scalarOf(at)
		if !ok {
			r.complain(key, spanAt(at), "is %s; want %s", r.shown(at), want)
			return
		}
		text, env, problem := expand(written, r.lookup)
		if problem != "" {
			r.complain(key, spanAt(at), "%s", problem)
			return
		}
		v, ok := parse(text)
		switch {
		case ok:
			*to = v
		case env:
			r.complain(key, spanAt(at), "is %s, and what the environment has for it is wrong; want %s", r.shown(at), want)
		default:
			r.complain(key, spanAt(at), "is %s; want %s", r.shown(at), want)
		}
	}
}

func (r *reader) text(to *string, want string, fine func(string) bool) field {
	return value(r, to, want, func(text string) (string, bool) { return text, fine(text) })
}

func (r *reader) truth(to *bool) field {
	return value(r, to, "true or false", func(text string) (bool, bool) { return text == "true", text == "true" || text == "false" })
}

func (r *reader) number(to *int, most int) field {
	return value(r, to, fmt.Sprintf("a number from 1 to %d", most), func(text string) (int, bool) {
		n, err := strconv.Atoi(text)
		return n, err == nil && n >= 1 && n <= most && text[0] != '0' && text[0] != '+'
	})
}

func (r *reader) texts(to *[]string, want string) field {
	return func(key string, n ast.Node) {
		r.list(key, n, want, func(key string, n ast.Node) {
			var s string
			value(r, &s, "a text", func(text string) (string, bool) { return text, true })(key, n)
			*to = append(*to, s)
		})
	}
}

// shown is a node in a complaint: as it is written, without what the environment has or what may be a password.
func (r *reader) shown(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	s, _ := scalarOf(n)
	return fmt.Sprintf("%.100q", masking(s))
}

// scalarOf is the text of a scalar.
func scalarOf(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimRight(n.Value.Value, "\n"), true
	case *ast.MappingKeyNode:
		return scalarOf(n.Value)
	case ast.ScalarNode:
		if t := n.GetToken(); t != nil {
			return t.Value, true
		}
	}
	return "", false
}

// spanAt is where a node stands.
func spanAt(n ast.Node) span {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 { // else its token is the first colon
			n = m.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	if n == nil {
		return span{}
	}
	return spanOf(n.GetToken())
}

func spanOf(t *token.Token) span {
	if t == nil || t.Position == nil {
		return span{}
	}
	width := len([]rune(t.Value))
	if t.Type == token.SingleQuoteType || t.Type == token.DoubleQuoteType {
		width += 2
	}
	return span{t.Position.Line, t.Position.Column, width}
}
