package rls

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// ReadConfig reads files, and the files *.yaml and *.yml of folders, in the order of their names. Each file holds one domain, or several as YAML
// documents. The Config is checked; all that is wrong is reported at once, as [ConfigError] joined.
func ReadConfig(paths ...string) (*Config, error) {
	var files []string
	for _, path := range paths {
		list, err := filesOf(path)
		if err != nil {
			return nil, err
		}
		files = append(files, list...)
	}
	var config Config
	var errs []error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("rls: %w", err)
		}
		domains, err := parse(file, text)
		errs = append(errs, err)
		config.Domains = append(config.Domains, domains...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return checked(&config)
}

// ParseConfig is ReadConfig for the text of one file; name is for errors.
func ParseConfig(name string, text []byte) (*Config, error) {
	domains, err := parse(name, text)
	if err != nil {
		return nil, err
	}
	return checked(&Config{Domains: domains})
}

func checked(c *Config) (*Config, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return c, nil
}

// filesOf is the file path, or the files of the folder path.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("rls: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("rls: %w", err)
	}
	var files []string
	for _, e := range entries {
		file := filepath.Join(path, e.Name())
		if ext := filepath.Ext(file); (ext != ".yaml" && ext != ".yml") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		// Kubernetes mounts files as links.
		if info, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("rls: %w", err)
		} else if !info.IsDir() {
			files = append(files, file)
		}
	}
	if files == nil {
		return nil, fmt.Errorf("rls: folder %s has no file *.yaml or *.yml", path)
	}
	return files, nil
}

// What a file may hold: more is a mistake, or an alias of aliases of aliases.
const (
	maxDepth  = 32
	maxNodes  = 1 << 18
	maxErrors = 100 // of a file, that are reported
)

// parse reads the domains of a file. It follows the nodes by itself instead of filling structs with them: 1.10 as a value must stay
// 1.10, and 1.5 is no number of requests.
func parse(file string, text []byte) (_ []Domain, err error) {
	r := &reader{file: file, anchors: map[string]ast.Node{}}
	defer func() {
		// The parser is for input of friends; what makes it stumble is an error like others.
		if p := recover(); p != nil {
			err = &ConfigError{File: file, Line: 1, Column: 1, Problem: fmt.Sprintf("can't be read as YAML: %v", p)}
		}
	}()
	tokens := lexer.Tokenize(string(text))
	if at := emptyDocument(tokens); at != nil {
		return nil, &ConfigError{File: file, Line: at.Line, Column: at.Column, Problem: "the document before this is empty; want a domain and its descriptors"}
	}
	parsed, err := parser.Parse(tokens, 0)
	if err != nil {
		e := &ConfigError{File: file, Line: 1, Column: 1, Problem: err.Error()}
		var at yaml.Error
		if errors.As(err, &at) {
			e.Problem = at.GetMessage()
			if t := at.GetToken(); t != nil && t.Position != nil {
				e.Line, e.Column = t.Position.Line, t.Position.Column
			}
		}
		return nil, e
	}
	var domains []Domain
	for _, doc := range parsed.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType {
			continue
		}
		r.at = map[string]position{}
		d := Domain{source: &source{file: file, at: r.at}}
		r.note("", doc.Body)
		r.domain(doc.Body, &d)
		domains = append(domains, d)
	}
	if len(r.errs) == 0 && domains == nil {
		return nil, &ConfigError{File: file, Line: 1, Column: 1, Problem: "the file is empty; want a domain and its descriptors"}
	}
	return domains, errors.Join(r.errs...)
}

// emptyDocument is where the document ends that has nothing in it, though others follow; nil if there is none. The parser leaves out all
// that comes after one: limits would be lost without a word.
func emptyDocument(tokens token.Tokens) *token.Position {
	var before *token.Token
	for _, t := range tokens {
		if t.Type == token.CommentType {
			continue
		}
		if t.Type == token.DocumentHeaderType && before != nil && before.Type == token.DocumentHeaderType {
			return t.Position
		}
		before = t
	}
	return nil
}

// A reader makes domains of nodes. Keys are as in ConfigError.
type reader struct {
	file    string
	at      map[string]position
	anchors map[string]ast.Node
	nodes   int
	errs    []error
}

// A field is what the reader does with the value of a key.
type field func(key string, n ast.Node)

func (r *reader) domain(n ast.Node, d *Domain) {
	r.mapping("", n, 0, map[string]field{
		"domain":      r.text(&d.Name),
		"slot_by":     r.text(&d.SlotBy),
		"descriptors": r.descriptors(&d.Descriptors, 1),
	})
}

func (r *reader) descriptors(to *[]Descriptor, depth int) field {
	return func(key string, n ast.Node) {
		r.sequence(key, n, func(key string, n ast.Node) {
			var d Descriptor
			r.mapping(key, n, depth, map[string]field{
				"key":             r.text(&d.Key),
				"value":           r.text(&d.Value),
				"rate_limit":      r.rateLimit(&d.RateLimit, depth),
				"descriptors":     r.descriptors(&d.Descriptors, depth+1),
				"shadow_mode":     r.truth(&d.ShadowMode),
				"share_threshold": r.truth(&d.ShareThreshold),
				"detailed_metric": r.truth(&d.DetailedMetric),
				"value_to_metric": r.truth(&d.ValueToMetric),
			})
			*to = append(*to, d)
		})
	}
}

func (r *reader) rateLimit(to **RateLimit, depth int) field {
	return func(key string, n ast.Node) {
		var l RateLimit
		given := r.mapping(key, n, depth, map[string]field{
			"unit":              r.text(&l.Unit),
			"unit_multiplier":   r.number(&l.UnitMultiplier, 1),
			"requests_per_unit": r.number(&l.RequestsPerUnit, 0),
			"unlimited":         r.truth(&l.Unlimited),
			"name":              r.text(&l.Name),
			"replaces":          r.replaces(&l.Replaces, depth),
			"algorithm":         r.text(&l.Algorithm),
			"burst":             r.number(&l.Burst, 1),
			"time_zone":         r.text(&l.TimeZone),
			"on_outage":         r.text(&l.OnOutage),
			"share":             r.number(&l.Share, 1),
		})
		// Left out it would be zero, which refuses everything: that must be said.
		if given != nil && !given["requests_per_unit"] && !l.Unlimited {
			r.complain(key, n, "has no requests_per_unit; want a number, 0 to refuse everything")
		}
		*to = &l
	}
}

func (r *reader) replaces(to *[]string, depth int) field {
	return func(key string, n ast.Node) {
		r.sequence(key, n, func(key string, n ast.Node) {
			var name string
			r.mapping(key, n, depth, map[string]field{"name": r.text(&name)})
			*to = append(*to, name)
		})
	}
}

func (r *reader) note(key string, n ast.Node) {
	r.at[key] = positionOf(n)
}

func (r *reader) complain(key string, n ast.Node, format string, args ...any) {
	if len(r.errs) == maxErrors {
		r.nodes = maxNodes + 1 // read no further
		return
	}
	at := positionOf(n)
	r.errs = append(r.errs, &ConfigError{File: r.file, Line: at.line, Column: at.column, Key: key, Problem: fmt.Sprintf(format, args...)})
}

// resolve is the node behind anchors, aliases and tags; nil if there is none: that was complained of, or it is null.
func (r *reader) resolve(key string, n ast.Node) ast.Node {
	if r.nodes++; r.nodes > maxNodes {
		if r.nodes == maxNodes+1 {
			r.complain(key, n, "is too much: the file has more than %d values, those of aliases included", maxNodes)
		}
		return nil
	}
	for range maxDepth {
		switch at := n.(type) {
		case *ast.AnchorNode:
			r.anchors[at.Name.GetToken().Value] = at.Value
			n = at.Value
		case *ast.AliasNode:
			name := at.Value.GetToken().Value
			to := r.anchors[name]
			if to == nil {
				r.complain(key, n, "is the alias *%s; no anchor before it has that name", name)
				return nil
			}
			n = to
		case *ast.TagNode:
			switch tag := at.Start.Value; tag {
			case "!!str", "!!int", "!!bool", "!!map", "!!seq":
				n = at.Value
			default:
				r.complain(key, n, "has the tag %s; want none", tag)
				return nil
			}
		case *ast.NullNode, nil:
			return nil
		default:
			return n
		}
	}
	r.complain(key, n, "is an alias of itself")
	return nil
}

// mapping reads a mapping, and returns the keys that it has; nil if it is none.
func (r *reader) mapping(key string, n ast.Node, depth int, fields map[string]field) map[string]bool {
	if depth > maxDepth {
		r.complain(key, n, "stands %d levels deep; want at most %d", depth, maxDepth)
		return nil
	}
	at := r.resolve(key, n)
	if at == nil {
		return nil
	}
	given := map[string]bool{}
	return r.pairs(key, at, given, fields, maxDepth)
}

// pairs reads those of a mapping that aren't given yet.
func (r *reader) pairs(key string, n ast.Node, given map[string]bool, fields map[string]field, merges int) map[string]bool {
	m, ok := n.(ast.MapNode)
	if !ok {
		r.complain(key, n, "is %s; want a mapping", kindOf(n))
		return nil
	}
	var merged []ast.Node
	for pairs := m.MapRange(); pairs.Next(); {
		if pairs.Key().IsMergeKey() {
			merged = append(merged, pairs.Value())
			continue
		}
		name := scalar(pairs.Key())
		at := name
		if key != "" {
			at = key + "." + name
		}
		read := fields[name]
		switch {
		case read == nil:
			known := make([]string, 0, len(fields))
			for name := range fields {
				known = append(known, name)
			}
			slices.Sort(known)
			r.complain(at, pairs.Key(), "isn't known here; want %s", strings.Join(known, ", "))
		case given[name]: // it stands before a merge
		default:
			given[name] = true
			value := pairs.Value()
			r.note(at, value)
			read(at, value)
		}
	}
	for _, n := range merged {
		switch at := r.resolve(key+".<<", n); {
		case merges == 0:
			r.complain(key+".<<", n, "merges itself")
		case at != nil:
			r.pairs(key, at, given, fields, merges-1)
		}
	}
	return given
}

func (r *reader) sequence(key string, n ast.Node, each field) {
	at := r.resolve(key, n)
	if at == nil {
		return
	}
	list, ok := at.(*ast.SequenceNode)
	if !ok {
		r.complain(key, at, "is %s; want a list", kindOf(at))
		return
	}
	for i, n := range list.Values {
		at := fmt.Sprintf("%s[%d]", key, i)
		r.note(at, n)
		each(at, n)
	}
}

// text reads a text, or what else stands there, as it is written.
func (r *reader) text(to *string) field {
	return func(key string, n ast.Node) {
		at := r.resolve(key, n)
		if at == nil {
			return
		}
		if _, ok := at.(ast.ScalarNode); !ok {
			r.complain(key, at, "is %s; want a text", kindOf(at))
			return
		}
		*to = scalar(at)
	}
}

func (r *reader) truth(to *bool) field {
	return func(key string, n ast.Node) {
		switch at := r.resolve(key, n).(type) {
		case nil:
		case *ast.BoolNode:
			*to = at.Value
		default:
			r.complain(key, at, "is %s; want true or false", kindOf(at))
		}
	}
}

func (r *reader) number(to *uint32, least uint32) field {
	return func(key string, n ast.Node) {
		at := r.resolve(key, n)
		if at == nil {
			return
		}
		if _, ok := at.(*ast.IntegerNode); ok {
			// The text, since 010 and 0x10 are other numbers to other readers of YAML.
			text := scalar(at)
			if v, err := strconv.ParseUint(text, 10, 32); err == nil && v >= uint64(least) && (text == "0" || text[0] != '0') {
				*to = uint32(v)
				return
			}
		}
		r.complain(key, at, "is %s; want a decimal number, %d to %d", kindOf(at), least, uint32(math.MaxUint32))
	}
}

// positionOf is where a node begins.
func positionOf(n ast.Node) position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 { // else its token is the first colon
			n = m.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return position{t.Position.Line, t.Position.Column}
	}
	return position{1, 1}
}

// scalar is the text of a scalar.
func scalar(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.MappingKeyNode:
		return scalar(n.Value)
	}
	if t := n.GetToken(); t != nil {
		return t.Value
	}
	return ""
}

// kindOf says what a node is, for complaints.
func kindOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return fmt.Sprintf("the text %.100q", scalar(n))
	}
	return fmt.Sprintf("%.100s", scalar(n))
}
