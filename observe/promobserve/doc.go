// Package promobserve makes metrics for Prometheus of what a client and a pump count.
//
//	prometheus.MustRegister(promobserve.NewClient(client.Stats))
//
// Names begin with freshet_, those of pumps with freshet_cdc_; durations are in seconds, sizes in bytes. Nothing is
// counted twice: a scrape reads Stats, and costs nothing in between. To tell several clients of one process apart, register them with
// prometheus.WrapRegistererWith and a label of yours. What a metric is for, and when to worry, is in docs/operations.md.
//
// It is a module of its own, since it needs Prometheus' client library.
package promobserve
