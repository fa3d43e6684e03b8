package promobserve

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshetdev/freshet/observe"
)

// A collector gathers metrics by one function, whose metrics are those of table.
type collector struct {
	table   *table
	collect func(*scrape)
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.table.descs {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) { c.collect(&scrape{ch}) }

// A table makes the descriptions of a collector's metrics, all with the same labels of fixed value.
type table struct {
	fixed prometheus.Labels
	descs []*prometheus.Desc
}

func (t *table) desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("freshet_"+name, help, labels, t.fixed)
	t.descs = append(t.descs, d)
	return d
}

// A scrape is one gathering.
type scrape struct{ ch chan<- prometheus.Metric }

func (s *scrape) counter(d *prometheus.Desc, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (s *scrape) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s *scrape) flag(d *prometheus.Desc, is bool, labels ...string) {
	v := 0.
	if is {
		v = 1
	}
	s.gauge(d, v, labels...)
}

// since is a gauge of a time since something; a negative one, which never was, is left out.
func (s *scrape) since(d *prometheus.Desc, t time.Duration, labels ...string) {
	if t >= 0 {
		s.gauge(d, t.Seconds(), labels...)
	}
}

// The bounds of buckets are powers of two, where those of observe.Histogram have their ends: from 64 µs to 67 s.
const (
	leastBound = 64 * time.Microsecond
	bounds     = 21
)

func (s *scrape) histogram(d *prometheus.Desc, h *observe.Histogram, labels ...string) {
	buckets := make(map[float64]uint64, bounds)
	for i := range bounds {
		at := leastBound << i
		buckets[at.Seconds()] = h.Below(at)
	}
	s.ch <- prometheus.MustNewConstHistogram(d, h.Count, h.Sum.Seconds(), buckets, labels...)
}
