package proxy

import (
	"net/http"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// An Exchange is one request and how it was answered. It is handed to Hooks.Done.
type Exchange struct {
	Time   time.Time // of the request
	Method string
	Path   string // escaped, without the query, which may hold secrets
	Query  string // raw; for advice on keys, never for logs

	Status  int
	Bytes   int64 // of the body, as far as it was sent
	Took    time.Duration
	Aborted bool // the answer broke off after its header was sent

	Outcome Outcome
	Joined  bool           // answered by another request's load
	Stored  bool           // the answer is in the cache now
	Reason  observe.Reason // why not from the cache, or not stored
	Bypass  observe.Reason // Error: why the request passed, if it did. Reason is what went wrong
	Age     time.Duration  // of an answer from the cache
	TTL     time.Duration  // fresh for so long yet; negative: stale since

	Forwarded bool          // Stale: the origin was asked first, in vain
	FwdStatus int           // and answered with this status, if at all
	Dropped   string        // URL path that a write made invalid
	DropTook  time.Duration // how long that took
	DropErr   error         // why the drop isn't everywhere yet
	Err       error         // of the origin
	Limits    []string      // Limit: the names of those that refused
}

// An Outcome is how a request was answered.
type Outcome uint8

// The outcomes.
const (
	Miss  Outcome = iota // asked the origin, or joined who did
	Hit                  // fresh, from the cache
	Stale                // from the cache, though past its time
	Pass                 // not a matter for the cache
	Error                // no answer from the origin: a problem document
	Limit                // over a limit, or the limit could not be decided: a problem document
)

// String returns "miss", "hit", "stale", "pass", "error" or "limit".
func (o Outcome) String() string {
	return [...]string{"miss", "hit", "stale", "pass", "error", "limit"}[o]
}

// A recorder notes what is sent. It lets flushing and hijacking through by Unwrap.
type recorder struct {
	http.ResponseWriter
	x *Exchange
}

func (r *recorder) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		r.x.Status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.x.Status == 0 {
		r.x.Status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.x.Bytes += int64(n)
	return n, err
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
