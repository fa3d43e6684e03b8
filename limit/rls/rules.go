package rls

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/freshetdev/freshet/limit"
)

// rules are a Config, ready for use. They don't change.
type rules struct {
	domains  map[string]*domain
	policies *policies
}

type domain struct {
	name   string
	slotBy string
	whence string // where it was read, for errors
	root   level
}

// A level is the descriptors that one entry is compared with.
type level struct {
	values   map[[2]string]*node   // by key and value
	prefixes map[string][]prefixed // by key, the longest prefix first
	any      map[string]*node      // by key
}

type prefixed struct {
	prefix string
	node   *node
}

type node struct {
	rule   *rule // nil if there is none
	shared string
	next   level
}

// add adds a node; false if there is one of the same key and value.
func (l *level) add(key, value, prefix string, wild bool, n *node) bool {
	switch {
	case wild:
		if l.prefixes == nil {
			l.prefixes = map[string][]prefixed{}
		}
		list := l.prefixes[key]
		if slices.ContainsFunc(list, func(p prefixed) bool { return p.prefix == prefix }) {
			return false
		}
		list = append(list, prefixed{prefix, n})
		slices.SortFunc(list, func(a, b prefixed) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
		l.prefixes[key] = list
	case value == "":
		if l.any == nil {
			l.any = map[string]*node{}
		}
		if l.any[key] != nil {
			return false
		}
		l.any[key] = n
	default:
		if l.values == nil {
			l.values = map[[2]string]*node{}
		}
		at := [2]string{key, value}
		if l.values[at] != nil {
			return false
		}
		l.values[at] = n
	}
	return true
}

// find is the node of an entry, nil if there is none.
func (l *level) find(key, value string) *node {
	if n := l.values[[2]string{key, value}]; n != nil {
		return n
	}
	for _, p := range l.prefixes[key] {
		if strings.HasPrefix(value, p.prefix) {
			return p.node
		}
	}
	return l.any[key]
}

// match finds the rule of a descriptor, nil if there is none, and the values by which it counts: those of the entries, or the shared wildcard.
func (d *domain) match(entries []*commonv3.RateLimitDescriptor_Entry) (*rule, []string) {
	values := make([]string, len(entries))
	at := &d.root
	var n *node
	for i, e := range entries {
		if n = at.find(e.GetKey(), e.GetValue()); n == nil {
			return nil, nil
		}
		if values[i] = e.GetValue(); n.shared != "" {
			values[i] = n.shared
		}
		at = &n.next
	}
	return n.rule, values
}

// key is what a limit counts by: the domain, the entries and the period, no two alike.
func (d *domain) key(entries []*commonv3.RateLimitDescriptor_Entry, values []string, period string) string {
	var b strings.Builder
	if d.slotBy != "" {
		for i, e := range entries {
			if e.GetKey() == d.slotBy {
				b.WriteString("{" + escape(values[i]) + "}")
				break
			}
		}
	}
	b.WriteString(escape(d.name))
	for i, e := range entries {
		b.WriteString("|" + escape(e.GetKey()) + "=" + escape(values[i]))
	}
	b.WriteString("|" + period)
	return b.String()
}

// The characters that have a meaning in keys; braces would decide the slot in a Redis Cluster.
var escaper = strings.NewReplacer("%", "%25", "|", "%7C", "=", "%3D", "{", "%7B", "}", "%7D")

func escape(s string) string {
	if !strings.ContainsAny(s, "%|={}") {
		return s
	}
	return escaper.Replace(s)
}

// A rule is a configured limit.
type rule struct {
	name       string // as configured, may be empty
	shown      string // name, or domain, keys and values
	policyName string
	replaces   []string
	unlimited  bool
	shadow     bool

	kind        limit.Kind
	anyKind     bool // none was asked for
	burst       int64
	zone        *time.Location
	outage      limit.Outage
	outageError bool // the call fails in an outage
	share       int

	limit  amount
	policy *limit.Policy // nil if unlimited
}

// An amount is so many requests in so many units.
type amount struct {
	requests uint32
	unit     unit
	times    uint32
}

// A unit is one of the protocol's, by its number.
type unit ratelimitv3.RateLimitResponse_RateLimit_Unit

var units = map[unit]struct {
	name     string
	length   time.Duration
	calendar limit.Calendar
}{
	unit(ratelimitv3.RateLimitResponse_RateLimit_SECOND): {"second", time.Second, 0},
	unit(ratelimitv3.RateLimitResponse_RateLimit_MINUTE): {"minute", time.Minute, limit.Minute},
	unit(ratelimitv3.RateLimitResponse_RateLimit_HOUR):   {"hour", time.Hour, limit.Hour},
	unit(ratelimitv3.RateLimitResponse_RateLimit_DAY):    {"day", 24 * time.Hour, limit.Day},
	unit(ratelimitv3.RateLimitResponse_RateLimit_WEEK):   {"week", 7 * 24 * time.Hour, limit.Week},
	unit(ratelimitv3.RateLimitResponse_RateLimit_MONTH):  {"month", 30 * 24 * time.Hour, limit.Month},
	unit(ratelimitv3.RateLimitResponse_RateLimit_YEAR):   {"year", 365 * 24 * time.Hour, limit.Year},
}

func unitNamed(name string) (unit, bool) {
	for u, is := range units {
		if strings.EqualFold(name, is.name) {
			return u, true
		}
	}
	return 0, false
}

// period names the length in keys: what counts by another one counts apart.
func (a amount) period() string {
	if a.times == 1 {
		return units[a.unit].name
	}
	return fmt.Sprintf("%d%ss", a.times, units[a.unit].name)
}

// length is the time of an amount.
func (a amount) length() time.Duration { return time.Duration(a.times) * units[a.unit].length }

// tooFast reports whether GCRA can't count it.
func (a amount) tooFast() bool { return int64(a.requests) > a.length().Microseconds() }

// spec is the policy of the rule with the amount a: its own, or that of a request.
func (r *rule) spec(a amount) (limit.Spec, error) {
	if most := limit.MaxPeriod / units[a.unit].length; int64(a.times) > int64(most) {
		return limit.Spec{}, fmt.Errorf("its period is %d times a %s; want at most %d", a.times, units[a.unit].name, most)
	}
	s := limit.Spec{Kind: r.kind, Limit: int64(a.requests), Shadow: r.shadow, OnOutage: r.outage, Share: r.share}
	if r.anyKind && a.tooFast() {
		s.Kind = limit.Fixed
	}
	if s.Kind == limit.GCRA {
		s.Burst = r.burst
	}
	switch cal := units[a.unit].calendar; {
	case s.Kind == limit.Fixed && a.times == 1 && cal != 0:
		s.Calendar, s.Location = cal, r.zone
	default:
		s.Period = a.length()
	}
	return s, nil
}

// override is the policy of a limit in a request: the rule's, with the request's numbers. Like in the reference service it isn't in shadow mode.
func (r *rule) override(a amount, policies *policies) (*limit.Policy, error) {
	o := *r
	o.burst, o.shadow = 0, false
	s, err := o.spec(a)
	if err != nil {
		return nil, err
	}
	return policies.get(r.policyName, s)
}

// maxPolicies is how many policies are kept for use again. Each takes some 400 bytes.
const maxPolicies = 4096

// policies are policies made before, so that a limit in a request, and a rule that is the same in a new Config, is the same policy
// to the Limiter too, which remembers things by it.
type policies struct {
	mu   sync.Mutex
	made map[madeOf]*limit.Policy // guarded by mu
}

type madeOf struct {
	name string
	spec limit.Spec
}

func newPolicies() *policies { return &policies{made: map[madeOf]*limit.Policy{}} }

func (ps *policies) get(name string, spec limit.Spec) (*limit.Policy, error) {
	of := madeOf{name, spec}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p := ps.made[of]; p != nil {
		return p, nil
	}
	p, err := limit.NewPolicy(name, spec)
	if err != nil {
		return nil, err
	}
	if len(ps.made) >= maxPolicies {
		clear(ps.made)
	}
	ps.made[of] = p
	return p, nil
}

// policyName makes a name that policies may have. One that had to be changed ends with a hash, so that two stay two.
func policyName(name string) string {
	safe := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
			return c
		}
		return '-'
	}, name)
	if safe == name && len(name) <= limit.MaxName && name != "" {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	const digits = 8
	return safe[:min(len(safe), limit.MaxName-1-digits)] + "-" + hex.EncodeToString(sum[:digits/2])
}
