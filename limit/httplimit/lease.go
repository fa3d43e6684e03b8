package httplimit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/freshetdev/freshet/limit"
)

// A hold keeps the leases of a request while its handler runs.
type hold struct {
	m      *Middleware
	r      *http.Request
	d      limit.Decision
	every  time.Duration
	places int

	ctx    context.Context // of renewals; ends with the handler
	cancel context.CancelFunc

	mu       sync.Mutex
	lost     bool           // at least one place, and it was told; guarded by mu
	ended    bool           // guarded by mu
	timer    *time.Timer    // guarded by mu
	renewing sync.WaitGroup // added to under mu, and not once ended
}

// hold begins to renew the leases of d: four times in a TTL, so that three renewals in a row must fail before one is
// lost.
func (m *Middleware) hold(r *http.Request, d limit.Decision) *hold {
	shortest, places := leasesOf(&d)
	h := &hold{m: m, r: r, d: d, every: shortest / 4, places: places}
	// A client that left doesn't end the handler.
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(h.every, h.renew)
	return h
}

// leasesOf are the shortest TTL of d's leases, and their number.
func leasesOf(d *limit.Decision) (shortest time.Duration, n int) {
	shortest = limit.MaxPeriod
	for i := range d.Len() {
		if st := d.At(i); st.Charged && st.Policy.Rule().Kind == limit.Concurrency {
			shortest = min(shortest, time.Duration(st.Policy.Rule().TTL)*time.Microsecond)
			n++
		}
	}
	return shortest, n
}

func (h *hold) renew() {
	h.mu.Lock()
	if h.ended {
		h.mu.Unlock()
		return
	}
	h.renewing.Add(1)
	h.mu.Unlock()
	defer h.renewing.Done()

	err := h.m.limiter.Renew(h.ctx, h.d)

	h.mu.Lock()
	ended, lost, told := h.ended, errors.Is(err, limit.ErrLeaseLost), h.lost
	if !ended && (!lost || h.places > 1) { // the others are still held
		h.timer.Reset(h.every)
	}
	h.lost = told || lost && !ended
	h.mu.Unlock()
	switch {
	case err == nil || ended: // released meanwhile: of course it is lost
	case lost:
		if !told && h.m.opts.Hooks.Lost != nil {
			h.m.opts.Hooks.Lost(h.r, h.d)
		}
	default:
		h.m.failed(h.r, fmt.Errorf("httplimit: renew: %w", err))
	}
}

// end gives the leases back. It returns when no renewal is under way any more.
func (h *hold) end() {
	h.mu.Lock()
	h.ended = true
	h.timer.Stop()
	h.mu.Unlock()
	h.cancel()
	h.renewing.Wait()
	if err := h.m.limiter.Release(context.WithoutCancel(h.r.Context()), h.d); err != nil {
		h.m.failed(h.r, fmt.Errorf("httplimit: release: %w", err))
	}
}
