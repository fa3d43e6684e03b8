package cdc_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
	"github.com/freshetdev/freshet/store/memstore"
)

// Rows per second from the feed to the store in memory, in transactions of ten and in one of all; and what is held
// at most meanwhile.
func BenchmarkPump(b *testing.B) {
	for _, tx := range []int{10, 100_000} {
		name := "transactions of 10"
		if tx > 10 {
			name = "one transaction"
		}
		b.Run(name, func(b *testing.B) {
			rules := mustRules(b, itemRules, cdc.Rule{Table: "items", Keys: []string{"item:{id}:page"}})
			const rows = 100_000
			for b.Loop() {
				b.StopTimer()
				d := cdctest.NewDatabase(items)
				s := memstore.NewServer(memstore.Options{}).Connect()
				a, err := cdc.NewApplier(s)
				if err != nil {
					b.Fatal(err)
				}
				p, err := cdc.NewPump(d.Source(true), a, cdc.Options{Name: "db", Rules: rules, Again: -1})
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- p.Run(ctx) }()
				for p.Stats().Gaps == 0 {
					time.Sleep(time.Millisecond)
				}
				var changes []cdc.Change
				for i := range rows {
					changes = append(changes, put(nil, i, "x"))
					if len(changes) == tx {
						d.Commit(changes...)
						changes = changes[:0]
					}
				}
				runtime.GC()
				var before, now runtime.MemStats
				runtime.ReadMemStats(&before)
				most := before.HeapInuse
				b.StartTimer()
				for p.Stats().Changes < rows {
					time.Sleep(5 * time.Millisecond)
					runtime.ReadMemStats(&now)
					most = max(most, now.HeapInuse)
				}
				b.StopTimer()
				b.ReportMetric(float64(most-before.HeapInuse)/(1<<20), "MiB-held")
				cancel()
				<-done
				s.Close()
				b.StartTimer()
			}
			b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
