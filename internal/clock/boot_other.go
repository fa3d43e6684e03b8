//go:build !linux

package clock

import "time"

func bootTime() int64 { return int64(time.Since(origin)) }
