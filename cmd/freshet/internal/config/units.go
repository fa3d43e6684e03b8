package config

import (
	"strconv"
	"strings"
	"time"
)

var sizeUnits = []struct {
	suffix string
	factor int64
}{{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"kb", 1000}, {"mb", 1000_000}, {"gb", 1000_000_000}, {"b", 1}, {"", 1}}

// Size reads a number of bytes: 512KiB, 2 MiB, 1GB, 100. It is more than zero and at most 2^50.
func Size(text string) (int64, bool) {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(strings.ToLower(text), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n <= 0 || n > 1<<50/u.factor {
			return 0, false
		}
		return n * u.factor, true
	}
	return 0, false
}

// duration reads 50ms, 1h30m: with units, from least to most.
func duration(least, most time.Duration) func(string) (time.Duration, bool) {
	return func(text string) (time.Duration, bool) {
		d, err := time.ParseDuration(text)
		return d, err == nil && d >= least && d <= most
	}
}
