package redislimit

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/limit"
)

// policyArgs are the arguments of scripts that stay the same for a policy.
type policyArgs struct {
	one     [3]string // of gcra.lua, for a cost of 1
	cap     string
	penalty [3]string
	numbers [5]string // n1 to n5 of limits.lua
}

// maxKnown is how many policies have their arguments kept: those of a program that makes new ones all the time would fill the memory.
const maxKnown = 4096

func (s *Store) argsOf(p *limit.Policy) *policyArgs {
	if a, ok := s.args.Load(p); ok {
		return a.(*policyArgs)
	}
	r := p.Rule()
	a := &policyArgs{cap: text(r.Cap), penalty: [3]string{text(r.After), text(r.Within), text(r.Block)}}
	switch r.Kind {
	case limit.GCRA:
		a.one = gcraArgs(r, a, 1)
		a.numbers = [5]string{text(r.Interval), text(r.Tolerance), a.cap, text(r.Burst + r.Debt)}
	case limit.Strict:
		a.numbers = [5]string{text(r.Limit), text(r.Grain), text(r.Span), text(r.Limit + r.Debt), text(r.Keep)}
	case limit.Fixed:
		a.numbers = [5]string{text(r.Limit), "", "", text(r.Limit + r.Debt)}
	case limit.Concurrency:
		a.numbers = [5]string{text(r.Limit), text(r.TTL), "", ""}
	}
	if s.known.Load() < maxKnown {
		if _, found := s.args.LoadOrStore(p, a); !found {
			s.known.Add(1)
		}
	}
	return a
}

func text(n int64) string { return strconv.FormatInt(n, 10) }

// number reads what text wrote.
func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// gcraArgs are the arguments of gcra.lua. A cost that can't ever fit isn't multiplied: it needn't stay in an int64.
func gcraArgs(r *limit.Rule, a *policyArgs, cost int64) [3]string {
	need := max(cost, 1)
	if need > r.Burst {
		return [3]string{"0", "-1", a.cap}
	}
	return [3]string{text(cost * r.Interval), text(r.Tolerance - need*r.Interval), a.cap}
}

func (a *policyArgs) gcra(c *limit.Charge) [3]string {
	if c.Cost == 1 {
		return a.one
	}
	return gcraArgs(c.Policy.Rule(), a, c.Cost)
}

// plain reports whether gcra.lua can decide a charge.
func plain(c *limit.Charge) bool {
	r := c.Policy.Rule()
	return r.Kind == limit.GCRA && r.After == 0 && !c.Shadow
}

// Take decides one charge.
func (s *Store) Take(ctx context.Context, c limit.Charge) (limit.Status, error) {
	if !plain(&c) {
		var out [1]limit.Status
		err := s.TakeAll(ctx, []limit.Charge{c}, out[:])
		return out[0], err
	}
	args := chargeArgs{s.stateName(c.Policy, c.Key), s.argsOf(c.Policy).gcra(&c)}
	var debt int64
	var err error
	if s.merger != nil {
		debt, err = s.merger.take(ctx, args)
	} else {
		debt, err = s.gcra(ctx, args)
	}
	if err != nil {
		return limit.Status{}, err
	}
	return gcraStatus(&c, debt, true), nil
}

// gcra runs gcra.lua.
func (s *Store) gcra(ctx context.Context, c chargeArgs) (int64, error) {
	res, err := s.run(ctx, s.scripts.gcra, []string{c.key}, c.args[:])
	if err != nil {
		return 0, err
	}
	debt, err := res.AsInt64()
	if err != nil {
		err = strange(err)
	}
	return debt, err
}

func strange(err error) error {
	if err == nil {
		return fmt.Errorf("redislimit: %w", redisx.ErrStrange)
	}
	return fmt.Errorf("redislimit: %w: %w", redisx.ErrStrange, err)
}

// gcraStatus reads a debt as gcra.lua answers it; all says whether all others fit.
func gcraStatus(c *limit.Charge, debt int64, all bool) (s limit.Status) {
	fits := debt >= 0
	if !fits {
		debt = -1 - debt
	}
	c.Policy.Rule().AnswerGCRA(&s, c, debt, fits, fits && all && c.Cost > 0)
	return s
}

// TakeAll decides several charges.
func (s *Store) TakeAll(ctx context.Context, c []limit.Charge, out []limit.Status) error {
	for i := range c {
		if !plain(&c[i]) {
			return s.limits(ctx, "take", c, nil, out)
		}
	}
	keys, args := make([]string, len(c)), make([]string, 0, 3*len(c))
	for i := range c {
		keys[i] = s.stateName(c[i].Policy, c[i].Key)
		a := s.argsOf(c[i].Policy).gcra(&c[i])
		args = append(args, a[:]...)
	}
	res, err := s.run(ctx, s.scripts.gcras, keys, args)
	if err != nil {
		return err
	}
	debts, err := res.AsIntSlice()
	if err != nil || len(debts) != len(c) {
		return strange(err)
	}
	all := true
	for _, d := range debts {
		all = all && d >= 0
	}
	for i := range c {
		out[i] = gcraStatus(&c[i], debts[i], all)
	}
	return nil
}

// Peek says what TakeAll would find.
func (s *Store) Peek(ctx context.Context, c []limit.Charge, out []limit.Status) error {
	return s.limits(ctx, "peek", c, nil, out)
}

// Adjust charges more, or gives back.
func (s *Store) Adjust(ctx context.Context, a []limit.Adjustment, out []limit.Status) error {
	c := make([]limit.Charge, len(a))
	for i := range a {
		c[i] = limit.Charge{Policy: a[i].Policy, Key: a[i].Key, Cost: 1}
	}
	return s.limits(ctx, "adjust", c, a, out)
}

// perLimit is how many arguments limits.lua takes for each limit, and how many numbers it answers.
const (
	argsPerLimit    = 12
	numbersPerLimit = 6
)

// limits runs limits.lua. The windows of Fixed are those of the server's clock, as far as we know it. If it is in none of them the
// answer says what it shows, and nothing was done.
func (s *Store) limits(ctx context.Context, mode string, c []limit.Charge, a []limit.Adjustment, out []limit.Status) error {
	now := time.Now().UnixMicro() + s.skew.Load()
	const tries = 3
	for range tries {
		keys, args := make([]string, 0, 2*len(c)), make([]string, 2, 2+argsPerLimit*len(c))
		args[0], args[1] = mode, kindsOf(c)
		for i := range c {
			keys = append(keys, s.stateName(c[i].Policy, c[i].Key))
			if c[i].Policy.Rule().After > 0 {
				keys = append(keys, s.name('p', c[i].Policy, c[i].Key))
			}
			args = s.limitArgs(args, &c[i], now)
			if a != nil {
				args[len(args)-argsPerLimit+2], args[len(args)-1] = text(a[i].Units), text(a[i].At)
			}
		}
		res, err := s.run(ctx, s.scripts.limits, keys, args)
		if err != nil {
			return err
		}
		n, err := numbers(res)
		switch {
		case err != nil || len(n) != 1+numbersPerLimit*len(c) && len(n) != 1:
			return strange(err)
		case len(n) == 1:
			now = n[0]
			s.skew.Store(now - time.Now().UnixMicro())
			continue
		}
		for i := range c {
			out[i] = readStatus(&c[i], n[0], n[1+numbersPerLimit*i:])
		}
		return nil
	}
	return fmt.Errorf("redislimit: the server's clock is in none of the windows, %d times", tries)
}

// kindsOf are the letters of the kinds that there are.
func kindsOf(c []limit.Charge) string {
	var b []byte
	for i := range c {
		if k := letters[c[i].Policy.Rule().Kind]; bytes.IndexByte(b, k) < 0 {
			b = append(b, k)
		}
	}
	return string(b)
}

func (s *Store) limitArgs(args []string, c *limit.Charge, now int64) []string {
	r, a := c.Policy.Rule(), s.argsOf(c.Policy)
	shadow, numbers := "0", a.numbers
	if c.Shadow {
		shadow = "1"
	}
	switch r.Kind {
	case limit.Fixed:
		b := make([]byte, 0, 4*17)
		for _, w := range r.Windows(now) {
			b = append(strconv.AppendInt(b, w, 10), ' ')
		}
		numbers[1] = string(b)
	case limit.Concurrency:
		numbers[2] = string(c.Lease[:])
	}
	args = append(args, letters[r.Kind:r.Kind+1], shadow, text(c.Cost), a.penalty[0], a.penalty[1], a.penalty[2])
	args = append(args, numbers[:]...)
	return append(args, "0")
}

// numbers reads an array of integers.
func numbers(res rueidis.RedisResult) ([]int64, error) {
	n, err := res.AsIntSlice()
	if err == nil && len(n) == 0 {
		err = redisx.ErrStrange
	}
	return n, err
}

// readStatus reads the six numbers of limits.lua for a charge.
func readStatus(c *limit.Charge, now int64, n []int64) limit.Status {
	code, block, used, retry, more, reset := n[0], n[1], n[2], n[3], n[4], n[5]
	r := c.Policy.Rule()
	fits, charged := code&1 != 0, code&2 != 0
	cost := c.Cost
	if charged {
		cost = 1 // what is told is of the next
	}
	var v limit.View
	at := now
	switch r.Kind {
	case limit.GCRA:
		v, at = r.ViewGCRA(used, cost), 0
	case limit.Concurrency:
		at = 0
		fallthrough
	default:
		v.Room = max(r.Limit-used, 0)
		if v.Room < r.Limit {
			v.More = more
		}
		if used > 0 {
			v.Reset = reset
		}
		switch need := max(cost, 1); {
		case need > r.Limit:
			v.Retry = limit.Never
		case need > v.Room:
			v.Retry = retry
		}
	}
	v.Fits = fits
	if block > 0 && !charged {
		v.Blocked = true
		if v.Retry != limit.Never {
			v.Retry = max(v.Retry, block)
		}
	}
	return v.Status(c, charged, at)
}

// Renew makes a lease last for another TTL.
func (s *Store) Renew(ctx context.Context, p *limit.Policy, key string, id limit.ID) error {
	held, err := s.lease(ctx, "renew", p, key, id)
	if err == nil && !held {
		err = limit.ErrLeaseLost
	}
	return err
}

// Release ends a lease.
func (s *Store) Release(ctx context.Context, p *limit.Policy, key string, id limit.ID) error {
	_, err := s.lease(ctx, "release", p, key, id)
	return err
}

func (s *Store) lease(ctx context.Context, mode string, p *limit.Policy, key string, id limit.ID) (held bool, err error) {
	if p.Rule().Kind != limit.Concurrency {
		return false, s.reachable(ctx)
	}
	c := limit.Charge{Policy: p, Key: key, Lease: id}
	keys := []string{s.stateName(p, key)}
	if p.Rule().After > 0 {
		keys = append(keys, s.name('p', p, key))
	}
	res, err := s.run(ctx, s.scripts.limits, keys, s.limitArgs([]string{mode, "c"}, &c, 0))
	if err != nil {
		return false, err
	}
	n, err := numbers(res)
	if err != nil || len(n) != 2 {
		return false, strange(err)
	}
	return n[1] == 1, nil
}

// reachable is the error of a call that has nothing to ask.
func (s *Store) reachable(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return limit.ErrClosed
	}
	return ctx.Err()
}

// Reset forgets all of a key.
func (s *Store) Reset(ctx context.Context, p *limit.Policy, key string) error {
	state, record := s.stateName(p, key), s.name('p', p, key)
	_, err := s.send(ctx, state, func(b rueidis.Builder, _ bool) rueidis.Completed {
		return b.Unlink().Key(state, record).Build()
	})
	return err
}
