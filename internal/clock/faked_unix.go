//go:build unix

package clock

import (
	"syscall"
	"time"
)

// faked reports whether this is a testing/synctest bubble: its time isn't the system's.
func faked() bool {
	now := time.Now()
	var tv syscall.Timeval
	if err := syscall.Gettimeofday(&tv); err != nil {
		return true
	}
	d := now.Sub(time.Unix(tv.Unix()))
	return d < -time.Hour || d > time.Hour
}
