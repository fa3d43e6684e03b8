package rls

import (
	"errors"
	"fmt"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/freshetdev/freshet/limit"
)

// An ask is what one descriptor of a request comes to.
type ask struct {
	does   does
	rule   *rule
	limit  amount
	policy *limit.Policy
	key    string
	cost   int64 // as for limit.Request; of a refund, units, may be 0
	group  int   // which of the requests to the Limiter it is part of
}

// A does is what an ask does.
type does uint8

const (
	passes     does = iota // no limit
	isEndless              // unlimited
	charges                // or only asks, if its cost is Uncharged
	givesBack              // is_negative_hits
	isReplaced             // by another limit of the request
)

// asks finds out what the descriptors of a request come to. The error says what is wrong with it.
func (r *rules) asks(req *ratelimitv3.RateLimitRequest) ([]ask, error) {
	list := req.GetDescriptors()
	switch {
	case req.GetDomain() == "":
		return nil, errors.New("domain is empty; want the name of one")
	case len(list) == 0:
		return nil, errors.New("descriptors is empty; want at least one")
	case len(list) > MaxDescriptors:
		return nil, fmt.Errorf("descriptors has %d; want at most %d", len(list), MaxDescriptors)
	}
	for i, d := range list {
		if len(d.GetEntries()) == 0 {
			return nil, fmt.Errorf("descriptors[%d].entries is empty; want at least one", i)
		}
		for j, e := range d.GetEntries() {
			if e.GetKey() == "" {
				return nil, fmt.Errorf("descriptors[%d].entries[%d].key is empty; want a key", i, j)
			}
		}
	}
	asks := make([]ask, len(list))
	d := r.domains[req.GetDomain()]
	if d == nil {
		return asks, nil
	}
	var replaced map[string]bool
	for i, desc := range list {
		a, err := r.ask(d, desc, req.GetHitsAddend())
		if err != nil {
			return nil, fmt.Errorf("descriptors[%d].%w", i, err)
		}
		if asks[i] = a; a.rule == nil || desc.GetLimit() != nil {
			continue
		}
		for _, name := range a.rule.replaces {
			if replaced == nil {
				replaced = map[string]bool{}
			}
			replaced[name] = true
		}
	}
	for i := range asks {
		if a := &asks[i]; a.rule != nil && list[i].GetLimit() == nil && replaced[a.rule.name] {
			*a = ask{does: isReplaced}
		}
	}
	return asks, nil
}

// ask is that of one descriptor. Its rule is nil if it has no limit.
func (r *rules) ask(d *domain, desc *commonv3.RateLimitDescriptor, hits uint32) (ask, error) {
	rule, values := d.match(desc.GetEntries())
	a := ask{rule: rule}
	if over := desc.GetLimit(); over != nil {
		if rule == nil || rule.unlimited {
			rule, values = d.unruled(desc.GetEntries())
		}
		var err error
		if a.limit, err = amountOf(over); err != nil {
			return ask{}, err
		}
		if a.policy, err = rule.override(a.limit, r.policies); err != nil {
			return ask{}, fmt.Errorf("limit can't be: %w", err)
		}
		a.rule = rule
	} else {
		switch {
		case rule == nil:
			return ask{}, nil
		case rule.unlimited:
			a.does = isEndless
			return a, nil
		}
		a.limit, a.policy = rule.limit, rule.policy
	}
	a.key = d.key(desc.GetEntries(), values, a.limit.period())

	// Envoy means 1 by a request's 0, and by a descriptor's 0 it means 0.
	units := uint64(max(hits, 1))
	if of := desc.GetHitsAddend(); of != nil {
		units = of.GetValue()
	}
	// Limits are below that, so what is cut off is refused anyway, or gives all back.
	a.cost = int64(min(units, limit.MaxUnits))
	switch {
	case desc.GetIsNegativeHits():
		a.does = givesBack
	case a.cost == 0:
		a.does, a.cost = charges, limit.Uncharged
	default:
		a.does = charges
	}
	return a, nil
}

// unruled is a rule for limits in requests whose descriptors have none, or an unlimited one.
func (d *domain) unruled(entries []*commonv3.RateLimitDescriptor_Entry) (*rule, []string) {
	values, shown := make([]string, len(entries)), d.name
	for i, e := range entries {
		values[i] = e.GetValue()
		shown += "." + e.GetKey() // not the value: policies are few
	}
	return &rule{shown: shown, policyName: policyName(shown), anyKind: true, outageError: true}, values
}

// amountOf is the limit in a request.
func amountOf(over *commonv3.RateLimitDescriptor_RateLimitOverride) (amount, error) {
	// The numbers of both enums are the same.
	a := amount{requests: over.GetRequestsPerUnit(), unit: unit(over.GetUnit()), times: 1}
	if _, known := units[a.unit]; !known {
		return amount{}, fmt.Errorf("limit.unit is %v; want SECOND, MINUTE, HOUR, DAY, MONTH or YEAR", over.GetUnit())
	}
	if m := over.GetUnitMultiplier(); m != nil {
		if a.times = m.GetValue(); a.times == 0 {
			return amount{}, errors.New("limit.unit_multiplier is 0; want 1 or more")
		}
	}
	return a, nil
}
