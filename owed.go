package freshet

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/freshetdev/freshet/store"
)

// owedLeases are leases that this instance doesn't use and the store may still hold: it didn't answer when they
// were asked for, or when they were given back. Without this, a moment's silence of the store
// would leave keys that every instance waits for until the lease time is over.
type owedLeases struct {
	mu     sync.Mutex
	leases []owedLease // oldest first; guarded by mu
}

type owedLease struct {
	lease store.Lease
	end   int64 // the store has let it run out by then
}

// maxOwed bounds the memory. Leases beyond it run out by themselves.
const maxOwed = 10_000

// owe notes a lease that is to be given back when the store answers again.
func (c *Client) owe(l store.Lease, ttl time.Duration) {
	o := &c.owed
	o.mu.Lock()
	if len(o.leases) < maxOwed {
		o.leases = append(o.leases, owedLease{lease: l, end: c.clock.Exact() + int64(ttl)})
	}
	o.mu.Unlock()
	c.outbox.poke()
}

// claimFailed sees to the lease that a failed claim may have taken all the same.
func (c *Client) claimFailed(r store.ClaimRequest, err error) {
	c.storeFailed("claim", err)
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrClosed) {
		return // the store was not asked
	}
	l := store.Lease{Key: r.Key, ID: r.ID, Plain: r.Plain}
	if r.Refresh {
		l.Refresh, l.Seen = true, r.Seen
	}
	c.owe(l, r.TTL)
}

// maxRefused is how many leases giveBack tries in vain, or fewer if the store takes its time to say so: drops wait for it.
const maxRefused = 8

// giveBack gives back what is owed, and reports false if some is left. What the store refuses goes to the end, since another
// node may have the next.
func (c *Client) giveBack(ctx context.Context) bool {
	o := &c.owed
	o.mu.Lock()
	left := len(o.leases)
	o.mu.Unlock()
	late := c.clock.Exact() + int64(c.opts.StoreBudget)
	for refused := 0; left > 0 && refused < maxRefused && (refused == 0 || c.clock.Exact() < late); left-- {
		o.mu.Lock()
		first := o.leases[0]
		o.mu.Unlock()
		var err error
		if c.clock.Exact() < first.end {
			if err = c.store.Release(ctx, first.lease); err != nil {
				refused++
			}
		}
		// Only deliver takes from the list (Close, after it), and others add at its end.
		o.mu.Lock()
		o.leases = o.leases[1:]
		if err != nil {
			o.leases = append(o.leases, first)
		}
		if len(o.leases) == 0 {
			o.leases = nil
		}
		o.mu.Unlock()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.leases) == 0
}
