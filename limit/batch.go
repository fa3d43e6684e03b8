package limit

import (
	"context"
	"fmt"
	"slices"
)

// A batch is a decision of several requests.
type batch struct {
	l       *Limiter
	charges []Charge
	status  []Status // what the decision keeps
	asked   []bool   // the status stands
	lease   ID

	// The memory of what is asked, for as few requests as most decisions have: one allocation instead of six.
	few struct {
		charges, sent [fewRequests]Charge
		out           [fewRequests]Status
		asked         [fewRequests]bool
		at            [fewRequests]int
		group         [1]group
	}
}

const fewRequests = 4

// A group are the charges of a batch that share a slot.
type group struct {
	at      []int // in the batch
	charges []Charge
	out     []Status
}

// batch checks the requests.
func (l *Limiter) batch(reqs []Request) (*batch, error) {
	if len(reqs) == 0 || len(reqs) > MaxRequests {
		return nil, fmt.Errorf("%w: %d requests in one decision; want 1 to %d", ErrRequest, len(reqs), MaxRequests)
	}
	b := &batch{l: l, status: make([]Status, len(reqs))}
	if n := len(reqs); n <= fewRequests {
		b.charges, b.asked = b.few.charges[:n], b.few.asked[:n]
	} else {
		b.charges, b.asked = make([]Charge, n), make([]bool, n)
	}
	for i := range reqs {
		var c Charge
		exempt, err := l.charge(&reqs[i], &c)
		if err != nil {
			return nil, err
		}
		if exempt {
			b.status[i], b.asked[i] = exempted(&c), true
			continue
		}
		for j := range i {
			if o := &b.charges[j]; o.Policy != nil && o.Policy.name == c.Policy.name && o.Policy.rule.Kind == c.Policy.rule.Kind && o.Key == c.Key {
				return nil, fmt.Errorf("%w: requests %d and %d of one decision are of the same limit, policy %q, key %q; want one with the sum of their costs",
					ErrRequest, j, i, c.Policy.name, reqs[i].Key)
			}
		}
		if c.Policy.rule.Kind == Concurrency && c.Cost > 0 {
			if b.lease == (ID{}) {
				b.lease = l.newLease()
			}
			c.Lease = b.lease
		}
		b.charges[i] = c
		b.status[i] = Status{Policy: c.Policy, Key: c.Key, Cost: c.Cost, Shadow: c.Shadow, Source: NotAsked}
	}
	return b, nil
}

// groups are the charges by slot, in the order of the first of each.
func (b *batch) groups() []group {
	groups := b.few.group[:0]
	var slots [MaxRequests]int
	for i := range b.charges {
		if b.asked[i] {
			continue
		}
		slot := b.l.store.Slot(b.charges[i].Policy, b.charges[i].Key)
		at := slices.Index(slots[:len(groups)], slot)
		if at < 0 {
			at = len(groups)
			slots[at] = slot
			groups = append(groups, b.group(at == 0))
		}
		g := &groups[at]
		g.at = append(g.at, i)
		g.charges = append(g.charges, b.charges[i])
		g.out = append(g.out, Status{})
	}
	return groups
}

// group is an empty one. The first takes the memory of b.
func (b *batch) group(first bool) group {
	if n := len(b.charges); !first || n > fewRequests {
		return group{at: make([]int, 0, n), charges: make([]Charge, 0, n), out: make([]Status, 0, n)}
	}
	return group{at: b.few.at[:0], charges: b.few.sent[:0], out: b.few.out[:0]}
}

// found takes over what the store found.
func (b *batch) found(g group) {
	for k, i := range g.at {
		b.status[i], b.asked[i] = g.out[k], true
	}
}

// refuses reports whether what is known so far refuses.
func (b *batch) refuses() bool {
	for i := range b.status {
		if s := &b.status[i]; b.asked[i] && !s.Fits && !s.Shadow {
			return true
		}
	}
	return false
}

// decision is made of the statuses.
func (b *batch) decision() Decision {
	d := Decision{Allowed: !b.refuses()}
	best := -1
	for i := range b.status {
		s := &b.status[i]
		d.Shadowed = d.Shadowed || b.asked[i] && !s.Fits && s.Shadow
		if s.Charged && s.Policy.rule.Kind == Concurrency {
			d.Lease = b.lease
		}
		if best < 0 || binds(s, &b.status[best]) {
			best = i
		}
	}
	d.Shadowed = d.Shadowed && d.Allowed
	d.Status = b.status[best]
	if len(b.status) > 1 {
		d.all = b.status
	}
	return d
}

// binds reports whether s is more of a bound than t, which stands before it.
func binds(s, t *Status) bool {
	rank := func(s *Status) int {
		switch {
		case s.Source == NotAsked:
			return 0
		case s.Source == FromExempt, s.Source == FromOutage && s.Fits: // no numbers either
			return 1
		case s.Shadow:
			return 2
		case s.Fits:
			return 3
		}
		return 4
	}
	if a, b := rank(s), rank(t); a != b || a < 2 {
		return a > b
	}
	if s.Fits != t.Fits { // in shadow mode
		return t.Fits
	}
	if s.Fits {
		return s.Remaining < t.Remaining
	}
	return t.RetryAfter != NeverRetry && (s.RetryAfter == NeverRetry || s.RetryAfter > t.RetryAfter)
}

func (l *Limiter) decideAll(ctx context.Context, reqs []Request) (Decision, error) {
	if err := l.begin(ctx); err != nil {
		return Decision{}, err
	}
	b, err := l.batch(reqs)
	if err != nil {
		return Decision{}, err
	}
	for i := range b.charges {
		if !b.asked[i] {
			b.asked[i] = l.remembered(&b.charges[i], &b.status[i])
		}
	}
	if b.refuses() {
		d := b.decision()
		l.decided(&d)
		return d, nil
	}
	cctx, cancel := l.deadline(ctx, 1)
	defer cancel()
	var cause error
	groups := b.groups()
	for n, g := range groups {
		err := l.askAll(cctx, g)
		if err != nil {
			for i := range g.charges {
				l.abandon(&g.charges[i], err)
			}
			if gone := l.callerGone(ctx, err); gone != nil {
				b.undo(cctx, groups[:n])
				return Decision{}, gone
			}
			cause = err
			g = b.outage(ctx, g)
			groups[n] = g
		}
		b.found(g)
		if b.refuses() {
			b.undo(cctx, groups[:n])
			break
		}
	}
	d := b.decision()
	d.Degraded, d.Err = cause != nil, cause
	l.decided(&d)
	return d, nil
}

// askAll asks the store, and remembers refusals.
func (l *Limiter) askAll(ctx context.Context, g group) error {
	if l.direct {
		return l.store.TakeAll(ctx, g.charges, g.out)
	}
	began := l.now()
	var marks [MaxRequests]uint64
	for i := range g.charges {
		if l.refusals.remembers(&g.charges[i]) {
			marks[i] = l.refusals.set(g.charges[i].Key).round.Load()
		}
	}
	err := l.call(ctx, "decide", g.charges[0].Policy, func(ctx context.Context) error {
		return l.store.TakeAll(ctx, g.charges, g.out)
	})
	if err != nil {
		return err
	}
	for i := range g.charges {
		if c := &g.charges[i]; !g.out[i].Fits && l.refusals.remembers(c) {
			l.refusals.remember(l.refusals.set(c.Key), marks[i], c, g.out[i], began)
		}
	}
	return nil
}

// outage decides a group that the store couldn't: those that Options.Local decides together, if no other refuses.
func (b *batch) outage(ctx context.Context, g group) group {
	g.out = make([]Status, len(g.charges)) // the store may still write to the old one
	var at []int
	var local []Charge
	refused := false
	for k := range g.charges {
		c := g.charges[k]
		if p := c.Policy; p.spec.OnOutage == OutageLocal {
			g.out[k] = b.status[g.at[k]]
			c.Policy = p.local
			at, local = append(at, k), append(local, c)
			continue
		}
		g.out[k] = b.l.outage(ctx, &c)
		refused = refused || !g.out[k].Fits && !c.Shadow
	}
	if len(local) == 0 {
		return g
	}
	decide := b.l.opts.Local.TakeAll
	if refused {
		decide = b.l.opts.Local.Peek
	}
	out := make([]Status, len(local))
	err := decide(ctx, local, out)
	for n, k := range at {
		if err != nil { // there is nobody left to ask
			g.out[k].Source, g.out[k].RetryAfter = FromOutage, b.l.opts.BreakFor
		} else {
			g.out[k] = out[n]
			g.out[k].Source = FromLocal
		}
	}
	return g
}

// undo gives back what groups charged, since a later one refused. The decision waits for that until its deadline.
func (b *batch) undo(ctx context.Context, groups []group) {
	if len(groups) == 0 {
		return
	}
	var back []Status
	for _, g := range groups {
		for _, i := range g.at {
			if s := &b.status[i]; s.Charged {
				back = append(back, *s)
				s.Charged = false
				s.Remaining += s.Cost
			}
		}
	}
	if len(back) == 0 {
		return
	}
	done := make(chan struct{})
	undo := func() {
		defer close(done)
		// Its own time, and none of the caller's: what ended that must not keep units charged.
		ctx, cancel := b.l.deadline(context.WithoutCancel(ctx), correctionTimeouts)
		defer cancel()
		_ = b.l.refund(ctx, back, b.lease) // told to Hooks.Failed
	}
	if b.l.direct || !b.l.spawn(undo) {
		undo()
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}
