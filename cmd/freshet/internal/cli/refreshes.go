package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
)

// refreshQuiet is how long a cause isn't told again.
const refreshQuiet = time.Minute

// A refreshLog tells when refreshes in the background begin to fail, and when they work again. The answers that are served meanwhile
// look well, so nothing else would.
//
//	state    event                             next     line
//	works    a refresh failed                  fails    WARN
//	fails    a cause that wasn't told within   fails    WARN
//	         the last minute
//	fails    a refresh worked, and no other    works    INFO
//	         answer failed lately
type refreshLog struct {
	logs *slog.Logger

	mu     sync.Mutex
	failed int                  // since they began to fail; zero: they work; guarded by mu
	told   map[string]time.Time // causes, and when each was told last; guarded by mu
}

func (l *refreshLog) tell(r proxy.Refresh, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case r.Err != nil:
		l.failed++
		cause := causeOf(r.Err)
		if at, ok := l.told[cause]; ok && now.Sub(at) < refreshQuiet {
			return
		}
		if l.told == nil {
			l.told = map[string]time.Time{}
		}
		l.told[cause] = now // there are few
		l.logs.Warn("refreshes fail: old answers are served, at most for --grace", "error", r.Err, "failed", l.failed)
	case l.failed > 0 && !r.Failing:
		l.logs.Info("refreshes work again", "failed", l.failed)
		l.failed, l.told = 0, nil
	}
}

// causeOf is what is the same in errors of one cause: their texts have ports in them that differ.
func causeOf(err error) string {
	oe, ok := errors.AsType[*proxy.OriginError](err)
	if !ok {
		return err.Error()
	}
	return fmt.Sprint(oe.Reason, oe.Status)
}
