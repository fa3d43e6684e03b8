package limittest

import (
	"errors"
	"strings"
	"time"

	"github.com/freshetdev/freshet/limit"
)

var gcraRules = []rule{
	{"a burst at once, exactly counted, and then nothing", func(e *env) {
		p := e.policy(limit.Spec{Limit: 5, Period: time.Hour})
		for i := int64(4); i >= 0; i-- {
			e.yes(p, "a", 1, i)
		}
		s := e.no(p, "a", 1, 0, 12*time.Minute)
		e.about("more after", s.MoreAfter, 12*time.Minute)
		e.about("reset after", s.ResetAfter, time.Hour)
	}},
	{"the burst is apart from the rate", func(e *env) {
		p := e.policy(limit.Spec{Limit: 60, Period: time.Hour, Burst: 3})
		e.yes(p, "a", 3, 0)
		e.no(p, "a", 1, 0, time.Minute)
		e.no(p, "a", 3, 0, 3*time.Minute)

		p = e.policy(limit.Spec{Limit: 1, Period: time.Hour, Burst: 10})
		e.yes(p, "b", 10, 0)
		e.no(p, "b", 1, 0, time.Hour)
	}},
	{"units flow back one at a time", func(e *env) {
		p := e.policy(limit.Spec{Limit: 2, Period: 2 * short})
		e.yes(p, "a", 2, 0)
		time.Sleep(short)
		e.yes(p, "a", 1, 0)
		e.no(p, "a", 1, 0, short)
	}},
	{"the retry is a promise", func(e *env) {
		p := e.policy(limit.Spec{Limit: 7, Period: 7 * short, Burst: 3})
		e.yes(p, "a", 3, 0)
		s := e.no(p, "a", 2, 0, 2*short)
		if e.opts.Bubble {
			time.Sleep(s.RetryAfter - time.Microsecond)
			e.no(p, "a", 2, 1, time.Microsecond)
			time.Sleep(time.Microsecond)
		} else {
			time.Sleep(s.RetryAfter)
		}
		e.yes(p, "a", 2, 0)
	}},
	{"what is refused costs nothing", func(e *env) {
		p := e.policy(limit.Spec{Limit: 10, Period: time.Hour})
		e.yes(p, "a", 6, 4)
		for range 20 {
			e.no(p, "a", 5, 4, 6*time.Minute)
		}
		e.yes(p, "a", 4, 0)
	}},
	{"a cost over the burst is never admitted, and costs nothing", func(e *env) {
		p := e.policy(limit.Spec{Limit: 10, Period: time.Hour})
		e.no(p, "a", 11, 10, limit.NeverRetry)
		e.no(p, "a", limit.MaxUnits, 10, limit.NeverRetry)
		e.yes(p, "a", 10, 0)
		e.no(p, "a", 11, 0, limit.NeverRetry)
	}},
	{"a limit of zero refuses for ever", func(e *env) {
		for _, spec := range []limit.Spec{
			{Period: time.Second},
			{Kind: limit.Strict, Period: time.Second},
			{Kind: limit.Fixed, Calendar: limit.Day},
			{Kind: limit.Concurrency},
		} {
			p := e.policy(spec)
			e.no(p, "a", 1, 0, limit.NeverRetry)
			e.no(p, "a", 0, 0, limit.NeverRetry)
			e.left(p, "a", 0)
			e.adjust(p, "a", -5, 0)
			e.no(p, "a", 1, 0, limit.NeverRetry)
			e.reset(p, "a")
		}
	}},
	{"a cost of zero asks for room for one, and takes nothing", func(e *env) {
		for _, spec := range []limit.Spec{
			{Limit: 2, Period: time.Hour},
			{Kind: limit.Strict, Limit: 2, Period: time.Hour},
			{Kind: limit.Strict, Limit: 2 * limit.LogMax, Period: time.Hour},
			{Kind: limit.Fixed, Limit: 2, Calendar: limit.Year},
			{Kind: limit.Concurrency, Limit: 2},
		} {
			p := e.policy(spec)
			n := spec.Limit
			e.yes(p, "a", 0, n)
			e.yes(p, "a", n, 0)
			if s := e.take(p, "a", 0); s.Fits || s.RetryAfter <= 0 {
				e.Errorf("%v: cost 0 without room: %+v", spec.Kind, s)
			}
			e.reset(p, "a")
		}
	}},
	{"rates that don't divide are rounded so that less is admitted", func(e *env) {
		p := e.policy(limit.Spec{Limit: 7, Period: time.Second})
		e.yes(p, "a", 7, 0)
		e.no(p, "a", 7, 0, 7*142858*time.Microsecond)
	}},
	{"a million a second, a year, and the largest numbers", func(e *env) {
		p := e.policy(limit.Spec{Limit: 1_000_000, Period: time.Second, Burst: 1_000_000})
		e.yes(p, "fast", 1_000_000, 0)
		p = e.policy(limit.Spec{Limit: 1, Period: limit.MaxPeriod})
		e.yes(p, "slow", 1, 0)
		e.no(p, "slow", 1, 0, limit.MaxPeriod)

		most := limit.MaxSpan.Microseconds()
		p = e.policy(limit.Spec{Limit: 1_000_000, Period: time.Second, Burst: most, Debt: -1})
		e.yes(p, "deep", most-1, 1)
		if s := e.take(p, "deep", most); s.Fits || s.RetryAfter > limit.MaxSpan || s.RetryAfter < limit.MaxSpan-2*late {
			e.Errorf("%+v; want a refusal for about %v", s, limit.MaxSpan)
		}

		big := int64(limit.MaxUnits)
		for i, spec := range []limit.Spec{
			{Kind: limit.Strict, Limit: big, Period: limit.MaxPeriod},
			{Kind: limit.Fixed, Limit: big, Calendar: limit.Year},
			{Kind: limit.Concurrency, Limit: big, TTL: limit.MaxPeriod},
		} {
			p := e.policy(spec)
			key := string(rune('a' + i))
			e.yes(p, key, big-1, 1)
			e.yes(p, key, 1, 0)
			if s := e.take(p, key, big); s.Fits || s.RetryAfter < 0 {
				e.Errorf("%v: %+v; want a refusal with a retry", spec.Kind, s)
			}
			e.adjust(p, key, big, 0)
			e.adjust(p, key, -big, 0)
		}
	}},
	{"keys, names and kinds count apart", func(e *env) {
		one := limit.Spec{Limit: 1, Period: time.Hour}
		p := e.policy(one)
		other := limit.MustPolicy("other", one)
		strict := e.policy(limit.Spec{Kind: limit.Strict, Limit: 1, Period: time.Hour})
		fixed := e.policy(limit.Spec{Kind: limit.Fixed, Limit: 1, Calendar: limit.Year})
		slots := e.policy(limit.Spec{Kind: limit.Concurrency, Limit: 1, TTL: time.Hour})
		keys := []string{"", "a", "b", "a ", " a", "a:b", "A", "\x00", "\x00\x00", "ä", "{a}", "{a}b", "}{", "*", "\xff\xfe", "a\nb", "a\r\nb",
			strings.Repeat("k", limit.MaxKey)}
		for _, p := range []*limit.Policy{p, other, strict, fixed, slots} {
			for _, key := range keys {
				e.yes(p, key, 1, 0)
			}
			for _, key := range keys {
				if e.take(p, key, 1).Fits {
					e.Errorf("%s %v: %q has room for a second", p.Name(), p.Rule().Kind, key)
				}
			}
		}
	}},
	{"what flowed back whole is as never used", func(e *env) {
		p := e.policy(limit.Spec{Limit: 3, Period: short})
		e.yes(p, "a", 3, 0)
		time.Sleep(short + 10*ms)
		s := e.peek(p, "a")
		if s.Remaining != 3 || s.MoreAfter != 0 || s.ResetAfter != 0 {
			e.Errorf("%+v; want all 3, and nothing to come", s)
		}
		e.yes(p, "a", 3, 0)
	}},
	// A store that keeps state for less than the debt admits too much: reference, 100 per 1.9 s in bursts 1.05 s apart.
	{"state is kept as long as the debt, to the millisecond", func(e *env) {
		p := e.policy(limit.Spec{Limit: 10, Period: 1900 * ms, Burst: 10})
		began := time.Now()
		admitted := 0
		for range 3 {
			for range 12 {
				if e.take(p, "a", 1).Fits {
					admitted++
				}
			}
			time.Sleep(1050 * ms)
		}
		if most := 10 + int(time.Since(began)/(190*ms)); admitted > most {
			e.Errorf("%d admitted in %v; want at most %d", admitted, time.Since(began), most)
		}
	}},
}

var strictRules = []rule{
	{"a log never admits more in any window", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Strict, Limit: 3, Period: 3 * short})
		e.yes(p, "a", 1, 2)
		time.Sleep(short)
		e.yes(p, "a", 2, 0)
		s := e.no(p, "a", 1, 0, 2*short)
		e.about("more after", s.MoreAfter, 2*short)
		e.about("reset after", s.ResetAfter, 3*short)
		e.no(p, "a", 2, 0, 3*short)
		time.Sleep(s.RetryAfter)
		e.yes(p, "a", 1, 0) // the first is a period old
		e.no(p, "a", 1, 0, short)
	}},
	{"a log keeps each admission for exactly a period", func(e *env) {
		if !e.opts.Bubble {
			e.rest(limit.Spec{Kind: limit.Strict, Limit: 2, Period: 2 * short})
			return
		}
		p := e.policy(limit.Spec{Kind: limit.Strict, Limit: 2, Period: time.Second})
		e.yes(p, "a", 1, 1)
		time.Sleep(time.Millisecond)
		e.yes(p, "a", 1, 0)
		time.Sleep(999*ms - time.Microsecond)
		e.no(p, "a", 1, 0, time.Microsecond)
		time.Sleep(time.Microsecond)
		e.yes(p, "a", 1, 0)
		e.no(p, "a", 1, 0, ms)
	}},
	{"sub-windows count in full until their last moment is a period old", func(e *env) {
		n := int64(2 * limit.LogMax)
		spec := limit.Spec{Kind: limit.Strict, Limit: n, Period: 10 * short}
		if !e.opts.Bubble {
			spec.Period = short
			e.rest(spec)
			return
		}
		p := e.policy(spec)
		e.align(short)
		e.yes(p, "a", 100, n-100)
		time.Sleep(short - time.Microsecond)
		e.yes(p, "a", n-100, 0) // the same sub-window
		s := e.no(p, "a", 1, 0, 10*short+time.Microsecond)
		e.about("reset after", s.ResetAfter, 10*short+time.Microsecond)
		time.Sleep(10 * short)
		e.no(p, "a", 1, 0, time.Microsecond)
		time.Sleep(time.Microsecond)
		e.yes(p, "a", n, 0)
	}},
	{"what is refused costs nothing", func(e *env) {
		for _, n := range []int64{10, 10 * limit.LogMax} {
			p := e.policy(limit.Spec{Kind: limit.Strict, Limit: n, Period: time.Hour})
			e.yes(p, "a", n-4, 4)
			for range 20 {
				if s := e.take(p, "a", 5); s.Fits || s.Remaining != 4 {
					e.Errorf("%+v; want a refusal with 4 remaining", s)
				}
			}
			e.no(p, "a", n+1, 4, limit.NeverRetry)
			e.yes(p, "a", 4, 0)
			e.reset(p, "a")
		}
	}},
	{"a log holds as many times as it has units", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Strict, Limit: limit.LogMax, Period: time.Hour})
		for i := int64(limit.LogMax) - 1; i >= 0; i-- {
			e.yes(p, "a", 1, i)
			time.Sleep(time.Microsecond)
		}
		if e.take(p, "a", 1).Fits {
			e.Error("one too many")
		}
	}},
}

// rest checks what can be checked of a Strict policy without exact time.
func (e *env) rest(spec limit.Spec) {
	p := e.policy(spec)
	e.yes(p, "a", spec.Limit, 0)
	s := e.take(p, "a", 1)
	if s.Fits || s.RetryAfter > spec.Period*11/10+time.Microsecond {
		e.Errorf("%+v; want a refusal for a period at most, and a tenth", s)
	}
	time.Sleep(s.RetryAfter)
	e.yes(p, "a", spec.Limit, 0)
}

// align sleeps to the next multiple of d since 1970.
func (e *env) align(d time.Duration) {
	us := time.Now().UnixMicro()
	time.Sleep(time.Duration(d.Microseconds()-us%d.Microseconds()) * time.Microsecond)
}

var fixedRules = []rule{
	{"all at once in each window, nothing before it ends", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Fixed, Limit: 4, Period: 2 * time.Second})
		e.align(2 * time.Second)
		s := e.yes(p, "a", 3, 1)
		e.about("more after", s.MoreAfter, 2*time.Second)
		e.about("reset after", s.ResetAfter, 2*time.Second)
		e.no(p, "a", 2, 1, 2*time.Second)
		e.yes(p, "a", 1, 0)
		e.align(2 * time.Second)
		s = e.peek(p, "a")
		if s.Remaining != 4 || s.ResetAfter != 0 || s.MoreAfter != 0 {
			e.Errorf("%+v; want all in the new window", s)
		}
		e.yes(p, "a", 4, 0)
	}},
	{"windows of the calendar end where they should", func(e *env) {
		zone, err := time.LoadLocation("Europe/Berlin")
		if err != nil {
			e.Fatal(err)
		}
		for c := limit.Minute; c <= limit.Year; c++ {
			p := e.policy(limit.Spec{Kind: limit.Fixed, Limit: 2, Calendar: c, Location: zone})
			key := c.String()
			for range 2 { // the window may end between the two
				before := time.Now()
				end := windowEnd(c, before.In(zone))
				e.reset(p, key)
				s := e.take(p, key, 2)
				if !s.Fits || s.Remaining != 0 {
					e.Errorf("%v: %+v; want it with none remaining", c, s)
				}
				if time.Now().Before(end) {
					e.about(key+" ends after", s.ResetAfter, time.Duration(end.UnixMicro()-before.UnixMicro())*time.Microsecond)
					break
				}
			}
		}
	}},
}

// windowEnd is where the window of t ends, by plain dates: good for zones whose clocks change at 02:00 or 03:00.
func windowEnd(c limit.Calendar, t time.Time) time.Time {
	y, m, d := t.Date()
	date := func(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, t.Location()) }
	switch c {
	case limit.Minute:
		return t.Truncate(time.Minute).Add(time.Minute)
	case limit.Hour:
		return t.Truncate(time.Hour).Add(time.Hour)
	case limit.Day:
		return date(y, m, d+1)
	case limit.Week:
		return date(y, m, d+7-(int(t.Weekday())+6)%7)
	case limit.Month:
		return date(y, m+1, 1)
	default:
		return date(y+1, 1, 1)
	}
}

var concurrencyRules = []rule{
	{"so many at a time, and one more for each released", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Concurrency, Limit: 3, TTL: time.Hour})
		a := e.charge(p, "k", 2)
		e.all("+", a)
		b := e.charge(p, "k", 1)
		e.all("+", b)
		e.no(p, "k", 1, 0, time.Hour)
		e.release(p, "k", a.Lease)
		e.left(p, "k", 2)
		e.release(p, "k", a.Lease) // again: nothing
		e.left(p, "k", 2)
		e.yes(p, "k", 2, 0)
		e.release(p, "k", b.Lease)
		e.left(p, "k", 1)
	}},
	{"a lease that nobody renews ends by itself", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Concurrency, Limit: 1, TTL: short})
		e.yes(p, "k", 1, 0)
		s := e.no(p, "k", 1, 0, short)
		time.Sleep(s.RetryAfter)
		e.yes(p, "k", 1, 0)
	}},
	{"a renewed lease lasts another TTL from then on", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Concurrency, Limit: 2, TTL: 3 * short})
		a, b := e.charge(p, "k", 1), e.charge(p, "k", 1)
		e.all("+", a)
		e.all("+", b)
		time.Sleep(2 * short)
		e.renew(p, "k", a.Lease, nil)
		time.Sleep(short + 20*ms)
		e.left(p, "k", 1) // a is there, b isn't
		e.renew(p, "k", b.Lease, limit.ErrLeaseLost)
		e.renew(p, "k", a.Lease, nil)
	}},
	{"a lost lease can't be renewed back", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Concurrency, Limit: 1, TTL: short})
		a := e.charge(p, "k", 1)
		e.all("+", a)
		time.Sleep(short + 20*ms)
		e.yes(p, "k", 1, 0)
		e.renew(p, "k", a.Lease, limit.ErrLeaseLost)
		e.no(p, "k", 1, 0, short)
		e.renew(p, "never", a.Lease, limit.ErrLeaseLost)
		e.release(p, "never", a.Lease)
	}},
	{"room comes back in the order in which leases end", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Concurrency, Limit: 3, TTL: 10 * time.Second})
		e.yes(p, "k", 1, 2)
		time.Sleep(100 * ms)
		e.yes(p, "k", 2, 0)
		s := e.no(p, "k", 1, 0, 9900*ms)
		e.about("more after", s.MoreAfter, 9900*ms)
		e.about("reset after", s.ResetAfter, 10*time.Second)
		e.no(p, "k", 2, 0, 10*time.Second)
		e.no(p, "k", 4, 0, limit.NeverRetry)
	}},
	{"a lease taken twice counts once", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Concurrency, Limit: 3, TTL: time.Hour})
		a := e.charge(p, "k", 1)
		e.all("+", a)
		e.all("+", a)
		e.left(p, "k", 2)
	}},
}

var severalRules = []rule{
	{"all are charged, or none", func(e *env) {
		few := limit.MustPolicy("few", limit.Spec{Limit: 2, Period: time.Hour})
		many := limit.MustPolicy("many", limit.Spec{Kind: limit.Strict, Limit: 10, Period: time.Hour})
		quota := limit.MustPolicy("quota", limit.Spec{Kind: limit.Fixed, Limit: 100, Calendar: limit.Year})
		slots := limit.MustPolicy("slots", limit.Spec{Kind: limit.Concurrency, Limit: 5, TTL: time.Hour})
		charges := func() []limit.Charge {
			return []limit.Charge{e.charge(many, "t", 3), e.charge(few, "t", 1), e.charge(quota, "t", 10), e.charge(slots, "t", 1)}
		}
		e.all("++++", charges()...)
		s := e.all("++++", charges()...)
		for i, want := range []int64{4, 0, 80, 3} {
			if s[i].Remaining != want {
				e.Errorf("charge %d: %d remaining; want %d", i, s[i].Remaining, want)
			}
		}
		for range 5 {
			s = e.all(".-..", charges()...)
		}
		for i, want := range []int64{4, 0, 80, 3} {
			if s[i].Remaining != want {
				e.Errorf("refused, charge %d: %d remaining; want %d", i, s[i].Remaining, want)
			}
		}
		e.left(many, "t", 4)
		e.left(quota, "t", 80)
		e.left(slots, "t", 3)
	}},
	{"each that refuses says so", func(e *env) {
		a := limit.MustPolicy("a", limit.Spec{Limit: 1, Period: time.Hour})
		b := limit.MustPolicy("b", limit.Spec{Limit: 1, Period: time.Minute})
		e.all("++", e.charge(a, "k", 1), e.charge(b, "k", 1))
		s := e.all("--", e.charge(a, "k", 1), e.charge(b, "k", 1))
		e.about("retry of a", s[0].RetryAfter, time.Hour)
		e.about("retry of b", s[1].RetryAfter, time.Minute)
	}},
	{"one name, many keys; and one key, many names", func(e *env) {
		p := e.policy(limit.Spec{Limit: 2, Period: time.Hour})
		var c []limit.Charge
		for i := range limit.MaxRequests {
			c = append(c, e.charge(p, "{t}"+string(rune('a'+i)), 2))
		}
		e.all(strings.Repeat("+", len(c)), c...)
		e.all(strings.Repeat("-", len(c)), c...)
		c = nil
		for i := range limit.MaxRequests {
			c = append(c, e.charge(limit.MustPolicy("p"+string(rune('a'+i)), limit.Spec{Limit: 2, Period: time.Hour}), "t", 2))
		}
		e.all(strings.Repeat("+", len(c)), c...)
		e.all(strings.Repeat("-", len(c)), c...)
	}},
	{"a cost of zero asks, and keeps others from it", func(e *env) {
		a := limit.MustPolicy("a", limit.Spec{Limit: 1, Period: time.Hour})
		b := limit.MustPolicy("b", limit.Spec{Limit: 10, Period: time.Hour})
		e.all(".+", e.charge(a, "k", 0), e.charge(b, "k", 1))
		e.all("++", e.charge(a, "k", 1), e.charge(b, "k", 1))
		e.all("-.", e.charge(a, "k", 0), e.charge(b, "k", 1))
		e.left(b, "k", 8)
	}},
	{"a shadow limit is charged where it has room, and refuses nobody", func(e *env) {
		a := limit.MustPolicy("a", limit.Spec{Limit: 1, Period: time.Hour})
		b := limit.MustPolicy("b", limit.Spec{Limit: 3, Period: time.Hour})
		c := func() []limit.Charge {
			c := []limit.Charge{e.charge(a, "k", 1), e.charge(b, "k", 1)}
			c[0].Shadow = true
			return c
		}
		s := e.all("++", c()...)
		if !s[0].Shadow || s[1].Shadow {
			e.Errorf("shadow is %v, %v; want true, false", s[0].Shadow, s[1].Shadow)
		}
		e.all("-+", c()...)
		e.all("-+", c()...)
		e.all("--", c()...)
		e.reset(a, "k")
		e.all(".-", c()...) // b refuses, so nothing is charged
		e.left(a, "k", 1)
	}},
}

var correctRules = []rule{
	{"what is given back can be taken again", func(e *env) {
		for _, spec := range []limit.Spec{
			{Limit: 10, Period: time.Hour},
			{Kind: limit.Strict, Limit: 10, Period: time.Hour},
			{Kind: limit.Strict, Limit: 10 * limit.LogMax, Period: time.Hour},
			{Kind: limit.Fixed, Limit: 10, Calendar: limit.Year},
		} {
			p := e.policy(spec)
			n := spec.Limit
			s := e.yes(p, "a", n, 0)
			if got := e.adjust(p, "a", -3, s.At); got.Remaining != 3 || !got.Fits {
				e.Errorf("%v: %+v; want 3 remaining", spec.Kind, got)
			}
			e.yes(p, "a", 3, 0)
			e.adjust(p, "a", -2*n, 0) // more than was used: all of it
			e.left(p, "a", n)
			e.adjust(p, "a", -1, 0)
			e.left(p, "a", n)
			e.reset(p, "a")
		}
	}},
	{"more can be charged than there is room for, as far as the debt goes", func(e *env) {
		p := e.policy(limit.Spec{Limit: 60, Period: time.Hour, Burst: 10, Debt: 5})
		e.yes(p, "a", 8, 2)
		s := e.adjust(p, "a", 4, 0)
		if s.Fits || s.Remaining != 0 {
			e.Errorf("%+v; want a debt of 2", s)
		}
		e.about("retry after", s.RetryAfter, 3*time.Minute)
		s = e.adjust(p, "a", 1000, 0)
		e.about("retry at the end of the debt", s.RetryAfter, 6*time.Minute)
		s = e.adjust(p, "a", limit.MaxUnits, 0)
		e.about("retry at the end of the debt", s.RetryAfter, 6*time.Minute)

		for i, spec := range []limit.Spec{
			{Kind: limit.Strict, Limit: 10, Debt: 5, Period: time.Hour},
			{Kind: limit.Strict, Limit: 1000, Debt: 5, Period: time.Hour},
			{Kind: limit.Fixed, Limit: 10, Debt: 5, Calendar: limit.Year},
		} {
			p, key, n := e.policy(spec), string(rune('b'+i)), spec.Limit
			s := e.yes(p, key, n-2, 2)
			e.adjust(p, key, 4, s.At)
			e.adjust(p, key, -2, s.At)
			e.left(p, key, 0)
			e.adjust(p, key, limit.MaxUnits, s.At) // at most 5 over
			e.adjust(p, key, -5, s.At)
			e.left(p, key, 0)
			e.adjust(p, key, -1, s.At)
			e.left(p, key, 1)
		}
	}},
	{"a policy without debt can't be overdrawn", func(e *env) {
		p := e.policy(limit.Spec{Limit: 10, Period: time.Hour, Debt: -1})
		e.yes(p, "a", 9, 1)
		s := e.adjust(p, "a", 5, 0)
		e.about("retry after", s.RetryAfter, 6*time.Minute)
	}},
	{"an adjustment of a key that isn't there charges it, or does nothing", func(e *env) {
		for _, spec := range []limit.Spec{
			{Limit: 10, Period: time.Hour},
			{Kind: limit.Strict, Limit: 10, Period: time.Hour},
			{Kind: limit.Fixed, Limit: 10, Calendar: limit.Year},
		} {
			p := e.policy(spec)
			if s := e.adjust(p, "new", -4, 0); s.Remaining != 10 {
				e.Errorf("%v: %+v; want all 10", spec.Kind, s)
			}
			if s := e.adjust(p, "new", 4, 0); s.Remaining != 6 {
				e.Errorf("%v: %+v; want 6", spec.Kind, s)
			}
			e.left(p, "new", 6)
		}
	}},
	{"what counts no more isn't given back", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Strict, Limit: 2, Period: short})
		s := e.yes(p, "a", 2, 0)
		time.Sleep(short)
		e.yes(p, "a", 2, 0)
		e.adjust(p, "a", -2, s.At)
		e.left(p, "a", 0)

		p = e.policy(limit.Spec{Kind: limit.Fixed, Limit: 2, Period: 2 * time.Second})
		e.align(2 * time.Second)
		s = e.yes(p, "a", 2, 0)
		e.align(2 * time.Second)
		now := e.yes(p, "a", 2, 0)
		e.adjust(p, "a", -2, s.At)
		e.left(p, "a", 0)
		e.adjust(p, "a", -2, now.At)
		e.left(p, "a", 2)
	}},
	{"Strict gives back what was taken then, not what is older", func(e *env) {
		p := e.policy(limit.Spec{Kind: limit.Strict, Limit: 4, Period: 4 * short})
		e.yes(p, "a", 2, 2)
		time.Sleep(2 * short)
		s := e.yes(p, "a", 2, 0)
		e.adjust(p, "a", -2, s.At)
		if got := e.peek(p, "a"); got.ResetAfter > 2*short {
			e.Errorf("reset after %v; want the older one's, at most %v", got.ResetAfter, 2*short)
		}
		e.yes(p, "a", 2, 0)
		e.adjust(p, "a", -2, 0) // not known which: the oldest, so that nothing is admitted too early
		if got := e.peek(p, "a"); got.ResetAfter <= 2*short {
			e.Errorf("reset after %v; want the younger one's, more than %v", got.ResetAfter, 2*short)
		}
	}},
	{"several are adjusted, each by itself", func(e *env) {
		p := e.policy(limit.Spec{Limit: 10, Period: time.Hour})
		e.yes(p, "{t}a", 5, 5)
		e.yes(p, "{t}b", 5, 5)
		out := make([]limit.Status, 2)
		a := []limit.Adjustment{{Policy: p, Key: "{t}a", Units: -2}, {Policy: p, Key: "{t}b", Units: 2}}
		if err := e.s.Adjust(bg, a, out); err != nil {
			e.Fatal(err)
		}
		if out[0].Remaining != 7 || out[1].Remaining != 3 || out[1].Key != "{t}b" {
			e.Errorf("%+v; want 7 and 3 remaining", out)
		}
	}},
	{"a reset forgets all", func(e *env) {
		for _, spec := range []limit.Spec{
			{Limit: 2, Period: time.Hour},
			{Kind: limit.Strict, Limit: 2, Period: time.Hour},
			{Kind: limit.Fixed, Limit: 2, Calendar: limit.Year},
			{Kind: limit.Concurrency, Limit: 2, TTL: time.Hour},
		} {
			spec.Penalty = limit.Penalty{After: 1, Within: time.Hour, Block: time.Hour}
			p := e.policy(spec)
			c := e.charge(p, "a", 2)
			e.all("+", c)
			e.all("-", e.charge(p, "a", 1))
			e.reset(p, "a")
			e.reset(p, "a") // nothing is there
			s := e.peek(p, "a")
			if s.Remaining != 2 || s.Blocked || s.ResetAfter != 0 {
				e.Errorf("%v: %+v; want all 2, not blocked", spec.Kind, s)
			}
			if spec.Kind == limit.Concurrency {
				e.renew(p, "a", c.Lease, limit.ErrLeaseLost)
			}
		}
	}},
	{"a peek writes nothing", func(e *env) {
		p := e.policy(limit.Spec{Limit: 2, Period: 2 * short, Penalty: limit.Penalty{After: 1, Within: time.Hour, Block: time.Hour}})
		e.left(p, "a", 2)
		e.yes(p, "a", 2, 0)
		for range 5 {
			if s := e.peek(p, "a"); s.Fits || s.Charged || s.Blocked || s.RetryAfter <= 0 {
				e.Errorf("%+v; want a refusal that isn't a block", s)
			}
		}
		time.Sleep(short)
		e.yes(p, "a", 1, 0)
		out := make([]limit.Status, 2)
		c := []limit.Charge{{Policy: p, Key: "{t}1", Cost: 1}, {Policy: p, Key: "{t}2", Cost: 3}}
		if err := e.s.Peek(bg, c, out); err != nil {
			e.Fatal(err)
		}
		if !out[0].Fits || out[0].Remaining != 2 || out[1].Fits || out[1].RetryAfter != limit.NeverRetry {
			e.Errorf("%+v; want the first to fit, the second never", out)
		}
	}},
}

var penaltyRules = []rule{
	{"refused too often, a key is blocked, whatever room it has", func(e *env) {
		p := e.policy(limit.Spec{Limit: 2, Period: 2 * short, Penalty: limit.Penalty{After: 3, Within: time.Hour, Block: 4 * short}})
		e.yes(p, "a", 2, 0)
		for i := range 2 {
			if s := e.take(p, "a", 1); s.Fits || s.Blocked {
				e.Errorf("refusal %d: %+v; want one that doesn't block", i, s)
			}
		}
		s := e.take(p, "a", 1)
		if s.Fits || !s.Blocked {
			e.Errorf("the third refusal: %+v; want a block", s)
		}
		e.about("retry after", s.RetryAfter, 4*short)
		e.take(p, "other", 1)
		time.Sleep(2 * short)
		s = e.no(p, "a", 1, 2, 2*short)
		if !s.Blocked {
			e.Errorf("%+v; want a block", s)
		}
		time.Sleep(s.RetryAfter)
		e.yes(p, "a", 2, 0)
		if s := e.take(p, "a", 1); s.Blocked {
			e.Error("blocked by the first refusal after a block; want it to count anew")
		}
	}},
	{"refusals count from the first for a time", func(e *env) {
		p := e.policy(limit.Spec{Limit: 1, Period: time.Hour, Penalty: limit.Penalty{After: 2, Within: short, Block: 2 * time.Hour}})
		e.yes(p, "a", 1, 0)
		e.take(p, "a", 1)
		time.Sleep(short + 10*ms)
		if s := e.take(p, "a", 1); s.Blocked {
			e.Errorf("%+v; want the earlier refusal to be forgotten", s)
		}
		if s := e.take(p, "a", 1); !s.Blocked {
			e.Errorf("%+v; want a block", s)
		}
	}},
	{"a block isn't made longer by those it refuses", func(e *env) {
		p := e.policy(limit.Spec{Limit: 1, Period: 100 * ms, Penalty: limit.Penalty{After: 1, Within: time.Second, Block: 2 * short}})
		e.yes(p, "a", 1, 0)
		for range 8 {
			if !e.take(p, "a", 1).Blocked {
				e.Fatal("not blocked")
			}
			time.Sleep(short / 5)
		}
		time.Sleep(short)
		e.yes(p, "a", 1, 0)
	}},
	{"a cost that can't ever be admitted doesn't count", func(e *env) {
		p := e.policy(limit.Spec{Limit: 1, Period: time.Hour, Penalty: limit.Penalty{After: 1, Within: time.Hour, Block: time.Hour}})
		e.no(p, "a", 2, 1, limit.NeverRetry)
		e.yes(p, "a", 1, 0)
	}},
	{"of several, those that refuse count", func(e *env) {
		pen := limit.Penalty{After: 2, Within: time.Hour, Block: 2 * time.Hour}
		a := limit.MustPolicy("a", limit.Spec{Limit: 1, Period: time.Hour, Penalty: pen})
		b := limit.MustPolicy("b", limit.Spec{Kind: limit.Strict, Limit: 5, Period: time.Hour, Penalty: pen})
		e.all("++", e.charge(a, "k", 1), e.charge(b, "k", 1))
		e.all("-.", e.charge(a, "k", 1), e.charge(b, "k", 1))
		s := e.all("-.", e.charge(a, "k", 1), e.charge(b, "k", 1))
		if !s[0].Blocked || s[1].Blocked {
			e.Errorf("blocked %v, %v; want the first", s[0].Blocked, s[1].Blocked)
		}
		e.left(b, "k", 4)
	}},
	{"a shadow limit that has no room counts too", func(e *env) {
		p := e.policy(limit.Spec{Limit: 1, Period: time.Hour, Penalty: limit.Penalty{After: 1, Within: time.Hour, Block: 2 * time.Hour}})
		c := e.charge(p, "a", 1)
		c.Shadow = true
		e.all("+", c)
		if s := e.all("-", c); !s[0].Blocked {
			e.Errorf("%+v; want a block", s[0])
		}
	}},
	{"all kinds have it", func(e *env) {
		for _, spec := range []limit.Spec{
			{Kind: limit.Strict, Limit: 1, Period: time.Hour},
			{Kind: limit.Strict, Limit: 1000, Period: time.Hour},
			{Kind: limit.Fixed, Limit: 1, Calendar: limit.Year},
			{Kind: limit.Concurrency, Limit: 1, TTL: time.Hour},
		} {
			spec.Penalty = limit.Penalty{After: 1, Within: time.Hour, Block: limit.MaxPeriod}
			p := e.policy(spec)
			e.yes(p, "a", spec.Limit, 0)
			s := e.take(p, "a", 1)
			if !s.Blocked {
				e.Errorf("%v: %+v; want a block", spec.Kind, s)
			}
			e.about("retry after", s.RetryAfter, limit.MaxPeriod)
			e.reset(p, "a")
		}
	}},
}

var changeRules = []rule{
	{"a raised burst holds at once, the debt is paid in its old time", func(e *env) {
		e.yes(e.policy(limit.Spec{Limit: 10, Period: time.Hour}), "a", 10, 0)
		p := e.policy(limit.Spec{Limit: 10, Period: time.Hour, Burst: 15})
		e.left(p, "a", 5)
		p = e.policy(limit.Spec{Limit: 100, Period: time.Hour}) // an hour of debt is all of it
		e.left(p, "a", 0)
		p = e.policy(limit.Spec{Limit: 100, Period: time.Hour, Burst: 150})
		if s := e.peek(p, "a"); s.Remaining != 50 {
			e.Errorf("%+v; want 50", s)
		}
	}},
	{"a lowered burst holds at once", func(e *env) {
		e.yes(e.policy(limit.Spec{Limit: 1000, Period: time.Hour}), "a", 900, 100)
		p := e.policy(limit.Spec{Limit: 1000, Period: time.Hour, Burst: 10, Debt: -1})
		s := e.no(p, "a", 1, 0, 3600*ms)
		e.about("reset after", s.ResetAfter, 36*time.Second)
	}},
	{"used units stay used, for any other number", func(e *env) {
		for _, spec := range []limit.Spec{
			{Kind: limit.Strict, Limit: 10, Period: time.Hour},
			{Kind: limit.Fixed, Limit: 10, Calendar: limit.Year},
			{Kind: limit.Concurrency, Limit: 10, TTL: time.Hour},
		} {
			e.yes(e.policy(spec), "a", 8, 2)
			spec.Limit = 5
			e.left(e.policy(spec), "a", 0)
			spec.Limit = 1000 // Strict: from the log to sub-windows
			e.left(e.policy(spec), "a", 992)
			e.yes(e.policy(spec), "a", 2, 990)
			spec.Limit = 20
			e.left(e.policy(spec), "a", 10)
			e.reset(e.policy(spec), "a")
		}
	}},
	{"a day's quota goes into the month's", func(e *env) {
		e.yes(e.policy(limit.Spec{Kind: limit.Fixed, Limit: 10, Calendar: limit.Day}), "a", 4, 6)
		e.left(e.policy(limit.Spec{Kind: limit.Fixed, Limit: 100, Calendar: limit.Year}), "a", 96)
	}},
	{"shorter leases hold for those that are there", func(e *env) {
		e.yes(e.policy(limit.Spec{Kind: limit.Concurrency, Limit: 1, TTL: time.Hour}), "a", 1, 0)
		e.no(e.policy(limit.Spec{Kind: limit.Concurrency, Limit: 1, TTL: time.Minute}), "a", 1, 0, time.Minute)
	}},
}

var crowdRules = []rule{
	{"exactly as many as there are, however many ask", func(e *env) {
		for _, spec := range []limit.Spec{
			{Limit: 50, Period: limit.MaxPeriod},
			{Limit: 50, Period: limit.MaxPeriod, Penalty: limit.Penalty{After: 10, Within: time.Hour, Block: time.Hour}},
			{Kind: limit.Strict, Limit: 50, Period: time.Hour},
			{Kind: limit.Strict, Limit: 500, Period: time.Hour},
			{Kind: limit.Fixed, Limit: 50, Calendar: limit.Year},
			{Kind: limit.Concurrency, Limit: 50, TTL: time.Hour},
		} {
			p := e.policy(spec)
			got := e.crowd(int(spec.Limit)*3, func(i int) bool {
				s, err := e.s.Take(bg, limit.Charge{Policy: p, Key: "hot", Cost: 1, Lease: lease(i)})
				if err != nil {
					e.Error(err)
				}
				return s.Fits
			})
			if got != int(spec.Limit) {
				e.Errorf("%v: %d admitted; want %d", spec.Kind, got, spec.Limit)
			}
			e.reset(p, "hot")
		}
	}},
	{"many keys at once, each exactly", func(e *env) {
		p := e.policy(limit.Spec{Limit: 3, Period: limit.MaxPeriod})
		got := e.crowd(100*5, func(i int) bool {
			s, err := e.s.Take(bg, limit.Charge{Policy: p, Key: string(rune('0' + i%100)), Cost: 1})
			if err != nil {
				e.Error(err)
			}
			return s.Fits
		})
		if got != 300 {
			e.Errorf("%d admitted; want 300", got)
		}
	}},
	{"decisions over several limits that overlap are exact, and none gets stuck", func(e *env) {
		// Everybody needs the tenant, and one of four users, in both orders. The tenant has 60, the users 10 each: 40 in all; then
		// the tenant must have 20 left, or somebody was charged and refused.
		tenant := limit.MustPolicy("tenant", limit.Spec{Limit: 60, Period: limit.MaxPeriod})
		user := limit.MustPolicy("user", limit.Spec{Limit: 10, Period: limit.MaxPeriod})
		month := limit.MustPolicy("month", limit.Spec{Kind: limit.Fixed, Limit: 1000, Calendar: limit.Year})
		got := e.crowd(300, func(i int) bool {
			c := []limit.Charge{{Policy: tenant, Key: "{t}", Cost: 1}, {Policy: user, Key: "{t}" + string(rune('a'+i%4)), Cost: 1}, {Policy: month, Key: "{t}", Cost: 1}}
			if i/4%2 == 0 {
				c[0], c[2] = c[2], c[0]
			}
			out := make([]limit.Status, 3)
			if err := e.s.TakeAll(bg, c, out); err != nil {
				e.Error(err)
			}
			return out[0].Fits && out[1].Fits && out[2].Fits
		})
		if got != 40 {
			e.Errorf("%d admitted; want 40", got)
		}
		e.left(tenant, "{t}", 20)
		e.left(month, "{t}", 960)
	}},
	{"single charges and those of several on one key", func(e *env) {
		p := e.policy(limit.Spec{Limit: 100, Period: limit.MaxPeriod})
		q := limit.MustPolicy("other", limit.Spec{Limit: 1000, Period: limit.MaxPeriod})
		got := e.crowd(400, func(i int) bool {
			if i%2 == 0 {
				s, err := e.s.Take(bg, limit.Charge{Policy: p, Key: "{t}", Cost: 1})
				if err != nil {
					e.Error(err)
				}
				return s.Fits
			}
			out := make([]limit.Status, 2)
			if err := e.s.TakeAll(bg, []limit.Charge{{Policy: q, Key: "{t}", Cost: 1}, {Policy: p, Key: "{t}", Cost: 1}}, out); err != nil {
				e.Error(err)
			}
			return out[1].Fits
		})
		if got != 100 {
			e.Errorf("%d admitted; want 100", got)
		}
	}},
	{"a peek beside charges sees a whole state", func(e *env) {
		for _, spec := range []limit.Spec{
			{Kind: limit.Strict, Limit: 100, Period: time.Hour},
			{Kind: limit.Concurrency, Limit: 100, TTL: time.Hour},
		} {
			p := e.policy(spec)
			e.crowd(200, func(i int) bool {
				var err error
				out := make([]limit.Status, 1)
				switch i % 4 {
				case 0: // two at a time, so the rest is always even
					err = e.s.Peek(bg, []limit.Charge{{Policy: p, Key: "hot", Cost: 1}}, out)
					if out[0].Remaining%2 != 0 {
						e.Errorf("%v: %d remaining; want an even number", spec.Kind, out[0].Remaining)
					}
				case 1:
					if spec.Kind == limit.Concurrency {
						err = e.s.Release(bg, p, "hot", lease(i-3))
					}
				default:
					_, err = e.s.Take(bg, limit.Charge{Policy: p, Key: "hot", Cost: 2, Lease: lease(i)})
				}
				if err != nil {
					e.Error(err)
				}
				return true
			})
			e.reset(p, "hot")
		}
	}},
	{"taking and giving back leaves nothing behind", func(e *env) {
		for _, spec := range []limit.Spec{
			{Limit: 20, Period: limit.MaxPeriod},
			{Kind: limit.Strict, Limit: 20, Period: time.Hour},
			{Kind: limit.Fixed, Limit: 20, Calendar: limit.Year},
			{Kind: limit.Concurrency, Limit: 20, TTL: time.Hour},
		} {
			p := e.policy(spec)
			e.crowd(200, func(i int) bool {
				s, err := e.s.Take(bg, limit.Charge{Policy: p, Key: "hot", Cost: 2, Lease: lease(i)})
				if err == nil && s.Fits {
					if spec.Kind == limit.Concurrency {
						err = e.s.Release(bg, p, "hot", lease(i))
					} else {
						err = e.s.Adjust(bg, []limit.Adjustment{{Policy: p, Key: "hot", Units: -2, At: s.At}}, make([]limit.Status, 1))
					}
				}
				if err != nil {
					e.Error(err)
				}
				return true
			})
			if got := e.peek(p, "hot"); spec.Kind != limit.GCRA && got.Remaining != 20 || got.Remaining < 19 {
				e.Errorf("%v: %d remaining; want 20", spec.Kind, got.Remaining)
			}
			e.reset(p, "hot")
		}
	}},
}

var lifeRules = []rule{
	{"after Close, everything fails with ErrClosed", func(e *env) {
		p := e.policy(limit.Spec{Limit: 1, Period: time.Hour})
		if err := e.s.Close(); err != nil {
			e.Fatal(err)
		}
		out := make([]limit.Status, 1)
		_, err := e.s.Take(bg, e.charge(p, "a", 1))
		for i, err := range []error{
			err,
			e.s.TakeAll(bg, []limit.Charge{e.charge(p, "a", 1)}, out),
			e.s.Peek(bg, []limit.Charge{e.charge(p, "a", 1)}, out),
			e.s.Adjust(bg, []limit.Adjustment{{Policy: p, Key: "a", Units: 1}}, out),
			e.s.Renew(bg, p, "a", limit.ID{}),
			e.s.Release(bg, p, "a", limit.ID{}),
			e.s.Reset(bg, p, "a"),
		} {
			if !errors.Is(err, limit.ErrClosed) {
				e.Errorf("operation %d: %v; want ErrClosed", i, err)
			}
		}
		if err := e.s.Close(); err != nil {
			e.Errorf("a second Close: %v", err)
		}
	}},
	{"keys with the same hash tag share a slot, whatever the policy", func(e *env) {
		p, q := limit.MustPolicy("p", limit.Spec{Period: time.Second}), limit.MustPolicy("q", limit.Spec{Kind: limit.Concurrency})
		want := e.s.Slot(p, "{tenant 7}")
		for _, key := range []string{"{tenant 7}a", "b{tenant 7}", "{tenant 7}#hash"} {
			if p, q := e.s.Slot(p, key), e.s.Slot(q, key); p != want || q != want {
				e.Errorf("slots of %q are %d and %d; want %d", key, p, q, want)
			}
		}
	}},
	{"the traits stay the same", func(e *env) {
		if a, b := e.s.Traits(), e.s.Traits(); a != b {
			e.Errorf("%+v, then %+v", a, b)
		}
	}},
}
