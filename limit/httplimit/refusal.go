package httplimit

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshetdev/freshet/limit"
)

// A Refusal is why a request doesn't reach its handler.
type Refusal struct {
	Kind Kind

	// Violated are the names of the policies that refused.
	Violated []string

	// RetryAfter is when to try again; 0 sends no Retry-After: trying again is no use.
	RetryAfter time.Duration
}

// A Kind is a reason to refuse, with the problem type that clients are told.
type Kind uint8

// The kinds. Types are those of draft-ietf-httpapi-ratelimit-headers-11 §5, below
// https://iana.org/assignments/http-problem-types.
//
//	kind             status  type                         when
//	QuotaExceeded    429     #quota-exceeded              a limit has no room
//	AbnormalUsage    429     #abnormal-usage-detected     a policy's penalty blocks the key
//	ReducedCapacity  503     #temporary-reduced-capacity  load is shed, or the store is away and OnOutage denies
//	Unidentified     400     about:blank                  a limit's identity is missing
//	Failed           500     about:blank                  the limit can't be decided, by a mistake in the server
const (
	QuotaExceeded Kind = iota
	AbnormalUsage
	ReducedCapacity
	Unidentified
	Failed
)

var kinds = [...]struct {
	status    int
	typ, name string
}{
	QuotaExceeded:   {http.StatusTooManyRequests, problemTypes + "quota-exceeded", "Quota Exceeded"},
	AbnormalUsage:   {http.StatusTooManyRequests, problemTypes + "abnormal-usage-detected", "Abnormal Usage Detected"},
	ReducedCapacity: {http.StatusServiceUnavailable, problemTypes + "temporary-reduced-capacity", "Temporary Reduced Capacity"},
	// RFC 9457 §4.2.1: about:blank has the status's own phrase as title.
	Unidentified: {http.StatusBadRequest, "about:blank", http.StatusText(http.StatusBadRequest)},
	Failed:       {http.StatusInternalServerError, "about:blank", http.StatusText(http.StatusInternalServerError)},
}

const problemTypes = "https://iana.org/assignments/http-problem-types#"

// String returns "quota-exceeded", "abnormal-usage", "reduced-capacity", "unidentified" or "failed".
func (k Kind) String() string {
	return [...]string{"quota-exceeded", "abnormal-usage", "reduced-capacity", "unidentified", "failed"}[min(k, Failed)]
}

// Status is the status code of the answer.
func (k Kind) Status() int { return kinds[min(k, Failed)].status }

// refusalOf says why d refuses. Where several limits do, what the client did itself counts more than what the server
// lacks.
func refusalOf(d *limit.Decision, s saying) Refusal {
	f := Refusal{Kind: ReducedCapacity}
	never := false
	for i := range d.Len() {
		st := d.At(i)
		if st.Fits || st.Shadow || st.Source == limit.NotAsked {
			continue
		}
		f.Violated = append(f.Violated, st.Policy.Name())
		after := st.RetryAfter
		switch {
		case st.Blocked:
			f.Kind = AbnormalUsage
		case st.Source == limit.FromOutage:
			after = max(after, time.Second)
		default:
			if f.Kind == ReducedCapacity {
				f.Kind = QuotaExceeded
			}
			if after > 0 && st.Policy.Rule().Kind == limit.Concurrency {
				// By then all leases have run out. Places become free long before, so look again soon.
				after = min(after, time.Second)
			}
		}
		never = never || st.RetryAfter == limit.NeverRetry
		f.RetryAfter = max(f.RetryAfter, after, time.Second)
	}
	if never {
		f.RetryAfter = 0
	} else {
		f.RetryAfter = time.Duration(seconds(s.later(f.RetryAfter))) * time.Second
	}
	return f
}

// Write answers with a problem document, the status of its kind, Retry-After in whole seconds (rounded up, at least
// 1) and Cache-Control: no-store. It can be used without a Middleware, to shed load:
//
//	httplimit.Refusal{Kind: httplimit.ReducedCapacity, RetryAfter: 2 * time.Second}.Write(w, r)
func (f Refusal) Write(w http.ResponseWriter, r *http.Request) {
	kind := kinds[min(f.Kind, Failed)]
	violated := f.Violated
	if violated == nil && f.Kind <= ReducedCapacity {
		violated = []string{}
	} else if f.Kind > ReducedCapacity {
		violated = nil // a member of the draft's types only
	}
	body, _ := json.Marshal(problem{kind.typ, kind.name, kind.status, f.detail(), violated})
	body = append(body, '\n')
	h := w.Header()
	if f.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(seconds(f.RetryAfter), 10))
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(kind.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that left needs no answer
	}
}

// A problem is a document of RFC 9457.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail"`
	Violated []string `json:"violated-policies,omitzero"`
}

// detail says it to people.
func (f Refusal) detail() string {
	again := "."
	switch n := seconds(f.RetryAfter); {
	case f.RetryAfter <= 0:
	case n == 1:
		again = "; try again in 1 second."
	default:
		again = fmt.Sprintf("; try again in %d seconds.", n)
	}
	policies := "the limit"
	switch len(f.Violated) {
	case 0:
	case 1:
		policies = "limit " + f.Violated[0]
	default:
		policies = "limits " + strings.Join(f.Violated, ", ")
	}
	switch f.Kind {
	case QuotaExceeded:
		if f.RetryAfter <= 0 {
			return "The request costs more than " + policies + " ever has."
		}
		return "There is no room left in " + policies + again
	case AbnormalUsage:
		return "Blocked by " + policies + " after too many refused requests" + again
	case ReducedCapacity:
		return "The server can't take the request now" + again
	case Unidentified:
		return "The request lacks what " + policies + " identifies clients by."
	}
	return "The server could not decide whether the request is within its limits."
}
