package accesslog

import (
	"fmt"
	"time"
)

// Short writes a duration with two or three digits: 0.08 ms, 3.2 ms, 251 ms, 1.25 s, 3 h 12 min.
func Short(d time.Duration) string {
	switch ms := ms(d); {
	case ms < 1:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	default:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
}

// whole writes a duration in whole seconds: 30s, 1m30s.
func whole(d time.Duration) string { return d.Round(time.Second).String() }

// Bytes writes a size: 512 B, 3.4 KiB, 2 MiB.
func Bytes(n int64) string {
	const kib = 1 << 10
	switch {
	case n < kib:
		return fmt.Sprintf("%d B", n)
	case n < kib*kib:
		return fmt.Sprintf("%.4g KiB", float64(n)/kib)
	case n < kib*kib*kib:
		return fmt.Sprintf("%.4g MiB", float64(n)/(kib*kib))
	default:
		return fmt.Sprintf("%.3g GiB", float64(n)/(kib*kib*kib))
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
