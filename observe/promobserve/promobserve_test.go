package promobserve_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/observe/promobserve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scraped registers collectors, writes what they gather as text, checks its style, and reads it back.
func scraped(t *testing.T, cs ...prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	reg := prometheus.NewPedanticRegistry() // checks that what is collected was described
	for _, c := range cs {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	problems, err := promlint.New(bytes.NewReader(text.Bytes())).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	read, err := p.TextToMetricFamilies(&text)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// at returns the one metric of a family that has the labels, as name and value in turn.
func at(t *testing.T, all map[string]*dto.MetricFamily, name string, labels ...string) *dto.Metric {
	t.Helper()
	for _, m := range all[name].GetMetric() {
		var has []string
		for _, l := range m.GetLabel() {
			has = append(has, l.GetName(), l.GetValue())
		}
		if strings.Join(has, " ") == strings.Join(labels, " ") {
			return m
		}
	}
	t.Errorf("there is no %s with %q: %v", name, labels, all[name])
	return new(dto.Metric)
}

func histogram(ds ...time.Duration) observe.Histogram {
	var r observe.Recorder
	for _, d := range ds {
		r.Record(d)
	}
	return r.Histogram()
}

func TestHistogram(t *testing.T) {
	all := scraped(t, promobserve.NewPump("shop", func() cdc.Stats {
		return cdc.Stats{State: cdc.Running, Lag: histogram(10*time.Microsecond, time.Millisecond, time.Millisecond, 100*time.Second), Behind: -1}
	}))
	h := at(t, all, "freshet_cdc_lag_seconds", "source", "shop").GetHistogram()
	if h.GetSampleCount() != 4 || h.GetSampleSum() != 100.00201 {
		t.Errorf("count %d, sum %v; want 4, 100.00201", h.GetSampleCount(), h.GetSampleSum())
	}
	last, lastAt := uint64(0), 0.
	for _, b := range h.GetBucket() {
		want := uint64(0)
		for _, s := range []float64{0.00001, 0.001, 0.001, 100} {
			if s < b.GetUpperBound() {
				want++
			}
		}
		if b.GetCumulativeCount() != want || b.GetUpperBound() <= lastAt {
			t.Errorf("%d below %v; want %d, and bounds that grow", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
		last, lastAt = b.GetCumulativeCount(), b.GetUpperBound()
	}
	if last != 4 {
		t.Errorf("%d in the last bucket; want 4: it is +Inf", last)
	}
	if v := at(t, all, "freshet_cdc_state", "source", "shop", "state", "running").GetGauge().GetValue(); v != 1 {
		t.Errorf("state running is %v; want 1", v)
	}
	if v := at(t, all, "freshet_cdc_state", "source", "shop", "state", "waiting").GetGauge().GetValue(); v != 0 {
		t.Errorf("state waiting is %v; want 0", v)
	}
	if m := all["freshet_cdc_behind_seconds"]; m != nil {
		t.Errorf("behind is %v; want none without a certificate", m)
	}
}

func TestSlot(t *testing.T) {
	slot := promobserve.Slot{MaxLag: 8 << 30}
	collect := func() map[string]*dto.MetricFamily {
		return scraped(t, promobserve.NewPump("shop", func() cdc.Stats { return cdc.Stats{} }), promobserve.NewPump("hr", func() cdc.Stats { return cdc.Stats{} }),
			promobserve.NewSlot("shop", func() promobserve.Slot { return slot }))
	}
	all := collect()
	if all["freshet_cdc_slot_retained_bytes"] != nil || at(t, all, "freshet_cdc_slot_max_lag_bytes", "source", "shop").GetGauge().GetValue() != 8<<30 {
		t.Errorf("a slot that was never looked at: %v", all)
	}
	slot = promobserve.Slot{MaxLag: -1, At: time.Now(), Retained: 5000, Unconfirmed: 7, Safe: -1}
	all = collect()
	if v := at(t, all, "freshet_cdc_slot_retained_bytes", "source", "shop").GetGauge().GetValue(); v != 5000 {
		t.Errorf("retained %v; want 5000", v)
	}
	if all["freshet_cdc_slot_max_lag_bytes"] != nil || all["freshet_cdc_slot_safe_bytes"] != nil {
		t.Errorf("bounds that aren't there: %v", all)
	}
}

// Every number of Stats is a metric.
func TestClientHasAll(t *testing.T) {
	reasons := map[observe.Reason]uint64{observe.ReasonDropped: 3}
	durations := map[string]observe.Histogram{"db": histogram(time.Millisecond)}
	st := freshet.Stats{
		MissesL1: reasons, MissesL2: reasons, Shed: reasons, Refused: reasons, Proven: histogram(1), Voided: histogram(1, 2),
		Sources: map[string]time.Duration{"db": time.Second}, ProvenSources: durations, Committed: durations,
		Caches: map[string]freshet.CacheStats{"user": {Entries: 2, Weight: 20, SourceOpen: true, Verification: freshet.Verification{
			Verified: 9, InFlight: 2, Mismatched: 1, Late: histogram(1, 2), Unverifiable: reasons,
		}}},
	}
	v := reflect.ValueOf(&st).Elem()
	given := map[float64]string{}
	for i := range v.NumField() {
		n := float64(1000 + i)
		switch f := v.Field(i); f.Kind() {
		case reflect.Uint64, reflect.Int:
			f.Set(reflect.ValueOf(uint64(n)).Convert(f.Type()))
		case reflect.Int64: // a time.Duration
			f.SetInt(int64(n) * int64(time.Second))
		case reflect.Bool:
			f.SetBool(true)
			continue
		default:
			continue
		}
		given[n] = v.Type().Field(i).Name
	}
	all := scraped(t, promobserve.NewClient(func() freshet.Stats { return st }))
	for _, f := range all {
		for _, m := range f.GetMetric() {
			delete(given, m.GetCounter().GetValue())
			delete(given, m.GetGauge().GetValue())
		}
	}
	if len(given) > 0 {
		t.Errorf("no metric for %v", given)
	}
	f := func(want float64, name string, labels ...string) {
		t.Helper()
		m := at(t, all, name, labels...)
		if got := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount()); got != want {
			t.Errorf("%s%q is %v; want %v", name, labels, got, want)
		}
	}
	f(3, "freshet_misses_total", "level", "l2", "reason", "dropped")
	f(3, "freshet_loads_shed_total", "reason", "dropped")
	f(3, "freshet_fills_refused_total", "reason", "dropped")
	f(1, "freshet_proven_seconds")
	f(1, "freshet_source_proven_seconds", "source", "db")
	f(1, "freshet_source_stale_seconds", "source", "db")
	f(2, "freshet_voided_seconds")
	f(1, "freshet_commit_to_voided_seconds", "source", "db")
	f(1, "freshet_link_up")
	f(2, "freshet_entries", "cache", "user")
	f(20, "freshet_entries_weight", "cache", "user")
	f(1, "freshet_source_breaker_open", "cache", "user")
	f(9, "freshet_verified_total", "cache", "user")
	f(2, "freshet_verified_in_flight_total", "cache", "user")
	f(1, "freshet_mismatched_total", "cache", "user")
	f(2, "freshet_verified_late_seconds", "cache", "user")
	f(3, "freshet_unverifiable_total", "cache", "user", "reason", "dropped")

	st.StaleFor, st.ClockError = -1, -1
	if all = scraped(t, promobserve.NewClient(func() freshet.Stats { return st })); all["freshet_stale_seconds"] != nil || all["freshet_clock_error_seconds"] != nil {
		t.Error("what isn't known is told")
	}
}
