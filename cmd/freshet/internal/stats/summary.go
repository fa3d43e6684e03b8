package stats

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
	"github.com/freshetdev/freshet/observe"
)

// A Summary is what a gateway did from start to end.
type Summary struct {
	Requests, Hits, Stale, Joined, Stored, Errors, Origin uint64
	Limited                                               uint64 // refused by a limit
	Unrefreshed                                           uint64 // refreshes in the background that failed

	Shed  uint64 // origin calls that were not made, so that it isn't overloaded
	Limit int    // of origin calls at a time, in the end; 0 if there was none

	HitTime, MissTime time.Duration // medians
	Refused           []Count       // reasons, commonest first
	Missed            []Path        // most missed first
}

// A Count is how often a reason came.
type Count struct {
	Reason observe.Reason
	N      uint64
}

// A Path is one that was missed.
type Path struct {
	Name  string // method and path
	N     uint64
	Noisy string // the parameter that differs every time
}

// Summary sums up. What goes on meanwhile may be counted in part.
func (s *Stats) Summary() Summary {
	hits, misses := s.hitTime.Histogram(), s.missTime.Histogram()
	sum := Summary{
		Requests: s.requests.Load(), Hits: s.hits.Load(), Stale: s.stale.Load(), Joined: s.joined.Load(),
		Stored: s.stored.Load(), Errors: s.errors.Load(), Origin: s.origin.Load(), Limited: s.limited.Load(),
		Unrefreshed: s.unrefreshed.Load(),
		HitTime:     hits.Quantile(0.5), MissTime: misses.Quantile(0.5),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for r, n := range s.refused {
		sum.Refused = append(sum.Refused, Count{r, n})
	}
	slices.SortFunc(sum.Refused, func(a, b Count) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Reason, b.Reason)) })
	for _, name := range slices.Sorted(maps.Keys(s.paths)) {
		if p := s.paths[name]; p.misses > 1 {
			sum.Missed = append(sum.Missed, Path{name, p.misses, p.query.noisy()})
		}
	}
	slices.SortStableFunc(sum.Missed, func(a, b Path) int { return cmp.Compare(b.N, a.N) })
	sum.Missed = sum.Missed[:min(3, len(sum.Missed))]
	return sum
}

// Saved is the time that clients did not wait: what a miss takes longer than a hit, for each hit.
func (s Summary) Saved() time.Duration {
	if s.MissTime <= s.HitTime {
		return 0
	}
	return time.Duration(s.Hits+s.Stale) * (s.MissTime - s.HitTime)
}

// Ratio is the share of requests that the origin had no part in, in percent. Those over a limit don't count.
func (s Summary) Ratio() float64 {
	if s.Requests <= s.Limited {
		return 0
	}
	return 100 * float64(s.Hits+s.Stale) / float64(s.Requests-s.Limited)
}

// Text is the summary in a few lines:
//
//	61 requests · 82 % hits · origin calls 11 instead of 61 · hit p50 0.08 ms, miss 250 ms · saved 12.5 s
//	  most missed: GET /search 6 times (query "ts" differs every time)
//	  next: …
//
// advice is what to try next.
func (s Summary) Text(advice string) string {
	if s.Requests == 0 {
		return "no requests\n"
	}
	parts := []string{
		count(s.Requests, "request"),
		fmt.Sprintf("%.0f %% hits", s.Ratio()),
		fmt.Sprintf("origin calls %d instead of %d", s.Origin, s.Requests),
	}
	if s.Hits+s.Stale > 0 {
		p50 := "hit p50 " + accesslog.Short(s.HitTime)
		if s.MissTime > 0 {
			p50 += ", miss " + accesslog.Short(s.MissTime)
		}
		parts = append(parts, p50, "saved "+accesslog.Short(s.Saved()))
	}
	if s.Joined > 0 {
		parts = append(parts, fmt.Sprintf("%d shared a load", s.Joined))
	}
	if s.Stale > 0 {
		parts = append(parts, fmt.Sprintf("%d served stale", s.Stale))
	}
	if s.Unrefreshed > 0 {
		parts = append(parts, count(s.Unrefreshed, "refresh")+" failed")
	}
	if s.Limited > 0 {
		parts = append(parts, fmt.Sprintf("%d over a limit", s.Limited))
	}
	if s.Errors > 0 {
		parts = append(parts, count(s.Errors, "error"))
	}
	if s.Shed > 0 {
		parts = append(parts, fmt.Sprintf("%d shed (limit %d at a time)", s.Shed, s.Limit))
	}
	text := strings.Join(parts, " · ") + "\n"
	for i, p := range s.Missed {
		label := "  most missed: "
		if i > 0 {
			label = "               "
		}
		text += fmt.Sprintf("%s%s %d times", label, p.Name, p.N)
		if p.Noisy != "" {
			text += fmt.Sprintf(" (query %q differs every time)", p.Noisy)
		}
		text += "\n"
	}
	for i, c := range s.Refused[:min(3, len(s.Refused))] {
		label := "  not stored:  "
		if i > 0 {
			label = "               "
		}
		words, _ := proxy.Explain(c.Reason)
		text += fmt.Sprintf("%s%d × %s\n", label, c.N, words)
	}
	if advice != "" {
		text += "  next:        " + advice + "\n"
	}
	return text
}

func count(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "sh") {
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}
