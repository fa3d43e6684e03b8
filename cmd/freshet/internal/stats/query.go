package stats

import (
	"strings"
)

// queryStats finds the parameter that makes every URL of a path a new one, such as a time
// stamp. It keeps hashes of nothing and values of the last request only.
type queryStats struct {
	seen   uint64
	params map[string]*paramStats
}

type paramStats struct {
	last    string
	changes uint64
}

const maxParams = 16

func (q *queryStats) add(raw string) {
	if raw == "" {
		return
	}
	q.seen++
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		p := q.params[name]
		switch {
		case p == nil && len(q.params) < maxParams:
			if q.params == nil {
				q.params = make(map[string]*paramStats)
			}
			q.params[name] = &paramStats{last: value, changes: 1}
		case p != nil && p.last != value:
			p.last = value
			p.changes++
		}
	}
}

// noisy returns the name of a parameter that was different in every request, if the others
// were not: then it probably doesn't matter to the answer.
func (q *queryStats) noisy() string {
	if q.seen < 5 {
		return ""
	}
	found := ""
	for name, p := range q.params {
		if p.changes*10 < q.seen*9 {
			continue
		}
		if found != "" {
			return ""
		}
		found = name
	}
	return found
}
