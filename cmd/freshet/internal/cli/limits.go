package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/httplimit"
	"github.com/freshetdev/freshet/limit/memlimit"
	"github.com/freshetdev/freshet/limit/redislimit"
)

// A rate is one --limit:
//
//	100/s                      a hundred a second, and a hundred at once
//	1000/15m,burst=50          a thousand in fifteen minutes, fifty at once
//	60/m,strict                never more than sixty in any minute
//	5000/d,by=header:X-Api-Key by another identity than --limit-by
//	100/s,outage=deny          503 while the store doesn't answer, instead of passing
type rate struct {
	count  int64
	period string // s, 15m
	every  time.Duration
	burst  int64 // 0: count
	strict bool
	by     identity // zero: that of --limit-by
	outage limit.Outage
}

var rateUnits = map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}

// parseRate reads a --limit. Errors say what was wanted; what came is told by flagError.
func parseRate(s string) (rate, error) {
	var r rate
	amount, options, _ := strings.Cut(s, ",")
	count, period, ok := strings.Cut(amount, "/")
	if !ok {
		return r, errors.New("want a number and a time, such as 100/s")
	}
	var err error
	if r.count, err = parseCount(count); err != nil {
		return r, fmt.Errorf("the number is %q; want 1 or more", count)
	}
	unit, known := time.Duration(0), false
	if period != "" {
		unit, known = rateUnits[period[len(period)-1]]
	}
	if !known {
		return r, fmt.Errorf("the time is %q; want s, m, h or d, or a number of them such as 15m", period)
	}
	times := int64(1)
	if n := period[:len(period)-1]; n != "" {
		if times, err = parseCount(n); err != nil || times > int64(limit.MaxPeriod/unit) {
			return r, fmt.Errorf("the time is %q; want s, m, h or d, or a number of them up to 366d", period)
		}
		period = strconv.FormatInt(times, 10) + period[len(n):] // it becomes a part of the policy's name: without leading zeros
	}
	r.period, r.every = period, time.Duration(times)*unit
	for options != "" {
		var option string
		option, options, _ = strings.Cut(options, ",")
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "burst":
			if r.burst, err = parseCount(value); err != nil {
				return r, fmt.Errorf("the burst is %q; want 1 or more", value)
			}
		case "strict":
			if r.strict = true; option != "strict" {
				return r, fmt.Errorf("%q; want strict alone", option)
			}
		case "by":
			if r.by, err = parseIdentity(value); err != nil {
				return r, err
			}
		case "outage":
			switch value {
			case "allow":
				r.outage = limit.OutageAllow
			case "deny":
				r.outage = limit.OutageDeny
			case "local":
				r.outage = limit.OutageLocal
			default:
				return r, fmt.Errorf("outage is %q; want allow, deny or local", value)
			}
		default:
			return r, fmt.Errorf("%q is no option; want burst=20, strict, by=ip or outage=deny", option)
		}
	}
	_, err = r.policy("test")
	return r, err
}

// parseCount reads a number from 1 on, digits only.
func parseCount(s string) (int64, error) {
	if strings.HasPrefix(s, "+") {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && n < 1 {
		err = strconv.ErrRange
	}
	return n, err
}

// String is what parseRate reads.
func (r rate) String() string {
	s := strconv.FormatInt(r.count, 10) + "/" + r.period
	if r.burst > 0 {
		s += ",burst=" + strconv.FormatInt(r.burst, 10)
	}
	if r.strict {
		s += ",strict"
	}
	if r.by != (identity{}) {
		s += ",by=" + r.by.String()
	}
	if r.outage != limit.OutageAllow {
		s += ",outage=" + r.outage.String()
	}
	return s
}

func (r rate) policy(name string) (*limit.Policy, error) {
	spec := limit.Spec{Limit: r.count, Period: r.every, Burst: r.burst, Debt: -1, OnOutage: r.outage}
	if r.strict {
		spec.Kind = limit.Strict
	}
	p, err := limit.NewPolicy(name, spec)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), fmt.Sprintf("limit: policy %q: ", name)))
	}
	return p, nil
}

// An identity is whom a limit counts. The zero one is none.
type identity struct {
	kind   string // "ip", "header" or "all"
	header string // canonical
}

func parseIdentity(s string) (identity, error) {
	kind, header, colon := strings.Cut(s, ":")
	switch {
	case kind == "header":
		if !isHeaderName(header) {
			return identity{}, fmt.Errorf("by %q; want the name of a field, such as header:X-Api-Key", s)
		}
		return identity{kind, http.CanonicalHeaderKey(header)}, nil
	case (kind == "ip" || kind == "all") && !colon:
		return identity{kind: kind}, nil
	}
	return identity{}, fmt.Errorf("by %q; want ip, header:X-Api-Key or all", s)
}

// isHeaderName is stricter than HTTP: the name becomes a part of the policy's name.
func isHeaderName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 40
}

func (i identity) String() string {
	if i.kind == "header" {
		return "header:" + i.header
	}
	return i.kind
}

// Set and Type make it a flag.
func (i *identity) Set(s string) (err error) { *i, err = parseIdentity(s); return err }
func (i *identity) Type() string             { return "identity" }

// rates is the flag --limit, which can be given several times.
type rates []rate

func (f *rates) Set(s string) error {
	r, err := parseRate(s)
	if err == nil {
		*f = append(*f, r)
	}
	return err
}

func (f *rates) String() string {
	var all []string
	for _, r := range *f {
		all = append(all, r.String())
	}
	return strings.Join(all, " ")
}

func (f *rates) Type() string { return "limit" }

// proxies is the flag --trusted-proxy, which can be given several times.
type proxies []netip.Prefix

func (f *proxies) Set(s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return errors.New("want an address such as 10.0.0.7, or a network such as 10.0.0.0/8")
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	*f = append(*f, p)
	return nil
}

func (f *proxies) String() string {
	var all []string
	for _, p := range *f {
		all = append(all, p.String())
	}
	return strings.Join(all, " ")
}

func (f *proxies) Type() string { return "network" }

// limits are the flags about limits.
type limits struct {
	rates         rates
	by            identity
	trusted       proxies
	trustedHeader string
}

// name is of a rate's policy. It has neither count nor burst, so clients keep what they have used when these change.
func (l *limits) name(r rate) string {
	by := l.identity(r)
	name := by.kind
	if by.kind == "header" {
		name = strings.ToLower(by.header)
	}
	return name + "-" + r.period
}

func (l *limits) identity(r rate) identity {
	if r.by != (identity{}) {
		return r.by
	}
	return l.by
}

// check says which flags don't go together.
func (l *limits) check() error {
	names := map[string]rate{}
	for _, r := range l.rates {
		name := l.name(r)
		if other, twice := names[name]; twice {
			return usagef("--limit %v and --limit %v count the same; want different times or identities", other, r)
		}
		names[name] = r
	}
	switch {
	case len(l.rates) > limit.MaxRequests:
		return usagef("--limit is given %d times; want at most %d", len(l.rates), limit.MaxRequests)
	case len(l.trusted) > 0 && len(l.rates) == 0:
		return usagef("--trusted-proxy %v: there is no --limit to which addresses matter", &l.trusted)
	case l.trustedHeader != "" && len(l.trusted) == 0:
		return usagef("--trusted-header %s: there is no --trusted-proxy that would write it", l.trustedHeader)
	case l.trustedHeader != "" && !isHeaderName(l.trustedHeader):
		return usagef("--trusted-header %s: want the name of a field, such as Forwarded", l.trustedHeader)
	}
	_, err := l.clientIP()
	return err
}

func (l *limits) clientIP() (httplimit.Identity, error) {
	ip, err := httplimit.ClientIP(httplimit.IPOptions{Trusted: l.trusted, Header: l.trustedHeader})
	if err != nil {
		return nil, usagef("--trusted-proxy %v: %s", &l.trusted, strings.TrimPrefix(err.Error(), "httplimit: IPOptions."))
	}
	return ip, nil
}

// String tells people: 100/s by ip, 5000/d by header:X-Api-Key.
func (l *limits) String() string {
	var all []string
	for _, r := range l.rates {
		by := l.identity(r)
		r.by = identity{}
		all = append(all, r.String()+" by "+by.String())
	}
	return strings.Join(all, ", ")
}

// open makes the middleware; nil without limits. The function ends it.
func (l *limits) open(store, prefix string, logs *accesslog.Log) (*httplimit.Middleware, func() error, error) {
	if len(l.rates) == 0 {
		return nil, func() error { return nil }, nil
	}
	ip, err := l.clientIP()
	if err != nil {
		return nil, nil, err
	}
	o := httplimit.Options{
		Refuse: proxy.Refused,
		Hooks: httplimit.Hooks{Failed: func(_ *http.Request, err error) {
			if !errors.Is(err, limit.ErrClosed) {
				logs.Warn("a limit failed", "error", err)
			}
		}},
	}
	for _, r := range l.rates {
		p, err := r.policy(l.name(r))
		if err != nil {
			return nil, nil, err
		}
		lim := httplimit.Limit{Policy: p}
		switch by := l.identity(r); by.kind {
		case "ip":
			lim.By = ip
		case "header":
			// Who leaves it out is counted by address. To be refused would close what the API leaves open to all; to
			// share one limit would let one stranger use it up for the others.
			lim.By = httplimit.First(httplimit.Header(by.header), ip)
		}
		o.Limits = append(o.Limits, lim)
	}
	kept, err := openLimitStore(store, prefix)
	if err != nil {
		return nil, nil, err
	}
	var local limit.Store
	if slices.ContainsFunc(l.rates, func(r rate) bool { return r.outage == limit.OutageLocal }) {
		local = memlimit.New(memlimit.Options{})
	}
	limiter, err := limit.New(kept, limit.Options{Local: local, Hooks: limit.Hooks{Breaker: func(b limit.Breaker) {
		if b.Open {
			logs.Warn("the store of limits is away: each limit does what its outage= says", "error", b.Cause)
		} else {
			logs.Info("the store of limits answers again")
		}
	}}})
	if err != nil {
		_ = kept.Close()
		return nil, nil, err
	}
	m, err := httplimit.New(limiter, o)
	if err != nil {
		_ = limiter.Close()
		return nil, nil, err
	}
	return m, limiter.Close, nil
}

// openLimitStore opens where limits are counted: beside the cache.
func openLimitStore(url, prefix string) (limit.Store, error) {
	if strings.HasPrefix(url, "memory:") {
		return memlimit.New(memlimit.Options{}), nil
	}
	s, err := redislimit.Open(limitURL(url), redislimit.Options{Prefix: prefix})
	if err != nil {
		return nil, usagef("--store %s: %w", maskUserinfo(url), err)
	}
	return s, nil
}

// limitURL is the URL of the cache's store without the options that only that store knows.
func limitURL(url string) string {
	base, query, _ := strings.Cut(url, "?")
	var kept []string
	for option := range strings.SplitSeq(query, "&") {
		switch name, _, _ := strings.Cut(option, "="); name {
		case "", "budget", "partitions", "replicas":
		default:
			kept = append(kept, option)
		}
	}
	if kept == nil {
		return base
	}
	return base + "?" + strings.Join(kept, "&")
}
