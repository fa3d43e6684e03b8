package rls

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/freshetdev/freshet/limit"
)

// A Config says which limits the descriptors of requests have. [ReadConfig] reads it from YAML.
type Config struct {
	Domains []Domain
}

// A Domain is the limits of one application: what Envoy sends as domain.
type Domain struct {
	Name string // domain: not empty, each once

	Descriptors []Descriptor // descriptors: those of the first entry

	// SlotBy is slot_by: the key of an entry whose value decides where the store keeps what a descriptor has used, if the descriptor
	// has such an entry. In a Redis Cluster, descriptors of a request are decided as one if they share it. Default: none, each is kept by itself.
	SlotBy string

	source *source
}

// A Descriptor matches one entry of a request's descriptor, and holds the limit of those that end with it.
//
// Of the descriptors of a level that match an entry, the one with its value goes before one with a wildcard, a longer wildcard before a
// shorter one, and one without a value comes last. The one found is final: if nothing below it matches the next entry, others of its level
// aren't tried.
type Descriptor struct {
	Key string // key: of the entry; not empty

	// Value is value: the entry's value. One that ends with "*" matches all that begin with what stands before it. Empty matches
	// every value, and counts each by itself.
	Value string

	RateLimit   *RateLimit   // rate_limit: default none
	Descriptors []Descriptor // descriptors: those of the next entry

	// ShadowMode is shadow_mode: decide and count, but never refuse.
	ShadowMode bool

	// ShareThreshold is share_threshold: all values that match the wildcard count together. Default: each by itself.
	ShareThreshold bool

	// DetailedMetric is detailed_metric, and ValueToMetric is value_to_metric. Both have no effect: who wants to count by value finds policy and key in
	// [limit.Hooks].
	DetailedMetric, ValueToMetric bool
}

// A RateLimit is a limit.
type RateLimit struct {
	// Unit is unit: second, minute, hour, day, week, month or year, in capitals too. A month is 30 days and a year is 365, but for Algorithm fixed.
	Unit string

	// UnitMultiplier is unit_multiplier: the period is so many units. Default 1. At most 366 days in all.
	UnitMultiplier uint32

	// RequestsPerUnit is requests_per_unit: hits per period, whatever the multiplier. Zero refuses everything. YAML must have it.
	RequestsPerUnit uint32

	// Unlimited is unlimited: never refuse, and count nothing. Nothing else but Name and Replaces may be given with it.
	Unlimited bool

	// Name is name: for Replaces, and in answers. Default: domain, keys and values.
	Name string

	// Replaces is replaces, a list of {name: …}: if one request has descriptors of several limits, those with such a name
	// are left out.
	Replaces []string

	// Algorithm is algorithm: gcra, strict or fixed: see [limit.Kind]. Default gcra, or fixed for more than 1,000,000 hits a second, which
	// gcra can't count. Windows of fixed are those of the calendar, or, with a UnitMultiplier over 1, begin at multiples of the period since 1970.
	Algorithm string

	// Burst is burst: hits that gcra gives at once after a pause. Default RequestsPerUnit.
	Burst uint32

	// TimeZone is time_zone: of the calendar of fixed, as "Europe/Berlin". Default UTC.
	TimeZone string

	// OnOutage is on_outage: what happens when the store can't decide. error: the call fails with UNAVAILABLE, and Envoy does what
	// its failure_mode_deny says. allow, deny, local: see [limit.Outage]. Default error.
	OnOutage string

	// Share is share: percent of the limit that OnOutage local admits in this process. Default 100.
	Share uint32
}

// A ConfigError is one thing wrong with a Config.
type ConfigError struct {
	File         string // empty: it wasn't read from one
	Line, Column int    // from 1
	Domain       string
	Key          string // as descriptors[0].rate_limit.unit
	Problem      string // what came, and what was wanted
}

// Error returns file:line:column: key problem, or the domain instead of the file.
func (e *ConfigError) Error() string {
	where := fmt.Sprintf("rls: domain %q", e.Domain)
	if e.File != "" {
		where = fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
	}
	if e.Key == "" {
		return where + ": " + e.Problem
	}
	return where + ": " + e.Key + " " + e.Problem
}

// Check says what is wrong: nil, or all [ConfigError] joined.
func (c *Config) Check() error {
	_, err := compile(c, newPolicies())
	return err
}

// A complainer collects what is wrong with one domain.
type complainer struct {
	domain *Domain
	errs   []error
}

func (c *complainer) add(key, format string, args ...any) {
	e := &ConfigError{Domain: c.domain.Name, Key: key, Problem: fmt.Sprintf(format, args...)}
	if s := c.domain.source; s != nil {
		e.File = s.file
		e.Line, e.Column = s.position(key)
	}
	c.errs = append(c.errs, e)
}

// A source is where a Domain was read.
type source struct {
	file string
	at   map[string]position // of a key; "" is the domain's
}

type position struct{ line, column int }

// position is that of key, or of what it stands in.
func (s *source) position(key string) (line, column int) {
	for {
		if at, found := s.at[key]; found {
			return at.line, at.column
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
}

// compile makes rules of a Config.
func compile(c *Config, policies *policies) (*rules, error) {
	if c == nil {
		return nil, errors.New("rls: the Config is nil; want one, empty if there are no limits")
	}
	var errs []error
	r := &rules{domains: map[string]*domain{}, policies: policies}
	for i := range c.Domains {
		cc := &complainer{domain: &c.Domains[i]}
		d := cc.compile(policies)
		switch first := r.domains[d.name]; {
		case d.name == "":
			cc.add("domain", "is empty; want the name that Envoy sends")
		case first != nil:
			cc.add("domain", "%q is there already%s; want each domain once", d.name, first.whence)
		default:
			r.domains[d.name] = d
		}
		errs = append(errs, cc.errs...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

func (c *complainer) compile(policies *policies) *domain {
	d := &domain{name: c.domain.Name, slotBy: c.domain.SlotBy}
	if s := c.domain.source; s != nil {
		line, _ := s.position("domain")
		d.whence = fmt.Sprintf(", at %s:%d", s.file, line)
	}
	names := map[string]bool{}
	collectNames(c.domain.Descriptors, names)
	d.root = c.level("descriptors", d.name, c.domain.Descriptors, names, policies)
	return d
}

func collectNames(list []Descriptor, names map[string]bool) {
	for _, d := range list {
		if d.RateLimit != nil && d.RateLimit.Name != "" {
			names[d.RateLimit.Name] = true
		}
		collectNames(d.Descriptors, names)
	}
}

// level compiles the descriptors of one level. path is its key, parent the name of what it stands in.
func (c *complainer) level(path, parent string, list []Descriptor, names map[string]bool, policies *policies) level {
	l := level{}
	for i := range list {
		d := &list[i]
		at := fmt.Sprintf("%s[%d]", path, i)
		name := parent + "." + d.Key
		if d.Value != "" {
			name += "_" + d.Value
		}
		if d.Key == "" {
			c.add(at+".key", "is empty; want the key of an entry")
			continue
		}
		n := &node{}
		prefix, wild := strings.CutSuffix(d.Value, "*")
		switch {
		case d.ShareThreshold && !wild:
			c.add(at+".share_threshold", "is true with the value %q; want a value that ends with *", d.Value)
		case d.ShareThreshold:
			n.shared = d.Value
		}
		if d.ShadowMode && d.RateLimit == nil {
			c.add(at+".shadow_mode", "is true without a rate_limit; it applies to that alone, not to what stands below")
		}
		if d.RateLimit != nil {
			n.rule = c.rule(at+".rate_limit", name, d, names, policies)
		}
		n.next = c.level(at+".descriptors", name, d.Descriptors, names, policies)
		if !l.add(d.Key, d.Value, prefix, wild, n) {
			c.add(at, "has the key %q and the value %q, as one before it; want each once", d.Key, d.Value)
		}
	}
	return l
}

var kinds = map[string]limit.Kind{"": limit.GCRA, "gcra": limit.GCRA, "strict": limit.Strict, "fixed": limit.Fixed}

// outages are the values of on_outage. Of error the Limiter allows, and the server then says that it couldn't.
var outages = map[string]limit.Outage{
	"": limit.OutageAllow, "error": limit.OutageAllow, "allow": limit.OutageAllow, "deny": limit.OutageDeny, "local": limit.OutageLocal,
}

// rule compiles a limit; nil if it is wrong.
func (c *complainer) rule(path, name string, d *Descriptor, names map[string]bool, policies *policies) *rule {
	l, before := d.RateLimit, len(c.errs)
	for i, other := range l.Replaces {
		at := fmt.Sprintf("%s.replaces[%d].name", path, i)
		switch {
		case other == "":
			c.add(at, "is empty; want the name of a rate_limit")
		case other == l.Name:
			c.add(at, "is %q, the limit's own name; want that of another", other)
		case !names[other]:
			c.add(at, "is %q; no rate_limit of the domain %q has that name", other, c.domain.Name)
		}
	}
	r := &rule{
		name: l.Name, shown: l.Name, replaces: l.Replaces, unlimited: l.Unlimited, shadow: d.ShadowMode,
		kind: kinds[l.Algorithm], anyKind: l.Algorithm == "", burst: int64(l.Burst),
		outage: outages[l.OnOutage], outageError: l.OnOutage == "" || l.OnOutage == "error", share: int(l.Share),
	}
	if r.shown == "" {
		r.shown = name
	}
	r.policyName = policyName(r.shown)
	if l.Unlimited {
		given := *l
		given.Unlimited, given.Name, given.Replaces = false, "", nil
		if given.Unit != "" || given.UnitMultiplier != 0 || given.RequestsPerUnit != 0 || given.Algorithm != "" || given.Burst != 0 ||
			given.TimeZone != "" || given.OnOutage != "" || given.Share != 0 {
			c.add(path+".unlimited", "is true, and there are numbers; want either")
		}
		return r
	}

	if _, known := kinds[l.Algorithm]; !known {
		c.add(path+".algorithm", "is %q; want gcra, strict or fixed", l.Algorithm)
	}
	if _, known := outages[l.OnOutage]; !known {
		c.add(path+".on_outage", "is %q; want error, allow, deny or local", l.OnOutage)
	}
	if l.Share != 0 && l.OnOutage != "local" {
		c.add(path+".share", "is given; only on_outage local has it")
	}
	if l.Burst != 0 && r.kind != limit.GCRA {
		c.add(path+".burst", "is given; %s has none", l.Algorithm)
	}
	if l.TimeZone != "" {
		zone, err := time.LoadLocation(l.TimeZone)
		switch {
		case l.Algorithm != "fixed":
			c.add(path+".time_zone", "is given; only the algorithm fixed has it")
		case l.UnitMultiplier > 1:
			c.add(path+".time_zone", "is given with a unit_multiplier of %d; only windows of the calendar have it", l.UnitMultiplier)
		case err != nil:
			c.add(path+".time_zone", "is %q, which isn't known here (%v); want one like Europe/Berlin", l.TimeZone, err)
		default:
			r.zone = zone
		}
	}
	u, known := unitNamed(l.Unit)
	if !known {
		c.add(path+".unit", "is %q; want second, minute, hour, day, week, month or year", l.Unit)
	}
	if len(c.errs) > before {
		return nil
	}
	r.limit = amount{requests: l.RequestsPerUnit, unit: u, times: max(l.UnitMultiplier, 1)}
	spec, err := r.spec(r.limit)
	if err == nil {
		r.policy, err = policies.get(r.policyName, spec)
	}
	if err != nil {
		c.add(path, "can't be: %v", err)
		return nil
	}
	return r
}
