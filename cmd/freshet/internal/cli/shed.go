package cli

import (
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/stats"
	"github.com/freshetdev/freshet/limit/overload"
)

// shedQuiet is how long nothing more is logged after a word about shedding.
const shedQuiet = time.Minute

// limiter makes the limiter of --shed; nil without it.
func (g *gateway) limiter(logs *accesslog.Log) (*overload.Limiter, error) {
	if !g.shed {
		return nil, nil
	}
	var l *overload.Limiter
	var last atomic.Int64
	l, err := overload.New(overload.Options{Hooks: overload.Hooks{Shed: func(p overload.Priority, _ error) {
		now, before := time.Now().UnixNano(), last.Load()
		if now-before < int64(shedQuiet) || !last.CompareAndSwap(before, now) {
			return
		}
		s := l.Stats()
		logs.Warn("the upstream has enough to do: requests are shed", "priority", p.String(), "in_flight", s.InFlight, "limit", s.Limit)
	}}})
	return l, err
}

// addShed puts into the summary what a limiter did; nil if there was none.
func addShed(s stats.Summary, l *overload.Limiter) stats.Summary {
	if l != nil {
		now := l.Stats()
		s.Limit = now.Limit
		s.Shed = uint64(now.Background.Shed + now.Normal.Shed + now.Critical.Shed)
	}
	return s
}
