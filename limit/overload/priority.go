package overload

import "fmt"

// A Priority says which requests are shed last. The zero Priority is Normal.
type Priority int8

// The priorities, lowest first.
const (
	Background Priority = iota - 1 // nobody waits for it: refreshes, crawlers, batches
	Normal
	Critical // what must work if anything does

	// Bypass isn't limited at all, nor counted as in flight: for requests that last as long as the client likes, such
	// as WebSockets and long polls, and for health checks. Only Transport and Handler know it.
	Bypass
)

const priorities = 3

// String returns "background", "normal", "critical" or "bypass".
func (p Priority) String() string {
	switch p {
	case Background:
		return "background"
	case Normal:
		return "normal"
	case Critical:
		return "critical"
	case Bypass:
		return "bypass"
	}
	return fmt.Sprintf("Priority(%d)", int8(p))
}

// rank is p as an index. What is beyond the priorities counts as the nearest.
func (p Priority) rank() int { return int(min(max(p, Background), Critical) - Background) }

// An Outcome is how a request ended.
type Outcome uint8

// The outcomes.
const (
	// OK: the origin answered. That it took so long counts, whatever the answer was.
	OK Outcome = iota

	// Dropped: the origin didn't do the work, or not in time: a timeout, a refused connection, 502, 503, 504.
	Dropped

	// Ignored says nothing of the origin: the client went away, or nothing was sent. If it took longer than requests
	// do without a queue, it counts as OK: clients that lose patience would else hide that the origin is slow.
	Ignored
)
