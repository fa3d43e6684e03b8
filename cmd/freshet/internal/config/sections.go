package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/freshetdev/freshet/cdc"
)

// places says where a key belongs that people write elsewhere.
var places = map[string][]string{
	"store": {"url", "prefix", "timeout", "stale_at_most", "local"},
	"cdc.<name>": {
		"rules", "on_gap", "tick", "hold_back", "again", "take_over", "batch", "mysql", "postgres", "sqlite",
	},
	"cdc.<name>.mysql":    {"url", "timeout"},
	"cdc.<name>.postgres": {"url", "slot", "publication", "create", "max_slot_lag", "timeout"},
	"cdc.<name>.sqlite":   {"url", "name", "poll", "max_rows"},
	"cdc.<name>.rules":    {"table", "ops", "when_changed", "tags", "keys", "publish", "no_sweep", "bulk"},
}

// placesOf says where a key belongs that isn't known at a path; empty if nowhere.
func placesOf(name, path string) string {
	var all []string
	for place, names := range places {
		if slices.Contains(names, name) {
			all = append(all, place)
		}
	}
	slices.Sort(all)
	if len(all) == 0 {
		return ""
	}
	parts := strings.Split(path, ".")
	source := "<name>"
	if parts[0] == "cdc" && len(parts) > 1 {
		source = parts[1]
	}
	return "in " + strings.ReplaceAll(strings.Join(all, " or "), "<name>", source)
}

// A kind is a database that can be followed: what its key in a source is, and how its URLs begin.
type kind struct {
	schemes []string
	example string
	fields  func(r *reader, s *Source) map[string]field // beside url
}

// kinds are the databases. Another one is an entry here, a struct in Source, and a line in the registry of package cli (sources.go).
var kinds = map[string]kind{
	"mysql":    {[]string{"mysql", "mariadb"}, "mysql://user@host/", (*reader).mysql},
	"postgres": {[]string{"postgres", "postgresql"}, "postgres://user@host/database", (*reader).postgres},
	"sqlite":   {[]string{"sqlite"}, "sqlite:shop.db", (*reader).sqlite},
}

func (r *reader) config(n ast.Node, c *Config) {
	version := 1
	given := r.mapping("", n, map[string]field{
		"version": value(r, &version, "1", func(text string) (int, bool) { return 1, text == "1" }),
		"store":   func(key string, n ast.Node) { r.store(key, n, &c.Store) },
		"cdc":     func(key string, n ast.Node) { r.sources(key, n, &c.Sources) },
	})
	if given != nil && !given["store"] {
		r.complain("store", span{}, "is missing; want store: { url: redis://localhost:6379 }")
	}
}

func (r *reader) store(key string, n ast.Node, to *Store) {
	given := r.mapping(key, n, map[string]field{
		"url": r.url(&to.URL, storeSchemes, "redis://localhost:6379"),
		"prefix": r.text(&to.Prefix, "a word without blanks and braces, such as shop", func(s string) bool {
			return s != "" && !strings.ContainsAny(s, "{}*?[]\\ \t\r\n")
		}),
		"timeout":       value(r, &to.Timeout, "a duration from 1ms to 1m, such as 50ms", duration(time.Millisecond, time.Minute)),
		"stale_at_most": value(r, &to.StaleAtMost, "a duration from 50ms to 1h, such as 1s", duration(50*time.Millisecond, time.Hour)),
		"local": func(key string, n ast.Node) {
			r.mapping(key, n, map[string]field{
				"max_size": value(r, &to.MaxSize, "a size with a unit, such as 256MiB", Size),
			})
		},
	})
	if given != nil && !given["url"] {
		r.complain(under(key, "url"), r.at[key], "is missing; want a URL such as redis://localhost:6379")
	}
	if to.Prefix != "" && !strings.HasSuffix(to.Prefix, ":") {
		to.Prefix += ":" // as freshet.Options.Prefix has it
	}
}

var storeSchemes = []string{"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster", "unix", "memory"}

// url reads a URL. What stands behind the scheme is for whoever opens it.
func (r *reader) url(to *URL, schemes []string, example string) field {
	return func(key string, n ast.Node) {
		var u URL
		value(r, &u, "a URL such as "+example, func(text string) (URL, bool) {
			_, ok := URL(text).scheme()
			return URL(text), ok
		})(key, n)
		scheme, ok := u.scheme()
		if !ok {
			return // there is none, which was complained of
		}
		if !slices.Contains(schemes, scheme) {
			advice := didYouMean(scheme, schemes)
			for name, k := range kinds {
				if slices.Contains(k.schemes, scheme) {
					advice += "; that is the URL of a database, for " + name + " of a source in cdc"
				}
			}
			if slices.Contains(storeSchemes, scheme) {
				advice += "; that is the URL of a store, for store.url"
			}
			r.complain(key, spanAt(n), "has the scheme %s%s", scheme, advice)
			return
		}
		*to = u
	}
}

func (r *reader) sources(key string, n ast.Node, to *[]Source) {
	r.entries(key, n, "a mapping of names to sources", func(name string) field {
		return func(key string, n ast.Node) {
			s := Source{Name: name}
			if name == "" || len(name) > 100 || strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
				r.complain(key, r.at[key], "is no name of a source; want 1 to 100 letters, digits, dots, dashes and underscores")
			}
			r.source(key, n, &s)
			for _, other := range *to {
				if s.Kind == "postgres" && s.URL != "" && s.URL == other.URL && cmp.Or(s.Postgres.Slot, "freshet") == cmp.Or(other.Postgres.Slot, "freshet") {
					r.complain(key, r.at[key], "has the database and slot of %s, and a slot has one reader; want another slot", other.Name)
				}
			}
			*to = append(*to, s)
		}
	}, nil)
}

func (r *reader) source(key string, n ast.Node, s *Source) {
	fields := map[string]field{
		"rules": func(key string, n ast.Node) {
			r.list(key, n, "a list of rules", func(key string, n ast.Node) {
				s.Rules = append(s.Rules, r.rule(key, n))
			})
		},
		"on_gap": value(r, &s.OnGap, "drop_all or stop", func(text string) (cdc.GapPolicy, bool) {
			policies := map[string]cdc.GapPolicy{"drop_all": cdc.GapDropAll, "stop": cdc.GapStop}
			p, ok := policies[text]
			return p, ok
		}),
		"tick":      value(r, &s.Tick, "a duration from 5ms to 1m, such as 50ms", duration(5*time.Millisecond, time.Minute)),
		"hold_back": value(r, &s.HoldBack, "a duration from 1s to 1h, such as 30s", duration(time.Second, time.Hour)),
		"take_over": value(r, &s.TakeOver, "a duration from 100ms to 1h, such as 3s", duration(100*time.Millisecond, time.Hour)),
		"again": value(r, &s.Again, "a duration from 1ms to 1m, such as 1s, or never", func(text string) (time.Duration, bool) {
			if text == "never" {
				return -1, true
			}
			return duration(time.Millisecond, time.Minute)(text)
		}),
		"batch": r.number(&s.Batch, 10_000_000),
	}
	var names []string
	for name, k := range kinds {
		names = append(names, name)
		fields[name] = func(key string, n ast.Node) {
			if s.Kind != "" {
				r.complain(key, r.at[key], "is one database more, beside %s; want one in a source", s.Kind)
			}
			s.Kind = name
			more := k.fields(r, s)
			more["url"] = r.url(&s.URL, k.schemes, k.example)
			if given := r.mapping(key, n, more); given != nil && !given["url"] {
				r.complain(under(key, "url"), r.at[key], "is missing; want a URL such as %s", k.example)
			}
		}
	}
	slices.Sort(names)
	given := r.mapping(key, n, fields)
	if given == nil {
		return
	}
	if s.Kind == "" {
		r.complain(key, r.at[key], "has no database; want %s", strings.Join(names, " or "))
	}
	if !given["rules"] {
		r.complain(key, r.at[key], "has no rules; want a list of them")
	}
}

func (r *reader) postgres(s *Source) map[string]field {
	p := &s.Postgres
	return map[string]field{
		"slot": r.text(&p.Slot, "1 to 63 lower-case letters, digits and underscores", func(s string) bool {
			return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
		}),
		"publication": r.text(&p.Publication, "a name of 1 to 63 bytes", func(s string) bool {
			return s != "" && len(s) <= 63 && !strings.ContainsRune(s, 0)
		}),
		"create": r.truth(&p.Create),
		"max_slot_lag": value(r, &p.MaxSlotLag, "a size with a unit, such as 2GiB, or none", func(text string) (int64, bool) {
			if text == "none" {
				return -1, true
			}
			return Size(text)
		}),
		"timeout": value(r, &p.Timeout, "a duration from 1s to 1h, such as 10s", duration(time.Second, time.Hour)),
	}
}

// The server sends something every second: less than two isn't silence.
func (r *reader) mysql(s *Source) map[string]field {
	return map[string]field{"timeout": value(r, &s.MySQL.Timeout, "a duration from 2s to 1h, such as 10s", duration(2*time.Second, time.Hour))}
}

func (r *reader) sqlite(s *Source) map[string]field {
	q := &s.SQLite
	return map[string]field{
		"name": r.text(&q.Name, "1 to 30 lower-case letters, digits and underscores, a letter first", func(s string) bool {
			return s != "" && len(s) <= 30 && s[0] >= 'a' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
		}),
		"poll": value(r, &q.Poll, "a duration from 1ms to 1m, such as 10ms", duration(time.Millisecond, time.Minute)),
		"max_rows": value(r, &q.MaxRows, "a number from 100 on, such as 1000000", func(text string) (int64, bool) {
			n, err := strconv.ParseInt(text, 10, 64)
			return n, err == nil && n >= 100
		}),
	}
}

func (r *reader) rule(key string, n ast.Node) (rule cdc.Rule) {
	before := len(r.errs)
	given := r.mapping(key, n, map[string]field{
		"table":        r.text(&rule.Table, "schema.table, such as public.users", func(s string) bool { return s != "" }),
		"ops":          r.texts(&rule.Ops, "a list of insert, update and delete"),
		"when_changed": r.texts(&rule.WhenChanged, "a list of columns"),
		"tags":         r.texts(&rule.Tags, `a list of tags, such as ["user:{id}"]`),
		"keys":         r.texts(&rule.Keys, `a list of keys, such as ["user:{id}:profile"]`),
		"no_sweep":     r.truth(&rule.NoSweep),
		"bulk":         r.number(&rule.Bulk, 1<<30),
		"publish": func(key string, n ast.Node) {
			r.list(key, n, "a list of { channel: …, payload: … }", func(key string, n ast.Node) {
				var p cdc.Publish
				given := r.mapping(key, n, map[string]field{
					"channel": r.text(&p.Channel, "a text", func(s string) bool { return s != "" }),
					"payload": r.text(&p.Payload, "a text", func(string) bool { return true }),
				})
				if given != nil && !given["channel"] {
					r.complain(key, r.at[key], "has no channel; want { channel: …, payload: … }")
				}
				rule.Publish = append(rule.Publish, p)
			})
		},
	})
	if given != nil && !given["table"] {
		r.complain(key, r.at[key], "has no table; want schema.table, such as public.users")
	}
	if len(r.errs) == before {
		r.checkRule(key, rule)
	}
	return rule
}

// checkRule asks package cdc what it thinks of a rule, and finds out what of the rule it speaks of.
func (r *reader) checkRule(key string, rule cdc.Rule) {
	_, err := cdc.NewRules([]cdc.Rule{rule})
	for _, err := range parts(err) {
		problem := strings.TrimPrefix(err.Error(), fmt.Sprintf("cdc: rule 1 (table %q): ", rule.Table))
		name, rest, _ := strings.Cut(problem, ":")
		path := under(key, name)
		switch at, ok := r.at[path]; {
		case ok && (name == "tags" || name == "keys" || name == "publish"):
			for i, text := range map[string][]string{"tags": rule.Tags, "keys": rule.Keys}[name] {
				if strings.HasPrefix(rest, fmt.Sprintf(" %q", text)) {
					path = fmt.Sprintf("%s[%d]", path, i)
					at = r.at[path]
					break
				}
			}
			r.complain(path, at, "is wrong:%s", rest)
		default:
			word, rest, _ := strings.Cut(problem, " ")
			if at, ok := r.at[under(key, word)]; ok {
				r.complain(under(key, word), at, "%s", rest)
				continue
			}
			r.complain(key, r.at[key], "%s", problem)
		}
	}
}

// parts are what errors.Join joined.
func parts(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}
