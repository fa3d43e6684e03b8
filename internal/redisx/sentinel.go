package redisx

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"
)

// Once a sentinel has answered, the others have sentinelGrace: one that was cut off may name
// the primary of yesterday, and one that hangs must not hold up the rest.
const sentinelGrace = 150 * time.Millisecond

// A vote is what one sentinel says of the primary.
type vote struct {
	from  string // the sentinel
	addr  string
	epoch int64 // of the failover that made it primary
	err   error
}

// Primary asks all sentinels where the primary is. The one that knows of the
// latest failover wins. name is what CLIENT LIST shows.
func (p *Place) Primary(ctx context.Context, name string) (Target, error) {
	ctx, cancel := context.WithTimeout(ctx, ConnectTime)
	defer cancel()
	votes := make(chan vote, len(p.Addrs))
	for _, addr := range p.Addrs {
		go func() {
			v := p.askSentinel(ctx, addr, name)
			v.from = addr
			votes <- v
		}()
	}
	silent := slices.Clone(p.Addrs)
	var best vote
	var errs []error
	var end <-chan time.Time
	for range p.Addrs {
		select {
		case v := <-votes:
			silent = slices.DeleteFunc(silent, func(addr string) bool { return addr == v.from })
			switch {
			case v.err != nil:
				errs = append(errs, v.err)
			case best.addr == "" || v.epoch > best.epoch:
				best = v
			}
			if best.addr != "" && end == nil {
				end = time.After(sentinelGrace)
			}
			continue
		case <-end:
		case <-ctx.Done():
			for _, addr := range silent {
				errs = append(errs, fmt.Errorf("sentinel %s: %w", addr, late(ctx, ctx.Err())))
			}
		}
		break
	}
	if best.addr == "" {
		return Target{}, Join(errs)
	}
	return p.At(best.addr), nil
}

func (p *Place) askSentinel(ctx context.Context, addr, name string) (v vote) {
	fail := func(err error) vote { return vote{err: fmt.Errorf("sentinel %s: %w", addr, err)} }
	res, err := Ask(ctx, p.SentinelAt(addr), name, []string{"SENTINEL", "GET-MASTER-ADDR-BY-NAME", p.Master}, []string{"SENTINEL", "MASTER", p.Master})
	if err != nil {
		return fail(err)
	}
	at, err := res[0].AsStrSlice()
	if err != nil || len(at) != 2 {
		return fail(fmt.Errorf("no primary is known as %q", p.Master))
	}
	v.addr = net.JoinHostPort(at[0], at[1])
	fields, err := res[1].AsStrMap()
	if err != nil {
		return fail(err)
	}
	if _, err := fmt.Sscan(fields["config-epoch"], &v.epoch); err != nil {
		return fail(ErrStrange)
	}
	if v.addr != net.JoinHostPort(fields["ip"], fields["port"]) {
		v.epoch++ // it is doing a failover, and the others know the last one
	}
	return v
}

// SentinelAt is how to greet a sentinel.
func (p *Place) SentinelAt(addr string) Target {
	t := p.At(addr)
	t.User, t.Password, t.DB = p.SentinelUser, p.SentinelSecret, 0
	return t
}
