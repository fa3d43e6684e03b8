package limit

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestPolicyErrors(t *testing.T) {
	f := func(name string, s Spec, want string) {
		t.Helper()
		_, err := NewPolicy(name, s)
		switch {
		case want == "" && err != nil:
			t.Errorf("%+v: %v; want it to be right", s, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%+v: %v; want %q", s, err, want)
		}
	}
	ok := Spec{Limit: 1, Period: time.Second}
	f("a", ok, "")
	f("A-z_0.9", ok, "")
	f("", ok, `policy name "" has 0 bytes; want 1 to 64`)
	f(strings.Repeat("n", 65), ok, "has 65 bytes")
	f("a:b", ok, `policy name "a:b" contains ':'`)
	f("{a}", ok, `contains '{'`)
	f("ä", ok, "contains")

	f("p", Spec{Limit: 1}, `limit: policy "p": Period is 0s; want whole microseconds, 1µs to 8784h0m0s`)
	f("p", Spec{Limit: 1, Period: -time.Second}, "Period is -1s")
	f("p", Spec{Limit: 1, Period: 1500}, "Period is 1.5µs")
	f("p", Spec{Limit: 1, Period: MaxPeriod}, "")
	f("p", Spec{Limit: 1, Period: MaxPeriod + time.Microsecond}, "Period is")
	f("p", Spec{Limit: -1, Period: time.Second}, "Limit is -1; want 0 to 1000000000000000")
	f("p", Spec{Limit: 0, Period: time.Second}, "")
	f("p", Spec{Limit: 0, Burst: 5, Period: time.Second}, "Burst is 5 with a Limit of 0")
	f("p", Spec{Limit: 1_000_000, Period: time.Second}, "")
	f("p", Spec{Limit: 1_000_001, Period: time.Second}, "Limit is 1000001 per 1s, less than a microsecond a unit; want larger units")
	f("p", Spec{Limit: 1, Period: time.Second, Burst: -1}, "Burst is -1")
	f("p", Spec{Limit: 1, Period: time.Hour, Burst: MaxUnits}, "flow back in more than 87840h0m0s; want at most 87840")
	f("p", Spec{Limit: 1, Period: time.Hour, Burst: 43920}, "") // and as much debt
	f("p", Spec{Limit: 1, Period: time.Hour, Burst: 43921}, "the Burst plus the Debt are 87842 units")
	f("p", Spec{Limit: 1, Period: time.Hour, Burst: 43921, Debt: -1}, "")
	f("p", Spec{Limit: 1, Period: time.Second, Debt: -2}, "Debt is -2")
	f("p", Spec{Limit: 1, Period: time.Second, Debt: math.MaxInt64}, "Debt is")
	f("p", Spec{Limit: 1, Period: time.Second, TTL: time.Second}, "TTL is given; gcra has none")
	f("p", Spec{Limit: 1, Period: time.Second, Calendar: Day}, "Calendar is given; gcra has none")
	f("p", Spec{Limit: 1, Period: time.Second, Location: time.UTC}, "Location is given; gcra has none")
	f("p", Spec{Limit: 1, Period: time.Second, Share: 101}, "Share is 101; want 1 to 100 percent")
	f("p", Spec{Limit: 1, Period: time.Second, Share: -1}, "Share is -1")
	f("p", Spec{Limit: 1, Period: time.Second, Advance: -1}, "Advance is -1")
	f("p", Spec{Limit: 1, Period: time.Second, Kind: 4}, "Kind is 4")
	f("p", Spec{Limit: 1, Period: time.Second, OnOutage: 3}, "OnOutage is 3")
	f("p", Spec{Limit: 1, Period: time.Second, Penalty: Penalty{After: 1}}, "Penalty.Within is 0s")
	f("p", Spec{Limit: 1, Period: time.Second, Penalty: Penalty{After: 1, Within: time.Second}}, "Penalty.Block is 0s")
	f("p", Spec{Limit: 1, Period: time.Second, Penalty: Penalty{Within: 1, Block: time.Second}}, "Penalty.After is 0")

	strict := Spec{Kind: Strict, Limit: 10, Period: time.Second}
	f("p", strict, "")
	strict.Burst = 3
	f("p", strict, "Burst is given; strict has none")
	f("p", Spec{Kind: Strict, Limit: 10, Period: time.Second, Advance: 1}, "Advance is given; strict has none")
	f("p", Spec{Kind: Strict, Limit: 10_000_000, Period: time.Second}, "")

	f("p", Spec{Kind: Fixed, Limit: 10}, "Period is 0s")
	f("p", Spec{Kind: Fixed, Limit: 10, Calendar: Month}, "")
	f("p", Spec{Kind: Fixed, Limit: 10, Period: time.Second}, "")
	f("p", Spec{Kind: Fixed, Limit: 10, Period: time.Second, Calendar: Month}, "both Calendar (month) and Period (1s) are given")
	f("p", Spec{Kind: Fixed, Limit: 10, Calendar: 7}, "Calendar is 7")

	f("p", Spec{Kind: Concurrency, Limit: 10}, "")
	f("p", Spec{Kind: Concurrency, Limit: 10, Period: time.Second}, "Period is given; concurrency has none")
	f("p", Spec{Kind: Concurrency, Limit: 10, Debt: 1}, "Debt is given; concurrency has none")
	f("p", Spec{Kind: Concurrency, Limit: 10, Advance: 1}, "Advance is given; concurrency has none")
	f("p", Spec{Kind: Concurrency, Limit: 10, TTL: -1}, "TTL is -1ns")

	defer func() {
		if recover() == nil {
			t.Error("MustPolicy didn't panic")
		}
	}()
	MustPolicy("p", Spec{Limit: 1})
}

// A policy's Spec makes the same policy again, also where a default depends on what is given.
func TestPolicySpec(t *testing.T) {
	for _, s := range []Spec{
		{Limit: 10, Period: time.Second},
		{Limit: 10, Period: time.Second, Burst: 3, Debt: -1},
		{Kind: Concurrency, Limit: 3},
		{Kind: Fixed, Limit: 3, Calendar: Day, Debt: 7},
	} {
		p := MustPolicy("p", s)
		q := MustPolicy("p", p.Spec())
		a, b := *p.Rule(), *q.Rule()
		a.windows, b.windows = nil, nil
		if a != b {
			t.Errorf("%+v: %+v, and again %+v", s, a, b)
		}
		if p.Version() == q.Version() {
			t.Error("two policies have the same version")
		}
	}
}

func TestShare(t *testing.T) {
	f := func(s Spec, limit, burst int64) {
		t.Helper()
		s.OnOutage = OutageLocal
		p := MustPolicy("p", s)
		if r := p.local.Rule(); r.Limit != limit || r.Burst != burst {
			t.Errorf("%+v: limit %d, burst %d; want %d and %d", s, r.Limit, r.Burst, limit, burst)
		}
	}
	f(Spec{Limit: 100, Period: time.Second}, 100, 100)
	f(Spec{Limit: 100, Period: time.Second, Share: 25}, 25, 25)
	f(Spec{Limit: 100, Period: time.Second, Burst: 10, Share: 25}, 25, 2)
	f(Spec{Limit: 3, Period: time.Second, Share: 25}, 1, 1)
	f(Spec{Limit: 0, Period: time.Second, Share: 25}, 0, 0)
	f(Spec{Kind: Fixed, Limit: MaxUnits, Calendar: Day, Share: 33}, MaxUnits/100*33, 0)
	f(Spec{Limit: 1, Period: MaxPeriod, Burst: 5, Share: 1}, 1, 1) // slower would not be one unit
}
